"""The numba half of `kernels.py`, where each function is explained: the same sums, one number at a time."""

import math
from typing import Any

import numpy as np
from numba import njit

from motiontune.motion.follow import camera
from motiontune.motion.follow.camera import COARSE, FINE, FIRST, GOOD, OTHER


SOON = 1e-6  # as in kernels.py
_since = njit(cache=True, nogil=True)(camera.since)
_solve = njit(cache=True, nogil=True)(camera.solve)


@njit(cache=True, nogil=True)
def spread(records: Any, spacing: int, left: int, top: int, shifts: Any, inter: Any) -> None:
    rows, cols = int(inter.shape[0]), int(inter.shape[1])
    half: int = spacing // 2
    for n in range(len(records)):
        record = records[n]
        scale = int(record.motion_scale)
        if record.source >= 0 or scale == 0:
            continue
        x, y = int(record.motion_x), int(record.motion_y)
        if scale != 4:
            x, y = x * 4 // scale, y * 4 // scale
        x, y = min(max(x, -32768), 32767), min(max(y, -32768), 32767)
        w, h = int(record.w), int(record.h)
        x0, y0 = int(record.dst_x) - w // 2 - left, int(record.dst_y) - h // 2 - top
        col, row = int(math.ceil((x0 - half) / spacing)), int(math.ceil((y0 - half) / spacing))
        for r in range(max(row, 0), min(row + 2, rows)):
            if r * spacing + half >= y0 + h:
                break
            for c in range(max(col, 0), min(col + 2, cols)):
                if c * spacing + half >= x0 + w:
                    break
                shifts[r, c, 0] = x
                shifts[r, c, 1] = y
                inter[r, c] = True


@njit(cache=True, nogil=True)
def follow(
    shifts: Any,
    inter: Any,
    times: Any,
    key: Any,
    believed: Any,
    candidates: Any,
    fixed: Any,
    rules: Any,
    chosen: Any,
    velocities: Any,
    trust: Any,
) -> None:
    middle_x, middle_y, spacing, rate, step = fixed
    most, min_points, filled = rules[10], rules[11], rules[12]
    anchors, rows, cols = inter.shape
    ambiguous = False
    for k in range(anchors):
        ambiguous |= np.isfinite(candidates[k]).sum() > 1
    cameras, moving = np.zeros((anchors, 2, 3)), np.zeros(anchors, np.bool_)
    fits, way = np.zeros((rows, cols), np.int8), np.zeros((rows, cols, 2))
    count = candidates.shape[1]
    back, spans, numbers, known = (
        np.zeros((count, 2, 3)),
        np.zeros(count),
        np.zeros(count, np.int8),
        np.zeros(count, np.int8),
    )
    points, vectors = np.zeros((rows * cols, 2)), np.zeros((rows * cols, 2))
    before = -1
    for k in range(anchors):
        count = 0
        for m in range(candidates.shape[1]):
            span = times[k] - candidates[k, m]
            if math.isfinite(span) and span > SOON:
                numbers[count], spans[count] = m, span
                count += 1
        if count == 0:
            before = -1 if key[k] else before
            continue
        fits[:] = -1
        sampled = 0
        if ambiguous:
            for i in range(0, rows, step):
                for j in range(0, cols, step):
                    if inter[k, i, j]:
                        points[sampled, 0], points[sampled, 1] = (
                            (j + 0.5) * spacing - middle_x,
                            (i + 0.5) * spacing - middle_y,
                        )
                        vectors[sampled, 0], vectors[sampled, 1] = shifts[k, i, j, 0] / 4, shifts[k, i, j, 1] / 4
                        sampled += 1
        if ambiguous and sampled >= min_points:
            cases = 0
            for n in range(count):
                if _since(candidates[k, numbers[n]], k - 1, times, cameras, moving, back[cases]):
                    known[cases] = n
                    cases += 1
            if cases > 0:
                guess = cameras[k]  # not yet written
                if moving[k - 1]:
                    part = (times[k] - times[k - 1]) / (times[k - 1] - times[k - 2])
                    for n in range(2):
                        for m in range(3):
                            still = 1.0 if n == m else 0.0
                            guess[n, m] = still + part * (cameras[k - 1, n, m] - still)
                _fit_camera(points[:sampled], vectors[:sampled], back[:cases], moving[k - 1], guess)
                found, total = _explain(shifts[k], inter[k], back[:cases], cameras[k], fixed, rules, fits, way)
                moving[k] = found >= most * total
                for i in range(rows):
                    for j in range(cols):
                        fits[i, j] = known[fits[i, j]] if moving[k] and fits[i, j] >= 0 else -1
        _choose(k, before, shifts, inter, spans[:count], fits, rate, velocities, trust, rules)
        per_interval, per_span = 1.0 / (times[k] - times[k - 1]), 1.0 / spans[:count]  # per second
        for i in range(rows):
            for j in range(cols):
                if not inter[k, i, j]:
                    continue
                n = abs(fits[i, j]) - 2 if fits[i, j] < -1 else fits[i, j]
                if fits[i, j] >= 0:
                    velocities[k, i, j, 0] = -way[i, j, 0] * per_interval
                    velocities[k, i, j, 1] = -way[i, j, 1] * per_interval
                else:
                    velocities[k, i, j, 0] = -(shifts[k, i, j, 0] / 4) * per_span[n]
                    velocities[k, i, j, 1] = -(shifts[k, i, j, 1] / 4) * per_span[n]
                chosen[k, i, j] = numbers[n]
                trust[k, i, j] = believed[k]
        for i in range(rows):
            for j in range(cols):
                if inter[k, i, j]:
                    continue
                sx, sy, neighbours = 0.0, 0.0, 0
                for a in range(max(i - 1, 0), min(i + 2, rows)):
                    for b in range(max(j - 1, 0), min(j + 2, cols)):
                        if inter[k, a, b]:
                            sx += velocities[k, a, b, 0]
                            sy += velocities[k, a, b, 1]
                            neighbours += 1
                if neighbours >= 3:
                    velocities[k, i, j, 0], velocities[k, i, j, 1] = sx / neighbours, sy / neighbours
                elif before >= 0 and trust[before, i, j] > 0:
                    velocities[k, i, j, 0], velocities[k, i, j, 1] = (
                        velocities[before, i, j, 0],
                        velocities[before, i, j, 1],
                    )
                else:
                    continue
                trust[k, i, j] = believed[k] * filled
        before = k


@njit(cache=True, nogil=True)
def _choose(
    k: int,
    before: int,
    shifts: Any,
    inter: Any,
    spans: Any,
    fits: Any,
    rate: float,
    velocities: Any,
    trust: Any,
    rules: Any,
) -> None:
    """Write -2 - n into `fits`, for candidate n, where the camera has chosen none."""
    share, pixels, frame, other, earlier, first, least = rules[:7]
    rows, cols = fits.shape
    count = len(spans)
    paces = 1.0 / (spans * rate)
    for i in range(rows):
        for j in range(cols):
            if not inter[k, i, j] or fits[i, j] >= 0:
                continue
            fits[i, j] = -2
            x, y = shifts[k, i, j, 0] / 4, shifts[k, i, j, 1] / 4
            length = math.sqrt(x * x + y * y)
            if count == 1 or length <= least:
                continue
            best = -1.0
            for n in range(count):
                strictness = 1.0 / ((share * length + pixels) * abs(paces[n]) + frame)
                ux, uy = x * paces[n], y * paces[n]
                like = 0.0
                if before >= 0 and trust[before, i, j] > 0.0:
                    dx = ux + velocities[before, i, j, 0] * (1.0 / rate)
                    dy = uy + velocities[before, i, j, 1] * (1.0 / rate)
                    like = max(1.0 - math.sqrt(dx * dx + dy * dy) * (0.5 * strictness), 0.0)
                if n > 0 and 1.0 + earlier * like <= best:
                    continue  # whatever the neighbours say
                total, neighbours = 0.0, 0
                for side in range(4):
                    a, b = i + (-1, 0, 0, 1)[side], j + (0, -1, 1, 0)[side]
                    if a < 0 or b < 0 or a >= rows or b >= cols or not inter[k, a, b]:
                        continue
                    neighbours += 1
                    nx, ny = shifts[k, a, b, 0] / 4, shifts[k, a, b, 1] / 4
                    dx, dy = ux - nx * paces[0], uy - ny * paces[0]
                    off, rest = dx * dx + dy * dy, np.inf
                    for m in range(1, count):
                        dx, dy = ux - nx * paces[m], uy - ny * paces[m]
                        rest = min(rest, dx * dx + dy * dy)
                    total += max(1.0 - math.sqrt(off) * strictness, other * (1.0 - math.sqrt(rest) * strictness), 0.0)
                score = total / neighbours if neighbours > 0 else 0.0
                score += earlier * like
                if n == 0:
                    score += first
                if score > best:
                    best = score
                    fits[i, j] = -2 - n


@njit(cache=True, nogil=True)
def _fit_camera(points: Any, vectors: Any, back: Any, guessed: bool, camera: Any) -> None:
    """Fit to `camera`, which holds the guess, if there is one."""
    number, cases = len(points), len(back)
    way = np.empty((cases, number, 2))
    for n in range(cases):
        for p in range(number):
            x, y = points[p, 0] + vectors[p, 0], points[p, 1] + vectors[p, 1]
            way[n, p, 0] = back[n, 0, 0] * x + back[n, 0, 1] * y + back[n, 0, 2] - points[p, 0]
            way[n, p, 1] = back[n, 1, 0] * x + back[n, 1, 1] * y + back[n, 1, 2] - points[p, 1]
    trial, best, sums = camera.copy(), camera.copy(), np.zeros(12)
    most = -1.0
    for attempt in range(0 if guessed else 1, 2):
        if attempt == 1:
            for row in range(2):
                ordered = np.sort(way[0, :, row])
                trial[row, 0], trial[row, 1] = 1.0 - row, float(row)
                trial[row, 2] = (ordered[(number - 1) // 2] + ordered[number // 2]) / 2
        firsts = 0
        for turn in range(4):
            if turn < 2 and attempt == 0:
                continue
            scale = (COARSE[0], COARSE[1], FINE[0], FINE[1])[turn]
            firsts = 0
            sums[:] = 0.0
            for p in range(number):
                x, y = points[p, 0], points[p, 1]
                ex = trial[0, 0] * x + trial[0, 1] * y + trial[0, 2] - x
                ey = trial[1, 0] * x + trial[1, 1] * y + trial[1, 2] - y
                least, u, v, first = np.inf, 0.0, 0.0, True
                for n in range(1 if turn < 2 else cases):
                    dx, dy = (way[n, p, 0] - ex) / scale, (way[n, p, 1] - ey) / scale
                    cost = 1.0 + dx * dx + dy * dy
                    if n > 0:
                        cost *= OTHER
                    if cost < least:
                        least, u, v, first = cost, way[n, p, 0], way[n, p, 1], n == 0
                firsts += first
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
            _solve(sums, trial)
        if sums[0] > most:
            most = sums[0]
            best[:] = trial
            if most > GOOD * number and firsts > FIRST * number:
                break
    camera[:] = best


@njit(cache=True, nogil=True)
def _explain(
    shifts: Any, inter: Any, back: Any, camera: Any, fixed: Any, rules: Any, fits: Any, way: Any
) -> tuple[int, int]:
    middle_x, middle_y, spacing = fixed[:3]
    pixels, share, apart = rules[7:10]
    rows, cols = fits.shape
    found, total = 0, 0
    for i in range(rows):
        for j in range(cols):
            if not inter[i, j]:
                continue
            total += 1
            px, py = (j + 0.5) * spacing - middle_x, (i + 0.5) * spacing - middle_y
            x, y = px + shifts[i, j, 0] / 4, py + shifts[i, j, 1] / 4
            ex = camera[0, 0] * px + camera[0, 1] * py + camera[0, 2] - px
            ey = camera[1, 0] * px + camera[1, 1] * py + camera[1, 2] - py
            least, error, second = np.inf, 0.0, np.inf
            for n in range(len(back)):
                wx = back[n, 0, 0] * x + back[n, 0, 1] * y + back[n, 0, 2] - px
                wy = back[n, 1, 0] * x + back[n, 1, 1] * y + back[n, 1, 2] - py
                off = (wx - ex) * (wx - ex) + (wy - ey) * (wy - ey)
                cost = 1.0 + off if n == 0 else OTHER * (1.0 + off)
                if cost < least:
                    if n > 0:
                        second = min(second, error)
                    least, error, fits[i, j] = cost, off, n
                    way[i, j, 0], way[i, j, 1] = wx, wy
                else:
                    second = min(second, off)
            if math.sqrt(error) < pixels + share * math.sqrt(ex * ex + ey * ey) and math.sqrt(second) >= apart:
                found += 1
            else:
                fits[i, j] = -1
    return found, total


@njit(cache=True, nogil=True)
def walk(
    fixed: Any,
    times: Any,
    candidates: Any,
    chosen: Any,
    shifts: Any,
    velocities: Any,
    trust: Any,
    ends: Any,
    sure: Any,
) -> None:
    start, end, width, height, spacing, edge = fixed
    rows, cols, per_pixel = chosen.shape[1], chosen.shape[2], 1.0 / spacing
    # one number finds a point, instead of three that are each looked at for being negative
    choices, ways = chosen.reshape(-1), shifts.reshape(-1)
    words, most = ways.view(np.int32), (edge * 4) * (edge * 4)
    paces, beliefs = velocities.reshape(-1), trust.reshape(-1)
    last = np.searchsorted(times, start)
    moments = np.full(len(ends), start)
    sure[:] = 1.0 if last < len(times) else 0.0
    # all points through one interval between anchors, then through the one before: the processor works on several
    for k in range(min(last, len(times) - 1), 0, -1):
        if times[k] <= end:
            break
        base = k * rows * cols
        for p in range(len(ends)):
            x, y, now, product = ends[p, 0], ends[p, 1], moments[p], sure[p]
            while now > end and now > times[k - 1] and product > 0.0:
                at_anchor = times[k] == now
                ax, ay = x, y
                if not at_anchor:
                    for _ in range(2):
                        vx, vy = _lookup(paces, beliefs, base, rows, cols, ax * per_pixel - 0.5, ay * per_pixel - 0.5)
                        ax, ay = x + vx * (times[k] - now), y + vy * (times[k] - now)
                gx, gy = ax * per_pixel - 0.5, ay * per_pixel - 0.5
                row = min(max(int(math.floor(gy + 0.5)), 0), rows - 1)
                col = min(max(int(math.floor(gx + 0.5)), 0), cols - 1)
                here = base + row * cols + col
                product *= beliefs[here]
                if product <= 0.0:
                    break
                choice = choices[here]
                target = candidates[k, choice] if choice >= 0 else np.inf
                if at_anchor and target < now and (target >= end or target >= times[k - 1]):
                    left, top = int(math.floor(gx)), int(math.floor(gy))
                    at = base + top * cols + left
                    # looked at here, as numba calls a function with such a shortcut instead of writing it out
                    if (
                        0 <= left < cols - 1
                        and 0 <= top < rows - 1
                        and words[at] == words[at + 1]
                        and words[at] == words[at + cols]
                        and words[at] == words[at + cols + 1]
                    ):
                        sx, sy = ways[2 * here] / 4, ways[2 * here + 1] / 4
                    else:
                        sx, sy = _same_thing(ways, choices, base, here, left, top, rows, cols, gx, gy, most)
                    if target < end:
                        part = (now - end) / (now - target)
                        x, y, now = x + sx * part, y + sy * part, end
                    else:
                        x, y, now = x + sx, y + sy, target
                else:
                    following = max(times[k - 1], end)
                    vx, vy = _lookup(paces, beliefs, base, rows, cols, gx, gy)
                    x, y = x - vx * (now - following), y - vy * (now - following)
                    now = following
                if x < 0.0 or y < 0.0 or x > width or y > height:
                    product = 0.0
            ends[p, 0], ends[p, 1], moments[p], sure[p] = x, y, now, product
    for p in range(len(ends)):
        if moments[p] > end:
            sure[p] = 0.0


@njit(cache=True, nogil=True)
def interpolate(field: Any, trust: Any, gx: Any, gy: Any, found_x: Any, found_y: Any) -> None:
    rows, cols = trust.shape
    paces, beliefs = field.reshape(-1), trust.reshape(-1)
    for p in range(len(gx)):
        found_x[p], found_y[p] = _lookup(paces, beliefs, 0, rows, cols, gx[p], gy[p])


@njit(cache=True, nogil=True)
def _lookup(paces: Any, beliefs: Any, base: int, rows: int, cols: int, gx: float, gy: float) -> tuple[float, float]:
    gx, gy = min(max(gx, 0.0), cols - 1.0), min(max(gy, 0.0), rows - 1.0)
    fx, fy = int(gx), int(gy)
    sx, sy, weight = 0.0, 0.0, 0.0
    for down in range(2):
        for right in range(2):
            at = base + min(fy + down, rows - 1) * cols + min(fx + right, cols - 1)
            if beliefs[at] > 0.0:
                q = (1.0 - abs(gx - (fx + right))) * (1.0 - abs(gy - (fy + down)))
                sx += q * paces[2 * at]
                sy += q * paces[2 * at + 1]
                weight += q
    if weight <= 0.0:
        return 0.0, 0.0
    return sx / weight, sy / weight


@njit(cache=True, nogil=True)
def _same_thing(
    ways: Any,
    choices: Any,
    base: int,
    here: int,
    left: int,
    top: int,
    rows: int,
    cols: int,
    gx: float,
    gy: float,
    most: float,
) -> tuple[float, float]:
    x, y, choice = float(ways[2 * here]), float(ways[2 * here + 1]), choices[here]
    sx, sy, weight, alike = 0.0, 0.0, 0.0, True
    for a in range(max(top, 0), min(top + 2, rows)):
        for b in range(max(left, 0), min(left + 2, cols)):
            at = base + a * cols + b
            nx, ny = float(ways[2 * at]), float(ways[2 * at + 1])
            dx, dy = nx - x, ny - y
            apart = dx * dx + dy * dy
            if choices[at] == choice and apart <= most:
                q = (1.0 - abs(gx - b)) * (1.0 - abs(gy - a))
                sx += q * nx
                sy += q * ny
                weight += q
                alike &= apart == 0.0
    if alike or weight <= 0.0:
        return x / 4, y / 4
    return sx / weight / 4, sy / weight / 4


@njit(cache=True, nogil=True)
def per_patch(moved: Any, trust: Any, least: float, spread: float, vectors: Any, confidence: Any) -> None:
    rows, cols, number = trust.shape
    ordered, median = np.empty((2, number)), np.empty(2)
    for i in range(rows):
        for j in range(cols):
            count, total, apart = 0, 0.0, 0.0
            for p in range(number):
                total += trust[i, j, p]
                if trust[i, j, p] > 0.0:
                    for axis in range(2):
                        at = count
                        while at > 0 and ordered[axis, at - 1] > moved[i, j, p, axis]:
                            ordered[axis, at] = ordered[axis, at - 1]
                            at -= 1
                        ordered[axis, at] = moved[i, j, p, axis]
                    count += 1
            if count == 0 or count < least * number:
                continue
            for axis in range(2):
                median[axis] = (ordered[axis, (count - 1) // 2] + ordered[axis, count // 2]) / 2
                vectors[i, j, axis] = median[axis]
            for p in range(number):
                if trust[i, j, p] > 0.0:
                    dx, dy = moved[i, j, p, 0] - median[0], moved[i, j, p, 1] - median[1]
                    apart += math.sqrt(dx * dx + dy * dy)
            confidence[i, j] = total / number / (1.0 + apart / count / spread)


@njit(cache=True, nogil=True)
def agree(vectors: Any, confidence: Any, rules: Any, around: Any, out: Any, sure: Any) -> None:
    unlike, doubt, most = rules
    rows, cols = confidence.shape
    reach = len(around) // 2
    for i in range(rows):
        for j in range(cols):
            if confidence[i, j] <= 0:
                continue
            sx, sy, weight, apart, count = 0.0, 0.0, 0.0, 0.0, 0.0
            for down in range(len(around)):
                for right in range(len(around)):
                    a, b = i + down - reach, j + right - reach
                    if a < 0 or b < 0 or a >= rows or b >= cols or confidence[a, b] <= 0:
                        continue
                    x, y = np.float64(vectors[a, b, 0]), np.float64(vectors[a, b, 1])
                    dx, dy = x - np.float64(vectors[i, j, 0]), y - np.float64(vectors[i, j, 1])
                    distance = math.sqrt(dx * dx + dy * dy)
                    near = around[down] * around[right]
                    q = near * np.float64(confidence[a, b]) * max(1.0 - distance / unlike, 0.0)
                    sx += q * x
                    sy += q * y
                    weight += q
                    apart += near * min(distance, most)
                    count += near
            out[i, j, 0], out[i, j, 1] = sx / weight, sy / weight
            sure[i, j] = np.float64(confidence[i, j]) / (1.0 + doubt * apart / count)
