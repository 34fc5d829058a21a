"""How patches compare with what lies in another frame where their vectors lead, and a few pixels beside it.

Shapes: R, C patch rows and columns, H, W height and width of a frame in pixels, S places (`BESIDE`).
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.compiled import compiled


Bytes = NDArray[np.uint8]
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Where a patch is compared: at its vector's end, and this many pixels beside it
BESIDE = ((0, 0), (4, 0), (-4, 0), (0, 4), (0, -4), (4, 4), (-4, 4), (4, -4), (-4, -4))
REACH = 4
# Every so many rows of a patch are compared, which divides all that `BESIDE` goes down
EVERY = 2
# Of a gray level, as pixels between pixels are counted
PARTS = 4
# Of a pixel, as places between pixels are counted
SHARES = 32
# Sums over larger patches would not fit into 32 bits
FINEST = 32
# Of what `differences` returns
KINDS = 6
# A picture is searched for repeats on patches that were made so small (pixels), over windows of 3 x 3 of them, from
# here on and up to so many small pixels away
SMALL, NEAREST, FURTHEST = 3, 2, 9


def sums_of(here: Bytes, there: Bytes, flow: Singles, patch: int) -> Doubles:
    """What all comparisons are made of: sums over each patch of its pixels h and of what is found there, f.

    Every other row of a patch counts.

    Args:
        here: uint8 [H, W], the frame that the patches belong to.
        there: uint8 [H, W], the other frame.
        flow: float32 [R, C, 2], from here to there in pixels.
        patch: side of a patch in pixels.

    Returns:
        float64 [R, C, 2 + 3 * S]: sums of h and of h * h; at each place of f, then of f * f, then of h * f.
    """
    sums = np.empty((*flow.shape[:2], 2 + 3 * len(BESIDE)))
    add_up(here, there, np.ascontiguousarray(flow), patch, sums)
    return sums


def pixels_of(patch: int) -> int:
    """How many pixels of a patch are compared."""
    return patch * -(-patch // EVERY)


@compiled("void(uint8[:,::1], uint8[:,::1], float32[:,:,::1], intp, float64[:,:,::1])")
def add_up(here: Bytes, there: Bytes, flow: Singles, patch: int, sums: Doubles) -> None:
    """Write what `sums_of` returns. Pixels of the other frame count in `PARTS` of a gray level: sums of whole numbers
    are exact, and fast."""
    places = len(BESIDE)
    height, width = there.shape
    side, rows = patch + 2 * REACH, (patch + EVERY - 1) // EVERY
    seen = rows + 2 * REACH // EVERY
    window = np.zeros(seen * side + side, np.int16)  # pairs of products of these are one instruction
    lines = np.empty((2, side), np.int32)
    length = rows * side
    mine, of_rows = np.zeros(length, np.int16), np.empty((3, seen, 2), np.int32)
    parts = PARTS if patch <= FINEST else 1
    # what is interpolated is SHARES * SHARES times too much, and is to be `parts` times
    shift = np.int32(8 if patch <= FINEST else 10)
    half = np.int32(1 << (shift - 1))
    for i in range(flow.shape[0]):
        for j in range(flow.shape[1]):
            # what lies outside of the frame repeats its border
            x = min(max(j * patch - REACH + flow[i, j, 0], np.float32(-2 * side)), np.float32(width + side))
            y = min(max(i * patch - REACH + flow[i, j, 1], np.float32(-2 * side)), np.float32(height + side))
            left, top = int(math.floor(x)), int(math.floor(y))
            fx, fy = np.int32((x - left) * SHARES + 0.5), np.int32((y - top) * SHARES + 0.5)
            gx, gy = np.int32(SHARES - fx), np.int32(SHARES - fy)
            inside = left >= 0 and left + side < width
            for a in range(seen):
                for below in range(2):
                    row = there[min(max(top + EVERY * a + below, 0), height - 1)]
                    line = lines[below]
                    if inside:
                        # slices, whose numbers cannot be negative, are what the compiler makes fast loops of
                        one, two = row[left : left + side], row[left + 1 : left + 1 + side]
                        for b in range(side):
                            line[b] = np.int32(np.int32(gx * np.int32(one[b])) + np.int32(fx * np.int32(two[b])))
                    else:
                        for b in range(side):
                            c, d = min(max(left + b, 0), width - 1), min(max(left + b + 1, 0), width - 1)
                            line[b] = np.int32(gx * np.int32(row[c]) + fx * np.int32(row[d]))
                upper, lower, target = lines[0], lines[1], window[a * side : (a + 1) * side]
                for b in range(side):
                    f = np.int32(np.int32(gy * upper[b]) + np.int32(fy * lower[b]))
                    target[b] = np.int16(np.int32(f + half) >> shift)
            sh, shh = np.int32(0), np.int32(0)
            for a in range(rows):
                source = here[i * patch + EVERY * a, j * patch : (j + 1) * patch]
                target = mine[a * side : a * side + patch]
                for b in range(patch):
                    h = np.int32(source[b])
                    target[b] = np.int16(h)
                    sh = np.int32(sh + h)
                    shh = np.int32(shh + np.int32(h * h))
            sums[i, j, 0], sums[i, j, 1] = sh, shh
            for n in range(3):
                for a in range(seen):
                    begin = a * side + n * REACH
                    part = window[begin : begin + patch]
                    sf, sff = np.int32(0), np.int32(0)
                    for b in range(patch):
                        f = np.int32(part[b])
                        sf = np.int32(sf + f)
                        sff = np.int32(sff + np.int32(f * f))
                    of_rows[n, a, 0], of_rows[n, a, 1] = sf, sff
            for n in range(places):
                down, right = (BESIDE[n][1] + REACH) // EVERY, BESIDE[n][0] + REACH
                sf, sff, shf = np.int32(0), np.int32(0), np.int32(0)
                for a in range(down, down + rows):
                    sf += of_rows[right // REACH, a, 0]
                    sff += of_rows[right // REACH, a, 1]
                # over whole rows, where both pictures of the patch are in one piece: zeros lie beside it
                begin = down * side + right
                part = window[begin : begin + length]
                for k in range(length):
                    shf = np.int32(shf + np.int32(np.int32(part[k]) * np.int32(mine[k])))
                sums[i, j, 2 + n] = sf / parts
                sums[i, j, 2 + places + n] = sff / (parts * parts)
                sums[i, j, 2 + 2 * places + n] = shf / parts


def differences(sums: Doubles, flow: Singles, number: float, gain: float) -> Doubles:
    """What is left between patches when a gain and the mean are taken off, and what lies around.

    Args:
        sums: see `sums_of`.
        flow: float32 [R, C, 2], in pixels.
        number: pixels of a patch.
        gain: from the other frame to this one.

    Returns:
        float64 [`KINDS`, R, C]: mean squares of what is left, at the vector's end, and the least of those beside it;
        the same two over 3 x 3 patches; the lesser variance of the two frames over 3 x 3 patches; and how far the
        vector is from those of the four patches around it, of eight, that are nearest to it, in pixels.
    """
    found = np.empty((KINDS, *sums.shape[:2]))
    write_differences(sums, flow, number, gain, found)
    return found


@compiled("void(float64[:,:,::1], float32[:,:,::1], float64, float64, float64[:,:,::1])")
def write_differences(sums: Doubles, flow: Singles, number: float, gain: float, found: Doubles) -> None:
    """Write what `differences` returns."""
    rows, cols, count = sums.shape
    places = (count - 2) // 3
    wide, nearest = np.empty(count), np.empty(8)
    for i in range(rows):
        for j in range(cols):
            wide[:] = 0.0
            pixels, around = 0.0, 0
            for a in range(max(i - 1, 0), min(i + 2, rows)):
                for b in range(max(j - 1, 0), min(j + 2, cols)):
                    pixels += number
                    for k in range(count):
                        wide[k] += sums[a, b, k]
                    if a == i and b == j:
                        continue
                    dx, dy = float(flow[a, b, 0] - flow[i, j, 0]), float(flow[a, b, 1] - flow[i, j, 1])
                    distance, at = math.sqrt(dx * dx + dy * dy), around
                    while at > 0 and nearest[at - 1] > distance:
                        nearest[at] = nearest[at - 1]
                        at -= 1
                    nearest[at] = distance
                    around += 1
            found[5, i, j] = nearest[(around - 1) // 2] if around else 0.0
            for part in range(2):
                total, n = (sums[i, j], number) if part == 0 else (wide, pixels)
                mean = total[0] / n
                variance, least = max(total[1] / n - mean * mean, 0.0), np.inf
                for k in range(places):
                    f = total[2 + k] / n
                    other = max(total[2 + places + k] / n - f * f, 0.0)
                    product = total[2 + 2 * places + k] / n - mean * f
                    left = max(variance - 2 * gain * product + gain * gain * other, 0.0)
                    if k == 0:
                        found[2 * part, i, j] = left
                        found[4, i, j] = min(variance, other)
                    else:
                        least = min(least, left)
                found[2 * part + 1, i, j] = least


def repeats_of(small: Bytes) -> Singles:
    """How much better what lies around each patch fits another place of its own picture than a place on the way there.

    Args:
        small: uint8 [R * SMALL, C * SMALL], the picture, made smaller.

    Returns:
        float32 [R, C]: the mean squared difference at half of the way over that at the end, both and 1, for the
        place where this is the most.
    """
    rows, cols = small.shape[0] // SMALL, small.shape[1] // SMALL
    found = np.zeros((rows, cols), np.float32)
    half = (rows + 1) // 2
    # a pattern repeats on both sides: what is in the lower half is compared with what is above it
    most = _most(small)
    for picture, way, number in ((small, slice(None), half), (small[::-1], slice(None, None, -1), rows - half)):
        upper = np.zeros((number, cols), np.float32)
        look_around(np.ascontiguousarray(picture), np.ascontiguousarray(most[way]), upper)
        found[way][:number] = upper
    return found


def _most(small: Bytes) -> Singles:
    """How much a window of 3 x 3 patches of a pattern differs from another part of it: four times its variance. What
    differs more is something else: a thing that stands before a plain wall is no pattern."""
    side = 3 * SMALL
    picture = small.astype(np.float32)
    mean = cv2.boxFilter(picture, -1, (side, side), borderType=cv2.BORDER_REPLICATE)
    square = cv2.sqrBoxFilter(small, cv2.CV_32F, (side, side), borderType=cv2.BORDER_REPLICATE)
    middle = slice(SMALL // 2, None, SMALL)
    return np.asarray(4 * np.maximum(square - mean * mean, 0)[middle, middle], np.float32)


@compiled("void(uint8[:,::1], float32[:,::1], float32[:,::1])")
def look_around(small: Bytes, most: Singles, found: Singles) -> None:
    """Write what `repeats_of` returns of the upper rows of patches."""
    height, width = small.shape
    rows, cols = found.shape
    deep = min(rows + 1, height // SMALL)  # windows of 3 x 3 patches reach a row further
    ways = 2 * FURTHEST + 1
    apart = np.empty((FURTHEST + 1, ways, rows, cols), np.float32)
    line, sums, weights = np.empty(width, np.int32), np.zeros(cols + 2, np.float32), np.empty(cols, np.float32)
    wide = np.zeros((deep + 2, cols), np.float32)
    for dy in range(FURTHEST + 1):
        for way in range(ways):
            dx = way - FURTHEST
            if dy == 0 and dx < 0:
                continue
            first, length = max(-dx, 0), max(width - abs(dx), 0)
            for j in range(cols):
                left, right = max((j - 1) * SMALL, first), min((j + 2) * SMALL, first + length)
                # of a window half of which leaves the picture nothing is known
                weights[j] = np.float32(1) / (right - left) if 2 * (right - left) > 3 * SMALL else np.float32(np.inf)
            for i in range(deep):
                line[:] = 0
                part = line[first : first + length]
                for a in range(i * SMALL, min((i + 1) * SMALL, height - dy)):
                    one, two = small[a, first : first + length], small[a + dy, first + dx : first + dx + length]
                    for b in range(len(part)):
                        d = np.int32(np.int32(one[b]) - np.int32(two[b]))
                        part[b] = np.int32(part[b] + np.int32(d * d))
                for j in range(cols):
                    total = np.int32(0)
                    for b in range(SMALL):
                        total = np.int32(total + line[j * SMALL + b])
                    sums[j + 1] = total
                one_side, middle, other_side, target = sums[:cols], sums[1 : cols + 1], sums[2:], wide[i + 1]
                for j in range(cols):
                    target[j] = one_side[j] + middle[j] + other_side[j]
            for i in range(rows):
                high = min(min(i + 2, deep) * SMALL, height - dy) - max(i - 1, 0) * SMALL
                weight = np.float32(1) / high if 2 * high > 3 * SMALL else np.float32(np.inf)
                target = apart[dy, way, i]
                for j in range(cols):
                    target[j] = (wide[i, j] + wide[i + 1, j] + wide[i + 2, j] + np.float32(1e-6)) * weights[j] * weight
    for dy in range(FURTHEST + 1):
        for way in range(ways):
            dx = way - FURTHEST
            if (dy == 0 and dx < 0) or dx * dx + dy * dy < NEAREST * NEAREST:
                continue
            # beside and to the left is as beside and to the right
            half_way = FURTHEST + (abs(dx) // 2) * (-1 if dx < 0 and dy > 1 else 1)
            for i in range(rows):
                near, far, best = apart[dy // 2, half_way, i], apart[dy, way, i], found[i]
                for j in range(cols):
                    barrier = min(near[j], most[i, j]) if near[j] < np.float32(np.inf) else np.float32(0)
                    best[j] = max(best[j], (barrier + np.float32(1)) / (far[j] + np.float32(1)))
