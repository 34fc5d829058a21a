"""Does motion help a tiny model from scratch to answer which way something moves? Many cells on one machine.

    python benchmarks/does_it_help/start.py photos                         # once, with a network: the backgrounds
    python benchmarks/does_it_help/tiny.py --seconds 440 --out results/tiny      # on one GPU
    python benchmarks/does_it_help/tiny.py --device cpu --processes 1 --steps 2000 --seconds 36000 --out results/cpu

README.md holds what is compared and was written before the run. Each cell that ends is a row of OUT/cells.jsonl; a
second run with the same OUT goes on behind the rows that are there. With --follow-up come the cells that were written
down after the first run: fewer answers, errors in the targets, longer training; with --measured those whose targets
are measured, with --other-targets those whose targets are no motion, or of few clips. --questions and --captions ask
other things of other clips, --known looks closely at what is forgotten. The cells come in the order of their worth;
which are begun is a matter of time alone, not of what came out.

On a GPU all cells in progress are trained by one process, each as a recorded graph. Where that fails, or with --device
cpu, each process trains one cell at a time on one core.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import captions
import lessons
import numpy as np
import torch
from aggregate import cells_of, plan_of
from clips import SPLITS, Studio
from learning import SETTINGS, Cell, Collator, Setting, load_start
from many import AT_ONCE, NO_MOTION, PROBES, Lab, Pool, Slot, Trial, target_errors
from run import Log, environment, make_tiny
from seer import make_seer
from start import FOLDER, UNSEEN_PHOTOS
from torch import Tensor

from motiontune.model.tiny import build_tiny
from motiontune.targets import HeadForm


SETTING = SETTINGS["tiny"]
WEIGHT = 100.0  # of the motion loss
DELTA_DIRECT = HeadForm(features="delta", form="pooled", output="direction")
ARMS = {
    "ce": Trial(weight=0.0),
    "projector": Trial(WEIGHT),
    "last_hidden": Trial(WEIGHT, "last_hidden"),
    "shuffled": Trial(WEIGHT, shuffled=True),
    "layer_1": Trial(WEIGHT, "layer:1"),
    "projector_10": Trial(WEIGHT / 10),
    "projector_30": Trial(WEIGHT * 0.3),
    "last_hidden_10": Trial(WEIGHT / 10, "last_hidden"),
    "delta": Trial(WEIGHT, form=HeadForm(features="delta")),
    "deltadirect": Trial(1.0, form=DELTA_DIRECT, loss="l2", gradient="projector"),
    "deltadirect_100": Trial(100.0, form=DELTA_DIRECT, loss="l2", gradient="projector"),
    "deltadirect_all": Trial(100.0, form=DELTA_DIRECT, loss="l2"),
}
FORMS = ("deltadirect", "delta", "deltadirect_100", "deltadirect_all")
TABLE = ("ce", "projector", "last_hidden", "shuffled")
REST = tuple(arm for arm in ARMS if arm not in (*TABLE, *FORMS))
ANSWERS = (64, 256, 1024, 4096)
FEW = {
    **{f"{arm}, {n} answers": replace(ARMS[arm], answers=n) for n in ANSWERS for arm in ("projector", "last_hidden")},
    **{f"ce, {n} answers": replace(ARMS["ce"], answers=n) for n in ANSWERS},
}
OWN = {f"projector, {n} clips": replace(ARMS["projector"], answers=n, answered_only=True) for n in ANSWERS}
OTHER_ARMS = (
    ("projector", "looks"),
    ("projector", "change"),
    ("last_hidden", "order"),
    ("last_hidden", "change"),
    ("last_hidden", "looks"),
)
SHARES = {f"projector, {n} % of clips": replace(ARMS["projector"], share=n / 100) for n in (30, 10, 3)}
FLAWED = {
    "noise 0.5": Trial(WEIGHT, noise=0.5),
    "noise 1": Trial(WEIGHT, noise=1.0),
    "clip noise 1": Trial(WEIGHT, clip_noise=1.0),
    "gaps 0.3": Trial(WEIGHT, gaps=0.3),
}
ENDS = {f"{arm}, a third": replace(ARMS[arm], until=1 / 3) for arm in ("projector", "last_hidden")}
HALF = {"projector, half": replace(ARMS["projector"], until=1 / 2)}
AHEAD = {f"{arm}, future": replace(ARMS[arm], targets="future") for arm in ("projector", "last_hidden")}
MEASURED = {f"{arm}, auto": replace(ARMS[arm], targets="auto") for arm in ("projector", "last_hidden")}
OTHERS = {f"{arm}, {name}": replace(ARMS[arm], targets=name) for arm, name in OTHER_ARMS}
POOLED = {"pooled": Trial(WEIGHT, form=HeadForm(form="pooled", output="direction"), loss="l2")}
BEFORE = {"before": Trial(weight=0.0)}
ARMS |= BEFORE | FEW | OWN | FLAWED | ENDS | HALF | AHEAD | MEASURED | OTHERS | SHARES | POOLED
RATE = 5e-4
EARLY = ("speed", "stills")  # phases before the clips that move
LONGER = 4  # times the steps, for `ce` on two seeds
FEWEST_STEPS, MOST_STEPS = 1200, 2000
CLIPS = (2 * LONGER + 8) * MOST_STEPS * SETTING.batch + 200_000  # for ten seeds
SEEDS = 5
FOLLOW_UP_SEEDS = 5
# Runs beside that of the table, by their options
RUNS = ("follow_up", "questions", "captions", "known", "seer", "pretrained", "measured", "other_targets")
FOLLOW_UP_KEPT = 6400  # steps with new clips; 44 GB for five seeds
FOLLOW_UP_CLIPS = FOLLOW_UP_SEEDS * FOLLOW_UP_KEPT * SETTING.batch + 100_000
QUESTIONS_TABLE = ("projector", "ce", "shuffled", "last_hidden")
MAIN_SHARE = 0.6  # of the time, for the cells of the table
SPEED_STEPS = {"cuda": 200, "cpu": 50}
CHUNK = {"cuda": 2048, "cpu": 32}
LESSON_CHUNK = {"cuda": 2048, "cpu": 192}


@dataclass(frozen=True)
class Course:
    """Which clips and questions there are.

    Args:
        start: the starts' folders are `<start>-<seed>`.
        setting: sizes.
        lab: draws the clips.
        splits: of the tests at the end.
        tasks: of each test at the end, with a share of the clips.
        curve: tests of the learning curve, task and clips.
        chunk: clips that are rendered together, on each kind of device; other chunks are other clips.
    """

    start: str
    setting: Setting
    lab: type[Lab]
    splits: tuple[str, ...]
    tasks: dict[str, float]
    curve: dict[str, int]
    chunk: dict[str, int]

    def tests(self, final_clips: int, probes: int = 0) -> list[tuple[str, str, int, int]]:
        """Split, task, number of clips and seed of each test, those of the curve first, those of probes last."""
        curve = [("in_domain", task, count, -1) for task, count in self.curve.items()]
        last = [
            (split, task, int(final_clips * share), -2) for split in self.splits for task, share in self.tasks.items()
        ]
        tasks = [task for task in self.tasks if task != "appearance"] if probes else []
        return curve + last + [(PROBES, task, probes, -3) for task in tasks]

    def make(self, folder: Path, seed: int) -> None:
        """Write the random weights of a seed."""
        if self.start in ("tiny", "known"):
            make_tiny(folder, seed, self.start)
            return
        if self.start in ("seer", "pretrained"):
            make_seer(folder, seed, self.setting, reads=self.start == "pretrained")
            return
        written = self.lab is captions.CaptionLab
        asked = lessons.texts(captions.ASKED) if written else lessons.texts()
        texts = [f"{q.text} Answer: {word}" for q in asked for word in q.options]
        texts += [f"{q.text} Answer: {q.answer}" for q in captions.every_caption()] if written else []
        build_tiny("qwen2_vl", folder / f"{self.start}-{seed}", texts, seed=seed)


WHICH_WAY = Course(
    "tiny", SETTING, Lab, SPLITS, {"which_way": 1.0, "appearance": 0.5}, {"which_way": 384, "appearance": 128}, CHUNK
)
QUESTIONS = Course(
    "questions",
    SETTINGS["questions"],
    lessons.LessonLab,
    lessons.SPLITS,
    dict.fromkeys(lessons.TASKS, 1.0),
    dict.fromkeys(lessons.TASKS, 96),
    LESSON_CHUNK,
)
CAPTIONED = replace(
    QUESTIONS,
    start="captions",
    setting=SETTINGS["captions"],
    lab=captions.CaptionLab,
    tasks=dict.fromkeys(captions.TASKS, 1.0),
    curve=dict.fromkeys(captions.TASKS, 96),
)
KNOWN = replace(WHICH_WAY, start="known", setting=SETTINGS["known"], tasks={"which_way": 0.25, "appearance": 1.0})
SEER = replace(WHICH_WAY, start="seer", setting=SETTINGS["seer"])
PRETRAINED = replace(WHICH_WAY, start="pretrained", setting=SETTINGS["pretrained"])


def course_of(arguments: argparse.Namespace) -> Course:
    """The clips and questions of the run that the command line names."""
    if arguments.seer:
        return SEER
    if arguments.pretrained:
        return PRETRAINED
    if arguments.known:
        return KNOWN
    return CAPTIONED if arguments.captions else QUESTIONS if arguments.questions else WHICH_WAY


def seer_plan(steps: int, seeds: int, rate: float = RATE) -> list[Cell]:
    """List the cells of a run with a pretrained encoder, in the order of their worth."""
    return [Cell("main", arm, rate, seed, steps) for seed in range(1, seeds + 1) for arm in QUESTIONS_TABLE]


def known_plan(steps: int, seeds: int) -> list[Cell]:
    """List the cells of the run whose starts know stills well: what is compared of all seeds, then the rest."""
    arms, of_all = [("before", 0), ("ce", steps), ("projector", steps)], range(1, seeds + 1)
    table = [Cell("main", arm, RATE, seed, count) for seed in of_all for arm, count in arms]
    rest = ("projector, half", "projector_10", "last_hidden")
    return table + [Cell("main", arm, RATE, seed, steps) for arm in rest for seed in of_all]


def captions_plan(steps: int, seeds: int) -> list[Cell]:
    """List the cells of the run with captions, in the order of their worth, behind what each start can do."""
    arms = [("before", 0), *((arm, steps) for arm in QUESTIONS_TABLE)]
    return [Cell("main", arm, RATE, seed, count) for seed in range(1, seeds + 1) for arm, count in arms]


def questions_plan(steps: int, seeds: int) -> list[Cell]:
    """List the cells of the run with many kinds of questions, in the order of their worth."""
    table = [Cell("main", arm, RATE, seed, steps) for seed in range(1, seeds + 1) for arm in QUESTIONS_TABLE]
    rates = [Cell("rates", "ce", rate, seed, steps) for seed in range(1, seeds + 1) for rate in (2e-4, 1e-3)]
    return table + rates


def plan(steps: int, seeds: int) -> list[Cell]:
    """List all cells in the order of their worth."""
    of_all = range(1, seeds + 1)
    table = [Cell("main", arm, RATE, seed, steps) for seed in of_all for arm in TABLE]
    rates = [Cell("rates", "ce", rate, seed, steps) for seed in of_all for rate in SETTING.rates if rate != RATE]
    longer = [Cell("longer", "ce", RATE, seed, LONGER * steps) for seed in of_all[:2]]
    forms = [Cell("more", arm, RATE, seed, steps) for seed in of_all[:3] for arm in FORMS]
    taps = [Cell("more", arm, RATE, seed, steps) for seed in of_all[:3] for arm in REST]
    return table + rates + forms + longer + taps


def follow_up(steps: int) -> list[Cell]:
    """List the cells of the second run in the order of their worth, the long ones first."""
    three = (1, 2, 3)
    forms = [Cell("forms", arm, RATE, seed, 4 * steps) for seed in three for arm in ("deltadirect", "delta", FORMS[2])]
    rates = [
        Cell("forms", arm, rate, 1, 2 * steps) for rate in (1e-4, 1e-3, 2e-3) for arm in ("deltadirect", FORMS[2])
    ]
    few = [Cell("few", arm, RATE, seed, steps) for seed in three for arm in (*FEW, *OWN)]
    errors = [Cell("errors", arm, RATE, seed, steps) for seed in three for arm in ("projector", *FLAWED)]
    ends = [Cell("ends", arm, RATE, seed, steps * 3 // 2) for seed in three for arm in ENDS]
    others = [Cell("others", arm, RATE, seed, steps) for seed in three for arm in (*AHEAD, *POOLED)]
    longer = [
        Cell("longer", "ce", rate, seed, 8 * steps) for rate in (RATE, 2e-4) for seed in range(1, FOLLOW_UP_SEEDS + 1)
    ]
    return forms + rates + few + errors + ends + others + longer


def measured_plan(steps: int, seeds: int) -> list[Cell]:
    """List the cells of the run with measured targets, in the order of their worth."""
    arms = ("projector, auto", "projector", "ce", "last_hidden, auto")
    return [Cell("measured", arm, RATE, seed, steps) for seed in range(1, seeds + 1) for arm in arms]


def others_plan(steps: int, seeds: int) -> list[Cell]:
    """List the cells of the run with targets that are no motion, in the order of their worth."""
    arms, of_all = ("projector", "ce", "shuffled", *OTHERS, "last_hidden"), range(1, seeds + 1)
    others = [Cell("others", arm, RATE, seed, steps) for seed in of_all for arm in arms]
    return others + [Cell("shares", arm, RATE, seed, 2 * steps) for seed in of_all for arm in SHARES]


def all_cells(arguments: argparse.Namespace, steps: int, seeds: int) -> list[Cell]:
    """List the cells of the run that the command line names."""
    if arguments.seer:
        return seer_plan(steps, seeds)
    if arguments.pretrained:
        return seer_plan(steps, seeds, PRETRAINED.setting.rates[0])
    if arguments.known:
        return known_plan(steps, seeds)
    if arguments.captions:
        return captions_plan(steps, seeds)
    if arguments.questions:
        return questions_plan(steps, seeds)
    if arguments.measured:
        return measured_plan(steps, seeds)
    if arguments.other_targets:
        return others_plan(steps, seeds)
    return follow_up(steps) if arguments.follow_up else plan(steps, seeds)


def cells_to_run(arguments: argparse.Namespace, steps: int, seeds: int) -> list[Cell]:
    """List those of the arms that the command line names, in its order."""
    cells = all_cells(arguments, steps, seeds)
    if not arguments.arms:
        return cells
    order = {arm: number for number, arm in enumerate(arguments.arms)}
    some = [cell for cell in cells if cell.arm in order and cell.seed <= arguments.seeds]
    return sorted(some, key=lambda cell: (cell.seed, order[cell.arm]))


def choose(speed: float, seconds: float, seeds: int) -> tuple[int, int]:
    """Choose steps of a cell, and seeds, for so many steps per second in all; fewer seeds rather than too few."""
    for number in range(seeds, 2, -1):
        steps = int(MAIN_SHARE * seconds * speed / (number * len(TABLE))) // 100 * 100
        if steps >= FEWEST_STEPS:
            break
    return max(min(steps, MOST_STEPS), FEWEST_STEPS), number


class Process:
    """What one process has: the lab, the starts, and models in their slots.

    Args:
        folder: of the starts.
        device: "cuda" or "cpu".
        graphs: record each step; all clips then stay, for several cells at a time use them.
        clips: room for clips of training.
        final_clips: of each test at the end.
        keeps: clips stay without graphs, too.
        course: clips and questions.
        probes: clips of each task for linear probes of each stage; 0 for none.
        sources: of `SOURCES`, of targets that clips of training have, too.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        graphs: bool,
        clips: int,
        final_clips: int,
        keeps: bool = False,
        course: Course = WHICH_WAY,
        probes: int = 0,
        sources: tuple[str, ...] = (),
    ) -> None:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("high")
        self.folder, self.graphs, self.steps, self.longer, self.keeps = folder, graphs, 0, 2, keeps
        photos = torch.from_numpy(np.load(folder / "photos.npy"))
        self.course, first = course, folder / f"{course.start}-0"
        self.lab = course.lab(first, course.setting, photos, UNSEEN_PHOTOS, device, clips, course.chunk[device])
        self.lab.add_tests(course.tests(final_clips, probes))
        for source in sources:
            self.lab.store.make_room(source)
        self.start = load_start(first, device)
        self.idle: dict[str, list[Slot]] = {}
        self.states: dict[Path, dict[str, Tensor]] = {}
        self.pools: dict[tuple[str, int], Pool] = {}
        self.used = 0

    def state(self, cell: Cell) -> dict[str, Tensor]:
        """The weights that a cell starts from."""
        file = (
            self.folder
            / f"{self.course.start}-{cell.seed}"
            / ("model.safetensors" if cell.phase in EARLY else "taught.pt")
        )
        if file not in self.states:
            if cell.phase in EARLY:
                self.states[file] = load_start(file.parent, self.lab.device).state_dict()
            else:
                self.states[file] = torch.load(file, map_location=self.lab.device)
        return self.states[file]

    def pool(self, cell: Cell) -> Pool:
        """The clips of a cell."""
        task, room = "stills" if cell.phase in EARLY else "mixed", len(self.lab.store.question)
        if not self.graphs:
            if (task, cell.seed) not in self.pools or not self.keeps:  # else the arms of a seed share its clips
                self.pools = {(task, cell.seed): Pool(self.lab, task, cell.seed, 0, room, self.keeps)}
            return self.pools[task, cell.seed]
        if (task, cell.seed) not in self.pools:
            steps = cell.steps if cell.phase in EARLY else self.steps * (LONGER if cell.seed <= self.longer else 1)
            length = -(-steps * SETTING.batch // self.lab.chunk) * self.lab.chunk
            if self.used + length > room:
                raise MemoryError(f"no room for the clips of seed {cell.seed}")
            self.pools[task, cell.seed] = Pool(self.lab, task, cell.seed, self.used, length, True)
            self.used += length
        return self.pools[task, cell.seed]

    def begin(self, cell: Cell, until: float) -> Iterator[None]:
        """Train a cell in a slot that is free, or a new one; returns its row."""
        arm = ARMS[cell.arm]
        free = self.idle.setdefault(arm.graph, [])
        slot = free.pop() if free else Slot(self.lab, self.start, arm, self.graphs)
        row = yield from slot.work(cell, arm, self.state(cell), self.pool(cell), until)
        if cell.phase == "stills" and row["done"] == cell.steps:
            self.keep(cell, {n: value for n, value in slot.model.state_dict().items() if "motion_head" not in n})
        free.append(slot)
        return row

    def keep(self, cell: Cell, state: dict[str, Tensor]) -> None:
        """Keep what a seed's stills have taught."""
        file = self.folder / f"{self.course.start}-{cell.seed}" / "taught.pt"
        torch.save(state, file.with_suffix(".part"))
        os.replace(file.with_suffix(".part"), file)

    def run(self, cells: list[Cell], at_once: int, until: float) -> Iterator[dict[str, Any]]:
        """Train cells, some at a time; yields each one's row at its end. What cannot end in time is left out."""
        waiting, busy, pace = list(cells), [], 0.0
        while waiting or busy:
            while waiting and len(busy) < at_once:
                cell = waiting.pop(0)
                if time.monotonic() + 0.9 * pace * cell.steps < until:
                    busy.append(self.begin(cell, until))
            for work in list(busy):
                try:
                    next(work)
                except StopIteration as end:
                    busy.remove(work)
                    pace = end.value["seconds"] / max(end.value["done"], 1)
                    yield end.value


PROCESS: Process


def set_up(*arguments: Any) -> None:
    """Make the process of a worker."""
    global PROCESS
    PROCESS = Process(*arguments)


def run_one(cell: Cell, until: float, clock: float) -> dict[str, Any] | None:
    """Train one cell in a worker; nothing where it cannot end in time.

    Args:
        cell: what to train.
        until: a moment of the parent's `time.time`.
        clock: seconds of a step that were measured.
    """
    if time.time() + clock * cell.steps > until:
        return None
    (row,) = PROCESS.run([cell], 1, time.monotonic() + until - time.time())
    return row


class Runner:
    """Runs cells in one process with graphs, or in several without.

    Args:
        arguments: of the command line.
        graphs: in one process.
        processes: else so many.
        device: "cuda" or "cpu".
    """

    def __init__(self, arguments: argparse.Namespace, graphs: bool, processes: int, device: str) -> None:
        self.at_once = arguments.slots if graphs else processes
        course = course_of(arguments)
        chunk = course.chunk[device]
        self.step_seconds, self.steps = 0.0, SPEED_STEPS[device]
        clips = AT_ONCE * SETTING.batch
        if arguments.follow_up:  # room for what the longest cell sees, or a cell with most answers
            longest = 1 if arguments.arms and {*arguments.arms} <= {*FEW, *OWN} else 8
            steps = max(longest * (arguments.steps or MOST_STEPS), SETTING.stills_steps)
            clips = max(steps * SETTING.batch, max(ANSWERS))
        sources = ("auto",) if arguments.measured else NO_MOTION if arguments.other_targets else ()
        keeps = arguments.follow_up or course is not WHICH_WAY or bool(sources)
        if course is not WHICH_WAY or sources:
            clips = (arguments.steps or MOST_STEPS) * course.setting.batch * (1 + arguments.other_targets)
        room = (-(-clips // chunk) + (chunk > SETTING.batch)) * chunk  # a larger chunk reaches further ahead
        if graphs:
            room = FOLLOW_UP_CLIPS if arguments.follow_up else CLIPS
        options = (arguments.folder, device, graphs, room, arguments.final_clips, keeps, course, arguments.probes)
        options += (sources,)
        self.process = Process(*options) if graphs else None
        if not graphs:
            context = multiprocessing.get_context("spawn")
            self.workers = ProcessPoolExecutor(processes, context, set_up, options)

    def run(self, cells: list[Cell], until: float) -> Iterator[dict[str, Any]]:
        """Yield rows as cells end; `until` is a moment of `time.time`."""
        if self.process:
            yield from self.process.run(cells, self.at_once, time.monotonic() + until - time.time())
            return
        jobs = [self.workers.submit(run_one, cell, until, self.step_seconds) for cell in cells]
        for job in as_completed(jobs):
            if job.result():
                yield job.result()

    def speed(self) -> float:
        """Measure steps per second of all cells at a time."""
        cells = [Cell("speed", "projector", RATE, 0, self.steps) for _ in range(self.at_once)]
        list(self.run(cells, time.time() + 600))  # makes the slots
        rows = list(self.run(cells, time.time() + 600))
        seconds = max(row["seconds"] for row in rows)
        self.step_seconds = seconds / self.steps
        return len(rows) * self.steps / seconds


def main() -> None:
    """Run what is missing in OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the photos; the starts are written there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mode", choices=["graphs", "processes"], help="graphs are tried first where not given")
    parser.add_argument("--seconds", type=float, default=440, help="for everything")
    parser.add_argument("--steps", type=int, help="of each cell, instead of what fits")
    parser.add_argument("--seeds", type=int, help="1 to this one; 5, or those that --out has, where not given")
    parser.add_argument("--slots", type=int, help="cells at a time, with graphs (20; 12 with --follow-up)")
    runs = parser.add_mutually_exclusive_group()
    runs.add_argument("--follow-up", action="store_true", help="the cells of the second run; --seeds counts not")
    parser.add_argument("--arms", nargs="+", help="all cells of these arms, in this order: 'ce, 256 answers' ...")
    parser.add_argument("--probes", type=int, default=0, help="clips of each task for linear probes of each stage")
    runs.add_argument("--questions", action="store_true", help="many kinds of questions; README.md, the third run")
    runs.add_argument("--captions", action="store_true", help="captions beside questions; on a CPU")
    runs.add_argument("--known", action="store_true", help="starts that know stills well: what is forgotten?")
    runs.add_argument("--seer", action="store_true", help="with a pretrained encoder; `start.py build` comes first")
    runs.add_argument("--pretrained", action="store_true", help="that, and a pretrained decoder; hours on a core")
    runs.add_argument("--measured", action="store_true", help="targets as `auto` measures them; on a CPU")
    runs.add_argument("--other-targets", action="store_true", help="targets that are no motion; on a CPU")
    parser.add_argument("--processes", type=int, default=max(len(os.sched_getaffinity(0)) - 1, 1))
    parser.add_argument("--final-clips", type=int, default=512)
    arguments = parser.parse_args()
    for name in ("seeds", "steps", "slots", "processes", "final_clips"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {number}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has none that torch can use; --device cpu takes the cores")
    plan = plan_of(arguments.out, start_of(arguments), run_of(arguments))
    arguments.seeds = arguments.seeds or plan.get("seeds", SEEDS)
    if not (photos := arguments.folder / "photos.npy").exists():
        parser.error(f"{photos} does not exist: `start.py photos` makes it")
    arms = {cell.arm: None for cell in all_cells(arguments, 1, arguments.seeds)}
    if unknown := [arm for arm in arguments.arms or () if arm not in arms]:
        parser.error(f"--arms: not in this run: {'; '.join(unknown)}; choose some of {'; '.join(arms)}")
    if arguments.follow_up and not arguments.arms:
        arguments.seeds = FOLLOW_UP_SEEDS
    arguments.slots = arguments.slots or (12 if arguments.follow_up else 20)
    arguments.out.mkdir(parents=True, exist_ok=True)
    Experiment(arguments, plan).run()


def keep_row(row: dict[str, Any], out: Path, log: Log) -> None:
    """Append the row of a cell that has ended to `cells.jsonl`, of one that was cut to `cut.jsonl`, and log it."""
    row["done_at"] = round(log.seconds(), 1)
    name = "cells" if row["done"] == row["steps"] else "cut"
    with (out / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    step = max(len(row["curve"]) // 8, 1)
    ways = " ".join(f"{point['which_way_4']:.2f}" for point in row["curve"][::step])
    last = row["curve"][-1]
    log(
        f"{row['phase']} {row['arm']} {row['rate']:g} seed {row['seed']}, {row['done']} steps: "
        f"which way {ways}, appearance {last['appearance']:.2f}, "
        f"epe {last.get('epe', math.nan):.2f} of {last.get('epe_zero', math.nan):.2f} px, {row['seconds']} s"
    )


def start_of(arguments: argparse.Namespace) -> str:
    """What a run's rows call their start."""
    start = course_of(arguments).start
    return start if start in ("tiny", "pretrained") else f"tiny_{start}"


def run_of(arguments: argparse.Namespace) -> str:
    """The name of the run that the command line asks for: that of its option, or `table`."""
    return next((name for name in RUNS if getattr(arguments, name)), "table")


class Experiment:
    """The order of everything.

    Args:
        arguments: of the command line.
        plan: of an earlier start.
    """

    def __init__(self, arguments: argparse.Namespace, plan: dict[str, Any]) -> None:
        self.arguments, self.plan, self.log = arguments, plan, Log()
        self.end = time.time() + arguments.seconds
        self.plan_file = arguments.out / "plan.json"
        self.have = self.ended()

    def ended(self) -> set[tuple[Any, ...]]:
        """The keys of the cells that have a row."""
        return {tuple(row[name] for name in Cell.__dataclass_fields__) for row in cells_of(self.arguments.out)}

    def note(self, **entries: Any) -> None:
        """Add to the plan and write it."""
        self.plan |= entries
        self.plan_file.write_text(json.dumps(self.plan, indent=1) + "\n")

    def run(self) -> None:
        """Do what is missing."""
        arguments, log = self.arguments, self.log
        course = course_of(arguments)
        setting = course.setting
        job = {"start": start_of(arguments), "setting": asdict(setting)}
        self.note(run=run_of(arguments), job=job, environment=environment(arguments.device))
        for seed in range(arguments.seeds + 1):
            if not (arguments.folder / f"{course.start}-{seed}" / "processor_config.json").exists():
                course.make(arguments.folder, seed)
        log("untaught starts")
        if arguments.measured and "targets" not in self.plan:
            collator = Collator(arguments.folder / f"{course.start}-0", SETTING, "cpu")
            photos = torch.from_numpy(np.load(arguments.folder / "photos.npy"))
            studio = Studio(photos, UNSEEN_PHOTOS, SETTING.side, SETTING.frames, "cpu")
            clips = studio.render(256, "in_domain", "mixed", -4)
            self.note(targets=target_errors(clips, collator.grid(SETTING.frames)))
        runner = self.runner()
        seeds = range(1, arguments.seeds + 1)
        stills = [Cell("stills", "ce", setting.stills_rate, seed, setting.stills_steps) for seed in seeds]
        taught = arguments.folder / course.start
        self.do(runner, [cell for cell in stills if not Path(f"{taught}-{cell.seed}", "taught.pt").exists()])
        steps, number = arguments.steps or self.plan.get("steps"), arguments.seeds
        if not steps and arguments.follow_up:
            steps = MOST_STEPS
        elif not steps:
            steps, number = choose(self.plan["steps_per_second"], self.end - time.time(), number)
        # longer cells come beside those that are there
        self.note(steps=self.plan.get("steps", steps), seeds=max(self.plan.get("seeds", 1), number))
        log(f"{steps} steps, {number} seeds")
        if runner.process:
            runner.process.steps = steps
            if arguments.follow_up:
                runner.process.steps, runner.process.longer = FOLLOW_UP_KEPT, 0
            if course is not WHICH_WAY:
                runner.process.longer = 0
        before, cells = len(self.have), cells_to_run(arguments, steps, number)
        self.do(runner, cells)
        if left := sum(cell.key not in self.have for cell in cells):
            log(f"{left} of {len(cells)} cells have not ended in --seconds: the same command goes on")
            if len(self.have) == before:
                raise SystemExit(1)
        log("done")

    def runner(self) -> Runner:
        """Graphs on a GPU where they work; else processes on the cores."""
        arguments, log = self.arguments, self.log
        runner = None
        if arguments.device == "cuda" and arguments.mode != "processes":
            try:
                runner = Runner(arguments, True, 1, "cuda")
                log("lab")
                speed = runner.speed()
                self.note(mode="graphs", steps_per_second=speed)
            except Exception:
                log(f"no graphs: {traceback.format_exc()}")
                if arguments.mode == "graphs":
                    raise
                runner = None
                torch.cuda.empty_cache()
        if runner is None:
            device = arguments.device if arguments.mode else "cpu"
            runner = Runner(arguments, False, arguments.processes, device)
            self.note(mode=f"processes, {device}")
            if not arguments.steps:  # else nothing is to be chosen, and a cell that does not end is cut
                self.note(steps_per_second=runner.speed())
        speed = self.plan.get("steps_per_second")
        log(f"{self.plan['mode']}: {runner.at_once} at a time" + (f", {speed:.1f} steps/s in all" if speed else ""))
        return runner

    def do(self, runner: Runner, cells: list[Cell]) -> None:
        """Run the cells that have no row yet."""
        missing = [cell for cell in cells if cell.key not in self.have]
        for row in runner.run(missing, self.end):
            keep_row(row, self.arguments.out, self.log)
        self.have = self.ended()


if __name__ == "__main__":
    main()
