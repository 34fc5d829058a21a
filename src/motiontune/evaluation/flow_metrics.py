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


def bootstrap_weights(clips: int, rounds: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each clip is drawn when as many clips are drawn with replacement: float64 [rounds, clips]."""
    return _draw(np.random.default_rng(seed), clips, rounds)


def resampled(values: NDArray[np.float64], rounds: int, seed: int = 0) -> NDArray[np.float64]:
    """Sum the clips' values [clips, ...] up over the clips of `bootstrap_weights`: float64 [rounds, ...].

    The weights are drawn a few million at a time: those of a large data set would fill the memory.
    """
    rng, block = np.random.default_rng(seed), max(1, BLOCK // len(values))
    blocks = [_draw(rng, len(values), min(block, rounds - i)) @ values for i in range(0, rounds, block)]
    return np.concatenate(blocks)


def _draw(rng: np.random.Generator, clips: int, rounds: int) -> NDArray[np.float64]:
    return rng.multinomial(clips, np.full(clips, 1 / clips), rounds).astype(np.float64)


def interval(values: NDArray[np.float64], share: float = 0.95) -> tuple[float, float]:
    """The middle `share` of resampled values, which may not all be numbers."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
