"""What was computed of clips, kept in files: their motion, and their resized frames.

A file's name is a digest of all that its content depends on: the clip's own bytes, the sampling and the resizing, the
grid, the source of motion with its settings, the code that reads clips and makes motion with all that it imports of
this package, and the versions of the packages below. So nothing is ever stale: what changes is computed anew, under
another name. The name stands in the file, too, so that one which was renamed is noticed. Files are written whole or
not at all, so that workers and ranks can share a folder.
"""

import ast
import contextlib
import functools
import hashlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ConfigError, OutputError, in_one_line
from motiontune.files import file_digest, known_digest, write_whole
from motiontune.grid import VideoGrid
from motiontune.limits import load_npz
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.provider import is_provider
from motiontune.video.clip import Clip
from motiontune.video.container import VideoInfo


PACKAGES = (
    "av llamafactory numba numpy opencv-contrib-python opencv-contrib-python-headless opencv-python "
    "opencv-python-headless pillow torch torchvision transformers"
).split()
"""Packages whose version may change a pixel or a vector. FFmpeg's own libraries count beside them."""

ENTRIES = ("llamafactory/plugin.py", "motion/sources.py")
"""The files of this package that read and resize clips, and that make motion."""

DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile)


class Cache:
    """Arrays under keys, a `.npz` each, in a folder that is made when first needed.

    A damaged file counts as none, with a warning: it is computed again.

    Args:
        folder: the folder.

    Raises:
        ConfigError: if the folder cannot be written to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written to: {error.strerror}") from error

    def __contains__(self, key: str) -> bool:
        return self.path_of(key).exists()

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The arrays of a key, or None.

        Raises:
            ValueError: if the file was written under another key.
        """
        try:
            with load_npz(self.path_of(key)) as saved:
                arrays = {name: saved[name] for name in saved.files}
        except FileNotFoundError:
            return None
        about = json.loads(str(arrays.pop("about", "{}")))
        if about.get("key") != key or about.get("arrays") != sorted(arrays):
            raise ValueError("it was written under another name, or is not whole")
        return arrays

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays under a key; warn where that fails, such as on a full disk."""
        try:
            self.write(key, arrays)
        except OutputError as error:
            warnings.warn(f"{error}; what it is for is not kept", stacklevel=3)

    def write(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays under a key.

        Raises:
            OutputError: if the file cannot be written.
        """
        with write_whole(self.path_of(key), listed=False) as unfinished, open(unfinished, "wb") as file:
            np.savez(
                file, allow_pickle=False, about=np.array(json.dumps({"key": key, "arrays": sorted(arrays)})), **arrays
            )

    @contextlib.contextmanager
    def _mended(self, key: str) -> Iterator[None]:
        try:
            yield
        except DAMAGED as error:
            warnings.warn(f"{self.path_of(key)} is damaged and computed again ({in_one_line(error)})", stacklevel=4)

    def size(self) -> tuple[int, int]:
        """How many files there are, and their bytes."""
        sizes = [entry.stat().st_size for entry in self.folder.glob("*/*.npz")]
        return len(sizes), sum(sizes)

    def path_of(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / key[:2] / f"{key}.npz"


class FrameCache(Cache):
    """The sampled, resized frames of clips, uint8."""

    def load(self, key: str, path: str) -> Clip | None:
        """The clip under a key, as `read_clip` gave it without vectors, or None."""
        with self._mended(key):
            arrays = self.get(key)
            if arrays is not None:
                info = VideoInfo(**{**json.loads(str(arrays["info"])), "path": path})
                return Clip(path, arrays["frames"], arrays["times"], arrays["indices"], info)
        return None

    def save(self, key: str, clip: Clip) -> None:
        """Keep a clip's frames, times and header."""
        info = np.array(json.dumps(asdict(clip.info)))
        self.put(key, {"frames": clip.frames, "times": clip.times, "indices": clip.indices, "info": info})


class MotionCache(Cache):
    """The motion of clips."""

    def load(self, key: str) -> MotionField | None:
        """The field under a key, or None."""
        with self._mended(key):
            arrays = self.get(key)
            if arrays is not None:
                source, direction = str(arrays.pop("source")), str(arrays.pop("direction"))
                return MotionField(**arrays, source=source, direction=direction)  # type: ignore[arg-type]
        return None

    def fits(self, key: str, field: MotionField, grid: VideoGrid) -> bool:
        """Whether a field that was kept has the patches of a grid; warn where not: it is to be computed again."""
        patches = (grid.frames, grid.rows, grid.cols)
        if field.valid.shape != patches:
            about = f"{self.path_of(key)} has motion for {list(field.valid.shape)} frames, rows and columns of patches"
            warnings.warn(f"{about}, not {list(patches)}, and is computed again", stacklevel=2)
        return field.valid.shape == patches

    def save(self, key: str, field: MotionField) -> None:
        """Keep a field."""
        self.put(key, arrays_of(field))


def arrays_of(field: MotionField) -> dict[str, NDArray[Any]]:
    """What a `MotionCache` keeps of a field."""
    return {f.name: np.asarray(getattr(field, f.name)) for f in fields(field)}


def frames_key(content: str, reading: Mapping[str, Any]) -> str:
    """The name of a clip's frames.

    Args:
        content: the clip's `file_digest`.
        reading: the settings that sampling and resizing depend on.
    """
    return _digest(["frames", content, dict(reading), this_code()])


def motion_key(
    content: str, reading: Mapping[str, Any], grid: Mapping[str, Any], options: MotionOptions
) -> str | None:
    """The name of a clip's motion; None where it is not kept, because it comes from a file.

    Of a source of the user's own, the function's file counts, but not what this file imports.

    Args:
        content: the clip's `file_digest`.
        reading: the settings that sampling and resizing depend on.
        grid: the settings that the patch grid depends on.
        options: the source and its settings.
    """
    if options.source == "file":
        return None
    own = [known_digest(options.source.rpartition(":")[0])] if is_provider(options.source) else []
    weights = [known_digest(options.raft_weights)] if options.source == "raft" and options.raft_weights else []
    return _digest(["motion", content, dict(reading), dict(grid), asdict(options), own, weights, this_code()])


def _digest(parts: list[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@functools.cache
def this_code(*more: str) -> str:
    """A digest of the code that reads clips and makes motion, of more files of this package, and of the versions of
    what it calls."""
    versions: dict[str, Any] = dict(av.library_versions)
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    package = Path(__file__).parent
    files = imported_files(package, (*ENTRIES, *more))
    return _digest([versions, [(file.relative_to(package).as_posix(), file_digest(str(file))) for file in files]])


def imported_files(package: Path, entries: Iterable[str]) -> list[Path]:
    """The files of a package that some of its files import, directly or not, and these files themselves; sorted.

    Imports are read from the source, those within functions too, but not those below `if TYPE_CHECKING`. The package's
    own `__init__.py`, which gives public names to users, is left out unless it is asked for names.

    Args:
        package: its folder.
        entries: files, relative to the folder.
    """
    found, open_ends = set(), [package / entry for entry in entries]
    while open_ends:
        file = open_ends.pop()
        if file not in found and file.is_file():
            found.add(file)
            for name in _imports(ast.parse(file.read_bytes())):
                first, *parts = name.split(".")
                if first == package.name:
                    place = package.joinpath(*parts)
                    open_ends += [place.with_suffix(".py"), place / "__init__.py"]
                    open_ends += [folder / "__init__.py" for folder in place.parents if package in folder.parents]
    return sorted(found)


def _imports(node: ast.AST) -> Iterator[str]:
    """The full names of modules that code imports; those of what it takes out of them, too, as both may be files."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):  # imports are statements, and most of the tree are expressions
            yield from _imports(child)
