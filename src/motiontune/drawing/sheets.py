"""Frames of clips with their motion, laid out in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.arrows import STILL_PIXELS, arrow_length, draw_arrows
from motiontune.drawing.colours import colour_wheel_legend, flow_to_rgb
from motiontune.drawing.panels import Panel, long_motion
from motiontune.drawing.text import shorten, text_width, write_texts


_CELL_WIDTH = 240  # of a frame on the sheet, in pixels; small frames are enlarged by a whole factor, up to about this
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
        frames: uint8 [F, H, W, 3], RGB, at grid size: H = R * patch, W = C * patch; see `of` for frames of another.
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
    def of(
        cls,
        title: str,
        frames: NDArray[np.uint8],
        vectors: NDArray[np.float32],
        valid: NDArray[np.bool_],
        times: NDArray[np.float64],
        patch: int | None = None,
        padding: int = 0,
    ) -> "SheetRow":
        """A row of frames of any size, which are brought to the grid's; see `frames_on_grid`.

        Args:
            title: as in the class, and so are `vectors`, `valid` and `times`.
            frames: uint8 [f, h, w, 3], RGB.
            patch: side of a patch in pixels of the frame that the vectors are in; None takes what fits the frames
                best, which is exact where they have that frame's size.
            padding: at most so many frames may be missing.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        count, rows, cols = valid.shape
        patch = max(1, round(frames.shape[1] / rows)) if patch is None else patch
        return cls(
            title, frames_on_grid(frames, count, rows * patch, cols * patch, padding), vectors, valid, times, patch
        )


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One frame with its arrows: index and time (seconds) of the frame, uint8 [h, w, 3] picture."""

    index: int
    time: float
    image: NDArray[np.uint8]


def frames_on_grid(
    frames: NDArray[np.uint8], count: int, height: int, width: int, padding: int = 0
) -> NDArray[np.uint8]:
    """Bring decoded frames to the size and number that the vision encoder sees.

    Args:
        frames: uint8 [f, h, w, 3], RGB, of any size.
        count: F, frames on the grid.
        height: of the grid, pixels.
        width: of the grid, pixels.
        padding: at most so many of the frames on the grid may be repeats of the last one: the frames of a token, less
            one.

    Returns:
        uint8 [F, height, width, 3].

    Raises:
        ValueError: if there are more frames than on the grid, or so few that padding cannot explain it.
    """
    if not 0 <= count - len(frames) <= padding or not len(frames):
        raise ValueError(f"{len(frames)} frames do not fit a grid of {count} frames")
    sized = [
        frame
        if frame.shape[:2] == (height, width)
        else cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    return np.stack(sized + sized[-1:] * (count - len(frames))).astype(np.uint8)


def comparison_rows(
    name: str,
    frames: NDArray[np.uint8],
    times: NDArray[np.float64],
    panels: Sequence[Panel],
    patch: int,
    padding: int = 0,
    cell_width: int = _CELL_WIDTH,
) -> list[SheetRow]:
    """Motion of one clip in rows below each other, with arrows of the same length: those that suit the first.

    Args:
        name: begins each row's title; the panel's own follows.
        frames: uint8 [f, h, w, 3], RGB, of any size; see `frames_on_grid`.
        times: float64 [F], seconds.
        panels: those of one prediction, say; see `comparison_panels`. How they are shown is not looked at.
        patch: side of a patch in pixels of the frame that the vectors are in.
        padding: at most so many frames may be missing.
        cell_width: width of a frame in pixels.

    Raises:
        ValueError: if a panel has no motion, or the shapes do not fit each other.
    """
    rows: list[SheetRow] = []
    for panel in panels:
        if panel.vectors is None or panel.valid is None:
            raise ValueError(f"{name} · {panel.title}: has no motion to draw")
        rows.append(SheetRow.of(f"{name} · {panel.title}", frames, panel.vectors, panel.valid, times, patch, padding))
    length = row_length(rows[0], cell_width) if len(rows) > 1 else None  # else they could not be compared
    return [replace(row, length=length) for row in rows]


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


def row_length(row: SheetRow, cell_width: int = _CELL_WIDTH) -> float:
    """The factor by which a row's arrows are longer than the motion."""
    if row.length is not None:
        return row.length
    spacing = row.patch * _every(row, _scale(row, cell_width))
    return arrow_length(row.vectors, row.valid, spacing)


def draw_cells(row: SheetRow, columns: int = 8, cell_width: int = _CELL_WIDTH) -> list[SheetCell]:
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


def contact_sheet(rows: Sequence[SheetRow], columns: int = 8, cell_width: int = _CELL_WIDTH) -> NDArray[np.uint8]:
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
    notes = [length_note(row_length(row, cell_width)) for row in rows]
    return _lay_out([(row.title, note, strip) for row, note, strip in zip(rows, notes, cells, strict=True)])


def colour_sheet(
    title: str,
    vectors: NDArray[np.float32],
    valid: NDArray[np.bool_],
    times: NDArray[np.float64],
    columns: int = 8,
    cell_width: int = _CELL_WIDTH,
) -> NDArray[np.uint8]:
    """Lay motion out in the colours of the wheel, without frames: uint8 [height, width, 3], RGB.

    Full colour stands for the 98th percentile of the lengths, but at least a pixel.

    Args:
        title: stands above.
        vectors: float32 [F, R, C, 2].
        valid: bool [F, R, C].
        times: float64 [F], seconds.
        columns: at most so many frames, evenly chosen.
        cell_width: width of a frame in pixels.
    """
    longest = long_motion(vectors[valid])
    size = (cell_width, max(1, round(cell_width * valid.shape[1] / valid.shape[2])))
    cells = []
    for index in choose_frames(valid, columns):
        colours = flow_to_rgb(vectors[index], longest, valid[index])
        image = np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        cells.append(SheetCell(index, float(times[index]), image))
    return _lay_out(
        [(title, f"full colour: {longest:.1f} px", cells)], "colour: direction · pale: short · grey: no vector"
    )


def frame_sheet(
    title: str, frames: NDArray[np.uint8], times: NDArray[np.float64], columns: int = 8, cell_width: int = _CELL_WIDTH
) -> NDArray[np.uint8]:
    """Lay frames uint8 [F, h, w, 3] out without motion, at most `columns` of them: uint8 [height, width, 3], RGB."""
    picks = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    size = (cell_width, max(1, round(cell_width * frames.shape[1] / frames.shape[2])))
    cells = []
    for index in picks.tolist():
        image = np.asarray(cv2.resize(frames[index], size, interpolation=cv2.INTER_AREA), np.uint8)
        cells.append(SheetCell(index, float(times[index]), image))
    return _lay_out([(title, f"{len(picks)} of {len(frames)} frames", cells)], legend=None)


def _lay_out(
    strips: Sequence[tuple[str, str, list[SheetCell]]],
    legend: str | None = f"colour: direction · dot: less than {STILL_PIXELS:g} px · cross: no vector",
) -> NDArray[np.uint8]:
    """Strips of (title, note, cells) below each other, and the colour wheel with its legend."""
    widths = (sum(cell.image.shape[1] + _GAP for cell in cells) - _GAP for _, _, cells in strips)
    width = max(_MIN_WIDTH, *widths) + 2 * _MARGIN
    drawn = [_draw_strip(title, note, cells, width) for title, note, cells in strips]
    edge = np.full((_MARGIN // 2, width, 3), _PAPER, np.uint8)
    return np.concatenate([edge, *drawn, *([] if legend is None else [_draw_legend(legend, width)]), edge])


def _scale(row: SheetRow, cell_width: int) -> float:
    width = row.frames.shape[2]
    return float(round(cell_width / width)) if 2 * width <= cell_width else cell_width / width


def _every(row: SheetRow, scale: float) -> int:
    return max(1, int(np.ceil(_MIN_SPACING / (row.patch * scale) - 0.05)))


def length_note(length: float) -> str:
    """What a picture states of its arrows' length; see `row_length`."""
    return "arrows to scale" if length == 1 else f"arrows {length:g} × as long as the motion"


def _draw_strip(title: str, note: str, cells: list[SheetCell], width: int) -> NDArray[np.uint8]:
    """One row of the sheet: title line, frames, times below them."""
    height = max(cell.image.shape[0] for cell in cells)
    top, below = _TITLE_SIZE + 14, _NOTE_SIZE + 12
    strip = np.full((top + height + below, width, 3), _PAPER, np.uint8)
    texts: list[tuple[float, float, str, int, tuple[int, int, int]]] = []
    note_width = text_width(note, _NOTE_SIZE)
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


def _draw_legend(text: str, width: int) -> NDArray[np.uint8]:
    strip = np.full((_LEGEND_SIZE + 16, width, 3), _PAPER, np.uint8)
    strip[8 : 8 + _LEGEND_SIZE, _MARGIN : _MARGIN + _LEGEND_SIZE] = colour_wheel_legend(_LEGEND_SIZE)
    left = _MARGIN + _LEGEND_SIZE + 12
    text = shorten(text, _NOTE_SIZE, width - left - _MARGIN)
    return write_texts(strip, [(left, 8 + (_LEGEND_SIZE - _NOTE_SIZE) / 2 - 2, text, _NOTE_SIZE, _FAINT)])
