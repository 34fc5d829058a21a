"""Clips chosen by their motion, out of a manifest, as a data set of LLaMA-Factory."""

import hashlib
import heapq
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motiontune.datasets.dataset_info import (
    ENTRY,
    PROMPT,
    claim_dataset,
    find_media,
    load_info,
    make_sample,
    read_dataset_rows,
    write_dataset,
)
from motiontune.errors import ClipError, ConfigError
from motiontune.manifest import manifest_files, missing_shards, read_manifest, tar_of
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
MADE_BY = "motiontune select"
"""In an entry of `dataset_info.json`: no other command's data set is replaced, and no other command replaces it."""
NO_FILE = "in a tar or at an address, not a file (--copy)"
COLUMNS = ("path", "codec", "source", "frames", "valid_share", "mean_px", "moving_share", "camera_share", "failure")


@dataclass(frozen=True)
class Wanted:
    """Which clips are chosen.

    Args:
        least: {measure: what a clip must have at least}; shares from 0 to 1. One of which that is not known is left
            out. Where nothing moves, `camera` is below anything.
        most: {measure: what it may have at most}, likewise.
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
        for end, bounds in (("min", self.least), ("max", self.most)):
            for name, bound in bounds.items():
                if not 0 <= bound < math.inf or (name not in ("px", "frames") and bound > 1):
                    kind = "a number, 0 or more" if name in ("px", "frames") else "a share from 0 to 1"
                    raise ConfigError(f"--{end}-{name} must be {kind}, not {bound:g}")
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
        if self.codecs and str(row["codec"]).lower() not in map(str.lower, self.codecs):
            return "another codec"
        values = measures(row)
        for name in (*self.least, *self.most):
            if values[name] is None and not (name == "camera" and _is_still(row)):
                return f"{name} not known"
        for name, least in self.least.items():
            value = values[name]
            if value is None or value < least:
                return f"{name} below {least:g}"
        for name, most in self.most.items():
            value = values[name]
            if value is not None and value > most:
                return f"{name} above {most:g}"
        return ""


def _is_still(row: Mapping[str, Any]) -> bool:
    """Whether nothing moves, so that the camera has a share of nothing, which is known."""
    return bool(row["moving_share"] == 0)


def measures(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The MEASURES of a row; None is what is not known."""
    moving, camera = row["moving_share"], row["camera_share"]
    by_itself = 0.0 if _is_still(row) else None if moving is None or camera is None else moving * (1 - camera)
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
        samples_left_out: how many samples of the data set that was given were left out, by the reason.
        parts: of a balanced drawing, the parts with (clips there, clips drawn).
    """

    file: Path
    clips: int
    left_out: Mapping[str, int]
    chosen: int
    samples: int
    samples_left_out: Mapping[str, int]
    parts: Mapping[str, tuple[int, int]]

    def table(self) -> str:
        """As text: clips before, what was left out why, clips and samples after."""
        rows: list[tuple[str, ...]] = [("clips in the manifest", f"{self.clips:,}")]
        rows += [(f"- {reason}", f"{count:,}") for reason, count in self.left_out.items()]
        rows.append(("clips chosen", f"{self.chosen:,}"))
        rows += [(f"- samples {reason}", f"{count:,}") for reason, count in self.samples_left_out.items()]
        rows.append(("samples written", f"{self.samples:,}"))
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
        ConfigError: if something cannot be read, a shard is missing, or no clip or sample is left.
        OutputError: if a data set that this did not make has the name, or a file is in the way or is read.
    """
    if missing := missing_shards(manifest):
        raise ConfigError(f"{manifest}: {missing}: extract them, or name one file")
    clips, left_out, samples_left_out = 0, Counter[str](), Counter[str]()
    out, inputs = Path(out).absolute(), manifest_files(manifest)
    of_dataset, there, entry = None, None, ENTRY
    if dataset is not None:
        folder, named = dataset
        info = load_info(folder)
        of_dataset = _read_samples(folder, named, info, samples_left_out)
        there = {path for _, paths in of_dataset for path in paths}
        entry = info[named]
        inputs.append(Path(folder, entry["file_name"]))
    entry = entry | {"made_by": MADE_BY}
    claim_dataset(out, name, entry=entry, inputs=inputs)  # before clips are copied
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
    if of_dataset is None:
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
    else:
        samples = [row for row, paths in of_dataset if chosen.issuperset(paths)]
        if not samples:
            raise ConfigError(f"dataset: {named!r} has no sample of the {len(chosen):,} clips that are chosen")
        if others := len(of_dataset) - len(samples):
            samples_left_out["with a clip that is not chosen"] = others
    file = write_dataset(out, name, samples, entry)
    parts = parts if wanted.balance else {}
    return Selection(file, clips, left_out, len(chosen), len(samples), samples_left_out, parts)


def _is_file(path: str) -> bool:
    return "://" not in path and not tar_of(path)


def _part(row: Mapping[str, Any], balance: str | None) -> str:
    """The part of a range that a clip is in: a tenth of a share, a power of two of pixels, or a value."""
    if balance is None:
        return ""
    if balance in ("codec", "source"):
        return str(row[balance] or f"{balance} not known")
    value = measures(row)[balance]
    if value is None:
        return "nothing moves" if balance == "camera" and _is_still(row) else f"{balance} not known"
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
    if wanted.balance and wanted.draw is not None and wanted.draw < len(groups):
        raise ConfigError(
            f"--draw {wanted.draw} leaves some of the {len(groups)} parts of --balance {wanted.balance} without a "
            f"clip: draw {len(groups)} or more, or leave --balance out"
        )
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


def _read_samples(
    folder: str | Path, name: str, info: Mapping[str, Any], left_out: Counter[str]
) -> list[tuple[dict[str, Any], list[str]]]:
    """The samples of a data set that have clips alone for videos, each with its clips' whole paths.

    Args:
        folder: its `dataset_dir`.
        name: of the data set.
        info: of `load_info`.
        left_out: counts the others, by the reason.
    """
    samples = []
    for row in read_dataset_rows(folder, name, info):
        columns = info[name]["columns"]
        videos = row.get(columns["videos"]) or []
        videos = videos if isinstance(videos, list) else [videos]
        if not videos:
            left_out["without a clip"] += 1
        elif not all(isinstance(video, str) for video in videos):
            left_out["with frames in the place of a clip"] += 1
        else:
            paths = [os.path.abspath(find_media(video, Path(folder))) for video in videos]
            others = {columns[kind]: row.get(columns[kind]) for kind in ("images", "audios") if columns.get(kind)}
            others = {column: _whole(media, Path(folder)) for column, media in others.items() if media is not None}
            samples.append((row | others | {columns["videos"]: paths}, paths))
    return samples


def _whole(media: Any, folder: Path) -> Any:
    """Paths of images or audios with their folder, since the data set may go to another; what is no file stays."""
    if isinstance(media, list):
        return [_whole(one, folder) for one in media]
    if not isinstance(media, str):
        return media
    found = find_media(media, folder)
    return os.path.abspath(found) if os.path.isfile(found) else media
