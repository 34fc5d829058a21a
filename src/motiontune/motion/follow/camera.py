"""The camera's motion: what most of a picture's vectors agree on, once each leads to the right one of its candidates.

Where a picture has several references, its vectors alone say little: those of a steady pan fit any reference if only
neighbours are compared, and where the camera shakes, a vector to an older picture is no multiple of one to the newest.
The motion between the references, which is known by then, tells them apart: taken off, each vector says how the
content moved since the anchor before, and under the right candidates all of them say the same.

A camera's motion is an affine map, float64 [2, 3], from positions in an anchor to those in the anchor before, in
pixels from the middle of the frame. Shapes: A anchors, K candidates, N points.

`solve` and `since` are compiled by `loops.py`, where numba is installed; the other functions are the numpy half of
what stands there.
"""

import numpy as np
from numpy.typing import NDArray


Floats = NDArray[np.float64]

# How much worse it is to lead to another candidate than the first; at 1, half of the motion over twice the time would
# do as well
OTHER = 1.05
# Vectors further off than this count little (pixels), round by round: first of those to the first candidate, for a
# start from nothing; then of all
COARSE, FINE = (16.0, 4.0), (3.0, 1.0)
# A guess is good if it explains this share of the vectors, and this share as leading to the first candidate: half of
# the motion over twice the time would explain as many, but as leading to others
GOOD, FIRST = 0.5, 0.2
# Keeps the map from turning and scaling where there is little to go by (pixels squared)
STIFF = 40.0
STILL: Floats = np.eye(2, 3)


def part_of(camera: Floats, part: float) -> Floats:
    """The motion in a part of the time."""
    return STILL + part * (camera - STILL)


def since(time: float, k: int, times: Floats, cameras: Floats, known: NDArray[np.bool_], back: Floats) -> bool:
    """Find the camera's motion from a time to that of anchor k.

    Args:
        time: seconds.
        k: number of the anchor, -1 for none.
        times: [A], seconds.
        cameras: [A, 2, 3].
        known: bool [A], which of them are known.
        back: [2, 3], written: the map from positions at the time to those in anchor k.

    Returns:
        Whether it is known.
    """
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0  # from anchor k to the time
    while k > 0 and times[k] > time + 1e-6:
        if not known[k]:
            return False
        part = min(1.0, (times[k] - time) / (times[k] - times[k - 1]))
        p, q, r = 1.0 + part * (cameras[k, 0, 0] - 1.0), part * cameras[k, 0, 1], part * cameras[k, 0, 2]
        s, t, u = part * cameras[k, 1, 0], 1.0 + part * (cameras[k, 1, 1] - 1.0), part * cameras[k, 1, 2]
        a, b, c, d, e, f = (
            p * a + q * d,
            p * b + q * e,
            p * c + q * f + r,
            s * a + t * d,
            s * b + t * e,
            s * c + t * f + u,
        )
        k -= 1
    if k < 0 or times[k] > time + 1e-6:
        return False
    area = a * e - b * d
    back[0, 0], back[0, 1], back[0, 2] = e / area, -b / area, (b * f - c * e) / area
    back[1, 0], back[1, 1], back[1, 2] = -d / area, a / area, (c * d - a * f) / area
    return True


def solve(sums: Floats, camera: Floats) -> None:
    """Find the camera that makes the least squares.

    Args:
        sums: [12], over the points at (x, y) that moved by (u, v): weight, its products with x, y, xx, xy, yy, and
            with u, ux, uy, v, vx, vy.
        camera: [2, 3], written.
    """
    n, x, y, xx, xy, yy = sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
    xx, yy, n = xx + STIFF * n, yy + STIFF * n, n + 1e-9 * n
    # the symmetric matrix ((n, x, y), (x, xx, xy), (y, xy, yy)), eliminated from the top
    px, py = x / n, y / n
    cxx, cxy, cyy = xx - px * x, xy - px * y, yy - py * y
    pxy = cxy / cxx
    rest = cyy - pxy * cxy
    for row in range(2):
        m, mx, my = sums[6 + 3 * row], sums[7 + 3 * row], sums[8 + 3 * row]
        mx, my = mx - px * m, my - py * m
        right = (my - pxy * mx) / rest
        left = (mx - cxy * right) / cxx
        camera[row, 0], camera[row, 1] = left, right
        camera[row, 2] = (m - x * left - y * right) / n
    camera[0, 0] += 1.0
    camera[1, 1] += 1.0


def fit_camera(points: Floats, shifts: Floats, back: Floats, guess: Floats | None) -> Floats:
    """Find the motion that most vectors agree on.

    Args:
        points: [N, 2].
        shifts: [N, 2], from the points to the reference.
        back: [K, 2, 3], the camera's motion from each candidate to the anchor before.
        guess: the motion as it would be if the camera went on as before.
    """
    x, y = points.T
    there_x, there_y = (points + shifts).T
    # what the vectors say of the motion since the anchor before, if they lead to each candidate
    way_x = back[:, 0, 0, None] * there_x + back[:, 0, 1, None] * there_y + back[:, 0, 2, None] - x
    way_y = back[:, 1, 0, None] * there_x + back[:, 1, 1, None] * there_y + back[:, 1, 2, None] - y
    start = STILL.copy()
    start[:, 2] = np.median(way_x[0]), np.median(way_y[0])
    starts = [(start, [(scale, 1) for scale in COARSE])]
    if guess is not None:
        starts.insert(0, (guess, []))
    each = np.arange(len(points))
    most, best = -1.0, STILL
    for camera, rounds in starts:
        camera = camera.copy()
        for scale, count in [*rounds, *((scale, len(back)) for scale in FINE)]:
            ex = camera[0, 0] * x + camera[0, 1] * y + camera[0, 2] - x
            ey = camera[1, 0] * x + camera[1, 1] * y + camera[1, 2] - y
            dx, dy = (way_x[:count] - ex) / scale, (way_y[:count] - ey) / scale
            cost = 1.0 + dx * dx + dy * dy
            cost[1:] *= OTHER
            chosen = cost.argmin(0)
            weight = 1.0 / (cost[chosen, each] * cost[chosen, each])
            u, v = way_x[chosen, each], way_y[chosen, each]
            wx, wy, wu, wv = weight * x, weight * y, weight * u, weight * v
            terms = (weight, wx, wy, wx * x, wx * y, wy * y, wu, wu * x, wu * y, wv, wv * x, wv * y)
            sums = np.cumsum(terms, axis=1)[:, -1]  # one after the other, as a loop adds them
            solve(sums, camera)
        if sums[0] > most:
            most, best = float(sums[0]), camera
            if most > GOOD * len(points) and (chosen == 0).sum() > FIRST * len(points):
                break
    return best
