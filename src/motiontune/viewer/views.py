"""What `motiontune view` shows of a clip: its motion, a model's beside it, or that of all sources."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.films import write_sampled_overlay
from motiontune.drawing.panels import Panel, Show, difference
from motiontune.errors import MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import SOURCES, motion_of, vectors_for
from motiontune.video.clip import Clip
from motiontune.video.reader import Reader
from motiontune.viewer.library import Measured, measure, read_motion, reason
from motiontune.viewer.model import Prediction


@dataclass(frozen=True, eq=False)
class View:
    """A clip and the pictures of it that stand side by side.

    Args:
        clip: the sampled frames.
        grid: where their patches lie, without padding.
        panels: how each shows motion is chosen when it is drawn, except for "heat".
        problem: why there is no motion; "" where there is.
        columns: panels in a row.
    """

    clip: Clip
    grid: VideoGrid
    panels: Sequence[Panel]
    problem: str = ""
    columns: int = 3

    def draw(self, path: Path, show: Show) -> Path:
        """Write the pictures as a film of the sampled frames, and return where it is."""
        panels = [panel if panel.show == "heat" else replace(panel, show=show) for panel in self.panels]
        clip, size = self.clip, (self.clip.info.width, self.clip.info.height)
        # not listed: the folder is served, and the list would give away names that nobody can guess
        more: Any = {"size": size, "columns": self.columns, "listed": False}
        write_sampled_overlay(path, clip.frames, clip.times, panels, self.grid.patch, **more)
        return path


@dataclass(frozen=True)
class SourceRow:
    """What one source makes of a clip: its numbers and the seconds that it took after decoding."""

    source: str
    measured: Measured
    seconds: float


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """A prediction's error over time.

    Args:
        times: float64 [n], seconds, of the frames with a valid patch.
        error: float64 [n], mean end-point error of each frame, pixels of the resized frame.
        no_motion: float64 [n], that of predicting no motion.
    """

    times: NDArray[np.float64]
    error: NDArray[np.float64]
    no_motion: NDArray[np.float64]


def clip_view(path: str, reader: Reader, options: MotionOptions) -> tuple[View, Measured]:
    """A clip with the motion that a source finds in it.

    Raises:
        ClipError: if the clip cannot be read.
        ConfigError: if there is no such source.
    """
    clip, grid, field, problem = read_motion(path, reader, options)
    title = options.source if field is None else f"target: {field.source}"
    return View(clip, grid, [_panel(title, field)], problem), measure(clip, grid, field, problem)


def prediction_view(prediction: Prediction) -> View:
    """A model's motion beside the target and, where there is one, the error as heat."""
    panels = prediction.panels(error=True) or [Panel("clip")]
    return View(prediction.clip, prediction.grid, panels, prediction.problem)


def sources_view(path: str, reader: Reader, options: MotionOptions) -> Iterator[str | tuple[View, list[SourceRow]]]:
    """A clip with the motion of every source beside the others.

    Yields:
        What is being worked on, and at last the view and a row for each source.

    Raises:
        ClipError: if the clip cannot be read.
    """
    yield "decoding"
    clip = reader.read(path, vectors_for(replace(options, source="codec"), reader.grid_of))
    grid = reader.grid_of(clip).unpadded(len(clip.frames))
    panels, rows = [], []
    for source in SOURCES:
        if source == "raft" and options.raft_weights is None:
            continue  # its weights are not here
        yield source
        start, field, problem = time.perf_counter(), None, ""
        try:
            field = motion_of(clip, grid, replace(options, source=source))
        except MotiontuneError as error:
            problem = reason(path, error)
        rows.append(SourceRow(source, measure(clip, grid, field, problem), time.perf_counter() - start))
        name = source if field is None or field.source == source else f"{source}: {field.source}"
        panels.append(_panel(name + (" (no motion)" if problem else ""), field))
    yield View(clip, grid, panels), rows


def error_curve(field: MotionField, target: MotionField) -> ErrorCurve:
    """The error of each frame in which both fields have a valid patch."""
    wrong, both = difference(field.vectors, field.valid, target.vectors, target.valid)
    counts = both.sum((1, 2))
    some = counts > 0
    target_lengths = np.linalg.norm(target.vectors, axis=-1) * both
    sums = (np.linalg.norm(wrong, axis=-1).sum((1, 2), np.float64), target_lengths.sum((1, 2), np.float64))
    error, no_motion = (one[some] / counts[some] for one in sums)
    return ErrorCurve(field.times[some], error, no_motion)


def _panel(title: str, field: MotionField | None) -> Panel:
    return Panel(title) if field is None else Panel(title, field.vectors, field.valid)
