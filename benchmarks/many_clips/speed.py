"""Clips per second of `motiontune extract --workers N` over clips like those of Something-Something V2.

    python benchmarks/many_clips/speed.py CLIP ... --copies 60

The given videos are coded as VP9 in WebM, 240 pixels high, 12 frames per second, 45 frames, and copied. Each number of
workers starts from nothing. CPU seconds are those of the workers, by clip: where the machine does other work, too,
they mean more than the clips per second.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import av

from make_clips import encode
from motiontune.extraction.clip import Settings
from motiontune.extraction.engines import on_this_machine
from motiontune.extraction.inputs import Inputs
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


def measure(clips: Path, out: Path, workers: int, fps: float) -> dict[str, float]:
    """Extract all of a folder: clips per second after the workers' start, and CPU seconds of each clip."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    settings = Settings(str(out), frames=FrameReader(fps=fps))
    summary = run(Inputs((str(clips),)), settings, on_this_machine, workers, 600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert not summary.failures
    return {
        "clips_per_second": round(summary.clips / (time.monotonic() - begin), 2),
        "cpu_seconds_per_clip": round(cpu / summary.clips, 4),
        "peak_mb_worker": round(after.ru_maxrss / 1024),
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="+", type=Path)
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results: dict[str, object] = {"cores": os.cpu_count(), "machine": platform.machine(), "fps": arguments.fps}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        sources = [coded(clip, folder) for clip in arguments.clip]
        for number in range(arguments.copies):
            shutil.copy(sources[number % len(sources)], folder / "clips" / f"{number}.webm")
        results["clips"], results["load_before"] = arguments.copies, round(os.getloadavg()[0], 1)
        measure(folder / "clips", folder / "warm", 1, arguments.fps)  # compiled code is loaded, files are in memory
        for workers in (1, 2):
            results[f"{workers} workers"] = measure(folder / "clips", folder / f"{workers}", workers, arguments.fps)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
