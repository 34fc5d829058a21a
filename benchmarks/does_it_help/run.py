"""Does supervising video tokens with motion help a model to answer which way something moves?

    python benchmarks/does_it_help/run.py --start smollm2 --seconds 300 --out results/h100
    python benchmarks/does_it_help/run.py --start tiny --steps 1000 --seeds 2 --processes 1 --out results/tiny

One command trains all arms and seeds, several processes at a time on one device, and appends a row to OUT/cells.jsonl
after each. A second run with the same OUT goes on behind the rows that are there. README.md holds what is compared and
was written before the first run.

In this order: the start learns stills; a few seconds of all processes at work tell how many steps fit into
`--seconds`; the arms `ce` and `projector` try each learning rate on a seed of their own; then come the arms and seeds
that count.
"""

import argparse
import datetime
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aggregate import cells_of, plan_of
from clips import SPLITS, Studio
from learning import (
    ARMS,
    SETTINGS,
    Cell,
    Collator,
    Learner,
    Setting,
    accuracy,
    arm_groups,
    compile_layers,
    load_start,
    make_arm,
    teach_stills,
    test,
)
from start import FOLDER, UNSEEN_PHOTOS

from motiontune.model.start import scale_projector


TUNED = ("ce", "projector")
TUNING_SEED = 100
TUNING_SHARE = 0.5  # of the steps of a cell that counts
TESTS = 8  # in the course of a cell's training
TEST_STEPS = 40.0  # a cell's tests cost about as much as so many steps
FEWEST_STEPS, MOST_STEPS = 500, 1600  # a seed less rather than fewer


@dataclass(frozen=True)
class Job:
    """What every process knows.

    Args:
        start: "smollm2" or "tiny".
        setting: sizes and rates.
        folder: of the start.
        device: "cuda" or "cpu".
        test_clips: in each test in the course of training.
        final_clips: of each split at the end.
        threads: of each process.
        compiled: compile the decoder's layers.
    """

    start: str
    setting: Setting
    folder: Path
    device: str
    test_clips: int
    final_clips: int
    threads: int
    compiled: bool = False


class Worker:
    """Does the work of one process: each public method is an order that the parent gives.

    Args:
        job: what every process knows.
    """

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        torch.set_float32_matmul_precision("high")
        self.job, self.setting = job, job.setting
        self.loaded: tuple[Path | None, Any] = (None, None)
        photos = torch.from_numpy(np.load(job.folder / "model" / "photos.npy"))
        self.studio = Studio(photos, UNSEEN_PHOTOS, self.setting.side, self.setting.frames, job.device)

    def _load(self, folder: Path) -> None:
        if self.loaded[0] != folder:
            self.loaded = (None, None)
            self.loaded = (folder, load_start(folder, self.job.device))
            self.collator = Collator(folder, self.setting, self.job.device)

    def ready(self) -> tuple[float, str]:
        """Load the untaught start where it is shared and compile what is to be.

        Returns:
            The seconds that took, and why nothing is compiled where it was to be; the process then does without.
        """
        begin, problem = time.monotonic(), ""
        if self.job.start != "tiny" and self.loaded[1] is None:
            self._load(self.job.folder / "model")
        if self.job.compiled and self.loaded[1] is not None:
            try:
                learner = self._learner(Cell("ready", "projector", 1e-6, 0, 2))
                learner.step()
                self._test(learner, "in_domain", "appearance", self.setting.batch, -5)
                learner.last.tolist()
            except Exception as error:  # the compiler needs tools that a machine may lack
                problem = f"{type(error).__name__}: {error}"[:500]
                self.job = replace(self.job, compiled=False)
                torch._dynamo.reset()
        return round(time.monotonic() - begin, 1), problem

    def stills(self, seed: int, seconds: float) -> dict[str, Any]:
        """Teach the start stills and save it as the start of a seed.

        Args:
            seed: of the clips, and of random weights.
            seconds: the teaching is cut after so many.
        """
        untaught = self.job.folder / "model" if self.job.start != "tiny" else make_tiny(self.job.folder, seed)
        self._load(untaught)
        start = self.loaded[1]
        if self.job.start != "tiny":
            seen = self.collator(self.studio.render(64, "in_domain", "stills", -1)).inputs
            scale_projector(start, seen["pixel_values_videos"], seen["video_grid_thw"])
        begin, losses = time.monotonic(), []

        def each_step(learner: Learner) -> bool:
            losses.append(learner.last[0])
            if learner.done % 25 == 0:
                losses[-1].item()  # the clock must not run ahead of the device
            return time.monotonic() - begin < seconds

        before = self._test_appearance(start)
        teach_stills(start, self.collator, self.studio, self.setting.stills_steps, seed, each_step)
        folder = start_folder(self.job, seed)
        start.save_pretrained(folder)
        self.collator.processor.save_pretrained(folder)
        self.loaded = (folder, start)
        curve = torch.stack(losses).tolist()
        return {
            "steps": len(losses),
            "seconds": time.monotonic() - begin,
            "losses": [sum(curve[i : i + 10]) / len(curve[i : i + 10]) for i in range(0, len(curve), 10)],
            "appearance_before": before,
            "appearance_after": self._test_appearance(start),
        }

    def _test_appearance(self, start: Any) -> float:
        model = make_arm(start, ARMS["ce"], self.setting)
        return accuracy(
            test(model, self.collator, self.studio, "in_domain", "stills", self.job.test_clips, -4)["right"]
        )

    def speed(self, seed: int, seconds: float) -> tuple[float, float]:
        """Train as a cell does; return steps per second, and peak GiB of the device's memory."""
        self._load(start_folder(self.job, seed))
        learner = self._learner(Cell("speed", "projector", self.setting.rates[0], seed, 10**6))
        for _ in range(3):
            learner.step()
        learner.last.tolist()
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            learner.step()
            learner.last.tolist()
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.job.device == "cuda" else 0.0
        return (learner.done - 3) / (time.monotonic() - begin), memory

    def _learner(self, cell: Cell) -> Learner:
        torch.manual_seed(cell.seed)
        model = make_arm(self.loaded[1], ARMS[cell.arm], self.setting)
        if self.job.compiled:
            compile_layers(model)
        groups = arm_groups(model, cell.rate, self.setting)
        return Learner(model, ARMS[cell.arm], self.collator, self.studio, groups, cell.steps, cell.seed)

    def cell(self, cell: Cell) -> dict[str, Any]:
        """Train and test one cell; return its row."""
        begin = time.monotonic()
        self._load(start_folder(self.job, cell.seed))
        learner = self._learner(cell)
        curve = [self._point(learner, cell)]
        tests = TESTS if cell.phase == "main" else TESTS // 2
        for number in range(tests):
            for _ in range(cell.steps * (number + 1) // tests - learner.done):
                learner.step()
            curve.append(self._point(learner, cell))
        final = {}
        for split in SPLITS if cell.phase == "main" else ():
            final[split] = {
                task: self._test(learner, split, task, count, -2)
                for task, count in (("which_way", self.job.final_clips), ("appearance", self.job.final_clips // 2))
            }
        return asdict(cell) | {"curve": curve, "final": final, "seconds": round(time.monotonic() - begin, 1)}

    def _test(self, learner: Learner, split: str, task: str, count: int, seed: int) -> dict[str, Any]:
        return test(learner.model, self.collator, self.studio, split, task, count, seed)

    def _point(self, learner: Learner, cell: Cell) -> dict[str, Any]:
        """A point of the learning curve, on clips of its own; tuning has others than what counts."""
        seed = -1 if cell.phase == "main" else -3
        ways = self._test(learner, "in_domain", "which_way", self.job.test_clips, seed)
        appearance = self._test(learner, "in_domain", "appearance", self.job.test_clips // 4, seed)
        text, motion = learner.last.tolist()
        return {
            "step": learner.done,
            "which_way_4": accuracy(ways["right"]),
            "which_way_loss": ways["loss"],
            "moving_or_still": accuracy(ways["still_right"]),
            "epe": ways["epe"],
            "epe_zero": ways["epe_zero"],
            "appearance": accuracy(appearance["right"]),
            "train_text_loss": text,
            "train_motion_loss": motion,
        }


def start_folder(job: Job, seed: int) -> Path:
    """Where the start of a seed lies that has learned stills; a pretrained one is the same for all."""
    return job.folder / (f"tiny-{seed}-stills" if job.start == "tiny" else "stills")


def make_tiny(folder: Path, seed: int, name: str = "tiny") -> Path:
    """Write half a million random weights, the first half of the start `tiny`, to `NAME-SEED`."""
    from motiontune.model.tiny import build_tiny

    photos = torch.zeros(2, 28, 28, 3, dtype=torch.uint8)
    studio = Studio(photos, 1, 28, 2, "cpu")
    asked = [q for task in ("mixed", "stills") for q in studio.render(256, "in_domain", task, 0).questions]
    texts = [f"{q.text} Answer: {q.options[q.answer]}" for q in asked]
    return build_tiny("qwen2_vl", folder / f"{name}-{seed}", texts, seed=seed)


def serve(pipe: Connection, job: Job) -> None:
    """Run in a process of its own: take orders until None comes."""
    try:
        worker = Worker(job)
        while (order := pipe.recv()) is not None:
            name, arguments = order
            pipe.send((None, getattr(worker, name)(*arguments)))
    except Exception:
        pipe.send((traceback.format_exc(), None))


class Crew:
    """The processes.

    Args:
        job: what every one knows.
        processes: how many.
    """

    def __init__(self, job: Job, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for _ in range(processes):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, job), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process ends the pipe
            self.pipes.append(mine)
            self.processes.append(process)

    def all(self, name: str, *arguments: Any) -> list[Any]:
        """Give every process the same order; return what each answers."""
        for pipe in self.pipes:
            pipe.send((name, arguments))
        return [self._answer(pipe) for pipe in self.pipes]

    def begin(self, name: str, *arguments: Any) -> None:
        """Give every process but the first an order; `end` waits for it."""
        for pipe in self.pipes[1:]:
            pipe.send((name, arguments))

    def end(self) -> list[Any]:
        """Return what each process but the first answers to `begin`."""
        return [self._answer(pipe) for pipe in self.pipes[1:]]

    def one(self, name: str, *arguments: Any) -> Any:
        """Give an order to the first process."""
        self.pipes[0].send((name, arguments))
        return self._answer(self.pipes[0])

    def each(self, orders: "list[tuple[str, Any]]", may_start: Any = lambda: True) -> Iterator[Any]:
        """Share orders among the processes, in their order; yield answers as they come.

        Args:
            orders: name and argument.
            may_start: asked before each; false leaves the rest undone.
        """
        waiting, busy = list(orders), set()
        idle = list(self.pipes)
        while waiting or busy:
            while idle and waiting:
                if not may_start():
                    waiting = []
                    break
                name, argument = waiting.pop(0)
                pipe = idle.pop(0)
                pipe.send((name, (argument,)))
                busy.add(pipe)
            for pipe in wait(list(busy)):
                yield self._answer(pipe)
                busy.remove(pipe)
                idle.append(pipe)

    @staticmethod
    def _answer(pipe: Connection) -> Any:
        try:
            error, answer = pipe.recv()
        except EOFError:
            raise SystemExit("a process ended without a word: killed, perhaps for want of memory") from None
        if error:
            raise SystemExit(error)
        return answer

    def close(self) -> None:
        """Let the processes end."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)


class Log:
    """Prints with the seconds since the beginning."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{self.seconds():6.1f}] {text}", flush=True)

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.begin


def main() -> None:
    """Run what is missing in OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", choices=sorted(SETTINGS), default="smollm2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the start")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--seconds", type=float, default=300, help="for everything; no cell is begun that would not fit"
    )
    parser.add_argument("--steps", type=int, help="of each cell, instead of what fits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--rate", type=float, help="learning rate of all arms, instead of trying them")
    parser.add_argument("--compile", action="store_true", help="compile the decoder's layers, if that works")
    parser.add_argument("--only-speed", action="store_true", help="end after the stills and the measurement of speed")
    parser.add_argument("--stills-seconds", type=float, default=25)
    parser.add_argument("--speed-seconds", type=float, default=4)
    parser.add_argument("--test-clips", type=int, default=256)
    parser.add_argument("--final-clips", type=int, default=512)
    for name in ("side", "frames", "batch", "stills_steps", "stills_batch"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the setting's")
    arguments = parser.parse_args()
    log = Log()
    changed = {name: getattr(arguments, name) for name in ("side", "frames", "batch", "stills_steps", "stills_batch")}
    setting = replace(SETTINGS[arguments.start], **{name: value for name, value in changed.items() if value})
    job = Job(
        arguments.start,
        setting,
        arguments.folder,
        arguments.device,
        arguments.test_clips,
        arguments.final_clips,
        arguments.threads,
        arguments.compile,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(job, arguments, log)
    experiment.run()


class Experiment:
    """The order of everything.

    Args:
        job: what every process knows.
        arguments: of the command line.
        log: prints.
    """

    def __init__(self, job: Job, arguments: argparse.Namespace, log: Log) -> None:
        self.job, self.arguments, self.log = job, arguments, log
        self.plan_file, self.cells_file = arguments.out / "plan.json", arguments.out / "cells.jsonl"
        self.rows = cells_of(arguments.out)
        self.plan = plan_of(arguments.out, job.start)

    def run(self) -> None:
        """Do what is missing."""
        arguments, log = self.arguments, self.log
        crew = Crew(self.job, arguments.processes)
        self.note(job=json.loads(json.dumps(asdict(self.job), default=str)), environment=environment(self.job.device))
        self.teach(crew)
        self.choose_steps(crew)
        if arguments.only_speed:
            return crew.close()
        main_seeds = list(range(1, self.plan["seeds"] + 1))
        if arguments.rate:
            self.note(rates=dict.fromkeys(arguments.arms, arguments.rate))
        elif "rates" not in self.plan:
            tuned = [arm for arm in TUNED if arm in arguments.arms]
            tries = itertools.product(tuned, self.job.setting.rates)
            steps = int(TUNING_SHARE * self.plan["steps"])
            cells = [Cell("tune", arm, rate, TUNING_SEED, steps) for arm, rate in tries]
            self.do(crew, cells)
            self.note(rates=self.best_rates())
        rates = self.plan["rates"]
        cells = [
            Cell("main", arm, rates[arm], seed, self.plan["steps"]) for seed in main_seeds for arm in arguments.arms
        ]
        self.do(crew, cells)
        crew.close()
        log("done")

    def note(self, **entries: Any) -> None:
        """Add to the plan and write it."""
        self.plan |= entries
        self.plan_file.write_text(json.dumps(self.plan, indent=1) + "\n")

    def teach(self, crew: Crew) -> None:
        """Have the starts taught stills that are not."""
        seeds = [0]
        if self.job.start == "tiny":
            seeds = [*([] if self.arguments.rate else [TUNING_SEED]), *range(1, self.arguments.seeds + 1)]
        crew.begin("ready")
        for seed in seeds:
            if (start_folder(self.job, seed) / "config.json").is_file():
                continue
            result = crew.one("stills", seed, self.arguments.stills_seconds)
            self.note(**{f"stills_{seed}": result})
            shown = {key: value for key, value in result.items() if key != "losses"}
            self.log(f"stills, seed {seed}: {shown}, loss {result['losses'][0]:.2f} to {result['losses'][-1]:.2f}")
        ready = [crew.one("ready"), *crew.end()]
        self.log(f"all ready, seconds: {[seconds for seconds, _ in ready]}")
        problems = sorted({problem for _, problem in ready if problem})
        self.note(compiled=self.job.compiled and not problems)
        for problem in problems:
            self.log(f"not compiled: {problem}")

    def choose_steps(self, crew: Crew) -> None:
        """Measure the speed of all processes together, and see how many steps of how many seeds fit."""
        arguments = self.arguments
        if arguments.steps:
            self.note(steps=arguments.steps, seeds=arguments.seeds)
            return
        if "steps" in self.plan:
            return
        first = TUNING_SEED if self.job.start == "tiny" else 0
        measured = crew.all("speed", first, arguments.speed_seconds)
        together = sum(speed for speed, _ in measured)
        left = arguments.seconds - self.log.seconds()
        tuning = 0 if arguments.rate else TUNING_SHARE * len(TUNED) * len(self.job.setting.rates)
        for seeds in range(arguments.seeds, 0, -1):
            cells = tuning + seeds * len(arguments.arms)
            steps = int(0.85 * left * together / cells - TEST_STEPS) // TESTS * TESTS
            if steps >= FEWEST_STEPS or seeds <= 2:
                break
        steps = max(min(steps, MOST_STEPS), TESTS)
        self.note(steps_per_second=together)
        if not arguments.only_speed:
            self.note(steps=steps, seeds=seeds)
        self.log(
            f"{sum(s for s, _ in measured):.1f} steps/s, {measured[0][1]:.1f} GiB each: {steps} steps, {seeds} seeds"
        )

    def do(self, crew: Crew, cells: list[Cell]) -> None:
        """Run the cells that have no row yet, each if it can end in time."""
        have = {(row["phase"], row["arm"], row["rate"], row["seed"], row["steps"]) for row in self.rows}
        missing = [cell for cell in cells if (cell.phase, cell.arm, cell.rate, cell.seed, cell.steps) not in have]
        # the last ones have the device more to themselves
        longest = max([row["seconds"] for row in self.rows if row["phase"] == cells[0].phase], default=0.0)

        def may_start() -> bool:
            return self.log.seconds() + 0.7 * longest < self.arguments.seconds

        for row in crew.each([("cell", cell) for cell in missing], may_start):
            row["done_at"] = round(self.log.seconds(), 1)
            self.rows.append(row)
            longest = max(longest, row["seconds"])
            with self.cells_file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            last = row["curve"][-1]
            ways = " ".join(f"{point['which_way_4']:.2f}" for point in row["curve"])
            self.log(
                f"{row['phase']} {row['arm']} {row['rate']:g} seed {row['seed']}: which way {ways}, appearance "
                f"{last['appearance']:.2f}, epe {last['epe']:.2f} of {last['epe_zero']:.2f} px, {row['seconds']:.0f} s"
            )

    def best_rates(self) -> dict[str, float]:
        """For each arm the rate with the lowest which-way loss of tuning; arms without one take projector's."""
        best = {}
        for arm in TUNED:
            rows = [row for row in self.rows if row["phase"] == "tune" and row["arm"] == arm]
            if rows:
                best[arm] = min(rows, key=lambda row: row["curve"][-1]["which_way_loss"])["rate"]
        common = best.get("projector", self.job.setting.rates[len(self.job.setting.rates) // 2])
        rates = {arm: best.get(arm, common) for arm in self.arguments.arms}
        self.log(f"learning rates: {rates}")
        return rates


def environment(device: str) -> dict[str, Any]:
    """Date, machine and versions."""
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    packages = ("torch", "transformers", "numpy")
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "cores": os.cpu_count(),
        "versions": {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in packages},
    }


if __name__ == "__main__":
    main()
