"""One page about a manifest: how much the clips of a data set move, where motion comes from, and what fails."""

import heapq
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.images import data_uri
from motiontune.drawing.sheets import SheetRow, contact_sheet, frame_sheet
from motiontune.errors import MotiontuneError, in_one_line
from motiontune.files import claim
from motiontune.limits import load_npz
from motiontune.manifest import ClipRow, about_manifest, manifest_files, missing_shards, read_rows
from motiontune.runs.page import definitions, figure, fold, percent, tile, write_page
from motiontune.video.clip import read_clip


SHARES = ("moving_share", "camera_share", "valid_share")
EXAMPLES = 5
"""Clips that are named for each kind of failure."""
_COLUMNS = 6


class _Counts:
    """What is added up over the rows, in one pass: no row is kept but the worst."""

    def __init__(self, worst: int) -> None:
        self.clips = 0
        self.seconds: list[float] = []
        self.values: dict[str, list[float]] = {name: [] for name in (*SHARES, "mean_px")}
        self.durations: list[float] = []
        self.codecs: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[str, str]]] = {}
        self._worst, self._number = worst, itertools.count()
        self._heap: list[tuple[float, int, ClipRow]] = []

    def add(self, row: ClipRow) -> None:
        self.clips += 1
        if row.duration is not None:
            self.durations.append(row.duration)
        if row.failure is not None:
            self.failures[row.failure] += 1
            named = self.examples.setdefault(row.failure, [])
            if len(named) < EXAMPLES:
                named.append((row.path, row.error or ""))
            return
        if row.seconds:
            self.seconds.append(row.seconds)
        self.codecs[row.codec or "?", row.source or "?"] += 1
        for name, values in self.values.items():
            if (value := getattr(row, name)) is not None:
                values.append(value)
        if self._worst and row.valid_share is not None:
            push = heapq.heappush if len(self._heap) < self._worst else heapq.heappushpop
            push(self._heap, (-row.valid_share, -next(self._number), row))

    @property
    def worst(self) -> list[ClipRow]:
        """The clips with the fewest valid vectors, the worst first."""
        return [row for _, _, row in sorted(self._heap, reverse=True)]


AsFile = Callable[[str], AbstractContextManager[str]]
"""Has a clip of a manifest as a file, by its name there; raises a `ClipError` where it cannot."""


def survey(manifest: str | Path, out: str | Path | None = None, clips: int = 4, as_file: AsFile = nullcontext) -> Path:
    """Write `report.html` about a manifest.

    Args:
        manifest: a file, or a folder of them.
        out: the page; None is `report.html` beside the manifest.
        clips: how many clips with the fewest valid vectors are drawn.
        as_file: has a clip as a file, such as one in a tar; without it, only files are drawn.

    Returns:
        The page.

    Raises:
        ConfigError: if there is no manifest, or it cannot be read.
        OutputError: if the page cannot be written.
    """
    files = manifest_files(manifest)
    folder = files[0].parent
    page = folder / "report.html" if out is None else Path(out)
    claim(page.parent, [page], files)
    counts = _Counts(clips)
    for row in read_rows(manifest):
        counts.add(row)
    settings = about_manifest(manifest)
    with_motion = counts.clips - counts.failures.total()
    rate = f"{len(counts.seconds) / sum(counts.seconds):.1f} clips per second of one worker" if counts.seconds else ""
    tiles = [
        tile("Clips", f"{counts.clips:,}", _length(counts.durations, counts.clips)),
        tile("With motion", f"{with_motion:,}", percent(with_motion / counts.clips) if counts.clips else ""),
    ]
    middle = {name: float(np.median(values)) for name, values in counts.values.items() if values}
    if "moving_share" in middle:
        tiles.append(tile("Moving patches", percent(middle["moving_share"]), "of the valid ones, median clip"))
    if "camera_share" in middle:
        tiles.append(tile("Moving by camera", percent(middle["camera_share"]), "of the moving ones, median clip"))
    codecs = {" · ".join(key): count for key, count in counts.codecs.most_common()}
    notes = "".join(f"<p>{escape(note)}</p>" for note in (missing_shards(manifest), rate) if note)
    body = [
        f"<header><h1>{escape(f'Clips of {folder.resolve().name}')}</h1>{notes}</header>",
        f"<section class='tiles row'>{''.join(tiles)}</section>",
        f"<section><h2>Motion</h2><div class=plots>{''.join(_histograms(counts.values))}</div></section>",
        f"<section><h2>Codecs and sources</h2>{_bars(codecs)}</section>",
        _failures(counts),
        _worst(counts.worst, folder, as_file),
        fold("Settings", definitions(settings)),
    ]
    return write_page(page, f"Clips of {folder.resolve().name}", body)


def _length(durations: Sequence[float], clips: int) -> str:
    """How long clips are in all, as far as it is known (seconds)."""
    if not durations:
        return "duration not known"
    hours = sum(durations) / 3600
    length = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
    return length if len(durations) == clips else f"{length}, of the {len(durations):,} whose duration is known"


def _histograms(values: Mapping[str, Sequence[float]]) -> Iterable[str]:
    titles = {
        "moving_share": "Share of the valid patches that move",
        "camera_share": "Share of the moving patches that move as the camera does",
        "valid_share": "Share of patches with a vector",
    }
    edges = np.linspace(0, 1, 11)
    names = [f"{low:.0%} to {high:.0%}" for low, high in itertools.pairwise(edges)]
    for key, title in titles.items():
        if values[key]:
            counts, _ = np.histogram(values[key], edges)
            yield _bars(dict(zip(names, counts.tolist(), strict=True)), title)
    if values["mean_px"]:
        powers = [0.0, *(2.0**k for k in range(-1, 8)), np.inf]
        counts, _ = np.histogram(values["mean_px"], powers)
        names = [f"{low:g} to {high:g} px" for low, high in itertools.pairwise(powers[:-1])] + [
            f"{powers[-2]:g} or more"
        ]
        yield _bars(dict(zip(names, counts.tolist(), strict=True)), "Mean displacement between sampled frames")


def _bars(counts: Mapping[str, int], title: str = "") -> str:
    """A histogram: a line with a bar for each count."""
    total, longest = sum(counts.values()) or 1, max(counts.values(), default=0) or 1
    lines = [
        f"<tr><td>{escape(name)}</td><td class=number>{count:,} <span>{percent(count / total)}</span></td>"
        f'<td class=track><div class="bar model" style="width:{100 * count / longest:.1f}%"></div></td></tr>'
        for name, count in counts.items()
    ]
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table class=bars>{caption}<tbody>{''.join(lines)}</tbody></table>"


def _failures(counts: _Counts) -> str:
    if not counts.failures:
        return ""
    parts = []
    for kind, count in counts.failures.most_common():
        lines = "".join(
            f"<li><code>{escape(path)}</code> {escape(error)}</li>" for path, error in counts.examples[kind]
        )
        parts.append(f"<article><h3>{escape(kind)}: {count:,}</h3><ul>{lines}</ul></article>")
    return f"<section><h2>Failures</h2>{''.join(parts)}</section>"


def _worst(rows: Sequence[ClipRow], folder: Path, as_file: AsFile) -> str:
    if not rows:
        return ""
    articles = []
    for row in rows:
        try:
            picture = f'<img src="{data_uri(_picture(row, folder, as_file))}" alt="motion" loading=lazy>'
        except (MotiontuneError, OSError, ValueError, KeyError) as error:
            picture = f"its frames cannot be read: {escape(in_one_line(error))}"
        numbers = f"valid {percent(row.valid_share or 0)} · {row.codec} · {row.source} · {row.frames} frames"
        articles.append(
            f"<article><h3>{escape(os.path.basename(row.path))}</h3>"
            f"<p class=path><code>{escape(row.path)}</code></p>{figure(picture, numbers)}</article>"
        )
    return f"<section><h2>Clips with the fewest valid vectors</h2>{''.join(articles)}</section>"


def _picture(row: ClipRow, folder: Path, as_file: AsFile) -> NDArray[np.uint8]:
    """A clip's motion on its frames, or its frames alone where the motion is not there.

    Raises:
        ClipError: if the clip cannot be read any more.
        ValueError: if the motion is of other frames.
    """
    if not row.frames or not row.duration:
        raise ValueError("the manifest does not tell how many there are")
    with as_file(row.path) as path:
        # As many as were sampled are the same ones: they are spread evenly, whatever the model's rate and limit were.
        # A rate that gives more is cut to that number.
        clip = read_clip(path, (row.frames + 1) / row.duration, row.frames)
    name = os.path.basename(row.path)
    if row.motion is None:
        return frame_sheet(name, clip.frames, clip.times, _COLUMNS)
    if os.path.isabs(row.motion) or ".." in Path(row.motion).parts:
        raise ValueError("its motion would lie outside of the manifest's folder")
    with load_npz(folder / row.motion) as saved:
        arrays = (saved["vectors"], saved["valid"], saved["times"])
    return contact_sheet([SheetRow.of(name, clip.frames, *arrays, padding=1)], _COLUMNS)
