"""The camera's motion: what most of a picture's vectors agree on, once each leads to the right one of its candidates.

Where a picture has several references, its vectors alone decide little: those of a steady pan fit any reference if
only neighbours are compared, and where the camera shakes, a vector to an older picture is no multiple of one to the
newest. The motion between the references, which is known by then, tells them apart: taken off, each vector is how the
content moved since the anchor before, and under the right candidates all of them agree.

A camera's motion is an affine map, float64 [2, 3], from positions in an anchor to those in the anchor before, in
pixels from the middle of the frame. Shapes: A anchors, K candidates, N points, r x c points of the lattice.
"""

import math

import numpy as np
from numpy.typing import NDArray

from motiontune.compiled import compiled, part
from motiontune.video.lattice import QUARTERS


Floats = NDArray[np.float64]

# How much worse it is for a vector to lead to another candidate than the first, which is the cheapest to name, and to
# which no error of a motion before is added. How much of a picture a motion explains does not depend on it: what makes
# one block prefer an older picture, a sharper key frame say, makes most of them do so.
OTHER = 1.05
# Vectors further off than this count little (pixels), round by round: first of those to the first candidate, for a
# start from nothing; then of all
COARSE, FINE = (16.0, 4.0), (3.0, 1.0)
SCALES = (*COARSE, *FINE)
# A guess is good if it explains this share of the vectors, and this share as leading to the first candidate: half of
# the motion over twice the time would explain as many, but as leading to others
GOOD, FIRST = 0.55, 0.2
# A motion that explains this share of what another does explains as much
AS_MUCH = 0.98
# A vector goes with the camera if it differs no more than this from its motion: pixels, of a frame of this width or a
# wider one, and share of that motion. Under another candidate it must differ by this (pixels; an encoder's steps are
# quarters): what is too slow for the camera to tell candidates apart is left to neighbours.
NEAR, NEAR_WIDTH = 0.75, 640
NEAR_SHARE, APART = 0.02, 0.2
# The camera's motion must explain this share of all vectors
MOST = 0.3
# Times that differ by less are the same, and a reference is shown at least this much before a picture (seconds)
SOON = 1e-6
# Keeps the map from turning and scaling where there is little to go by (pixels squared)
STIFF = 40.0
STILL: Floats = np.eye(2, 3)
SUMS = 12


def part_of(camera: Floats, share: float) -> Floats:
    """The motion in a part of the time."""
    return STILL + share * (camera - STILL)


@compiled("intp(float64[::1], intp, float64[::1], float64[:,:,::1], boolean[::1], float64[:,:,::1], intp[::1])")
def maps_since(
    moments: Floats,
    k: int,
    times: Floats,
    cameras: Floats,
    known: NDArray[np.bool_],
    back: Floats,
    cases: NDArray[np.intp],
) -> int:
    """Find the camera's motion from each of several times to that of anchor k.

    Args:
        moments: [K], seconds.
        k: number of the anchor, -1 for none.
        times: [A], seconds.
        cameras: [A, 2, 3].
        known: bool [A], which of them are known.
        back: [K, 2, 3], written, as far as known: the map from positions at a time to those in anchor k.
        cases: [K], written: the number of each map's time.

    Returns:
        How many maps there are.
    """
    found = 0
    for n in range(len(moments)):
        time, j = moments[n], k
        a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0  # from anchor k to the time
        while j > 0 and times[j] > time + SOON and known[j]:
            share = min(1.0, (times[j] - time) / (times[j] - times[j - 1]))
            p, q, r = 1.0 + share * (cameras[j, 0, 0] - 1.0), share * cameras[j, 0, 1], share * cameras[j, 0, 2]
            s, t, u = share * cameras[j, 1, 0], 1.0 + share * (cameras[j, 1, 1] - 1.0), share * cameras[j, 1, 2]
            a, b, c, d, e, f = (
                p * a + q * d,
                p * b + q * e,
                p * c + q * f + r,
                s * a + t * d,
                s * b + t * e,
                s * c + t * f + u,
            )
            j -= 1
        if j < 0 or times[j] > time + SOON:
            continue
        area = a * e - b * d
        back[found, 0, 0], back[found, 0, 1], back[found, 0, 2] = e / area, -b / area, (b * f - c * e) / area
        back[found, 1, 0], back[found, 1, 1], back[found, 1, 2] = -d / area, a / area, (c * d - a * f) / area
        cases[found] = n
        found += 1
    return found


@compiled("intp(int16[:,:,::1], boolean[:,::1], intp, UniTuple(intp, 2), intp, float64[:,::1], float64[:,::1])")
def sample(
    shifts: NDArray[np.int16],
    inter: NDArray[np.bool_],
    step: int,
    size: tuple[int, int],
    spacing: int,
    points: Floats,
    vectors: Floats,
) -> int:
    """Collect the vectors of some points of a picture.

    Args:
        shifts: int16 [r, c, 2], from each point to its reference in quarters of a pixel.
        inter: bool [r, c], whether the point has a vector.
        step: points of the lattice between those that are looked at.
        size: width and height of the frame in pixels.
        spacing: pixels between neighbouring points of the lattice.
        points: [N, 2], written: in pixels from the middle of the frame.
        vectors: [N, 2], written: in pixels.

    Returns:
        How many there are.
    """
    rows, cols = inter.shape
    number = 0
    for i in range(0, rows, step):
        for j in range(0, cols, step):
            if inter[i, j]:
                points[number, 0] = (j + 0.5) * spacing - size[0] / 2
                points[number, 1] = (i + 0.5) * spacing - size[1] / 2
                vectors[number, 0], vectors[number, 1] = shifts[i, j, 0] / QUARTERS, shifts[i, j, 1] / QUARTERS
                number += 1
    return number


def fit_camera(points: Floats, vectors: Floats, back: Floats, guess: Floats | None) -> Floats:
    """Find the motion that most vectors agree on.

    Args:
        points: [N, 2].
        vectors: [N, 2], from the points to the reference, pixels.
        back: [K, 2, 3], the camera's motion from each candidate to the anchor before.
        guess: the motion as it would be if the camera went on as before.
    """
    number = len(points)
    displacements, sums = np.empty((len(back), 2, number)), np.empty(SUMS)
    lead(points, vectors, back, displacements)
    most, best = -1.0, STILL
    if guess is not None:
        best = guess.copy()
        most, firsts = converge(points, displacements, len(COARSE), best, sums)
        if most > GOOD * number and firsts > FIRST * number:
            return best
    start = STILL.copy()
    ordered = np.sort(displacements[0])
    start[:, 2] = (ordered[:, (number - 1) // 2] + ordered[:, number // 2]) / 2  # the median
    weight, _ = converge(points, displacements, 0, start, sums)
    # If the camera goes on as before and most blocks refer to an older picture, a multiple of its motion explains them
    # as well; if it doubles its speed, the motion before does. But only the truth explains the blocks that refer to
    # another picture than most. Where there are none, no block has had a reason to prefer an older one.
    return start if weight > AS_MUCH * most else best


@compiled("void(float64[:,::1], float64[:,::1], float64[:,:,::1], float64[:,:,::1])")
def lead(points: Floats, vectors: Floats, back: Floats, displacements: Floats) -> None:
    """Write where points [N, 2] were in the anchor before, from where they are, if their vectors [N, 2] lead to each
    of the candidates [K, 2, 3]: [K, 2, N]."""
    for n in range(len(back)):
        for p in range(len(points)):
            x, y = points[p, 0] + vectors[p, 0], points[p, 1] + vectors[p, 1]
            displacements[n, 0, p] = back[n, 0, 0] * x + back[n, 0, 1] * y + back[n, 0, 2] - points[p, 0]
            displacements[n, 1, p] = back[n, 1, 0] * x + back[n, 1, 1] * y + back[n, 1, 2] - points[p, 1]


@part
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


@compiled("Tuple((float64, intp))(float64[:,::1], float64[:,:,::1], intp, float64[:,::1], float64[::1])")
def converge(points: Floats, displacements: Floats, first: int, camera: Floats, sums: Floats) -> tuple[float, int]:
    """Improve a camera's motion round by round.

    Args:
        points: [N, 2].
        displacements: [K, 2, N], see `lead`.
        first: number of the round to begin with, in `SCALES`.
        camera: [2, 3], read and written.
        sums: [12], overwritten, see `solve`.

    Returns:
        How many points agreed in the last round, each weighted by how well; and how many of all led to the first
        candidate.
    """
    cases, firsts, explained = len(displacements), 0, 0.0
    for turn in range(first, len(SCALES)):
        scale = SCALES[turn]
        firsts, explained = 0, 0.0
        for n in range(SUMS):
            sums[n] = 0.0
        for p in range(len(points)):
            x, y = points[p, 0], points[p, 1]
            ex = camera[0, 0] * x + camera[0, 1] * y + camera[0, 2] - x
            ey = camera[1, 0] * x + camera[1, 1] * y + camera[1, 2] - y
            least, error, u, v, best = np.inf, 0.0, 0.0, 0.0, 0
            for n in range(1 if turn < len(COARSE) else cases):
                dx, dy = (displacements[n, 0, p] - ex) / scale, (displacements[n, 1, p] - ey) / scale
                off = 1.0 + dx * dx + dy * dy
                cost = off if n == 0 else OTHER * off
                if cost < least:
                    least, error, u, v, best = cost, off, displacements[n, 0, p], displacements[n, 1, p], n
            if best == 0:
                firsts += 1
            explained += 1.0 / (error * error)
            weight = 1.0 / (least * least)
            wx, wy, wu, wv = weight * x, weight * y, weight * u, weight * v
            sums[0] += weight
            sums[1] += wx
            sums[2] += wy
            sums[3] += wx * x
            sums[4] += wx * y
            sums[5] += wy * y
            sums[6] += wu
            sums[7] += wu * x
            sums[8] += wu * y
            sums[9] += wv
            sums[10] += wv * x
            sums[11] += wv * y
        solve(sums, camera)
    return explained, firsts


@compiled(
    "boolean(int16[:,:,::1], boolean[:,::1], UniTuple(intp, 2), intp, float64[:,:,::1], intp[::1], float64[:,::1],"
    "int8[:,::1], boolean[:,::1], float64[:,:,::1])"
)
def explain(
    shifts: NDArray[np.int16],
    inter: NDArray[np.bool_],
    size: tuple[int, int],
    spacing: int,
    back: Floats,
    cases: NDArray[np.intp],
    camera: Floats,
    choice: NDArray[np.int8],
    with_camera: NDArray[np.bool_],
    displacement: Floats,
) -> bool:
    """Find the candidate reference that each vector leads to, where the camera's motion tells.

    Args:
        shifts: int16 [r, c, 2], from each point to its reference in quarters of a pixel.
        inter: bool [r, c], whether the point has a vector.
        size: width and height of the frame in pixels.
        spacing: pixels between neighbouring points.
        back: [K, 2, 3], the camera's motion from each candidate to the anchor before.
        cases: [K], the candidates' numbers.
        camera: [2, 3], the camera's motion from this picture to the anchor before.
        choice: int8 [r, c], written where the camera tells: the number of the candidate.
        with_camera: bool [r, c], written: whether it tells.
        displacement: [r, c, 2], written where it tells: from the points to where their content was in the anchor
            before, pixels.

    Returns:
        Whether the camera's motion explains as many vectors as it must.
    """
    rows, cols = inter.shape
    middle_x, middle_y = size[0] / 2, size[1] / 2
    near = NEAR * min(1.0, size[0] / NEAR_WIDTH)
    found, total = 0, 0
    for i in range(rows):
        for j in range(cols):
            with_camera[i, j] = False
            if not inter[i, j]:
                continue
            total += 1
            px, py = (j + 0.5) * spacing - middle_x, (i + 0.5) * spacing - middle_y
            x, y = px + shifts[i, j, 0] / QUARTERS, py + shifts[i, j, 1] / QUARTERS
            ex = camera[0, 0] * px + camera[0, 1] * py + camera[0, 2] - px
            ey = camera[1, 0] * px + camera[1, 1] * py + camera[1, 2] - py
            least, error, second = np.inf, 0.0, np.inf
            for n in range(len(back)):
                bx = back[n, 0, 0] * x + back[n, 0, 1] * y + back[n, 0, 2] - px
                by = back[n, 1, 0] * x + back[n, 1, 1] * y + back[n, 1, 2] - py
                off = (bx - ex) * (bx - ex) + (by - ey) * (by - ey)
                cost = 1.0 + off if n == 0 else OTHER * (1.0 + off)
                if cost < least:
                    if n > 0:
                        second = min(second, error)
                    least, error, choice[i, j] = cost, off, cases[n]
                    displacement[i, j, 0], displacement[i, j, 1] = bx, by
                else:
                    second = min(second, off)
            if math.sqrt(error) < near + NEAR_SHARE * math.sqrt(ex * ex + ey * ey) and math.sqrt(second) >= APART:
                with_camera[i, j] = True
                found += 1
    return found >= MOST * total
