"""What the points of a patch agree on, and what neighbouring patches do.

Shapes: R x C patches, P points in each.
"""

import math

import numpy as np
from numpy.typing import NDArray

from motiontune.compiled import compiled


Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Points of a patch that end this far apart halve its confidence (pixels of the resized frame)
SPREAD = 4.0
# Patches that differ by this in their motion have nothing to do with each other (pixels of the resized frame)
UNLIKE = 2.0
# How much a patch's confidence falls for each pixel that those around it differ on average, and what counts at most
FALL, MOST_APART = 0.05, 16.0
AROUND = (0.25, 0.75, 1.0, 0.75, 0.25)


def per_patch(displacements: Floats, confidence: Floats, least: float = 0.5) -> tuple[Singles, Singles]:
    """The median of each patch's points that could be followed, and its confidence.

    The confidence is the points' mean, less where they disagree.

    Args:
        displacements: [R, C, P, 2], of a patch's P points.
        confidence: [R, C, P], 0 for a point that could not be followed.
        least: the share of its points that a patch needs, above 0; without them its confidence is 0.

    Returns:
        float32 [R, C, 2] and float32 [R, C].
    """
    vectors, of_patches = np.zeros((*confidence.shape[:2], 2), np.float32), np.zeros(confidence.shape[:2], np.float32)
    medians(displacements, confidence, least, np.empty((2, confidence.shape[2])), vectors, of_patches)
    return vectors, of_patches


@compiled("void(float64[:,:,:,::1], float64[:,:,::1], float64, float64[:,::1], float32[:,:,::1], float32[:,::1])")
def medians(
    displacements: Floats, confidence: Floats, least: float, ordered: Floats, vectors: Singles, of_patches: Singles
) -> None:
    """Write what `per_patch` returns; `ordered` [2, P] is overwritten."""
    rows, cols, number = confidence.shape
    for i in range(rows):
        for j in range(cols):
            count, total, apart = 0, 0.0, 0.0
            for p in range(number):
                total += confidence[i, j, p]
                if confidence[i, j, p] > 0.0:
                    for axis in range(2):
                        at = count
                        while at > 0 and ordered[axis, at - 1] > displacements[i, j, p, axis]:
                            ordered[axis, at] = ordered[axis, at - 1]
                            at -= 1
                        ordered[axis, at] = displacements[i, j, p, axis]
                    count += 1
            if count == 0 or count < least * number:
                continue
            x = (ordered[0, (count - 1) // 2] + ordered[0, count // 2]) / 2
            y = (ordered[1, (count - 1) // 2] + ordered[1, count // 2]) / 2
            for p in range(number):
                if confidence[i, j, p] > 0.0:
                    dx, dy = displacements[i, j, p, 0] - x, displacements[i, j, p, 1] - y
                    apart += math.sqrt(dx * dx + dy * dy)
            vectors[i, j, 0], vectors[i, j, 1] = x, y
            of_patches[i, j] = total / number / (1.0 + apart / count / SPREAD)


def agree(vectors: Singles, confidence: Singles) -> tuple[Singles, Singles]:
    """Average each patch with those around it that move alike; its confidence falls where they don't.

    An encoder's vectors are rounded and chosen for the fewest bits; what they are off by differs from block to block.

    Args:
        vectors: float32 [R, C, 2], pixels of the resized frame.
        confidence: float32 [R, C].

    Returns:
        The same two.
    """
    means, after = np.zeros_like(vectors), np.zeros_like(confidence)
    average(vectors, confidence, means, after)
    return means, after


@compiled("void(float32[:,:,::1], float32[:,::1], float32[:,:,::1], float32[:,::1])")
def average(vectors: Singles, confidence: Singles, means: Singles, after: Singles) -> None:
    """Write what `agree` returns."""
    rows, cols = confidence.shape
    reach = len(AROUND) // 2
    for i in range(rows):
        for j in range(cols):
            if confidence[i, j] <= 0:
                continue
            sx, sy, weight, apart, count = 0.0, 0.0, 0.0, 0.0, 0.0
            for down in range(len(AROUND)):
                for right in range(len(AROUND)):
                    a, b = i + down - reach, j + right - reach
                    if a < 0 or b < 0 or a >= rows or b >= cols or confidence[a, b] <= 0:
                        continue
                    x, y = np.float64(vectors[a, b, 0]), np.float64(vectors[a, b, 1])
                    dx, dy = x - np.float64(vectors[i, j, 0]), y - np.float64(vectors[i, j, 1])
                    distance = math.sqrt(dx * dx + dy * dy)
                    near = AROUND[down] * AROUND[right]
                    q = near * np.float64(confidence[a, b]) * max(1.0 - distance / UNLIKE, 0.0)
                    sx += q * x
                    sy += q * y
                    weight += q
                    apart += near * min(distance, MOST_APART)
                    count += near
            means[i, j, 0], means[i, j, 1] = sx / weight, sy / weight
            after[i, j] = np.float64(confidence[i, j]) / (1.0 + FALL * apart / count)
