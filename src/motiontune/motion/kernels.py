"""The loops that run for every vector of every picture: with numba where it is installed (extra `fast`, `loops.py`),
else with numpy. Both do the same sums in the same order and give the same numbers, bit for bit; a test compares them.

Shapes: A anchors, K candidate references, r x c points of the lattice, N points that are followed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


loops: Any  # the module, or None
try:
    from motiontune.motion import loops
except ImportError:
    loops = None

Floats = NDArray[np.float64]

# libavutil's AVMotionVector
RECORD = np.dtype(
    [
        ("source", np.int32),
        ("w", np.uint8),
        ("h", np.uint8),
        ("src_x", np.int16),
        ("src_y", np.int16),
        ("dst_x", np.int16),
        ("dst_y", np.int16),
        ("flags", np.uint64),
        ("motion_x", np.int32),
        ("motion_y", np.int32),
        ("motion_scale", np.uint16),
    ],
    align=True,
)
QUARTERS = 4

# How far two velocities may differ to be called alike: this share of the vector, and pixels, over the frames that the
# vector spans, and pixels per frame
LIKE = (0.12, 0.35, 0.1)
# What speaks for a candidate: a neighbour that fits with its own second reference counts less than with its first
OTHER, BEFORE, FIRST = 0.6, 1.2, 0.35
# A vector shorter than this says little of its reference (pixels)
STILL = 0.5
# Vectors further apart than this belong to different things (pixels)
EDGE = 2.0
# A vector goes with the camera if it differs no more than this from its motion: pixels, and share of that motion
NEAR = (0.75, 0.02)
# How much worse it is to lead to another candidate than the first; at 1, half of the motion over twice the time would
# do as well
OTHER_REFERENCE = 1.05
NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0))


def spread(
    records: NDArray[np.void],
    spacing: int,
    left: int,
    top: int,
    shifts: NDArray[np.int16],
    inter: NDArray[np.bool_],
) -> None:
    """Write the vectors of blocks to the lattice points that the blocks cover.

    Args:
        records: `RECORD` [N].
        spacing: pixels between neighbouring points.
        left: pixels that the frame lacks at its left, of those that the records count.
        top: the same at its top.
        shifts: int16 [r, c, 2], written: quarters of a pixel.
        inter: bool [r, c], written.
    """
    if loops is not None:
        loops.spread(records, spacing, left, top, shifts, inter)
        return
    records = records[(records["source"] < 0) & (records["motion_scale"] > 0)]
    # half pixels in MPEG-1 and MPEG-2, quarters in H.264, either in MPEG-4
    scale = records["motion_scale"].astype(np.int64)[:, None]
    motion = np.stack([records["motion_x"], records["motion_y"]], axis=-1).astype(np.int64) * QUARTERS // scale
    motion = np.clip(motion, -32768, 32767).astype(np.int16)
    x0 = records["dst_x"].astype(np.int64) - records["w"] // 2 - left
    y0 = records["dst_y"].astype(np.int64) - records["h"] // 2 - top
    x1, y1 = x0 + records["w"], y0 + records["h"]
    half = spacing // 2
    # the first point at or after the block's edge, and the one after it: blocks have at most 16 pixels
    col, row = -((half - x0) // spacing), -((half - y0) // spacing)
    r = row[:, None] + np.array([0, 0, 1, 1])
    c = col[:, None] + np.array([0, 1, 0, 1])
    part = (r * spacing + half < y1[:, None]) & (c * spacing + half < x1[:, None])
    part &= (r >= 0) & (r < shifts.shape[0]) & (c >= 0) & (c < shifts.shape[1])
    # by record, so that where blocks overlap (in damaged streams) the last one stays
    shifts[r[part], c[part]] = motion[np.nonzero(part)[0]]
    inter[r[part], c[part]] = True


def choose(
    vectors: Floats, inter: NDArray[np.bool_], spans: Floats, before: Floats, known: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Say which of its picture's candidate references each vector points to.

    A candidate stands the better, the more the velocity that it implies is like the neighbours' and like the one
    before; the encoder's first reference has an advantage, because it is the cheapest to name.

    Args:
        vectors: [r, c, 2], from each point to its reference in pixels.
        inter: [r, c], whether a point has a vector.
        spans: [K], frames from each candidate to this picture.
        before: [r, c, 3], the content's velocity in the anchor before in pixels per frame, and above 0 if known.
        known: int64 [r, c], the candidates of vectors that need no choice, else -1.

    Returns:
        int64 [r, c], number of the candidate; -1 where there is no vector.
    """
    if len(spans) == 1:
        return np.where(inter, 0, -1)
    unknown = inter & (known < 0)
    chosen = np.where(unknown, 0, known)
    if loops is not None:
        loops.choose(vectors, inter, unknown, spans, before, (*LIKE, OTHER, BEFORE, FIRST, STILL), chosen)
        return chosen
    rows, cols = inter.shape
    x, y = vectors[..., 0], vectors[..., 1]
    length = np.sqrt(x * x + y * y)
    implied = [(x / span, y / span) for span in spans]
    around = []
    for down, right in NEIGHBOURS:
        here = (slice(max(0, -down), rows - max(0, down)), slice(max(0, -right), cols - max(0, right)))
        there = (slice(max(0, down), rows + min(0, down)), slice(max(0, right), cols + min(0, right)))
        around.append((here, there))
    neighbours = np.zeros(inter.shape)
    for here, there in around:
        neighbours[here] += inter[there]
    best = np.full(inter.shape, -1.0)
    for k, span in enumerate(spans):
        ux, uy = implied[k]
        tolerance = (LIKE[0] * length + LIKE[1]) / abs(span) + LIKE[2]
        total = np.zeros(inter.shape)
        for here, there in around:
            near = np.zeros(inter[here].shape)
            for m, (vx, vy) in enumerate(implied):
                dx, dy = ux[here] - vx[there], uy[here] - vy[there]
                like = 1.0 - np.sqrt(dx * dx + dy * dy) / tolerance[here]
                near = np.maximum(near, like if m == 0 else OTHER * like)
            total[here] += np.where(inter[there], near, 0.0)
        score = np.where(neighbours > 0, total / np.maximum(neighbours, 1), 0.0)
        # velocities point the way that content went, vectors back to where it came from
        dx, dy = ux + before[..., 0], uy + before[..., 1]
        like = 1.0 - np.sqrt(dx * dx + dy * dy) / (2.0 * tolerance)
        score += np.where((before[..., 2] > 0) & (like > 0), BEFORE * like, 0.0)
        if k == 0:
            score += FIRST
        better = unknown & (length > STILL) & (score > best)
        best[better] = score[better]
        chosen[better] = k
    return chosen


def explain(points: Floats, shifts: Floats, back: Floats, camera: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Say which of its picture's candidate references each vector points to, if it goes with the camera.

    Args:
        points: [r, c, 2], in pixels from the middle of the frame.
        shifts: [r, c, 2], from each point to its reference in pixels.
        back: [K, 3, 3], the camera's motion from each candidate to the anchor before.
        camera: [3, 3], the camera's motion from this picture to the anchor before.

    Returns:
        int64 [r, c], number of the candidate, -1 where the camera does not explain the vector; and [r, c, 2], the way
        from the points to where their content was in the anchor before, if it does.
    """
    chosen, way = np.zeros(points.shape[:2], np.int64), np.zeros(points.shape)
    if loops is not None:
        loops.explain(points, shifts, back, camera, (*NEAR, OTHER_REFERENCE), chosen, way)
        return chosen, way
    px, py = points[..., 0], points[..., 1]
    x, y = px + shifts[..., 0], py + shifts[..., 1]
    ex = camera[0, 0] * px + camera[0, 1] * py + camera[0, 2] - px
    ey = camera[1, 0] * px + camera[1, 1] * py + camera[1, 2] - py
    least, error = np.full(px.shape, np.inf), np.zeros(px.shape)
    for k, b in enumerate(back):
        wx = b[0, 0] * x + b[0, 1] * y + b[0, 2] - px
        wy = b[1, 0] * x + b[1, 1] * y + b[1, 2] - py
        off = (wx - ex) * (wx - ex) + (wy - ey) * (wy - ey)
        cost = 1.0 + off if k == 0 else OTHER_REFERENCE * (1.0 + off)
        better = cost < least
        least[better], error[better], chosen[better] = cost[better], off[better], k
        way[better, 0], way[better, 1] = wx[better], wy[better]
    near = NEAR[0] + NEAR[1] * np.sqrt(ex * ex + ey * ey)
    return np.where(np.sqrt(error) < near, chosen, -1), way


def walk(
    points: Floats,
    start: float,
    end: float,
    times: Floats,
    targets: Floats,
    shifts: Floats,
    velocities: Floats,
    trust: Floats,
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
        targets: [A, r, c], when the picture was shown that the vector leads to; nan where there is no vector.
        shifts: [A, r, c, 2], pixels.
        velocities: [A, r, c, 2], pixels per second since the anchor before.
        trust: [A, r, c], from 0 (nothing is known) to 1.
        size: width and height of the frame in pixels.
        spacing: pixels between neighbouring points of the lattice.

    Returns:
        [N, 2], where the points were at `end`, and [N], the product of what their vectors are trusted; 0 for a point
        that left the frame or could not be followed.
    """
    if loops is not None:
        ends, sure = points.copy(), np.zeros(len(points))
        loops.walk(
            start, end, times, targets, shifts, velocities, trust, *map(float, (*size, spacing)), EDGE, ends, sure
        )
        return ends, sure
    x, y = points[:, 0].copy(), points[:, 1].copy()
    now, sure = np.full(len(x), start), np.ones(len(x))
    last = int(np.searchsorted(times, start))
    if last >= len(times):
        return points.copy(), np.zeros(len(x))
    for k in range(last, 0, -1):
        for at_anchor in (True, False):
            due = (now > end) & (sure > 0)
            due &= (now == times[k]) if at_anchor else (now < times[k]) & (now > times[k - 1])
            moving = np.flatnonzero(due)
            if not len(moving):
                continue
            px, py, t = x[moving], y[moving], now[moving]
            ax, ay = px, py
            if not at_anchor:
                for _ in range(2):
                    vx, vy = interpolate(velocities[k], trust[k], ax / spacing - 0.5, ay / spacing - 0.5)
                    ax, ay = px + vx * (times[k] - t), py + vy * (times[k] - t)
            gx, gy = ax / spacing - 0.5, ay / spacing - 0.5
            row = np.clip(np.floor(gy + 0.5).astype(np.int64), 0, trust.shape[1] - 1)
            col = np.clip(np.floor(gx + 0.5).astype(np.int64), 0, trust.shape[2] - 1)
            sure[moving] *= trust[k, row, col]
            target = targets[k, row, col]
            with np.errstate(invalid="ignore"):
                jumps = at_anchor & (target < t) & ((target >= end) | (target >= times[k - 1]))
            following = np.maximum(times[k - 1], end)
            vx, vy = interpolate(velocities[k], trust[k], gx, gy)
            nx, ny = px - vx * (t - following), py - vy * (t - following)
            arrival = np.full(len(moving), following)
            if jumps.any():
                j = np.flatnonzero(jumps)
                sx, sy = _same_thing(shifts[k], targets[k], gx[j], gy[j], row[j], col[j])
                whole = t[j] - target[j]
                part = np.where(target[j] < end, (t[j] - end) / whole, 1.0)
                nx[j], ny[j] = px[j] + sx * part, py[j] + sy * part
                arrival[j] = np.where(target[j] < end, end, target[j])
            gone = sure[moving] <= 0
            nx, ny = np.where(gone, px, nx), np.where(gone, py, ny)
            outside = (nx < 0) | (ny < 0) | (nx > size[0]) | (ny > size[1])
            sure[moving[outside]] = 0
            x[moving], y[moving], now[moving] = nx, ny, arrival
    sure[now > end] = 0
    return np.stack([x, y], axis=-1), sure


def interpolate(field: Floats, trust: Floats, gx: Floats, gy: Floats) -> tuple[Floats, Floats]:
    """Interpolate between the known ones of the four points around (gx, gy), in units of the lattice."""
    rows, cols = trust.shape
    gx, gy = np.minimum(np.maximum(gx, 0.0), cols - 1.0), np.minimum(np.maximum(gy, 0.0), rows - 1.0)
    fx, fy = gx.astype(np.int64), gy.astype(np.int64)
    sx, sy, weight = np.zeros(len(gx)), np.zeros(len(gx)), np.zeros(len(gx))
    for down in range(2):
        for right in range(2):
            a, b = np.minimum(fy + down, rows - 1), np.minimum(fx + right, cols - 1)
            q = (1.0 - np.abs(gx - (fx + right))) * (1.0 - np.abs(gy - (fy + down)))
            q = np.where(trust[a, b] > 0, q, 0.0)
            sx += q * field[a, b, 0]
            sy += q * field[a, b, 1]
            weight += q
    found = weight > 0
    weight = np.where(found, weight, 1.0)
    return np.where(found, sx / weight, 0.0), np.where(found, sy / weight, 0.0)


def _same_thing(
    shifts: Floats, targets: Floats, gx: Floats, gy: Floats, row: NDArray[np.int64], col: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Interpolate between those of the four vectors around (gx, gy) that lead to the same picture as the nearest one
    at (row, col), and not elsewhere in it."""
    rows, cols = targets.shape
    fx, fy = np.floor(gx).astype(np.int64), np.floor(gy).astype(np.int64)
    sx, sy, weight = np.zeros(len(gx)), np.zeros(len(gx)), np.zeros(len(gx))
    for down in range(2):
        for right in range(2):
            inside = (fy + down >= 0) & (fx + right >= 0) & (fy + down < rows) & (fx + right < cols)
            a, b = np.clip(fy + down, 0, rows - 1), np.clip(fx + right, 0, cols - 1)
            dx, dy = shifts[a, b, 0] - shifts[row, col, 0], shifts[a, b, 1] - shifts[row, col, 1]
            part = inside & (targets[a, b] == targets[row, col]) & (dx * dx + dy * dy <= EDGE * EDGE)
            q = (1.0 - np.abs(gx - (fx + right))) * (1.0 - np.abs(gy - (fy + down)))
            q = np.where(part, q, 0.0)
            sx += q * shifts[a, b, 0]
            sy += q * shifts[a, b, 1]
            weight += q
    found = weight > 0
    weight = np.where(found, weight, 1.0)
    return (
        np.where(found, sx / weight, shifts[row, col, 0]),
        np.where(found, sy / weight, shifts[row, col, 1]),
    )
