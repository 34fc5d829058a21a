"""Vectors on a lattice, their references, and points that are followed: against known motion and slow references."""

import math
from typing import Any

import numpy as np
import pytest

from motiontune.motion.follow.references import (
    BEFORE,
    FILLED,
    FIRST,
    LEAST,
    LIKE_PACE,
    LIKE_PIXELS,
    LIKE_SHARE,
    NEIGHBOUR,
    References,
    choose,
    move,
)
from motiontune.motion.follow.track import Track
from motiontune.motion.follow.walk import EDGE, interpolate, walk
from motiontune.video.lattice import QUARTERS, RECORD, spread
from motiontune.video.vectors import Anchor, Between, Lattice


@pytest.mark.parametrize("seed", range(12))
def test_spread(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols = random.integers(1, 24, 2)
    spacing, left, top = int([8, 16, 24][seed % 3]), 2, 4
    records = np.zeros(400, RECORD)
    records["source"] = random.integers(-1, 2, 400)
    records["w"], records["h"] = random.choice([8, 16], (2, 400))
    records["dst_x"] = random.integers(-20, cols * 8 + 20, 400)
    records["dst_y"] = random.integers(-20, rows * 8 + 20, 400)
    records["motion_x"], records["motion_y"] = random.integers(-90000, 90000, 400), random.integers(-99, 99, 400)
    records["motion_scale"] = random.choice([0, 1, 2, 4], 400)
    records.flags.writeable = seed % 2 == 0
    shifts, inter = np.zeros((rows, cols, 2), np.int16), np.zeros((rows, cols), np.bool_)
    spread(records, spacing, left, top, shifts, inter)

    y, x = (np.arange(count) * spacing + spacing // 2 for count in (rows, cols))
    expected, covered = np.zeros_like(shifts), np.zeros_like(inter)
    for record in records:
        if record["source"] < 0 and record["motion_scale"]:
            x0, y0 = record["dst_x"] - record["w"] // 2 - left, record["dst_y"] - record["h"] // 2 - top
            inside = np.outer((y >= y0) & (y < y0 + record["h"]), (x >= x0) & (x < x0 + record["w"]))
            vector = [math.floor(record[name] * 4 / record["motion_scale"]) for name in ("motion_x", "motion_y")]
            expected[inside], covered[inside] = np.clip(vector, -32768, 32767), True
    np.testing.assert_array_equal(shifts, expected)
    np.testing.assert_array_equal(inter, covered)
    assert inter.any() and not inter.all()


def test_a_block_covers_its_points() -> None:
    records = np.zeros(1, RECORD)
    names = ["source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"]
    records[names] = (-1, 16, 8, 24, 12, 5, -6, 4)
    shifts, inter = np.zeros((4, 6, 2), np.int16), np.zeros((4, 6), np.bool_)
    spread(records, 8, 0, 0, shifts, inter)
    assert np.argwhere(inter).tolist() == [[1, 2], [1, 3]]
    assert (shifts[inter] == [5, -6]).all()


def follow(
    shifts: Any,
    inter: Any,
    times: Any,
    key: Any,
    reliability: Any,
    candidates: Any,
    size: tuple[int, int],
    spacing: int,
    rate: float,
) -> tuple[Any, Any, Any]:
    """What `References` finds of each anchor: chosen [A, r, c], velocities [A, r, c, 2] and confidence [A, r, c]."""
    references = References(Lattice("h264", *size, spacing, rate))
    references.ambiguous = bool((np.isfinite(candidates).sum(-1) > 1).any())
    found = [
        references.add(Anchor(float(time), bool(is_key), float(confidence), ours[np.isfinite(ours)], *vectors))
        for time, is_key, confidence, ours, *vectors in zip(
            times, key, reliability, candidates, shifts, inter, strict=True
        )
    ]
    chosen, velocities, confidence = (np.stack(arrays) for arrays in zip(*found, strict=True))
    return chosen, velocities, confidence


def stream(seed: int) -> dict[str, Any]:
    """Anchors with random vectors of a moving camera, of things that move by themselves, and of nothing."""
    random = np.random.default_rng(seed)
    anchors, (rows, cols) = 9, random.integers(2, 24, 2).tolist()
    times = random.uniform(0.02, 0.05, anchors).cumsum()
    count, spacing = seed % 4 + 1, (8, 16, 24)[seed % 3]
    candidates = np.full((anchors, count), np.nan)
    key = np.zeros(anchors, np.bool_)
    key[[0, 5]] = seed % 2 == 0, seed % 3 == 0
    shifts = np.zeros((anchors, rows, cols, 2))
    for k in range(1, anchors):
        number = 1 if k == 1 else random.integers(0, count + 1)
        candidates[k, :number] = times[np.maximum(k - 1 - random.permutation(number), 0)]
        if number > 1 and random.random() < 0.3:
            candidates[k, number - 1] -= 0.01  # a B picture, between two anchors
        pan = random.normal(0, 4, 2) + (random.normal(0, 8, (rows, cols, 2)) if seed % 5 == 0 else 0)
        shifts[k] = pan * random.integers(1, count + 1, (rows, cols, 1)) + random.normal(0, 1, (rows, cols, 2))
    inter = random.random((anchors, rows, cols)) < 0.8
    inter[~np.isfinite(candidates).any(-1)] &= seed % 2 == 0  # vectors to nobody knows where
    return {
        "shifts": np.rint(shifts).astype(np.int16),
        "inter": inter,
        "times": times,
        "key": key,
        "reliability": random.choice([1.0, 0.2], anchors),
        "candidates": candidates,
        "size": (cols * spacing, rows * spacing),
        "spacing": spacing,
        "rate": 30.0,
    }


@pytest.mark.parametrize("seed", range(30))
def test_follow(seed: int) -> None:
    made = stream(seed)
    chosen, velocities, confidence = follow(**made)
    known = np.isfinite(made["candidates"]).any(-1)[:, None, None] & made["inter"]
    assert ((chosen >= 0) == known).all()
    np.testing.assert_array_equal(
        confidence[known], np.broadcast_to(made["reliability"][:, None, None], known.shape)[known].astype(np.float32)
    )
    assert np.isfinite(velocities).all() and not velocities[confidence == 0].any()
    assert (chosen < np.isfinite(made["candidates"]).sum(-1)[:, None, None]).all()
    if seed % 4 == 0:  # one reference each
        for k, i, j in np.argwhere(known):
            span = made["times"][k] - made["candidates"][k, 0]
            np.testing.assert_allclose(velocities[k, i, j], -made["shifts"][k, i, j] / 4 / span, rtol=1e-6)


def test_a_hole_has_the_velocity_of_its_neighbours_or_the_one_before() -> None:
    times, candidates = np.array([0.0, 0.1, 0.2, 0.3]), np.array([[np.nan], [0.0], [0.1], [np.nan]])
    inter = np.zeros((4, 3, 4), np.bool_)
    inter[1, :, 0] = inter[2, :, 3] = True
    shifts = np.zeros((4, 3, 4, 2), np.int16)
    shifts[1], shifts[2] = (4, -8), (-12, 0)
    shifts[1, 1, 0] = (16, -8)  # the middle one of three
    key = np.array([True, False, False, True])
    chosen, velocities, confidence = follow(
        shifts, inter, times, key, np.array([1.0, 0.5, 1.0, 1.0]), candidates, (32, 24), 8, 30.0
    )
    assert (chosen[1] == np.where(inter[1], 0, -1)).all()
    np.testing.assert_allclose(velocities[1, :, 0], [[-10, 20], [-40, 20], [-10, 20]], rtol=1e-6)
    np.testing.assert_allclose(velocities[1, 1, 1], [-20, 20], rtol=1e-6)  # three neighbours; above it only two
    np.testing.assert_allclose(confidence[1], 0.5 * np.array([[1, 0, 0, 0], [1, FILLED, 0, 0], [1, 0, 0, 0]]))
    np.testing.assert_allclose(velocities[2, :, 3], np.broadcast_to([30, 0], (3, 2)), rtol=1e-6)
    np.testing.assert_allclose(velocities[2, 0, 0], [-10, 20], rtol=1e-6)  # as in the anchor before
    np.testing.assert_allclose(confidence[2, :, 0], FILLED)
    assert confidence[2, 0, 1] == 0 and not confidence[3].any() and not confidence[0].any()


def slow_choice(
    made: dict[str, Any], i: int, j: int, paces: Any, velocities: Any, confidence: Any
) -> tuple[int, float]:
    """The candidate of one vector, and by how much its score is better than the next one's."""
    vectors, inter = made["shifts"] / QUARTERS, made["inter"]
    length = np.hypot(*vectors[i, j])
    if length <= LEAST:
        return 0, 1.0
    scores = []
    for n, pace in enumerate(paces):
        tolerance = (LIKE_SHARE * length + LIKE_PIXELS) * pace + LIKE_PACE
        around = []
        for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= a < inter.shape[0] and 0 <= b < inter.shape[1] and inter[a, b]:
                likeness = [1 - np.linalg.norm(vectors[i, j] * pace - vectors[a, b] * p) / tolerance for p in paces]
                around.append(max(likeness[0], NEIGHBOUR * max(likeness[1:]), 0))
        score = float(np.mean(around)) if around else 0.0
        if confidence[i, j] > 0:
            off = np.linalg.norm(vectors[i, j] * pace + velocities[i, j] / made["rate"])
            score += BEFORE * max(1 - off / (2 * tolerance), 0)
        scores.append(score + (FIRST if n == 0 else 0))
    order = np.argsort(scores)
    return int(order[-1]), scores[order[-1]] - scores[order[-2]]


@pytest.mark.parametrize("seed", range(6))
def test_choose(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape, paces = (7, 9), 1 / np.array([1.0, 2.0, 3.5])
    shifts = np.rint(random.normal(0, 6, 2) * random.integers(1, 4, (*shape, 1)) + random.normal(0, 1, (*shape, 2)))
    made = {"shifts": shifts.astype(np.int16), "inter": random.random(shape) < 0.8, "rate": 25.0}
    velocities = random.normal(0, 40, (*shape, 2)).astype(np.float32)
    confidence = random.choice([0.0, 0.8, 1.0], shape).astype(np.float32)
    kept, choice = random.random(shape) < 0.2, np.full(shape, 2, np.int8)
    choose(made["shifts"], made["inter"], paces, 1 / 25.0, True, velocities, confidence, kept, choice)
    compared = 0
    for i, j in np.argwhere(made["inter"] & ~kept):
        expected, margin = slow_choice(made, i, j, paces, velocities, confidence)
        if margin > 1e-9:
            assert choice[i, j] == expected
            compared += 1
    assert compared > 20 and (choice[kept] == 2).all()


def test_choose_finds_the_reference_under_which_all_move_as_before() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (12, 16))
    spans = np.array([1.0, 2.0, 3.0])
    shifts = (spans[truth][..., None] * np.array([4.0, -2.5]) * QUARTERS).astype(np.int16)
    before = np.full((12, 16, 2), (-4.0, 2.5), np.float32), np.ones((12, 16), np.float32)
    inter, choice = np.ones((12, 16), np.bool_), np.full((12, 16), -1, np.int8)
    choose(shifts, inter, 1 / spans, 1.0, True, *before, ~inter, choice)
    np.testing.assert_array_equal(choice, truth)


def test_a_vector_that_goes_with_the_camera_has_the_velocity_of_its_displacement() -> None:
    inter, with_camera = np.ones((2, 3), np.bool_), np.zeros((2, 3), np.bool_)
    with_camera[1] = True
    shifts, displacement = np.full((2, 3, 2), (8, -4), np.int16), np.full((2, 3, 2), (3.0, 1.0))
    velocities, confidence = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3), np.float32)
    before = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3), np.float32)
    chosen = np.zeros((2, 3), np.int8)
    move(
        *(shifts, inter, np.ones((2, 3), np.int8), np.array([10.0, 5.0]), with_camera, displacement, 10.0, 0.7),
        *(False, *before, velocities, confidence, np.array([0, 2]), chosen),
    )
    np.testing.assert_allclose(velocities[0], np.broadcast_to([-10, 5], (3, 2)))
    np.testing.assert_allclose(velocities[1], np.broadcast_to([-30, -10], (3, 2)))
    np.testing.assert_allclose(confidence, 0.7)
    assert (chosen == 2).all()


def slow_interpolate(field: Any, confidence: Any, x: float, y: float) -> Any:
    rows, cols = confidence.shape
    x, y = min(max(x, 0), cols - 1), min(max(y, 0), rows - 1)
    total, weight = np.zeros(2), 0.0
    for a in {int(y), min(int(y) + 1, rows - 1)}:
        for b in {int(x), min(int(x) + 1, cols - 1)}:
            if confidence[a, b] > 0:
                share = (1 - abs(x - b)) * (1 - abs(y - a))
                total, weight = total + share * field[a, b], weight + share
    return total / weight if weight > 0 else total


@pytest.mark.parametrize("seed", range(12))
def test_interpolate(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols = random.integers(1, 24, 2)
    field = random.normal(0, 4, (rows, cols, 2)).astype(np.float32)
    confidence = random.choice([0.0, 0.8, 1.0], (rows, cols)).astype(np.float32)
    points = random.uniform(-2, 26, (300, 2))
    expected = [slow_interpolate(field, confidence, *point) for point in points]
    np.testing.assert_allclose(interpolate(field, confidence, points), expected, atol=1e-9)


def slow_walk(point: Any, start: float, end: float, made: dict[str, Any], fields: Any) -> tuple[Any, float]:
    """Follow one point as `walk` describes it."""
    times, candidates, spacing = made["times"], made["candidates"], made["spacing"]
    chosen, velocities, confidence = fields
    rows, cols = chosen.shape[1:]
    place, now, product = np.array(point), start, 1.0
    while now > end:
        k = int(np.searchsorted(times, now))
        if not 0 < k < len(times):
            return place, 0.0
        at = place
        if now != times[k]:  # where it will be at the anchor after: from there its velocity is taken
            for _ in range(2):
                at = place + slow_interpolate(velocities[k], confidence[k], *(at / spacing - 0.5)) * (times[k] - now)
        x, y = at / spacing - 0.5
        i, j = (min(max(math.floor(c + 0.5), 0), n - 1) for c, n in ((y, rows), (x, cols)))
        product *= float(confidence[k, i, j])
        if product == 0:
            return place, 0.0
        when = candidates[k, chosen[k, i, j]] if chosen[k, i, j] >= 0 else np.inf
        if now == times[k] and when < now and (when >= end or when >= times[k - 1]):
            vectors, total, weight = made["shifts"][k] / QUARTERS, np.zeros(2), 0.0
            for a in (math.floor(y), math.floor(y) + 1):
                for b in (math.floor(x), math.floor(x) + 1):
                    inside = 0 <= a < rows and 0 <= b < cols and chosen[k, a, b] == chosen[k, i, j]
                    if inside and np.linalg.norm(vectors[a, b] - vectors[i, j]) <= EDGE:
                        share = (1 - abs(x - b)) * (1 - abs(y - a))
                        total, weight = total + share * vectors[a, b], weight + share
            vector = total / weight if weight > 0 else vectors[i, j]
            place = place + vector * min((now - end) / (now - when), 1.0)
            now = max(when, end)
        else:
            following = max(times[k - 1], end)
            place = place - slow_interpolate(velocities[k], confidence[k], x, y) * (now - following)
            now = following
        if (place < 0).any() or (place > made["size"]).any():
            return place, 0.0
    return place, product


@pytest.mark.parametrize("seed", range(20))
def test_walk(seed: int) -> None:
    random = np.random.default_rng(seed)
    made = stream(seed)
    times, fields = made["times"], follow(**made)
    points = random.random((60, 2)) * made["size"]
    start = float(times[-2] if seed % 2 else random.uniform(times[1], times[-1]))
    end = float(times[1] if seed % 4 == 1 else random.uniform(times[0] - 0.1, start))
    chosen, velocities, confidence = fields
    arrays = (times, made["candidates"], chosen, made["shifts"], velocities, confidence)
    ends, product = walk(points, start, end, *arrays, made["size"], made["spacing"])
    expected = [slow_walk(point, start, end, made, fields) for point in points]
    np.testing.assert_allclose(product, [p for _, p in expected], rtol=1e-6)
    for p in np.flatnonzero(product):
        np.testing.assert_allclose(ends[p], expected[p][0], atol=1e-6)


@pytest.mark.parametrize("references", [1, 3])
def test_points_of_a_pan_arrive_where_they_came_from(references: int) -> None:
    """However far back each block refers."""
    random = np.random.default_rng(references)
    times, velocity = np.arange(10) / 25, np.array([50.0, -25.0])  # pixels per second: 2 and -1 per frame
    candidates = np.full((10, references), np.nan)
    back = random.integers(1, references + 1, (10, 12, 16))
    for k in range(1, 10):
        candidates[k, : min(k, references)] = times[k - 1 :: -1][:references]
        back[k] = np.minimum(back[k], k)
    shifts = (-velocity * back[..., None] / 25 * QUARTERS).astype(np.int16)
    inter = np.broadcast_to(times > 0, (12, 16, 10)).transpose(2, 0, 1).copy()
    fields = follow(shifts, inter, times, times == 0, np.ones(10), candidates, (128, 96), 8, 25.0)
    assert (fields[0][1:] == back[1:] - 1).all()
    np.testing.assert_allclose(fields[1][1:], np.broadcast_to(velocity, (9, 12, 16, 2)), rtol=1e-5)
    points = random.uniform(30, 66, (50, 2))
    arrays = (times, candidates, fields[0], shifts, *fields[1:])
    for start, end in ((0.36, 0.0), (0.345, 0.11), (0.2, 0.2 - 0.013)):
        ends, product = walk(points, start, end, *arrays, (128, 96), 8)
        np.testing.assert_allclose(ends, points - velocity * (start - end), atol=1e-4)
        assert (product == 1).all()
    assert not walk(points, 0.5, 0.2, *arrays, (128, 96), 8)[1].any()  # after the last anchor
    assert not walk(points, 0.2, -0.1, *arrays, (128, 96), 8)[1].any()  # before the first


STEADY, FASTER = [5] * 8, ([3, 3, 3, 6, 6, 6, 6], [1, 2, 3, 4, 5, 6, 7, 8], [2, 4, 8, 16, 16])


@pytest.mark.parametrize(
    ("paces", "share_of_first"),
    [
        *((STEADY, share) for share in (0.05, 0.1, 0.9, 1.0)),
        *((paces, share) for paces in FASTER for share in (0.9, 1.0)),
    ],
)
def test_twice_the_speed_is_told_from_an_older_picture(paces: list[int], share_of_first: float) -> None:
    """Whether blocks prefer the picture before the last, or a camera changes its speed."""
    random = np.random.default_rng(0)
    at, times, shape = np.cumsum([0, *paces]), np.arange(len(paces) + 1) / 25, (15, 20)
    candidates, shifts = np.full((len(times), 3), np.nan), np.zeros((len(times), *shape, 2))
    for k in range(1, len(times)):
        number = min(k, 3)
        candidates[k, :number] = times[k - 1 :: -1][:number]
        rest = [(1 - share_of_first) * part for part in ([], [1], [0.7, 0.3])[number - 1]]
        back = random.choice(number, shape, p=[1 - sum(rest), *rest]) + 1
        shifts[k, ..., 0] = at[k - back] - at[k]
        lost = random.random(shape) < 0.05
        shifts[k][lost] = random.uniform(-20, 20, shifts[k][lost].shape)
    shifts = np.rint((shifts + random.normal(0, 0.1, shifts.shape)) * QUARTERS).astype(np.int16)
    inter = np.broadcast_to((times > 0)[:, None, None], shifts.shape[:3]).copy()
    velocities = follow(shifts, inter, times, times == 0, np.ones(len(times)), candidates, (320, 240), 16, 25.0)[1]
    np.testing.assert_allclose(np.median(velocities[1:, ..., 0], axis=(1, 2)) / 25, paces, atol=0.3)


@pytest.mark.parametrize(
    ("key", "bend", "older", "both"),
    [
        *((False, bend, older, both) for bend in (0.0, 3.0) for older in (0.0, 0.7, 1.0) for both in (0.05, 0.9)),
        *((True, 0.0, older, 0.9) for older in (0.0, 0.7, 1.0)),
        (True, 3.0, 0.0, 0.9),
    ],
)
def test_a_b_picture_may_refer_to_older_pictures_than_the_anchors_around_it(
    key: bool, bend: float, older: float, both: float
) -> None:
    """Anchors are four frames apart, the content moves by 5 px per frame, but for the middle of the last interval."""
    random = np.random.default_rng(1)
    times, shape = np.arange(6) * 4 / 25, (15, 20)
    track = Track(Lattice("h264", 320, 240, 16, 25.0))
    for k, time in enumerate(times):
        between, last = None, k == len(times) - 1
        shifts, inter = np.zeros((*shape, 2), np.int16), np.full(shape, k > 0 and not (last and key))
        shifts[..., 0] = -20 * QUARTERS
        if last:
            sides, there = np.zeros((2, *shape, 2)), np.ones((2, *shape), np.bool_)
            sides[0, ..., 0] = -10 - bend - 20 * (random.random(shape) < older)
            sides[1, ..., 0] = 10 - bend
            there[0] = random.random(shape) < both
            between = Between(time - 2 / 25, (sides * QUARTERS).astype(np.int16), there)
        candidates = times[max(k - 3, 0) : k][::-1] if inter.any() else np.zeros(0)
        track.add(Anchor(float(time), not inter.any(), 1.0, candidates, shifts, inter, between))
    track.end()
    points = random.uniform(100, 140, (20, 2))
    for start, end, distance in ((times[5], times[4], 20.0), (times[5] - 2 / 25, times[3], 30 + bend)):
        ends, confidence = track.back(points, start, end)
        if not key or older == 0:
            assert (confidence > 0).all()
        found = (points - ends)[confidence > 0]
        np.testing.assert_allclose(found, np.broadcast_to([distance, 0], found.shape), atol=0.1)
