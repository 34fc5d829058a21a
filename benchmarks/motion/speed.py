"""What does motion cost? The whole loader beside nothing but decoding the same file, in the same run.

    make clips ARGS=--all
    python benchmarks/motion/speed.py [--peer FOLDER]

`decode` decodes every frame of a file in one thread through PyAV and does nothing with it. The loader reads a clip as
training does (2 frames per second, resized by LLaMA-Factory's function) and makes its motion; `frames` is the loader
without motion, `llamafactory` LLaMA-Factory's own reader, without motion. Everything takes turns for some rounds; a
ratio is that of decode's time to the other's in the same round, so above 1 is faster than decoding everything. Wall
time counts the second threads (that resizes, that follows vectors) as free; processor time does not.

`--peer` names a folder with motion-vector-extractor (`pip install --no-deps --target FOLDER
motion-vector-extractor==2.0.0`), which decodes the file and hands out its raw vectors, neither followed nor resized.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from loading import Loader, real_clips, write_results
from tqdm import tqdm

from motiontune.errors import MotionUnavailable
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, needs_vectors
from motiontune.video.container import probe


RESULTS = Path(__file__).parent / "results" / "speed.json"
SOURCES: tuple[tuple[str, str], ...] = (
    ("codec", "balanced"),
    ("codec+flow", "fast"),
    ("codec+flow", "balanced"),
    ("codec+flow", "best"),
    ("blockmatch", "balanced"),
    ("blockmatch+flow", "fast"),
    ("blockmatch+flow", "balanced"),
    ("flow", "balanced"),
    ("auto", "fast"),
    ("auto", "balanced"),
)
PEER = """
import json, sys, time
from mvextractor.videocap import VideoCap
def run():
    video, frames = VideoCap(), 0
    if not video.open(sys.argv[1]):
        raise SystemExit("cannot open")
    while video.read()[0]:
        frames += 1
    video.release()
    return frames
run()
wall, processor = time.perf_counter(), time.process_time()
frames = run()
print(json.dumps([time.perf_counter() - wall, time.process_time() - processor, frames]))
"""


def decode(path: Path) -> int:
    """Decode every frame in one thread; return how many there are."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def peer(path: Path, folder: Path) -> tuple[float, float]:
    """The same of motion-vector-extractor, in a process of its own: it brings its own FFmpeg."""
    command = [sys.executable, "-c", PEER, str(path)]
    done = subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True)
    wall, processor, frames = json.loads(done.stdout)
    if frames < 0.98 * probe(str(path)).frames:
        raise RuntimeError(f"motion-vector-extractor read {frames} frames of {path}")
    return float(wall), float(processor)


def jobs_of(path: Path, loader: Loader, peer_folder: Path | None) -> dict[str, Callable[[], tuple[float, float]]]:
    """What is to be timed on a clip, by name."""

    def load(source: str, quality: str) -> None:
        clip = loader.read(path, with_vectors=needs_vectors(source))
        motion_of(clip, loader.grid_of(clip), MotionOptions(source=source, quality=quality))  # type: ignore[arg-type]

    jobs: dict[str, Callable[[], tuple[float, float]]] = {
        "decode": lambda: timed(lambda: decode(path)),
        "llamafactory": lambda: timed(lambda: loader.read_as_llamafactory(path)),
        "frames": lambda: timed(lambda: loader.read(path)),
    }
    for source, quality in SOURCES:
        name = source if "flow" not in source and source != "auto" else f"{source} {quality}"
        jobs[name] = lambda source=source, quality=quality: timed(lambda: load(source, quality))  # type: ignore[misc]
    if peer_folder is not None and probe(str(path)).codec in ("h264", "mpeg4"):
        jobs["motion-vector-extractor"] = lambda: peer(path, peer_folder)
    return jobs


def measure(path: Path, loader: Loader, rounds: int, peer_folder: Path | None) -> list[dict[str, Any]]:
    """Time everything on one clip, in turns: a row each."""
    info = probe(str(path))
    about = {
        "clip": path.name,
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "frames": info.frames,
        "b_frames": has_b_frames(path),
    }
    jobs, rows = jobs_of(path, loader, peer_folder), []
    reasons: dict[str, str] = {}
    for name, job in jobs.items():  # the first call compiles and fills caches
        try:
            job()
        except MotionUnavailable as error:
            reasons[name] = str(error).removeprefix(f"{path}: ")
    times = {name: [] for name in jobs if name not in reasons}  # type: dict[str, list[tuple[float, float]]]
    for _ in range(rounds):
        for name, taken in times.items():
            taken.append(jobs[name]())
    base = np.array(times["decode"])
    for name in jobs:
        if name in reasons:
            rows.append({**about, "job": name, "reason": reasons[name]})
            continue
        taken = np.array(times[name])
        ratio = base / taken
        rows.append(
            {
                **about,
                "job": name,
                "ms": round(1000 * float(np.median(taken[:, 0])), 1),
                "cpu_ms": round(1000 * float(np.median(taken[:, 1])), 1),
                "ratio": round(float(np.median(ratio[:, 0])), 3),
                "ratio_low": round(float(np.percentile(ratio[:, 0], 25)), 3),
                "ratio_high": round(float(np.percentile(ratio[:, 0], 75)), 3),
                "cpu_ratio": round(float(np.median(ratio[:, 1])), 3),
            }
        )
    return rows


def has_b_frames(path: Path) -> bool:
    """Whether one of the first pictures is a B picture."""
    with av.open(str(path)) as container:
        frames = (frame for _, frame in zip(range(30), container.decode(video=0), strict=False))
        return any(frame.pict_type == av.video.frame.PictureType.B for frame in frames)


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means of the ratios over the clips, and over some kinds of clips."""
    kinds: dict[str, Callable[[dict[str, Any]], bool]] = {
        "all": lambda row: True,
        "h264": lambda row: row["codec"] == "h264",
        "h264 from 450 lines": lambda row: row["codec"] == "h264" and row["height"] >= 450,
        "1080p with B": lambda row: row["height"] >= 1080 and row["b_frames"],
    }
    table = []
    for kind, chosen in kinds.items():
        for job in dict.fromkeys(row["job"] for row in rows):
            found = [row for row in rows if row["job"] == job and "ratio" in row and chosen(row)]
            if not found:
                continue
            mean, least = ({} for _ in range(2))  # type: dict[str, float], dict[str, float]
            for key in ("ratio", "cpu_ratio"):
                ratios = [row[key] for row in found]
                mean[key] = round(float(np.exp(np.mean(np.log(ratios)))), 3)
                least[f"least_{key}"] = min(ratios)
            table.append({"kind": kind, "job": job, "clips": len(found), **mean, **least})
    return table


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", type=Path, help="folder with motion-vector-extractor")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    loader = Loader()
    rows = []
    for path in tqdm(real_clips(args.clips), unit="clip"):
        rows += measure(path, loader, args.rounds, args.peer)
    table = summaries(rows)
    write_results(args.out, {"rounds": args.rounds}, {"summaries": table, "rows": rows})
    for row in table:
        print(row)


if __name__ == "__main__":
    main()
