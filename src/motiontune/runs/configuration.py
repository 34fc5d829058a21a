"""Reads the file and the keys that a command was given, before anything is imported that takes long."""

import json
from pathlib import Path
from typing import Any

from motiontune.errors import ConfigError, in_one_line


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
    from omegaconf import DictConfig, OmegaConf  # LLaMA-Factory brings it
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

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
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file}: {in_one_line(error)}") from error
