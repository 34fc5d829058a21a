"""The motion losses, and cross-entropy at the supervised rows only. No means here: who averages knows the whole batch.

Shapes: B batch, S sequence, H hidden size, T video tokens, D numbers per token, N supervised positions, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from motiontune.model.sharding import is_sharded
from motiontune.model.wrappers import is_frozen


MotionLossType = Literal["smooth_l1", "l1", "l2", "epe"]
MOTION_LOSS_TYPES: tuple[str, ...] = get_args(MotionLossType)
CHARBONNIER_EPSILON = 1e-3
IGNORE_INDEX = -100
ROWS_AT_ONCE = 1024
"""Rows that pass `lm_head` together: their float32 logits of a vocabulary of 152k are 0.6 GiB."""


def motion_loss_sum(
    predicted: Tensor, target: Tensor, mask: Tensor, kind: MotionLossType, weights: Tensor | None = None
) -> Tensor:
    """Sum the loss over the valid numbers.

    Divide by the number of valid numbers, or by the sum of their weights, for the mean. `epe` is the end-point error
    of each vector (Charbonnier: sqrt(dx^2 + dy^2 + eps^2) - eps, smooth at zero), counted for both of its numbers, so
    that the mean over numbers is the mean over vectors.

    Args:
        predicted: float32 [T, D], x and y alternating along D.
        target: float32 [T, D].
        mask: bool [T, D], true where the number counts; x and y of a vector alike.
        kind: "smooth_l1" (beta 1 patch), "l1", "l2" or "epe".
        weights: float32 [T, D], how much each number counts; None for all alike.

    Returns:
        float32 scalar; zero with a graph where nothing is valid, so that every rank has a gradient to reduce.
    """
    if kind == "epe":
        vectors = (predicted - target).unflatten(-1, (-1, 2))
        length = (vectors.square().sum(-1, keepdim=True) + CHARBONNIER_EPSILON**2).sqrt() - CHARBONNIER_EPSILON
        each = length.expand_as(vectors).flatten(-2)
    else:
        function = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "l2": F.mse_loss}[kind]
        each = function(predicted, target, reduction="none")
    if weights is not None:
        each = each * weights
    return torch.where(mask, each, each.new_zeros(())).sum()


def supervised_positions(labels: Tensor) -> Tensor:
    """Find the positions that predict a labelled token, one before it as for every causal model.

    On a GPU this waits for what was queued before, so it belongs in front of the model's layers, not behind them.

    Args:
        labels: int64 [B, S], -100 where nothing is labelled.

    Returns:
        int64 [N], ascending, into the flattened [B * S].
    """
    return F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1)).flatten().nonzero().squeeze(-1)


def token_cross_entropy(
    hidden: Tensor,
    labels: Tensor,
    positions: Tensor,
    lm_head: nn.Module,
    label_smoothing: float = 0.0,
    with_tokens: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute the cross-entropy of each labelled token; only their rows ever reach `lm_head`.

    At most `ROWS_AT_ONCE` rows go through it together, and the logits of one such piece exist at a time: a frozen
    `lm_head` gives the gradient along with the loss, a trainable one computes logits again in the backward pass.

    Args:
        hidden: floating [B, S, H], the last hidden states.
        labels: int64 [B, S].
        positions: int64 [N], `supervised_positions(labels)`.
        lm_head: H -> V.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.
        with_tokens: also find the most likely tokens.

    Returns:
        float32 [N], with a graph even if nothing is labelled; and int64 [N], the most likely tokens, or None.
    """

    def piece(rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = lm_head(rows).float()
        each = F.cross_entropy(logits, targets.to(logits.device), reduction="none", label_smoothing=label_smoothing)
        return each, logits.argmax(-1).to(targets.device) if with_tokens else None

    rows = hidden.flatten(0, 1).index_select(0, positions.to(hidden.device))
    targets = labels.flatten()[positions + 1]
    # an engine gathers the weight in all processes at each call, and these may have different numbers of rows
    in_pieces = not is_sharded(lm_head)
    number = max(-(-len(rows) // ROWS_AT_ONCE), 1) if in_pieces else 1
    pieces = list(zip(rows.chunk(number), targets.chunk(number), strict=True))
    if with_tokens or not torch.is_grad_enabled():
        parts = [piece(*each) for each in pieces]
    elif in_pieces and is_frozen(lm_head):
        parts = [(_LossWithGradient.apply(piece, *each), None) for each in pieces]  # type: ignore[no-untyped-call]
    else:  # the last piece's backward pass comes first: its logits are still there, and gone when the next are made
        parts = [checkpoint(piece, *each, use_reentrant=False) for each in pieces[:-1]] + [piece(*pieces[-1])]
    losses, tokens = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(tokens) if with_tokens else None


class _LossWithGradient(torch.autograd.Function):
    """A loss [N] of rows [N, H], each of its own row and of nothing else that is trained; keeps its gradient only."""

    @staticmethod
    def forward(ctx: Any, loss_of: Callable[..., tuple[Tensor, None]], rows: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            losses, _ = loss_of(leaf, targets)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        ctx.save_for_backward(gradient)
        return losses.detach()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, (gradient * upstream.unsqueeze(-1).to(gradient.device)).to(gradient.dtype), None
