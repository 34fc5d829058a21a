"""Check and measure motiontune on one GPU, within a given time. See README.md; started by run.sh.

Every check and measurement is written to `gpu.jsonl` at once; what fails leaves its traceback there and ends nothing
else, and what does not fit into the time is listed as not run.
"""

import argparse
import faulthandler
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rows import Rows


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "train_step"), str(ROOT / "src"), str(ROOT / "tests")]


FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PACKAGES = ("llamafactory", "torch", "transformers", "peft", "accelerate", "trl", "datasets", "av", "numpy")
CORES_OF_STEPS = 2  # the first ones: the data loader's workers get the others, while steps are timed
CHECKS_END = 115  # seconds after which checks that still run are ended


@dataclass(frozen=True)
class Case:
    """Steps to time.

    Args:
        model: "2B", "4B" or "7B".
        method: "lora" or "full".
        tokens: video tokens.
        limit: seconds that its rounds may take, about.
        arms: which; all by default.
        padding: padded positions.
        liger: with Liger's kernels; these cases come last, they stay in force.
    """

    model: str
    method: str
    tokens: int
    limit: float
    arms: tuple[str, ...] = ("llamafactory", "sparse_logits", "motion+CE", "motion only")
    padding: int = 0
    liger: bool = False


PAIR = ("llamafactory", "motion+CE")
CASES = (  # by worth; neighbours of one model and method share it
    Case("7B", "lora", 4096, 16),
    Case("7B", "lora", 8192, 24),
    Case("2B", "lora", 2048, 6),
    Case("2B", "lora", 4096, 8),
    Case("2B", "full", 2048, 8),
    Case("2B", "full", 4096, 10),
    Case("4B", "lora", 4096, 12),
    Case("7B", "lora", 16384, 22, PAIR),
    Case("7B", "lora", 1024, 5),
    Case("7B", "lora", 4096, 8, PAIR, padding=4),
    Case("2B", "lora", 1024, 3),
    Case("2B", "lora", 8192, 8, PAIR),
    Case("2B", "lora", 16384, 12, PAIR),
    Case("2B", "lora", 4096, 8, PAIR, liger=True),
    Case("7B", "lora", 4096, 10, PAIR, liger=True),
)
LOADING = {"2B": 5, "4B": 7, "7B": 9}  # seconds


class Plan:
    """The time that is left, and the processes beside this one."""

    def __init__(self, arguments: argparse.Namespace, rows: Rows) -> None:
        self.rows, self.arguments = rows, arguments
        self.deadline = arguments.started + arguments.seconds
        self.beside: list[subprocess.Popen[Any]] = []

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.time()

    def start(self, part: str, *more: str, **environment: str) -> "subprocess.Popen[Any]":
        """Start a part in a process of its own, which logs into a file."""
        name = "-".join([part, *(one for one in more if not one.startswith("-"))])
        args = self.arguments
        command = [sys.executable, str(HERE / "run.py"), "--part", part, *more, "--device", args.device]
        command += ["--out", str(args.out), "--seconds", str(args.seconds), "--started", str(args.started)]
        command += ["--tiny"] * args.tiny
        with (args.out / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        self.beside.append(process)
        return process

    def wait_for(self, names: dict[str, "subprocess.Popen[Any]"], until: float) -> None:
        """Wait for processes, end those that take longer, and note those that failed."""
        for name, process in names.items():
            try:
                code = process.wait(max(0.0, until - time.time()))
            except subprocess.TimeoutExpired:
                process.kill()
                self.rows.add("not run", name, reason="took too long and was ended: its rows are those it had")
            else:
                if code:
                    self.rows.add("not run", name, reason=f"ended with {code}: see its log")

    def end(self) -> None:
        """End what still runs."""
        for process in self.beside:
            if process.poll() is None:
                process.kill()


def attempt(rows: Rows, name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function; an error is a row, and None comes back."""
    try:
        return function(*args)
    except Exception as error:
        trace = traceback.format_exc()
        rows.add("error", name, error=f"{type(error).__name__}: {error}"[:1000], traceback=trace[-6000:])
        return None


def about(rows: Rows, device: str) -> None:
    """Note what this is measured on."""
    import torch
    import transformers
    from transformers.utils import is_flash_attn_2_available

    found: dict[str, Any] = {name: version(name) for name in PACKAGES}
    found |= {"transformers_file": transformers.__version__, "python": sys.version.split()[0]}
    found |= {"cores": os.cpu_count(), "flash_attention_2": bool(is_flash_attn_2_available())}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_memory_gb": round(properties.total_memory / 1e9, 1)}
        found["cuda"] = torch.version.cuda
        found["matrix_tflops"] = _matrix_tflops()
    rows.add("about", device, **found)


def _matrix_tflops() -> float:
    """What a large bf16 product reaches on this card: MFU's practical bound."""
    import torch

    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        one @ other
    torch.cuda.synchronize()
    return round(10 * 2 * 8192**3 / (time.perf_counter() - started) / 1e12, 1)


def run_steps(plan: Plan, subject: Any) -> None:
    """Time the cases, as far as there is time; `subject` is the first one's model, loaded already."""
    import steps

    rows, device, tiny = plan.rows, plan.arguments.device, plan.arguments.tiny
    key = ("7B", "lora", False) if subject is not None else None
    checked = False
    for case in CASES:
        wanted = (case.model, case.method, case.liger)
        needed = case.limit + (LOADING[case.model] if wanted != key else 0)
        title = f"{case.model} {case.method} {case.tokens}" + " padded" * bool(case.padding) + " liger" * case.liger
        if plan.left() < (1 if tiny else needed):
            rows.add("not run", title, reason=f"needs about {needed:.0f} s, {plan.left():.0f} s are left")
            continue
        if wanted != key:
            if subject is not None:
                subject.close()
            subject, key = None, None
            steps.free(device)
            started = time.perf_counter()
            subject = attempt(rows, f"loading {title}", steps.Subject, *wanted[:2], device, tiny, case.liger)
            if subject is None:
                steps.free(device)
                continue
            key = wanted
            parameters = sum(one.numel() for one in subject.model.parameters())
            seconds = round(time.perf_counter() - started, 2)
            rows.add("loaded", f"{case.model} {case.method}", seconds=seconds, parameters=parameters)
        tokens, limit = (256, 0.1) if tiny else (case.tokens, case.limit)
        attempt(rows, title, steps.measure, rows, subject, tokens, case.arms, limit, plan.deadline, case.padding)
        if case.model == "2B" and case.method == "lora" and not checked:
            checked = True
            with rows.checking("2B lora: what waits for the GPU within a step") as found:
                found |= steps.check_waits(subject, tokens)
            with rows.checking("2B lora: the same text loss and gradient with sparse logits") as found:
                found |= steps.check_losses(subject, tokens)
    if subject is not None:
        subject.close()


def run_all(plan: Plan) -> None:
    """Everything, in the order of worth."""
    args, rows = plan.arguments, plan.rows
    families = args.families.split(",") if args.families else ()
    checks = {f"checks of {name}": plan.start("checks", "--family", name) for name in families}
    import steps

    attempt(rows, "about", about, rows, args.device)
    subject = None
    if not args.no_steps:  # while the checks run
        started = time.perf_counter()
        subject = attempt(rows, "loading 7B lora", steps.Subject, "7B", "lora", args.device, args.tiny)
        if subject is not None:
            parameters = sum(one.numel() for one in subject.model.parameters())
            rows.add("loaded", "7B lora", seconds=round(time.perf_counter() - started, 2), parameters=parameters)
    until = args.started + (args.seconds if args.tiny else min(CHECKS_END, args.seconds))
    plan.wait_for(checks, until)
    rows.add("time", "checks have ended", seconds=round(time.time() - args.started, 1))
    loader = {"loader": plan.start("loader", CUDA_VISIBLE_DEVICES="")} if not args.no_loader else {}
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 2 * CORES_OF_STEPS:
        os.sched_setaffinity(0, cores[:CORES_OF_STEPS])
    if not args.no_steps:
        attempt(rows, "steps", run_steps, plan, subject)
    rows.add("time", "steps have ended", seconds=round(time.time() - args.started, 1))
    plan.wait_for(loader, plan.deadline)
    rows.add("time", "all has ended", seconds=round(time.time() - args.started, 1))


def main() -> None:
    """Run a part, or all of them and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models in place of the true shapes: a rehearsal")
    parser.add_argument("--seconds", type=float, default=270, help="from --started on")
    parser.add_argument("--started", type=float, default=time.time(), help="seconds since 1970")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--families", default=",".join(FAMILIES), help="to check; empty for no checks")
    parser.add_argument("--no-steps", action="store_true")
    parser.add_argument("--no-loader", action="store_true")
    parts = ("all", "checks", "reference", "loader", "profile", "compiled", "engines", "engine")
    parser.add_argument("--part", choices=parts, default="all")
    parser.add_argument("--family", choices=FAMILIES)
    parser.add_argument("--engine", help="of `--part engine`, and to check with `--part engines`, separated by commas")
    args = parser.parse_args()
    rows = Rows(args.out)
    if args.part == "reference":
        import checks

        checks.reference(args.family)
    elif args.part == "checks":
        import checks

        checks.check_family(rows, args.family, args.device)
    elif args.part == "engines":
        import engines
        import table

        attempt(rows, "about", about, rows, args.device)
        names = args.engine.split(",") if args.engine else list(engines.ENGINES)
        engines.check_engines(rows, args.device, args.started + args.seconds, names)
        print(table.tables(rows.path))
    elif args.part == "engine":
        import engines

        faulthandler.dump_traceback_later(60, repeat=True)  # where an engine stands that does not end
        engines.run_engine(args.out, args.engine, args.device)
    elif args.part == "loader":
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 2 * CORES_OF_STEPS:
            os.sched_setaffinity(0, cores[CORES_OF_STEPS:])
        import loader

        workers = len(os.sched_getaffinity(0))
        loader.measure(
            rows, workers, 2.0 if args.tiny else 7.0, args.started + args.seconds, 40 * (2 if args.tiny else 50)
        )
    elif args.part in ("profile", "compiled"):
        import where_time_goes

        attempt(rows, "about", about, rows, args.device)
        measure = where_time_goes.measure_compiled if args.part == "compiled" else where_time_goes.measure
        measure(rows, args.device, args.tiny, args.started + args.seconds)
    else:
        plan = Plan(args, rows)
        try:
            run_all(plan)
        finally:
            plan.end()
        import table

        print(table.tables(rows.path))


if __name__ == "__main__":
    main()
