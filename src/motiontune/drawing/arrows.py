"""Motion as arrows on a frame.

An arrow starts at the centre of its patch and has the colour of its direction. A dot is a patch that stands still, a
grey cross a patch without a vector.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from motiontune.drawing.colours import direction_rgb


STILL_PIXELS = 0.5
"""Vectors shorter than this, in pixels of the frame, are drawn as a dot: an arrow would be all head."""

_MIDDLE, _LONGEST = 0.9, 1.7  # of the median arrow and of the 95th percentile, in distances between arrows
_LENGTHS = (0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
_SHIFT = 4  # cv2 takes coordinates in 1/16 pixels
_OUTLINE = (24, 24, 24, 255)  # the last is opacity, for pictures that have it
_DOT = (255, 255, 255, 255)
_CROSS = (150, 150, 150, 255)
_QUIET = 0.6  # opacity of dots and crosses, which must not compete with the arrows


def draw_arrows(
    frame: NDArray[np.uint8],
    vectors: ArrayLike,
    valid: ArrayLike,
    patch: int,
    scale: float = 1,
    *,
    every: int = 1,
    length: float = 1.0,
    colour: tuple[int, int, int] | None = None,
) -> NDArray[np.uint8]:
    """Draw one frame's motion on it.

    Args:
        frame: uint8 [H, W, 3], RGB, H = R * patch, W = C * patch. It is not changed. Of zeros [H, W, 4], it becomes a
            layer to lay over frames: colours are multiplied by the opacity, which is the last.
        vectors: [R, C, 2], (dx, dy) in pixels of the frame.
        valid: bool [R, C].
        patch: side of a patch in pixels of the frame.
        scale: the picture is this many times as large as the frame, so that arrows on small frames are readable.
        every: draw one arrow for `every` x `every` patches, the mean of the valid ones among them.
        length: draw arrows this many times as long as the motion.
        colour: RGB of all arrows; None colours each by its direction.

    Returns:
        uint8 [round(H * scale), round(W * scale), 3 or 4], RGB.

    Raises:
        ValueError: if the shapes do not fit each other, or a number is not positive.
    """
    flow, mask = np.asarray(vectors, np.float64), np.asarray(valid, np.bool_)
    if flow.ndim != 3 or flow.shape[-1] != 2 or mask.shape != flow.shape[:-1]:
        raise ValueError(f"vectors must be [R, C, 2] and valid [R, C], not {flow.shape} and {mask.shape}")
    size = (mask.shape[0] * patch, mask.shape[1] * patch)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[:2] != size or frame.shape[2] not in (3, 4):
        raise ValueError(
            f"{mask.shape[0]} x {mask.shape[1]} patches of {patch} px need a uint8 frame "
            f"[{mask.shape[0] * patch}, {mask.shape[1] * patch}, 3], not {frame.dtype} {list(frame.shape)}"
        )
    if not (scale > 0 and length > 0 and every >= 1):
        raise ValueError(f"scale, length and every must be positive, not {scale}, {length} and {every}")
    picture = _resize(frame, scale)
    centres, flow, mask = pool_patches(flow, mask & np.isfinite(flow).all(axis=-1), patch, every)
    starts, spacing = centres * scale, patch * every * scale
    speeds = np.linalg.norm(flow, axis=-1)
    still = mask & (speeds < STILL_PIXELS)
    moving = mask & ~still
    _draw_quiet(picture, starts[still], starts[~mask], spacing)
    colours = direction_rgb(flow) if colour is None else np.broadcast_to(np.array(colour, np.uint8), (*mask.shape, 3))
    width = float(np.clip(spacing / 13, 1.2, 4))
    order = np.argsort(speeds[moving])  # the longest last: it crosses the most others
    outlines = _fixed_points(_arrow_outlines(starts[moving][order], flow[moving][order] * scale * length, width))
    thickness = 2 if width > 1.5 else 1  # the outline keeps every colour readable on every background
    for points, fill in zip(outlines, colours[moving][order].tolist(), strict=True):
        cv2.polylines(picture, [points], True, _OUTLINE, thickness, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(picture, [points], [*fill, 255], cv2.LINE_AA, _SHIFT)
    return picture


def pool_patches(
    vectors: NDArray[np.float64], valid: NDArray[np.bool_], patch: float, every: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Thin vectors out so that arrows on a fine grid do not hide each other.

    Args:
        vectors: float64 [R, C, 2].
        valid: bool [R, C].
        patch: side of a patch in pixels.
        every: patches to pool along each side. The last row and column of blocks may be smaller.

    Returns:
        Centres of the blocks [r, c, 2] in pixels (x, y), mean of their valid vectors [r, c, 2], and whether a block
        has any [r, c].
    """
    rows, cols = valid.shape
    row_starts, col_starts = np.arange(0, rows, every), np.arange(0, cols, every)

    def total(array: NDArray[Any]) -> NDArray[Any]:  # of the same kind of numbers
        return np.add.reduceat(np.add.reduceat(array, row_starts, axis=0), col_starts, axis=1)

    counts = total(valid.astype(np.int64))
    means = total(np.where(valid[..., None], vectors, 0.0)) / np.maximum(counts, 1)[..., None]
    centre_rows = (row_starts + np.minimum(row_starts + every, rows)) / 2 * patch
    centre_cols = (col_starts + np.minimum(col_starts + every, cols)) / 2 * patch
    centres = np.stack(np.meshgrid(centre_cols, centre_rows), axis=-1)
    return centres, means, counts > 0


def arrow_length(vectors: ArrayLike, valid: ArrayLike, spacing: float) -> float:
    """Choose `length` for `draw_arrows` so that most arrows can be seen and the longest do not bury the frame.

    The median arrow nearly reaches its neighbour, unless one in twenty would then reach far beyond.

    Args:
        vectors: [..., 2] in pixels of the frame; give all frames that are to be compared.
        valid: bool [...].
        spacing: distance between arrows, patch * every, in pixels of the frame.

    Returns:
        1.0 while arrows at their true length are readable, else a round factor.
    """
    speeds = np.linalg.norm(np.asarray(vectors, np.float64)[np.asarray(valid, np.bool_)], axis=-1)
    speeds = speeds[np.isfinite(speeds) & (speeds >= STILL_PIXELS)]
    if not speeds.size:
        return 1.0
    middle, longest = (float(speed) / spacing for speed in np.quantile(speeds, (0.5, 0.95)))
    wanted = _LONGEST / longest
    if wanted > 1:
        wanted = max(1.0, min(wanted, _MIDDLE / middle))
    return min(_LENGTHS, key=lambda length: abs(np.log(length / wanted)))


def _resize(frame: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    if (height, width) == frame.shape[:2]:
        return frame.copy()
    if scale < 1:
        method = cv2.INTER_AREA
    else:  # far enlarged, pixels show as what they are: all that the model gets
        method = cv2.INTER_NEAREST if scale >= 3 and scale == int(scale) else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(frame, (width, height), interpolation=method), np.uint8)


def _draw_quiet(
    picture: NDArray[np.uint8], dots: NDArray[np.float64], crosses: NDArray[np.float64], spacing: float
) -> None:
    layer = picture.copy()
    radius = float(np.clip(spacing / 28, 0.9, 2.5))
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=-1)  # cv2's own circles of this size are diamonds
    for centre in dots:
        cv2.fillPoly(layer, [_fixed_points(centre + circle * (radius + 0.8))], _OUTLINE, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(layer, [_fixed_points(centre + circle * radius)], _DOT, cv2.LINE_AA, _SHIFT)
    arm = float(np.clip(spacing / 12, 1.5, 5))
    for x, y in crosses:
        for slope in (1, -1):
            ends = _fixed(x - arm, y - arm * slope), _fixed(x + arm, y + arm * slope)
            cv2.line(layer, *ends, _CROSS, 1, cv2.LINE_AA, _SHIFT)
    cv2.addWeighted(layer, _QUIET, picture, 1 - _QUIET, 0, dst=picture)


def _arrow_outlines(starts: NDArray[np.float64], steps: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """The corners [n, 7, 2] of arrows [n, 2] whose shafts are `width` wide; a short one is a smaller head alone."""
    reach = np.linalg.norm(steps, axis=-1, keepdims=True)
    along = steps / reach
    across = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    head = np.minimum(3.6 * width, 0.7 * reach)
    half_head = np.maximum(0.55 * head, 0.9)
    half_shaft = np.minimum(width / 2, 0.4 * half_head)
    necks = starts + along * (reach - head)
    one_side = [starts + across * half_shaft, necks + across * half_shaft, necks + across * half_head]
    other_side = [necks - across * half_head, necks - across * half_shaft, starts - across * half_shaft]
    return np.stack([*one_side, starts + steps, *other_side], axis=1)


def _fixed(*numbers: float) -> tuple[int, ...]:
    return tuple(round(float(number) * 2**_SHIFT) for number in numbers)


def _fixed_points(points: NDArray[np.float64]) -> NDArray[np.int32]:
    # cv2 wraps around beyond 2**31 / 2**SHIFT; a prediction gone wild is cut off far outside the picture instead
    return np.asarray(np.round(np.clip(points, -1e5, 1e5) * 2**_SHIFT), np.int32)
