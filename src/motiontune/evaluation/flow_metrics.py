"""What the optical-flow field measures, of clips of patches: sums per clip, their ratios, and confidence intervals.

Every metric is a function of sums over valid patches, so that clips can be added, grouped and resampled. Lengths are
in pixels of the resized frame that the vision encoder sees. Definitions and sources are in docs/see.md.
"""

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from motiontune.evaluation.sums import MOVING_PIXELS, direction_sector, valid_pairs


SINTEL_LIMITS, SINTEL_WIDTH = (10.0, 40.0), 1024
"""Sintel's bins of speed, in pixels of its frames, which are this wide."""


@dataclass(frozen=True)
class FlowSums:
    """Sums over the valid patches of one clip. p is predicted, t the target, e = |p - t|; pixels, and degrees.

    Args:
        patches: number of valid patches.
        epe: sum of e.
        over_1: number of patches with e of 1 or more.
        over_3: with e of 3 or more.
        over_5: with e of 5 or more.
        fl: with e > 3 and e > 0.05 |t|.
        angle: sum of the angles between (p, 1) and (t, 1), degrees.
        zero: sum of |t|.
        moving: number of patches with |t| > `MOVING_PIXELS`.
        moving_epe: sum of e over these.
        moving_zero: sum of |t| over these.
        direction_hits: number of these whose prediction lies in the target's 45-degree sector.
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
    over_1: float
    over_3: float
    over_5: float
    fl: float
    angle: float
    zero: float
    moving: float
    moving_epe: float
    moving_zero: float
    direction_hits: float
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
    def from_fields(cls, predicted: ArrayLike, target: ArrayLike, valid: ArrayLike, width: int) -> "FlowSums":
        """Sum up one clip.

        Args:
            predicted: [..., 2], (dx, dy) in pixels.
            target: the same. What it holds where `valid` is false is not looked at.
            valid: bool [...].
            width: of the frame that these pixels are of; the limits of the speed bins grow with it.

        Raises:
            ValueError: if the shapes do not fit each other, or `valid` is not bool.
        """
        said, true = valid_pairs(predicted, target, valid)
        error, length = np.linalg.norm(said - true, axis=-1), np.linalg.norm(true, axis=-1)
        moving = length > MOVING_PIXELS
        hits = (direction_sector(said) == direction_sector(true)) & said.any(axis=-1) & moving
        # the angle by its tangent: an arc cosine loses small angles
        dot, cross = 1 + (said * true).sum(-1), said[:, 0] * true[:, 1] - said[:, 1] * true[:, 0]
        angle = np.degrees(np.arctan2(np.sqrt(((said - true) ** 2).sum(-1) + cross**2), dot))
        low, high = (limit * width / SINTEL_WIDTH for limit in SINTEL_LIMITS)
        bins = [length < low, (length >= low) & (length < high), length >= high]
        numbers = [len(true), error.sum(), *((error >= limit).sum() for limit in (1, 3, 5))]
        numbers += [((error > 3) & (error > 0.05 * length)).sum(), angle.sum(), length.sum()]
        numbers += [moving.sum(), error[moving].sum(), length[moving].sum(), hits.sum()]
        numbers += [number for chosen in bins for number in (chosen.sum(), error[chosen].sum())]
        numbers += [(error**2).sum(), (length**2).sum(), *true.sum(0)]
        return cls(*(float(number) for number in numbers))


NAMES = [field.name for field in fields(FlowSums)]

# name, numerator, denominator
_RATIOS = (
    ("epe", "epe", "patches"),
    ("epe_zero_motion", "zero", "patches"),
    ("epe_moving", "moving_epe", "moving"),
    ("epe_moving_zero_motion", "moving_zero", "moving"),
    ("outliers_1px", "over_1", "patches"),
    ("outliers_3px", "over_3", "patches"),
    ("outliers_5px", "over_5", "patches"),
    ("fl_all", "fl", "patches"),
    ("angular_error", "angle", "patches"),
    ("direction_accuracy", "direction_hits", "moving"),
    ("epe_s0_10", "slow_epe", "slow"),
    ("epe_s10_40", "middle_epe", "middle"),
    ("epe_s40", "fast_epe", "fast"),
)


def stack(clips: "list[FlowSums]") -> NDArray[np.float64]:
    """The sums of several clips, float64 [clips, sums]."""
    return np.array([astuple(clip) for clip in clips], np.float64).reshape(len(clips), len(NAMES))


def flow_metrics(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Turn sums [..., sums] into metrics [...]; not a number where there is no patch to measure."""
    column = {name: sums[..., index] for index, name in enumerate(NAMES)}
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = {name: column[over] / column[under] for name, over, under in _RATIOS}
        mean_square = (column["target_x"] ** 2 + column["target_y"] ** 2) / column["patches"]
        metrics["r2_zero_motion"] = 1 - column["squares"] / column["target_squares"]
        metrics["r2_mean_motion"] = 1 - column["squares"] / (column["target_squares"] - mean_square)
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in metrics.items()}


def bootstrap_weights(clips: int, rounds: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each clip is drawn when as many clips are drawn with replacement: float64 [rounds, clips]."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), rounds).astype(np.float64)


def interval(values: NDArray[np.float64], share: float = 0.95) -> tuple[float, float]:
    """The middle `share` of resampled values, which may not all be numbers."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
