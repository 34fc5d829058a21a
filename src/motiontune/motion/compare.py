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


def sums_of(here: Bytes, there: Bytes, flow: Singles, patch: int) -> tuple[Doubles, Doubles]:
    """What all comparisons are made of.

    Args:
        here: uint8 [H, W], the frame that the patches belong to.
        there: uint8 [H, W], the other frame.
        flow: float32 [R, C, 2], from here to there in pixels.
        patch: side of a patch in pixels.

    Returns:
        float64 [2, R, C], sums over each patch of its pixels h and of h * h; and float64 [3, S, R, C], sums of what is
        found there, f, of f * f, and of h * f.
    """
    rows, cols = flow.shape[:2]
    own, found = np.empty((2, rows, cols)), np.empty((3, len(BESIDE), rows, cols))
    add_up(here, there, np.ascontiguousarray(flow), patch, own, found)
    return own, found


@compiled("void(uint8[:,::1], uint8[:,::1], float32[:,:,::1], intp, float64[:,:,::1], float64[:,:,:,::1])")
def add_up(here: Bytes, there: Bytes, flow: Singles, patch: int, own: Doubles, found: Doubles) -> None:
    """Write what `sums_of` returns. Pixels count in `PARTS` of a gray level: sums of whole numbers are exact, and
    fast."""
    height, width = there.shape
    side = patch + 2 * REACH
    window = np.empty((side, side), np.int32)
    lines = np.empty((2, side + 1), np.float32)
    mine = np.empty((patch, patch), np.int32)
    parts, square = np.float32(PARTS), 1.0 / (PARTS * PARTS)
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
                        window[a - 1, b] = np.int32(gy * lines[1 - line, b] + fy * lines[line, b] + np.float32(0.5))
            sh, shh = 0, 0
            for a in range(patch):
                s, ss = np.int32(0), np.int32(0)
                for b in range(patch):
                    h = np.int32(here[i * patch + a, j * patch + b])
                    mine[a, b] = h
                    s += h
                    ss += h * h
                sh += s
                shh += ss
            own[0, i, j], own[1, i, j] = sh, shh
            for n in range(len(BESIDE)):
                dx, dy = BESIDE[n][0] + REACH, BESIDE[n][1] + REACH
                sf, sff, shf = 0, 0, 0
                for a in range(patch):
                    s, ss, sx = np.int32(0), np.int32(0), np.int32(0)
                    for b in range(patch):
                        f = window[a + dy, b + dx]
                        s += f
                        ss += f * f
                        sx += mine[a, b] * f
                    sf += s
                    sff += ss
                    shf += sx
                found[0, n, i, j], found[1, n, i, j], found[2, n, i, j] = sf / PARTS, sff * square, shf / PARTS
