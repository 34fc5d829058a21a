"""A clip as a film with its motion drawn on it: every frame of the file at its own speed, or the sampled ones."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast, get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.arrows import arrow_length, draw_arrows
from motiontune.drawing.colours import colour_wheel_legend, flow_to_rgb
from motiontune.drawing.sheets import long_motion, printable, shorten, write_texts
from motiontune.files import write_whole
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.video.clip import Clip, open_video


Show = Literal["arrows", "colours", "heat", "none"]
SHOWS: tuple[str, ...] = get_args(Show)

MAX_HEIGHT, MIN_HEIGHT, MAX_WIDTH = 480, 240, 1280
"""Frames are made smaller, or larger, to lie between these heights, and the whole film not wider, in pixels."""

SAMPLED_WIDTH = 960
"""`MAX_WIDTH` of films of the sampled frames, which are seen in a page."""

_SPACING = 20  # pixels between arrows
_TEXT, _LINE, _LEGEND = 15, 20, 40
_HEAD = _LINE + 6
_OPACITY = 0.65  # of colours; the frame stays visible below
_MAX_RATE = 240  # frames per second; a header that promises more is wrong


@dataclass(frozen=True, eq=False)
class Panel:
    """One of the pictures that stand side by side.

    Args:
        title: stands above it.
        field: the motion; None where there is none, and the frame stands alone.
        show: "arrows", "colours" of the wheel, "heat" for the vectors' lengths alone, or "none".
    """

    title: str
    field: MotionField | None
    show: Show = "arrows"


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is drawn over a frame: `paint` uint8 [h, w, 3] is added to the share `keep` uint8 [h, w, 3] of 255."""

    paint: NDArray[np.uint8]
    keep: NDArray[np.uint8]

    def over(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        kept = cv2.multiply(frame, self.keep, scale=1 / 255)
        return cast(NDArray[np.uint8], cv2.add(kept, self.paint, dst=kept))


def write_overlay(
    path: str | Path,
    clip: Clip,
    grid: VideoGrid,
    panels: Sequence[Panel],
    text: str | None = None,
    *,
    sampled: bool = False,
    columns: int | None = None,
) -> int:
    """Write a clip as H.264 in MP4, its motion drawn on it, the panels side by side and a text below.

    A frame between two sampled ones shows the motion between these two, with each arrow where the motion's field has
    it: at the patches of the later frame for the past, of the earlier one for the future.

    Args:
        path: the film to write. Whole or not at all.
        clip: the sampled frames of a file.
        grid: where the patches of the sampled frames lie, as many frames as the fields have.
        panels: one or more; those that show motion in the same way have one scale.
        text: stands below, with the colour wheel; None for neither.
        sampled: only the sampled frames, as large as the model sees them, at their own times; else every frame of the
            file at its own speed.
        columns: panels in a row; None puts all into one.

    Returns:
        The number of frames that were written.

    Raises:
        ClipError: if the file cannot be decoded.
    """
    columns = min(columns or len(panels), len(panels))
    widest = SAMPLED_WIDTH if sampled else MAX_WIDTH
    aspect = clip.info.width / clip.info.height
    height = int(min(np.clip(clip.info.height, MIN_HEIGHT, MAX_HEIGHT), widest / columns / aspect)) // 2 * 2
    size = (max(2, round(aspect * height / 2) * 2), height)
    scales = {show: _scale(panels, grid, height, show) for show in {panel.show for panel in panels}}
    layers = [
        _Layers(panel.field, grid, size, panel.show, *scales[panel.show])
        if panel.field is not None and panel.show != "none"
        else None
        for panel in panels
    ]
    canvas, places = _lay_out([panel.title for panel in panels], size, columns)
    if text is not None:
        canvas = np.concatenate([canvas, _foot(text, canvas.shape[1])])
    frames = _sampled_frames(clip, size) if sampled else _all_frames(clip, size)
    rate = _sampled_rate(clip) if sampled else clip.info.average_rate
    count = 0
    with write_whole(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as film:
        stream: Any = film.add_stream(
            "libx264",
            rate=Fraction(min(max(rate, 0.1), _MAX_RATE)).limit_denominator(1001),
            options={"crf": "25", "preset": "ultrafast"},
        )
        stream.width, stream.height = canvas.shape[1], canvas.shape[0]
        stream.pix_fmt = "yuv420p"
        for number, image in frames:
            for layer, (top, left) in zip(layers, places, strict=True):
                picture = image if layer is None else layer.of(number, clip).over(image)
                canvas[top : top + height, left : left + size[0]] = picture
            planes = cv2.cvtColor(canvas, cv2.COLOR_RGB2YUV_I420)  # faster than the encoder does it
            film.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
            count += 1
        film.mux(stream.encode(None))
    return count


def _all_frames(clip: Clip, size: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Every frame of the file with its number, uint8 [h, w, 3]."""
    with open_video(clip.path) as (source, video):
        video.thread_type = "AUTO"
        for number, frame in enumerate(source.decode(video)):
            image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation="AREA")
            yield number, np.asarray(image, np.uint8)


def _sampled_frames(clip: Clip, size: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for number, frame in zip(clip.indices, clip.frames, strict=True):
        yield int(number), np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _sampled_rate(clip: Clip) -> float:
    spans = np.diff(clip.times)
    return 1 / float(np.median(spans)) if len(spans) and np.median(spans) > 0 else 1.0


class _Layers:
    """The layers of one panel, each drawn once: what a sampled frame says holds for all frames of its pair."""

    def __init__(
        self, field: MotionField, grid: VideoGrid, size: tuple[int, int], show: Show, every: int, length: float
    ) -> None:
        self.field, self.grid, self.size, self.show, self.every, self.length = field, grid, size, show, every, length
        self._last: tuple[int, _Layer] | None = None

    def of(self, number: int, clip: Clip) -> _Layer:
        """The layer of a frame of the file, by its number in the order of presentation."""
        past = self.field.direction == "past"
        sampled = int(np.searchsorted(clip.indices, number, "left")) if past else _at_or_before(clip.indices, number)
        sampled = min(max(sampled, 0), len(clip.indices) - 1)
        if self._last is None or self._last[0] != sampled:
            self._last = sampled, self._draw(self.field.vectors[sampled], self.field.valid[sampled])
        return self._last[1]

    def _draw(self, vectors: NDArray[np.float32], valid: NDArray[np.bool_]) -> _Layer:
        if self.show != "arrows":
            wheel = self.show == "colours"
            colours = flow_to_rgb(vectors, self.length, valid) if wheel else heat(vectors, self.length)
            paint = np.round(colours * (_OPACITY * valid[..., None]))
            keep = np.round(255 * (1 - _OPACITY * valid[..., None].repeat(3, axis=-1)))
            pictures = [np.asarray(part, np.uint8) for part in (paint, keep)]
            return _Layer(*(cv2.resize(part, self.size, interpolation=cv2.INTER_NEAREST) for part in pictures))
        blank, scale = np.zeros((self.grid.height, self.grid.width, 4), np.uint8), self.size[1] / self.grid.height
        drawn = draw_arrows(blank, vectors, valid, self.grid.patch, scale, every=self.every, length=self.length)
        drawn = np.asarray(cv2.resize(drawn, self.size), np.uint8)
        return _Layer(np.ascontiguousarray(drawn[..., :3]), 255 - drawn[..., 3:].repeat(3, axis=-1))


def _at_or_before(indices: NDArray[np.int64], number: int) -> int:
    return int(np.searchsorted(indices, number, "right")) - 1


def heat(vectors: NDArray[np.float32], longest: float) -> NDArray[np.uint8]:
    """Colour lengths of vectors [..., cols, 2] from black (0) to bright yellow (`longest`): uint8 [..., cols, 3]."""
    share = np.clip(np.linalg.norm(vectors, axis=-1) / longest, 0, 1)
    flat = np.round(255 * share).astype(np.uint8).reshape(-1, share.shape[-1])
    colours = cv2.cvtColor(cv2.applyColorMap(flat, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(colours, np.uint8).reshape(*share.shape, 3)


def _scale(panels: Sequence[Panel], grid: VideoGrid, height: int, show: Show) -> tuple[int, float]:
    """How many patches share an arrow, and how much longer than the motion arrows are, or the longest colour."""
    every = max(1, round(_SPACING * grid.height / (height * grid.patch)))
    fields = [panel.field for panel in panels if panel.field is not None and panel.show == show]
    if not fields:
        return every, 1.0
    if show == "arrows":
        vectors, valid = (np.concatenate([getattr(f, name) for f in fields]) for name in ("vectors", "valid"))
        return every, arrow_length(vectors, valid, grid.patch * every)
    return every, long_motion(np.concatenate([f.vectors[f.valid] for f in fields]))


def _lay_out(
    titles: Sequence[str], size: tuple[int, int], columns: int
) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """A dark canvas uint8 [h, w, 3] with each panel's title, and the (top, left) of each panel's picture."""
    width, height = size[0], size[1] + _HEAD
    rows = -(-len(titles) // columns)
    canvas = np.full((rows * height, columns * width, 3), 24, np.uint8)
    corners = [(i // columns * height, i % columns * width) for i in range(len(titles))]
    texts = [
        (left + 8.0, top + 4.0, shorten(title, _TEXT, width - 16), _TEXT, (200, 200, 200))
        for title, (top, left) in zip(titles, corners, strict=True)
    ]
    return write_texts(canvas, texts).copy(), [(top + _HEAD, left) for top, left in corners]


def _foot(text: str, width: int) -> NDArray[np.uint8]:
    """The text and the colour wheel: uint8 [h, width, 3]."""
    lines = textwrap.wrap(
        printable(text), max(10, int((width - 3 * _LEGEND) / (0.56 * _TEXT))), max_lines=6, placeholder=" ..."
    )
    foot = np.full((max(len(lines) * _LINE, _LEGEND) // 2 * 2 + 12, width, 3), 24, np.uint8)
    foot[6 : 6 + _LEGEND, -_LEGEND - 8 : -8] = colour_wheel_legend(_LEGEND)
    return write_texts(foot, [(8, 6 + i * _LINE, line, _TEXT, (255, 255, 255)) for i, line in enumerate(lines)])
