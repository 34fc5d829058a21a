"""The confidence of a vector, of whatever source: the probability that it is within `NEAR` pixels of the truth.

A patch is compared with what lies in the other frame where its vector leads. How bright and how contrasty the two
frames are is taken off first (a gain and an offset for the pair), and differences count beside the noise of the pair, so
that neither dim light nor drifting exposure make vectors true or false. What fits as well a few pixels beside, or at
another place of a pattern that repeats, proves nothing. A logistic regression weighs this evidence. Its weights come
from `benchmarks/motion/calibrate.py`, which compares rendered scenes with their true motion.

Shapes: R, C patch rows and columns, S places beside a patch, K kinds of evidence.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.motion.compare import BESIDE, repeats_of, sums_of


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
# A source's own confidence counts from here on
LEAST_OWN = 0.05

# Of each kind of evidence, see `Pair.evidence`, and at the end the constant: from benchmarks/motion/calibrate.py
WEIGHTS = (0.8921, 0.2543, 0.1499, -2.4883, -1.6195, -0.648, 0.2198, 1.4068, 0.9747, -0.1725, 0.1252, 0.125, 0.1806, 3.4388)


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
        rows, cols = own.shape
        sums, number = sums_of(self.here, self.there, flow, self.patch), float(self.patch**2)
        variance, found, product = _moments(sums, np.full((rows, cols), number))
        gain, offset = _light(sums / number, variance, found[..., 0])
        left = _left(variance, found, product, gain)
        noise = max(float(np.quantile(left[..., 0], NOISY)), LEAST_NOISE)
        around = _around(np.dstack([sums, np.full((rows, cols), number)]))
        wide, wide_found, wide_product = _moments(around[..., :-1], around[..., -1])
        wide_left = _left(wide, wide_found, wide_product, gain)
        distinct, widely = (np.log((e[..., 1:].min(-1) + noise) / (e[..., 0] + noise)) for e in (left, wide_left))
        first = left[..., 0]
        neighbours = np.dstack([np.minimum(distinct, 3), np.ones((rows, cols))])
        near = _around(neighbours)
        level = np.abs((sums[..., 0] - gain * sums[..., 2]) / number - offset)
        kinds = (
            distinct,  # does the patch fit better than a few pixels beside
            widely,  # and with the patches around it
            np.log1p(first / noise),  # what is left beside the noise
            first / (variance + gain * gain * found[..., 0] + 2 * noise),  # and beside the texture
            np.log1p(_apart(flow)),  # from the nearest half of the patches around it
            np.log1p(level / np.sqrt(noise)),  # brightness that gain and offset do not explain
            np.log(np.maximum(own, LEAST_OWN)),
            near[..., 0] / near[..., 1],  # how distinct the patches around it are
            np.full_like(distinct, np.minimum(distinct, 2).mean()),  # and all of the pair: low across a cut
            np.full_like(distinct, np.log1p(np.median(variance) / noise)),
            np.full_like(distinct, np.log(noise)),
            np.log(np.minimum(wide, wide_found[..., 0]) + 0.5),  # an encoder freezes what has no contrast
            self.repeats,
        )
        return np.stack(kinds, axis=-1), first.astype(np.float32)


def sigmoid(logit: Doubles) -> Singles:
    """Of log odds, as float32."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)


def _moments(sums: Doubles, number: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """From sums over so many pixels: the variance of h [R, C], those of f [R, C, S], and their covariances with h."""
    places, n = len(BESIDE), number[..., None]
    h, hh = sums[..., :1] / n, sums[..., 1:2] / n
    f, ff, hf = (sums[..., 2 + k * places : 2 + (k + 1) * places] / n for k in range(3))
    return np.maximum(hh - h * h, 0)[..., 0], np.maximum(ff - f * f, 0), hf - h * f


def _light(means: Doubles, variance: Doubles, found: Doubles) -> tuple[float, float]:
    """Gain and offset from the other frame to this one: medians over the patches with the most texture."""
    texture = np.minimum(variance, found)
    chosen = texture >= np.median(texture)
    gain = float(np.clip(np.median(np.sqrt((variance[chosen] + 1) / (found[chosen] + 1))), *GAINS))
    return gain, float(np.median((means[..., 0] - gain * means[..., 2])[chosen]))


def _left(variance: Doubles, found: Doubles, product: Doubles, gain: float) -> Doubles:
    """The variance of h - gain * f, [R, C, S]."""
    return np.maximum(variance[..., None] - 2 * gain * product + gain * gain * found, 0)


def _around(values: Doubles) -> Doubles:
    """Sums over 3 x 3 patches of [R, C, n]."""
    sums = cv2.boxFilter(values, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(sums, np.float64).reshape(values.shape)


def _apart(flow: Singles) -> Singles:
    """How far each vector is from those of the four patches around it, of eight, that are nearest to it: [R, C]."""
    rows, cols = flow.shape[:2]
    padded = np.pad(flow, ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = [(a, b) for a in range(3) for b in range(3) if (a, b) != (1, 1)]
    around = np.stack([padded[a : a + rows, b : b + cols] - flow for a, b in shifts])
    lengths = np.sqrt(np.square(around).sum(-1))
    return np.asarray(np.partition(lengths, 3, axis=0)[3], np.float32)
