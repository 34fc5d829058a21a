"""The loops that run for every vector of every picture: with numba where it is installed (extra `fast`, `loops.py`),
else with numpy. Both do the same sums in the same order and give the same numbers, bit for bit; a test compares them.

Shapes: A anchors, K candidate references, r x c points of the lattice over the decoded frame, N points that are
followed, R x C patches.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.motion.follow.camera import OTHER, fit_camera, part_of, since


loops: Any  # the module, or None
try:
    from motiontune.motion.follow import loops
except ImportError:
    loops = None

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

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
NEIGHBOUR, BEFORE, FIRST = 0.6, 1.2, 0.35
# A vector shorter than this says little of its reference (pixels)
LEAST = 0.5
# Vectors further apart than this belong to different things (pixels)
EDGE = 2.0
# A vector goes with the camera if it differs no more than this from its motion: pixels, of a frame of this width or a
# wider one, and share of that motion. Under another candidate it must differ by this (pixels; an encoder's steps are
# quarters): what is too slow for the camera to tell candidates apart is left to neighbours.
NEAR, NEAR_WIDTH, APART = (0.75, 0.02), 640, 0.2
# The camera's motion is found from about so many points, at least so many with vectors; it must explain a share of all
POINTS, MIN_POINTS, MOST = 200, 20, 0.3
# How much less a velocity is worth that comes from the neighbours, or from before
FILLED = 0.8
# References are shown at least this much before a picture (seconds)
SOON = 1e-6
NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0))
# Points of a patch that end this far apart halve its confidence (pixels of the resized frame)
SPREAD = 4.0
# Patches that differ by this in their motion have nothing to do with each other (pixels of the resized frame)
UNLIKE = 2.0
# How much a patch is trusted less for each pixel that those around it differ on average, and what counts at most
DOUBT, MOST_DOUBT = 0.05, 16.0
AROUND = (0.25, 0.75, 1.0, 0.75, 0.25)


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


def follow(
    shifts: NDArray[np.int16],
    inter: NDArray[np.bool_],
    times: Floats,
    key: NDArray[np.bool_],
    believed: Floats,
    candidates: Floats,
    size: tuple[int, int],
    spacing: int,
    rate: float,
) -> tuple[NDArray[np.int8], Singles, Singles]:
    """Choose each vector's reference, and say how the content moved since the anchor before.

    A vector goes with the camera where that tells its candidates apart (`camera.py`). Of the others' candidates one
    stands the better, the more the velocity that it implies is like the neighbours' and like the one before; the
    encoder's first reference has an advantage, because it is the cheapest to name. A hole is filled from its
    neighbours, or with the velocity before.

    Args:
        shifts: int16 [A, r, c, 2], from each point to its reference in quarters of a pixel.
        inter: bool [A, r, c], whether the point has a vector.
        times: [A], seconds.
        key: bool [A], true for I pictures.
        believed: [A], how far the vectors of a picture can be believed.
        candidates: [A, K], when the pictures were shown that blocks may refer to, seconds; nan where there is none.
        size: width and height of the frame in pixels.
        spacing: pixels between neighbouring points.
        rate: frames per second.

    Returns:
        int8 [A, r, c], the number of the candidate, -1 where there is no vector or nothing is known of the references;
        float32 [A, r, c, 2], pixels per second; float32 [A, r, c], what the velocity is trusted, 0 where it is not
        known.
    """
    chosen = np.full(inter.shape, -1, np.int8)
    velocities, trust = np.zeros((*inter.shape, 2), np.float32), np.zeros(inter.shape, np.float32)
    rows, cols = inter.shape[1:]
    step = max(1, int(np.sqrt(rows * cols / POINTS)))
    small = min(1.0, size[0] / NEAR_WIDTH)
    rules = (*LIKE, NEIGHBOUR, BEFORE, FIRST, LEAST, NEAR[0] * small, NEAR[1], APART, MOST, MIN_POINTS, FILLED)
    middle = (size[0] / 2, size[1] / 2)
    if loops is not None:
        fixed = (float(middle[0]), float(middle[1]), float(spacing), float(rate), step)
        loops.follow(shifts, inter, times, key, believed, candidates, fixed, rules, chosen, velocities, trust)
        return chosen, velocities, trust
    y, x = np.mgrid[:rows, :cols] + 0.5
    points = np.stack([x * spacing - middle[0], y * spacing - middle[1]], axis=-1)
    cameras, moving = np.zeros((len(times), 2, 3)), np.zeros(len(times), np.bool_)
    ambiguous = np.isfinite(candidates).sum(-1).max(initial=0) > 1
    coarse = (slice(None, None, step),) * 2
    before = -1
    for k in range(len(times)):
        spans = times[k] - candidates[k]
        with np.errstate(invalid="ignore"):
            numbers = np.flatnonzero(np.isfinite(spans) & (spans > SOON))
        if not len(numbers):
            before = -1 if key[k] else before
            continue
        vectors = shifts[k] / QUARTERS
        with_camera, way = np.full((rows, cols), -1), vectors
        sample = inter[k][coarse]
        if ambiguous and sample.sum() >= MIN_POINTS:
            back = np.zeros((len(numbers), 2, 3))
            at = candidates[k][numbers]
            known = [n for n in range(len(at)) if since(at[n], k - 1, times, cameras, moving, back[n])]
            if known:
                guess = None
                if moving[k - 1]:
                    guess = part_of(cameras[k - 1], (times[k] - times[k - 1]) / (times[k - 1] - times[k - 2]))
                cameras[k] = fit_camera(points[coarse][sample], vectors[coarse][sample], back[known], guess)
                fits, way = explain(points, vectors, back[known], cameras[k], rules[7:10])
                fits[~inter[k]] = -1
                moving[k] = (fits >= 0).sum() >= MOST * inter[k].sum()
                if moving[k]:
                    with_camera = np.where(fits >= 0, np.array(known)[fits], -1)
        earlier = (velocities[before].astype(np.float64) * (1.0 / rate), trust[before] > 0) if before >= 0 else None
        candidate = choose(vectors, inter[k], spans[numbers] * rate, earlier, with_camera)
        chosen[k] = np.where(inter[k], numbers[candidate], -1)
        velocity = np.where(
            (with_camera >= 0)[..., None],
            -way * (1.0 / (times[k] - times[k - 1])),
            -vectors * (1.0 / spans[numbers])[np.maximum(candidate, 0)][..., None],
        )
        velocities[k] = np.where(inter[k][..., None], velocity, 0)
        trust[k][inter[k]] = believed[k]
        near = _fill(velocities[k], inter[k])
        later = ~inter[k] & ~near
        if before >= 0:
            later &= trust[before] > 0
            velocities[k][later] = velocities[before][later]
            near |= later
        trust[k][near] = believed[k] * FILLED
        before = k
    return chosen, velocities, trust


def _fill(velocity: Singles, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill holes of [r, c, 2] with the mean of at least three neighbours; return which [r, c] were filled."""
    rows, cols = known.shape
    padded, there = np.pad(velocity, ((1, 1), (1, 1), (0, 0))), np.pad(known, 1)
    sums, count = np.zeros((rows, cols, 2)), np.zeros((rows, cols), np.int64)
    for down in range(3):
        for right in range(3):
            part = there[down : down + rows, right : right + cols]
            sums += np.where(part[..., None], padded[down : down + rows, right : right + cols], 0)
            count += part
    near = ~known & (count >= 3)
    velocity[near] = sums[near] / count[near][:, None]
    return near


def choose(
    vectors: Floats,
    inter: NDArray[np.bool_],
    spans: Floats,
    before: tuple[Floats, NDArray[np.bool_]] | None,
    known: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Say which of its picture's candidate references each vector points to, by its neighbours and what was before.

    Args:
        vectors: [r, c, 2], from each point to its reference in pixels.
        inter: [r, c], whether a point has a vector.
        spans: [K], frames from each candidate to this picture.
        before: [r, c, 2], the content's velocity in the anchor before in pixels per frame, and where it is known.
        known: int64 [r, c], the candidates of vectors that need no choice, else -1.

    Returns:
        int64 [r, c], number of the candidate; -1 where there is no vector.
    """
    if len(spans) == 1:
        return np.where(inter, 0, -1)
    unknown = inter & (known < 0)
    chosen = np.where(unknown, 0, known)
    rows, cols = inter.shape
    x, y = vectors[..., 0], vectors[..., 1]
    length = np.sqrt(x * x + y * y)
    paces = 1.0 / spans
    implied = [(x * pace, y * pace) for pace in paces]
    around = []
    for down, right in NEIGHBOURS:
        here = (slice(max(0, -down), rows - max(0, down)), slice(max(0, -right), cols - max(0, right)))
        there = (slice(max(0, down), rows + min(0, down)), slice(max(0, right), cols + min(0, right)))
        around.append((here, there))
    neighbours = np.zeros(inter.shape)
    for here, there in around:
        neighbours[here] += inter[there]
    best = np.full(inter.shape, -1.0)
    for k, pace in enumerate(paces):
        ux, uy = implied[k]
        strictness = 1.0 / ((LIKE[0] * length + LIKE[1]) * abs(pace) + LIKE[2])
        total = np.zeros(inter.shape)
        for here, there in around:
            near = np.zeros(inter[here].shape)
            for m, (vx, vy) in enumerate(implied):
                dx, dy = ux[here] - vx[there], uy[here] - vy[there]
                like = 1.0 - np.sqrt(dx * dx + dy * dy) * strictness[here]
                near = np.maximum(near, like if m == 0 else NEIGHBOUR * like)
            total[here] += np.where(inter[there], near, 0.0)
        score = np.where(neighbours > 0, total / np.maximum(neighbours, 1), 0.0)
        if before is not None:
            # velocities point the way that content went, vectors back to where it came from
            dx, dy = ux + before[0][..., 0], uy + before[0][..., 1]
            like = 1.0 - np.sqrt(dx * dx + dy * dy) * (0.5 * strictness)
            score += np.where(before[1] & (like > 0), BEFORE * like, 0.0)
        if k == 0:
            score += FIRST
        better = unknown & (length > LEAST) & (score > best)
        best[better] = score[better]
        chosen[better] = k
    return chosen


def explain(
    points: Floats, vectors: Floats, back: Floats, camera: Floats, near: tuple[float, float, float]
) -> tuple[NDArray[np.int64], Floats]:
    """Say which of its picture's candidate references each vector points to, if the camera's motion tells.

    Args:
        points: [r, c, 2], in pixels from the middle of the frame.
        vectors: [r, c, 2], from each point to its reference in pixels.
        back: [K, 2, 3], the camera's motion from each candidate to the anchor before.
        camera: [2, 3], the camera's motion from this picture to the anchor before.
        near: how far a vector may be off, in pixels and as a share of the motion; and how far it must be off under
            every other candidate.

    Returns:
        int64 [r, c], number of the candidate, -1 where the camera does not tell; and [r, c, 2], the way from the
        points to where their content was in the anchor before, if it does.
    """
    px, py = points[..., 0], points[..., 1]
    x, y = px + vectors[..., 0], py + vectors[..., 1]
    ex = camera[0, 0] * px + camera[0, 1] * py + camera[0, 2] - px
    ey = camera[1, 0] * px + camera[1, 1] * py + camera[1, 2] - py
    chosen, way = np.zeros(px.shape, np.int64), np.zeros(points.shape)
    least, error, second = np.full(px.shape, np.inf), np.zeros(px.shape), np.full(px.shape, np.inf)
    for k, b in enumerate(back):
        wx = b[0, 0] * x + b[0, 1] * y + b[0, 2] - px
        wy = b[1, 0] * x + b[1, 1] * y + b[1, 2] - py
        off = (wx - ex) * (wx - ex) + (wy - ey) * (wy - ey)
        cost = 1.0 + off if k == 0 else OTHER * (1.0 + off)
        better = cost < least
        if k > 0:
            second = np.where(better, np.minimum(second, error), np.minimum(second, off))
        least[better], error[better], chosen[better] = cost[better], off[better], k
        way[better, 0], way[better, 1] = wx[better], wy[better]
    fits = np.sqrt(error) < near[0] + near[1] * np.sqrt(ex * ex + ey * ey)
    return np.where(fits & (np.sqrt(second) >= near[2]), chosen, -1), way


def walk(
    points: Floats,
    start: float,
    end: float,
    times: Floats,
    candidates: Floats,
    chosen: NDArray[np.int8],
    shifts: NDArray[np.int16],
    velocities: Singles,
    trust: Singles,
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
        trust: float32 [A, r, c].
        size: width and height of the frame in pixels.
        spacing: pixels between neighbouring points.

    Returns:
        [N, 2], where the points were at `end`, and [N], the product of what their vectors are trusted; 0 for a point
        that left the frame or could not be followed.
    """
    if loops is not None:
        ends, sure = points.copy(), np.zeros(len(points))
        fixed = (*map(float, (start, end, *size, spacing)), EDGE)
        loops.walk(fixed, times, candidates, chosen, shifts, velocities, trust, ends, sure)
        return ends, sure
    x, y = points[:, 0].copy(), points[:, 1].copy()
    now, sure, per_pixel = np.full(len(x), start), np.ones(len(x)), 1.0 / spacing
    last = int(np.searchsorted(times, start))
    if last >= len(times):
        return points.copy(), np.zeros(len(x))
    for k in range(last, 0, -1):
        if times[k] <= end:
            break
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
                    vx, vy = interpolate(velocities[k], trust[k], ax * per_pixel - 0.5, ay * per_pixel - 0.5)
                    ax, ay = px + vx * (times[k] - t), py + vy * (times[k] - t)
            gx, gy = ax * per_pixel - 0.5, ay * per_pixel - 0.5
            row = np.clip(np.floor(gy + 0.5).astype(np.int64), 0, trust.shape[1] - 1)
            col = np.clip(np.floor(gx + 0.5).astype(np.int64), 0, trust.shape[2] - 1)
            sure[moving] *= trust[k, row, col]
            choice = chosen[k, row, col]
            target = np.where(choice >= 0, candidates[k][choice], np.inf)
            jumps = at_anchor & (target < t) & ((target >= end) | (target >= times[k - 1]))
            following = np.maximum(times[k - 1], end)
            vx, vy = interpolate(velocities[k], trust[k], gx, gy)
            nx, ny = px - vx * (t - following), py - vy * (t - following)
            arrival = np.full(len(moving), following)
            if jumps.any():
                j = np.flatnonzero(jumps)
                sx, sy = _same_thing(shifts[k], chosen[k], gx[j], gy[j], row[j], col[j])
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


def interpolate(field: NDArray[Any], trust: NDArray[Any], gx: Floats, gy: Floats) -> tuple[Floats, Floats]:
    """Interpolate between the known ones of the four points around (gx, gy), in units of the lattice."""
    if loops is not None:
        found = np.empty((2, len(gx)))
        loops.interpolate(field, trust, gx, gy, *found)
        return found[0], found[1]
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
    known = weight > 0
    weight = np.where(known, weight, 1.0)
    return np.where(known, sx / weight, 0.0), np.where(known, sy / weight, 0.0)


def _same_thing(
    shifts: NDArray[np.int16],
    chosen: NDArray[np.int8],
    gx: Floats,
    gy: Floats,
    row: NDArray[np.int64],
    col: NDArray[np.int64],
) -> tuple[Floats, Floats]:
    """Interpolate between those of the four vectors around (gx, gy) that lead to the same picture as the nearest one
    at (row, col), and not elsewhere in it; pixels."""
    rows, cols = chosen.shape
    fx, fy = np.floor(gx).astype(np.int64), np.floor(gy).astype(np.int64)
    shift = shifts.astype(np.float64)
    sx, sy, weight, alike = np.zeros(len(gx)), np.zeros(len(gx)), np.zeros(len(gx)), np.ones(len(gx), np.bool_)
    for down in range(2):
        for right in range(2):
            inside = (fy + down >= 0) & (fx + right >= 0) & (fy + down < rows) & (fx + right < cols)
            a, b = np.clip(fy + down, 0, rows - 1), np.clip(fx + right, 0, cols - 1)
            dx, dy = shift[a, b, 0] - shift[row, col, 0], shift[a, b, 1] - shift[row, col, 1]
            apart = dx * dx + dy * dy
            part = inside & (chosen[a, b] == chosen[row, col]) & (apart <= (EDGE * QUARTERS) * (EDGE * QUARTERS))
            q = (1.0 - np.abs(gx - (fx + right))) * (1.0 - np.abs(gy - (fy + down)))
            q = np.where(part, q, 0.0)
            sx += q * shift[a, b, 0]
            sy += q * shift[a, b, 1]
            weight += q
            alike &= ~part | (apart == 0)
    found = (weight > 0) & ~alike
    weight = np.where(found, weight, 1.0)
    return (
        np.where(found, sx / weight, shift[row, col, 0]) / QUARTERS,
        np.where(found, sy / weight, shift[row, col, 1]) / QUARTERS,
    )


def per_patch(moved: Floats, trust: Floats, least: float = 0.5) -> tuple[Singles, Singles]:
    """The median of each patch's points that could be followed, and how far it can be trusted.

    The confidence is the points' mean trust, less where they disagree.

    Args:
        moved: [R, C, P, 2], how each of a patch's P points moved.
        trust: [R, C, P], 0 for a point that could not be followed.
        least: the share of its points that a patch needs, above 0; without them its confidence is 0.

    Returns:
        float32 [R, C, 2] and float32 [R, C].
    """
    if loops is not None:
        vectors, confidence = np.zeros((*trust.shape[:2], 2), np.float32), np.zeros(trust.shape[:2], np.float32)
        loops.per_patch(moved, trust, least, SPREAD, vectors, confidence)
        return vectors, confidence
    good = trust > 0
    count = good.sum(-1)
    ordered = np.sort(np.where(good[..., None], moved, np.inf), axis=2)
    middle = [np.maximum(count - 1, 0) // 2, np.minimum(count // 2, good.shape[-1] - 1)]
    sides = [np.take_along_axis(ordered, m[..., None, None], axis=2)[:, :, 0] for m in middle]
    sides = [np.where(np.isfinite(side), side, 0) for side in sides]
    median = (sides[0] + sides[1]) / 2
    dx, dy = moved[..., 0] - median[:, :, None, 0], moved[..., 1] - median[:, :, None, 1]
    away = np.where(good, np.sqrt(dx * dx + dy * dy), 0)
    # one after the other, as a loop adds them
    apart, total = np.cumsum(away, -1)[..., -1], np.cumsum(trust, -1)[..., -1]
    enough = count >= least * good.shape[-1]
    sure = total / good.shape[-1] / (1.0 + apart / np.maximum(count, 1) / SPREAD)
    return np.where(enough[..., None], median, 0).astype(np.float32), np.where(enough, sure, 0).astype(np.float32)


def agree(vectors: Singles, confidence: Singles) -> tuple[Singles, Singles]:
    """Average each patch with those around it that move alike, and trust it less where they don't.

    An encoder's vectors are rounded and chosen for the fewest bits; what they are off by differs from block to block.

    Args:
        vectors: float32 [R, C, 2], pixels of the resized frame.
        confidence: float32 [R, C].

    Returns:
        The same two.
    """
    rows, cols = confidence.shape
    rules = (UNLIKE, DOUBT, MOST_DOUBT)
    if loops is not None:
        out, sure = np.zeros_like(vectors), np.zeros_like(confidence)
        loops.agree(vectors, confidence, rules, AROUND, out, sure)
        return out, sure
    reach = len(AROUND) // 2
    padded = np.pad(vectors.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)))
    there = np.pad(confidence.astype(np.float64), reach)
    sx, sy, weight, apart, count = np.zeros((5, rows, cols))
    for down, vertical in enumerate(AROUND):
        for right, horizontal in enumerate(AROUND):
            part = (slice(down, down + rows), slice(right, right + cols))
            x, y = padded[part][..., 0], padded[part][..., 1]
            dx, dy = x - vectors[..., 0], y - vectors[..., 1]
            distance = np.sqrt(dx * dx + dy * dy)
            near = vertical * horizontal
            q = near * there[part] * np.maximum(1.0 - distance / UNLIKE, 0.0)
            sx, sy, weight = sx + q * x, sy + q * y, weight + q
            apart += np.where(there[part] > 0, near * np.minimum(distance, MOST_DOUBT), 0.0)
            count += np.where(there[part] > 0, near, 0.0)
    known = confidence > 0
    mean = np.stack([sx, sy], axis=-1) / np.where(known, weight, 1.0)[..., None]
    trust = confidence / (1.0 + DOUBT * apart / np.where(known, count, 1.0))
    return np.where(known[..., None], mean, 0).astype(np.float32), np.where(known, trust, 0).astype(np.float32)
