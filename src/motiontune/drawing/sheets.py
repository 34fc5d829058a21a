"""Frames of clips with their motion, laid out in one picture."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.arrows import arrow_length, draw_arrows
from motiontune.drawing.colours import colour_wheel_legend, flow_to_rgb
from motiontune.files import write_bytes
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField


CELL_WIDTH = 240
"""Width of a frame on the sheet, in pixels. Small frames are enlarged by a whole factor, up to about this."""

_MIN_SPACING = 19  # pixels between arrows on the sheet; closer than this they hide each other
_MARGIN, _GAP = 18, 8
_MIN_WIDTH = 440  # the legend's text must fit
_TITLE_SIZE, _NOTE_SIZE, _LEGEND_SIZE = 17, 13, 44
_PAPER, _INK, _FAINT = (255, 255, 255), (28, 30, 34), (110, 114, 122)


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One clip's frames and motion.

    Args:
        title: what stands above the row.
        frames: uint8 [F, H, W, 3], RGB, at grid size: H = R * patch, W = C * patch; see `frames_on_grid`.
        vectors: [F, R, C, 2], pixels of these frames.
        valid: bool [F, R, C].
        times: [F], seconds.
        patch: side of a patch in pixels of these frames.
        length: arrows are drawn this many times as long as the motion; None chooses, see `arrow_length`. Give rows
            that are to be compared the same one.

    Raises:
        ValueError: if the shapes do not fit each other.
    """

    title: str
    frames: NDArray[np.uint8]
    vectors: NDArray[np.float32]
    valid: NDArray[np.bool_]
    times: NDArray[np.float64]
    patch: int
    length: float | None = None

    def __post_init__(self) -> None:
        count, rows, cols = self.valid.shape
        if self.vectors.shape != (count, rows, cols, 2):
            raise ValueError(f"vectors must be {(count, rows, cols, 2)}, not {self.vectors.shape}")
        if self.times.shape != (count,):
            raise ValueError(f"times must be [{count}], not {self.times.shape}")
        size = (count, rows * self.patch, cols * self.patch, 3)
        if self.frames.shape != size or self.frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 {size}, not {self.frames.dtype} {self.frames.shape}")

    @classmethod
    def from_field(cls, title: str, frames: NDArray[np.uint8], field: MotionField) -> "SheetRow":
        """A row for a clip's motion field, with frames at grid size."""
        patch = frames.shape[1] // max(field.valid.shape[1], 1)
        return cls(title, frames, field.vectors, field.valid, field.times, patch)


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One frame with its arrows: index and time (seconds) of the frame, uint8 [h, w, 3] picture."""

    index: int
    time: float
    image: NDArray[np.uint8]


def frames_on_grid(frames: NDArray[np.uint8], grid: VideoGrid) -> NDArray[np.uint8]:
    """Bring decoded frames to the size and number that the vision encoder sees.

    Args:
        frames: uint8 [f, h, w, 3], RGB, of any size.
        grid: the grid of the same clip.

    Returns:
        uint8 [F, grid.height, grid.width, 3]. Missing frames repeat the last one, as the processor pads.

    Raises:
        ValueError: if there are more frames than on the grid, or so few that padding cannot explain it.
    """
    if not 0 <= grid.frames - len(frames) < grid.temporal_patch or not len(frames):
        raise ValueError(f"{len(frames)} frames do not fit a grid of {grid.frames} frames")
    size = (grid.height, grid.width)
    sized = [
        frame if frame.shape[:2] == size else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    return np.stack(sized + sized[-1:] * (grid.frames - len(frames))).astype(np.uint8)


def choose_frames(valid: NDArray[np.bool_], columns: int) -> list[int]:
    """Choose at most `columns` frames, evenly, from bool [F, R, C].

    Where not all frames fit, frames without any valid patch (the first one, or padding) are passed over.
    """
    everything = np.arange(len(valid))
    if len(everything) <= columns:
        return everything.tolist()
    shown = np.flatnonzero(valid.any(axis=(1, 2)))
    shown = shown if shown.size else everything
    picks = np.linspace(0, len(shown) - 1, min(columns, len(shown)))
    return [int(index) for index in shown[np.round(picks).astype(int)]]


def row_length(row: SheetRow, cell_width: int = CELL_WIDTH) -> float:
    """The factor by which a row's arrows are longer than the motion."""
    if row.length is not None:
        return row.length
    spacing = row.patch * _every(row, _scale(row, cell_width))
    return arrow_length(row.vectors, row.valid, spacing)


def draw_cells(row: SheetRow, columns: int = 8, cell_width: int = CELL_WIDTH) -> list[SheetCell]:
    """Draw at most `columns` frames of a row, evenly chosen, each about `cell_width` pixels wide."""
    scale, length = _scale(row, cell_width), row_length(row, cell_width)
    every = _every(row, scale)
    return [
        SheetCell(
            index,
            float(row.times[index]),
            draw_arrows(
                row.frames[index], row.vectors[index], row.valid[index], row.patch, scale, every=every, length=length
            ),
        )
        for index in choose_frames(row.valid, columns)
    ]


def contact_sheet(rows: Sequence[SheetRow], columns: int = 8, cell_width: int = CELL_WIDTH) -> NDArray[np.uint8]:
    """Lay rows of frames out below each other, with title, times and a legend.

    Args:
        rows: one or more rows; their clips may differ in size and length.
        columns: frames per row, evenly chosen.
        cell_width: width of a frame in pixels, about.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: without rows, or if `columns` is not positive.
    """
    if not rows or columns < 1:
        raise ValueError(f"a contact sheet needs rows and columns, not {len(rows)} and {columns}")
    cells = [draw_cells(row, columns, cell_width) for row in rows]
    notes = [_length_note(row_length(row, cell_width)) for row in rows]
    return _lay_out([(row.title, note, strip) for row, note, strip in zip(rows, notes, cells, strict=True)])


def colour_sheet(title: str, field: MotionField, columns: int = 8, cell_width: int = CELL_WIDTH) -> NDArray[np.uint8]:
    """Lay a field's frames out in the colours of the wheel: uint8 [height, width, 3], RGB.

    Full colour stands for the 98th percentile of the lengths, but at least a pixel.
    """
    longest = long_motion(field.vectors[field.valid])
    size = (cell_width, max(1, round(cell_width * field.valid.shape[1] / field.valid.shape[2])))
    cells = []
    for index in choose_frames(field.valid, columns):
        colours = flow_to_rgb(field.vectors[index], longest, field.valid[index])
        image = np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        cells.append(SheetCell(index, float(field.times[index]), image))
    return _lay_out([(title, f"full colour: {longest:.1f} px", cells)])


def long_motion(vectors: NDArray[np.float32]) -> float:
    """The length of full colour for vectors [n, 2]: their 98th percentile, but at least a pixel."""
    return max(float(np.percentile(np.linalg.norm(vectors, axis=-1), 98)), 1.0) if len(vectors) else 1.0


def _lay_out(strips: Sequence[tuple[str, str, list[SheetCell]]]) -> NDArray[np.uint8]:
    """Strips of (title, note, cells) below each other, and the legend."""
    widths = (sum(cell.image.shape[1] + _GAP for cell in cells) - _GAP for _, _, cells in strips)
    width = max(_MIN_WIDTH, *widths) + 2 * _MARGIN
    drawn = [_draw_strip(title, note, cells, width) for title, note, cells in strips]
    edge = np.full((_MARGIN // 2, width, 3), _PAPER, np.uint8)
    return np.concatenate([edge, *drawn, _draw_legend(width), edge])


def save_png(path: str | Path, image: NDArray[np.uint8]) -> Path:
    """Write uint8 [h, w, 3] RGB as PNG, whole or not at all, and return where it is. Its folder is made."""
    path = Path(path)
    write_bytes(path, encode_image(image, ".png"))
    return path


def encode_image(image: NDArray[np.uint8], suffix: str, options: Sequence[int] = ()) -> bytes:
    """Encode uint8 [h, w, 3] RGB as ".png" or ".jpg"; `options` as cv2.imencode takes them."""
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(options))
    if not done:
        raise ValueError(f"an image {image.shape} cannot be encoded as {suffix}")
    return bytes(data)


def printable(text: str) -> str:
    """Put a space for each control character and line break: a model may say anything."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def shorten(text: str, size: int, width: float) -> str:
    """Cut the middle out of a text that is wider than `width` pixels: a path's end says more than its middle."""
    font = _font(size)
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    fits, too_many = 0, len(text)
    while too_many - fits > 1:
        keep = (fits + too_many) // 2
        if font.getlength(_without_middle(text, keep)) <= width:
            fits = keep
        else:
            too_many = keep
    return _without_middle(text, fits)


def _without_middle(text: str, keep: int) -> str:
    head = keep // 2
    return f"{text[:head]}…{text[len(text) - (keep - head) :]}"


def _scale(row: SheetRow, cell_width: int) -> float:
    width = row.frames.shape[2]
    return float(round(cell_width / width)) if 2 * width <= cell_width else cell_width / width


def _every(row: SheetRow, scale: float) -> int:
    return max(1, int(np.ceil(_MIN_SPACING / (row.patch * scale) - 0.05)))


def _length_note(length: float) -> str:
    return "arrows to scale" if length == 1 else f"arrows {length:g} × as long as the motion"


def _draw_strip(title: str, note: str, cells: list[SheetCell], width: int) -> NDArray[np.uint8]:
    """One row of the sheet: title line, frames, times below them."""
    height = max(cell.image.shape[0] for cell in cells)
    top, below = _TITLE_SIZE + 14, _NOTE_SIZE + 12
    strip = np.full((top + height + below, width, 3), _PAPER, np.uint8)
    texts: list[tuple[float, float, str, int, tuple[int, int, int]]] = []
    note_width = _font(_NOTE_SIZE).getlength(note)
    texts.append((width - _MARGIN - note_width, 10, note, _NOTE_SIZE, _FAINT))
    room = width - 2 * _MARGIN - note_width - 24
    texts.append((_MARGIN, 6, shorten(title, _TITLE_SIZE, room), _TITLE_SIZE, _INK))
    left = _MARGIN
    for cell in cells:
        strip[top : top + cell.image.shape[0], left : left + cell.image.shape[1]] = cell.image
        time = f"{cell.time:.2f} s"
        texts.append((left, top + cell.image.shape[0] + 4, time, _NOTE_SIZE, _FAINT))
        left += cell.image.shape[1] + _GAP
    return write_texts(strip, texts)


def _draw_legend(width: int) -> NDArray[np.uint8]:
    strip = np.full((_LEGEND_SIZE + 16, width, 3), _PAPER, np.uint8)
    strip[8 : 8 + _LEGEND_SIZE, _MARGIN : _MARGIN + _LEGEND_SIZE] = colour_wheel_legend(_LEGEND_SIZE)
    text = "colour: direction · dot: less than 0.5 px · cross: no vector"
    left = _MARGIN + _LEGEND_SIZE + 12
    text = shorten(text, _NOTE_SIZE, width - left - _MARGIN)
    return write_texts(strip, [(left, 8 + (_LEGEND_SIZE - _NOTE_SIZE) / 2 - 2, text, _NOTE_SIZE, _FAINT)])


def write_texts(
    picture: NDArray[np.uint8], texts: list[tuple[float, float, str, int, tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    """Write texts, each (left, top, text, size, colour), into a copy of a picture uint8 [h, w, 3]."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for x, y, text, size, colour in texts:
        draw.text((x, y), text, fill=colour, font=_font(size))
    return np.asarray(image)


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)  # knows more scripts than the font that Pillow brings
    except OSError:
        return ImageFont.load_default(size)
