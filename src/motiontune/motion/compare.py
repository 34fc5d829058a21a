"""How patches compare with what lies in another frame where their vectors lead, and a few pixels beside it.

Shapes: R, C patch rows and columns, H, W height and width of a frame in pixels, S places (`BESIDE`).
"""

import math

import numpy as np
from numpy.typing import NDArray

from motiontune.compiled import compiled


Bytes = NDArray[np.uint8]
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Where a patch is compared: at its vector's end, and this many pixels beside it
BESIDE = ((0, 0), (4, 0), (-4, 0), (0, 4), (0, -4), (3, 3), (-3, 3), (3, -3), (-3, -3))
REACH = 4
# Of a gray level, as pixels between pixels are counted
PARTS = 4
# Of a pixel, as places between pixels are counted
SHARES = 32
# Sums over larger patches would not fit into 32 bits
FINEST = 32
# Of what `differences` returns
KINDS = 6
# Where a picture is searched for repeats: this far away nothing may fit that does not from here on, small pixels
NEXT, FIRST, FURTHEST = 2, 4, 20


def sums_of(here: Bytes, there: Bytes, flow: Singles, patch: int) -> Doubles:
    """What all comparisons are made of: sums over each patch of its pixels h and of what is found there, f.

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


@compiled("void(uint8[:,::1], uint8[:,::1], float32[:,:,::1], intp, float64[:,:,::1])")
def add_up(here: Bytes, there: Bytes, flow: Singles, patch: int, sums: Doubles) -> None:
    """Write what `sums_of` returns. Pixels of the other frame count in `PARTS` of a gray level: sums of whole numbers
    are exact, and fast."""
    places = len(BESIDE)
    height, width = there.shape
    side = patch + 2 * REACH
    window = np.zeros(side * side + side, np.int16)  # pairs of products of these are one instruction
    lines = np.empty((2, side), np.int32)
    length = patch * side
    mine, inside_patch = np.zeros(length, np.int16), np.zeros(length, np.int16)
    for k in range(length):
        inside_patch[k] = np.int16(k % side < patch)
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
            for a in range(side + 1):
                row, line = there[min(max(top + a, 0), height - 1)], lines[a & 1]
                if inside:
                    # slices, whose numbers cannot be negative, are what the compiler makes fast loops of
                    one, two = row[left : left + side], row[left + 1 : left + 1 + side]
                    for b in range(side):
                        line[b] = np.int32(np.int32(gx * np.int32(one[b])) + np.int32(fx * np.int32(two[b])))
                else:
                    for b in range(side):
                        c, d = min(max(left + b, 0), width - 1), min(max(left + b + 1, 0), width - 1)
                        line[b] = np.int32(gx * np.int32(row[c]) + fx * np.int32(row[d]))
                if a:
                    before, target = lines[1 - (a & 1)], window[(a - 1) * side : a * side]
                    for b in range(side):
                        f = np.int32(np.int32(gy * before[b]) + np.int32(fy * line[b]))
                        target[b] = np.int16(np.int32(f + half) >> shift)
            sh, shh = np.int32(0), np.int32(0)
            for a in range(patch):
                source = here[i * patch + a, j * patch : (j + 1) * patch]
                target = mine[a * side : a * side + patch]
                for b in range(patch):
                    h = np.int32(source[b])
                    target[b] = np.int16(h)
                    sh = np.int32(sh + h)
                    shh = np.int32(shh + np.int32(h * h))
            sums[i, j, 0], sums[i, j, 1] = sh, shh
            for n in range(places):
                start = (BESIDE[n][1] + REACH) * side + BESIDE[n][0] + REACH
                sf, sff, shf = np.int32(0), np.int32(0), np.int32(0)
                # over whole rows, where both pictures of the patch are in one piece: zeros lie beside it
                part = window[start : start + length]
                for k in range(length):
                    f, m = np.int32(part[k]), np.int32(inside_patch[k])
                    sf = np.int32(sf + np.int32(f * m))
                    sff = np.int32(sff + np.int32(np.int32(np.int16(np.int32(f * m))) * f))
                    shf = np.int32(shf + np.int32(f * np.int32(mine[k])))
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


def repeats_of(small: Bytes, patch: int) -> Singles:
    """How well each patch fits another place of its own picture, beside it or above or below.

    Args:
        small: uint8 [h, w], the picture, made smaller so that patches have a side of a few pixels.
        patch: this side in pixels.

    Returns:
        float32 [2, R, C]: mean squared difference of brightness, about the patch's mean, `NEXT` pixels away and at the
        best place that is further away, in the direction in which their ratio is the largest.
    """
    shape = (small.shape[0] // patch, small.shape[1] // patch)
    found = np.zeros((2, *shape), np.float32)
    look_around(small, patch, found)
    return found


@compiled("void(uint8[:,::1], intp, float32[:,:,::1])")
def look_around(small: Bytes, patch: int, found: Singles) -> None:
    """Write what `repeats_of` returns."""
    height, width = small.shape
    pixels = patch * patch
    for i in range(found.shape[1]):
        for j in range(found.shape[2]):
            best = -1.0
            for way in range(2):  # towards the further border: a pattern repeats on both sides
                dx = 0 if way else (1 if 2 * (j + 0.5) * patch < width else -1)
                dy = 0 if not way else (1 if 2 * (i + 0.5) * patch < height else -1)
                near, least = 0.0, -1.0
                for far in range(NEXT, FURTHEST + 1):
                    x, y = j * patch + far * dx, i * patch + far * dy
                    if x < 0 or y < 0 or x + patch > width or y + patch > height:
                        break
                    if NEXT < far < FIRST:
                        continue
                    s, ss, number, apart = np.int32(0), np.int32(0), 0, 0.0
                    for a in range(patch):
                        one = small[i * patch + a, j * patch : (j + 1) * patch]
                        two = small[y + a, x : x + patch]
                        for b in range(patch):
                            d = np.int32(np.int32(one[b]) - np.int32(two[b]))
                            s = np.int32(s + d)
                            ss = np.int32(ss + np.int32(d * d))
                        number += patch
                        apart = ss - np.float64(s) * s / number
                        if 0 <= least < apart / pixels:  # more rows make it no smaller
                            break
                    apart /= pixels
                    if far == NEXT:
                        near = apart
                    elif least < 0 or apart < least:
                        least = apart
                if least >= 0 and (near + 1.0) / (least + 1.0) > best:
                    best = (near + 1.0) / (least + 1.0)
                    found[0, i, j], found[1, i, j] = near, least
