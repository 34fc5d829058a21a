"""Which checkpoint a run can be resumed from: one that was torn while it was saved is passed over, or refused."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from motiontune.errors import ConfigError, in_one_line
from motiontune.model.head import CONFIG_NAME, WEIGHTS_NAME


STATE = "trainer_state.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def checkpoints_of(output_dir: str) -> list[Path]:
    """The checkpoints in an output folder, the last one first."""
    if not os.path.isdir(output_dir):
        return []
    found = {path: _FOLDER.fullmatch(path.name) for path in Path(output_dir).iterdir() if path.is_dir()}
    numbers = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(numbers, key=lambda path: numbers[path], reverse=True)


def torn(checkpoint: str | Path) -> str:
    """Why a checkpoint is not whole, or "". The Trainer writes `trainer_state.json` last: with it, all is there."""
    folder = Path(checkpoint)
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
        if not isinstance(state, dict) or "global_step" not in state:
            return f"{STATE} has no global_step"
    except FileNotFoundError:
        return f"{STATE} is missing"
    except (OSError, ValueError) as error:
        return f"{STATE} cannot be read ({in_one_line(error)})"
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if len(missing) == 1:
        return f"{missing[0]} is missing"
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):  # compares the file's length with its header
                pass
        except (OSError, SafetensorError) as error:
            return f"{file.name} cannot be read ({in_one_line(error)})"
    saved = [folder / name for name in ("optimizer.pt", "scheduler.pt")]
    for file in saved:
        if file.is_file() and _damaged(file):
            return f"{file.name} cannot be read"
    if sum(file.is_file() for file in saved) == 1 and not any(folder.glob("global_step*")):
        lost = next(file for file in saved if not file.is_file())
        return "" if any(folder.glob("optimizer*")) and lost.name == "optimizer.pt" else f"{lost.name} is missing"
    return ""


def _damaged(file: Path) -> bool:
    """Whether what torch has saved is no whole zip file; the checksums of all its parts are compared."""
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is not None
    except (OSError, zipfile.BadZipFile):
        return True


def resumable(output_dir: str, wanted: Any, log: Any) -> str | None:
    """Decide which checkpoint a run is resumed from.

    Args:
        output_dir: where the run's checkpoints are.
        wanted: `resume_from_checkpoint`: a folder, or true for the last one; None or false for none.
        log: gets a line about each checkpoint that is passed over.

    Raises:
        ConfigError: if the folder is no whole checkpoint, or there is none.
    """
    if isinstance(wanted, str) and wanted.lower() in ("true", "false"):
        wanted = wanted.lower() == "true"
    if wanted is None or wanted is False:
        return None
    found = checkpoints_of(output_dir)
    problems = {}
    for path in found if wanted is True else [Path(wanted)]:
        if not path.is_dir():
            raise ConfigError(f"resume_from_checkpoint: {path} is no folder")
        problems[path] = torn(path)
        if not (path / CONFIG_NAME).is_file() and any((other / CONFIG_NAME).is_file() for other in found):
            problems[path] = problems[path] or "its motion head is missing"
        if not problems[path]:
            for passed, problem in list(problems.items())[:-1]:
                log(f"{passed} is passed over: {problem}. The run that saved it was stopped while it did.")
            return str(path)
    if not problems:
        raise ConfigError(f"resume_from_checkpoint: {output_dir} has no checkpoint: leave the key out to start anew")
    listed = "; ".join(f"{path}: {problem}" for path, problem in problems.items())
    if wanted is True:
        raise ConfigError(f"resume_from_checkpoint: no checkpoint is whole: {listed}: remove them to start anew")
    whole = next((path for path in checkpoints_of(str(Path(wanted).parent)) if not torn(path)), None)
    advice = f"take {whole}" if whole else "start anew"
    raise ConfigError(f"resume_from_checkpoint: {listed}: its saving was stopped half-way; {advice}")
