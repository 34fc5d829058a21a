"""What does a training step cost, in time and in memory, against plain LLaMA-Factory?

    python benchmarks/train_step/run.py prototype answers lengths models
    python benchmarks/train_step/run.py --device cuda prototype answers lengths models

For each case every kind of training is a run of its own (`run_exp`, as the command line starts it) in a process of its
own, all at once, but only one of them computes at a time: they take turns, step by step, so that a ratio is that of
steps that follow each other. A step is forward, backward, clipping and optimizer; the batch is there when it starts.
Peak memory has the weights, gradients, optimizer and activations: on the CPU what is resident, less what was before
the model was loaded, on a GPU what torch allocated. Results go to results/DEVICE-PART.json.

`--device cuda` trains the true shapes of Qwen2-VL-2B and 7B with random weights in bfloat16, for which it needs 80 GB.
"""

import argparse
import gc
import importlib.util
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback


sys.path.insert(0, str(Path(__file__).parents[1] / "motion"))

from experiment import (
    KINDS,
    SHAPES,
    device_name,
    keys_for,
    log_of,
    log_to,
    receive,
    versions,
    write_clip,
    write_data,
    write_model,
)
from loading import write_results

from motiontune.model.head import MotionHead
from motiontune.model.losses import motion_loss_sum
from motiontune.model.wrappers import base_of


RESULTS = Path(__file__).parent / "results"
ALL = ("plain", "sparse_logits", "motion+CE", "motion only")
PAIR = ("plain", "motion+CE")


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        model: a name of `SHAPES`.
        method: "lora" or "full".
        checkpointing: gradient checkpointing.
        frames: of the clip; 72 video tokens each.
        labels: labelled tokens of the answer.
        kinds: names of `KINDS`; the first is what the others are compared with.
    """

    model: str
    method: str = "lora"
    checkpointing: bool = True
    frames: int = 16
    labels: int = 11
    kinds: tuple[str, ...] = ALL

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that this adds to a run's."""
        lora = {"lora_rank": 8, "lora_target": "all"} if self.method == "lora" else {}
        more = {"finetuning_type": self.method, "disable_gradient_checkpointing": not self.checkpointing}
        return {**lora, **more, "video_maxlen": max(128, self.frames)}


def cases(part: str, device: str) -> list[Case]:
    """The cases of a part of the benchmark."""
    small, large = ("101M", "0.5B") if device == "cpu" else ("2B", "7B")
    both = ("lora", "full")
    if part == "prototype":
        lora = ALL if liger_left_out(device) else (*ALL, "liger")
        kinds = {"lora": lora, "full": ALL if device == "cpu" else PAIR}  # a GPU has no room for more at once
        return [
            Case(small, name, checkpointing, kinds=kinds[name]) for name in both for checkpointing in (True, False)
        ]
    if part == "answers":
        return [Case(small, name, labels=n, kinds=PAIR) for name in both for n in (11, 64, 256, 1024, 2048)]
    if part == "lengths":
        return [Case(small, frames=n, kinds=PAIR) for n in ((4, 16, 32) if device == "cpu" else (16, 64, 128))]
    return [Case(large, labels=n, kinds=PAIR) for n in (11, 1024)]


def liger_left_out(device: str) -> str:
    """Why Liger is not measured, or nothing."""
    if device == "cpu":
        return "its kernels are Triton's, which has no driver for the CPU"
    return "" if importlib.util.find_spec("liger_kernel") else "liger-kernel is not installed"


class Worker:
    """A run in a process of its own, which makes a step when it is told to."""

    def __init__(self, keys: dict[str, Any], device: str) -> None:
        # a fork has imported all, but CUDA does not survive one
        context: Any = multiprocessing.get_context("fork" if device == "cpu" else "spawn")
        self.keys = keys
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_train, args=(theirs, keys, device), daemon=True)
        self.process.start()
        theirs.close()
        receive(self.pipe, keys)

    def step(self, memory: bool = False) -> dict[str, Any]:
        """Make a step and measure its time, or its memory; returns once the next one could begin."""
        self.pipe.send(memory)
        measured: dict[str, Any] = receive(self.pipe, self.keys)
        return measured

    def stop(self) -> None:
        """End the run."""
        self.process.kill()
        self.process.join()


def _train(pipe: Any, keys: dict[str, Any], device: str) -> None:
    log_to(log_of(keys))
    from motiontune.llamafactory.install import run_exp

    run_exp(keys, [Turns(pipe, device)])


class Turns(TrainerCallback):  # type: ignore[misc]
    """Waits before each step until it is told to make it, and measures it."""

    def __init__(self, pipe: Any, device: str) -> None:
        self.pipe, self.device = pipe, device
        self.resident = Resident() if device == "cpu" else None
        self.measured: dict[str, Any] = {}

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """Note what the first batch is like."""

        def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
            ids, labels = inputs["input_ids"], inputs["labels"]
            self.measured |= {
                "video_tokens": int((ids == module.config.video_token_id).sum()),
                "positions": ids.numel(),
                "labels": int((labels[:, 1:] != -100).sum()),
            }
            hook.remove()

        hook = model.register_forward_pre_hook(note, with_kwargs=True)
        self.model = model

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Say what the last step took, and wait."""
        self.pipe.send(self.measured)
        self.tensors = Tensors(self.device) if self.pipe.recv() else None
        if self.resident is not None:
            self.resident.start()
        self.started = now(self.device)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Measure."""
        seconds = now(self.device) - self.started
        if self.tensors is not None:
            self.measured["peak_mb"] = self.tensors.peak_mb()
            return
        self.measured["seconds"] = seconds
        if self.resident is not None:
            self.measured["resident_mb"] = self.resident.peak_mb()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Say what the last step took, and wait for the end: what was trained need not be saved."""
        head = getattr(base_of(self.model), "motion_head", None)
        if head is not None:
            self.measured["head_seconds"] = seconds_of_head(head, self.measured["video_tokens"], self.device)
        self.pipe.send(self.measured)
        self.pipe.recv()


def now(device: str) -> float:
    """Seconds, once the device has done all that was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of_head(head: MotionHead, tokens: int, device: str) -> float:
    """What the motion head and its loss take, forward and backward."""
    hidden = torch.randn(tokens, head.config.hidden_size, device=head.weight.device, requires_grad=True)
    target = torch.randn(tokens, head.config.token_width, device=head.weight.device)
    taken = []
    for _ in range(30):
        start = now(device)
        motion_loss_sum(head(hidden), target, target > -1, "smooth_l1").backward()
        taken.append(now(device) - start)
    return statistics.median(taken[10:])


class Tensors:
    """The most memory that the tensors of a step take, as torch counts it."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        found = [one.untyped_storage() for one in gc.get_objects() if isinstance(one, torch.Tensor)]
        self.before = sum({one.data_ptr(): one.nbytes() for one in found}.values())
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self.profile.start()

    def peak_mb(self) -> float:
        """The most since then."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        self.profile.stop()
        events = [one for one in self.profile.profiler.kineto_results.events() if one.name() == "[memory]"]
        changes = np.array([one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())])
        return (self.before + int(changes.cumsum().max())) / 1e6


class Resident:
    """The most resident memory of a step that is not that of files, in MB, from Linux; without what was there before.

    It has, too, what the C library keeps of what was freed.
    """

    def __init__(self) -> None:
        self.before = self._status("RssAnon")

    def start(self) -> None:
        """Forget what was."""
        Path("/proc/self/clear_refs").write_text("5", "ascii")

    def peak_mb(self) -> float:
        """The most since then."""
        return self._status("VmHWM") - self._status("RssFile") - self._status("RssShmem") - self.before

    def _status(self, key: str) -> float:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024 / 1e6


def measure(case: Case, device: str, rounds: int) -> list[dict[str, Any]]:
    """Time all kinds of a case in turns: a row each."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = write_model(work / "model", SHAPES[case.model], "float32" if device == "cpu" else "bfloat16")
        steps = rounds + 2
        data = write_data(work / "data", [write_clip(work / "clip.mp4", case.frames)] * steps, case.labels)
        keys = {
            kind: keys_for(model, data, work / kind, steps, device, **case.keys, **KINDS[kind]) for kind in case.kinds
        }
        workers = {kind: Worker(one, device) for kind, one in keys.items()}
        try:
            return compare(case, take_turns(workers, rounds))
        finally:
            for worker in workers.values():
                worker.stop()


def take_turns(workers: dict[str, Worker], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each worker measured in each round, every second one in the other order; the first is not kept.

    A last step each is for memory.
    """
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in workers}
    for number in range(rounds + 1):
        for kind in sorted(workers, key=list(workers).index, reverse=bool(number % 2)):
            measured = workers[kind].step()
            if number:
                found[kind].append(measured)
    for kind, worker in workers.items():
        found[kind][-1] = worker.step(memory=True)  # beside the time of the last step
    return found


def compare(case: Case, found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each kind."""
    about = {key: value for key, value in asdict(case).items() if key not in ("kinds", "frames", "labels")}
    seconds = {kind: np.array([one["seconds"] for one in steps]) for kind, steps in found.items()}
    last_steps = {kind: steps[-1] for kind, steps in found.items()}
    plain, rows = last_steps["plain"], []
    for kind, last in last_steps.items():
        row = {**about, **{key: last[key] for key in ("video_tokens", "positions", "labels")}, "kind": kind}
        row |= spread("seconds", seconds[kind])
        row |= spread("time_to_llamafactory", seconds[kind] / seconds["plain"])
        for key, name in (("peak_mb", "memory"), ("resident_mb", "resident_memory")):
            if key in last:
                row |= {key: round(last[key]), f"{name}_to_llamafactory": round(last[key] / plain[key], 3)}
        if "sparse_logits" in found and kind.startswith("motion"):
            row |= spread("time_to_sparse_logits", seconds[kind] / seconds["sparse_logits"])
        if "head_seconds" in last:
            row["head_share"] = round(last["head_seconds"] / row["seconds"], 5)
        rows.append(row)
    return rows


def spread(name: str, values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    found = {name: middle, f"{name}_low": low, f"{name}_high": high}
    return {key: round(float(value), 4) for key, value in found.items()}


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("prototype", "answers", "lengths", "models"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    import motiontune.llamafactory.install  # noqa: F401  once, for the forks

    for part in args.parts:
        rows = []
        for case in cases(part, args.device):
            rows += measure(case, args.device, args.rounds)
            for row in rows[-len(case.kinds) :]:
                print(row, flush=True)
        about = {"rounds": args.rounds, "device": device_name(args.device), "versions": versions()}
        if liger_left_out(args.device):
            about["liger_left_out"] = liger_left_out(args.device)
        write_results(args.out / f"{args.device}-{part}.json", about, {"rows": rows})


if __name__ == "__main__":
    main()
