"""Data sets in LLaMA-Factory's layout: a folder with `dataset_info.json` and one JSON file per data set."""

import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from motiontune.errors import ConfigError


INFO_FILE = "dataset_info.json"


def make_sample(video: str, prompt: str, answer: str, **columns: Any) -> dict[str, Any]:
    """Build one sample: a video, a question about it and its answer.

    Args:
        video: path of the clip, absolute or relative to the data set's folder.
        prompt: the question; `<video>` is put before it where it isn't in it.
        answer: what the model should say; empty where it is not known.
        columns: more about the sample, for people; LLaMA-Factory leaves it out.
    """
    if "<video>" not in prompt:
        prompt = "<video>" + prompt
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "videos": [video], **columns}


def write_dataset(folder: Path, name: str, samples: list[dict[str, Any]]) -> Path:
    """Write `<name>.json` and enter it in the folder's `dataset_info.json`, whose other entries stay.

    Args:
        folder: LLaMA-Factory's `dataset_dir`; made where it does not exist.
        name: of the data set, as `dataset: name` will ask for it.
        samples: as `make_sample` builds them.

    Returns:
        The JSON file with the samples.

    Raises:
        ConfigError: if the folder's `dataset_info.json` cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    info = _read_info(folder / INFO_FILE)
    info[name] = {
        "file_name": f"{name}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "videos": "videos"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    path = folder / f"{name}.json"
    write_rows(path, samples)
    _write(path.with_name(INFO_FILE), [json.dumps(info, ensure_ascii=False, indent=2), "\n"])
    return path


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON list with one row on each line, so that large files can be searched with line tools."""
    lines = (("," if i else "[") + "\n" + json.dumps(row, ensure_ascii=False) for i, row in enumerate(rows))
    first = next(lines, "[")
    _write(path, itertools.chain([first], lines, ["\n]\n"]))


def _write(path: Path, parts: Iterable[str]) -> None:
    draft = path.with_name(path.name + ".part")  # a run that is stopped leaves the old file whole
    with open(draft, "w", encoding="utf-8") as file:
        file.writelines(parts)
    os.replace(draft, path)


def _read_info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is there, but not readable as JSON ({error}): mend or remove it") from error
    if not isinstance(info, dict):
        raise ConfigError(f"{path} is not a dataset_info.json: it holds a {type(info).__name__}, not an object")
    return info
