"""Data sets in LLaMA-Factory's layout: a folder with `dataset_info.json` and one JSON file per data set."""

import json
import os
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
    write_json(path, samples)
    write_json(folder / INFO_FILE, info)
    return path


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file all at once, so that a run that is stopped leaves the old one."""
    draft = path.with_name(path.name + ".part")
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")
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
