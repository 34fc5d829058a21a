"""Do memory, open files and threads stay flat? 20,000 clips through `extract`, or 10,000 steps of training.

    python benchmarks/many_clips/soak.py extract --count 20000 --workers 1
    python benchmarks/many_clips/soak.py train --count 10000

The clips are small (64 x 48 pixels, 8 frames, several codecs): it is the number that counts. One in 50 is cut, and one
in 50 vanishes before its turn comes. Training is that of a tiny model on the CPU, a sample a step, each clip decoded
and its motion made anew. It ends with exit code 1 where something grew.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil


sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from make_clips import encode, pan
from motiontune.extraction.clip import Settings
from motiontune.extraction.engines import Done, Job, on_this_machine
from motiontune.extraction.inputs import Inputs
from motiontune.extraction.journal import Crash
from motiontune.extraction.run import run
from motiontune.video.reader import FrameReader


RESULTS = Path(__file__).parent / "results"
RECORDS = 200
SIZE, FRAMES, RATE = (64, 48), 8, 8
ODD = 50
CODECS = (("h264", "mp4"), ("h264_1b", "mkv"), ("mpeg4_b", "avi"), ("mpeg2", "mpg"), ("vp9", "webm"), ("hevc", "mp4"))
# What may grow from the second quarter to the last one, and by the slope of a line from there on
ALLOWED = {"mb": 200.0, "files": 2.0, "threads": 2.0}


def state(process: psutil.Process) -> dict[str, float]:
    """What a process holds: resident memory in MB, open files, threads."""
    with process.oneshot():
        mb = process.memory_info().rss / 2**20
        return {"mb": round(mb, 1), "files": process.num_fds(), "threads": process.num_threads()}


def recorder(records: list[dict[str, Any]]) -> Callable[[int], None]:
    """A function that adds what this process and those below it hold, after so many clips or steps."""
    this, begin = psutil.Process(), time.monotonic()

    def record(done: int) -> None:
        parts = {"driver": state(this)}
        parts |= {f"worker {number}": state(worker) for number, worker in enumerate(this.children(recursive=True))}
        records.append({"done": done, "seconds": round(time.monotonic() - begin, 1), **parts})

    return record


def write_clips(folder: Path, count: int) -> list[Path]:
    """Links to some clips of which one is cut, so many of them."""
    originals = folder / "originals"
    originals.mkdir()
    whole = [
        encode(originals / f"{name}.{suffix}", name, pan(FRAMES, 2 + number, 1, SIZE, number), RATE, threads=1)
        for number, (name, suffix) in enumerate(CODECS)
    ]
    cut = originals / f"cut{whole[0].suffix}"
    cut.write_bytes(whole[0].read_bytes()[: whole[0].stat().st_size // 2])
    links = folder / "clips"
    links.mkdir()
    paths = []
    for number in range(count):
        original = cut if number % ODD == 7 else whole[number % len(whole)]
        paths.append(links / f"{number}{original.suffix}")
        os.symlink(original, paths[-1])
    return paths


def extract(count: int, workers: int) -> dict[str, Any]:
    """Extract so many clips; what is held, after each part of them."""
    records: list[dict[str, Any]] = []
    every, record = max(count // RECORDS, 1), recorder(records)

    def engine(
        jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[Crash], None]
    ) -> Generator[Done]:
        done = on_this_machine(jobs, settings, workers, timeout, note_crash)
        for number, one in enumerate(done, 1):
            yield one
            if number % every == 0:
                record(number)
                # some clips vanish while others are worked on
                for gone in range(number + every, min(number + 2 * every, count)):
                    if gone % ODD == 3:
                        paths[gone].unlink()

    with tempfile.TemporaryDirectory() as name:
        paths = write_clips(Path(name), count)
        (Path(name) / "list.txt").write_text("".join(f"{path}\n" for path in paths))
        settings = Settings(f"{name}/out", frames=FrameReader(fps=RATE))
        summary = run(Inputs((f"{name}/list.txt",)), settings, engine, workers, 60.0)
        found = {"with motion": summary.clips - summary.failures.total(), "failures": dict(summary.failures)}
    return {"clips": count, "workers": workers, **found, "records": records}


def train(count: int) -> dict[str, Any]:
    """Train so many steps; what is held, after each part of them."""
    from transformers import TrainerCallback

    from training import BOTH, keys_for, start

    run_exp = start()  # before the clock runs
    records: list[dict[str, Any]] = []
    every, record = max(count // RECORDS, 1), recorder(records)

    class Recorder(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step % every == 0:
                record(state.global_step)

    keys = keys_for(max_steps=count, per_device_train_batch_size=1, logging_steps=every, **BOTH)
    run_exp(keys, [Recorder()])
    return {"steps": count, "records": records}


def growth(values: list[float], done: list[int]) -> dict[str, float]:
    """By how much something grew: from the mean of the second quarter to that of the last, and by a line from the
    second quarter's beginning to the end."""
    series, quarter = np.array(values), len(values) // 4
    slope = np.polyfit(done[quarter:], series[quarter:], 1)[0]
    return {
        "second_quarter": round(float(series[quarter : 2 * quarter].mean()), 1),
        "last_quarter": round(float(series[-quarter:].mean()), 1),
        "by_line": round(float(slope * (done[-1] - done[quarter])), 1),
        "highest": float(series.max()),
    }


def judged(records: list[dict[str, Any]]) -> tuple[dict[str, dict[str, dict[str, float]]], list[str]]:
    """How much each thing of each process grew, and which grew too much."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    grown = []
    # before the last clip is done, workers begin to end
    records = records[:-1]
    for part in (name for name in records[0] if name not in ("done", "seconds")):
        there = [row for row in records if part in row]
        found[part] = {
            kind: growth([row[part][kind] for row in there], [row["done"] for row in there]) for kind in ALLOWED
        }
        for kind, most in ALLOWED.items():
            one = found[part][kind]
            if max(one["last_quarter"] - one["second_quarter"], one["by_line"]) > most:
                grown.append(f"{kind} of {part}")
    return found, grown


def main() -> None:
    """Measure, write the results, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("extract", "train"))
    parser.add_argument("--count", type=int, help="clips (default: 20000) or steps (default: 10000)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "extract":
        results = extract(arguments.count or 20_000, arguments.workers)
    else:
        results = train(arguments.count or 10_000)
    found, grown = judged(results["records"])
    results = {**results, "growth": found, "grown": grown, "records": results.pop("records")}
    out = arguments.out or RESULTS / f"soak_{arguments.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in results.pop("records"))
    out.write_text(json.dumps(results, indent=1)[:-2] + f',\n "records": [\n{lines}\n ]\n}}\n')
    print(json.dumps(results, indent=1))
    raise SystemExit(f"grown: {', '.join(grown)}" if grown else 0)


if __name__ == "__main__":
    main()
