"""Restore a model and its motion head from a checkpoint, and refuse when anything is missing."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import ADAPTER_CONFIG_NAME as CONFIG_OF_ADAPTER

from motiontune.errors import HeadError, MotiontuneError, mistakes
from motiontune.model.head import CONFIG_NAME, MotionHeadConfig, load_head
from motiontune.model.sharding import fill, fill_parameter
from motiontune.model.wrappers import base_of


UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)
"""What transformers and PEFT raise of files that are damaged, or of another kind of model."""


def restore_full_weights(base: Any, folder: str) -> None:
    """Load a full checkpoint into a model with a motion head.

    transformers 5.6 writes Qwen2-VL and Qwen2.5-VL under their old key names, and its Trainer loads them with
    `strict=False`: nothing matches, and the run goes on from the initial weights without a word. `from_pretrained`
    translates the names; what it reports missing, or what does not arrive here, is an error.

    Args:
        base: the model, changed in place. Each parameter keeps its dtype and device.
        folder: the checkpoint.

    Raises:
        MotiontuneError: if a weight is missing from the checkpoint, or left over.
    """
    if os.path.isfile(os.path.join(folder, CONFIG_OF_ADAPTER)):
        raise _cannot_resume(folder, "it holds an adapter, and this run trains the model's own weights")
    # float32 holds every dtype that a checkpoint mixes (trained weights in float32, frozen ones in bfloat16) exactly
    with mistakes(f"{folder}: the model cannot be loaded", *UNREADABLE):
        saved, info = base.motion_original_class.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    expected, found = base.state_dict(), saved.state_dict()
    wrong = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]) + _other_shapes(
        expected, {name: list(tensor.shape) for name, tensor in found.items()}
    )
    _refuse_unmatched(folder, wrong)  # else loading stops at another shape, in words of its own
    result = base.load_state_dict(found, strict=False)
    wrong = [key for key in result.missing_keys if not key.startswith("motion_head.")] + result.unexpected_keys
    _refuse_unmatched(folder, wrong)


def _other_shapes(expected: Mapping[str, torch.Tensor], found: Mapping[str, list[int]]) -> list[str]:
    """Name the weights whose shapes differ, with both of them."""
    shapes = {name: list(tensor.shape) for name, tensor in expected.items() if name in found}
    return [f"{name} ({found[name]} there, {shape} here)" for name, shape in shapes.items() if shape != found[name]]


def _refuse_unmatched(folder: str, weights: list[str]) -> None:
    if weights:
        raise _cannot_resume(folder, f"{len(weights)} weights do not match, such as {weights[0]}")


def _cannot_resume(folder: str, why: str) -> MotiontuneError:
    return MotiontuneError(
        f"{folder}: cannot resume, {why}: take another checkpoint, or the keys of model and fine-tuning that this one "
        f"was saved with"
    )


def check_adapter(model: Any, folder: str) -> None:
    """Refuse a checkpoint that lacks some of the adapter's weights, which PEFT would leave as they are, or has others.

    Args:
        model: the model with its adapter.
        folder: the checkpoint.

    Raises:
        MotiontuneError: naming a weight that is missing, or has another shape.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

    file, old = (os.path.join(folder, name) for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME))
    if os.path.isfile(file):
        with safe_open(file, "pt") as saved:
            found = {name: list(saved.get_slice(name).get_shape()) for name in saved.keys()}
    elif os.path.isfile(old):
        tensors = torch.load(old, map_location="cpu", weights_only=True)
        found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    elif any(Path(folder).glob(f"*/{CONFIG_OF_ADAPTER}")):  # several adapters, each in a folder of its own
        return
    else:
        raise _cannot_resume(folder, "it holds no adapter, and this run trains one")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False, adapter_name=model.active_adapters[0])
    _refuse_unmatched(folder, sorted(set(expected) - set(found)) + _other_shapes(expected, found))


def restore_adapter(model: Any, folder: str) -> None:
    """Load the adapter of a checkpoint into a model that has one, before an engine wraps it.

    Raises:
        MotiontuneError: as `check_adapter`.
    """
    check_adapter(model, folder)
    model.load_adapter(folder, model.active_adapters[0], is_trainable=True)


def fill_adapter(model: Any, folder: str) -> None:
    """Put the adapter of a checkpoint into a model that FSDP2 has wrapped. All processes must call it.

    accelerate 1.11 saves and loads each process's own part of an adapter as if it were the whole.
    """
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    name = model.active_adapters[0]
    with safe_open(os.path.join(folder, SAFETENSORS_WEIGHTS_NAME), "pt") as saved:
        keys = set(saved.keys())
        for full_name, parameter in model.named_parameters():
            key = full_name.replace(f".modules_to_save.{name}.", ".").replace(f".{name}.", ".")
            if key in keys and parameter.requires_grad:
                fill_parameter(parameter, saved.get_tensor(key))


def restore_head(model: Any, folder: str) -> MotionHeadConfig:
    """Load the motion head of a checkpoint into a model that has one. All processes must call it.

    Args:
        model: the model, wrapped by an engine or not yet.
        folder: the checkpoint.

    Returns:
        The saved head's configuration.

    Raises:
        HeadError: if the folder has no head, or one that does not fit.
    """
    head = load_head(folder)
    if head is None:
        raise HeadError(
            f"{os.path.join(folder, CONFIG_NAME)} is missing: this checkpoint was saved without a motion head; take "
            f"one that was saved with it, or start from the model itself, as `model_name_or_path`"
        )
    base: Any = base_of(model)
    head.config.check_fits(base.motion_head.config, folder)
    fill(model, base.motion_head, head.state_dict())
    return head.config
