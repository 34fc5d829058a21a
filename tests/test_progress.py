"""The end-point error of a training step in pixels, and the notice that motion is not being learned."""

import pytest
import torch

from motiontune.evaluation.sums import MotionSums
from motiontune.training.progress import CHECKED_STEPS, Progress, end_point_sums


def test_the_sums_are_those_of_the_evaluation():
    torch.manual_seed(0)
    predicted, target = torch.randn(7, 16), torch.randn(7, 16)
    mask = (torch.rand(7, 8) < 0.6).repeat_interleave(2, dim=1)
    count, error, zero, *moving = end_point_sums(predicted, target, mask, 1.4).tolist()
    p, t = (1.4 * values.reshape(7, 8, 2).numpy() for values in (predicted, target))
    wanted = MotionSums.from_fields(p, t, mask[:, ::2].numpy())
    assert (count, moving[0]) == (wanted.patches, wanted.moving) and 0 < moving[0] < count
    assert (error, zero) == pytest.approx((wanted.epe, wanted.zero_epe), rel=1e-5)
    assert moving[1:] == pytest.approx([wanted.moving_epe, wanted.moving_zero_epe], rel=1e-5)


def test_what_is_not_a_target_does_not_count():
    predicted = torch.full((2, 8), torch.nan)
    assert end_point_sums(predicted, torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.bool), 14.0).tolist() == [0] * 6
    nothing = torch.zeros(0, 8)
    assert not end_point_sums(nothing, nothing, nothing.bool(), 14.0).any()


def notices(progress, shares):
    """What is noticed when every 10 steps are logged with these shares of the error of no motion."""
    said = [progress.notice(10 * number, 10.0, 5 * share, 5.0) for number, share in enumerate(shares, 1)]
    return [10 * number for number, text in enumerate(said, 1) if text]


def test_motion_that_is_not_learned_is_noticed_once():
    assert notices(Progress(0), [1.0] * 60) == [2 * CHECKED_STEPS]
    assert notices(Progress(0), [1.0] * 10 + [0.9] * 50) == []  # the first steps are not looked at
    assert notices(Progress(250), [1.0] * 60) == [250 + CHECKED_STEPS]  # nor a warmup
    assert notices(Progress(0), [float("nan")] * 60) == []
    assert [Progress(0).notice(10 * number, 10.0, 0.0, 0.0) for number in range(1, 60)] == [""] * 59  # nothing moves
    later = [1.0] * 10 + [0.5] * 10 + [1.2] * 20
    assert notices(Progress(0), later) == [3 * CHECKED_STEPS]
