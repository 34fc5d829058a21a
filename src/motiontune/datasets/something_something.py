"""Something-Something V2 in LLaMA-Factory's format.

The data set comes as a folder of clips (`74225.webm` and so on) and one JSON file per split, a list of
`{"id": "74225", "label": "spinning cube that quickly stops spinning", "template": "Spinning [something] that quickly
stops spinning", "placeholders": ["cube"]}`; the test split has ids alone.
"""

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from motiontune.datasets.dataset_info import PROMPT, claim_dataset, make_sample, write_dataset, write_rows
from motiontune.errors import ClipError, ConfigError
from motiontune.limits import read_json
from motiontune.tables import text_table
from motiontune.video.container import probe
from motiontune.video.find import VIDEO_SUFFIXES


SPLITS = ("train", "validation", "test")
_FIRST = (".webm", ".mp4", ".mkv", ".avi", ".mov")  # the first is the original; the others are people's own
CLIP_SUFFIXES = (*_FIRST, *sorted(VIDEO_SUFFIXES - {*_FIRST}))
CLIPS_PER_PROCESS = 64  # fewer are not worth starting one


@dataclass(frozen=True)
class SplitReport:
    """What became of one split.

    Args:
        split: "train", "validation", "test", or the name of the user's own file.
        dataset: name of the data set in `dataset_info.json`; empty where no clip was left to write.
        clips: entries in the split's file.
        written: samples in the data set.
        missing: ids without a clip.
        unreadable: ids whose clip cannot be opened.
    """

    split: str
    dataset: str
    clips: int
    written: int
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did.

    Args:
        out: the `dataset_dir`.
        splits: in the order in which their files were given.
    """

    out: Path
    splits: tuple[SplitReport, ...]

    def table(self) -> str:
        """Return one line per split: clips, written, missing, unreadable."""
        rows: list[tuple[str, ...]] = [("split", "clips", "written", "missing", "unreadable")]
        for split in self.splits:
            counts = (split.clips, split.written, len(split.missing), len(split.unreadable))
            rows.append((split.split, *(f"{count:,}" for count in counts)))
        return text_table(rows, "<>>>>", least=(12, 10, 10, 10, 10))

    def yaml(self) -> str:
        """Return the lines for a training YAML."""
        lines = [f"dataset_dir: {self.out}"]
        for split in self.splits:
            if not split.dataset:
                continue
            if split.split == "test":
                lines.append(f"# eval_dataset: {split.dataset}  # no answers: for do_predict alone")
            else:
                key = "eval_dataset" if split.split == "validation" else "dataset"
                lines.append(f"{key}: {split.dataset}")
        return "\n".join(lines)


def prepare(
    labels: Sequence[str | Path],
    videos: str | Path,
    out: str | Path,
    prompt: str = PROMPT,
    check: bool = True,
    workers: int | None = None,
    progress: bool = False,
) -> PrepareReport:
    """Write one LLaMA-Factory data set per split.

    Each is `<out>/something_something_<split>.json`, with the clips' absolute paths and with `id`, `template` and
    `placeholders` as extra columns, and is entered in `<out>/dataset_info.json`. Entries whose clip is missing or
    cannot be opened are left out and listed with the reason in `<out>/skipped_<split>.json`. The test split, which has
    no labels, gets empty answers, which LLaMA-Factory takes for prediction.

    Args:
        labels: the splits' JSON files.
        videos: folder with the clips.
        out: folder to write; data sets that are in it stay.
        prompt: the question; `<video>` is put before it where it isn't in it.
        check: open each clip, which reads all of it (a WebM header has no number of frames): minutes.
        workers: clips that are opened at the same time; one per CPU core where not given.
        progress: show bars on stderr.

    Raises:
        ConfigError: if a file is not a split's, two files are the same split's, or none of the clips is in the folder.
    """
    videos, out, labels = Path(videos), Path(out), list(labels)
    splits: dict[str, list[dict[str, Any]]] = {}
    for file in map(Path, labels):
        entries, split = _read_split(file), _split_name(file)
        if split in splits:
            raise ConfigError(f"{file} is a second file of the {split} split: give one each")
        splits[split] = entries
    if not splits:
        raise ConfigError("no split to prepare: give at least one of train.json, validation.json, test.json")
    files = _find_clips(videos)
    if not any(entry["id"] in files for entries in splits.values() for entry in entries):
        wanted = next((entry["id"] for entries in splits.values() for entry in entries), "74225")
        raise ConfigError(f"{videos} holds none of the clips, for example {wanted}{CLIP_SUFFIXES[0]}{_nested(videos)}")
    for split in splits:
        claim_dataset(out, _dataset_of(split), [out / skipped_file(split)], inputs=labels)
    reports = []
    for split, entries in splits.items():
        paths = [files.get(entry["id"], "") for entry in entries]
        reasons = _check_clips(paths, check, workers or os.cpu_count() or 1, f"{split}: clips" if progress else "")
        reports.append(_write_split(out, split, entries, paths, reasons, prompt))
    return PrepareReport(out.absolute(), tuple(reports))


def _split_name(file: Path) -> str:
    words = file.stem.lower().replace("_", "-").split("-")
    for split in SPLITS:
        if split in words:
            return split
    return "_".join(words)


def _read_split(file: Path) -> list[dict[str, Any]]:
    """Read a split's entries, their ids as text; check that they are what they should be."""
    try:
        entries = read_json(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON ({error}): give train.json, validation.json or test.json") from error
    if isinstance(entries, dict):
        raise ConfigError(
            f"{file} is not a split: it maps templates to class numbers, as labels.json does, and names no clips; "
            f"give train.json, validation.json or test.json"
        )
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{file} holds no list of clips: give train.json, validation.json or test.json")
    labelled = any(isinstance(entry, dict) and "label" in entry for entry in entries)
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), (str, int)):
            raise ConfigError(f"{file}: entry {number} has no id")
        if labelled and not isinstance(entry.get("label"), str):
            raise ConfigError(f"{file}: entry {number} (id {entry['id']}) has no label, though others have")
        entry["id"] = str(entry["id"])
    return entries


def _find_clips(videos: Path) -> dict[str, str]:
    """Map id to absolute path for all clips in a folder: one listing instead of a look-up for each of 220,847."""
    rank = {suffix: i for i, suffix in enumerate(CLIP_SUFFIXES)}
    best: dict[str, tuple[int, str]] = {}
    try:
        with os.scandir(videos.absolute()) as files:
            for file in files:
                stem, suffix = os.path.splitext(file.name)
                place = rank.get(suffix.lower(), len(rank))
                if place < best.get(stem, (len(rank), ""))[0]:
                    best[stem] = (place, file.path)
    except OSError as error:
        raise ConfigError(f"--videos {videos} cannot be listed: {error.strerror}") from error
    return {stem: path for stem, (_, path) in best.items()}


def _nested(videos: Path) -> str:
    """Suggest the folder below, where the archive's own was given together with the one around it."""
    for below in sorted(path for path in videos.iterdir() if path.is_dir()):
        if any(file.suffix in CLIP_SUFFIXES for file in below.iterdir()):
            return f"; did you mean {below}?"
    return ""


def _check_clips(paths: Sequence[str], check: bool, workers: int, title: str) -> list[str]:
    """Why each clip cannot be used; empty where it can."""
    reason = _reason if check else _reason_unopened
    bar: dict[str, Any] = {
        "desc": title,
        "total": len(paths),
        "disable": not title,
        "unit": "clip",
        "mininterval": 1.0,
    }
    workers = min(workers, 1 + len(paths) // CLIPS_PER_PROCESS)
    if workers == 1 or not check:
        return list(tqdm(map(reason, paths), **bar))
    # Processes: counting packets holds the interpreter, threads would be slower than one. Forked where that exists, so
    # that a script that calls `prepare` needs no `if __name__ == "__main__"`.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    with multiprocessing.get_context(method).Pool(workers) as pool:
        return list(tqdm(pool.imap(reason, paths, chunksize=16), **bar))


def _reason_unopened(path: str) -> str:
    return "" if path else "missing"


def _reason(path: str) -> str:
    if not path:
        return "missing"
    try:
        probe(path)
    except ClipError as error:
        return error.reason
    return ""


def _write_split(
    out: Path,
    split: str,
    entries: Sequence[dict[str, Any]],
    paths: Iterable[str],
    reasons: Iterable[str],
    prompt: str,
) -> SplitReport:
    samples: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for entry, path, reason in zip(entries, paths, reasons, strict=True):
        if reason:
            skipped.append({"id": entry["id"], "video": path, "reason": reason})
            continue
        more = {"template": entry.get("template", ""), "placeholders": entry.get("placeholders", [])}
        samples.append(make_sample(path, prompt, entry.get("label", ""), id=entry["id"], **more))
    dataset = _dataset_of(split) if samples else ""
    if samples:
        write_dataset(out, dataset, samples)
    write_rows(out / skipped_file(split), skipped)
    missing = tuple(row["id"] for row in skipped if not row["video"])
    unreadable = tuple(row["id"] for row in skipped if row["video"])
    return SplitReport(split, dataset, len(entries), len(samples), missing, unreadable)


def _dataset_of(split: str) -> str:
    return f"something_something_{split}"


def skipped_file(split: str) -> str:
    """Where the entries of a split that were left out are listed, in the output folder."""
    return f"skipped_{split}.json"
