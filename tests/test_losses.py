"""The motion losses and cross-entropy at the supervised rows."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from motiontune.model.losses import MOTION_LOSS_TYPES, motion_loss_sum, supervised_positions, token_cross_entropy


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


@pytest.fixture
def text():
    """Hidden states [2, 7, 8], labels of which some are none, and an output layer."""
    torch.manual_seed(0)
    lm_head = torch.nn.Linear(8, 50, bias=False)
    hidden, labels = torch.randn(2, 7, 8, requires_grad=True), torch.randint(0, 50, (2, 7))
    labels[torch.rand(2, 7) < 0.2] = -100
    return hidden, labels, lm_head


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_supervised_rows_give_the_loss_of_all_rows(text, smoothing):
    hidden, labels, lm_head = text
    each, tokens = token_cross_entropy(hidden, labels, supervised_positions(labels), lm_head, smoothing, True)
    everything = lm_head(hidden)[:, :-1].reshape(-1, 50)
    wanted = labels[:, 1:].reshape(-1)
    expected = F.cross_entropy(everything, wanted, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(each, expected[wanted != -100])
    assert torch.equal(tokens, everything.argmax(-1)[wanted != -100])


def test_no_label_is_zero_with_a_gradient(text):
    hidden, labels, lm_head = text
    labels.fill_(-100)
    each, tokens = token_cross_entropy(hidden, labels, supervised_positions(labels), lm_head, 0.0, True)
    assert each.shape == tokens.shape == (0,)
    each.sum().backward()
    assert torch.equal(lm_head.weight.grad, torch.zeros_like(lm_head.weight))


class Saved:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


def loss_and_gradients(hidden, labels, lm_head):
    """The loss, the gradients of hidden states and weight, and how many logits wait for the backward pass."""
    hidden.grad = lm_head.weight.grad = None
    alive = weakref.WeakSet()

    def save(tensor):
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved.tensor):
        each, _ = token_cross_entropy(hidden, labels, supervised_positions(labels), lm_head)
    logits = [saved.tensor for saved in alive if saved.tensor.shape[-1:] == (50,) and len(saved.tensor) != 8]
    kept = sum(tensor.numel() for tensor in logits)  # not the weight, which has 8 rows or columns
    (each * torch.arange(len(each))).sum().backward()
    return [each, hidden.grad, *([] if lm_head.weight.grad is None else [lm_head.weight.grad])], kept


@pytest.mark.parametrize("frozen", [False, True])
def test_pieces_give_the_loss_and_the_gradients_of_one_piece(text, frozen, monkeypatch):
    hidden, labels, lm_head = text
    whole, kept = loss_and_gradients(*text)
    rows = len(whole[0])
    assert rows > 6 and kept >= 50 * rows
    lm_head.requires_grad_(not frozen)
    for size in (1, 3, rows - 1, rows):
        monkeypatch.setattr("motiontune.model.losses.ROWS_AT_ONCE", size)
        calls = []
        hook = lm_head.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        pieces, kept_of_pieces = loss_and_gradients(*text)
        hook.remove()
        assert len(pieces) == (2 if frozen else 3)
        for one, other in zip(whole, pieces, strict=False):
            torch.testing.assert_close(one, other)
        number = -(-rows // size)
        if frozen:  # each row once, and no logits wait
            assert len(calls) == number and kept_of_pieces == 0
        else:  # each but the last piece, which waits, a second time
            assert len(calls) == 2 * number - 1
            assert kept_of_pieces == kept / rows * len(torch.arange(rows).chunk(number)[-1])


def test_zero3_gets_one_piece(text, monkeypatch):
    """It gathers the weight in all processes at each call, so these must call equally often."""
    hidden, labels, lm_head = text
    monkeypatch.setattr("motiontune.model.losses.ROWS_AT_ONCE", 1)
    lm_head.weight.ds_id = 0
    calls = []
    lm_head.register_forward_hook(lambda *_: calls.append(1))
    token_cross_entropy(hidden, labels, supervised_positions(labels), lm_head)
    assert len(calls) == 1


def test_weights_weigh() -> None:
    predicted, target = torch.tensor([[2.0, 0.0, 5.0, 5.0]]), torch.zeros(1, 4)
    mask, weights = torch.tensor([[True, True, False, False]]), torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert motion_loss_sum(predicted, target, mask, "l1", weights) == 1.0
    assert motion_loss_sum(predicted, target, mask, "l1") == 2.0
