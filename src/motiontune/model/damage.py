"""Damaged files of a model or an adapter, told by name before anything is loaded.

transformers and PEFT take some of them for another kind of model, or stop within their own code.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

from motiontune.errors import ConfigError, in_one_line
from motiontune.limits import read_json


_OF_PROCESSOR = (
    PROCESSOR_NAME,
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)


def read_object(file: Path, may_be_damaged: bool = False) -> dict[str, Any]:
    """Read a JSON file that must hold an object; an empty one where there is no file.

    Raises:
        ConfigError: naming the file.
    """
    if not file.is_file():
        return {}
    try:
        value = read_json(file)
    except (OSError, ValueError) as error:
        if may_be_damaged:
            return {}
        raise _damaged(file, in_one_line(error)) from error
    if not isinstance(value, dict):
        raise _damaged(file, f"it holds {json.dumps(value)[:40]}, not an object in braces")
    return value


def check_model(folder: str | os.PathLike[str]) -> None:
    """Refuse a model that cannot be loaded because a file of it is damaged. What is no folder is left alone.

    Raises:
        ConfigError: naming the file.
    """
    place = Path(folder)
    read_object(place / CONFIG_NAME)
    read_object(place / GENERATION_CONFIG_NAME, may_be_damaged=True)  # transformers goes without it
    if (place / SAFE_WEIGHTS_NAME).is_file():
        _check_weights(place / SAFE_WEIGHTS_NAME)
    else:
        parts = read_object(place / SAFE_WEIGHTS_INDEX_NAME).get("weight_map", {})
        if not isinstance(parts, dict):
            raise _damaged(place / SAFE_WEIGHTS_INDEX_NAME, "its weight_map is no object in braces")
        for name in sorted(set(map(str, parts.values()))):
            _check_weights(place / name)


def check_processor(folder: str | os.PathLike[str]) -> None:
    """Refuse a model whose tokenizer or processor is damaged, without which text alone might be trained.

    Raises:
        ConfigError: naming the file.
    """
    for name in _OF_PROCESSOR:
        read_object(Path(folder) / name)


def check_adapter_files(folder: str | os.PathLike[str]) -> None:
    """Refuse an adapter that cannot be loaded because a file of it is damaged.

    Raises:
        ConfigError: naming the file.
    """
    place = Path(folder)
    if (place / ADAPTER_CONFIG_NAME).is_file() and "peft_type" not in read_object(place / ADAPTER_CONFIG_NAME):
        raise _damaged(place / ADAPTER_CONFIG_NAME, "it has no peft_type")
    if (place / ADAPTER_SAFE_WEIGHTS_NAME).is_file():
        _check_weights(place / ADAPTER_SAFE_WEIGHTS_NAME)


def _check_weights(file: Path) -> None:
    try:
        with safe_open(file, "pt"):  # compares the file's length with its header
            pass
    except (OSError, SafetensorError) as error:
        raise _damaged(file, in_one_line(error)) from error


def _damaged(file: Path, reason: str) -> ConfigError:
    return ConfigError(f"{file} is damaged: {reason}: copy it again, or take another model or checkpoint")
