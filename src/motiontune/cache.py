"""What was computed of clips, kept in files: their motion, and their resized frames.

A file's name is a digest of all that its content depends on: the clip's own bytes, the sampling and the resizing, the
grid, the source of motion with its settings, this package's code and the versions of what decodes and resizes. So
nothing is ever stale: what changes is computed anew, under another name. Files are written whole or not at all, so
that workers and ranks can share a folder.
"""

import contextlib
import functools
import hashlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ConfigError, in_one_line
from motiontune.files import write_whole
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.video.clip import Clip
from motiontune.video.container import VideoInfo


# Packages whose version may change a pixel or a vector
PACKAGES = ("av", "llamafactory", "numpy", "opencv-python-headless", "pillow", "torchvision")
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
        return self._path(key).exists()

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The arrays of a key, or None."""
        try:
            with np.load(self._path(key)) as saved:
                return {name: saved[name] for name in saved.files}
        except FileNotFoundError:
            return None

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays under a key; warn where that fails, such as on a full disk."""
        path = self._path(key)
        try:
            with write_whole(path) as unfinished, open(unfinished, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        except OSError as error:
            warnings.warn(f"{path} cannot be written: {error.strerror}; what it is for is not kept", stacklevel=3)

    @contextlib.contextmanager
    def _mended(self, key: str) -> Iterator[None]:
        try:
            yield
        except DAMAGED as error:
            warnings.warn(f"{self._path(key)} is damaged and computed again ({in_one_line(error)})", stacklevel=4)

    def size(self) -> tuple[int, int]:
        """How many files there are, and their bytes."""
        sizes = [entry.stat().st_size for entry in self.folder.glob("*/*.npz")]
        return len(sizes), sum(sizes)

    def _path(self, key: str) -> Path:
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

    def save(self, key: str, field: MotionField) -> None:
        """Keep a field."""
        arrays = {f.name: np.asarray(getattr(field, f.name)) for f in fields(field)}
        self.put(key, arrays)


def file_digest(path: str) -> str:
    """A digest of a file's content.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def frames_key(content: str, reading: Mapping[str, Any]) -> str:
    """The name of a clip's frames.

    Args:
        content: the clip's `file_digest`.
        reading: the settings that sampling and resizing depend on.
    """
    return _digest(["frames", content, dict(reading), _this_code()])


def motion_key(
    content: str, reading: Mapping[str, Any], grid: Mapping[str, Any], options: MotionOptions
) -> str | None:
    """The name of a clip's motion; None where it is not kept, because it comes from a file.

    Args:
        content: the clip's `file_digest`.
        reading: the settings that sampling and resizing depend on.
        grid: the settings that the patch grid depends on.
        options: the source and its settings.
    """
    if options.source == "file":
        return None
    own = [file_digest(options.source.rpartition(":")[0])] if ".py:" in options.source else []
    weights = [file_digest(options.raft_weights)] if options.raft_weights else []
    return _digest(["motion", content, dict(reading), dict(grid), asdict(options), own, weights, _this_code()])


def _digest(parts: list[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@functools.cache
def _this_code() -> str:
    """A digest of the code that reads clips and makes motion, and of the versions of what it calls."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    package = Path(__file__).parent
    files = sorted([package / "grid.py", *(package / "video").rglob("*.py"), *(package / "motion").rglob("*.py")])
    return _digest([versions, [file_digest(str(file)) for file in files]])
