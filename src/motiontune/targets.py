"""Motion fields turned into token targets, and back.

Shapes: F frames, R patch rows, C patch columns, m merge size, p temporal patch size,
T = F / p * R / m * C / m video tokens, D = 2 * m * m * p numbers per token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField


@dataclass(frozen=True)
class MotionTargets:
    """What each video token of one video must predict.

    Args:
        values: float32 [T, D], displacement in units of `patch * scale` pixels; zero where `mask` is false.
        mask: bool [T, D], true where the value is a target.

    Raises:
        ValueError: on another shape or dtype, or a value that is not finite.
    """

    values: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape != self.mask.shape:
            raise ValueError(f"values {self.values.shape} and mask {self.mask.shape} must be the same [tokens, width]")
        if self.values.dtype != np.float32 or self.mask.dtype != np.bool_:
            raise ValueError(f"values must be float32 and mask bool, not {self.values.dtype} and {self.mask.dtype}")
        if not np.isfinite(self.values).all():
            raise ValueError("a target is not finite")


def to_tokens(field: NDArray[Any], grid: VideoGrid) -> NDArray[Any]:
    """Reorder a per-patch array [F, R, C, K] to one row per video token [T, p * m * m * K].

    Within a row the order is frame, patch row, patch column, then the last axis.

    Raises:
        ValueError: if the array is of another number of frames, rows or columns than the grid.
    """
    f, r, c, k = field.shape
    if (f, r, c) != (grid.frames, grid.rows, grid.cols):
        raise ValueError(f"field has {(f, r, c)} frames, rows, cols; the grid has {grid}")
    p, m = grid.temporal_patch, grid.merge
    split = field.reshape(f // p, p, r // m, m, c // m, m, k)
    return split.transpose(0, 2, 4, 1, 3, 5, 6).reshape(grid.num_tokens, p * m * m * k)


def from_tokens(rows: NDArray[Any], grid: VideoGrid) -> NDArray[Any]:
    """Undo `to_tokens`: [T, p * m * m * K] to [F, R, C, K].

    Raises:
        ValueError: if there are not as many numbers as the grid has places.
    """
    p, m = grid.temporal_patch, grid.merge
    shape = (grid.frames // p, grid.rows // m, grid.cols // m, p, m, m, -1)
    return rows.reshape(shape).transpose(0, 3, 1, 4, 2, 5, 6).reshape(grid.frames, grid.rows, grid.cols, -1)


def field_to_targets(field: MotionField, grid: VideoGrid, scale: float = 1.0) -> MotionTargets:
    """Turn a motion field in pixels into normalised token targets.

    Args:
        field: vectors float32 [F, R, C, 2] in pixels of the resized frame, with their validity.
        grid: the grid of the same video.
        scale: targets are divided by `grid.patch * scale`.
    """
    mask = to_tokens(np.repeat(field.valid[..., None], 2, axis=-1), grid)
    values = to_tokens(field.vectors, grid) / np.float32(grid.patch * scale)
    return MotionTargets(np.where(mask, values, np.float32(0)), mask)


def field_to_weights(field: MotionField, grid: VideoGrid) -> NDArray[np.float32]:
    """How much each number of the targets counts: its vector's confidence, float32 [T, D], 0 where not valid."""
    weights = np.where(field.valid, field.confidence, np.float32(0))
    return to_tokens(np.repeat(weights[..., None], 2, axis=-1), grid)


def tokens_to_vectors(values: NDArray[np.float32], grid: VideoGrid, scale: float = 1.0) -> NDArray[np.float32]:
    """Turn normalised token values [T, D] into vectors [F, R, C, 2] in pixels of the resized frame."""
    return from_tokens(np.asarray(values, np.float32) * np.float32(grid.patch * scale), grid)
