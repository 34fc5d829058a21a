"""Optical-flow metrics agree with ptlflow's and with formulas written out patch by patch; clips can be resampled."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from make_ptlflow_metrics import fields
from motiontune.evaluation.flow_metrics import flow_metrics, interval, resampled, stack
from motiontune.evaluation.sums import MotionSums


FIXTURE = json.loads((Path(__file__).parent / "data" / "ptlflow_metrics.json").read_text("utf-8"))


def metrics_of(*clips, width=1024):
    values = flow_metrics(stack([MotionSums.from_fields(*clip, width) for clip in clips]).sum(0))
    return {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize("row", FIXTURE, ids=lambda row: f"seed{row['seed']}")
def test_ptlflow_measures_the_same(row):
    mine = metrics_of(fields(row["seed"]))
    assert mine["epe"] == pytest.approx(row["epe"], abs=1e-5, rel=1e-6)
    assert mine["fl_all"] == pytest.approx(row["flall"] / 100, abs=1e-5)
    for limit in (1, 3, 5):  # ptlflow's are shares of hits
        assert mine[f"outliers_{limit}px"] == pytest.approx(1 - row[f"px{limit}"], abs=1e-5)


def test_written_out_patch_by_patch():
    predicted, target, valid = fields(7)
    pairs = [
        (p, t) for p, t, v in zip(predicted.reshape(-1, 2), target.reshape(-1, 2), valid.ravel(), strict=True) if v
    ]
    mine = metrics_of((predicted, target, valid), width=512)

    def mean(values):
        return math.fsum(values) / len(values)

    angles, bins = [], {"epe_s0_10": [], "epe_s10_40": [], "epe_s40": []}
    for p, t in pairs:
        (u, v), (a, b) = map(float, p), map(float, t)
        cosine = (u * a + v * b + 1) / math.sqrt((u * u + v * v + 1) * (a * a + b * b + 1))
        angles.append(math.degrees(math.acos(min(1.0, cosine))))
        speed = 2 * math.hypot(a, b)  # of a frame twice as wide
        name = "epe_s0_10" if speed < 10 else "epe_s10_40" if speed < 40 else "epe_s40"
        bins[name].append(math.hypot(u - a, v - b))
    assert mine["angular_error"] == pytest.approx(mean(angles), abs=1e-4)
    for name, errors in bins.items():
        assert len(errors) > 5 and mine[name] == pytest.approx(mean(errors), rel=1e-9)
    said, true = (np.array([pair[i] for pair in pairs], np.float64) for i in (0, 1))
    squares = ((said - true) ** 2).sum()
    assert mine["r2_zero_motion"] == pytest.approx(1 - squares / (true**2).sum())
    assert mine["r2_mean_motion"] == pytest.approx(1 - squares / ((true - true.mean(0)) ** 2).sum())
    trained = MotionSums.from_fields(predicted, target, valid).metrics()  # what training logs
    for name in ("epe", "epe_zero_motion", "epe_moving", "epe_moving_zero_motion", "direction_accuracy"):
        assert mine[name] == pytest.approx(trained[name])


def test_limits():
    target = np.array([[100.0, 0.0]] * 4 + [[10.0, 0.0]] * 2)
    predicted = target + np.array([[1.0, 0], [3.0, 0], [5.0, 0], [5.1, 0], [3.0, 0], [3.1, 0]])
    mine = metrics_of((predicted, target, np.ones(6, bool)))
    assert mine["outliers_1px"] == 1 and mine["outliers_3px"] == pytest.approx(5 / 6)
    assert mine["outliers_5px"] == pytest.approx(2 / 6)
    assert mine["fl_all"] == pytest.approx(2 / 6)  # 5.1 of 100 and 3.1 of 10; 5 % of 100 is not above 5 %
    right = metrics_of((target, target, np.ones(6, bool)))
    assert right["epe"] == right["angular_error"] == 0 and right["r2_mean_motion"] == right["direction_accuracy"] == 1
    zero = metrics_of((0 * target, target, np.ones(6, bool)))
    assert zero["r2_zero_motion"] == 0 and zero["epe"] == zero["epe_zero_motion"]
    mean = metrics_of((0 * target + target.mean(0), target, np.ones(6, bool)))
    assert mean["r2_mean_motion"] == pytest.approx(0, abs=1e-12)
    nothing = metrics_of((target, target, np.zeros(6, bool)))
    assert all(math.isnan(value) for value in nothing.values())


def weights_of(clips, rounds):
    """How often each clip is drawn, [rounds, clips]."""
    return resampled(np.eye(clips), rounds)


def test_clips_add_up_and_are_drawn_again():
    clips = [fields(seed) for seed in range(20)]
    sums = stack([MotionSums.from_fields(*clip, 1024) for clip in clips])
    together = [np.concatenate([clip[i] for clip in clips]) for i in range(3)]
    assert flow_metrics(sums.sum(0))["epe"] == pytest.approx(metrics_of(tuple(together))["epe"])
    weights = weights_of(20, 4000)
    assert weights.shape == (4000, 20) and (weights.sum(1) == 20).all()
    errors = np.random.default_rng(0).normal(3, 2, 200)
    low, high = interval(weights_of(200, 4000) @ errors / 200)
    half = 1.96 * errors.std() / math.sqrt(200)
    assert low == pytest.approx(errors.mean() - half, abs=0.06) and high == pytest.approx(
        errors.mean() + half, abs=0.06
    )
    np.testing.assert_array_equal(weights, weights_of(20, 4000))


def test_draws_in_blocks_are_the_same_draws(monkeypatch):
    from motiontune.evaluation import flow_metrics as module

    values = np.random.default_rng(1).normal(size=(37, 3))
    expected = weights_of(37, 50) @ values
    for block in (1, 37 * 7, 37 * 1000):
        monkeypatch.setattr(module, "BLOCK", block)
        np.testing.assert_allclose(resampled(values, 50), expected, rtol=1e-12)
