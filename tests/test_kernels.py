"""The loops in numba and in numpy give the same numbers, bit for bit."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from motiontune.motion import kernels


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """Runs a function with numba and without."""
    loops: ModuleType = pytest.importorskip("motiontune.motion.loops", reason="numba is not installed (extra fast)")

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


@pytest.mark.parametrize("seed", range(12))
def test_choose(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols, count = random.integers(1, 24, 2).tolist() + [seed % 5 + 1]
    vectors, before = random.normal(0, 3, (rows, cols, 2)).round(2), random.normal(0, 2, (rows, cols, 3))
    inter, spans = random.random((rows, cols)) < 0.8, np.arange(1.0, count + 1)
    known = np.where(inter & (random.random((rows, cols)) < 0.3), random.integers(0, count, (rows, cols)), -1)
    chosen, again = both(lambda: kernels.choose(vectors, inter, spans, before, known))
    np.testing.assert_array_equal(chosen, again)
    assert ((chosen >= 0) == inter).all()
    np.testing.assert_array_equal(chosen[known >= 0], known[known >= 0])


def test_choose_finds_the_reference_under_which_all_move_as_before() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (12, 16))
    spans = np.array([1.0, 2.0, 3.0])
    vectors = spans[truth][..., None] * np.array([4.0, -2.5])
    before = np.broadcast_to([-4.0, 2.5, 1.0], (12, 16, 3))
    inter, unknown = np.ones((12, 16), np.bool_), np.full((12, 16), -1)
    np.testing.assert_array_equal(kernels.choose(vectors, inter, spans, before, unknown), truth)


@pytest.mark.parametrize("seed", range(12))
def test_explain(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols, count = random.integers(1, 24, 2).tolist() + [seed % 5 + 1]
    points, shifts = random.normal(0, 200, (rows, cols, 2)), random.normal(0, 2, (rows, cols, 2)).round(2)
    back = np.eye(3) + random.normal(0, 0.01, (count, 3, 3)) * [1, 1, 100]
    camera = np.eye(3) + random.normal(0, 0.001, (3, 3)) * [1, 1, 100]
    (chosen, way), (chosen_again, way_again) = both(lambda: kernels.explain(points, shifts, back, camera))
    np.testing.assert_array_equal(chosen, chosen_again)
    np.testing.assert_array_equal(way, way_again)
    assert rows * cols < 50 or 0 < (chosen >= 0).mean() < 1


@pytest.mark.parametrize("seed", range(20))
def test_walk(both: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    anchors, (rows, cols) = 7, random.integers(1, 24, 2)
    times = random.random(anchors).cumsum()
    trust = np.where(random.random((anchors, rows, cols)) < 0.9, random.random((anchors, rows, cols)), 0)
    earlier = np.maximum(np.arange(anchors) - 1 - random.integers(0, 2, anchors), 0)
    targets = np.where(random.random(trust.shape) < 0.8, times[earlier][:, None, None], np.nan)
    targets = np.where(random.random(trust.shape) < 0.1, targets - 0.01, targets)  # between two anchors
    targets[0] = np.nan
    shifts, velocities = random.normal(0, 4, (*trust.shape, 2)), random.normal(0, 9, (*trust.shape, 2))
    points = random.random((200, 2)) * [cols * 8, rows * 8]
    start = times[-2] if seed % 2 else random.uniform(times[1], times[-1])
    end = times[1] if seed % 4 == 1 else random.uniform(times[0] - 0.1, start)
    size = (int(cols * 8), int(rows * 8))
    (ends, sure), (ends_again, sure_again) = both(
        lambda: kernels.walk(points, start, end, times, targets, shifts, velocities, trust, size, 8)
    )
    np.testing.assert_array_equal(sure, sure_again)
    np.testing.assert_array_equal(ends[sure > 0], ends_again[sure > 0])
