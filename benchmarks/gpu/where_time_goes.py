"""Where a step's time goes on the GPU, by kind of kernel, and what checkpointing, Liger and torch.compile change."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rows import Rows
from steps import Subject, free, spread
from subject import H100_FLOPS, count_flops
from torch.profiler import ProfilerActivity, profile


ARM = "motion+CE"
KINDS = {  # parts of kernels' names; the first that fits counts
    "attention": ("flash", "fmha", "attention"),
    "matrix products": ("gemm", "cutlass", "nvjet", "xmma", "cublas", "splitk"),
    "copies": ("memcpy", "memset", "copy_kernel", "catarray"),
    "elementwise and reductions": ("elementwise", "vectorized", "reduce", "triton", "norm", "softmax", "_kernel"),
}


def measure(rows: Rows, device: str, tiny: bool, deadline: float) -> None:
    """Time and profile steps of the 7B shape with LoRA, motion and text: a row for each way of running them.

    Args:
        rows: to write to.
        device: "cuda", or "cpu" for a rehearsal.
        tiny: the family's tiny model in its place.
        deadline: seconds since 1970; what would begin after it is listed as not run.
    """
    for liger in (False, True):
        if time.time() > deadline - (0 if tiny else 20):
            rows.add("not run", f"profile, liger {liger}", reason="no time left")
            continue
        subject = Subject("7B", "lora", device, tiny, liger)
        for tokens in (256,) if tiny else (4096, 8192):
            for checkpointing in (True, False):
                _measure_one(rows, subject, tokens, checkpointing, False, deadline)
        subject.close()
        free(device)


def measure_compiled(rows: Rows, device: str, tiny: bool, deadline: float) -> None:
    """The same with compiled decoder layers, whose compilation nothing but the end of the process can stop."""
    subject = Subject("7B", "lora", device, tiny)
    for layer in subject.decoder.layers:
        layer.compile(dynamic=False)
    for checkpointing in (False, True):
        _measure_one(rows, subject, 256 if tiny else 4096, checkpointing, True, deadline)


def _measure_one(
    rows: Rows, subject: Subject, tokens: int, checkpointing: bool, compiled: bool, deadline: float
) -> None:
    ways = "checkpointing" * checkpointing, "compiled" * compiled, "Liger" * subject.liger
    name = f"7B lora {tokens} {', '.join(way for way in ways if way) or 'no checkpointing'}"
    if time.time() > deadline:
        rows.add("not run", name, reason="no time left")
        return
    about = {"video_tokens": tokens, "checkpointing": checkpointing, "compiled": compiled, "liger": subject.liger}
    batch = subject.batch(tokens)
    try:
        with _checkpointing(subject, checkpointing):
            started = time.perf_counter()
            subject.step(ARM, batch)
            about["first_step_seconds"] = round(time.perf_counter() - started, 2)
            subject.step(ARM, batch)
            steps = [subject.step(ARM, batch) for _ in range(4)]
            kinds, wall = _kernels(subject, batch)
    except Exception as error:
        subject.optimizer.zero_grad()
        free(subject.device)
        rows.add("profile", name, **about, error=f"{type(error).__name__}: {error}"[:400])
        return
    row: dict[str, Any] = about | spread("seconds", [one["seconds"] for one in steps])
    row["mfu"] = round(count_flops(subject.model, batch, "lora", ARM)["all"] / row["seconds"] / H100_FLOPS, 4)
    if "peak_mb" in steps[0]:
        row["peak_mb"] = round(max(one["peak_mb"] for one in steps))
    row |= {"profiled_seconds": round(wall, 4), "kernel_seconds": kinds}
    rows.add("profile", name, **row)


@contextmanager
def _checkpointing(subject: Subject, wanted: bool) -> Iterator[None]:
    """Switch the decoder's gradient checkpointing, which LLaMA-Factory turns on, off for a while."""
    modules = [one for one in subject.base.modules() if getattr(one, "gradient_checkpointing", False)]
    assert modules, "LLaMA-Factory has not turned gradient checkpointing on"
    for module in modules:
        module.gradient_checkpointing = wanted
    try:
        yield
    finally:
        for module in modules:
            module.gradient_checkpointing = True


def _kernels(subject: Subject, batch: dict[str, torch.Tensor]) -> tuple[dict[str, float], float]:
    """Seconds of a step's kernels by kind, the largest of the others by name, and the step's own seconds."""
    activities = [ProfilerActivity.CUDA if subject.device == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        wall = subject.step(ARM, batch)["seconds"]
    kinds: Counter[str] = Counter()
    for event in profiler.key_averages():
        seconds = (event.self_device_time_total or event.self_cpu_time_total) / 1e6
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key.lower() for part in parts)), None)
        kinds[kind or f"other: {event.key[:60]}"] += seconds
    return {kind: round(seconds, 4) for kind, seconds in kinds.most_common(9)}, wall
