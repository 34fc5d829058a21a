"""Clips chosen by their motion, out of a manifest, as a data set of LLaMA-Factory."""

import hashlib
import heapq
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motiontune.datasets.dataset_info import (
    PROMPT,
    check_listed,
    claim_dataset,
    load_info,
    make_sample,
    read_dataset_rows,
    videos_of_row,
    write_dataset,
)
from motiontune.errors import ClipError, ConfigError
from motiontune.manifest import read_manifest
from motiontune.tables import text_table


MEASURES = {
    "moving": "share of the valid patches that move, with the camera or not",
    "object": "share of the valid patches that move otherwise than the camera",
    "camera": "share of the moving patches that move as the camera does",
    "px": "mean displacement between sampled frames, pixels",
    "valid": "share of patches with a vector",
    "frames": "sampled frames",
}
"""What clips can be chosen by."""

BALANCES = ("moving", "object", "camera", "px", "codec", "source")
BINS = 10
NOT_IN_DATASET = "not in the data set"
NO_FILE = "in a tar or at an address, not a file (--copy)"
COLUMNS = ("path", "codec", "source", "frames", "valid_share", "mean_px", "moving_share", "camera_share", "failure")


@dataclass(frozen=True)
class Wanted:
    """Which clips are chosen.

    Args:
        least: {measure: what a clip must have at least}. One of which that is not known does not.
        most: {measure: what it may have at most}. One of which that is not known has less: nothing moves there.
        codecs: their names; empty is all.
        draw: so many of the clips that are left; None is all.
        balance: one of BALANCES: draw as many from each part of its range, or of each of its values.
        seed: of the drawing. A clip's chance depends on its path alone, not on the manifest's order.

    Raises:
        ConfigError: on numbers that cannot be.
    """

    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    codecs: tuple[str, ...] = ()
    draw: int | None = None
    balance: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.least.keys() & self.most.keys():
            if self.least[name] > self.most[name]:
                raise ConfigError(f"--min-{name} {self.least[name]:g} is above --max-{name} {self.most[name]:g}")
        if self.draw is not None and self.draw < 1:
            raise ConfigError(f"--draw must be at least 1, not {self.draw}")
        if self.balance is not None and self.draw is None:
            raise ConfigError("--balance is of a drawing: add --draw N")

    def refusal(self, row: Mapping[str, Any]) -> str:
        """Why a clip is left out, in a few words that stand for all clips like it; "" where it is not."""
        if row["failure"]:
            return f"failed: {row['failure']}"
        if self.codecs and row["codec"] not in self.codecs:
            return "another codec"
        values = measures(row)
        for name, least in self.least.items():
            value = values[name]
            if value is None or value < least:
                return f"{name} below {least:g}"
        for name, most in self.most.items():
            value = values[name]
            if value is not None and value > most:
                return f"{name} above {most:g}"
        return ""


def measures(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The MEASURES of a row; None is what is not known."""
    moving, camera = row["moving_share"], row["camera_share"]
    by_itself = moving if moving is None or camera is None else moving * (1 - camera)
    return {
        "moving": moving,
        "object": by_itself,
        "camera": camera,
        "px": row["mean_px"],
        "valid": row["valid_share"],
        "frames": row["frames"],
    }


@dataclass(frozen=True)
class Selection:
    """What `select` chose and wrote.

    Args:
        file: the data set.
        clips: rows of the manifest.
        left_out: how many clips were left out, by the first reason.
        chosen: clips that were chosen.
        samples: rows of the data set.
        parts: of a balanced drawing, the parts with (clips there, clips drawn).
    """

    file: Path
    clips: int
    left_out: Mapping[str, int]
    chosen: int
    samples: int
    parts: Mapping[str, tuple[int, int]]

    def table(self) -> str:
        """As text: clips before, what was left out why, clips and samples after."""
        rows: list[tuple[str, ...]] = [("clips in the manifest", f"{self.clips:,}")]
        rows += [(f"- {reason}", f"{count:,}") for reason, count in self.left_out.items()]
        rows += [("clips chosen", f"{self.chosen:,}"), ("samples written", f"{self.samples:,}")]
        rows += [(f"  {name}", f"{drawn:,}", f"of {there:,}") for name, (there, drawn) in self.parts.items()]
        return text_table(rows, "<>")

    def yaml(self) -> str:
        """The lines for a training YAML."""
        return f"dataset_dir: {self.file.parent}\ndataset: {self.file.stem}"


def select(
    manifest: str | Path,
    wanted: Wanted,
    out: str | Path,
    name: str = "selected",
    dataset: tuple[str | Path, str] | None = None,
    prompt: str = PROMPT,
    copy: Callable[[Path, str], Path] | None = None,
) -> Selection:
    """Write a data set of the clips that are wanted.

    Args:
        manifest: a file, or a folder of them.
        wanted: which clips.
        out: the `dataset_dir` to write; what it lists stays there.
        name: of the data set.
        dataset: (its `dataset_dir`, its name): its samples are taken, those all of whose clips are chosen. Without
            one, each clip is a sample without an answer, for prediction.
        prompt: the question, without a data set.
        copy: copies a clip that is no file of its own (one in a tar, or at an address) below a folder, and returns
            where; such clips are chosen, too, and go to `OUT/clips`. None is without them. Not with a data set, whose
            samples name files.

    Raises:
        ConfigError: if something cannot be read, or no clip or sample is left.
        OutputError: if another data set has the name, or a file is in the way.
    """
    clips, left_out = 0, Counter[str]()
    of_dataset = None if dataset is None else _read_samples(*dataset)
    named = "" if dataset is None else dataset[1]
    there = None if of_dataset is None else {path for _, paths in of_dataset[0] for path in paths}
    kept: list[tuple[str, str]] = []  # path and part
    for row in read_manifest(manifest, COLUMNS):
        clips += 1
        reason = wanted.refusal(row) or ("" if copy or _is_file(row["path"]) else NO_FILE)
        if not reason and there is not None and row["path"] not in there:
            reason = NOT_IN_DATASET
        if reason:
            left_out[reason] += 1
        else:
            kept.append((row["path"], _part(row, wanted.balance)))
    chosen, parts = _drawn(kept, wanted)
    if wanted.draw is not None:
        left_out["not drawn"] = len(kept) - len(chosen)
    if not chosen:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in left_out.most_common())
        raise ConfigError(f"{manifest}: none of {clips:,} clips is left: {reasons}")
    out = Path(out).absolute()
    if of_dataset is None:
        claim_dataset(out, name)  # before clips are copied
        samples = []
        for path in (path for path, _ in kept if path in chosen):
            try:
                place = path if copy is None or _is_file(path) else str(copy(out / "clips", path))
            except ClipError:
                left_out["cannot be copied"] += 1
            else:
                samples.append(make_sample(place, prompt, ""))
        if not samples:
            raise ConfigError(f"{manifest}: none of the {len(chosen):,} clips that are chosen can be copied")
        file = write_dataset(out, name, samples)
    else:
        rows, entry = of_dataset
        samples = [row for row, paths in rows if chosen.issuperset(paths)]
        if not samples:
            raise ConfigError(f"dataset: {named!r} has no sample of the {len(chosen):,} clips that are chosen")
        file = write_dataset(out, name, samples, entry)
    return Selection(file, clips, left_out, len(chosen), len(samples), parts if wanted.balance else {})


def _is_file(path: str) -> bool:
    return "://" not in path and "::" not in path


def _part(row: Mapping[str, Any], balance: str | None) -> str:
    """The part of a range that a clip is in: a tenth of a share, a power of two of pixels, or a value."""
    if balance is None:
        return ""
    if balance in ("codec", "source"):
        return str(row[balance])
    value = measures(row)[balance]
    if value is None:
        return f"{balance} not known"
    if balance == "px":
        above = math.ceil(math.log2(value)) if value > 1 else 0
        return f"px up to {2**above:4d}"
    tenth = min(int(value * BINS), BINS - 1)
    return f"{balance} {tenth / BINS:.1f} to {(tenth + 1) / BINS:.1f}"


def _drawn(kept: list[tuple[str, str]], wanted: Wanted) -> tuple[set[str], dict[str, tuple[int, int]]]:
    """The paths that are drawn, and of each part how many there are and were drawn."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, part in kept:
        groups[part].append(path)
    left, chosen, parts = len(kept) if wanted.draw is None else wanted.draw, set[str](), {}
    # the smallest part first: what it lacks, the others share
    for done, (part, paths) in enumerate(sorted(groups.items(), key=lambda group: (len(group[1]), group[0]))):
        share = min(len(paths), -(-left // (len(groups) - done)))
        chosen |= set(heapq.nsmallest(share, paths, key=lambda path: _lot(path, wanted.seed)))
        parts[part] = len(paths), share
        left -= share
    return chosen, dict(sorted(parts.items()))


def _lot(path: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {path}".encode(), digest_size=8).digest()


def _read_samples(folder: str | Path, name: str) -> tuple[list[tuple[dict[str, Any], list[str]]], dict[str, Any]]:
    """The samples of a data set that have clips, each with its clips' whole paths, and the data set's entry."""
    info = load_info(folder)
    check_listed(name, info, folder)
    entry, samples = info[name], []
    for row in read_dataset_rows(folder, name, info):
        videos = videos_of_row(row, entry, Path(folder))
        paths = [os.path.abspath(path) for path in videos]
        if paths:
            samples.append((row | {entry["columns"]["videos"]: paths}, paths))
    return samples, json.loads(json.dumps(entry))
