"""Does memory stay flat? 2,000 samples through the reader and the motion, in one process, with its resident memory.

    make clips
    python benchmarks/memory_over_time/run.py

LLaMA-Factory's own reader takes as many turns afterwards, in a process of its own (it never closes its containers).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm


sys.path.insert(0, str(Path(__file__).parents[1] / "motion"))

from loading import Loader, real_clips, write_results

from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of


RESULTS = Path(__file__).parent / "results" / "cpu.json"
EVERY = 50
CLIPS = ("b.avi", "b.mp4", "carphone_pristine.mp4", "bikes.mp4")  # small ones: the number of samples counts


def resident_mb() -> float:
    """This process's resident memory, from Linux."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this needs Linux's /proc")


def run(reader: str, samples: int) -> list[float]:
    """Read so many samples; the resident memory in MB after every `EVERY` of them."""
    loader, memory = Loader(), []
    paths = [path for path in real_clips([]) if path.name in CLIPS]
    with tqdm(total=samples, unit="clip", desc=reader) as bar:
        for number in range(samples):
            path = paths[number % len(paths)]
            if reader == "motiontune":
                clip = loader.read(path, with_vectors=True)
                motion_of(clip, loader.grid_of(clip), MotionOptions("auto"))
            else:
                loader.read_as_llamafactory(path)
            bar.update()
            if (number + 1) % EVERY == 0:
                memory.append(round(resident_mb(), 1))
    return memory


def summary(reader: str, memory: list[float], seconds: float) -> dict[str, Any]:
    """How memory grew after the first quarter, when all is warm: the slope of a line through it."""
    kept = np.array(memory[len(memory) // 4 :])
    slope = float(np.polyfit(np.arange(len(kept)) * EVERY, kept, 1)[0])
    return {
        "reader": reader,
        "samples": len(memory) * EVERY,
        "first_mb": memory[0],
        "last_mb": memory[-1],
        "highest_mb": max(memory),
        "mb_per_1000_samples": round(1000 * slope, 3),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--reader", choices=("motiontune", "llamafactory"), help="one reader, in this process")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.reader:
        print(json.dumps(run(args.reader, args.samples)))
        return
    table, rows = [], []
    for reader in ("motiontune", "llamafactory"):
        started = time.perf_counter()
        command = [sys.executable, __file__, "--reader", reader, "--samples", str(args.samples)]
        memory = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        table.append(summary(reader, memory, time.perf_counter() - started))
        rows.append({"reader": reader, "every": EVERY, "resident_mb": memory})
    write_results(args.out, {"samples": args.samples}, {"summaries": table, "rows": rows})
    for row in table:
        print(row)


if __name__ == "__main__":
    main()
