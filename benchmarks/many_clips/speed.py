"""Clips per second of `motiontune extract` over clips like those of Something-Something V2, by engine and workers.

    python benchmarks/many_clips/speed.py CLIP ... --copies 300 --rounds 5
    python benchmarks/many_clips/speed.py CLIP ... --engines local ray --workers 1 --out ...
    python benchmarks/many_clips/speed.py --copies 4000 --engines local ray --workers 1 --out ...

Without a clip, so many are named that are not there: what remains is what an engine costs by itself, for each clip.

The given videos are coded as VP9 in WebM, 240 pixels high, 12 frames per second, 45 frames, and copied. Engines and
numbers of workers take turns for some rounds, each starts from nothing.

The rate is that after the first quarter of the clips, when all workers run; what the first quarter took beyond that
rate is the start. Processor time is that of the driver and all processes below it. `others` is how many cores the rest
of the machine kept busy meanwhile: where that is not next to nothing, processor time means more than the clock.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import psutil


sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import av

from make_clips import encode
from motiontune.extraction.clip import Settings
from motiontune.extraction.engines import ENGINES, Done, Job
from motiontune.extraction.inputs import Inputs
from motiontune.extraction.journal import Crash
from motiontune.extraction.run import run
from motiontune.video.reader import FrameReader


RESULTS = Path(__file__).parent / "results" / "speed.json"
HEIGHT, RATE, FRAMES = 240, 12, 45


def coded(source: Path, folder: Path) -> Path:
    """A video's first frames as Something-Something V2 would have them."""
    images = []
    with av.open(str(source)) as container:
        for frame in container.decode(video=0):
            width = round(frame.width * HEIGHT / frame.height / 2) * 2
            images.append(frame.reformat(width, HEIGHT).to_ndarray(format="rgb24"))
            if len(images) == FRAMES:
                break
    return encode(folder / f"{source.stem}.webm", "vp9", images, RATE)


def now() -> tuple[float, float, float, float]:
    """Seconds: of the clock; of the processor in this process and those below it, in the machine, in this process."""
    this, machine, used = psutil.Process(), psutil.cpu_times(), 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
    return time.monotonic(), used, sum(machine) - machine.idle - machine.iowait, time.process_time()


def measure(clips: Path, count: int, engine: str, workers: int, fps: float) -> dict[str, Any]:
    """Extract all of a folder or list, so many clips."""
    moments, out = [now()], clips.parent / "out"

    def timed(
        jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[Crash], None]
    ) -> Generator[Done]:
        for number, done in enumerate(ENGINES[engine](jobs, settings, workers, timeout, note_crash), 1):
            yield done
            if number in (count // 4, count):
                moments.append(now())

    summary = run(Inputs((str(clips),)), Settings(str(out), frames=FrameReader(fps=fps)), timed, workers, 600)
    assert summary.failures.total() == (0 if clips.is_dir() else count)
    shutil.rmtree(out)
    if engine == "ray":
        import ray

        ray.shutdown()
    begin, quarter, end = moments
    seconds, used, busy, own = (after - before for before, after in zip(quarter, end, strict=True))
    share = (count // 4) / (count - count // 4)
    return {
        "engine": engine,
        "workers": workers,
        "clips_per_second": round((count - count // 4) / seconds, 2),
        "cpu_seconds_per_clip": round(used / (count - count // 4), 6),
        "driver_cpu_seconds_per_clip": round(own / (count - count // 4), 6),
        "start_seconds": round(quarter[0] - begin[0] - share * seconds, 2),
        "start_cpu_seconds": round(quarter[1] - begin[1] - share * used, 2),
        "cores": round(used / seconds, 2),
        "others": round((busy - used) / seconds, 2),
    }


def summed_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median, least and most over the rounds, for each engine and number of workers, and beside the first of them."""
    kinds = list(dict.fromkeys((row["engine"], row["workers"]) for row in rows))
    groups = {kind: [row for row in rows if (row["engine"], row["workers"]) == kind] for kind in kinds}
    first = groups[kinds[0]]

    def spread(values: Iterable[float], digits: int) -> list[float]:
        ordered = sorted(values)
        return [round(value, digits) for value in (median(ordered), ordered[0], ordered[-1])]

    found = []
    for (engine, workers), group in groups.items():
        pairs = list(zip(group, first, strict=True))
        found.append(
            {
                "engine": engine,
                "workers": workers,
                "clips_per_second": spread((row["clips_per_second"] for row in group), 2),
                "cpu_seconds_per_clip": spread((row["cpu_seconds_per_clip"] for row in group), 6),
                "driver_cpu_seconds_per_clip": spread((row["driver_cpu_seconds_per_clip"] for row in group), 6),
                "clips_per_core_second": spread((1 / row["cpu_seconds_per_clip"] for row in group), 2),
                "start_seconds": spread((row["start_seconds"] for row in group), 2),
                "start_cpu_seconds": spread((row["start_cpu_seconds"] for row in group), 2),
                "rate_to_first": spread((a["clips_per_second"] / b["clips_per_second"] for a, b in pairs), 3),
                "others": spread((row["others"] for row in group), 2),
                "cpu_to_first": spread((a["cpu_seconds_per_clip"] / b["cpu_seconds_per_clip"] for a, b in pairs), 3),
            }
        )
    return found


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="*", type=Path)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=[*ENGINES], default=["local"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = folder / "clips"
        if arguments.clip:
            clips.mkdir()
            sources = [coded(clip, folder) for clip in arguments.clip]
            for number in range(arguments.copies):
                shutil.copy(sources[number % len(sources)], clips / f"{number}.webm")
        else:
            clips = folder / "missing.txt"
            clips.write_text("".join(f"{number}.webm\n" for number in range(arguments.copies)))
        kinds = [(engine, workers) for workers in arguments.workers for engine in arguments.engines]
        measure(clips, arguments.copies, *kinds[0], arguments.fps)  # what is compiled is kept from here on
        for turn in range(arguments.rounds):
            for kind in kinds if turn % 2 == 0 else kinds[::-1]:
                rows.append(measure(clips, arguments.copies, *kind, arguments.fps))
                print(json.dumps(rows[-1]), flush=True)
    top = {"cores": os.cpu_count(), "machine": platform.machine(), "fps": arguments.fps, "clips": arguments.copies}
    tables = {"summaries": summed_up(rows), "rows": rows}
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in top.items()]
    for key, table in tables.items():
        parts.append(f' "{key}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in table) + "\n ]")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(json.dumps(tables["summaries"], indent=1))


if __name__ == "__main__":
    main()
