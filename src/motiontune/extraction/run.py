"""A run over many clips: what is left to do, rows as they come, and the manifest at the end."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from motiontune.errors import ConfigError, OutputError
from motiontune.extraction.clip import Settings
from motiontune.extraction.engines import TRIES, Engine, Job
from motiontune.extraction.inputs import ClipSource, Inputs, contradicts
from motiontune.extraction.journal import Crash, Journal, open_journal, settings_of
from motiontune.extraction.worker import LONGEST
from motiontune.files import claim
from motiontune.manifest import FAILURES, NAME, PASSING, ClipRow, write_manifest
from motiontune.tables import text_table


@dataclass
class Summary:
    """What a run did.

    Args:
        manifest: the file.
        clips: of the inputs; each has a row.
        before: of these, done by earlier runs.
        kept: rows of clips that earlier runs had among their inputs.
        gone: of those clips, such as are gone, have changed or are of another shard: the manifest has them no more.
        failures: rows without motion, by kind.
        nodes: clips of this run, by machine.
        failed_on: of these, without motion.
        seconds: of this run.
    """

    manifest: Path
    clips: int
    before: int = 0
    kept: int = 0
    gone: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)
    failed_on: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def table(self) -> str:
        """As text: counts, failures by kind, rate by machine."""
        done = self.nodes.total()
        rows = [("clips", f"{self.clips:,}", f"{self.before:,} of them done before" if self.before else "")]
        rows += [("with motion", f"{self.clips - self.failures.total():,}", "")]
        failed = [(kind, self.failures[kind]) for kind in FAILURES if self.failures[kind]]
        rows += [(f"failed: {kind}", f"{count:,}", ABOUT[kind]) for kind, count in failed]
        if self.kept:
            rows.append(("other inputs", f"{self.kept:,}", "of earlier runs into this folder, in the manifest, too"))
        if self.gone:
            rows.append(
                ("left out", f"{self.gone:,}", "of earlier runs' other inputs: gone, changed, or of another shard")
            )
        if done:
            rows.append(("clips per second", f"{done / self.seconds:.2f}", f"{self.seconds:.1f} s"))
        if len(self.nodes) > 1:
            rows += [(f"on {node}", f"{count:,}", self._on(node)) for node, count in self.nodes.most_common()]
        return text_table([*rows, ("manifest", str(self.manifest))], "<><", measured=rows)

    def _on(self, node: str) -> str:
        failed = self.failed_on[node]
        return f"{self.nodes[node] / self.seconds:.2f} a second" + (f", {failed:,} failed" if failed else "")


ABOUT = {
    "access": "the file cannot be had; the next run tries again",
    "clip": "it cannot be decoded",
    "limit": "it is above a limit; the next run tries again",
    "motion": "the source has no motion for it",
    "output": "its motion cannot be written; the next run tries again",
    "crash": "it ended the process that decoded it",
}


def run(
    inputs: Inputs,
    settings: Settings,
    engine: Engine,
    workers: int,
    timeout: float,
    begin: Callable[[], object] | None = None,
) -> Summary:
    """Work on all clips that an earlier run has not finished, and write the manifest.

    It has the rows of other clips, too, that earlier runs had among their inputs, while their files are as they were.

    Stopped at any moment, however, it can be gone on with: the same call does what is left. The rows, and the motion,
    are those of a run that was not stopped, but for the seconds that each took.

    Args:
        inputs: which clips.
        settings: what their motion depends on. An output folder that is not of such a run must be empty.
        engine: where they are worked on.
        workers: how many at a time.
        timeout: seconds that one may take, `LONGEST` at most.
        begin: called before the first clip, where there is one left.

    Raises:
        ConfigError: on a mistake in the inputs or the timeout, or an output folder that was begun with other settings.
        OutputError: if the output folder holds something else, another run is in it, or it cannot be written to.
    """
    if not 0 < timeout <= LONGEST:
        raise ConfigError(f"--timeout {timeout:g}: must be above 0 and at most {LONGEST:,.0f} seconds")
    out = Path(settings.out)
    _check_out(out, settings)
    i, n = inputs.shard
    part = f"-{i:05d}-of-{n:05d}" if n > 1 else ""
    manifest = out / NAME.replace(".", f"{part}.")
    claim(out, [manifest])
    listing = inputs.listing()
    sources = listing.sources
    with open_journal(out / f"extract{part}.jsonl", settings.fingerprint()) as journal:
        todo = [source for source in sources if not _is_done(source, journal, out, timeout)]
        jobs = (
            Job(source, len(_crashes(source, journal, timeout)), journal.had_motion(source.path)) for source in todo
        )
        summary = Summary(manifest, len(sources), len(sources) - len(todo))
        if todo and begin is not None:
            begin()
        start, failures = time.monotonic(), Counter[str]()
        # what goes to a log is a line every ten seconds, or fewer
        pace = 0.1 if sys.stderr.isatty() else 10.0
        bar = tqdm(total=len(sources), initial=summary.before, unit="clip", smoothing=0.05, mininterval=pace)
        with bar, contextlib.closing(engine(jobs, settings, workers, timeout, journal.add_crash)) as rows:
            for done in rows:
                journal.add(done.row)
                summary.nodes[done.node] += 1
                if done.row.failure:
                    failures[done.row.failure] += 1
                    summary.failed_on[done.node] += 1
                bar.set_postfix({**failures, **_by_node(summary.nodes)}, refresh=False)
                bar.update()
        summary.seconds = time.monotonic() - start
        named = {source.path for source in sources}
        earlier = [path for path in journal if path not in named]
        others = [path for path in earlier if listing.leaves(journal[path])]
        summary.kept, summary.gone = len(others), len(earlier) - len(others)
        write_manifest(summary.manifest, _rows(sources, others, journal, summary.failures), settings.fingerprint())
    return summary


def _by_node(nodes: Counter[str]) -> dict[str, int | str]:
    """How many clips each machine has done; of more than four the quickest and the slowest."""
    if len(nodes) <= 4:
        return dict(nodes) if len(nodes) > 1 else {}
    (quick, most), *_, (slow, least) = nodes.most_common()
    return {"nodes": len(nodes), f"most {quick}": most, f"least {slow}": least}


def _check_out(out: Path, settings: Settings) -> None:
    """Refuse a folder that holds anything but what such a run writes."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is no folder: choose another --out")
    if settings.form == "cache" or not out.is_dir():
        return  # a training may have begun to fill it
    there = sorted(file for file in out.iterdir() if not file.name.startswith("."))
    if there and not any(settings_of(file) for file in out.glob("extract*.jsonl")):
        whose = "the motion of clips without a manifest" if (out / "extract.json").is_file() else there[0].name
        raise OutputError(f"{out} is not empty, it holds {whose}: remove it, or choose another --out")


def _is_done(source: ClipSource, journal: Journal, out: Path, timeout: float) -> bool:
    """Whether there is nothing left to do for a clip: it has not changed since, and its motion is there."""
    if source.path not in journal:
        return False
    row = journal[source.path]
    if row.failure in PASSING:
        return False
    try:
        if contradicts(row, source.state()):
            return False
        if row.failure == "crash":
            counted = len(_crashes(source, journal, timeout))
            return counted >= TRIES or counted == len(_crashes(source, journal, 0))
        return row.motion is None or os.stat(out / row.motion).st_size == row.motion_bytes
    except OSError:
        return False


def _crashes(source: ClipSource, journal: Journal, timeout: float) -> list[Crash]:
    """How a clip, as it is now, has ended its decoder before, where it would with so many seconds again."""
    crashes = journal.crashes(source.path, timeout)
    if not crashes:
        return []
    try:
        state = source.state()
    except OSError:
        return []
    return [one for one in crashes if not contradicts(ClipRow(one.path, bytes=one.bytes, changed=one.changed), state)]


def _rows(
    sources: Sequence[ClipSource], others: Sequence[str], journal: Journal, failures: Counter[str]
) -> Iterator[ClipRow]:
    for source in sources:
        row = journal[source.path]
        if row.failure:
            failures[row.failure] += 1
        yield row
    yield from map(journal.__getitem__, others)
