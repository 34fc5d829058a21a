"""Values of LLaMA-Factory's and transformers' own keys with which no run can work, refused before anything is loaded.

What some run could work with stays allowed: a batch of 0 samples where nothing is trained, say.
"""

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from motiontune.errors import ConfigError


@dataclass(frozen=True)
class _Range:
    """The numbers that a key may have, all of them finite.

    Args:
        lowest: the smallest one.
        when: what the run must do for the key to matter, see `_doing`.
        whole: whether a fraction cannot work.
    """

    lowest: float
    when: str
    whole: bool = False

    def problem(self, value: float) -> str:
        if math.isinf(value):
            return "must be finite"
        if value < self.lowest:
            return f"must be {self.lowest:g} or more"
        return "must be a whole number" if self.whole and value % 1 else ""


_RANGES = {
    "learning_rate": _Range(0, "trains"),
    "num_train_epochs": _Range(-math.inf, "counts epochs"),
    "max_steps": _Range(-math.inf, "trains"),
    "per_device_train_batch_size": _Range(1, "trains", whole=True),
    "gradient_accumulation_steps": _Range(1, "trains", whole=True),
    "neftune_noise_alpha": _Range(0, "trains"),
    "per_device_eval_batch_size": _Range(1, "evaluates", whole=True),
    "dataloader_num_workers": _Range(0, "loads", whole=True),
    "preprocessing_num_workers": _Range(1, "tokenizes", whole=True),
    "max_samples": _Range(1, "tokenizes", whole=True),
}
_TEXT = ("model_name_or_path", "adapter_name_or_path", "output_dir")
_TEXTS = ("dataset", "eval_dataset")
"""These may be lists, too."""


def check_values(given: Mapping[str, Any], numeric: Collection[str]) -> None:
    """Refuse values with which no run can work.

    Args:
        given: the keys that the user gave. Numbers may be text, as on the command line.
        numeric: the keys that take a number and nothing else.

    Raises:
        ConfigError: naming the key and what it may be.
    """
    for key in (*_TEXT, *_TEXTS):
        value = given.get(key)
        names = value if key in _TEXTS and isinstance(value, list) else [value]
        if value is not None and not all(isinstance(name, (str, os.PathLike)) for name in names):
            raise ConfigError(f"{key}: {value!r} must be text" + ", in quotes" * isinstance(value, (int, float)))
    if given.get("output_dir") is not None and not str(given["output_dir"]).strip():
        raise ConfigError("output_dir: has no value: name a folder")
    doing = _doing(given)
    for key in given.keys() & set(numeric):
        value = given[key]
        if isinstance(value, (list, Mapping)):
            raise ConfigError(f"{key}: {value!r} must be a number")
        number = _number(value)
        if number is None:
            continue
        if math.isnan(number):
            raise ConfigError(f"{key}: {value} must be a number")
        allowed = _RANGES.get(key)
        if allowed and allowed.when in doing and (problem := allowed.problem(number)):
            raise ConfigError(f"{key}: {value} {problem}")


def _doing(given: Mapping[str, Any]) -> set[str]:
    """What a run with these keys does, as far as they show it."""

    def on(key: str) -> bool:
        return str(given.get(key)).lower() in ("true", "yes", "t", "y", "1")

    doing = set()
    if on("do_train"):
        doing |= {"trains"} if (_number(given.get("max_steps")) or 0) > 0 else {"trains", "counts epochs"}
    if on("do_eval") or on("do_predict") or given.get("eval_strategy") not in (None, False, "no"):
        doing.add("evaluates")
    tokenized = given.get("tokenized_path")
    if doing:
        doing.add("loads")
        if not on("streaming") and not (tokenized and os.path.isdir(str(tokenized))):
            doing.add("tokenizes")
    return doing


def _number(value: Any) -> float | None:
    """The number that a value is or stands for; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
