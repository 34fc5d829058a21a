"""Points followed back in time, from anchor to anchor, along the vectors and velocities of `references.py`.

Shapes: A anchors, K candidate references, r x c points of the lattice over the decoded frame, N points that are
followed. The compiled functions take arrays of the lattice flat, where one number finds a point.
"""

import math

import numpy as np
from numpy.typing import NDArray

from motiontune.compiled import compiled, part
from motiontune.motion.follow.camera import Floats
from motiontune.motion.follow.references import Singles
from motiontune.video.lattice import QUARTERS


# Vectors further apart than this belong to different things (pixels)
EDGE = 2.0


def walk(
    points: Floats,
    start: float,
    end: float,
    times: Floats,
    candidates: Floats,
    chosen: NDArray[np.int8],
    shifts: NDArray[np.int16],
    velocities: Singles,
    confidence: Singles,
    size: tuple[int, int],
    spacing: int,
) -> tuple[Floats, Floats]:
    """Follow points back in time.

    At an anchor, a point goes with the vectors around it to the picture that they refer to. At any other time, and
    where there is no vector, it goes to the anchor before with the velocities of the one after.

    Args:
        points: [N, 2], in decoded pixels at `start`.
        start: seconds.
        end: seconds, before `start`.
        times: [A], seconds.
        candidates: [A, K], seconds; see `follow`, as for the next four.
        chosen: int8 [A, r, c].
        shifts: int16 [A, r, c, 2].
        velocities: float32 [A, r, c, 2].
        confidence: float32 [A, r, c].
        size: width and height of the frame in pixels.
        spacing: pixels between neighbouring points.

    Returns:
        [N, 2], where the points were at `end`, and [N], the product of the confidences on their way; 0 for a point
        that left the frame or could not be followed.
    """
    ends = points.copy()
    last = int(np.searchsorted(times, start))
    if last == len(times):
        return ends, np.zeros(len(points))
    product, moments = np.ones(len(points)), np.full(len(points), start)
    rows, cols = chosen.shape[1:]
    flat = shifts.reshape(-1)
    follow_back(
        last,
        end,
        times,
        candidates,
        chosen.reshape(-1),
        flat,
        flat.view(np.int32),
        velocities.reshape(-1),
        confidence.reshape(-1),
        (rows, cols),
        size,
        spacing,
        ends,
        moments,
        product,
    )
    product[moments > end] = 0.0
    return ends, product


def interpolate(field: Singles, confidence: Singles, points: Floats) -> Floats:
    """Interpolate between the known ones of the four values around each point.

    Args:
        field: float32 [r, c, 2].
        confidence: float32 [r, c], 0 where the value is not known.
        points: [N, 2], (x, y) in units of the lattice.

    Returns:
        [N, 2], zero where none of the four is known.
    """
    found = np.empty_like(points)
    look_up(field.reshape(-1), confidence.reshape(-1), 0, confidence.shape, points, found)
    return found


@part
def _look_up(
    values: Singles, confidence: Singles, base: int, rows: int, cols: int, gx: float, gy: float
) -> tuple[float, float]:
    """Interpolate in the picture that begins at `base`."""
    gx, gy = min(max(gx, 0.0), cols - 1.0), min(max(gy, 0.0), rows - 1.0)
    fx, fy = int(gx), int(gy)
    sx, sy, weight = 0.0, 0.0, 0.0
    for down in range(2):
        for right in range(2):
            at = base + min(fy + down, rows - 1) * cols + min(fx + right, cols - 1)
            if confidence[at] > 0.0:
                q = (1.0 - abs(gx - (fx + right))) * (1.0 - abs(gy - (fy + down)))
                sx += q * values[2 * at]
                sy += q * values[2 * at + 1]
                weight += q
    if weight <= 0.0:
        return 0.0, 0.0
    return sx / weight, sy / weight


@compiled("void(float32[::1], float32[::1], intp, UniTuple(intp, 2), float64[:,::1], float64[:,::1])")
def look_up(
    values: Singles, confidence: Singles, base: int, shape: tuple[int, int], points: Floats, found: Floats
) -> None:
    """Write what `interpolate` returns, in the picture that begins at `base`."""
    for p in range(len(points)):
        found[p, 0], found[p, 1] = _look_up(values, confidence, base, shape[0], shape[1], points[p, 0], points[p, 1])


@part
def _same_thing(
    shifts: NDArray[np.int16],
    chosen: NDArray[np.int8],
    base: int,
    here: int,
    left: int,
    top: int,
    rows: int,
    cols: int,
    gx: float,
    gy: float,
) -> tuple[float, float]:
    """Interpolate between those of the four vectors around (gx, gy) that lead to the same picture as the nearest one,
    `here`, and not elsewhere in it; pixels."""
    most = (EDGE * QUARTERS) * (EDGE * QUARTERS)
    x, y, choice = float(shifts[2 * here]), float(shifts[2 * here + 1]), chosen[here]
    sx, sy, weight, alike = 0.0, 0.0, 0.0, True
    for a in range(max(top, 0), min(top + 2, rows)):
        for b in range(max(left, 0), min(left + 2, cols)):
            at = base + a * cols + b
            nx, ny = float(shifts[2 * at]), float(shifts[2 * at + 1])
            dx, dy = nx - x, ny - y
            apart = dx * dx + dy * dy
            if chosen[at] == choice and apart <= most:
                q = (1.0 - abs(gx - b)) * (1.0 - abs(gy - a))
                sx += q * nx
                sy += q * ny
                weight += q
                alike &= apart == 0.0
    if alike or weight <= 0.0:
        return x / QUARTERS, y / QUARTERS
    return sx / weight / QUARTERS, sy / weight / QUARTERS


@compiled(
    "void(intp, float64, float64[::1], float64[:,::1], int8[::1], int16[::1], int32[::1], float32[::1], float32[::1],"
    "UniTuple(intp, 2), UniTuple(intp, 2), intp, float64[:,::1], float64[::1], float64[::1])"
)
def follow_back(
    last: int,
    end: float,
    times: Floats,
    candidates: Floats,
    chosen: NDArray[np.int8],
    shifts: NDArray[np.int16],
    both: NDArray[np.int32],
    velocities: Singles,
    confidence: Singles,
    shape: tuple[int, int],
    size: tuple[int, int],
    spacing: int,
    points: Floats,
    moments: Floats,
    products: Floats,
) -> None:
    """Move points from their moments towards `end`, as far as they can be followed.

    Args:
        last: the first anchor that is not shown before the points' moment.
        end: seconds.
        times: [A], seconds.
        candidates: [A, K], seconds.
        chosen: int8 [A * r * c].
        shifts: int16 [A * r * c * 2].
        both: int32 [A * r * c], the same memory: both coordinates in one number.
        velocities: float32 [A * r * c * 2].
        confidence: float32 [A * r * c].
        shape: (r, c).
        size: width and height of the frame in pixels.
        spacing: pixels between neighbouring points.
        points: [N, 2], read and written.
        moments: [N], read and written: when the points are there.
        products: [N], multiplied by the confidences on the way; 0 for a point that leaves the frame.
    """
    rows, cols = shape
    width, height, per_pixel = size[0], size[1], 1.0 / spacing
    # all points through one interval between anchors, then through the one before: the processor works on several
    for k in range(last, 0, -1):
        if times[k] <= end:
            break
        base = k * rows * cols
        for p in range(len(points)):
            x, y, now, product = points[p, 0], points[p, 1], moments[p], products[p]
            while now > end and now > times[k - 1] and product > 0.0:
                at_anchor = times[k] == now
                ax, ay = x, y
                if not at_anchor:
                    for _ in range(2):
                        gx, gy = ax * per_pixel - 0.5, ay * per_pixel - 0.5
                        vx, vy = _look_up(velocities, confidence, base, rows, cols, gx, gy)
                        ax, ay = x + vx * (times[k] - now), y + vy * (times[k] - now)
                gx, gy = ax * per_pixel - 0.5, ay * per_pixel - 0.5
                row = min(max(int(math.floor(gy + 0.5)), 0), rows - 1)
                col = min(max(int(math.floor(gx + 0.5)), 0), cols - 1)
                here = base + row * cols + col
                product *= confidence[here]
                if product <= 0.0:
                    break
                choice = chosen[here]
                reference = candidates[k, choice] if choice >= 0 else np.inf
                if at_anchor and reference < now and (reference >= end or reference >= times[k - 1]):
                    left, top = int(math.floor(gx)), int(math.floor(gy))
                    at = base + top * cols + left
                    # looked at here, as numba calls a function with such a shortcut instead of writing it out
                    if (
                        0 <= left < cols - 1
                        and 0 <= top < rows - 1
                        and both[at] == both[at + 1]
                        and both[at] == both[at + cols]
                        and both[at] == both[at + cols + 1]
                    ):
                        dx, dy = shifts[2 * here] / QUARTERS, shifts[2 * here + 1] / QUARTERS
                    else:
                        dx, dy = _same_thing(shifts, chosen, base, here, left, top, rows, cols, gx, gy)
                    if reference < end:
                        share = (now - end) / (now - reference)
                        x, y, now = x + dx * share, y + dy * share, end
                    else:
                        x, y, now = x + dx, y + dy, reference
                else:
                    following = max(times[k - 1], end)
                    vx, vy = _look_up(velocities, confidence, base, rows, cols, gx, gy)
                    x, y = x - vx * (now - following), y - vy * (now - following)
                    now = following
                if x < 0.0 or y < 0.0 or x > width or y > height:
                    product = 0.0
            points[p, 0], points[p, 1], moments[p], products[p] = x, y, now, product
