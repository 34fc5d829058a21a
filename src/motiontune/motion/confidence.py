"""The confidence of a vector, of whatever source: the probability that it is within `NEAR` pixels of the truth.

A patch is compared with what lies in the other frame where its vector leads. How bright and how contrasty the two
frames are is taken off first (a gain and an offset for the pair), and differences count beside the noise of the pair:
neither dim light nor drifting exposure make vectors true or false. What fits as well a few pixels beside, or at
another place of a pattern that repeats, proves nothing. A logistic regression weighs this evidence, through a few
hidden units: what a difference means depends on what a patch shows. But the probability only rises with how much
better a patch fits than a few pixels beside, and only falls with what is left beside its texture and with brightness
that nothing explains. The weights come from `benchmarks/motion/calibrate.py`, which compares rendered scenes with
their true motion.

Shapes: R, C patch rows and columns, S places beside a patch, K kinds of evidence, U hidden units.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.motion.compare import BESIDE, SMALL, differences, pixels_of, repeats_of, sums_of
from motiontune.motion.consensus import claimed


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
# Other pictures repeat themselves by chance up to this, and from the sum of both on it is certain, see `Pair.repeats`
REPEATS, CERTAIN = 1.2, 2.0
# A patch is bare that has less than this share of the contrast that all but a tenth of the patches are below
BARE, RICH = 0.2, 0.9
# What a plain patch counts beside one of contrast, in gray levels
PLAIN = 0.5
# Gray levels by which a patch that shows the same may differ
UNCHANGED = 1.0
# A source's own confidence counts from here on
LEAST_OWN = 0.05
# Across a cut less than this share of what a picture shows rather fits than not: 0 to 0.05 in real clips. A thing that
# moves fast before a bare wall, and is most of what is to be seen, leaves 0.04 to 0.5
CUT = 0.1

# Of each kind of evidence, see `Pair.evidence`, and at the end the constant: for each hidden unit [U, K + 1], and of
# these units and a constant [U + 1]. From benchmarks/motion/calibrate.py
HIDDEN = np.array(
    """
    0.002 0.232 -0.164 -0.311 1.215 -0.194 -4.505 0.514 0.333 -0.133 -0.311 -0.040 0.214 0.584 -0.293 1.097 -0.500
    0.006 0.237 0.245 -0.517 0.464 -0.255 0.028 -0.536 0.531 0.188 -0.488 0.527 -0.391 -0.529 0.530 -1.911 0.952
    0.031 0.007 -0.223 -0.011 -0.088 -0.001 -0.179 -0.028 -0.353 -0.105 0.040 -0.072 -0.901 0.300 -0.064 1.271 1.697
    0.001 0.024 -0.056 -0.015 -0.295 -0.487 0.173 0.640 0.563 0.076 -0.251 0.100 0.281 0.497 -0.374 1.395 -0.378
    0.198 0.010 -0.103 -3.758 0.012 -0.242 0.104 -0.444 -0.284 -0.220 -0.686 0.048 0.077 0.157 -0.224 0.289 1.645
    0.368 0.003 0.839 -0.009 0.001 -0.009 0.036 0.553 0.075 0.015 0.863 0.066 0.084 -0.944 0.513 -4.981 1.139
    0.001 0.101 0.149 -2.449 0.044 -0.313 0.121 -0.419 0.157 -0.636 -0.649 0.158 0.072 -0.166 -0.196 -1.887 3.849
    0.043 0.000 0.058 -0.002 -0.553 -0.001 0.052 0.453 -0.028 0.166 0.260 -0.042 0.096 -0.082 0.000 0.245 -0.429
    """.split(),
    np.float64,
).reshape(8, -1)
WEIGHTS = np.array(
    """
    2.256 2.334 1.727 1.995 1.457 1.417 1.789 3.861 -4.898
    """.split(),
    np.float64,
)


@dataclass(frozen=True)
class Compared:
    """What comes of a comparison of patches.

    Args:
        probable: float32 [R, C], the probability that each vector is true.
        fits: float32 [R, C], the same if nothing repeated.
    """

    probable: Singles
    fits: Singles


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

    def _main(self, flow: Singles) -> Singles:
        """The motion of the half of the patches that shows most, float32 [2]."""
        shown = flow[self.shown]
        return np.array([_rank(shown[:, 0]), _rank(shown[:, 1])], np.float32)

    @cached_property
    def small(self) -> Bytes:
        """The frame that the patches belong to, uint8 [SMALL * R, SMALL * C]."""
        return self._smaller(self.here)

    def _smaller(self, frame: Bytes) -> Bytes:
        rows, cols = (side // self.patch for side in frame.shape)
        return np.asarray(cv2.resize(frame, (cols * SMALL, rows * SMALL), interpolation=cv2.INTER_AREA), np.uint8)

    @cached_property
    def contrast(self) -> Doubles:
        """How much a patch shows, noise apart: its standard deviation in gray levels, float64 [R, C]."""
        pixels = self.small.astype(np.float32)
        variance = _of_patches(pixels * pixels) - np.square(_of_patches(pixels))
        return np.sqrt(np.maximum(variance, 0)).astype(np.float64) + PLAIN

    @cached_property
    def changed(self) -> Doubles:
        """How much of what a patch shows is elsewhere in the other frame, in gray levels, float64 [R, C]: 0 where
        camera and things stand still."""
        apart = self.small.astype(np.float32) - self._smaller(self.there)
        apart -= np.float32(_rank(apart))
        change = np.sqrt(_of_patches(apart * apart)).astype(np.float64) - UNCHANGED
        return np.clip(change, 0, self.contrast)

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        """The half of the patches that shows most, or fewer where most of the picture is bare, bool [R, C]."""
        least = max(_rank(self.contrast), BARE * _rank(self.contrast, RICH))
        return np.asarray(self.contrast >= least, np.bool_)

    @cached_property
    def repeats(self) -> Doubles:
        """How well each patch fits other places of its own picture, but none on the way there, from 0 to `CERTAIN`,
        float64 [R, C]: the vector may lead to another one of a pattern's places."""
        found = np.log(np.maximum(repeats_of(self.small), 1.0).astype(np.float64))
        return np.asarray(np.clip(found - REPEATS, 0, CERTAIN), np.float64)

    def compare(self, flow: Singles, own: Singles, followed: NDArray[np.bool_] | bool = False) -> Compared:
        """Compare the patches with where vectors lead.

        Args:
            flow: float32 [R, C, 2], from here to there in pixels.
            own: float32 [R, C], the source's own confidence, from 0 to 1.
            followed: bool [R, C], which vectors were followed through the frames in between, in steps too short to
                take one place of a pattern for the next.
        """
        evidence = self.evidence(flow, own)
        fits = probability(evidence)
        doubled = (self.repeats > 0) & ~np.broadcast_to(followed, fits.shape)
        if not doubled.any():
            return Compared(fits, fits)
        several = evidence[doubled]
        several[:, -1] = self.repeats[doubled]
        # of places that fit alike one is true
        alone = np.minimum(probability(several), (1 / (1 + several[:, -1] / CERTAIN)).astype(np.float32))
        probable = fits.copy()
        probable[doubled] = np.minimum(alone, fits[doubled])
        return Compared(probable, fits)

    def unrivalled(self, flow: Singles, probable: Singles) -> Singles:
        """The probabilities of a whole field, less where a patch fits by chance, float32 [R, C].

        What is hidden in the other frame, or lies outside of it, is found nowhere, and often fits somewhere. There
        mostly belongs to another patch that fits better, see `claimed`. And what would have come from outside if it
        did as the picture does, has come from there as probably as patches do.

        Args:
            flow: float32 [R, C, 2], from here to there in pixels.
            probable: float32 [R, C], the probability that each vector is true.
        """
        main, sure = self._main(flow), probable > 0.5
        apart = np.sqrt(np.square(flow - main).sum(-1)) > NEAR
        rows, cols = probable.shape
        y, x = np.mgrid[:rows, :cols] + main[::-1, None, None] / self.patch
        outside = (y < -0.5) | (y > rows - 0.5) | (x < -0.5) | (x > cols - 0.5)
        as_main = np.float32((sure & ~apart).sum() / max(sure.sum(), 1))
        found = exclusive(probable, np.where(outside & apart, as_main, np.float32(0)))
        claims = claimed(flow, found, self.patch)
        return np.where(claims > found, exclusive(found, claims), found)

    def evidence(self, flow: Singles, own: Singles) -> Doubles:
        """What speaks for each vector and against it, float64 [R, C, K], but that nothing repeats (0)."""
        sums, number = sums_of(self.here, self.there, flow, self.patch), float(pixels_of(self.patch))
        mean, found_mean = sums[..., 0] / number, sums[..., 2] / number
        variance = np.maximum(sums[..., 1] / number - mean * mean, 0)
        found = np.maximum(sums[..., 2 + len(BESIDE)] / number - found_mean * found_mean, 0)
        gain, offset = _light(mean, found_mean, variance, found)
        left, beside, wide_left, wide_beside, texture, apart = differences(sums, flow, number, gain)
        noise = max(_rank(left, NOISY), LEAST_NOISE)
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
            # and all of the pair, those that show something above all: low across a cut
            np.average(np.minimum(distinct, 2), weights=self.contrast) * everywhere,
            np.log1p(_rank(variance) / noise) * everywhere,
            np.log(noise) * everywhere,
            np.log(texture + 0.5),  # an encoder freezes what has no contrast
            np.log1p(np.sqrt(np.square(flow - self._main(flow)).sum(-1))),  # from what most of the picture does
            np.log(self.contrast),  # what the patch itself shows
            np.log(self.contrast / _rank(self.contrast, RICH)),  # and beside those that show much
            np.zeros_like(left),  # the place of `repeats`
        )
        return np.stack(kinds, axis=-1)


def exclusive(winner: Singles, loser: Singles) -> Singles:
    """The probability of a vector where another one, that cannot be true with it, has one of its own."""
    only, other = winner * (1 - loser), loser * (1 - winner)
    none = (1 - winner) * (1 - loser)
    return np.asarray(only / np.maximum(only + other + none, np.float32(1e-12)), np.float32)


def across_no_cut(confidence: Singles, fits: Singles, known: NDArray[np.bool_], contrast: Doubles) -> Singles:
    """The same where enough of a pair's vectors, weighted by what their patches show, rather fit than not; else the
    scene has changed, what passes does so by accident, and nothing of the pair is valid."""
    shown = contrast * known
    return confidence if (shown * (fits > 0.5)).sum() >= CUT * shown.sum() else np.zeros_like(confidence)


def probability(evidence: Doubles) -> Singles:
    """That vectors are true, float32 [...], by the evidence, float64 [..., K]."""
    logit = np.tanh(evidence @ HIDDEN[:, :-1].T + HIDDEN[:, -1]) @ WEIGHTS[:-1] + WEIGHTS[-1]
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)


def _light(mean: Doubles, found_mean: Doubles, variance: Doubles, found: Doubles) -> tuple[float, float]:
    """Gain and offset from the other frame to this one: medians over the patches with the most texture."""
    texture = np.minimum(variance, found)
    chosen = texture >= _rank(texture)
    gain = min(max(_rank(np.sqrt((variance[chosen] + 1) / (found[chosen] + 1))), GAINS[0]), GAINS[1])
    return gain, _rank((mean - gain * found_mean)[chosen])


def _rank(values: Doubles | Singles, share: float = 0.5) -> float:
    """The value that this share of all lies below."""
    place = int(share * (values.size - 1))
    return float(np.partition(values, place, axis=None)[place])


def _of_patches(pixels: Singles) -> Singles:
    """The means over each patch of pixels [SMALL * R, SMALL * C], float32 [R, C]."""
    rows, cols = (side // SMALL for side in pixels.shape)
    return np.asarray(cv2.resize(pixels, (cols, rows), interpolation=cv2.INTER_AREA), np.float32)


def _around(values: Doubles) -> Doubles:
    """Sums over 3 x 3 patches of [R, C]."""
    return np.asarray(cv2.boxFilter(values, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT), np.float64)
