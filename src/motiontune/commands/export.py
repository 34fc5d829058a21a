"""`motiontune export`: merge an adapter into its model and carry the motion head along."""

import argparse
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from motiontune.commands.options import add_keys, asks_for_keys
from motiontune.errors import mistakes
from motiontune.files import claim_empty
from motiontune.runs.configuration import read_config
from motiontune.runs.folder import given_keys
from motiontune.tables import text_table
from motiontune.terminal import is_verbose


DESCRIPTION = """motiontune export cfg.yaml [key=value ...]

Takes what `llamafactory-cli export` takes.
"""
TAKES_KEYS = True


add_arguments = add_keys


def run(arguments: argparse.Namespace) -> None:
    """Export, or list all keys.

    Raises:
        MotiontuneError: on a mistake in the configuration.
    """
    words = arguments.arguments
    if asks_for_keys(words):
        print(DESCRIPTION)
        words = ["--help"]
    keys = read_config(words)  # a wrong path shows at once
    from motiontune.llamafactory.names import quiet_loggers

    with nullcontext() if is_verbose() else quiet_loggers():
        with_head = export(keys)
    print("\n" + how_to_load(str(given_keys(keys)["export_dir"]), with_head))


def how_to_load(folder: str, with_head: bool) -> str:
    """What was written, and how it is loaded."""
    config = json.loads(Path(folder, "config.json").read_text("utf-8"))
    lines = [(f"{folder} holds the merged model{' and its motion head' if with_head else ''}. Load it with", "")]
    if "dino_grid" not in config.get("vision_config", {}):  # of `prepare start`, which others do not know
        lines += [("  transformers", f'AutoModelForImageTextToText.from_pretrained("{folder}")')]
        lines += [("  vLLM", f"vllm serve {folder}")]
    lines += [("  motiontune", f'MotionModel.from_pretrained("{folder}")')]
    return text_table(lines, measured=lines[1:])


def export(args: "dict[str, Any] | list[str]") -> bool:
    """Export as `llamafactory-cli export` does; the head of the last adapter, or of the model, goes to `export_dir`.

    The exported folder is the plain model for everything that knows nothing of motion: the head has files of its own.

    Args:
        args: the keys of an export YAML, or a list of command-line arguments.

    Returns:
        Whether there was a motion head.

    Raises:
        MotiontuneError: on a mistake in the configuration, or if `export_dir` holds anything.
    """
    from llamafactory.train import tuner

    from motiontune.llamafactory.install import install
    from motiontune.llamafactory.names import get_logger
    from motiontune.llamafactory.sampling import trained_sampling
    from motiontune.llamafactory.workflow import head_places, hub_arguments
    from motiontune.model.head import find_head, save_head

    logger = get_logger(__name__)
    install()
    model_args, *_ = tuner.get_infer_args(args)
    if model_args.export_dir is not None:
        claim_empty(model_args.export_dir)
    with mistakes("", OSError, ValueError, ImportError, NotImplementedError):
        tuner.export_model(args)
    found = find_head(head_places(model_args), **hub_arguments(model_args))
    if found is None:
        logger.warning_rank0("There is no motion head beside the adapter or the model: exported without one.")
        return False
    where, head = found
    sampling = trained_sampling(where, head, **hub_arguments(model_args))
    head.config = replace(head.config, sampling=sampling)  # the exported folder has no notes of runs
    save_head(head, model_args.export_dir)
    logger.info_rank0(f"Motion head of {where} copied to {model_args.export_dir}.")
    return True
