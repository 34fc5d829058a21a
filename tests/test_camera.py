"""The camera's motion is found among vectors of which nobody says where they lead."""

from typing import Any

import numpy as np
import pytest

from motiontune.motion.follow.camera import STIFF, STILL, explain, fit_camera, maps_since, part_of, solve
from motiontune.video.lattice import QUARTERS


def affine(turn: float, zoom: float, x: float, y: float) -> Any:
    return np.array([[1 + zoom, -turn, x], [turn, 1 + zoom, y]], np.float64)


def inverse(camera: Any) -> Any:
    return np.linalg.inv(np.vstack([camera, [0, 0, 1]]))[:2]


def moved(points: Any, camera: Any) -> Any:
    return points @ camera[:, :2].T + camera[:, 2]


EARLIER = affine(-0.012, 0.004, 9, -4)  # from the anchor before to the one before that
CAMERA = affine(0.02, -0.006, -3, 7)  # from this one to the anchor before
ROWS, COLS, SPACING = 20, 30, 16
SIZE = (COLS * SPACING, ROWS * SPACING)


def lattice() -> Any:
    y, x = np.mgrid[:ROWS, :COLS] + 0.5
    return np.stack([x * SPACING - SIZE[0] / 2, y * SPACING - SIZE[1] / 2], axis=-1)


def explained(vectors: Any, back: Any, camera: Any) -> tuple[Any, Any, bool]:
    """The number of each vector's candidate, -1 where the camera does not tell; the displacements; whether enough of
    them go with the camera."""
    shape = (ROWS, COLS)
    choice, with_camera, displacement = np.zeros(shape, np.int8), np.zeros(shape, np.bool_), np.zeros((*shape, 2))
    shifts, inter = np.rint(vectors * QUARTERS).astype(np.int16), np.ones(shape, np.bool_)
    numbers = np.arange(len(back))
    enough = explain(shifts, inter, SIZE, SPACING, back, numbers, camera, choice, with_camera, displacement)
    return np.where(with_camera, choice, -1), displacement, enough


def scene(
    seed: int, share_of_first: float, camera: Any = CAMERA, on_lattice: bool = False
) -> tuple[Any, Any, Any, Any]:
    """Points, shifts, back and the true candidates: three references, a fifth of the vectors anywhere."""
    random = np.random.default_rng(seed)
    points = lattice() if on_lattice else random.uniform(-300, 300, (ROWS, COLS, 2))
    candidates = [STILL, part_of(EARLIER, 0.5), EARLIER]
    truth = random.choice(3, (20, 30), p=[share_of_first, *([(1 - share_of_first) / 2] * 2)])
    shifts = (
        np.choose(truth[..., None], [moved(moved(points, camera), candidate) for candidate in candidates]) - points
    )
    shifts += random.normal(0, 0.15, shifts.shape)
    lost = random.random((20, 30)) < 0.2
    shifts[lost] = random.uniform(-30, 30, shifts[lost].shape)
    return points, shifts, np.stack([inverse(candidate) for candidate in candidates]), np.where(lost, -1, truth)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("share_of_first", "guess"), [(0.7, None), (0.6, EARLIER), (0.25, affine(0.018, -0.006, -2, 6))]
)
def test_a_camera_that_shakes(seed: int, share_of_first: float, guess: Any) -> None:
    points, shifts, back, _ = scene(seed, share_of_first)
    camera = fit_camera(points.reshape(-1, 2), shifts.reshape(-1, 2), back, guess)
    assert np.linalg.norm(moved(points, camera) - moved(points, CAMERA), axis=-1).max() < 0.4
    points, shifts, _, truth = scene(seed, share_of_first, on_lattice=True)
    chosen, displacement, enough = explained(shifts, back, camera)
    there = truth >= 0
    assert enough
    assert (chosen[there] == truth[there]).mean() > 0.97
    assert np.median(np.linalg.norm(points + displacement - moved(points, CAMERA), axis=-1)[there]) < 0.3
    assert (chosen[~there] == -1).mean() > 0.8


def test_half_the_motion_over_twice_the_time_is_not_taken_for_it() -> None:
    pan = affine(0, 0, 12, 3)
    points, shifts, _, _ = scene(0, 0.98, pan)
    back = np.stack([inverse(candidate) for candidate in (STILL, part_of(pan, 0.5), pan)])
    for guess in (None, part_of(pan, 0.5), pan):
        camera = fit_camera(points.reshape(-1, 2), shifts.reshape(-1, 2), back, guess)
        np.testing.assert_allclose(camera[:, 2], pan[:, 2], atol=0.3)


def test_the_camera_since_a_time_between_two_anchors() -> None:
    times, known = np.array([0.0, 1.0, 2.0, 4.0]), np.array([False, True, True, True])
    cameras = np.stack([STILL, affine(0.01, 0.002, 3, 1), EARLIER, CAMERA])
    back, cases = np.zeros((3, 2, 3)), np.zeros(3, np.intp)
    moments = np.array([-1.0, 1.5, 4.0])
    assert maps_since(moments, 3, times, cameras, known, back, cases) == 2 and cases[:2].tolist() == [1, 2]
    np.testing.assert_allclose(back[1], STILL)
    points = np.random.default_rng(0).uniform(-300, 300, (9, 2))
    there = moved(moved(points, CAMERA), part_of(EARLIER, 0.5))
    np.testing.assert_allclose(moved(there, back[0]), points, atol=1e-9)
    known[2] = False
    assert maps_since(np.array([0.5, -1.0]), 3, times, cameras, known, back, cases) == 0
    assert maps_since(moments, -1, times, cameras, known, back, cases) == 0


def test_the_least_squares() -> None:
    random = np.random.default_rng(0)
    points, displacements = random.normal(0, 100, (50, 2)), random.normal(0, 5, (50, 2))
    weights = random.uniform(0, 1, 50)
    rows = np.column_stack([np.ones(50), points])
    weighted = rows * weights[:, None]
    products = weighted.T @ rows
    sums = np.concatenate([products[np.triu_indices(3)], *(weighted.T @ displacements).T])
    camera = np.zeros((2, 3))
    solve(sums, camera)
    stiff = products + np.diag([1e-9, STIFF, STIFF]) * weights.sum()
    expected = np.linalg.solve(stiff, weighted.T @ displacements).T  # constant, x, y
    np.testing.assert_allclose(camera, expected[:, [1, 2, 0]] + STILL, rtol=1e-9)


def test_what_is_too_slow_for_the_camera_to_tell_is_left_to_neighbours() -> None:
    for pace, told in ((0.25, True), (0.15, False)):
        pan = affine(0, 0, pace, 0)
        back = np.stack([inverse(candidate) for candidate in (STILL, pan)])
        chosen, _, enough = explained(np.full((ROWS, COLS, 2), (pace, 0.0)), back, pan)
        assert enough == told
        assert (chosen == (0 if told else -1)).all()
