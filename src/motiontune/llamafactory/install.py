"""Puts motiontune's keys and workflow into LLaMA-Factory, in this process. Without a motion flag nothing changes."""

import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from llamafactory.hparams import DataArguments, FinetuningArguments
from llamafactory.model import load_config
from transformers import TrainerCallback

from motiontune.errors import ConfigError, MotiontuneError, mistakes
from motiontune.llamafactory import names
from motiontune.llamafactory.arguments import (
    MotionDataArguments,
    MotionFinetuningArguments,
    check_replacements,
    check_together,
)
from motiontune.llamafactory.cluster import in_cluster, install_in_cluster
from motiontune.llamafactory.config import check_keys, clean_values, with_new_names
from motiontune.llamafactory.page import WritePage
from motiontune.llamafactory.samples import check_names
from motiontune.model.damage import check_adapter_files, check_model
from motiontune.model.families import family_of
from motiontune.model.head import CONFIG_NAME
from motiontune.model.hub import use_cache_without_network
from motiontune.model.sparse_logits import use_sparse_logits
from motiontune.model.tower import install_dino_tower
from motiontune.model.wrappers import mend_flash_attention
from motiontune.runs.configuration import read_config
from motiontune.runs.folder import claim_run, given_keys, note_run, read_runs, trains, without_secrets
from motiontune.terminal import current
from motiontune.training.checkpoints import checkpoints_of, resuming, saving
from motiontune.training.names import keep_other_folders


_originals: dict[str, Any] = {}


def install() -> None:
    """Extend LLaMA-Factory; a second call does nothing."""
    if _originals:
        return
    mend_flash_attention()  # without a motion flag, too: LLaMA-Factory's own runs stop there
    keep_other_folders()
    install_dino_tower()
    names.add_arguments({DataArguments: MotionDataArguments, FinetuningArguments: MotionFinetuningArguments})
    _originals.update(
        names.replace_in_tuner(
            get_train_args=get_train_args, get_infer_args=get_infer_args, run_sft=run_sft, run_exp=run_exp
        )
    )
    install_in_cluster()


def run_exp(
    args: "dict[str, Any] | list[str] | None" = None, callbacks: "list[TrainerCallback] | None" = None
) -> None:
    """Run one experiment, as `llamafactory.train.tuner.run_exp`, with motiontune's keys known.

    Args:
        args: the keys of a YAML, a list of command-line arguments, or None for `sys.argv`.
        callbacks: further trainer callbacks.

    Raises:
        MotiontuneError: on a mistake in the configuration or data, in one line.
    """
    install()
    args = with_new_names(read_config(sys.argv[1:]) if args is None else args)
    keys = given_keys(args)
    terminal = current()
    output_dir = names.OUTPUT_DIR if keys.get("output_dir") is None else keys["output_dir"]
    # an empty one is refused with the other values
    if isinstance(output_dir, str) and output_dir.strip() and os.environ.get("RANK", "0") == "0":
        claim_run(output_dir, keys)
        if terminal is not None:
            terminal.check(Path(output_dir))
    page = [] if terminal is None else [WritePage(terminal)]
    try:
        with in_cluster():
            _originals["run_exp"](args, [*(callbacks or []), InstallInWorker(), NoteRun(keys), *page])
    except KeyboardInterrupt:
        if isinstance(output_dir, str) and (found := checkpoints_of(output_dir)):
            raise KeyboardInterrupt(f"the same command goes on from {found[0]}") from None
        raise
    for one in page:
        one.end()


class InstallInWorker(TrainerCallback):
    """Does nothing but install motiontune where it is unpickled: a Ray worker imports LLaMA-Factory afresh."""

    def __reduce__(self) -> Any:
        return _install_and_make, ()


class NoteRun(TrainerCallback):
    """Notes in the output folder how the run was started, once all is loaded, for `motiontune report`."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.configuration = configuration

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            note_run(args.output_dir, self.configuration, args.world_size)


def _install_and_make() -> InstallInWorker:
    install()
    return InstallInWorker()


# what LLaMA-Factory and transformers raise while they read arguments; ImportError: a package that a key asks for
ARGUMENT_ERRORS = (ValueError, AssertionError, OSError, ImportError)


def get_train_args(args: Any = None) -> Any:
    """Parse the training arguments, refuse unknown keys with the nearest known one, and check the groups together."""
    args, classes = with_new_names(args), names.train_argument_classes()
    check_keys(args, classes)
    args = clean_values(args, classes)
    given = given_keys(read_config(sys.argv[1:]) if args is None else args)
    check_replacements(given)
    _check_device(given)
    _look_for_models(given)
    with mistakes("", *ARGUMENT_ERRORS):
        groups = _originals["get_train_args"](args)
    model_args, data_args, training_args, finetuning_args, _ = groups
    if not training_args.do_train:
        sample_as_trained(model_args, given)
        training_args.overwrite_output_dir = False  # by which the log of a training would be removed
    check_together(model_args, data_args, training_args, finetuning_args, given)
    if training_args.do_train and training_args.resume_from_checkpoint and "resume_from_checkpoint" not in given:
        _tell_that_it_goes_on(training_args.output_dir, given)
    return groups


def _tell_that_it_goes_on(folder: str, given: dict[str, Any]) -> None:
    """LLaMA-Factory resumes wherever the output folder has a checkpoint, also with other keys than before."""
    with suppress(MotiontuneError):  # a damaged list of runs is named when this one is noted
        before = [run.configuration for run in read_runs(Path(folder)) if trains(run.configuration)]
        old, new = before[-1] if before else {}, without_secrets(given)
        changed = [
            f"{key} {new.get(key, 'left out')} ({old.get(key, 'left out')} before)"
            for key in sorted(old.keys() | new.keys())
            if str(old.get(key)) != str(new.get(key)) and key != "output_dir"
        ]
        names.get_logger(__name__).warning_rank0(
            f"{folder} has a checkpoint, and the run goes on from there; overwrite_output_dir: true, or another "
            f"output_dir, starts anew." + (f" It had other keys: {', '.join(changed)}." if before and changed else "")
        )


def _check_device(given: dict[str, Any]) -> None:
    """Refuse what needs a GPU where there is none, before the Trainer does so in words of its own.

    Raises:
        ConfigError: with the key that trains on the CPU.
    """
    available = {
        "bf16": transformers.training_args.is_torch_bf16_gpu_available,
        "fp16": torch.accelerator.is_available,
    }
    for key in [key for key in available if given.get(key) in (True, "true", "True")]:
        if given.get("use_cpu") not in (True, "true", "True") and not available[key]():
            raise ConfigError(
                f"{key}: there is no GPU here. `use_cpu: true` trains on the CPU, which is slow: take a small model"
            )


def _look_for_models(given: dict[str, Any]) -> None:
    """Refuse models that are nowhere, or damaged, before the data sets, which take long.

    Raises:
        ConfigError: naming the model or the file.
    """
    model = str(given.get("model_name_or_path") or "").strip()
    adapters = [place.strip() for place in str(given.get("adapter_name_or_path") or "").split(",")]
    where = {"cache_dir": given.get("cache_dir"), "revision": given.get("model_revision")}
    use_cache_without_network(model, *adapters, **where)
    if model:
        check_model(model)
    for adapter in filter(None, adapters):
        check_adapter_files(adapter)


def sample_as_trained(model_args: Any, given: dict[str, Any]) -> None:
    """Let an evaluation or prediction alone sample clips as the model's training did, where no key says otherwise."""
    from motiontune.llamafactory.sampling import sampling_keys
    from motiontune.llamafactory.workflow import head_places, hub_arguments

    trained = sampling_keys(head_places(model_args), **hub_arguments(model_args))
    taken = {key: value for key, value in trained.items() if key not in given and value != getattr(model_args, key)}
    for key, value in taken.items():
        setattr(model_args, key, value)
    if taken:
        names.get_logger(__name__).info_rank0(
            f"Clips are sampled as in the model's training: {', '.join(f'{key} {taken[key]}' for key in taken)}."
        )


def get_infer_args(args: Any = None) -> Any:
    """Parse the export arguments, refusing unknown keys with the nearest known one."""
    args, classes = with_new_names(args), names.export_argument_classes()
    check_keys(args, classes)
    args = clean_values(args, classes)
    _look_for_models(given_keys(read_config(sys.argv[1:]) if args is None else args))
    with mistakes("", *ARGUMENT_ERRORS):
        return _originals["get_infer_args"](args)


def run_sft(
    model_args: Any,
    data_args: Any,
    training_args: Any,
    finetuning_args: Any,
    generating_args: Any,
    callbacks: Any = None,
) -> None:
    """Run motiontune's workflow where a motion flag is set, LLaMA-Factory's own otherwise."""
    if current() is not None:
        training_args.disable_tqdm = True  # the page has the progress
    if not data_args.train_on_video_tokens:
        check_names(data_args)
        checkpoint = training_args.resume_from_checkpoint if training_args.do_train else None
        if checkpoint is True:  # the Trainer takes the last one
            folder = training_args.output_dir
            if not (found := checkpoints_of(folder)):
                raise ConfigError(f"resume_from_checkpoint: {folder} has no checkpoint: leave the key out")
            checkpoint = str(found[0])
        if isinstance(checkpoint, str) and Path(checkpoint, CONFIG_NAME).is_file():
            raise ConfigError(
                f"resume_from_checkpoint: {checkpoint} is of a run that trained motion: resume with that run's keys, "
                f"or choose another output_dir and start anew from its model"
            )
        hooks: Any = nullcontext()
        if finetuning_args.sparse_logits:
            with mistakes(f"model_name_or_path: {model_args.model_name_or_path}", OSError, ValueError):
                family_of(load_config(model_args), "sparse_logits")  # before the data sets, which take long
            hooks = names.sft_hooks(use_sparse_logits)
        with hooks, saving(training_args.output_dir), resuming(checkpoint):
            _originals["run_sft"](model_args, data_args, training_args, finetuning_args, generating_args, callbacks)
        return
    from motiontune.llamafactory.workflow import run_motion_sft

    run_motion_sft(model_args, data_args, training_args, finetuning_args, generating_args, callbacks)
