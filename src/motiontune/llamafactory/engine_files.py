"""The files of `deepspeed` and `fsdp_config`, looked at before a process is started or a model is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motiontune.errors import ConfigError, in_one_line


_READ = {
    *("activation_checkpointing", "backward_prefetch", "cpu_ram_efficient_loading", "forward_prefetch"),
    *("limit_all_gathers", "min_num_params", "reshard_after_forward", "state_dict_type", "sync_module_states"),
    *("transformer_layer_cls_to_wrap", "use_orig_params", "version"),
}
"""The keys of `fsdp_config` that transformers 5 reads or documents, but for those of XLA; it takes others silently."""


def check_engine_files(given: Mapping[str, Any]) -> None:
    """Refuse what no run can use, or what would silently do nothing.

    Args:
        given: the run's keys with their values. Both keys name a JSON file, or are what would be in it.

    Raises:
        ConfigError: naming key, file and what is wrong with it.
    """
    if (deepspeed := _content(given, "deepspeed")) is not None:
        zero = deepspeed.get("zero_optimization", {})
        stage = zero.get("stage", 0) if isinstance(zero, dict) else None
        if stage not in (0, 1, 2, 3):
            raise ConfigError(
                f"{_named(given, 'deepspeed')}: zero_optimization.stage must be 0, 1, 2 or 3, not {stage!r}"
            )
    if given.get("fsdp") and (fsdp := _content(given, "fsdp_config")) is not None:
        values = {key.removeprefix("fsdp_"): value for key, value in fsdp.items()}
        unknown = sorted(key for key in values.keys() - _READ if not key.startswith("xla"))
        if unknown:
            raise ConfigError(
                f"{_named(given, 'fsdp_config')}: {unknown[0]} would do nothing: what is read are "
                f"{', '.join(sorted(_READ - {'state_dict_type'}))}"
            )
        if values.get("state_dict_type", "FULL_STATE_DICT") != "FULL_STATE_DICT":
            raise ConfigError(
                f"{_named(given, 'fsdp_config')}: state_dict_type {values['state_dict_type']} saves no model that the "
                f"head could lie beside: leave it out, FULL_STATE_DICT is taken"
            )


def _named(given: Mapping[str, Any], key: str) -> str:
    return f"{key}: {given[key]}" if isinstance(given[key], str) else key


def _content(given: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    content = given.get(key)
    if isinstance(content, str) and content:
        try:
            content = json.loads(Path(content).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{_named(given, key)} cannot be read ({in_one_line(error)})") from error
    if content is not None and content != "" and not isinstance(content, dict):
        raise ConfigError(f"{_named(given, key)} must hold a JSON object, {{...}}")
    return content or None
