"""The confidence of a vector, of whatever source: the probability that it is within `NEAR` pixels of the truth.

A patch is compared with what lies in the other frame where its vector leads. How bright and how contrasty the two
frames are is taken off first (a gain and an offset for the pair), and differences count beside the noise of the pair:
neither dim light nor drifting exposure make vectors true or false. What fits as well a few pixels beside, or at
another place of a pattern that repeats, proves nothing. A logistic regression weighs this evidence. Its weights come
from `benchmarks/motion/calibrate.py`, which compares rendered scenes with their true motion.

Shapes: R, C patch rows and columns, S places beside a patch, K kinds of evidence.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.motion.compare import BESIDE, differences, repeats_of, sums_of


Bytes = NDArray[np.uint8]
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]

NEAR = 3.0
"""Pixels of the resized frame."""

# The share of a pair's patches that fit so well that only noise is left
NOISY = 0.2
# The least noise, a variance in gray levels: frames are rounded to whole ones
LEAST_NOISE = 0.1
# Gains between two frames that exposure explains
GAINS = (0.4, 2.5)
# Other pictures repeat themselves by chance up to this, see `Pair.repeats`
REPEATS = 1.5
# A source's own confidence counts from here on
LEAST_OWN = 0.05

# Of each kind of evidence, see `Pair.evidence`, and at the end the constant: from benchmarks/motion/calibrate.py
WEIGHTS = (
    *(0.762, 0.5429, 0.1381, -2.8137, -1.3528, -0.6934, 0.1502),
    *(0.7919, 1.0289, -0.0719, -0.4774, 0.3735, -0.1459, 1.1152),
)


@dataclass(frozen=True)
class Pair:
    """Two frames whose patches are compared.

    Args:
        here: uint8 [H, W] of brightness, the frame that the patches belong to.
        there: uint8 [H, W], the other one.
        patch: side of a patch in pixels.
    """

    here: Bytes
    there: Bytes
    patch: int

    @cached_property
    def repeats(self) -> Doubles:
        """How much better a patch fits another place of its own picture than the place beside it, float64 [R, C]."""
        rows, cols = (side // self.patch for side in self.here.shape)
        side = max(self.patch // 2, 2)
        small = cv2.resize(self.here, (cols * side, rows * side), interpolation=cv2.INTER_AREA)
        beside, elsewhere = repeats_of(np.asarray(small, np.uint8), side).astype(np.float64)
        return np.asarray(np.log((beside + 1) / (elsewhere + 1)), np.float64)

    def compare(self, flow: Singles, own: Singles) -> tuple[Singles, Singles]:
        """Compare the patches with where vectors lead.

        Args:
            flow: float32 [R, C, 2], from here to there in pixels.
            own: float32 [R, C], the source's own confidence, from 0 to 1.

        Returns:
            float32 [R, C], the probability that each is true; and float32 [R, C], the mean squared difference of
            brightness that is left.
        """
        evidence, left = self.evidence(flow, own)
        weights = np.asarray(WEIGHTS)
        return sigmoid(evidence @ weights[:-1] + weights[-1]), left

    def evidence(self, flow: Singles, own: Singles) -> tuple[Doubles, Singles]:
        """What speaks for each vector and against it, float64 [R, C, K], and the difference that is left, see
        `compare`."""
        sums, number = sums_of(self.here, self.there, flow, self.patch), float(self.patch**2)
        mean, found_mean = sums[..., 0] / number, sums[..., 2] / number
        variance = np.maximum(sums[..., 1] / number - mean * mean, 0)
        found = np.maximum(sums[..., 2 + len(BESIDE)] / number - found_mean * found_mean, 0)
        gain, offset = _light(mean, found_mean, variance, found)
        left, beside, wide_left, wide_beside, texture, apart = differences(sums, flow, number, gain)
        noise = max(float(np.quantile(left, NOISY)), LEAST_NOISE)
        distinct = np.log((beside + noise) / (left + noise))
        level = np.abs(mean - gain * found_mean - offset)
        everywhere = np.ones_like(left)
        kinds = (
            distinct,  # does the patch fit better than a few pixels beside
            np.log((wide_beside + noise) / (wide_left + noise)),  # and with the patches around it
            np.log1p(left / noise),  # what is left beside the noise
            left / (variance + gain * gain * found + 2 * noise),  # and beside the texture
            np.log1p(apart),  # from the patches around it
            np.log1p(level / np.sqrt(noise)),  # brightness that gain and offset do not explain
            np.log(np.maximum(own, LEAST_OWN)),
            _around(np.minimum(distinct, 3)) / _around(everywhere),  # how distinct the patches around it are
            np.minimum(distinct, 2).mean() * everywhere,  # and all of the pair: low across a cut
            np.log1p(np.median(variance) / noise) * everywhere,
            np.log(noise) * everywhere,
            np.log(texture + 0.5),  # an encoder freezes what has no contrast
            np.maximum(self.repeats - REPEATS, 0),
        )
        return np.stack(kinds, axis=-1), left.astype(np.float32)


def exclusive(winner: Singles, loser: Singles) -> Singles:
    """The probability of a vector where another one, that cannot be true with it, has one of its own."""
    only, other = winner * (1 - loser), loser * (1 - winner)
    none = (1 - winner) * (1 - loser)
    return np.asarray(only / np.maximum(only + other + none, np.float32(1e-12)), np.float32)


def across_no_cut(confidence: Singles, known: NDArray[np.bool_]) -> Singles:
    """The same where most of a pair's vectors are more probable than not; else the scene has changed, what passes does
    so by accident, and nothing of the pair is valid."""
    return confidence if 2 * (confidence[known] > 0.5).sum() >= known.sum() else np.zeros_like(confidence)


def sigmoid(logit: Doubles) -> Singles:
    """Of log odds, as float32."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)


def _light(mean: Doubles, found_mean: Doubles, variance: Doubles, found: Doubles) -> tuple[float, float]:
    """Gain and offset from the other frame to this one: medians over the patches with the most texture."""
    texture = np.minimum(variance, found)
    chosen = texture >= np.median(texture)
    gain = float(np.clip(np.median(np.sqrt((variance[chosen] + 1) / (found[chosen] + 1))), *GAINS))
    return gain, float(np.median((mean - gain * found_mean)[chosen]))


def _around(values: Doubles) -> Doubles:
    """Sums over 3 x 3 patches of [R, C]."""
    return np.asarray(cv2.boxFilter(values, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT), np.float64)
