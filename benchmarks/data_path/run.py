"""How many clips per second reach the model? Our reader, with motion, and from caches, against LLaMA-Factory's own.

    make clips ARGS=--all
    python benchmarks/data_path/run.py

Everything reads the same real clips with LLaMA-Factory's defaults (2 frames per second, at most 65,536 pixels each) in
turns, for some rounds; a ratio is that of LLaMA-Factory's time to ours in the same round, so above 1 is faster than
LLaMA-Factory. That the frames are equal, pixel by pixel, is checked. `cached` has the motion and the frames in files
(the second epoch), `motion cached` the motion only.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm


sys.path.insert(0, str(Path(__file__).parents[1] / "motion"))

from loading import Loader, real_clips, write_results

from motiontune.cache import FrameCache, MotionCache
from motiontune.errors import MotionUnavailable
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, needs_vectors
from motiontune.video.container import probe


RESULTS = Path(__file__).parent / "results" / "cpu.json"
SOURCES = ("codec", "codec+flow", "blockmatch", "blockmatch+flow", "flow", "auto")


def jobs_of(path: Path, loader: Loader, folder: str) -> dict[str, Callable[[], Any]]:
    """What is to be timed on a clip, by name."""
    plugin, processor = loader.plugin, loader.processor
    motion_cache, frame_cache = MotionCache(f"{folder}/motion"), FrameCache(f"{folder}/frames")

    def load(source: str) -> None:
        clip = loader.read(path, with_vectors=needs_vectors(source))
        motion_of(clip, loader.grid_of(clip), MotionOptions(source))

    def cached(with_frames: bool) -> None:
        """As the collator does."""
        options = MotionOptions("auto")
        key = plugin.motion_key(str(path), processor, options)
        field = motion_cache.load(key)
        plugin.frame_cache = frame_cache if with_frames else None
        clip = loader.read(path, with_vectors=field is None)
        plugin.frame_cache = None
        if field is None:
            motion_cache.save(key, motion_of(clip, loader.grid_of(clip), options))

    return {
        "llamafactory": lambda: loader.read_as_llamafactory(path),
        "frames": lambda: loader.read(path),
        **{source: lambda source=source: load(source) for source in SOURCES},
        "motion cached": lambda: cached(False),
        "cached": lambda: cached(True),
    }


def check_pixels(path: Path, loader: Loader) -> None:
    """Refuse to go on where our frames are not LLaMA-Factory's."""
    theirs, ours = loader.read_as_llamafactory(path), loader.read(path).frames
    for number, frame in enumerate(ours):
        if not np.array_equal(frame, np.asarray(theirs[number])):
            raise SystemExit(f"{path}: frame {number} differs from LLaMA-Factory's")


def measure(path: Path, loader: Loader, rounds: int) -> list[dict[str, Any]]:
    """Time everything on one clip, in turns: a row each."""
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = jobs_of(path, loader, folder)
        for number in range(rounds + 1):
            for name, job in jobs.items():
                wall, processor = time.perf_counter(), time.process_time()
                try:
                    job()
                except MotionUnavailable:
                    continue
                if number:  # the first round compiles, and fills the caches
                    times.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - processor))
    base, rows = np.array(times["llamafactory"]), []
    for name, taken in times.items():
        ratio = base / np.array(taken)
        row: dict[str, Any] = {"clip": path.name, "job": name}
        row["ms"] = round(1000 * float(np.median(np.array(taken)[:, 0])), 1)
        for column, key in enumerate(("ratio", "cpu_ratio")):
            low, middle, high = np.percentile(ratio[:, column], (25, 50, 75))
            row |= {
                key: round(float(middle), 3),
                f"{key}_low": round(float(low), 3),
                f"{key}_high": round(float(high), 3),
            }
        rows.append(row)
    return rows


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means over the clips."""
    table = []
    for job in dict.fromkeys(row["job"] for row in rows):
        found = [row for row in rows if row["job"] == job]
        means = {
            f"{key}_to_llamafactory": round(float(np.exp(np.mean([np.log(row[key]) for row in found]))), 3)
            for key in ("ratio", "cpu_ratio")
        }
        table.append({"job": job, "clips": len(found), **means, "least_ratio": min(row["ratio"] for row in found)})
    return table


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    loader, rows, refused = Loader(), [], []
    for path in tqdm(real_clips(args.clips), unit="clip"):
        try:
            loader.read_as_llamafactory(path)
        except Exception as error:  # the benchmark reports what LLaMA-Factory cannot read
            refused.append({"clip": path.name, "reason": f"LLaMA-Factory: {type(error).__name__}: {error}"})
            continue
        if probe(str(path)).counted:  # LLaMA-Factory takes other frames of a file whose header does not count them
            refused.append({"clip": path.name, "reason": "no frame count: LLaMA-Factory samples it otherwise"})
            continue
        check_pixels(path, loader)
        rows += measure(path, loader, args.rounds)
    table = summaries(rows)
    write_results(args.out, {"rounds": args.rounds}, {"summaries": table, "rows": rows, "refused": refused})
    for row in table:
        print(row)


if __name__ == "__main__":
    main()
