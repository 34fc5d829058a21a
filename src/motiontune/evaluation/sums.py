"""How far predicted motion is from another, as sums that add up across clips, batches and processes.

Every metric is a function of sums over valid patches, so that clips of different sizes give the same numbers however
they are split, and can be grouped and resampled. Lengths are in pixels of the resized frame that the vision encoder
sees. Definitions and sources are in docs/see.md.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from motiontune.motion.field import MOVING_PIXELS


SECTORS = 8
"""Directions that `direction_accuracy` tells apart: right, down right, down, ... each 45 degrees wide."""

SINTEL_LIMITS, SINTEL_WIDTH = (10.0, 40.0), 1024
"""Sintel's bins of speed, in pixels of its frames, which are this wide."""


@dataclass(frozen=True)
class MotionSums:
    """Sums over the valid patches of any number of clips. p is predicted, t the target, e = |p - t|; pixels, degrees.

    Args:
        patches: number of valid patches.
        epe: sum of e, the end-point error.
        zero_epe: sum of |t|, which is what predicting no motion at all would have cost.
        moving: number of valid patches with |t| > `MOVING_PIXELS`.
        moving_epe: sum of e over moving patches.
        moving_zero_epe: sum of |t| over moving patches.
        direction_hits: number of moving patches whose prediction lies in the target's 45-degree sector. The sectors
            are centred on the axes and the diagonals. The zero vector has no direction and is a miss.
        over_1: number of patches with e of 1 or more.
        over_3: with e of 3 or more.
        over_5: with e of 5 or more.
        fl: with e > 3 and e > 0.05 |t|.
        angle: sum of the angles between (p, 1) and (t, 1), degrees.
        slow: number of patches with |t| below 10 px of a frame 1024 wide.
        slow_epe: sum of e over these.
        middle: from 10 px to below 40.
        middle_epe: sum of e over these.
        fast: from 40 px.
        fast_epe: sum of e over these.
        squares: sum of e squared.
        target_squares: sum of |t| squared.
        target_x: sum of t's dx.
        target_y: sum of t's dy.
    """

    patches: float
    epe: float
    zero_epe: float
    moving: float
    moving_epe: float
    moving_zero_epe: float
    direction_hits: float
    over_1: float
    over_3: float
    over_5: float
    fl: float
    angle: float
    slow: float
    slow_epe: float
    middle: float
    middle_epe: float
    fast: float
    fast_epe: float
    squares: float
    target_squares: float
    target_x: float
    target_y: float

    @classmethod
    def zero(cls) -> "MotionSums":
        """The sums over no clip; `sum(all_sums, MotionSums.zero())` adds up a list."""
        return cls.from_array(np.zeros(len(NAMES)))

    @classmethod
    def from_fields(
        cls, predicted: ArrayLike, target: ArrayLike, valid: ArrayLike, width: float = SINTEL_WIDTH
    ) -> "MotionSums":
        """Sum up one clip, or any number of patches.

        Args:
            predicted: [..., 2] (for a clip [F, R, C, 2]), (dx, dy) in pixels of the resized frame.
            target: the same shape and unit. What it holds where `valid` is false is not looked at.
            valid: bool [...], the patches that count.
            width: of the frame that these pixels are of; the limits of the speed bins grow with it.

        Raises:
            ValueError: if the shapes do not fit each other, or `valid` is not bool.
        """
        p, t = valid_pairs(predicted, target, valid)
        error, length = np.linalg.norm(p - t, axis=-1), np.linalg.norm(t, axis=-1)
        moving = length > MOVING_PIXELS
        hits = (direction_sector(p) == direction_sector(t)) & p.any(axis=-1) & moving
        # the angle by its tangent: an arc cosine loses small angles
        dot, cross = 1 + (p * t).sum(-1), p[:, 0] * t[:, 1] - p[:, 1] * t[:, 0]
        angle = np.degrees(np.arctan2(np.sqrt(((p - t) ** 2).sum(-1) + cross**2), dot))
        low, high = (limit * width / SINTEL_WIDTH for limit in SINTEL_LIMITS)
        total = t.sum(axis=0)
        slow, middle, fast = length < low, (length >= low) & (length < high), length >= high
        return cls(
            patches=len(t),
            epe=error.sum(),
            zero_epe=length.sum(),
            moving=moving.sum(),
            moving_epe=error[moving].sum(),
            moving_zero_epe=length[moving].sum(),
            direction_hits=hits.sum(),
            over_1=(error >= 1).sum(),
            over_3=(error >= 3).sum(),
            over_5=(error >= 5).sum(),
            fl=((error > 3) & (error > 0.05 * length)).sum(),
            angle=angle.sum(),
            slow=slow.sum(),
            slow_epe=error[slow].sum(),
            middle=middle.sum(),
            middle_epe=error[middle].sum(),
            fast=fast.sum(),
            fast_epe=error[fast].sum(),
            squares=(error**2).sum(),
            target_squares=(length**2).sum(),
            target_x=total[0],
            target_y=total[1],
        )

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, float(getattr(self, name)))

    @classmethod
    def from_array(cls, values: ArrayLike) -> "MotionSums":
        """Undo `to_array`.

        Raises:
            ValueError: if there are not as many numbers as sums.
        """
        array = np.asarray(values, np.float64)
        if array.shape != (len(NAMES),):
            raise ValueError(f"sums must be [{len(NAMES)}], not {array.shape}")
        return cls(*array)

    def to_array(self) -> NDArray[np.float64]:
        """The sums as float64 [sums], in the order of NAMES."""
        return np.array(astuple(self), np.float64)

    def __add__(self, other: "MotionSums") -> "MotionSums":
        return MotionSums.from_array(self.to_array() + other.to_array())

    def metrics(self) -> dict[str, float]:
        """Finish the sums into the metrics that training logs; a metric over no patch is left out.

        Returns:
            `epe`, `epe_zero_motion`: mean end-point error of the prediction and of predicting no motion, pixels.
            `epe_moving`, `epe_moving_zero_motion`: the same over moving patches.
            `direction_accuracy`: share of moving patches with the right one of 8 directions, 0 to 1; chance is 1/8.
            `valid_patches`: how many patches were compared; always there.
        """
        counted = ((name, getattr(self, over), getattr(self, under)) for name, over, under in RATIOS[:TRAINING])
        return {"valid_patches": self.patches} | {name: over / under for name, over, under in counted if under}


NAMES = tuple(field.name for field in fields(MotionSums))

RATIOS = (
    ("epe", "epe", "patches"),
    ("epe_zero_motion", "zero_epe", "patches"),
    ("epe_moving", "moving_epe", "moving"),
    ("epe_moving_zero_motion", "moving_zero_epe", "moving"),
    ("direction_accuracy", "direction_hits", "moving"),
    ("outliers_1px", "over_1", "patches"),
    ("outliers_3px", "over_3", "patches"),
    ("outliers_5px", "over_5", "patches"),
    ("fl_all", "fl", "patches"),
    ("angular_error", "angle", "patches"),
    ("epe_s0_10", "slow_epe", "slow"),
    ("epe_s10_40", "middle_epe", "middle"),
    ("epe_s40", "fast_epe", "fast"),
)
"""Metrics that are one sum divided by another: name, numerator, denominator."""

TRAINING = 5
"""The first of `RATIOS`, which training logs."""

METRICS = tuple(name for name, _, _ in RATIOS[:TRAINING])
"""Their names."""


def direction_sector(vectors: ArrayLike) -> NDArray[np.float64]:
    """The direction of each vector [..., 2] as 0 to 7: right, down right, down, ..., up right (y points down).

    Returned as float64 [...] so that a prediction that is not a number stays one, and equals no sector.
    """
    dx, dy = np.moveaxis(np.asarray(vectors, np.float64), -1, 0)
    sectors: NDArray[np.float64] = np.round(np.arctan2(dy, dx) / (2 * np.pi / SECTORS)) % SECTORS
    return sectors


def constant_epe(target: ArrayLike, valid: ArrayLike, vector: Sequence[float] | NDArray[Any]) -> tuple[float, float]:
    """What it would cost to predict the same vector at every patch.

    With the mean vector of the training set this is the baseline that knows the data's drift and nothing of the clip:
    add up both numbers over all samples and divide to get `epe_mean_motion`.

    Args:
        target: [..., 2], pixels of the resized frame.
        valid: bool [...].
        vector: (dx, dy) in pixels.

    Returns:
        The sum of the end-point errors over the valid patches in pixels, and the number of these patches.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    shape = np.shape(target)
    sums = MotionSums.from_fields(np.broadcast_to(np.asarray(vector, np.float64), shape), target, valid)
    return sums.epe, sums.patches


def valid_pairs(
    predicted: ArrayLike, target: ArrayLike, valid: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check the shapes and return predicted and target at the valid patches, float64 [n, 2] each."""
    p, t, mask = np.asarray(predicted), np.asarray(target), np.asarray(valid)
    if t.ndim < 1 or t.shape[-1] != 2 or p.shape != t.shape:
        raise ValueError(f"predicted and target must be the same [..., 2], not {p.shape} and {t.shape}")
    if mask.shape != t.shape[:-1] or mask.dtype != np.bool_:
        raise ValueError(f"valid must be bool {t.shape[:-1]}, not {mask.dtype} {mask.shape}")
    return p[mask].astype(np.float64), t[mask].astype(np.float64)
