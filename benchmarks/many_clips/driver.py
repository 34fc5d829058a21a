"""What the driver of `motiontune extract` costs by itself: an engine that has every row ready at once.

    python benchmarks/many_clips/driver.py --clips 220847

Listing, journal and manifest of so many clips; then the same again, where all is done already.
"""

import argparse
import dataclasses
import json
import resource
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from motiontune.extraction.clip import Settings
from motiontune.extraction.engines import Done, Job
from motiontune.extraction.inputs import Inputs
from motiontune.extraction.journal import Crash
from motiontune.extraction.run import run
from motiontune.manifest import ClipRow


RESULTS = Path(__file__).parent / "results" / "driver.json"
_HEADER = {"codec": "vp9", "width": 427, "height": 240, "stream_frames": 45, "duration": 3.75, "fps": 12.0}
_MOTION = {"source": "blockmatch+flow", "frames": 7, "valid_share": 0.91, "mean_px": 3.1415, "median_px": 2.7182}
_SHARES = {"moving_share": 0.25, "camera_share": 0.1, "camera_px": 0.0123, "seconds": 0.1234}
ROW = ClipRow("", "0" * 32, 100_000, counted=True, **_HEADER, **_MOTION, **_SHARES)


def at_once(
    jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[Crash], None]
) -> Generator[Done]:
    """An engine that does nothing."""
    for job in jobs:
        yield Done(dataclasses.replace(ROW, path=job.source.path), "here")


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=220_847)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results: dict[str, object] = {"clips": arguments.clips}
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name, "clips.txt")
        listed.write_text("".join(f"/data/something-something/videos/{k}.webm\n" for k in range(arguments.clips)))
        for title in ("first", "again"):
            begin, cpu = time.monotonic(), time.process_time()
            run(Inputs((str(listed),)), Settings(f"{name}/out", "none"), at_once, 1, 60.0)
            results[title] = {
                "seconds": round(time.monotonic() - begin, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        sizes = {file.name: round(file.stat().st_size / 1e6, 1) for file in Path(name, "out").iterdir()}
        results["mb"] = {file: size for file, size in sizes.items() if not file.startswith(".")}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
