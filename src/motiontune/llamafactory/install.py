"""Puts motiontune's keys and workflow into LLaMA-Factory, in this process. Without a motion flag nothing changes."""

import difflib
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from llamafactory.hparams import DataArguments, FinetuningArguments
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import TrainerCallback
from yaml import YAMLError

from motiontune.errors import ConfigError
from motiontune.llamafactory import compat
from motiontune.llamafactory.arguments import MotionDataArguments, MotionFinetuningArguments, check_together


_originals: dict[str, Any] = {}


def install() -> None:
    """Extend LLaMA-Factory; a second call does nothing."""
    if _originals:
        return
    compat.check_names()
    compat.add_arguments({DataArguments: MotionDataArguments, FinetuningArguments: MotionFinetuningArguments})
    _originals.update(
        compat.replace_in_tuner(
            get_train_args=get_train_args, get_infer_args=get_infer_args, run_sft=run_sft, run_exp=run_exp
        )
    )


def run_exp(args: "dict[str, Any] | list[str] | None" = None, callbacks: "list[TrainerCallback] | None" = None) -> None:
    """Run one experiment, as `llamafactory.train.tuner.run_exp`, with motiontune's keys known.

    Args:
        args: the keys of a YAML, a list of command-line arguments, or None for `sys.argv`.
        callbacks: further trainer callbacks.

    Raises:
        MotiontuneError: on a mistake in the configuration or data, in one line.
    """
    install()
    args = read_config(sys.argv[1:]) if args is None else args
    _originals["run_exp"](args, [*(callbacks or []), InstallInWorker()])


class InstallInWorker(TrainerCallback):
    """Does nothing but install motiontune where it is unpickled: a Ray worker imports LLaMA-Factory afresh."""

    def __reduce__(self) -> Any:
        return _install_and_make, ()


def _install_and_make() -> InstallInWorker:
    install()
    return InstallInWorker()


def get_train_args(args: Any = None) -> Any:
    """Parse the training arguments, refuse unknown keys with the nearest known one, and check the groups together."""
    check_keys(args, compat.train_argument_classes())
    try:
        groups = _originals["get_train_args"](args)
    except (ValueError, AssertionError) as error:
        raise ConfigError(str(error)) from error
    model_args, data_args, training_args, finetuning_args, _ = groups
    check_together(model_args, data_args, training_args, finetuning_args)
    return groups


def get_infer_args(args: Any = None) -> Any:
    """Parse the export arguments, refusing unknown keys with the nearest known one."""
    check_keys(args, compat.export_argument_classes())
    try:
        return _originals["get_infer_args"](args)
    except (ValueError, AssertionError) as error:
        raise ConfigError(str(error)) from error


def run_sft(
    model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, generating_args: Any, callbacks: Any = None
) -> None:
    """Run motiontune's workflow where a motion flag is set, LLaMA-Factory's own otherwise."""
    if not data_args.train_on_video_tokens:
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
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            raise ConfigError(f"unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else ""))


def read_config(argv: list[str]) -> "dict[str, Any] | list[str]":
    """Read `cfg.yaml key=value ...` (or `.json`) into one mapping; anything else is command-line arguments as they are.

    Raises:
        ConfigError: if the file is missing or cannot be parsed.
    """
    if not argv or not argv[0].endswith((".yaml", ".yml", ".json")):
        return argv
    file = Path(argv[0])
    try:
        config = OmegaConf.create(json.loads(file.read_text("utf-8"))) if file.suffix == ".json" else OmegaConf.load(file)
        overrides = OmegaConf.from_cli(argv[1:])
        merged = OmegaConf.to_container(OmegaConf.merge(config, overrides), resolve=True)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except (OSError, json.JSONDecodeError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    if not isinstance(merged, dict):
        raise ConfigError(f"{file}: must be a mapping of keys to values")
    return merged  # type: ignore[return-value]
