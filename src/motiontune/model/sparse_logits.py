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

from motiontune.model.forward import check_video_model
from motiontune.model.losses import supervised_positions, token_cross_entropy
from motiontune.model.wrappers import base_of, run_frozen_vision_without_graph


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
        model: a Qwen2-VL, Qwen2.5-VL or Qwen3-VL for conditional generation, with or without a PEFT adapter.

    Raises:
        ConfigError: if the model is none of these.
    """
    base = base_of(model)
    check_video_model(base.config, "sparse_logits")
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
        positions = supervised_positions(labels)
        inputs.pop("rope_deltas", None)  # the original forward does not pass it on either
        hidden = self.model(*args, **inputs)[0]
        losses, tokens = token_cross_entropy(hidden, labels, positions, self.lm_head, with_tokens=not self.training)
        loss = losses.sum() / max(len(positions), 1)
        return TextOutput(loss, None if tokens is None else torch.zeros_like(labels).put_(positions, tokens))

    # The name stays, so that config.json's `architectures` does.
    return type(original.__name__, (original,), {"forward": forward, "__module__": original.__module__})
