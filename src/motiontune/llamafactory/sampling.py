"""How a model's clips were sampled in training, and its questions asked: so it is with what it is asked later."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamafactory.data import TEMPLATES

from motiontune.errors import MotiontuneError
from motiontune.llamafactory.names import get_logger
from motiontune.model.head import MotionHead, find_head
from motiontune.model.wrappers import fetch_file
from motiontune.runs.folder import RUNS, read_runs, trains
from motiontune.video.clip import Sampling


logger = get_logger(__name__)


def sampling_keys(places: Sequence[str], **hub_kwargs: Any) -> dict[str, Any]:
    """The keys that sample as a model's training did; none where that is not known.

    Args:
        places: where its head may lie: beside the adapter, beside the model.
        hub_kwargs: as for `load_head`.

    Raises:
        HeadError: if a head cannot be read.
    """
    found = find_head(places, **hub_kwargs)
    if found is not None:
        known = trained_sampling(*found, **hub_kwargs)
    else:  # text alone
        known = next(filter(None, (_noted_sampling(where, **hub_kwargs) for where in places)), None)
    return {} if known is None else {key: value for key, value in asdict(known).items() if value is not None}


PROMPT_KEYS = ("template", "default_system", "enable_thinking")
"""The keys by which LLaMA-Factory makes a prompt out of a question."""


def prompt_keys(places: Sequence[str], **hub_kwargs: Any) -> dict[str, Any]:
    """The keys by which a model's training made prompts; none where they are not known, or not LLaMA-Factory's.

    Args:
        places: where notes of the training may lie: beside the adapter, beside the model.
        hub_kwargs: as for `load_head`.
    """
    noted = next(filter(None, (_noted_training(where, **hub_kwargs) for where in places)), {})
    known = {key: noted[key] for key in PROMPT_KEYS if noted.get(key) is not None}
    if isinstance(known.get("enable_thinking"), str):  # of a command line
        known["enable_thinking"] = known["enable_thinking"].lower() not in ("false", "0", "no")
    return known if known.get("template") in TEMPLATES else {}


def trained_sampling(where: str, head: MotionHead, **hub_kwargs: Any) -> Sampling | None:
    """The sampling that is kept with a head, or of an old one that of the last training noted beside it, or None."""
    return head.config.sampling or _noted_sampling(where, **hub_kwargs)


def _noted_sampling(where: str, **hub_kwargs: Any) -> Sampling | None:
    """The sampling of the last training noted in a folder, see `_noted_training`."""
    try:
        noted = _noted_training(where, **hub_kwargs)
        return None if noted is None else Sampling.from_keys(noted)
    except (ValueError, TypeError):  # what is damaged stops no run
        return None


def _noted_training(where: str, **hub_kwargs: Any) -> dict[str, Any] | None:
    """The keys of the last training noted in a folder; of a checkpoint, in the folder above it."""
    file = fetch_file(where, RUNS, **hub_kwargs)
    above = Path(where).resolve()
    if file is None and os.path.isdir(where) and above.name.startswith("checkpoint-"):
        file = fetch_file(str(above.parent), RUNS)
    if file is None:
        return None
    try:
        runs = [run for run in read_runs(Path(file).parent) if trains(run.configuration)]
        return runs[-1].configuration if runs else None
    except (MotiontuneError, ValueError, TypeError):  # what is damaged stops no run
        return None


def log_sampling(where: str, head: MotionHead, sampling: Sampling, is_trainable: bool, **hub_kwargs: Any) -> None:
    """Log where a run samples otherwise than a head's training did, or nothing is known of that and nothing given.

    Args:
        where: the folder or repository of the head.
        head: the saved head.
        sampling: the run's.
        is_trainable: whether the run trains the head further.
        hub_kwargs: as for `load_head`.
    """
    known = trained_sampling(where, head, **hub_kwargs)
    change = "" if known is None else sampling.change(known, where)
    if change:
        logger.warning_rank0(change)
    if known is None and not is_trainable and sampling == Sampling():
        logger.warning_rank0(
            f"{where} does not tell how clips were sampled in its training: LLaMA-Factory's defaults are used, "
            f"{sampling}."
        )
