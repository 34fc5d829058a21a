"""Puts motiontune's keys and workflow into LLaMA-Factory, in this process. Without a motion flag nothing changes."""

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import fields
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from llamafactory.hparams import DataArguments, FinetuningArguments
from llamafactory.model import load_config
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import TrainerCallback
from yaml import YAMLError

from motiontune.errors import ConfigError, in_one_line, mistakes, nearest
from motiontune.llamafactory import names
from motiontune.llamafactory.arguments import OWN_KEYS, MotionDataArguments, MotionFinetuningArguments, check_together
from motiontune.llamafactory.samples import check_names
from motiontune.model.families import family_of
from motiontune.model.sparse_logits import use_sparse_logits
from motiontune.runs.folder import given_keys, note_run


_originals: dict[str, Any] = {}


def install() -> None:
    """Extend LLaMA-Factory; a second call does nothing."""
    if _originals:
        return
    names.check_names()
    names.add_arguments({DataArguments: MotionDataArguments, FinetuningArguments: MotionFinetuningArguments})
    _originals.update(
        names.replace_in_tuner(
            get_train_args=get_train_args, get_infer_args=get_infer_args, run_sft=run_sft, run_exp=run_exp
        )
    )


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
    args = read_config(sys.argv[1:]) if args is None else args
    _originals["run_exp"](args, [*(callbacks or []), InstallInWorker(), NoteRun(given_keys(args))])


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
    classes = names.train_argument_classes()
    check_keys(args, classes)
    args = clean_values(args, classes)
    with mistakes("", *ARGUMENT_ERRORS):
        groups = _originals["get_train_args"](args)
    model_args, data_args, training_args, finetuning_args, _ = groups
    check_together(model_args, data_args, training_args, finetuning_args)
    return groups


def get_infer_args(args: Any = None) -> Any:
    """Parse the export arguments, refusing unknown keys with the nearest known one."""
    classes = names.export_argument_classes()
    check_keys(args, classes)
    args = clean_values(args, classes)
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
    if not data_args.train_on_video_tokens:
        check_names(data_args)
        hooks: Any = nullcontext()
        if finetuning_args.sparse_logits:
            with mistakes(f"model_name_or_path: {model_args.model_name_or_path}", OSError, ValueError):
                family_of(load_config(model_args), "sparse_logits")  # before the data sets, which take long
            hooks = names.sft_hooks(use_sparse_logits)
        with hooks:
            _originals["run_sft"](model_args, data_args, training_args, finetuning_args, generating_args, callbacks)
        return
    from motiontune.llamafactory.workflow import run_motion_sft

    run_motion_sft(model_args, data_args, training_args, finetuning_args, generating_args, callbacks)


def check_keys(args: Any, classes: list[type]) -> None:
    """Refuse unknown keys.

    Raises:
        ConfigError: naming the key and the nearest known one.
    """
    if os.environ.get("ALLOW_EXTRA_ARGS", "").lower() in ("true", "1", "y"):
        return
    known = {field.name for cls in classes for field in fields(cls) if field.init}
    if isinstance(args, dict):
        given = list(args)
    else:
        given = [arg[2:].split("=")[0].replace("-", "_") for arg in args or [] if str(arg).startswith("--")]
        known |= {"help"} | {f"no_{name}" for name in known}
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}" + nearest(str(key), known, cutoff=0.5))


def clean_values(args: Any, classes: list[type]) -> Any:
    """Refuse values of another type: LLaMA-Factory takes those of a YAML as they are, and "false" for true.

    Returns:
        The arguments, with numbers that are text (such as 1e-4, to YAML 1.1) as numbers.

    Raises:
        ConfigError: naming the key and what it may be.
    """
    if not isinstance(args, dict):
        return args  # the command line's parser converts, and refuses what it cannot
    cleaned = dict(args)
    for cls in classes:
        hints = get_type_hints(cls)
        for field in fields(cls):
            if field.init and field.name in args:
                cleaned[field.name] = _clean_value(field.name, args[field.name], hints[field.name])
    return cleaned


def _clean_value(key: str, value: Any, hint: Any) -> Any:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None or isinstance(value, Enum):
        if key in OWN_KEYS and NoneType not in options:
            raise ConfigError(f"{key}: has no value")
        return value
    literal = next((get_args(option) for option in options if get_origin(option) is Literal), None)
    enum = next((option for option in options if isinstance(option, type) and issubclass(option, Enum)), None)
    if value is False and enum and "no" in [member.value for member in enum]:
        return "no"  # which YAML 1.1 reads as false
    if literal or (enum and str not in options):
        choices = literal or tuple(member.value for member in enum)  # type: ignore[union-attr]
        if value not in choices:
            raise ConfigError(f"{key}: {value!r} is none of {', '.join(choices)}" + nearest(str(value), choices))
    elif isinstance(value, str) and set(options) <= {bool, int, float, NoneType}:
        if bool in options:
            raise ConfigError(f"{key}: {value!r} is text, it must be true or false (without quotes)")
        try:
            return int(value) if int in options else float(value)
        except ValueError:
            kind = "a whole number" if int in options else "a number"
            raise ConfigError(f"{key}: {value!r} is not {kind}") from None
    return value


def read_config(argv: list[str]) -> "dict[str, Any] | list[str]":
    """Read `cfg.yaml key=value ...` (or `.json`) into one mapping; return other arguments as they are.

    Raises:
        ConfigError: if the file is missing or cannot be parsed, or what follows it is not `key=value`.
    """
    if not argv or not argv[0].endswith((".yaml", ".yml", ".json")):
        if argv and not argv[0].startswith("-"):
            raise ConfigError(f"{argv[0]}: must be a .yaml, .yml or .json file, or arguments as --key value")
        return argv
    if "--help" in argv or "-h" in argv:
        return ["--help"]
    file = Path(argv[0])
    for override in argv[1:]:
        if override.startswith("-") or "=" not in override:
            raise ConfigError(f"{override!r}: after a file, keys are written as key=value")
    try:
        config = (
            OmegaConf.create(json.loads(file.read_text("utf-8"))) if file.suffix == ".json" else OmegaConf.load(file)
        )
        overrides = OmegaConf.from_cli(argv[1:])
        if not isinstance(config, DictConfig):
            raise ConfigError(f"{file}: must be a mapping of keys to values")
        return OmegaConf.to_container(OmegaConf.merge(config, overrides), resolve=True)  # type: ignore[return-value]
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except (OSError, json.JSONDecodeError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {in_one_line(error)}") from error
