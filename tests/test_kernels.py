"""The loops in numba and in numpy give the same numbers, bit for bit."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from motiontune.motion.follow import kernels


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """Runs a function with numba and without."""
    loops: ModuleType = pytest.importorskip(
        "motiontune.motion.follow.loops", reason="numba is not installed (extra fast)"
    )

    def run(function: Callable[[], Any]) -> tuple[Any, Any]:
        results = []
        for module in (loops, None):
            monkeypatch.setattr(kernels, "loops", module)
            results.append(function())
        return results[0], results[1]

    return run


@pytest.mark.parametrize("seed", range(12))
def test_spread(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols = random.integers(1, 24, 2)
    records = np.zeros(400, kernels.RECORD)
    records["source"] = random.integers(-1, 2, 400)
    records["w"], records["h"] = random.choice([8, 16], (2, 400))
    records["dst_x"] = random.integers(-20, cols * 8 + 20, 400)
    records["dst_y"] = random.integers(-20, rows * 8 + 20, 400)
    records["motion_x"], records["motion_y"] = random.integers(-90000, 90000, 400), random.integers(-99, 99, 400)
    records["motion_scale"] = random.choice([0, 1, 2, 4], 400)

    def run() -> tuple[Any, Any]:
        shifts, inter = np.zeros((rows, cols, 2), np.int16), np.zeros((rows, cols), np.bool_)
        kernels.spread(records, int([8, 16, 24][seed % 3]), 2, 4, shifts, inter)
        return shifts, inter

    (shifts, inter), (shifts_again, inter_again) = both(run)
    np.testing.assert_array_equal(shifts, shifts_again)
    np.testing.assert_array_equal(inter, inter_again)
    assert inter.any()


def test_a_block_covers_its_points() -> None:
    records = np.zeros(1, kernels.RECORD)
    records[["source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"]] = (
        -1,
        16,
        8,
        24,
        12,
        5,
        -6,
        4,
    )
    shifts, inter = np.zeros((4, 6, 2), np.int16), np.zeros((4, 6), np.bool_)
    kernels.spread(records, 8, 0, 0, shifts, inter)
    assert np.argwhere(inter).tolist() == [[1, 2], [1, 3]]
    assert (shifts[inter] == [5, -6]).all()


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
        "believed": random.choice([1.0, 0.2], anchors),
        "candidates": candidates,
        "size": (cols * spacing, rows * spacing),
        "spacing": spacing,
        "rate": 30.0,
    }


@pytest.mark.parametrize("seed", range(30))
def test_follow(both: Any, seed: int) -> None:
    made = stream(seed)
    results = both(lambda: kernels.follow(**made))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    chosen, velocities, trust = results[0]
    known = np.isfinite(made["candidates"]).any(-1)[:, None, None] & made["inter"]
    assert ((chosen >= 0) == known).all() and (trust[known] > 0).all()
    assert np.isfinite(velocities).all() and not velocities[trust == 0].any()
    assert (chosen < np.isfinite(made["candidates"]).sum(-1)[:, None, None]).all()


def test_choose_finds_the_reference_under_which_all_move_as_before() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (12, 16))
    spans = np.array([1.0, 2.0, 3.0])
    vectors = spans[truth][..., None] * np.array([4.0, -2.5])
    before = np.broadcast_to([-4.0, 2.5], (12, 16, 2)), np.ones((12, 16), np.bool_)
    inter, unknown = np.ones((12, 16), np.bool_), np.full((12, 16), -1)
    np.testing.assert_array_equal(kernels.choose(vectors, inter, spans, before, unknown), truth)


@pytest.mark.parametrize("seed", range(20))
def test_walk(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    made = stream(seed)
    times = made["times"]
    fields = kernels.follow(**made)
    points = random.random((200, 2)) * made["size"]
    start = times[-2] if seed % 2 else random.uniform(times[1], times[-1])
    end = times[1] if seed % 4 == 1 else random.uniform(times[0] - 0.1, start)
    chosen, velocities, trust = fields
    arrays = (times, made["candidates"], chosen, made["shifts"], velocities, trust)
    (ends, sure), (ends_again, sure_again) = both(
        lambda: kernels.walk(points, start, end, *arrays, made["size"], made["spacing"])
    )
    np.testing.assert_array_equal(sure, sure_again)
    np.testing.assert_array_equal(ends[sure > 0], ends_again[sure > 0])


@pytest.mark.parametrize("seed", range(12))
def test_interpolate(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols = random.integers(1, 24, 2)
    field, trust = random.normal(0, 4, (rows, cols, 2)), random.choice([0.0, 0.8, 1.0], (rows, cols))
    x, y = random.uniform(-2, 26, (2, 300))
    one, other = both(lambda: kernels.interpolate(field, trust, x, y))
    np.testing.assert_array_equal(one, other)
    assert np.any(one) or not trust.any()


@pytest.mark.parametrize("seed", range(12))
def test_per_patch(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (*random.integers(1, 24, 2), (4, 8, 9, 16)[seed % 4])
    least = (0.25, 0.5)[seed // 4 % 2]
    moved, trust = random.normal(0, 4, (*shape, 2)), np.maximum(random.uniform(-1, 1, shape), 0)
    (median, sure), (median_again, sure_again) = both(lambda: kernels.per_patch(moved, trust, least))
    np.testing.assert_array_equal(median, median_again)
    np.testing.assert_array_equal(sure, sure_again)
    followed = (trust > 0).sum(-1) >= least * shape[-1]
    assert ((sure > 0) == followed).all() and (sure <= trust.mean(-1) + 1e-6).all()
    for row, col in np.argwhere(followed)[:5]:
        np.testing.assert_allclose(median[row, col], np.median(moved[row, col][trust[row, col] > 0], 0), rtol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_agree(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols = random.integers(1, 24, 2)
    vectors = random.normal(0, 1.5, (rows, cols, 2)).astype(np.float32)
    confidence = np.maximum(random.uniform(-0.5, 1, (rows, cols)), 0).astype(np.float32)
    (mean, sure), (mean_again, sure_again) = both(lambda: kernels.agree(vectors, confidence))
    np.testing.assert_array_equal(mean, mean_again)
    np.testing.assert_array_equal(sure, sure_again)
    assert ((sure > 0) == (confidence > 0)).all() and (sure <= confidence).all()


def test_agreement_averages_within_a_thing_and_not_across_its_edge() -> None:
    random = np.random.default_rng(0)
    vectors = np.zeros((16, 20, 2), np.float32)
    vectors[:, 10:, 0] = 9
    noisy = vectors + random.normal(0, 0.2, vectors.shape).astype(np.float32)
    mean, sure = kernels.agree(noisy, np.ones((16, 20), np.float32))
    assert np.abs(mean - vectors).mean() < 0.45 * np.abs(noisy - vectors).mean()
    assert (sure[:, 8:12] < sure[:, :6].min()).all()
