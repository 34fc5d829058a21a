"""Sums of end-point errors: the numbers by hand, and the same numbers however the samples are split."""

import math

import numpy as np
import pytest

from motiontune.evaluation.sums import NAMES, MotionSums, constant_epe, direction_sector


def random_fields(seed, frames=2, rows=3, cols=4):
    rng = np.random.default_rng(seed)
    shape = (frames, rows, cols, 2)
    return rng.normal(0, 4, shape), rng.normal(0, 4, shape), rng.random(shape[:-1]) < 0.7


def unit(degrees, length=2.0):
    return [length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees))]


def test_numbers_by_hand():
    target = np.array([[[[3.0, 4.0], [0.5, 0.0], [0.0, -2.0], [100.0, 0.0]]]])
    predicted = np.array([[[[3.0, 4.0], [0.5, 2.0], [0.0, 1.0], [0.0, 0.0]]]])
    valid = np.array([[[True, True, True, False]]])
    metrics = MotionSums.from_fields(predicted, target, valid).metrics()
    assert metrics == pytest.approx(
        {
            "valid_patches": 3,
            "epe": (0 + 2 + 3) / 3,
            "epe_zero_motion": (5 + 0.5 + 2) / 3,
            "epe_moving": (0 + 3) / 2,
            "epe_moving_zero_motion": (5 + 2) / 2,
            "direction_accuracy": 1 / 2,
        }
    )


def test_one_pixel_is_still():
    still = MotionSums.from_fields([[1.0, 0.0]], [[1.0, 0.0]], np.array([True]))
    moving = MotionSums.from_fields([[1.001, 0.0]], [[1.001, 0.0]], np.array([True]))
    assert (still.moving, moving.moving) == (0, 1)


def test_what_is_invalid_is_never_looked_at():
    predicted, target, valid = random_fields(0)
    expected = MotionSums.from_fields(predicted, target, valid)
    predicted[~valid], target[~valid] = np.nan, 1e30
    assert MotionSums.from_fields(predicted, target, valid) == expected


def test_zero_prediction_costs_the_zero_baseline_and_has_no_direction():
    _, target, valid = random_fields(1)
    target[..., 1] = 0
    target[..., 0] = 5  # atan2(0, 0) is 0, the sector of these targets: it must not count as a hit
    metrics = MotionSums.from_fields(np.zeros_like(target), target, valid).metrics()
    assert metrics["epe"] == metrics["epe_zero_motion"] == 5
    assert metrics["direction_accuracy"] == 0


@pytest.mark.parametrize("degrees", range(0, 360, 45))
@pytest.mark.parametrize("offset, hit", [(0, True), (20, True), (-20, True), (25, False), (-25, False), (180, False)])
def test_sectors_are_centred_on_axes_and_diagonals(degrees, offset, hit):
    sums = MotionSums.from_fields([unit(degrees + offset, 0.01)], [unit(degrees)], np.array([True]))
    assert sums.direction_hits == hit


def test_sector_names():
    assert direction_sector([[1, 0], [1, 1], [0, 1], [-1, 0], [-1, -0.0], [0, -1]]).tolist() == [0, 1, 2, 4, 4, 6]


def test_random_directions_are_right_one_time_in_eight():
    rng = np.random.default_rng(3)
    said, true = rng.normal(0, 50, (2, 40_000, 2))
    accuracy = MotionSums.from_fields(said, true, np.ones(40_000, bool)).metrics()["direction_accuracy"]
    assert accuracy == pytest.approx(1 / 8, abs=0.01)


def test_prediction_that_is_no_number_shows():
    sums = MotionSums.from_fields([[np.nan, 1.0]], [[0.0, 3.0]], np.array([True]))
    assert sums.direction_hits == 0
    assert math.isnan(sums.metrics()["epe"])
    assert sums.metrics()["epe_zero_motion"] == 3


def test_sums_do_not_depend_on_the_split():
    samples = [random_fields(seed, frames=2 + seed) for seed in range(4)]
    added = sum((MotionSums.from_fields(*sample) for sample in samples), MotionSums.zero())
    whole = MotionSums.from_fields(*(np.concatenate(parts) for parts in zip(*samples, strict=True)))
    gathered = MotionSums.from_array(sum(MotionSums.from_fields(*sample).to_array() for sample in samples))
    assert added.to_array() == pytest.approx(whole.to_array())
    assert gathered.to_array() == pytest.approx(whole.to_array())
    # not the mean of the samples' means, which would weigh a small clip like a large one
    means = [MotionSums.from_fields(*sample).metrics()["epe"] for sample in samples]
    assert added.metrics()["epe"] != pytest.approx(np.mean(means), abs=1e-6)


def test_array_round_trip():
    sums = MotionSums.from_fields(*random_fields(5))
    assert sums.to_array().shape == (len(NAMES),) and len(NAMES) == len(set(NAMES)) == 22
    assert MotionSums.from_array(sums.to_array()) == sums
    with pytest.raises(ValueError, match="22"):
        MotionSums.from_array(np.zeros(6))


def test_metrics_over_nothing_are_left_out():
    assert MotionSums.zero().metrics() == {"valid_patches": 0}
    still = MotionSums.from_fields(np.zeros((4, 2)), np.zeros((4, 2)), np.ones(4, bool)).metrics()
    assert set(still) == {"valid_patches", "epe", "epe_zero_motion"}


def test_float16_does_not_overflow():
    target = np.full((4, 4, 2), 300, np.float16)  # 300 squared is beyond float16
    metrics = MotionSums.from_fields(np.zeros_like(target), target, np.ones((4, 4), bool)).metrics()
    assert metrics["epe"] == pytest.approx(300 * 2**0.5)


def test_constant_vector():
    target = np.array([[[3.0, 0.0], [5.0, 0.0], [9.0, 9.0]]])
    valid = np.array([[True, True, False]])
    assert constant_epe(target, valid, (4.0, 0.0)) == (2.0, 2.0)
    assert constant_epe(target, np.zeros_like(valid), (4.0, 0.0)) == (0.0, 0.0)
    zero = MotionSums.from_fields(np.ones_like(target), target, valid).zero_epe
    assert constant_epe(target, valid, [0, 0])[0] == zero


@pytest.mark.parametrize(
    "predicted, target, valid",
    [
        (np.zeros((2, 2)), np.zeros((3, 2)), np.ones(3, bool)),
        (np.zeros((3, 3)), np.zeros((3, 3)), np.ones(3, bool)),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 1), bool)),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.ones(3)),
    ],
)
def test_shapes_that_do_not_fit(predicted, target, valid):
    with pytest.raises(ValueError, match="must be"):
        MotionSums.from_fields(predicted, target, valid)
