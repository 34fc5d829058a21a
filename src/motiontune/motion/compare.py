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
# Sums over larger patches would not fit into 32 bits
FINEST = 32
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
    window = np.zeros(side * side + side, np.int32)
    lines = np.empty((2, side), np.float32)
    length = patch * side
    mine, inside_patch = np.zeros(length, np.int32), np.zeros(length, np.int32)
    for k in range(length):
        inside_patch[k] = np.int32(k % side < patch)
    parts = np.float32(PARTS if patch <= FINEST else 1)
    for i in range(flow.shape[0]):
        for j in range(flow.shape[1]):
            # what lies outside of the frame repeats its border
            x = min(max(j * patch - REACH + flow[i, j, 0], np.float32(-2 * side)), np.float32(width + side))
            y = min(max(i * patch - REACH + flow[i, j, 1], np.float32(-2 * side)), np.float32(height + side))
            left, top = int(math.floor(x)), int(math.floor(y))
            fx, fy = np.float32(x - left) * parts, np.float32(y - top)
            gx, gy = parts - fx, np.float32(1) - fy
            inside = left >= 0 and left + side < width
            for a in range(side + 1):
                row, line = min(max(top + a, 0), height - 1), a & 1
                if inside:
                    for b in range(side):
                        lines[line, b] = gx * there[row, left + b] + fx * there[row, left + b + 1]
                else:
                    for b in range(side):
                        one, two = min(max(left + b, 0), width - 1), min(max(left + b + 1, 0), width - 1)
                        lines[line, b] = gx * there[row, one] + fx * there[row, two]
                if a:
                    for b in range(side):
                        window[(a - 1) * side + b] = np.int32(gy * lines[1 - line, b] + fy * lines[line, b] + np.float32(0.5))
            sh, shh = 0, 0
            for a in range(patch):
                for b in range(patch):
                    h = np.int32(here[i * patch + a, j * patch + b])
                    mine[a * side + b] = h
                    sh += h
                    shh += h * h
            sums[i, j, 0], sums[i, j, 1] = sh, shh
            for n in range(places):
                start = (BESIDE[n][1] + REACH) * side + BESIDE[n][0] + REACH
                sf, sff, shf = np.int32(0), np.int32(0), np.int32(0)
                # over whole rows, where both pictures of the patch are in one piece: zeros lie beside it
                part = window[start : start + length]
                for k in range(length):
                    f = np.int32(part[k] * inside_patch[k])
                    sf = np.int32(sf + f)
                    sff = np.int32(sff + np.int32(f * f))
                    shf = np.int32(shf + np.int32(mine[k] * f))
                sums[i, j, 2 + n] = sf / parts
                sums[i, j, 2 + places + n] = sff / (parts * parts)
                sums[i, j, 2 + 2 * places + n] = shf / parts


def repeats_of(small: Bytes, patch: int) -> Singles:
    """How well each patch fits another place of its own picture, to the left, the right, above or below.

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
    number = patch * patch
    for i in range(found.shape[1]):
        for j in range(found.shape[2]):
            best = -1.0
            for way in range(4):
                dx, dy = ((1, 0), (-1, 0), (0, 1), (0, -1))[way]
                near, least = 0.0, -1.0
                for far in range(NEXT, FURTHEST + 1):
                    x, y = j * patch + far * dx, i * patch + far * dy
                    if x < 0 or y < 0 or x + patch > width or y + patch > height:
                        break
                    if NEXT < far < FIRST:
                        continue
                    s, ss = np.int32(0), np.int32(0)
                    for a in range(patch):
                        for b in range(patch):
                            d = np.int32(np.int32(small[i * patch + a, j * patch + b]) - np.int32(small[y + a, x + b]))
                            s = np.int32(s + d)
                            ss = np.int32(ss + np.int32(d * d))
                    apart = (ss - s * s / number) / number
                    if far == NEXT:
                        near = apart
                    elif least < 0 or apart < least:
                        least = apart
                if least >= 0 and (near + 1.0) / (least + 1.0) > best:
                    best = (near + 1.0) / (least + 1.0)
                    found[0, i, j], found[1, i, j] = near, least
