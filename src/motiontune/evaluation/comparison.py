"""Predicted motion of a clip beside its target, and its file: one `.npz` per clip, readable without motiontune."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from motiontune.drawing.panels import comparison_panels
from motiontune.drawing.sheets import SheetRow, comparison_rows
from motiontune.errors import MotiontuneError
from motiontune.evaluation.sums import MotionSums
from motiontune.files import write_whole
from motiontune.grid import VideoGrid
from motiontune.limits import load_arrays
from motiontune.motion.field import DIRECTIONS


@dataclass(frozen=True, eq=False)
class MotionComparison:
    """Predicted motion of one clip, beside its target where there is one.

    Args:
        predicted: float32 [F, R, C, 2], (dx, dy) in pixels of the resized frame that the vision encoder sees.
        target: the same, or None where the clip has no motion to compare with.
        valid: bool [F, R, C], the patches that count.
        times: float64 [F], seconds from the first frame of the stream.
        grid: F, R, C, and how they make video tokens.
        path: the clip, as the data set names it.
        source: which source made the target, as in `MotionField`.
        direction: "past" or "future", as in `MotionField`.

    Raises:
        ValueError: on an array whose shape or dtype does not fit; the message starts with its name.
    """

    predicted: NDArray[np.float32]
    target: NDArray[np.float32] | None
    valid: NDArray[np.bool_]
    times: NDArray[np.float64]
    grid: VideoGrid
    path: str
    source: str
    direction: str

    def __post_init__(self) -> None:
        patches = (self.grid.frames, self.grid.rows, self.grid.cols)
        _check("predicted", self.predicted, np.float32, (*patches, 2))
        if self.target is not None:
            _check("target", self.target, np.float32, (*patches, 2))
        _check("valid", self.valid, np.bool_, patches)
        _check("times", self.times, np.float64, patches[:1])
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction must be past or future, not {self.direction!r}")

    def sums(self) -> MotionSums:
        """Compare with the target; without one these are the sums over nothing."""
        if self.target is None:
            return MotionSums.zero()
        return MotionSums.from_fields(self.predicted, self.target, self.valid, self.grid.width)

    def save(self, path: str | Path) -> Path:
        """Write one `.npz`, whole or not at all, and return where it is.

        The keys are the fields' names; `grid` is int64 [6]: frames, rows, cols, patch, merge, temporal_patch. The key
        `target` is left out where there is none.

        Args:
            path: the file. Its folder is made, and `.npz` is appended where it is missing, as numpy does.
        """
        path = Path(path)
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        arrays = {
            "predicted": self.predicted,
            "valid": self.valid,
            "times": self.times,
            "grid": np.array(astuple(self.grid), np.int64),
            "path": np.array(self.path),
            "source": np.array(self.source),
            "direction": np.array(self.direction),
        }
        if self.target is not None:
            arrays["target"] = self.target
        with write_whole(path) as unfinished, open(unfinished, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "MotionComparison":
        """Read what `save` wrote. Nothing in the file is ever unpickled.

        Raises:
            MotiontuneError: if the file is missing, damaged, or lacks a key, or an array does not fit the grid. The
                message names the file and the key.
        """
        with _open(path) as file:
            grid = _read_grid(path, file)
            target = _read(path, file, "target") if "target" in file.files else None
            try:
                return cls(
                    predicted=_read(path, file, "predicted"),
                    target=target,
                    valid=_read(path, file, "valid"),
                    times=_read(path, file, "times"),
                    grid=grid,
                    path=_read_text(path, file, "path"),
                    source=_read_text(path, file, "source"),
                    direction=_read_text(path, file, "direction"),
                )
            except ValueError as error:
                raise MotiontuneError(f"{path}: {error}") from None


def prediction_rows(
    name: str, frames: NDArray[np.uint8], prediction: MotionComparison, cell_width: int
) -> list[SheetRow]:
    """Target (where there is one) above prediction, with arrows of the same length, ready for a contact sheet.

    Args:
        name: goes into both titles.
        frames: uint8 [f, h, w, 3], the sampled frames, of any size.
        prediction: of the same clip.
        cell_width: width of a frame in pixels.
    """
    panels = comparison_panels(prediction.predicted, prediction.valid, prediction.target)
    grid, times = prediction.grid, prediction.times
    return comparison_rows(name, frames, times, panels, grid.patch, grid.temporal_patch - 1, cell_width)


def load_predictions(folder: str | Path) -> Iterator[MotionComparison]:
    """Read every `.npz` directly in a folder, one at a time, sorted by the numbers in their names.

    Raises:
        MotiontuneError: if there is no such folder (at once), or a file cannot be read (when its turn comes).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MotiontuneError(f"{folder}: no such folder of predictions")
    files = sorted(folder.glob("[!.]*.npz"), key=_numbers)
    return (MotionComparison.load(path) for path in files)


def _numbers(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.name


def _check(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} must be {np.dtype(dtype)} {list(shape)}, not {array.dtype} {list(array.shape)}")


def _open(path: str | Path) -> NpzFile:
    try:
        file = load_arrays(path)
    except FileNotFoundError:
        raise MotiontuneError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MotiontuneError(f"{path}: cannot be read as a prediction: {error}") from None
    if not isinstance(file, NpzFile):
        raise MotiontuneError(f"{path}: a single array, not a prediction with named arrays")
    return file


def _read(path: str | Path, file: NpzFile, key: str) -> NDArray[Any]:
    try:
        return np.asarray(file[key])
    except KeyError:
        raise MotiontuneError(f"{path}: the key {key!r} is missing") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise MotiontuneError(f"{path}: the key {key!r} cannot be read: {error}") from None


def _read_text(path: str | Path, file: NpzFile, key: str) -> str:
    array = _read(path, file, key)
    if array.dtype.kind != "U" or array.shape != ():
        raise MotiontuneError(f"{path}: the key {key!r} must be one text, not {array.dtype} {list(array.shape)}")
    return str(array)


def _read_grid(path: str | Path, file: NpzFile) -> VideoGrid:
    array = _read(path, file, "grid")
    if array.dtype.kind not in "iu" or array.shape != (6,):
        raise MotiontuneError(f"{path}: the key 'grid' must be six integers, not {array.dtype} {list(array.shape)}")
    try:
        return VideoGrid(*(int(number) for number in array))
    except ValueError as error:
        raise MotiontuneError(f"{path}: the key 'grid': {error}") from None
