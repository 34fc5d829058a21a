"""What share of training is spent waiting for data? Whole runs on real clips, by reader and number of workers.

    make clips ARGS=--all
    python benchmarks/data_path/waiting.py

Every run trains the model of `train_step` (101M weights, LoRA) on the same clips twice, in a process of its own, and
counts in the second half, when caches are filled: how long the loop waits from one step's end to the next one's begin,
and how long the steps take. The steps of a larger model take longer, those on a GPU are shorter: compare the
milliseconds that are waited for with those of your own step.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


sys.path.insert(0, str(Path(__file__).parents[1] / "motion"))
sys.path.insert(0, str(Path(__file__).parents[1] / "train_step"))

from experiment import KINDS, SHAPES, keys_for, log_of, log_to, receive, versions, write_data, write_model
from loading import real_clips, write_results


RESULTS = Path(__file__).parent / "results" / "waiting.json"
CLIPS = ("Megamind.avi", "a.mp4", "b.avi", "b.mp4", "bikes.mp4", "carphone_pristine.mp4", "cup.mp4", "world.mp4")
READERS = {"llamafactory": "plain", "motion": "motion+CE", "motion cached": "motion+CE"}


class Waits(TrainerCallback):  # type: ignore[misc]
    """Adds up the seconds of waiting and of computing."""

    def __init__(self, pipe: Any, skipped: int) -> None:
        self.pipe, self.skipped = pipe, skipped
        self.waited = self.computed = 0.0
        self.ended = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """The batch is there."""
        self.began = time.perf_counter()
        if state.global_step >= self.skipped:
            self.waited += self.began - self.ended

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """The next batch is wanted."""
        self.ended = time.perf_counter()
        if state.global_step > self.skipped:
            self.computed += self.ended - self.began

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Say how long both took."""
        self.pipe.send((self.waited, self.computed))


def _train(pipe: Any, keys: dict[str, Any], skipped: int) -> None:
    log_to(log_of(keys))
    from motiontune.llamafactory.install import run_exp

    run_exp(keys, [Waits(pipe, skipped)])


def measure(reader: str, workers: int, clips: list[Path], work: Path) -> dict[str, Any]:
    """Run once: a row."""
    folder = work / f"{reader}-{workers}"
    folder.mkdir()
    caches = {"motion_cache_dir": str(folder / "motion"), "frame_cache_dir": str(folder / "frames")}
    keys = keys_for(
        write_model(folder / "model", SHAPES["101M"], "float32"),
        write_data(folder / "data", clips * 2, 11),
        folder / "out",
        2 * len(clips),
        "cpu",
        **KINDS[READERS[reader]],
        **(caches if "cached" in reader else {}),
        finetuning_type="lora",
        video_fps=2.0,
        video_maxlen=16,
        video_max_pixels=256 * 256,
        dataloader_num_workers=workers,
    )
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_train, args=(theirs, keys, len(clips)))
    process.start()
    theirs.close()
    waited, computed = receive(ours, keys)
    process.join()
    return {
        "reader": reader,
        "workers": workers,
        "steps": len(clips),
        "waited_ms_per_step": round(1000 * waited / len(clips), 1),
        "step_ms": round(1000 * computed / len(clips), 1),
        "waiting_share": round(waited / (waited + computed), 4),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    clips = [path for path in real_clips([]) if path.name in CLIPS]
    import motiontune.llamafactory.install  # noqa: F401  once, for the forks

    rows = []
    with tempfile.TemporaryDirectory() as work:
        for workers in (0, 1):
            for reader in READERS:
                rows.append(measure(reader, workers, clips, Path(work)))
                print(rows[-1], flush=True)
    about = {"model": "101M", "clips": [path.name for path in clips], "versions": versions()}
    write_results(args.out, about, {"rows": rows})


if __name__ == "__main__":
    main()
