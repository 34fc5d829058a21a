"""Which checkpoint a run can be resumed from: one that was torn while it was saved, or damaged, is passed over.

Beside each checkpoint's files lies a list of them, `motiontune_checkpoint.json`, written last: their bytes, and the
CRC-32 of those that hold no checksum of their own. What torch saves is a zip file, which has one for each part.
"""

import contextlib
import errno
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import ADAPTER_CONFIG_NAME

from motiontune.errors import ConfigError, MotiontuneError, OutputError, error_number, in_one_line, in_want_of_room
from motiontune.files import write_text
from motiontune.model.head import CONFIG_NAME, WEIGHTS_NAME, load_head


STATE = "trainer_state.json"
FILES = "motiontune_checkpoint.json"
"""The list of a checkpoint's files."""
_FOLDER = re.compile(r"checkpoint-(\d+)")
_WHY = "Its saving was stopped half-way, or it was damaged"
_MEANT = f"(if that is meant, remove {FILES})"
_OF_TORCHS_LOADING = ("loading state_dict", "loaded state dict")
_OF_TORCHS_WRITER = ("PytorchStreamWriter", "unexpected pos", "iostream error")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".distcp")
_WRITTEN_AGAIN = (".json", ".jinja", ".txt", ".model", ".md")
"""What callbacks may write once more after the checkpoint, as LLaMA-Factory's does with the processor."""


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint by its name, and was saved to its end or close to it."""
    return _FOLDER.fullmatch(folder.name) is not None and (folder / STATE).is_file()


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
    if without := _lost_weights(folder):
        return without
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):  # compares the file's length with its header
                pass
        except (OSError, SafetensorError) as error:
            return f"{file.name} cannot be read ({in_one_line(error)})"
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            return f"{file.name} cannot be read ({in_one_line(error)})"
    if not missing:
        try:
            load_head(folder)
        except MotiontuneError as error:
            return in_one_line(error)
    saved = [folder / name for name in ("optimizer.pt", "scheduler.pt")]
    if sum(file.is_file() for file in saved) == 1 and not any(folder.glob("global_step*")):
        lost = next(file for file in saved if not file.is_file())
        if lost.name != "optimizer.pt" or not any(folder.glob("optimizer*")):
            return f"{lost.name} is missing"
    # at last, what reads whole files
    return _changed(folder) or next((f"{file.name} cannot be read" for file in saved if _damaged(file)), "")


def _lost_weights(folder: Path) -> str:
    """Which weights of the model or the adapter are missing, or ""; engines keep theirs in folders below."""
    if any(folder.glob("global_step*")):  # DeepSpeed's own have all that trains
        return ""
    files = [file for file in folder.rglob("*") if file.suffix in _WEIGHTS and file.is_file()]
    if (folder / ADAPTER_CONFIG_NAME).is_file() and not any(file.name.startswith("adapter_model") for file in files):
        return "adapter_model.safetensors is missing"
    if not any("model" in file.relative_to(folder).as_posix() for file in files):
        return "it has no weights"
    for index in folder.glob("*model*.index.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # read once more below
            for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values())):
                if not (folder / name).is_file():
                    return f"{name} is missing"
    return ""


@contextlib.contextmanager
def saving(folder: str) -> Iterator[None]:
    """Turn what keeps the Trainer, and the libraries that it saves with, from writing into one line.

    What is no error of a file stays as it is.

    Args:
        folder: into which they write, named where an error names no file.

    Raises:
        OutputError: naming the file or the folder, if the disk is full or something else is in the way.
    """
    try:
        yield
    except MotiontuneError:
        raise
    except Exception as error:
        place = getattr(error, "filename", None) or folder
        number = error_number(error)
        if full := in_want_of_room(error, folder):
            raise OutputError(full) from error
        if number == errno.EISDIR:
            where = place if place != folder else f"a folder in {folder}"
            raise OutputError(f"{where} is in the way of a file of that name: move it away") from error
        if number is not None and (isinstance(error, SafetensorError) or _within(place, folder)):
            raise OutputError(f"{place} cannot be written or read: {os.strerror(number)}") from error
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_TORCHS_WRITER):
            raise OutputError(f"{folder} cannot be written, is the disk full? ({in_one_line(error)})") from error
        raise


@contextlib.contextmanager
def resuming(checkpoint: str | None) -> Iterator[None]:
    """Turn what torch raises of weights, or of an optimizer, that do not fit a checkpoint into one line.

    Args:
        checkpoint: None where the run begins anew.

    Raises:
        ConfigError: naming the checkpoint, with what differs.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if checkpoint is None or not any(words in str(error) for words in _OF_TORCHS_LOADING):
            raise
        raise ConfigError(
            f"resume_from_checkpoint: {checkpoint} is of another model, or of other fine-tuning keys (resume with the "
            f"keys that it was trained with, or start anew from its model): {in_one_line(error)}"
        ) from error


def _within(file: Any, folder: str) -> bool:
    return isinstance(file, str) and Path(folder).absolute() in Path(file).absolute().parents


def list_files(checkpoint: str | Path) -> None:
    """Write the list of a checkpoint's files, once all processes have written theirs.

    Each safetensors file in the folder itself is read for its checksum, as much as the main process has just written.
    Of what lies in folders below, the parts of all processes, the bytes alone are kept.

    Args:
        checkpoint: its folder. Nothing is done where there is none.

    Raises:
        OutputError: if it cannot be written.
        OSError: if a file cannot be read.
    """
    folder = Path(checkpoint)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(_WRITTEN_AGAIN))
    listed = {}
    for file in files:
        has_none = file.suffix == ".safetensors" and file.parent == folder
        listed[file.relative_to(folder).as_posix()] = [file.stat().st_size, _checksum(file) if has_none else None]
    if files:
        write_text(folder / FILES, json.dumps({"files": listed}, indent=1) + "\n", listed=False)


def _changed(folder: Path) -> str:
    """What is not as the checkpoint's list has it, or ""; of an earlier version's there is no list."""
    if not (folder / FILES).is_file():
        return ""
    try:
        listed = json.loads((folder / FILES).read_bytes())["files"]
        for name, (size, _) in listed.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing {_MEANT}"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes, and had {size} {_MEANT}"
        for name, (_, checksum) in listed.items():
            if checksum is not None and _checksum(folder / name) != checksum:
                return f"{name} is not what was saved, its checksum differs {_MEANT}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{FILES} or what it lists cannot be read ({in_one_line(error)})"
    return ""


def _checksum(file: Path) -> str:
    """The CRC-32 of a file: some gigabytes in a second, against bits that change by accident."""
    value, buffer = 0, bytearray(1 << 20)
    view = memoryview(buffer)
    with open(file, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            value = zlib.crc32(view[:count], value)
    return f"{value:08x}"


def _damaged(file: Path) -> bool:
    """Whether what torch has saved is no whole zip file; the checksums of all its parts are compared."""
    if not file.is_file():
        return False
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
                log(f"{passed} is passed over: {problem}. {_WHY}.")
            return str(path)
    if not problems:
        raise ConfigError(f"resume_from_checkpoint: {output_dir} has no checkpoint: leave the key out to start anew")
    listed = "; ".join(f"{path}: {problem}" for path, problem in problems.items())
    if wanted is True:
        raise ConfigError(f"resume_from_checkpoint: no checkpoint is whole: {listed}: remove them to start anew")
    whole = next((path for path in checkpoints_of(str(Path(wanted).parent)) if not torn(path)), None)
    advice = f"take {whole}" if whole else "start anew"
    raise ConfigError(f"resume_from_checkpoint: {listed}. {_WHY}: {advice}")
