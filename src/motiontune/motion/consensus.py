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
# Places are one that have more than this share of a patch in common
SAME = 0.6
# Patches that differ by this in their motion have nothing to do with each other (pixels of the resized frame)
UNLIKE = 2.0
# How much a patch's confidence falls for each pixel that those around it differ on average, and what counts at most
FALL, MOST_APART = 0.05, 16.0
AROUND = (0.25, 0.75, 1.0, 0.75, 0.25)
# The same for surfaces: a Gaussian with a deviation of four patches
GAUSSIAN = tuple(math.exp(-steps * steps / 32) for steps in range(-6, 7))
# A surface's terms, by their powers of rows and columns, and what keeps one through few patches from bending, tilting
POWERS = ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0))
STIFF = (5.0, 5.0, 5.0, 0.05, 0.05, 1e-6)
# Vectors have something to do with each other that differ by less than so many times the noise, within these limits
# (pixels of the resized frame)
ALIKE, LEAST_ALIKE, MOST_ALIKE = 20.0, 0.2, 2.5
# The noise is that of this share of the vectors, the quietest: at the edges of things others are no noise
QUIET = 0.25
# Vectors with more confidence than this tell the noise
SURE = 0.5


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


def claimed(flow: Singles, probable: Singles, patch: int) -> Singles:
    """How probable it is that what a patch is said to have been is another patch: two cannot come from one place.

    What is hidden in the other frame, or lies outside of it, fits by chance somewhere, and there mostly belongs to a
    patch that fits better.

    Args:
        flow: float32 [R, C, 2], from the frame that the patches belong to, in pixels.
        probable: float32 [R, C], the probability that each is true.
        patch: side of a patch in pixels.

    Returns:
        float32 [R, C], the greatest probability of a vector that leads another patch to the same place, see `SAME`.
    """
    claims = np.zeros(probable.shape, np.float32)
    rows, cols = probable.shape
    place = flow / np.float32(patch) + np.moveaxis(np.mgrid[:rows, :cols][::-1], 0, -1)
    compare_places(np.ascontiguousarray(place, np.float32), probable, claims)
    return claims


@compiled("void(float32[:,:,::1], float32[:,::1], float32[:,::1])")
def compare_places(place: Singles, probable: Singles, claims: Singles) -> None:
    """Write what `claimed` returns; places are float32 [R, C, 2], in patches."""
    rows, cols = probable.shape
    # patches by the row and column of the place that they lead to: the first one, and of each the next one
    first, following = np.full((rows + 2, cols + 2), -1), np.empty(rows * cols, np.int64)
    for k in range(rows * cols):
        i, j = k // cols, k % cols
        y, x = int(math.floor(place[i, j, 1])) + 1, int(math.floor(place[i, j, 0])) + 1
        if probable[i, j] > 0 and 0 <= y < rows + 2 and 0 <= x < cols + 2:
            following[k] = first[y, x]
            first[y, x] = k
    for i in range(rows):
        for j in range(cols):
            y, x = int(math.floor(place[i, j, 1])) + 1, int(math.floor(place[i, j, 0])) + 1
            for a in range(max(y - 1, 0), min(y + 2, rows + 2)):
                for b in range(max(x - 1, 0), min(x + 2, cols + 2)):
                    k = first[a, b]
                    while k >= 0:
                        r, c = k // cols, k % cols
                        down, right = abs(place[r, c, 1] - place[i, j, 1]), abs(place[r, c, 0] - place[i, j, 0])
                        if k != i * cols + j and down < 1 and right < 1 and (1 - down) * (1 - right) > SAME:
                            claims[i, j] = max(claims[i, j], probable[r, c])
                        k = following[k]


def smooth(vectors: Singles, confidence: Singles) -> Singles:
    """Replace each patch's vector by that of a surface of second order through those around it that move alike: what a
    camera does to a picture changes evenly from patch to patch, as a round thing does that turns, and errors do not.

    Vectors are alike that differ by a few times the noise of the field: so a thing that moves a little, before a
    background that is known better than that, keeps its own motion.

    Args:
        vectors: float32 [R, C, 2], pixels of the resized frame.
        confidence: float32 [R, C].
    """
    fitted = vectors.copy()
    noise = _noise(vectors, confidence)
    if noise > 0:
        fit_surfaces(vectors, confidence, min(max(ALIKE * noise, LEAST_ALIKE), MOST_ALIKE), fitted)
    return fitted


def _noise(vectors: Singles, confidence: Singles) -> float:
    """How far the quieter vectors are from the mean of those at both sides of them, in pixels per vector."""
    found = []
    for v, c in ((vectors, confidence), (vectors.swapaxes(0, 1), confidence.swapaxes(0, 1))):
        sure = np.minimum(np.minimum(c[:-2], c[1:-1]), c[2:]) > SURE
        found.append(np.sqrt(np.square(v[1:-1] - (v[:-2] + v[2:]) / 2).sum(-1))[sure])
    apart = np.concatenate(found)
    return float(np.quantile(apart, QUIET) / math.sqrt(1.5)) if len(apart) else 0.0


@compiled("void(float32[:,:,::1], float32[:,::1], float64, float32[:,:,::1])")
def fit_surfaces(vectors: Singles, confidence: Singles, alike: float, fitted: Singles) -> None:
    """Write what `smooth` returns, where a patch has a confidence; vectors that differ by `alike` pixels have nothing
    to do with each other (Tukey's biweight)."""
    rows, cols = confidence.shape
    reach, terms = len(GAUSSIAN) // 2, len(POWERS)
    # sums of weights times powers of u rows and v columns, and the same of differences in x and y
    sums, sums_x, sums_y = np.empty((5, 5)), np.empty((3, 3)), np.empty((3, 3))
    row, row_x, row_y = np.empty(5), np.empty(3), np.empty(3)
    equations = np.empty((terms, terms + 2))
    for i in range(rows):
        for j in range(cols):
            if confidence[i, j] <= 0:
                continue
            x, y = np.float64(vectors[i, j, 0]), np.float64(vectors[i, j, 1])
            sums[:], sums_x[:], sums_y[:] = 0.0, 0.0, 0.0
            for a in range(max(i - reach, 0), min(i + reach + 1, rows)):
                s0, s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0, 0.0
                x0, x1, x2, y0, y1, y2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                for b in range(max(j - reach, 0), min(j + reach + 1, cols)):
                    dx, dy = np.float64(vectors[a, b, 0]) - x, np.float64(vectors[a, b, 1]) - y
                    same = max(1.0 - (dx * dx + dy * dy) / (alike * alike), 0.0)
                    w = GAUSSIAN[b - j + reach] * np.float64(confidence[a, b]) * same * same
                    v = b - j
                    wv, wvv = w * v, w * v * v
                    s0, s1, s2, s3, s4 = s0 + w, s1 + wv, s2 + wvv, s3 + wvv * v, s4 + wvv * v * v
                    x0, x1, x2 = x0 + w * dx, x1 + wv * dx, x2 + wvv * dx
                    y0, y1, y2 = y0 + w * dy, y1 + wv * dy, y2 + wvv * dy
                row[:] = s0, s1, s2, s3, s4
                row_x[:] = x0, x1, x2
                row_y[:] = y0, y1, y2
                near = GAUSSIAN[a - i + reach]
                for p in range(5):
                    for q in range(5 - p):
                        sums[p, q] += near * row[q]
                    for q in range(3 - p):
                        sums_x[p, q] += near * row_x[q]
                        sums_y[p, q] += near * row_y[q]
                    near *= a - i
            for k in range(terms):
                p, q = POWERS[k]
                for n in range(k, terms):
                    equations[k, n] = sums[p + POWERS[n][0], q + POWERS[n][1]]
                equations[k, k] += STIFF[k]
                equations[k, terms], equations[k, terms + 1] = sums_x[p, q], sums_y[p, q]
            # the last term is the surface's height at the patch itself: the others are eliminated
            for k in range(terms - 1):
                for m in range(k + 1, terms):
                    factor = equations[k, m] / equations[k, k]
                    for n in range(m, terms + 2):
                        equations[m, n] -= factor * equations[k, n]
            last = equations[terms - 1]
            fitted[i, j, 0], fitted[i, j, 1] = x + last[terms] / last[terms - 1], y + last[terms + 1] / last[terms - 1]
