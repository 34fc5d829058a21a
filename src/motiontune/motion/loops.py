"""The numba half of `kernels.py`, where each function is explained: the same sums, one number at a time."""

import math
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def spread(records: Any, spacing: int, left: int, top: int, shifts: Any, inter: Any) -> None:
    rows, cols = int(inter.shape[0]), int(inter.shape[1])
    half: int = spacing // 2
    for n in range(len(records)):
        record = records[n]
        scale = int(record.motion_scale)
        if record.source >= 0 or scale == 0:
            continue
        x = min(max(int(record.motion_x) * 4 // scale, -32768), 32767)
        y = min(max(int(record.motion_y) * 4 // scale, -32768), 32767)
        w, h = int(record.w), int(record.h)
        x0, y0 = int(record.dst_x) - w // 2 - left, int(record.dst_y) - h // 2 - top
        col, row = -((half - x0) // spacing), -((half - y0) // spacing)
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
def choose(vectors: Any, inter: Any, unknown: Any, spans: Any, before: Any, rules: Any, chosen: Any) -> None:
    share, pixels, frame, other, earlier, first, still = rules
    rows, cols = inter.shape
    count = len(spans)
    for i in range(rows):
        for j in range(cols):
            if not unknown[i, j]:
                continue
            x, y = vectors[i, j, 0], vectors[i, j, 1]
            length = math.sqrt(x * x + y * y)
            if length <= still:
                continue
            best = -1.0
            for k in range(count):
                tolerance = (share * length + pixels) / abs(spans[k]) + frame
                ux, uy = x / spans[k], y / spans[k]
                total, neighbours = 0.0, 0
                for n in range(4):
                    a, b = i + (-1, 0, 0, 1)[n], j + (0, -1, 1, 0)[n]
                    if a < 0 or b < 0 or a >= rows or b >= cols or not inter[a, b]:
                        continue
                    neighbours += 1
                    near = 0.0
                    for m in range(count):
                        dx, dy = ux - vectors[a, b, 0] / spans[m], uy - vectors[a, b, 1] / spans[m]
                        like = 1.0 - math.sqrt(dx * dx + dy * dy) / tolerance
                        if m > 0:
                            like = other * like
                        near = max(near, like)
                    total += near
                score = total / neighbours if neighbours > 0 else 0.0
                if before[i, j, 2] > 0.0:
                    dx, dy = ux + before[i, j, 0], uy + before[i, j, 1]
                    like = 1.0 - math.sqrt(dx * dx + dy * dy) / (2.0 * tolerance)
                    if like > 0.0:
                        score += earlier * like
                if k == 0:
                    score += first
                if score > best:
                    best = score
                    chosen[i, j] = k


@njit(cache=True, nogil=True)
def explain(points: Any, shifts: Any, back: Any, camera: Any, rules: Any, chosen: Any, way: Any) -> None:
    pixels, share, other = rules
    rows, cols = chosen.shape
    for i in range(rows):
        for j in range(cols):
            px, py = points[i, j, 0], points[i, j, 1]
            x, y = px + shifts[i, j, 0], py + shifts[i, j, 1]
            ex = camera[0, 0] * px + camera[0, 1] * py + camera[0, 2] - px
            ey = camera[1, 0] * px + camera[1, 1] * py + camera[1, 2] - py
            least, error = np.inf, 0.0
            for k in range(len(back)):
                wx = back[k, 0, 0] * x + back[k, 0, 1] * y + back[k, 0, 2] - px
                wy = back[k, 1, 0] * x + back[k, 1, 1] * y + back[k, 1, 2] - py
                off = (wx - ex) * (wx - ex) + (wy - ey) * (wy - ey)
                cost = 1.0 + off if k == 0 else other * (1.0 + off)
                if cost < least:
                    least, error, chosen[i, j] = cost, off, k
                    way[i, j, 0], way[i, j, 1] = wx, wy
            if not math.sqrt(error) < pixels + share * math.sqrt(ex * ex + ey * ey):
                chosen[i, j] = -1


@njit(cache=True, nogil=True)
def walk(
    start: Any,
    end: Any,
    times: Any,
    targets: Any,
    shifts: Any,
    velocities: Any,
    trust: Any,
    width: Any,
    height: Any,
    spacing: Any,
    edge: float,
    ends: Any,
    sure: Any,
) -> None:
    rows, cols = targets.shape[1], targets.shape[2]
    for p in range(len(ends)):
        x, y, now, product = ends[p, 0], ends[p, 1], start, 1.0
        while now > end and product > 0.0:
            k = np.searchsorted(times, now)
            if k >= len(times) or k < 1:
                product = 0.0
                break
            at_anchor = times[k] == now
            ax, ay = x, y
            if not at_anchor:
                for _ in range(2):
                    vx, vy = _lookup(velocities[k], trust[k], ax / spacing - 0.5, ay / spacing - 0.5)
                    ax, ay = x + vx * (times[k] - now), y + vy * (times[k] - now)
            gx, gy = ax / spacing - 0.5, ay / spacing - 0.5
            row = min(max(int(math.floor(gy + 0.5)), 0), rows - 1)
            col = min(max(int(math.floor(gx + 0.5)), 0), cols - 1)
            product *= trust[k, row, col]
            if product <= 0.0:
                break
            target = targets[k, row, col]
            if at_anchor and target < now and (target >= end or target >= times[k - 1]):
                sx, sy = _same_thing(shifts[k], targets[k], gx, gy, row, col, edge)
                if target < end:
                    part = (now - end) / (now - target)
                    x, y, now = x + sx * part, y + sy * part, end
                else:
                    x, y, now = x + sx, y + sy, target
            else:
                following = max(times[k - 1], end)
                vx, vy = _lookup(velocities[k], trust[k], gx, gy)
                x, y = x - vx * (now - following), y - vy * (now - following)
                now = following
            if x < 0.0 or y < 0.0 or x > width or y > height:
                product = 0.0
        ends[p, 0], ends[p, 1], sure[p] = x, y, product


@njit(cache=True, nogil=True)
def _lookup(field: Any, trust: Any, gx: float, gy: float) -> tuple[float, float]:
    rows, cols = trust.shape
    gx, gy = min(max(gx, 0.0), cols - 1.0), min(max(gy, 0.0), rows - 1.0)
    fx, fy = int(gx), int(gy)
    sx, sy, weight = 0.0, 0.0, 0.0
    for down in range(2):
        for right in range(2):
            a, b = min(fy + down, rows - 1), min(fx + right, cols - 1)
            if trust[a, b] > 0.0:
                q = (1.0 - abs(gx - (fx + right))) * (1.0 - abs(gy - (fy + down)))
                sx += q * field[a, b, 0]
                sy += q * field[a, b, 1]
                weight += q
    if weight <= 0.0:
        return 0.0, 0.0
    return sx / weight, sy / weight


@njit(cache=True, nogil=True)
def _same_thing(
    shifts: Any, targets: Any, gx: float, gy: float, row: int, col: int, edge: float
) -> tuple[float, float]:
    rows, cols = targets.shape
    fx, fy = int(math.floor(gx)), int(math.floor(gy))
    sx, sy, weight = 0.0, 0.0, 0.0
    for down in range(2):
        for right in range(2):
            a, b = fy + down, fx + right
            if a < 0 or b < 0 or a >= rows or b >= cols or targets[a, b] != targets[row, col]:
                continue
            dx, dy = shifts[a, b, 0] - shifts[row, col, 0], shifts[a, b, 1] - shifts[row, col, 1]
            if dx * dx + dy * dy > edge * edge:
                continue
            q = (1.0 - abs(gx - (fx + right))) * (1.0 - abs(gy - (fy + down)))
            sx += q * shifts[a, b, 0]
            sy += q * shifts[a, b, 1]
            weight += q
    if weight <= 0.0:
        return shifts[row, col, 0], shifts[row, col, 1]
    return sx / weight, sy / weight
