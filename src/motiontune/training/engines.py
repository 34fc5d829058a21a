"""What DeepSpeed and FSDP ask of a motion head, and what of them is refused at the start of a run."""

import functools
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from motiontune.errors import ConfigError, in_one_line


_NEEDS_ALL_POSITIONS = "the head needs all positions of a sample in one process"


@dataclass(frozen=True)
class Use:
    """What a run does with its model.

    Args:
        generates: texts are generated (`predict_with_generate`).
        has_adapter: an adapter is trained (LoRA).
        whole_modules: modules of which the adapter trains a copy (`additional_target`).
    """

    generates: bool = False
    has_adapter: bool = False
    whole_modules: Collection[str] = ()


def fit_to_engine(accelerator: Any, head: nn.Module, use: Use = Use()) -> str:
    """Give the head the dtype that an engine demands, and refuse what would lose it.

    ZeRO-3 takes one dtype for all that trains, and keeps weights in float32 for the optimizer itself.

    Args:
        accelerator: the trainer's.
        head: the motion head, before the engine wraps it. Changed in place.
        use: what the run does.

    Returns:
        What was changed of the engine's own settings, to be logged; "" for nothing.

    Raises:
        ConfigError: in one line, naming the key.
    """
    _check_parallelism(getattr(accelerator, "parallelism_config", None))
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None:
        config = deepspeed.hf_ds_config
        _check_deepspeed(config)
        if config.is_zero3():
            if "lm_head" in use.whole_modules:
                raise ConfigError(
                    "additional_target: lm_head does not train under ZeRO-3 (PEFT, DeepSpeed): use ZeRO-2"
                )
            head.to(config.dtype())
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is None:
        return ""
    _check_fsdp(fsdp.fsdp_version, use)
    if fsdp.fsdp_version == 1 and accelerator.num_processes == 1 and use.has_adapter:
        raise ConfigError(
            "fsdp: FSDP1 in one process splits nothing, and torch cannot save an adapter from it: leave fsdp out, or "
            "use FSDP2 (examples/engines/fsdp2.json)"
        )
    return _choose_full_state(fsdp)


def _check_fsdp(version: int, use: Use) -> None:
    """Refuse what hangs, crashes or comes out wrong in accelerate, PEFT or transformers."""
    if use.has_adapter and use.whole_modules:
        raise ConfigError(
            "additional_target: under FSDP an adapter's copies of whole modules are not saved and loaded whole (PEFT, "
            "accelerate): use ZeRO-2, or leave fsdp out"
        )
    if version == 1 and use.generates:
        raise ConfigError(
            "predict_with_generate: under FSDP1 texts and motion come out wrong after the first batch, with plain "
            "LLaMA-Factory, too: predict from the saved model without fsdp"
        )


def _check_parallelism(config: Any) -> None:
    for kind, name in (("sp", "sequence"), ("cp", "context"), ("tp", "tensor")):
        if config is not None and getattr(config, f"{kind}_size", 1) > 1:
            raise ConfigError(
                f"parallelism_config: {name} parallelism ({kind}_size) does not work with motion: "
                f"{_NEEDS_ALL_POSITIONS}"
            )


def _check_deepspeed(config: Any) -> None:
    for key in ("sequence_parallel_size", "tensor_parallel.autotp_size"):
        if (config.get_value(key) or 1) > 1:
            raise ConfigError(f"the DeepSpeed file's {key} does not work with motion: {_NEEDS_ALL_POSITIONS}")
    gathers = config.get_value("zero_optimization.stage3_gather_16bit_weights_on_model_save")
    if config.is_zero3() and not gathers:
        raise ConfigError(
            "the DeepSpeed file's zero_optimization.stage3_gather_16bit_weights_on_model_save must be true: without "
            "it ZeRO-3 saves no model that the head could lie beside"
        )


def _choose_full_state(plugin: Any) -> str:
    """Save whole models: FSDP2's default saves parts, and at the end of a run nothing at all."""
    if "FULL_STATE_DICT" in str(plugin.state_dict_type):
        return ""
    if os.environ.get("FSDP_STATE_DICT_TYPE"):
        raise ConfigError(
            f"FSDP's state_dict_type {os.environ['FSDP_STATE_DICT_TYPE']} saves no model that the head could lie "
            f"beside: use FULL_STATE_DICT"
        )
    plugin.state_dict_config = plugin.optim_state_dict_config = None  # made anew for the type
    plugin.set_state_dict_type("FULL_STATE_DICT")
    return "FSDP saves the whole model (FULL_STATE_DICT) in place of its default, parts of it (SHARDED_STATE_DICT)."


def check_checkpoint(accelerator: Any, checkpoint: str) -> None:
    """Refuse a checkpoint whose optimizer this run cannot go on with.

    That is one of another engine, one that DeepSpeed has split among another number of processes, and one that was
    saved without an optimizer. The Trainer goes on with some of them, with an optimizer that is new.

    Args:
        accelerator: the trainer's.
        checkpoint: the folder that the run is resumed from.

    Raises:
        ConfigError: naming what differs.
    """
    plugin, folder = getattr(accelerator.state, "deepspeed_plugin", None), Path(checkpoint)
    if plugin is not None and plugin.hf_ds_config.get_value("checkpoint.load_universal"):
        return
    then, now = _saved_by(folder), _engine_of(accelerator.state)
    anew = "start anew from its model"
    if not then:
        raise ConfigError(
            f"resume_from_checkpoint: {checkpoint} has no optimizer to go on with (save_only_model): {anew}"
        )
    if then != now:
        raise ConfigError(
            f"resume_from_checkpoint: {checkpoint} was saved with {then}, and this run has {now}, which cannot go on "
            f"with its optimizer: resume with {then}, or {anew}"
        )
    parts = len(list(folder.glob("global_step*/*zero_pp_rank_*_optim_states.pt")))
    if parts and parts != accelerator.num_processes:
        raise ConfigError(
            f"resume_from_checkpoint: {checkpoint} was saved by {parts} processes of DeepSpeed, and this run has "
            f"{accelerator.num_processes}: start {parts}, or make a universal checkpoint of it (ds_to_universal)"
        )


_ZERO_3, _BELOW, _FSDP, _NONE = "ZeRO-3", "DeepSpeed below ZeRO-3", "FSDP", "neither DeepSpeed nor FSDP"


def _engine_of(state: Any) -> str:
    deepspeed = getattr(state, "deepspeed_plugin", None)
    if deepspeed is not None:
        return _ZERO_3 if deepspeed.hf_ds_config.is_zero3() else _BELOW
    return _NONE if getattr(state, "fsdp_plugin", None) is None else _FSDP


def _saved_by(checkpoint: Path) -> str:
    """The engine whose optimizer lies in a checkpoint, by its files, or "" for no optimizer."""
    kinds = {  # ZeRO-3 splits the weights, too
        _ZERO_3: "global_step*/*zero_pp_rank_*_model_states.pt",
        _BELOW: "global_step*/*_states.pt",
        _FSDP: "optimizer*",  # optimizer.bin, or optimizer_0/ of a state in parts
    }
    if (checkpoint / "optimizer.pt").exists():
        return _NONE
    return next((engine for engine, files in kinds.items() if any(checkpoint.glob(files))), "")


@functools.cache
def know_cpus_of_processes() -> None:
    """Let torch load to "cpu:0", the device of a process among several on the CPU, which it does not know.

    transformers loads an optimizer to it. Every such run would end as it is resumed.
    """
    torch.serialization.register_package(
        0, lambda storage: None, lambda storage, place: storage if place.startswith("cpu:") else None
    )


def check_scheduler(accelerator: Any, rate: float, learning_rate: float) -> None:
    """Refuse a scheduler of DeepSpeed's own, which gives all parameters one learning rate.

    Args:
        accelerator: the trainer's.
        rate: the head's learning rate.
        learning_rate: that of everything else.

    Raises:
        ConfigError: saying what to change.
    """
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.hf_ds_config.get_value("scheduler") and rate != learning_rate:
        raise ConfigError(
            f"the DeepSpeed file's scheduler gives the motion head the learning rate of everything else, and not its "
            f"own, {rate}: take `scheduler` out of it and set lr_scheduler_type, or `motion_head_learning_rate: "
            f"{learning_rate}`"
        )


REFUSED = {  # what transformers and accelerate say: what to do
    "mismatch TrainingArguments": 'use "auto" for them in the file',
    "Could not find the transformer layer class": "leave transformer_layer_cls_to_wrap out, the model knows its own",
    "not compatible with FSDP state dict type": "set FSDP_STATE_DICT_TYPE=FULL_STATE_DICT in the environment",
    "can't be used with `save_only_model`": "leave one of them out",
    "gradient_checkpointing in training arg": "leave activation_checkpointing out",
    "must be passed together": "FSDP2 cannot evaluate or predict without training: leave fsdp out",
}


@contextmanager
def engine_mistakes(args: Any) -> Iterator[None]:
    """Turn what transformers and accelerate refuse of an engine's keys into one line.

    Args:
        args: the trainer's.

    Raises:
        ConfigError: naming the key, what is wrong and what to do.
    """
    try:
        yield
    except ValueError as error:
        for said, advice in REFUSED.items():
            if said in str(error):
                key = "deepspeed" if args.deepspeed else "fsdp"
                raise ConfigError(f"{key}: {in_one_line(error)} ({advice})") from error
        raise


def check_head_group(optimizer: Any, head: list[nn.Parameter], rate: float, learning_rate: float) -> None:
    """Refuse an optimizer that would not train the head at its own rate.

    Args:
        optimizer: the trainer's, just made.
        head: the head's trainable parameters; none where an engine has hidden them.
        rate: the head's learning rate.
        learning_rate: that of everything else.

    Raises:
        ConfigError: saying what to change.
    """
    groups = getattr(optimizer, "param_groups", [])
    if head and any(
        group["lr"] == rate and {id(each) for each in group["params"]} == {id(each) for each in head}
        for group in groups
    ):
        return
    if rate == learning_rate:
        return
    raise ConfigError(
        f"the motion head would train at learning_rate {learning_rate} and not at its own, {rate}: take `optimizer` "
        f"out of the DeepSpeed file, set FSDP's use_orig_params to true, or `motion_head_learning_rate: "
        f"{learning_rate}`"
    )
