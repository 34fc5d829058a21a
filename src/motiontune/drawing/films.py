"""Films of clips with their motion drawn on them: every frame of a file at its own speed, or the sampled ones."""

import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.arrows import arrow_length, draw_arrows
from motiontune.drawing.colours import colour_wheel_legend, flow_to_rgb
from motiontune.drawing.panels import Panel, Show, long_motion
from motiontune.drawing.text import printable, shorten, write_texts
from motiontune.files import as_url, write_whole


# frames are made smaller, or larger, to lie between these heights, and the whole film not wider, in pixels
_MAX_HEIGHT, _MIN_HEIGHT, _MAX_WIDTH = 480, 240, 1280
_SAMPLED_WIDTH = 960  # instead, of films of the sampled frames, which are seen in a page
_PREVIEW_WIDTH = 480  # of each half of a preview
_SPACING, _PREVIEW_SPACING = 20, 16  # pixels between arrows
_TEXT, _LINE, _LEGEND = 15, 20, 40
_HEAD = _LINE + 6
_OPACITY = 0.65  # of colours; the frame stays visible below
_CLOCK = 90000  # of films whose pictures have times: ticks per second, as MPEG has them
_MAX_RATE = 240  # frames per second; a header that promises more is wrong

FILM, SHEET = ".motion.mp4", ".motion.png"
"""What follows a clip's name in those of its film and its contact sheet."""

_MARK = "made by motiontune"  # the comment in a film's header

Picture = NDArray[np.uint8]


def write_film(
    path: str | Path,
    pictures: Iterable[Picture],
    rate: float,
    quality: int = 25,
    *,
    times: NDArray[np.float64] | None = None,
    listed: bool = True,
) -> int:
    """Write pictures as H.264 in MP4, whole or not at all.

    Args:
        path: the film to write.
        pictures: uint8 [h, w, 3], RGB, all of one size. An odd last row or column is cut off: H.264 has none.
        rate: pictures per second.
        quality: x264's `crf`: lower is better and larger.
        times: float64 [n], increasing, seconds: when each picture is shown, where they are not evenly spread.
        listed: as in `motiontune.files.write_whole`.

    Returns:
        The number of pictures.

    Raises:
        ValueError: without a picture.
    """
    frame_rate = Fraction(min(max(rate, 0.1), _MAX_RATE)).limit_denominator(1001)
    options = {"crf": str(quality), "preset": "ultrafast"}
    count = 0
    with write_whole(path, listed=listed) as unfinished, av.open(as_url(unfinished), "w", format="mp4") as film:
        film.metadata["comment"] = _MARK
        # PyAV's types do not tell a stream of video from others by the codec's name
        stream: Any = film.add_stream("libx264", rate=frame_rate, options=options)
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, _CLOCK)
        for picture in pictures:
            even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            if count == 0:  # the encoder is opened with the first picture, and has its size from then on
                stream.height, stream.width = even.shape[:2]
            planes = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420)  # faster than the encoder does it
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            if times is not None:
                frame.pts, frame.time_base = round((times[count] - times[0]) * _CLOCK), Fraction(1, _CLOCK)
            film.mux(stream.encode(frame))
            count += 1
        if count == 0:
            raise ValueError(f"{path}: a film needs a picture")
        film.mux(stream.encode(None))
    return count


def is_film(path: str | Path) -> bool:
    """Whether a file is a film of motion that this package wrote, as its name and its metadata have it."""
    if not str(path).endswith(FILM) or not os.path.isfile(path):  # a pipe would keep who opens it waiting
        return False
    try:
        with av.open(as_url(path)) as film:
            comment = film.metadata.get("comment")
    except (OSError, av.FFmpegError):
        return False
    return comment == _MARK


def write_overlay(
    path: str | Path,
    frames: Iterable[tuple[int, Picture]],
    rate: float,
    panels: Sequence[Panel],
    patch: int,
    *,
    text: str | None = None,
    columns: int | None = None,
    times: NDArray[np.float64] | None = None,
    listed: bool = True,
) -> int:
    """Write frames with motion drawn on them, the panels side by side and a text below.

    Args:
        path: the film to write. Whole or not at all.
        frames: which of the panels' frames each one shows the motion of, and the frame itself, uint8 [h, w, 3], RGB,
            all of one even size; see `frame_size`, `motion_between`.
        rate: frames per second.
        panels: one or more; those that show motion in the same way have one scale.
        patch: side of a patch in pixels of the frame that the vectors are in.
        text: stands below, with the colour wheel; None for neither.
        columns: panels in a row; None puts all into one.
        times: as in `write_film`.
        listed: as in `motiontune.files.write_whole`.

    Returns:
        The number of frames that were written.

    Raises:
        ValueError: without a frame.
    """
    columns = min(columns or len(panels), len(panels))
    return write_film(path, _overlaid(iter(frames), panels, patch, text, columns), rate, times=times, listed=listed)


def write_sampled_overlay(
    path: str | Path,
    frames: Picture,
    times: NDArray[np.float64],
    panels: Sequence[Panel],
    patch: int,
    *,
    size: tuple[int, int] | None = None,
    text: str | None = None,
    columns: int | None = None,
    listed: bool = True,
) -> int:
    """Write sampled frames as `write_overlay` does, as large as the model sees them, at their own times.

    Args:
        path: the film to write.
        frames: uint8 [F, h, w, 3], RGB.
        times: float64 [F], seconds.
        panels: as in `write_overlay`, and so are `patch`, `text`, `columns` and `listed`.
        size: width and height of the clip, whose aspect and size the film has; None is that of the frames.

    Returns:
        The number of frames that were written.
    """
    width, height = (frames.shape[2], frames.shape[1]) if size is None else size
    size = frame_size(width, height, min(columns or len(panels), len(panels)), _SAMPLED_WIDTH)
    sized = (np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), np.uint8) for frame in frames)
    shown = times if len(times) < 2 or (np.diff(times) > 0).all() else None  # a frame may be repeated
    more: Any = {"text": text, "columns": columns, "times": shown, "listed": listed}
    return write_overlay(path, enumerate(sized), _rate_of(times), panels, patch, **more)


def write_preview(
    path: str | Path,
    frames: Picture,
    vectors: NDArray[np.float32],
    valid: NDArray[np.bool_],
    times: NDArray[np.float64],
    patch: int,
) -> int:
    """Write sampled frames with arrows, beside the colours of the wheel alone.

    Args:
        path: the film to write. Whole or not at all.
        frames: uint8 [F, R * patch, C * patch, 3], RGB.
        vectors: float32 [F, R, C, 2], pixels of these frames.
        valid: bool [F, R, C].
        times: float64 [F], seconds.
        patch: side of a patch in pixels.

    Returns:
        The number of frames that were written.
    """
    scale = max(_PREVIEW_WIDTH / frames.shape[2], 0.5)
    every = max(1, round(_PREVIEW_SPACING / (patch * scale)))
    length, longest = arrow_length(vectors, valid, patch * every), long_motion(vectors[valid])

    def pictures() -> Iterator[Picture]:
        for frame, flow, known in zip(frames, vectors, valid, strict=True):
            arrows = draw_arrows(frame, flow, known, patch, scale, every=every, length=length)
            colours = flow_to_rgb(flow, longest, known)
            colours = cv2.resize(colours, arrows.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            yield np.concatenate([arrows, np.asarray(colours, np.uint8)], axis=1)

    return write_film(path, pictures(), _rate_of(times), quality=18)


def frame_size(width: int, height: int, columns: int = 1, widest: int = _MAX_WIDTH) -> tuple[int, int]:
    """How large frames of a clip are drawn, side by side: even (width, height) in pixels.

    Args:
        width: of the clip, pixels.
        height: of the clip, pixels.
        columns: panels in a row.
        widest: the whole film's width.
    """
    aspect = width / height
    drawn = int(min(np.clip(height, _MIN_HEIGHT, _MAX_HEIGHT), widest / columns / aspect)) // 2 * 2
    return max(2, round(aspect * drawn / 2) * 2), drawn


def _rate_of(times: NDArray[np.float64]) -> float:
    """Frames per second of frames at these times, float64 [F] seconds: by the median of the spans between them."""
    spans = np.diff(times)
    return 1 / float(np.median(spans)) if len(spans) and np.median(spans) > 0 else 1.0


def motion_between(
    frames: Iterable[Picture], indices: NDArray[np.int64], direction: str
) -> Iterator[tuple[int, Picture]]:
    """Every frame of a file, after the number of the sampled frame whose motion it shows.

    A frame between two sampled ones shows the motion between these two, with each arrow where the vectors have it: at
    the patches of the later frame for the past, of the earlier one for the future.

    Args:
        frames: all frames of the file.
        indices: int64 [F], increasing: which of them were sampled.
        direction: "past" or "future".
    """
    for number, frame in enumerate(frames):
        if direction == "past":
            sampled = int(np.searchsorted(indices, number, "left"))
        else:
            sampled = int(np.searchsorted(indices, number, "right")) - 1
        yield min(max(sampled, 0), len(indices) - 1), frame


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is drawn over a frame: `paint` uint8 [h, w, 3] is added to the share `keep` uint8 [h, w, 3] of 255."""

    paint: Picture
    keep: Picture

    def over(self, frame: Picture) -> Picture:
        kept = cv2.multiply(frame, self.keep, scale=1 / 255)
        return cast(Picture, cv2.add(kept, self.paint, dst=kept))


class _Layers:
    """The layers of one panel, each drawn once: a sampled frame's motion holds for all frames of its pair."""

    def __init__(self, panel: Panel, patch: int, size: tuple[int, int], every: int, length: float) -> None:
        self.panel, self.patch, self.size, self.every, self.length = panel, patch, size, every, length
        self._last: tuple[int, _Layer] | None = None

    def over(self, sampled: int, frame: Picture) -> Picture:
        """The frame with the motion of one of the panel's frames."""
        if self.panel.vectors is None or self.panel.valid is None or self.panel.show == "none":
            return frame
        if self._last is None or self._last[0] != sampled:
            self._last = sampled, self._draw(self.panel.vectors[sampled], self.panel.valid[sampled])
        return self._last[1].over(frame)

    def _draw(self, vectors: NDArray[np.float32], valid: NDArray[np.bool_]) -> _Layer:
        if self.panel.show != "arrows":
            wheel = self.panel.show == "colours"
            colours = flow_to_rgb(vectors, self.length, valid) if wheel else _heat(vectors, self.length)
            paint = np.round(colours * (_OPACITY * valid[..., None]))
            keep = np.round(255 * (1 - _OPACITY * valid[..., None].repeat(3, axis=-1)))
            pictures = [np.asarray(part, np.uint8) for part in (paint, keep)]
            return _Layer(*(cv2.resize(part, self.size, interpolation=cv2.INTER_NEAREST) for part in pictures))
        height, width = (side * self.patch for side in valid.shape)
        blank, scale = np.zeros((height, width, 4), np.uint8), self.size[1] / height
        drawn = draw_arrows(blank, vectors, valid, self.patch, scale, every=self.every, length=self.length)
        drawn = np.asarray(cv2.resize(drawn, self.size), np.uint8)
        return _Layer(np.ascontiguousarray(drawn[..., :3]), 255 - drawn[..., 3:].repeat(3, axis=-1))


def _overlaid(
    frames: Iterator[tuple[int, Picture]], panels: Sequence[Panel], patch: int, text: str | None, columns: int
) -> Iterator[Picture]:
    """The pictures of the film; each is overwritten by the next."""
    first = next(frames, None)
    if first is None:
        return
    height, width = first[1].shape[:2]
    scales = {show: _scale(panels, patch, height, show) for show in {panel.show for panel in panels}}
    layers = [_Layers(panel, patch, (width, height), *scales[panel.show]) for panel in panels]
    canvas, places = _lay_out([panel.title for panel in panels], (width, height), columns)
    if text is not None:
        canvas = np.concatenate([canvas, _foot(text, canvas.shape[1])])
    for sampled, frame in chain([first], frames):
        for layer, (top, left) in zip(layers, places, strict=True):
            canvas[top : top + height, left : left + width] = layer.over(sampled, frame)
        yield canvas


def _heat(vectors: NDArray[np.float32], longest: float) -> Picture:
    """Colour lengths of vectors [..., cols, 2] from black (0) to bright yellow (`longest`): uint8 [..., cols, 3]."""
    share = np.clip(np.linalg.norm(vectors, axis=-1) / longest, 0, 1)
    flat = np.round(255 * share).astype(np.uint8).reshape(-1, share.shape[-1])
    colours = cv2.cvtColor(cv2.applyColorMap(flat, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(colours, np.uint8).reshape(*share.shape, 3)


def _scale(panels: Sequence[Panel], patch: int, height: int, show: Show) -> tuple[int, float]:
    """How many patches share an arrow, and how much longer than the motion arrows are, or the longest colour."""
    parts = [(p.vectors, p.valid) for p in panels if p.vectors is not None and p.valid is not None and p.show == show]
    if not parts:
        return 1, 1.0
    rows = parts[0][1].shape[1]
    every = max(1, round(_SPACING * rows / height))
    if show == "arrows":
        vectors, valid = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return every, arrow_length(vectors, valid, patch * every)
    return every, long_motion(np.concatenate([vectors[valid] for vectors, valid in parts]))


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
