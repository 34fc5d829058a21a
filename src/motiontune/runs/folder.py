"""What a run leaves in its output folder, and how it is read again. Needs no LLaMA-Factory and no torch.

Any stands for what JSON holds: keys and values are the user's own, or the Trainer's.
"""

import importlib.metadata
import json
import os
import platform
import re
import sys
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from motiontune.errors import MotiontuneError, OutputError, mistakes
from motiontune.files import claim, write_text
from motiontune.limits import json_lines, parse_json, read_text


PREDICTIONS_FOLDER = "motion_predictions"
PICTURES_FOLDER = "motion_pictures"
TEXTS = "generated_predictions.jsonl"
EVALUATION = "evaluation.json"
RUNS = "motiontune_runs.json"
OVERVIEW = "motiontune_data.txt"
STATE, RESULTS, MODEL_CARD = "trainer_state.json", "all_results.json", "README.md"  # the Trainer's
_CHECKPOINTS = f"checkpoint-*/{STATE}"

_PACKAGES = (
    "motiontune llamafactory transformers torch peft accelerate datasets av opencv-python-headless numpy".split()
)

_RESULTS = (
    "*_results.json trainer_log.jsonl generated_predictions.jsonl motiontune_data.txt predict_*/predict_results.json "
    "predict_*/generated_predictions.jsonl"
).split()
"""What the Trainer, LLaMA-Factory and this package write to an output folder without looking what lies there."""
_MODEL = (
    "trainer_state.json training_*.png checkpoint-[0-9]* motion_head* *model*.safetensors "
    "*model*.safetensors.index.json pytorch_model*.bin adapter_model.bin config.json *_config.json tokenizer.* "
    "vocab.* merges.txt added_tokens.json special_tokens_map.json chat_template.*"
).split()
"""What they write there while they train."""

_MOTION_FLAGS = ("train_on_video_tokens", "use_only_motionvector_loss", "use_motionvector_crossentropy_loss")
_OF_A_CARD = ("generated_from_trainer", "library_name: peft", "library_name: transformers")

_SECRET = re.compile(r"(?:(?:^|_)token|api_?key|password|secret|webhook(?:_url)?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """One run, as it was started.

    Args:
        started: local time, ISO 8601.
        configuration: the keys as the user gave them, without credentials.
        versions: of packages and Python; the platform, the processes and, where there is one, the GPU.
    """

    started: str
    configuration: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class State:
    """How far a run has come.

    Args:
        steps: of the optimizer.
        epochs: of the training data.
        history: what was logged, each entry with its `step`.
        ended: False where this is the state of a checkpoint.
    """

    steps: int
    epochs: float
    history: list[dict[str, Any]]
    ended: bool


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Put "(left out)" for what looks like a credential by its key, in nested mappings too."""

    def clean(key: str, value: Any) -> Any:
        if _SECRET.search(key) and value not in (None, ""):
            return "(left out)"
        return without_secrets(value) if isinstance(value, Mapping) else value

    return {str(key): clean(str(key), value) for key, value in values.items()}


def versions() -> dict[str, str]:
    """What runs here: installed packages that matter, Python, the platform, and the GPU where torch is loaded."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {"python": platform.python_version(), "platform": platform.platform()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found |= {"cuda": str(torch.version.cuda), "gpu": torch.cuda.get_device_name()}
    return found


def given_keys(args: "Mapping[str, Any] | Sequence[str]") -> dict[str, Any]:
    """The keys of a run that was started by a mapping or by arguments, `--key value`, `--key=value` or `--flag`."""
    if isinstance(args, Mapping):
        return dict(args)
    keys: dict[str, Any] = {}
    key = None
    for word in args:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            keys[key] = value if equals else True
        elif key is not None:
            before = keys[key]
            keys[key] = word if before is True else f"{before} {word}"
    return keys


def claim_run(folder: str | Path, keys: Mapping[str, Any]) -> None:
    """Refuse an output folder that a run cannot write to, or where it would write over what no run made.

    A folder in which a run is noted is that run's, and what has a run's names there is replaced. In any other, such a
    file is somebody's.

    Args:
        folder: the output folder.
        keys: the run's. If it trains, it writes a model and a model card.

    Raises:
        MotiontuneError: naming the file that is in the way.
    """
    folder = Path(folder)
    made = [*(folder / PREDICTIONS_FOLDER).glob("*.npz"), *(folder / PICTURES_FOLDER).glob("*.png")]
    if any(_is_on(keys, flag) for flag in _MOTION_FLAGS):  # else nothing is written there
        written = [PREDICTIONS_FOLDER] * _is_on(keys, "do_predict") + [PICTURES_FOLDER] * _is_on(keys, "do_eval")
        check_folders(*(folder / name for name in written))
    claim(folder, made)
    read_json(folder / RESULTS, {})  # the Trainer adds to it at the end
    if trains(keys):
        _claim_for_training(folder, keys)
    if not _is_of_a_run(folder):
        for file in _found(folder, [*_RESULTS, *(_MODEL if trains(keys) else [])]):
            raise OutputError(
                f"{file} might be written over: a run writes such names, and none is noted in {folder}: move it away, "
                f"or choose another output_dir"
            )


def _found(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """What lies at some names, links that lead nowhere too, which `glob` passes over."""
    found = []
    for parent, _, name in (pattern.rpartition("/") for pattern in patterns):
        for place in filter(Path.is_dir, folder.glob(parent) if parent else [folder]):
            found += [place / other for other in os.listdir(place) if fnmatchcase(other, name)]
    return sorted(found)


def check_folders(*folders: Path) -> None:
    """Refuse something else in the place of a folder that is to be written to.

    Raises:
        OutputError: naming it.
    """
    for folder in folders:
        if os.path.lexists(folder) and not folder.is_dir():
            raise OutputError(f"{folder} is no folder, and would have to be one: move it away, or write elsewhere")


def _claim_for_training(folder: Path, keys: Mapping[str, Any]) -> None:
    """Refuse the folder of the model that is trained, and a README.md that is no model card."""
    for key in ("model_name_or_path", "adapter_name_or_path"):
        for model in str(keys.get(key) or "").split(","):
            if folder.is_dir() and os.path.isdir(model) and os.path.samefile(model, folder):
                raise OutputError(f"output_dir: {folder} is also {key} and would be written over: choose another")
    card = folder / MODEL_CARD
    if card.is_file():
        with _reading(card):
            text = card.read_text("utf-8", errors="replace")
        if not any(mark in text for mark in _OF_A_CARD):
            raise OutputError(f"{card} is no model card and would be written over: choose another output_dir")


def _is_of_a_run(folder: Path) -> bool:
    """Whether a run has begun here, of this package or of the Trainer alone."""
    return (folder / RUNS).is_file() or (folder / "training_args.bin").is_file() or any(folder.glob(_CHECKPOINTS))


def trains(keys: Mapping[str, Any]) -> bool:
    """Whether a run with these keys trains."""
    return _is_on(keys, "do_train")


def _is_on(keys: Mapping[str, Any], key: str) -> bool:
    return keys.get(key) not in (None, False, "false", "False")


def note_run(folder: str | Path, configuration: Mapping[str, Any], processes: int) -> None:
    """Add a run to the folder's `motiontune_runs.json`; one that is started again in the same way counts once.

    A damaged file is kept under another name, with a warning, and a new one is begun.
    """
    folder = Path(folder)
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    run = Run(now, without_secrets(configuration), versions() | {"processes": str(processes)})
    try:
        known = read_runs(folder)
    except MotiontuneError as error:
        kept = folder / f"{RUNS}.damaged-{uuid.uuid4().hex[:8]}"
        warnings.warn(f"{error}; it is called {kept.name} now, and a new one is begun", stacklevel=2)
        (folder / RUNS).replace(kept)
        known = []
    runs = [one for one in known if one.configuration != run.configuration or one.versions != run.versions]
    text = json.dumps([asdict(one) for one in [*runs, run]], indent=1, ensure_ascii=False, default=str)
    write_text(folder / RUNS, text + "\n", listed=False)  # the runs that it held are in it


def read_runs(folder: Path) -> list[Run]:
    """The runs into a folder, the last one last; none where it is not motiontune's.

    Raises:
        MotiontuneError: if the file is damaged.
    """
    with _reading(folder / RUNS):
        return [
            Run(str(run["started"]), dict(run["configuration"]), dict(run["versions"]))
            for run in read_json(folder / RUNS, [])
        ]


def read_state(folder: Path) -> State:
    """The Trainer's state, or where the run has not ended that of its last checkpoint; an empty one without either.

    Raises:
        MotiontuneError: if the file is damaged.
    """
    path = folder / STATE
    checkpoints = sorted(folder.glob(_CHECKPOINTS), key=_step)
    ended = path.is_file() or not checkpoints
    path = path if ended else checkpoints[-1]
    with _reading(path):
        state = read_json(path, {})
        history = [dict(entry) for entry in state.get("log_history", [])]
        return State(int(state.get("global_step", 0)), float(state.get("epoch") or 0), history, ended)


def _step(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def read_results(folder: Path) -> dict[str, Any]:
    """The metrics that a run ended with, and those of an evaluation: its values, and its intervals as text.

    Raises:
        MotiontuneError: if a file is damaged.
    """
    metrics = dict(read_json(folder / RESULTS, {}))
    with _reading(folder / EVALUATION):
        evaluation = read_json(folder / EVALUATION, {})
        for group in (evaluation.get("motion", {}).get("all", {}), evaluation.get("text", {})):
            for name, one in group.items():
                low, high = one["ci95"]
                metrics[f"predict_{name}"] = one["value"]
                if low is not None:
                    metrics[f"predict_{name}, 95 % interval"] = f"{low:.4f} to {high:.4f}"
    return metrics


def read_json(path: Path, missing: Any) -> Any:
    """Read a file that holds what `missing` is: an object or a list; `missing` where there is no file.

    Raises:
        MotiontuneError: if it is not JSON, or holds something else.
    """
    with _reading(path):
        try:
            value = parse_json(read_text(path))
        except FileNotFoundError:
            return missing
        if not isinstance(value, type(missing)):
            raise TypeError(f"it holds a {type(value).__name__}, not a {type(missing).__name__}")
        return value


def read_texts(folder: Path) -> list[tuple[str, str]]:
    """The predicted and the expected text of each sample; nothing where no text was predicted.

    Raises:
        MotiontuneError: if the file is damaged.
    """
    path = folder / TEXTS
    if not path.is_file():
        return []
    with _reading(path):
        rows = json_lines(read_text(path))
        return [(str(row["predict"]), str(row["label"])) for row in rows]


def read_model_card(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Hyperparameters and versions from the Trainer's README.md, for a run that nothing else has noted.

    Raises:
        MotiontuneError: if the file cannot be read.
    """
    path = folder / MODEL_CARD
    with _reading(path):
        text = path.read_text("utf-8") if path.is_file() else ""
    found = []
    for heading, between in (("Training hyperparameters", ": "), ("Framework versions", " ")):
        section = text.partition(f"### {heading}\n")[2].partition("\n#")[0]
        pairs = (line[2:].partition(between) for line in section.splitlines() if line.startswith("- "))
        found.append({key: value for key, _, value in pairs})
    return found[0], found[1]


def _reading(path: Path) -> AbstractContextManager[None]:
    """Turn whatever a damaged file leads to into one line that names it."""
    return mistakes(
        f"{path}: is damaged, and can be moved away", OSError, ValueError, KeyError, TypeError, AttributeError
    )


def prediction_files(folder: Path) -> dict[tuple[int, int], Path]:
    """The file of each predicted clip, by the numbers of the sample and of the clip in it."""
    found = {}
    for file in sorted((folder / PREDICTIONS_FOLDER).glob("[0-9]*.npz")):
        sample, _, number = file.stem.partition("-")
        found[int(sample), int(number or 0)] = file
    return found
