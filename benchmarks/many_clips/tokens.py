"""How long until the first training step over a data set of many samples, with and without a manifest.

    python benchmarks/many_clips/tokens.py --samples 220847 --workers 2

Samples are links, a file name each, to some VP9 clips in WebM, as Something-Something V2 has them: their header has no
number of frames, so that opening one reads all of it. The manifest has a row for each link, as `motiontune extract
--dataset` writes it. A tiny model trains one step.
"""

import argparse
import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from make_clips import recoded
from motiontune.datasets.dataset_info import make_sample, write_dataset
from motiontune.extraction.clip import Extractor, Settings
from motiontune.extraction.inputs import ClipSource
from motiontune.manifest import write_manifest
from motiontune.video.reader import FrameReader
from training import keys_for, start, tiny


RESULTS = Path(__file__).parent / "results" / "tokens.json"


def prepare(folder: Path, sources: list[Path], samples: int) -> None:
    """Write links, the data set and the manifest."""
    links = folder / "clips"
    links.mkdir()
    extractor = Extractor(Settings(str(folder / "out"), "none", frames=FrameReader(fps=2.0)))
    rows = [extractor.row(ClipSource(str(source), source.name)) for source in sources]
    paths = []
    for number in range(samples):
        path = links / f"{number}.webm"
        os.symlink(sources[number % len(sources)], path)
        paths.append(str(path))
    labels = ("pushing something from left to right", "spinning something that quickly stops spinning")
    write_dataset(folder, "many", [make_sample(path, "What happens?", labels[n % 2]) for n, path in enumerate(paths)])
    found = (dataclasses.replace(rows[n % len(rows)], path=path) for n, path in enumerate(paths))
    write_manifest(folder / "manifest.parquet", found, {})


def first_step(folder: Path, workers: int, **keys: object) -> dict[str, float]:
    """Train a step, LLaMA-Factory being imported already: seconds, CPU seconds of all processes, peak memory."""
    run_exp = start()
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    begin, before = time.monotonic(), [resource.getrusage(who) for who in whose]
    data = {"dataset_dir": str(folder), "dataset": "many", "preprocessing_num_workers": workers}
    run_exp(keys_for(max_steps=1, video_fps=2.0, use_motionvector_crossentropy_loss=True, **data, **keys), None)
    after = [resource.getrusage(who) for who in whose]
    cpu = sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, before, strict=True))
    return {
        "seconds": round(time.monotonic() - begin, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(after[0].ru_maxrss / 1024),
        "peak_mb_worker": round(after[1].ru_maxrss / 1024),
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="+", type=Path, help="videos that are coded again as VP9")
    parser.add_argument("--samples", type=int, default=220_847)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--without", action="store_true", help="also without a manifest")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    tiny("qwen2_vl")
    results: dict[str, object] = {"samples": arguments.samples, "workers": arguments.workers, "cores": os.cpu_count()}
    results["load_before"] = round(os.getloadavg()[0], 1)
    sources = [recoded(clip.resolve(), "vp9", ".webm", count=45, width=320) for clip in arguments.clip]
    results["clips"] = len(sources)
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), sources, arguments.samples)
        results["with a manifest"] = first_step(Path(name), arguments.workers, motion_manifest=name)
        if arguments.without:
            results["without"] = first_step(Path(name), arguments.workers)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
