"""What the optical-flow field measures, from sums per clip, and its confidence intervals; see docs/see.md."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from motiontune.evaluation.sums import NAMES, RATIOS, MotionSums


BLOCK = 4_000_000
"""Weights of `resampled` that are in memory at a time."""


def stack(clips: Sequence[MotionSums]) -> NDArray[np.float64]:
    """The sums of several clips, float64 [clips, sums]."""
    return np.array([clip.to_array() for clip in clips], np.float64).reshape(len(clips), len(NAMES))


def flow_metrics(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Turn sums [..., sums] into metrics [...]; not a number where there is no patch to measure."""
    column = {name: sums[..., index] for index, name in enumerate(NAMES)}
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = {name: column[over] / column[under] for name, over, under in RATIOS}
        mean_square = (column["target_x"] ** 2 + column["target_y"] ** 2) / column["patches"]
        metrics["r2_zero_motion"] = 1 - column["squares"] / column["target_squares"]
        metrics["r2_mean_motion"] = 1 - column["squares"] / (column["target_squares"] - mean_square)
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in metrics.items()}


def resampled(values: NDArray[np.float64], rounds: int, seed: int = 0) -> NDArray[np.float64]:
    """Draw as many clips as there are, with replacement, and sum their values up: float64 [rounds, ...].

    Weights, how often each clip is drawn, are made a few million at a time: those of a large data set would fill the
    memory.

    Args:
        values: float64 [clips, ...], of one clip or more.
        rounds: how often clips are drawn.
        seed: of the draws.
    """
    rng, clips = np.random.default_rng(seed), len(values)
    block, shares = max(1, BLOCK // clips), np.full(clips, 1 / clips)
    weights = (rng.multinomial(clips, shares, min(block, rounds - i)) for i in range(0, rounds, block))
    return np.concatenate([some.astype(np.float64) @ values for some in weights])


def interval(values: NDArray[np.float64], share: float = 0.95) -> tuple[float, float]:
    """The middle `share` of resampled values, which may not all be numbers."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
