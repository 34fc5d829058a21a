"""Everything that leans on a private name of transformers or PEFT, one function each (transformers 5.6, PEFT 0.18)."""

import os
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file


def base_of(model: Any) -> PreTrainedModel:
    """Return the transformers model inside PEFT's and the engine's wrappers."""
    while hasattr(model, "module"):  # DDP, DeepSpeed
        model = model.module
    if hasattr(model, "get_base_model"):  # PeftModel
        model = model.get_base_model()
    return model


def is_peft(model: nn.Module) -> bool:
    """Say whether the model carries an adapter."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def is_zero3(module: nn.Module) -> bool:
    """Say whether DeepSpeed's ZeRO-3 has split the module's parameters over the processes."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def is_frozen(lm_head: Any) -> bool:
    """Say whether nothing of an output layer is trained."""
    # under FSDP the weight may be no parameter, but a view of one
    return not any(tensor.requires_grad for tensor in (lm_head.weight, *lm_head.parameters()))


def run_frozen_vision_without_graph(base: PreTrainedModel) -> None:
    """Keep the activations of a vision encoder that isn't trained out of the backward pass, which ends in nothing.

    For gradient checkpointing PEFT calls `enable_input_require_grads`, which marks the first layer of the vision
    encoder, too, since transformers 5 (huggingface/transformers#41993; modelscope/ms-swift#10214 met the same): all
    its layers are then kept, and gone through backwards, for no weight. The merger, behind them, may be trained.
    """
    visual: Any = base.model.visual
    if not any(parameter.requires_grad for name, parameter in visual.named_parameters() if "merger" not in name):
        visual.patch_embed.register_forward_hook(lambda module, args, output: output.detach())


def language_model_of(base: PreTrainedModel) -> Any:
    """Return the decoder that reads the token embeddings: `model.language_model` in the three Qwen-VL families."""
    return base.model.language_model


def fetch_file(where: str, name: str, **hub_kwargs: Any) -> str | None:
    """Return the local path of a file in a folder or hub repository, or None where it isn't there."""
    if os.path.isdir(where):
        path = os.path.join(where, name)
        return path if os.path.isfile(path) else None
    try:
        found: str | None = cached_file(
            where,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
            **hub_kwargs,
        )
    except OSError:  # not a repository at all: whoever loads the model says so better
        return None
    return found
