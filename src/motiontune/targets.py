"""Motion fields turned into token targets, and back.

Shapes: F frames, R patch rows, C patch columns, m merge size, p temporal patch size,
T = F / p * R / m * C / m video tokens, D = 2 * m * m * p numbers per token; of a pooled form one row per temporal
step, T = F / p, and D = 2.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ConfigError
from motiontune.grid import VideoGrid
from motiontune.motion.field import MOVING_PIXELS, MotionField


HeadFeatures = Literal["token", "delta"]
HeadShape = Literal["dense", "pooled"]
HeadOutput = Literal["displacement", "direction"]


@dataclass(frozen=True, kw_only=True)
class HeadForm:
    """The form of a motion head: how it reads the hidden states at its tap, and what it predicts from them.

    Args:
        features: "token": the hidden state of a video token. "delta": its difference to the hidden state at the same
            place one temporal step before; the first step of a clip has none, and no target.
        form: "dense": each token predicts the vector of each of its patches. "pooled": the mean over the tokens of a
            temporal step predicts one vector, the mean over the patches that move.
        output: "displacement": vectors in units of `patch * scale` pixels. "direction": unit vectors; what moves by
            `MOVING_PIXELS` or less has none, and no target.

    Raises:
        ConfigError: on another value, naming the key.
    """

    features: HeadFeatures = "token"
    form: HeadShape = "dense"
    output: HeadOutput = "displacement"

    def __post_init__(self) -> None:
        hints = get_type_hints(HeadForm)
        for name in ("features", "form", "output"):
            value, choices = getattr(self, name), get_args(hints[name])
            if value not in choices:
                raise ConfigError(f"motion_head_{name}: {value!r} is none of {', '.join(choices)}")

    @property
    def reads_steps(self) -> bool:
        """Whether a row of features comes of more than one token, so that the videos' grids are needed."""
        return self.features == "delta" or self.form == "pooled"

    @property
    def has_field(self) -> bool:
        """Whether the prediction is dense motion in pixels, a `MotionField`."""
        return self.form == "dense" and self.output == "displacement"

    @property
    def no_motion(self) -> str:
        """Why a model with this head gives text alone, or ""."""
        return "" if self.has_field else f"a motion head that predicts {self}, no dense motion"

    def __str__(self) -> str:
        per = "patch" if self.form == "dense" else "temporal step"
        return f"one {self.output} per {per}" + (" from differences in time" if self.features == "delta" else "")

    def rows(self, grid: VideoGrid) -> int:
        """Count the rows of targets of one video."""
        return grid.frames // grid.temporal_patch if self.form == "pooled" else grid.num_tokens

    def width(self, grid: VideoGrid) -> int:
        """D, the numbers in each of them."""
        return 2 if self.form == "pooled" else grid.token_width


PLAIN = HeadForm()


@dataclass(frozen=True)
class MotionTargets:
    """What a motion head must predict at one video.

    Args:
        values: float32 [T, D], displacement in units of `patch * scale` pixels, or unit vectors; zero where `mask` is
            false.
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


def field_to_targets(field: MotionField, grid: VideoGrid, scale: float = 1.0, form: HeadForm = PLAIN) -> MotionTargets:
    """Turn a motion field in pixels into normalised targets.

    Args:
        field: vectors float32 [F, R, C, 2] in pixels of the resized frame, with their validity.
        grid: the grid of the same video.
        scale: displacements are divided by `grid.patch * scale`.
        form: of the head that predicts them.
    """
    vectors, valid = field.vectors, field.valid
    if form.form == "pooled":
        vectors, valid, _ = _pooled(field, grid)
    unit = np.float32(grid.patch * scale)
    if form.output == "direction":
        length = np.linalg.norm(vectors, axis=-1).astype(np.float32)
        valid = valid & (length > MOVING_PIXELS)
        vectors = (vectors / np.where(valid, length, np.float32(1))[..., None]).astype(np.float32)
        unit = np.float32(1)
    mask, values = _to_rows(np.repeat(valid[..., None], 2, axis=-1), grid), _to_rows(vectors, grid) / unit
    if form.features == "delta":
        mask[: len(mask) * grid.temporal_patch // grid.frames] = False
    return MotionTargets(np.where(mask, values, np.float32(0)), mask)


def field_to_weights(field: MotionField, grid: VideoGrid, form: HeadForm = PLAIN) -> NDArray[np.float32]:
    """How much each number of the targets counts: its vector's confidence, float32 [T, D], 0 where not valid.

    A pooled vector has the mean confidence of the vectors that it is the mean of.
    """
    weights = np.where(field.valid, field.confidence, np.float32(0))
    if form.form == "pooled":
        _, _, weights = _pooled(field, grid)
    return _to_rows(np.repeat(weights[..., None], 2, axis=-1), grid)


def _pooled(field: MotionField, grid: VideoGrid) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """One vector per temporal step: the mean over what moves, and zero where something is valid and nothing moves.

    Returns:
        Vectors float32 [F / p, 2], whether they are valid, and the mean confidence of what they come from.
    """
    shape = (grid.frames // grid.temporal_patch, -1)
    vectors, valid = field.vectors.reshape(*shape, 2), field.valid.reshape(shape)
    moving = valid & (np.linalg.norm(vectors, axis=-1) > MOVING_PIXELS)
    chosen = np.where(moving.any(1, keepdims=True), moving, valid)
    count = np.maximum(chosen.sum(1), 1).astype(np.float32)
    mean = (vectors * moving[..., None]).sum(1) / count[:, None]
    return mean, np.asarray(valid.any(1)), (field.confidence.reshape(shape) * chosen).sum(1) / count


def _to_rows(array: NDArray[Any], grid: VideoGrid) -> NDArray[Any]:
    """Per-patch arrays [F, R, C, K] in token order; pooled ones have their rows [F / p, K] already."""
    return array if array.ndim == 2 else to_tokens(array, grid)


def tokens_to_vectors(values: NDArray[np.float32], grid: VideoGrid, scale: float = 1.0) -> NDArray[np.float32]:
    """Turn normalised token values [T, D] into vectors [F, R, C, 2] in pixels of the resized frame."""
    return from_tokens(np.asarray(values, np.float32) * np.float32(grid.patch * scale), grid)
