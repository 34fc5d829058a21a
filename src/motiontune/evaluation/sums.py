"""How far predicted motion is from its target, as sums that add up across samples and processes.

Every metric is a ratio of two sums over valid patches, so that clips of different sizes, batches and processes give
the same numbers however they are split. Lengths are in pixels of the resized frame that the vision encoder sees.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


MOVING_PIXELS = 1.0
"""A patch moves if its target is longer than this. Still background would otherwise drown what moves."""

SECTORS = 8
"""Directions that `direction_accuracy` tells apart: right, down right, down, ... each 45 degrees wide."""


@dataclass(frozen=True)
class MotionSums:
    """Sums over the valid patches of any number of samples.

    Args:
        patches: number of valid patches.
        epe: sum of the end-point errors |predicted - target|, pixels.
        zero_epe: sum of |target|, which is what predicting no motion at all would have cost, pixels.
        moving: number of valid patches whose target is longer than `MOVING_PIXELS`.
        moving_epe: `epe` over moving patches, pixels.
        moving_zero_epe: `zero_epe` over moving patches, pixels.
        direction_hits: number of moving patches whose prediction lies in the target's 45-degree sector. The sectors
            are centred on the axes and the diagonals. The zero vector has no direction and is a miss.
    """

    patches: float
    epe: float
    zero_epe: float
    moving: float
    moving_epe: float
    moving_zero_epe: float
    direction_hits: float

    @classmethod
    def zero(cls) -> "MotionSums":
        """The sums over no sample; `sum(all_sums, MotionSums.zero())` adds up a list."""
        return cls.from_array(np.zeros(len(fields(cls))))

    @classmethod
    def from_fields(cls, predicted: ArrayLike, target: ArrayLike, valid: ArrayLike) -> "MotionSums":
        """Sum up one sample, or any number of patches.

        Args:
            predicted: [..., 2] (for a clip [F, R, C, 2]), (dx, dy) in pixels of the resized frame.
            target: the same shape and unit. What it holds where `valid` is false is not looked at.
            valid: bool [...], the patches that count.

        Raises:
            ValueError: if the shapes do not fit each other, or `valid` is not bool.
        """
        said, true = valid_pairs(predicted, target, valid)
        errors = np.linalg.norm(said - true, axis=-1)
        lengths = np.linalg.norm(true, axis=-1)
        moving = lengths > MOVING_PIXELS
        hits = (direction_sector(said) == direction_sector(true)) & said.any(axis=-1) & moving
        return cls(
            patches=float(len(true)),
            epe=float(errors.sum()),
            zero_epe=float(lengths.sum()),
            moving=float(moving.sum()),
            moving_epe=float(errors[moving].sum()),
            moving_zero_epe=float(lengths[moving].sum()),
            direction_hits=float(hits.sum()),
        )

    @classmethod
    def from_array(cls, values: ArrayLike) -> "MotionSums":
        """Undo `to_array`. An array [n, 7], as a gather returns it, is added up over its rows.

        Raises:
            ValueError: if the last axis is not as long as there are sums.
        """
        array = np.asarray(values, np.float64)
        if array.ndim not in (1, 2) or array.shape[-1] != len(fields(cls)):
            raise ValueError(f"sums must be [{len(fields(cls))}] or [n, {len(fields(cls))}], not {array.shape}")
        return cls(*(float(value) for value in np.atleast_2d(array).sum(axis=0)))

    def to_array(self) -> NDArray[np.float64]:
        """The sums as float64 [7], in the order of the fields, to gather them across processes."""
        return np.array(astuple(self), np.float64)

    def __add__(self, other: "MotionSums") -> "MotionSums":
        return MotionSums.from_array(self.to_array() + other.to_array())

    def metrics(self) -> dict[str, float]:
        """Finish the sums into metrics; a metric over no patch is left out.

        Returns:
            `epe`, `epe_zero_motion`: mean end-point error of the prediction and of predicting no motion, pixels.
            `epe_moving`, `epe_moving_zero_motion`: the same over moving patches.
            `direction_accuracy`: share of moving patches with the right one of 8 directions, 0 to 1; chance is 1/8.
            `valid_patches`: how many patches were compared; always there.
        """
        finished = {"valid_patches": self.patches}
        if self.patches:
            finished |= {"epe": self.epe / self.patches, "epe_zero_motion": self.zero_epe / self.patches}
        if self.moving:
            finished |= {
                "epe_moving": self.moving_epe / self.moving,
                "epe_moving_zero_motion": self.moving_zero_epe / self.moving,
                "direction_accuracy": self.direction_hits / self.moving,
            }
        return finished


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
    true = np.asarray(target)
    sums = MotionSums.from_fields(np.broadcast_to(np.asarray(vector, np.float64), true.shape), true, valid)
    return sums.epe, sums.patches


def valid_pairs(
    predicted: ArrayLike, target: ArrayLike, valid: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check the shapes and return predicted and target at the valid patches, float64 [n, 2] each."""
    said, true, mask = np.asarray(predicted), np.asarray(target), np.asarray(valid)
    if true.ndim < 1 or true.shape[-1] != 2 or said.shape != true.shape:
        raise ValueError(f"predicted and target must be the same [..., 2], not {said.shape} and {true.shape}")
    if mask.shape != true.shape[:-1] or mask.dtype != np.bool_:
        raise ValueError(f"valid must be bool {true.shape[:-1]}, not {mask.dtype} {mask.shape}")
    return said[mask].astype(np.float64), true[mask].astype(np.float64)
