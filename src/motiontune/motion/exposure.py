"""Frames made alike in brightness, so that what searches them for motion finds things that a camera exposes otherwise.

Shapes: H, W height and width of a frame in pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


Bytes = NDArray[np.uint8]

SHARES = np.linspace(0.05, 0.95, 19)
# A gain is one of the exposure where it explains all but this much of how the distributions of brightness differ: what
# comes into the picture and goes out of it changes them, too, but otherwise
UNEXPLAINED = 0.25
# Smaller ones do not matter (logarithm), larger ones than this from frame to frame, or in all, leave too little
LEAST, MOST, MOST_IN_ALL = 0.015, 1.1, 1.4
# Two pictures are of one scene where, a gain apart, their levels differ by less than this share of their deviation;
# where levels deviate by less than so many gray levels, a picture shows next to nothing
ALIKE, BLANK = 0.15, 2.0


def of_one_scene(one: Bytes, other: Bytes) -> bool:
    """Whether two frames, uint8 [H, W], may show the same things, by how their brightness is distributed."""
    before, after = _levels(one), _levels(other)
    apart = np.abs(before - after * (before @ after) / max(float(after @ after), 1e-6)).mean()
    return bool(before.std() > BLANK and apart < ALIKE * before.std())


def levelled(frames: Sequence[Bytes]) -> list[Bytes]:
    """Take gains of the exposure from frame to frame off.

    Args:
        frames: uint8 [H, W] each.

    Returns:
        As many; the same ones where the exposure does not change.
    """
    levels = [_levels(frame) for frame in frames]
    gains = np.zeros(len(frames))  # logarithms
    for number in range(1, len(frames)):
        gains[number] = gains[number - 1] + _gain(levels[number - 1], levels[number])
    if not gains.any():
        return list(frames)
    factors = np.exp(np.clip(gains - np.median(gains), -MOST_IN_ALL, MOST_IN_ALL))
    steps = np.arange(256)
    tables = (np.clip(np.rint(steps * factor), 0, 255).astype(np.uint8) for factor in factors)
    return [np.asarray(cv2.LUT(frame, table), np.uint8) for frame, table in zip(frames, tables, strict=True)]


def _levels(frame: Bytes) -> NDArray[np.float64]:
    """The brightness below which so many pixels are, of `SHARES`; parts of a level by interpolation."""
    counts = np.asarray(cv2.calcHist([frame], [0], None, [256], [0, 256]), np.float64).ravel()
    below = np.concatenate([[0.0], np.cumsum(counts)]) / float(frame.size)
    # strictly rising, for interpolation
    return np.asarray(np.interp(SHARES, below + 1e-9 * np.arange(257), np.arange(257) - 0.5), np.float64)


def _gain(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """The logarithm of what `after` is to be multiplied by; 0 where exposure does not explain the difference."""
    gain = float(before @ after) / max(float(after @ after), 1e-6)
    apart, unexplained = (float(np.linalg.norm(before - factor * after)) for factor in (1.0, gain))
    if gain <= 0 or unexplained > UNEXPLAINED * apart:
        return 0.0
    logarithm = float(np.log(gain))
    return logarithm if LEAST < abs(logarithm) < MOST else 0.0
