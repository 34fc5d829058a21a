"""What `motiontune view` shows of a clip: its motion, a model's beside it, or that of all sources."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.films import frame_size, motion_between, write_overlay, write_sampled_overlay
from motiontune.drawing.panels import Panel, Show, difference, long_motion
from motiontune.errors import MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import SOURCES, motion_of, vectors_for
from motiontune.video.clip import Clip
from motiontune.video.frames import all_frames
from motiontune.video.reader import Reader
from motiontune.viewer.library import Measured, measure, read_motion, reason
from motiontune.viewer.model import Prediction


MOST_FRAMES = 1800
"""Of a film of every frame: a minute at 30 fps. A longer clip's film ends there."""

_ALONE_HEIGHT = 400  # pixels, at least, of a picture that stands alone: its title keeps its size
_WIDTH = 960  # of films of every frame, as of those of the sampled ones


@dataclass(frozen=True, eq=False)
class View:
    """A clip and the pictures of it that stand side by side.

    Args:
        clip: the sampled frames.
        grid: where their patches lie, without padding.
        panels: how each shows motion is chosen when it is drawn, except for "heat".
        problem: why there is no motion; "" where there is.
        columns: panels in a row.
        direction: which frames lie between two sampled ones whose motion they show.
    """

    clip: Clip
    grid: VideoGrid
    panels: Sequence[Panel]
    problem: str = ""
    columns: int = 3
    direction: Direction = "past"

    def draw(self, path: Path, show: Show, every: bool = False) -> NDArray[np.float64]:
        """Write the pictures as a film at the clip's own speed, and return when each is shown: float64 [n], seconds.

        Args:
            path: the film.
            show: how motion is shown.
            every: show every frame of the file, up to `MOST_FRAMES`, not the sampled ones alone.
        """
        panels = [panel if panel.show == "heat" else replace(panel, show=show) for panel in self.panels]
        clip, columns = self.clip, min(self.columns, len(panels))
        height = max(clip.info.height, _ALONE_HEIGHT if len(panels) == 1 else 0)
        size = (round(clip.info.width * height / clip.info.height), height)
        # not listed: the folder is served, and the list would give away names that nobody can guess
        more: Any = {"columns": columns, "listed": False}
        if not every:
            write_sampled_overlay(path, clip.frames, clip.times, panels, self.grid.patch, size=size, **more)
            return clip.times
        frames = islice(all_frames(clip.path, *frame_size(*size, columns, _WIDTH)), MOST_FRAMES)
        shown, rate = motion_between(frames, clip.indices, self.direction), clip.info.average_rate
        count = write_overlay(path, shown, rate, panels, self.grid.patch, **more)
        return np.asarray(clip.times[0] + np.arange(count) / rate, np.float64)


@dataclass(frozen=True)
class SourceRow:
    """What one source makes of a clip: its numbers and the seconds that it took after decoding."""

    source: str
    measured: Measured
    seconds: float


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """The error of a prediction over time.

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
    view = View(clip, grid, [_panel(title, field)], problem, direction=options.direction)
    return view, measure(clip, grid, field, problem)


def prediction_view(predictions: Mapping[str, Prediction]) -> View:
    """The target, the motion that each model predicts and, where there is a target, the errors as heat.

    Args:
        predictions: of one clip, by the models' names. Those that do not lie on the first one's frames and patches
            are left out: see `fit`.
    """
    first, *_ = predictions.values()
    fields = {name: one.field for name, one in predictions.items() if one.field is not None and fit(first, one)}
    target, several = first.target, len(predictions) > 1
    panels = [] if target is None else [_panel(f"target: {target.source}", target)]
    panels += [_panel(name if several else "predicted", field) for name, field in fields.items()]
    columns = max(len(panels), 3)
    if target is not None and fields:
        wrong = [difference(field.vectors, field.valid, target.vectors, target.valid) for field in fields.values()]
        longest = long_motion(np.concatenate([vectors[both] for vectors, both in wrong]))  # one scale for all
        if len(fields) > 1:
            panels.append(Panel("clip"))  # below the target
        names = [f"{name}: error" if several else "error" for name in fields]
        titles = [f"{name}, 0 to {longest:.1f} px" for name in names]
        panels += [Panel(title, *arrays, "heat") for title, arrays in zip(titles, wrong, strict=True)]
    direction: Direction = next(iter(fields.values())).direction if fields else "past"
    return View(first.clip, first.grid, panels or [Panel("clip")], first.problem, columns, direction)


def fit(one: Prediction, other: Prediction) -> bool:
    """Whether two predictions are of the same frames and patches, so that they can stand side by side."""
    same = one.grid.rows == other.grid.rows and one.grid.cols == other.grid.cols and one.grid.patch == other.grid.patch
    return same and np.array_equal(one.clip.indices, other.clip.indices)


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
    yield View(clip, grid, panels, direction=options.direction), rows


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
