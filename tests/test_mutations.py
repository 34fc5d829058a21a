"""Damaged files by the thousand: each ends in one line of an error, or in vectors about as true as undamaged ones.

"Far off" is by more than 3 pixels, without the patches at the border; docs/motion.md has what the 10,010 files gave.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mutations
from motiontune.compiled import compile_all
from mutations import CLIPS, WITHOUT_VECTORS, Outcome, original, read


# Files that one process reads; then its memory is given back
BATCH = 500


def work(folder: Path, seeds: list[int]) -> tuple[list[Outcome], list[str]]:
    """Damage and read files in another process; say what became of each, and which ones ended the process."""
    outcomes, crashes = [], []
    while seeds:
        command = [sys.executable, mutations.__file__, str(folder), *map(str, seeds[:BATCH])]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        outcomes += [Outcome(**json.loads(line)) for line in lines]
        if done.returncode:
            clip = "".join(CLIPS[seeds[len(lines)] % len(CLIPS)])
            crashes.append(f"seed {seeds[len(lines)]} ({clip}): exit code {done.returncode}\n{done.stderr[-2000:]}")
        seeds = seeds[len(lines) + bool(done.returncode) :]
    return outcomes, crashes


def damage(folder: Path, files: int, processes: int) -> list[Outcome]:
    """What became of so many files, none of which ends a process or takes too long."""
    for clip in CLIPS:
        original(folder, *clip)  # before several processes make them at once
    compile_all()  # which takes longer than a file may where it has to be done
    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(lambda first: work(folder, list(range(files))[first::processes]), range(processes)))
    crashes = [crash for _, some in parts for crash in some]
    assert not crashes, "\n".join(crashes)
    return [outcome for outcomes, _ in parts for outcome in outcomes]


def percent(outcomes: list[Outcome], part: str, whole: str) -> float:
    return 100 * sum(getattr(o, part) for o in outcomes) / max(sum(getattr(o, whole) for o in outcomes), 1)


def table(outcomes: list[Outcome]) -> str:
    lines = [
        f"{'':20}{'files':>8}{'fields':>8}{'vectors':>9}{'% far off: intact':>19}{'all':>7}{'explains worse':>16}"
    ]
    for name in [*("".join(clip) for clip in CLIPS), *mutations.KINDS, "codec", "auto", "all"]:
        some = [o for o in outcomes if name in (o.clip, o.kind, o.source, "all")]
        counts = f"{len(some):8}{sum(not o.error for o in some):8}{sum(o.valid for o in some):9}"
        shares = [
            percent(some, "far_intact", "intact"),
            percent(some, "far", "valid"),
            percent(some, "wrong", "valid"),
        ]
        lines.append(f"{name:20}{counts}" + "".join(f"{s:{w}.2f}" for s, w in zip(shares, (19, 7, 16), strict=True)))
    return "\n".join(lines)


def judge(outcomes: list[Outcome], most: float) -> None:
    """Compare with bounds in per cent; `most` is that of vectors that the bitstream gave."""
    report = table(outcomes)
    print(report)
    assert {o.error for o in outcomes} == {"", "ClipError", "MotionUnavailable"}
    assert sum(o.intact for o in outcomes) > 50 * len(outcomes), report
    for source, bound in (("codec", most), ("auto", most / 4)):
        some = [o for o in outcomes if o.source == source]
        assert percent(some, "far_intact", "intact") <= bound, report
        assert percent(some, "wrong", "valid") <= bound, report


def test_a_hundred_damaged_files(tmp_path: Path) -> None:
    judge(damage(tmp_path, 110, 1), 4.0)


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    outcomes = damage(tmp_path, 10_010, 2)
    judge(outcomes, 1.0)
    for clip in CLIPS:
        if clip[0] not in WITHOUT_VECTORS:
            whole = original(tmp_path, *clip)
            undamaged = [read(whole, whole.path, "codec", seed) for seed in range(6)]
            some = [o for o in outcomes if o.clip == "".join(clip) and o.source == "codec"]
            assert percent(some, "far_intact", "intact") <= percent(undamaged, "far", "valid") + 0.5, clip
