"""Medians over a patch's points, and what neighbouring patches agree on."""

import numpy as np
import pytest

from motiontune.motion.consensus import (
    AROUND,
    FALL,
    GAUSSIAN,
    MOST_APART,
    POWERS,
    SPREAD,
    STIFF,
    UNLIKE,
    agree,
    fit_surfaces,
    per_patch,
    smooth,
)


@pytest.mark.parametrize("seed", range(12))
def test_per_patch(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (*random.integers(1, 24, 2), (4, 8, 9, 16)[seed % 4])
    least = (0.25, 0.5)[seed // 4 % 2]
    displacements, of_points = random.normal(0, 4, (*shape, 2)), np.maximum(random.uniform(-1, 1, shape), 0)
    vectors, confidence = per_patch(displacements, of_points, least)
    for row, col in np.ndindex(shape[:2]):
        good = of_points[row, col] > 0
        if good.mean() < least:
            assert confidence[row, col] == 0 and not vectors[row, col].any()
            continue
        median = np.median(displacements[row, col, good], axis=0)
        apart = np.linalg.norm(displacements[row, col, good] - median, axis=-1).mean()
        np.testing.assert_allclose(vectors[row, col], median, rtol=1e-6)
        np.testing.assert_allclose(confidence[row, col], of_points[row, col].mean() / (1 + apart / SPREAD), rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_agree(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, cols = random.integers(1, 14, 2)
    vectors = random.normal(0, 1.5, (rows, cols, 2)).astype(np.float32)
    confidence = np.maximum(random.uniform(-0.5, 1, (rows, cols)), 0).astype(np.float32)
    means, after = agree(vectors, confidence)
    for i, j in np.ndindex(rows, cols):
        if confidence[i, j] == 0:
            assert after[i, j] == 0 and not means[i, j].any()
            continue
        around = [(i + a, j + b, AROUND[a + 2] * AROUND[b + 2]) for a in range(-2, 3) for b in range(-2, 3)]
        around = [(a, b, w) for a, b, w in around if 0 <= a < rows and 0 <= b < cols and confidence[a, b] > 0]
        a, b, near = (np.array(part) for part in zip(*around, strict=True))
        distance = np.linalg.norm(vectors[a, b].astype(np.float64) - vectors[i, j], axis=-1)
        weight = near * confidence[a, b] * np.maximum(1 - distance / UNLIKE, 0)
        np.testing.assert_allclose(means[i, j], weight @ vectors[a, b] / weight.sum(), rtol=1e-4, atol=1e-5)
        fall = FALL * np.average(np.minimum(distance, MOST_APART), weights=near)
        np.testing.assert_allclose(after[i, j], confidence[i, j] / (1 + fall), rtol=1e-5)


def test_agreement_averages_within_a_thing_and_not_across_its_edge() -> None:
    random = np.random.default_rng(0)
    vectors = np.zeros((16, 20, 2), np.float32)
    vectors[:, 10:, 0] = 9
    noisy = vectors + random.normal(0, 0.2, vectors.shape).astype(np.float32)
    means, after = agree(noisy, np.ones((16, 20), np.float32))
    assert np.abs(means - vectors).mean() < 0.45 * np.abs(noisy - vectors).mean()
    assert (after[:, 8:12] < after[:, :6].min()).all()


def test_smooth_keeps_what_a_camera_does() -> None:
    """A plane stays, whatever its slope; noise on it falls to less than half."""
    y, x = np.mgrid[:16, :20].astype(np.float32)
    truth = np.stack([3 + 0.1 * x - 0.05 * y, 1 + 0.02 * x + 0.08 * y], -1)
    sure = np.ones((16, 20), np.float32)
    np.testing.assert_array_equal(smooth(truth, sure), truth)
    noisy = truth + np.random.default_rng(0).normal(0, 0.2, truth.shape).astype(np.float32)
    before, after = (np.linalg.norm(field - truth, axis=-1).mean() for field in (noisy, smooth(noisy, sure)))
    assert after < 0.4 * before


def test_smooth_keeps_what_a_turning_ball_does() -> None:
    """What is curved stays, but at its rim; noise on it falls."""
    y, x = np.mgrid[:16, :20] - np.array([7.5, 9.5])[:, None, None]
    height = np.sqrt(np.maximum(1 - (x**2 + y**2) / 8**2, 0))
    truth = np.stack([8 * height, 2 * height], -1).astype(np.float32)
    on_it = (height > 0).astype(np.float32)
    middle = height > 0.5
    noisy = truth + np.random.default_rng(0).normal(0, 0.2, truth.shape).astype(np.float32)
    for field, most in ((truth, 0.07), (noisy, 0.12)):
        assert np.linalg.norm(smooth(field, on_it) - truth, axis=-1)[middle].mean() < most, most


@pytest.mark.parametrize("seed", range(4))
def test_surfaces_are_least_squares(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (*random.integers(3, 12, 2),)
    vectors = random.normal(0, 1, (*shape, 2)).astype(np.float32)
    confidence = np.maximum(random.uniform(-0.5, 1, shape), 0).astype(np.float32)
    alike, fitted, reach = 2.0, np.zeros_like(vectors), len(GAUSSIAN) // 2
    fit_surfaces(vectors, confidence, alike, fitted)
    for i, j in np.ndindex(shape):
        if confidence[i, j] == 0:
            assert not fitted[i, j].any()
            continue
        a, b = np.nonzero(confidence)
        u, v = a - i, b - j
        a, b, u, v = (part[(abs(u) <= reach) & (abs(v) <= reach)] for part in (a, b, u, v))
        apart = vectors[a, b].astype(np.float64) - vectors[i, j]
        same = np.maximum(1 - np.square(apart).sum(-1) / alike**2, 0) ** 2
        weight = np.take(GAUSSIAN, u + reach) * np.take(GAUSSIAN, v + reach) * confidence[a, b] * same
        terms = np.stack([u**p * v**q for p, q in POWERS], axis=-1)
        solved = np.linalg.solve(
            terms.T @ (weight[:, None] * terms) + np.diag(STIFF), terms.T @ (weight[:, None] * apart)
        )
        np.testing.assert_allclose(fitted[i, j], vectors[i, j] + solved[POWERS.index((0, 0))], rtol=1e-4, atol=1e-5)


def test_smooth_keeps_a_thing_that_moves_a_little() -> None:
    """Less than a pixel, before what is known to a tenth of one."""
    truth = np.zeros((16, 20, 2), np.float32)
    truth[5:7, 8:10, 0] = 0.8
    noisy = truth + np.random.default_rng(0).normal(0, 0.05, truth.shape).astype(np.float32)
    found = smooth(noisy, np.ones((16, 20), np.float32))
    assert np.abs(found[5:7, 8:10, 0].mean() - 0.8) < 0.1
    assert np.linalg.norm(found - truth, axis=-1).mean() < 0.6 * np.linalg.norm(noisy - truth, axis=-1).mean()


def test_smooth_goes_by_what_is_probable() -> None:
    """What has no confidence is left alone and pulls nothing; fields of one patch or row are no error."""
    vectors, confidence = np.ones((6, 6, 2), np.float32), np.ones((6, 6), np.float32)
    vectors += np.random.default_rng(0).normal(0, 0.1, vectors.shape).astype(np.float32)
    vectors[2, 2], confidence[2, 2] = 1.3, 0
    found = smooth(vectors, confidence)
    np.testing.assert_array_equal(found[2, 2], np.float32([1.3, 1.3]))
    vectors[2, 2] = 99
    np.testing.assert_array_equal(smooth(vectors, confidence)[confidence > 0], found[confidence > 0])
    for shape in ((1, 1), (1, 7), (7, 1), (2, 2)):
        field = np.random.default_rng(0).normal(0, 1, (*shape, 2)).astype(np.float32)
        assert np.isfinite(smooth(field, np.ones(shape, np.float32))).all()
