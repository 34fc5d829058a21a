"""The motion losses, and cross-entropy at the supervised rows only. No means here: who averages knows the whole batch.

Shapes: B batch, S sequence, H hidden size, T video tokens, D numbers per token, N supervised positions, V vocabulary.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from motiontune.model.compat import is_zero3


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

    More than `ROWS_AT_ONCE` rows go through in pieces whose logits are computed again in the backward pass, so that
    those of one piece exist at a time.

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
    # ZeRO-3 gathers the weight in all processes at each call, and these may have different numbers of rows
    size = len(rows) if is_zero3(lm_head) else ROWS_AT_ONCE
    if len(rows) <= size:
        return piece(rows, targets)
    pieces = zip(rows.split(size), targets.split(size), strict=True)
    losses, tokens = zip(*(checkpoint(piece, *each, use_reentrant=False) for each in pieces), strict=True)
    return torch.cat(losses), torch.cat(tokens) if with_tokens else None
