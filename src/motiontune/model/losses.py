"""The motion losses, and cross-entropy at the supervised rows only. All are sums: who averages knows the whole batch.

Shapes: T video tokens, D numbers per token, N supervised positions, V vocabulary.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn


MotionLossType = Literal["smooth_l1", "l1", "l2", "epe"]
MOTION_LOSS_TYPES: tuple[str, ...] = get_args(MotionLossType)
CHARBONNIER_EPSILON = 1e-3
IGNORE_INDEX = -100


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
    """Say which positions predict a labelled token: bool [B, S], shifted by one as for every causal model."""
    supervised = torch.zeros_like(labels, dtype=torch.bool)
    supervised[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return supervised


def cross_entropy_sum(
    hidden: Tensor, labels: Tensor, lm_head: nn.Module, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy over the labelled tokens; only their rows ever reach `lm_head`.

    Args:
        hidden: floating [B, S, H], the last hidden states.
        labels: int64 [B, S], -100 where nothing is labelled.
        lm_head: H -> V.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.

    Returns:
        The sum (float32 scalar, with a graph even if nothing is labelled) and the logits [N, V].
    """
    logits = lm_head(hidden[supervised_positions(labels)])
    target = labels[:, 1:][labels[:, 1:] != IGNORE_INDEX].to(logits.device)
    return F.cross_entropy(logits.float(), target, reduction="sum", label_smoothing=label_smoothing), logits


def cross_entropy_rows(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum the cross-entropy of each sample.

    Args:
        logits: floating [N, V], as `cross_entropy_sum` returns them.
        labels: int64 [B, S].
        label_smoothing: as in `torch.nn.functional.cross_entropy`.

    Returns:
        float32 [B].
    """
    labels = labels[:, 1:].to(logits.device)
    supervised = labels != IGNORE_INDEX
    each = F.cross_entropy(logits.float(), labels[supervised], reduction="none", label_smoothing=label_smoothing)
    return each.new_zeros(len(labels)).index_add(0, supervised.nonzero()[:, 0], each)
