"""Plain training of the answer's text, with `lm_head` computed where a token is labelled and nowhere else.

Of the thousands of positions of a video few carry a label; the families' own `forward` projects them all to the
vocabulary. Shapes: B batch, S sequence, N labelled tokens.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from motiontune.model.families import family_of
from motiontune.model.losses import supervised_positions, token_cross_entropy
from motiontune.model.wrappers import (
    base_of,
    check_positions,
    mend_flash_attention,
    router_loss,
    run_frozen_vision_without_graph,
)


@dataclass
class TextOutput(ModelOutput):
    """What a forward pass with labels returns.

    Args:
        loss: float32 scalar, the mean over the labelled tokens of this batch; zero where there is none.
        token_ids: int64 [B, S], the most likely next token where one is labelled, else 0; only in evaluation.
    """

    loss: Tensor | None = None
    token_ids: Tensor | None = None


def use_sparse_logits(model: nn.Module) -> None:
    """Let a model compute logits at the supervised rows only whenever it gets labels, in place.

    Args:
        model: of a supported family, for conditional generation, with or without a PEFT adapter.

    Raises:
        ConfigError: if the model is of none of them.
    """
    base = base_of(model)
    family_of(base.config, "sparse_logits")
    check_positions()
    mend_flash_attention()
    original: Any = type(base)
    base.__class__ = _with_sparse_logits(original)
    run_frozen_vision_without_graph(base)


@functools.cache
def _with_sparse_logits(original: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Make the subclass of a model class whose forward computes logits where they are read."""

    @functools.wraps(original.forward)  # generate() and the Trainer read the signature
    def forward(self: Any, *args: Any, labels: Tensor | None = None, **inputs: Any) -> Any:
        if labels is None:
            return original.forward(self, *args, **inputs)
        family = family_of(self.config)
        positions = supervised_positions(labels)
        inputs.pop("rope_deltas", None)  # the original forward does not pass it on either
        outputs = self.model(*args, **inputs)
        losses, tokens = token_cross_entropy(
            outputs[0], labels, positions, family.lm_head_of(self), with_tokens=not self.training
        )
        loss = losses.sum() / max(len(positions), 1)
        router = router_loss(self, outputs, inputs)
        loss = loss if router is None else loss + router
        return TextOutput(loss, None if tokens is None else torch.zeros_like(labels).put_(positions, tokens))

    # The name stays, so that config.json's `architectures` does.
    return type(original.__name__, (original,), {"forward": forward, "__module__": original.__module__})
