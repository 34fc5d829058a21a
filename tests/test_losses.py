"""The motion losses and cross-entropy at the supervised rows."""

import pytest
import torch
import torch.nn.functional as F

from motiontune.model.losses import MOTION_LOSS_TYPES, cross_entropy_sum, motion_loss_sum


@pytest.mark.parametrize("kind", MOTION_LOSS_TYPES)
def test_masked_numbers_do_not_count(kind):
    torch.manual_seed(0)
    predicted, target = torch.randn(5, 16), torch.randn(5, 16)
    mask = (torch.rand(5, 8) < 0.5).repeat_interleave(2, dim=1)
    before = motion_loss_sum(predicted, target, mask, kind)
    elsewhere = torch.where(mask, predicted, torch.full_like(predicted, 1e6))
    assert torch.equal(motion_loss_sum(elsewhere, target, mask, kind), before)


def test_each_loss_is_the_known_one():
    predicted, target = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert motion_loss_sum(predicted, target, mask, "l1").item() == 7
    assert motion_loss_sum(predicted, target, mask, "l2").item() == 25
    assert motion_loss_sum(predicted, target, mask, "smooth_l1").item() == 2.5 + 3.5
    # one end-point error of 5 for each of the vector's two numbers: the mean over numbers is 5
    assert motion_loss_sum(predicted, target, mask, "epe").item() / 2 == pytest.approx(5, abs=2e-3)


@pytest.mark.parametrize("kind", MOTION_LOSS_TYPES)
@pytest.mark.parametrize("tokens", [0, 4])
def test_nothing_valid_is_exactly_zero_with_a_gradient(kind, tokens):
    head = torch.nn.Linear(8, 16)
    predicted = head(torch.randn(tokens, 8))
    loss = motion_loss_sum(predicted, torch.zeros(tokens, 16), torch.zeros(tokens, 16, dtype=torch.bool), kind)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(head.weight.grad, torch.zeros_like(head.weight))


def test_epe_has_a_finite_gradient_at_zero():
    predicted = torch.zeros(1, 2, requires_grad=True)
    motion_loss_sum(predicted, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), "epe").backward()
    assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_supervised_rows_give_the_loss_of_all_rows(smoothing):
    torch.manual_seed(0)
    lm_head = torch.nn.Linear(8, 50, bias=False)
    hidden, labels = torch.randn(2, 7, 8), torch.randint(0, 50, (2, 7))
    labels[torch.rand(2, 7) < 0.6] = -100
    total, logits = cross_entropy_sum(hidden, labels, lm_head, smoothing)
    everything = lm_head(hidden)[:, :-1].reshape(-1, 50)
    expected = F.cross_entropy(everything, labels[:, 1:].reshape(-1), reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(total, expected)
    assert len(logits) == (labels[:, 1:] != -100).sum()


def test_no_label_is_zero_with_a_gradient():
    lm_head = torch.nn.Linear(8, 50, bias=False)
    total, logits = cross_entropy_sum(torch.randn(2, 7, 8), torch.full((2, 7), -100), lm_head)
    assert total.item() == 0 and logits.shape == (0, 50)
    total.backward()
    assert torch.equal(lm_head.weight.grad, torch.zeros_like(lm_head.weight))


def test_weights_weigh() -> None:
    predicted, target = torch.tensor([[2.0, 0.0, 5.0, 5.0]]), torch.zeros(1, 4)
    mask, weights = torch.tensor([[True, True, False, False]]), torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert motion_loss_sum(predicted, target, mask, "l1", weights) == 1.0
    assert motion_loss_sum(predicted, target, mask, "l1") == 2.0
