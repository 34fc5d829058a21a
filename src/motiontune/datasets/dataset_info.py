"""Data sets in LLaMA-Factory's layout: a folder with `dataset_info.json` and one JSON file per data set."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motiontune.errors import ConfigError, OutputError, in_one_line, mistakes, nearest
from motiontune.files import claim, in_turn, write_text, write_whole
from motiontune.limits import json_lines, parse_json, read_json, read_text


INFO_FILE = "dataset_info.json"
PROMPT = "Explain the action happening the video."
"""The question of Something-Something's reference runs; ours where the user gives none."""
NEW_TOKENS = 128
"""An answer has at most so many tokens where the user asks for nothing else."""


_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError)
"""What values lead to that are of another kind than they should be."""


@dataclass(frozen=True)
class ClipOfSample:
    """A clip of a data set, with its question and answer.

    Args:
        path: the file, found as LLaMA-Factory finds it.
        prompt: the first question.
        answer: the last answer; "" where there is none.
    """

    path: str
    prompt: str
    answer: str


def names_in(text: str) -> tuple[str, ...]:
    """The names in a list with commas, as LLaMA-Factory reads `dataset: a, b`."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def load_info(folder: str | Path, *, or_empty: bool = False) -> dict[str, Any]:
    """Read a folder's `dataset_info.json`: {name of the data set: its entry}.

    Args:
        folder: LLaMA-Factory's `dataset_dir`.
        or_empty: where there is no file, return no entry instead of raising.

    Raises:
        ConfigError: if the file is missing or cannot be read.
    """
    file = Path(folder) / INFO_FILE
    try:
        info = read_json(file)
    except FileNotFoundError:
        if or_empty:
            return {}
        raise ConfigError(f"dataset_dir: {file} does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"dataset_dir: {file} cannot be read: {in_one_line(error)}") from error
    if not isinstance(info, dict):
        raise ConfigError(f"dataset_dir: {file} holds a {type(info).__name__}, not an object")
    return info


def check_listed(name: str, info: Mapping[str, Any], folder: str | Path) -> None:
    """Refuse a data set that `dataset_info.json` does not list, or does not describe.

    Raises:
        ConfigError: naming the nearest one, or what is in the place of an object.
    """
    file = Path(folder) / INFO_FILE
    if name not in info:
        raise ConfigError(f"dataset: {name!r} is not in {file}" + nearest(name, info))
    about = info[name]
    for what, value in ((name, about), *((f"{name}.{key}", _get(about, key)) for key in ("columns", "tags"))):
        if not isinstance(value, dict):
            raise ConfigError(f"dataset: {what!r} in {file} is {value!r}, it must be an object in braces")


def columns_of(about: Any) -> dict[str, Any]:
    """The columns of an entry of `dataset_info.json`; none where it has none, or is not as it should be."""
    columns = _get(about, "columns")
    return columns if isinstance(columns, dict) else {}


def _get(about: Any, key: str) -> Any:
    return about.get(key, {}) if isinstance(about, dict) else {}


def read_clips(folder: str | Path, name: str) -> list[ClipOfSample]:
    """Read the clips of a data set, without decoding any; a clip that several samples have is there several times.

    Args:
        folder: LLaMA-Factory's `dataset_dir`.
        name: of the data set. Its file must be a `.json` or `.jsonl`.

    Raises:
        ConfigError: if there is no such data set, or it cannot be read, or has no videos.
    """
    info = load_info(folder)
    rows = read_dataset_rows(folder, name, info)
    with _reading(folder, name, info):
        return [clip for row in rows for clip in _clips_of(row, info[name], Path(folder))]


def read_dataset_rows(folder: str | Path, name: str, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the rows of a data set with videos, as they stand in its file, a `.json` or `.jsonl`.

    Args:
        folder: LLaMA-Factory's `dataset_dir`.
        name: of the data set.
        info: of `load_info`.

    Raises:
        ConfigError: if there is no such data set, or it cannot be read, or has no videos.
    """
    check_listed(name, info, folder)
    file = Path(folder) / str(info[name].get("file_name", ""))
    if file.suffix not in (".json", ".jsonl"):
        raise ConfigError(f"dataset: {name!r} is no .json or .jsonl file of its own, which is all that is read here")
    if not columns_of(info[name]).get("videos"):
        raise ConfigError(f"dataset: {name!r} has no column `videos` in {Path(folder) / INFO_FILE}")
    with _reading(folder, name, info):
        text = read_text(file)
        rows = parse_json(text) if file.suffix == ".json" else json_lines(text)
        return [dict(row) for row in rows]


@contextlib.contextmanager
def _reading(folder: str | Path, name: str, info: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except (OSError, *_MALFORMED) as error:
        file = Path(folder) / info[name]["file_name"]
        raise ConfigError(f"dataset: {name!r}: {file} cannot be read: {in_one_line(error)}") from error


def videos_of_row(row: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> list[str]:
    """The clips of a row, found as LLaMA-Factory finds them; one that is nowhere is named in the data set's folder."""
    paths = row.get(about["columns"]["videos"]) or []
    paths = [paths] if isinstance(paths, str) else [path for path in paths if isinstance(path, str)]  # no frame lists
    return [find_media(path, folder) for path in paths]


def find_media(path: str, folder: Path) -> str:
    """A file of a sample where LLaMA-Factory finds it; one that is nowhere is named in the data set's folder."""
    return path if os.path.isfile(path) and not (folder / path).is_file() else str(folder / path)


def _clips_of(row: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> list[ClipOfSample]:
    columns, tags = about.get("columns", {}), about.get("tags", {})
    if about.get("formatting", "alpaca") == "alpaca":
        asked = "\n".join(filter(None, (row.get(columns.get(*pair)) for pair in _ALPACA[:2])))
        answer = row.get(columns.get(*_ALPACA[2])) or ""
    else:
        turns = row[columns.get("messages", "conversations")]
        role, content = tags.get("role_tag", "from"), tags.get("content_tag", "value")
        asked = next((turn[content] for turn in turns if turn[role] == tags.get("user_tag", "human")), "")
        answers = [turn[content] for turn in turns if turn[role] == tags.get("assistant_tag", "gpt")]
        answer = answers[-1] if answers else ""
    found = videos_of_row(row, about, folder)
    return [ClipOfSample(path, asked.replace("<video>", "").strip(), answer.strip()) for path in found]


def templates_of(folder: str | Path, names: str) -> dict[str, str]:
    """{label: template} of data sets whose rows name their template, as `motiontune prepare` writes them.

    Args:
        folder: LLaMA-Factory's `dataset_dir`.
        names: of the data sets, with commas between them. One that is no `.json` file of its own has no templates.

    Raises:
        ConfigError: if a file is not JSON.
    """
    found: dict[str, str] = {}
    info = load_info(folder)
    for name in names_in(names):
        file = Path(folder) / str(_get(info.get(name), "file_name"))
        if file.suffix != ".json" or not file.is_file():
            continue
        try:
            rows = read_json(file)
        except ValueError as error:
            raise ConfigError(f"{file} is not JSON: {in_one_line(error)}") from error
        with mistakes(f"{file} has a row that is no sample", *_MALFORMED):
            for row in rows:
                if row.get("template") and row.get("messages"):
                    found[row["messages"][-1]["content"].strip()] = str(row["template"])
    return found


_ALPACA = (("prompt", "instruction"), ("query", "input"), ("response", "output"))


def make_sample(video: str, prompt: str, answer: str, **columns: Any) -> dict[str, Any]:
    """Build one sample: a video, a question about it and its answer.

    Args:
        video: path of the clip, absolute or relative to the data set's folder.
        prompt: the question; `<video>` is put before it where it isn't in it.
        answer: what the model should answer; empty where it is not known.
        columns: more about the sample, for people; LLaMA-Factory leaves it out.
    """
    if "<video>" not in prompt:
        prompt = "<video>" + prompt
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "videos": [video], **columns}


ENTRY: dict[str, Any] = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "videos": "videos"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}
"""In `dataset_info.json`, of `make_sample`'s samples; but for the name of their file."""


def claim_dataset(
    folder: Path,
    name: str,
    files: Iterable[Path] = (),
    entry: Mapping[str, Any] | None = None,
    inputs: Iterable[str | Path] = (),
) -> dict[str, Any]:
    """Refuse to write a data set where another has its name, or other files are in its way.

    Args:
        folder: the `dataset_dir`.
        name: of the data set.
        files: more that will be written.
        entry: the data set's, but for the name of its file; None is that of `make_sample`'s samples.
        inputs: what is read meanwhile, and must not be written over.

    Returns:
        The entries of the folder's `dataset_info.json`, with that of the data set.

    Raises:
        ConfigError: on a name that no data set can have, if `dataset_info.json` cannot be read, or naming what is in
            the way.
    """
    if names_in(name) != (name,) or os.path.basename(name) != name or f"{name}.json" == INFO_FILE:
        raise ConfigError(f"{name!r} cannot be a data set's name: it must be that of a file, without a comma")
    info = load_info(folder, or_empty=True)
    entry = dict(entry or ENTRY) | {"file_name": f"{name}.json"}
    sharing = [other for other, about in info.items() if _get(about, "file_name") == entry["file_name"]]
    if name not in info and sharing:  # as where its entry was renamed
        raise OutputError(
            f"{folder / INFO_FILE} has the data set {sharing[0]!r} in {name}.json: choose another name, or another "
            f"folder"
        )
    if info.setdefault(name, entry) != entry:
        raise OutputError(
            f"{folder / INFO_FILE} has another data set {name!r}, which is not known to be this command's: choose "
            f"another name, or another folder"
        )
    claim(folder, [folder / f"{name}.json", *files], inputs)
    return info


def write_dataset(
    folder: Path, name: str, samples: list[dict[str, Any]], entry: Mapping[str, Any] | None = None
) -> Path:
    """Write `<name>.json` and enter it in the folder's `dataset_info.json`, whose other entries stay.

    Args:
        folder: LLaMA-Factory's `dataset_dir`; made where it does not exist.
        name: of the data set, as `dataset: name` will ask for it.
        samples: as `make_sample` builds them, or as `entry` describes them.
        entry: see `claim_dataset`.

    Returns:
        The JSON file with the samples.

    Raises:
        ConfigError: as `claim_dataset`.
    """
    claim_dataset(folder, name, entry=entry)
    path = folder / f"{name}.json"
    write_rows(path, samples)
    with in_turn(folder):  # others may enter theirs
        info = claim_dataset(folder, name, entry=entry)
        # where it is a link, several folders share it
        file = os.path.realpath(folder / INFO_FILE)
        write_text(file, json.dumps(info, ensure_ascii=False, indent=2) + "\n", listed=False)
    return path


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON list with one row on each line, so that large files can be searched with line tools."""
    with write_whole(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        file.write("[")
        for i, row in enumerate(rows):
            file.write(("," if i else "") + "\n" + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")
