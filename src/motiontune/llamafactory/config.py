"""Reads a run's configuration, and refuses keys and values that LLaMA-Factory would take without a word."""

import functools
import os
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from motiontune.errors import ConfigError, nearest
from motiontune.llamafactory.arguments import GONE_KEYS, MOTION_FLAGS, OWN_KEYS, PRESETS, RENAMED_KEYS
from motiontune.llamafactory.engine_files import check_engine_files
from motiontune.llamafactory.names import get_logger
from motiontune.llamafactory.values import check_values
from motiontune.runs.folder import given_keys


logger = get_logger(__name__)

# What a command line's parser takes for false
OFF = ("false", "f", "no", "n", "0")


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
        if key not in known and key in GONE_KEYS:
            raise ConfigError(f"{key} was a key of earlier versions of transformers: there is {GONE_KEYS[key]} now")
        if key not in known:
            raise ConfigError(f"unknown key {key!r}" + nearest(str(key), known, cutoff=0.5))


def with_new_names(args: Any) -> Any:
    """Give keys that were renamed the names that they have now, and log each once; add what `motion_head` stands for,
    where a motion flag is on.

    Args:
        args: the keys of a YAML, or a list of command-line arguments.

    Returns:
        The same, with the new names and the keys of the preset, before those that are given.

    Raises:
        ConfigError: if a key is given under both names.
    """
    if isinstance(args, list):
        args = [_renamed_option(arg) for arg in args]
        preset = _preset(lambda key: _option(args, key))
        return [f"--{key}={value}" for key, value in preset.items()] + args
    if not isinstance(args, dict):
        return args
    for old, new in RENAMED_KEYS.items():
        if old in args and new in args:
            raise ConfigError(f"{old} is called {new} now, and both are given: leave {old} out")
    args = {_renamed(key) if key in RENAMED_KEYS else key: value for key, value in args.items()}
    return _preset(args.get) | args


def _preset(value_of: Callable[[str], Any]) -> dict[str, Any]:
    """What `motion_head` stands for; nothing in a run without motion, which is LLaMA-Factory's own."""
    name, flags = value_of("motion_head"), [value_of(flag) for flag in MOTION_FLAGS]
    if all(flag is None or str(flag).lower() in OFF for flag in flags):
        return {}
    return PRESETS.get(name, {}) if isinstance(name, str) else {}


def _option(args: list[str], key: str) -> str | None:
    """The last value of an option, as `--key value` or `--key=value`."""
    found = None
    for arg, after in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") == key:
            found = value if equals else after
    return found


def _renamed_option(arg: str) -> str:
    name, equals, value = arg.partition("=")
    key = name.removeprefix("--").replace("-", "_")
    return f"--{_renamed(key)}{equals}{value}" if name.startswith("--") and key in RENAMED_KEYS else arg


@functools.cache
def _renamed(old: str) -> str:
    logger.warning_rank0(f"`{old}` is called `{RENAMED_KEYS[old]}` now. The old name still works.")
    return RENAMED_KEYS[old]


def clean_values(args: Any, classes: list[type]) -> Any:
    """Refuse values of another type: LLaMA-Factory takes those of a YAML as they are, and "false" for true.

    Numbers with which no run can work are refused, too.

    Returns:
        The arguments, with numbers that are text (such as 1e-4, to YAML 1.1) as numbers.

    Raises:
        ConfigError: naming the key and what it may be.
    """
    given = given_keys(args or {})
    hints: dict[str, Any] = {}
    for cls in classes:
        of_class = get_type_hints(cls)
        hints |= {field.name: of_class[field.name] for field in fields(cls) if field.init and field.name in given}
    check_values(given, [key for key, hint in hints.items() if set(_options(hint)) <= {int, float, NoneType}])
    check_engine_files(given)
    if not isinstance(args, dict):
        return args  # the command line's parser converts, and refuses what it cannot
    return args | {key: _clean_value(key, args[key], hint) for key, hint in hints.items()}


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _clean_value(key: str, value: Any, hint: Any) -> Any:
    options = _options(hint)
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
