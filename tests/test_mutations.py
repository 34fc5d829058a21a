"""Ten thousand damaged files: each ends in one line of an error, or in vectors that are as true as undamaged ones."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mutations
from mutations import CLIPS, Outcome, original


ERRORS = {"ClipError", "MotionUnavailable"}


def work(folder: Path, seeds: list[int]) -> tuple[list[Outcome], list[str]]:
    """Damage and read files in other processes; return what became of them, and of those that ended a process."""
    outcomes, crashes = [], []
    while seeds:
        command = [sys.executable, mutations.__file__, str(folder), *map(str, seeds[:500])]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        outcomes += [Outcome(**json.loads(line)) for line in lines]
        if done.returncode:
            seed, kind = seeds[len(lines)], "".join(CLIPS[seeds[len(lines)] % len(CLIPS)])
            crashes.append(f"seed {seed} ({kind}) ended its process ({done.returncode}): {done.stderr[-1500:]}")
        seeds = seeds[len(lines) + bool(done.returncode) :]
    return outcomes, crashes


def share(outcomes: list[Outcome], part: str, whole: str) -> float:
    return sum(getattr(o, part) for o in outcomes) / max(sum(getattr(o, whole) for o in outcomes), 1)


def table(outcomes: list[Outcome]) -> str:
    lines = []
    for name in [*("".join(clip) for clip in CLIPS), "codec", "auto", ""]:
        some = [o for o in outcomes if name in (o.clip, o.source, "")]
        shares = [f"{100 * share(some, 'far_intact', 'intact'):6.2f}"]
        shares += [f"{100 * share(some, part, 'valid'):6.2f}" for part in ("far", "wrong")]
        numbers = [len(some), sum(not o.error for o in some), sum(o.valid for o in some)]
        lines.append(f"{name or 'all':20}" + "".join(f"{number:9}" for number in numbers) + "  ".join(["", *shares]))
    head = "clip                    files   fields    valid  % off where intact, of all, and worse than the truth"
    return "\n".join([head, *lines])


def run(folder: Path, files: int, processes: int = 2) -> tuple[list[Outcome], list[str]]:
    for clip in CLIPS:
        original(folder, *clip)  # before the processes do so at once
    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(lambda first: work(folder, list(range(files))[first::processes]), range(processes)))
    return [o for outcomes, _ in parts for o in outcomes], [crash for _, crashes in parts for crash in crashes]
