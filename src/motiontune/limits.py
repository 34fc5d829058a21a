"""How much a file from outside may ask for, checked before memory is taken for it. Each limit can be raised.

A header of some bytes can state any size, and a compressed file can hold a thousand times its own. What is above a
limit is refused in one line with the number, the limit, and the environment variable that raises it,
`MOTIONTUNE_LIMIT_<NAME>`. Here is also how JSON and numpy files are read: nothing in them is ever unpickled.
"""

import json
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from motiontune.errors import ConfigError, MotiontuneError, in_one_line


@dataclass(frozen=True)
class Limit:
    """A limit of one kind of input.

    Args:
        name: what it is called in the environment, after `MOTIONTUNE_LIMIT_`.
        default: where the environment does not have it.
        unit: of the number.
        of: what it limits, in words.
    """

    name: str
    default: int
    unit: str
    of: str

    @property
    def variable(self) -> str:
        """The environment variable that raises it."""
        return f"MOTIONTUNE_LIMIT_{self.name}"

    @property
    def value(self) -> int:
        """The limit in force.

        Raises:
            ConfigError: if the environment has no whole number for it.
        """
        text = os.environ.get(self.variable) or str(self.default)
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{self.variable}={text} is not a whole number ({self.unit})") from None

    def excess(self, amount: int, where: str = "it") -> str:
        """Why so much is refused, in words that follow the file's name; "" where it is not.

        Args:
            amount: in the limit's unit.
            where: what is so large.
        """
        if amount <= self.value:
            return ""
        return (
            f"{where} has {amount:,} {self.unit}, the limit is {self.value:,}: "
            f"if that is meant, set {self.variable}={amount}"
        )

    def check(self, path: str | os.PathLike[str], amount: int, where: str = "it") -> None:
        """Refuse too much.

        Raises:
            MotiontuneError: naming the file, the amount, the limit and how to raise it.
        """
        if reason := self.excess(amount, where):
            raise MotiontuneError(f"{os.fspath(path)}: {reason}")


PIXELS = Limit("PIXELS", 1 << 26, "pixels", "a video's frame, a .flo or .png of motion, a photo")
FRAMES = Limit("FRAMES", 10_000_000, "frames", "a video")
ARRAY_BYTES = Limit(
    "ARRAY_BYTES", 4 << 30, "bytes", "the arrays of a motion file; a clip's frames that are not resized"
)
TEXT_BYTES = Limit("TEXT_BYTES", 1 << 30, "bytes", "a JSON file, a list of clips")
COPY_BYTES = Limit(
    "COPY_BYTES", 16 << 30, "bytes", "a clip in a tar or at an address, which is copied to a temporary file"
)
ROWS = Limit("ROWS", 20_000_000, "rows", "a manifest, a list of clips in Parquet")
TAR_HEADER_BYTES = Limit("TAR_HEADER_BYTES", 1 << 20, "bytes", "one header of a tar, which has a member's name")

LIMITS = (PIXELS, FRAMES, ARRAY_BYTES, TEXT_BYTES, COPY_BYTES, ROWS, TAR_HEADER_BYTES)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        MotiontuneError: if it is larger than `TEXT_BYTES`.
        OSError: if it cannot be read.
        ValueError: if it is not JSON, or not UTF-8, or nested too deeply.
    """
    return parse_json(read_text(path))


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file in UTF-8.

    Raises:
        MotiontuneError: if it is larger than `TEXT_BYTES`.
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8.
    """
    TEXT_BYTES.check(path, os.stat(path).st_size)
    return Path(path).read_text("utf-8")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: if it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_lines(text: str) -> list[Any]:
    """Parse JSON Lines. `str.splitlines` would also end lines at characters that JSON allows within a text.

    Raises:
        ValueError: as `parse_json`.
    """
    return [parse_json(line) for line in text.split("\n") if line.strip()]


PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def check_png(path: str | os.PathLike[str], data: bytes) -> None:
    """Refuse a .png whose picture is too large, or a part of which is longer than the file.

    OpenCV takes memory for what each part states, up to 4 GB for a file of a hundred bytes.

    Args:
        path: for the message.
        data: the file's bytes, beginning with `PNG_MAGIC`.

    Raises:
        MotiontuneError: naming the file.
    """
    PIXELS.check(path, int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big"))
    at, kind, size = 8, b"", 0
    while kind != b"IEND" or size:  # OpenCV reads on behind an end that is not empty
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + size
        if at > len(data):
            raise MotiontuneError(f"{os.fspath(path)}: is cut or damaged: it is shorter than its parts")


def load_arrays(path: str | os.PathLike[str]) -> "NpzFile | NDArray[Any]":
    """Open an `.npz`, or read an `.npy`, once what its headers state is known to fit the file and `ARRAY_BYTES`.

    What an `.npz` holds is decompressed when it is asked for, and may turn out to be damaged then.

    Raises:
        MotiontuneError: if it is larger.
        OSError: if it cannot be read.
        ValueError: if it is damaged.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                with zipfile.ZipFile(file) as archive:
                    _check_archive(path, archive)
            else:
                size = os.fstat(file.fileno()).st_size
                file.seek(0)
                _check_array(path, file, size, "the array")
        loaded: NpzFile | NDArray[Any] = np.load(path, allow_pickle=False)
    except (MotiontuneError, OSError, ValueError):
        raise
    except Exception as error:  # zipfile, zlib, ast and tokenize each have errors of their own
        raise ValueError(f"it is damaged: {type(error).__name__} {in_one_line(error)}") from error
    return loaded


def load_npz(path: str | os.PathLike[str]) -> NpzFile:
    """The same, of what must be an `.npz`.

    Raises:
        ValueError: of a single array, too.
    """
    loaded = load_arrays(path)
    if not isinstance(loaded, NpzFile):
        raise ValueError("it is a single array, not an .npz")
    return loaded


def _check_archive(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    # of which `zipfile` gives no byte more than these sizes
    ARRAY_BYTES.check(path, sum(member.file_size for member in members), "what is compressed in it")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename!r:.99} is compressed in a way that numpy does not write")
        with archive.open(member) as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:  # by which numpy goes, not by the name
                file.seek(0)
                _check_array(path, file, member.file_size, f"{member.filename.removesuffix('.npy'):.99}", exactly=True)


def _check_array(path: str | os.PathLike[str], file: IO[bytes], size: int, name: str, exactly: bool = False) -> None:
    """Compare what an array's header states with the bytes that there are.

    In a zip file these must be all, since its checksum is compared once they were read to the end.
    """
    version = npy.read_magic(file)
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    stated = math.prod(shape) * dtype.itemsize
    ARRAY_BYTES.check(path, stated, name)
    ends = file.tell() + stated
    if min(shape, default=0) < 0 or not dtype.hasobject and (ends > size or exactly and ends < size):
        raise ValueError(f"{name} should have {stated:,} bytes, and {max(size - file.tell(), 0):,} are there")
