"""Does motion help a decoder that can read already, behind an encoder that has seen nothing? One GPU.

    python benchmarks/does_it_help/start.py pack                   # once, with a network
    python benchmarks/does_it_help/reader.py --seconds 420 --out benchmarks/does_it_help/results/reader
    python benchmarks/does_it_help/reader.py --device cpu --rehearse --out /tmp/reader        # a few steps of all

The decoder is SmolLM2-135M-Instruct. The encoder is of Qwen2-VL's kind, with random weights, other ones for each seed.
README.md holds what is compared and was written before the run. In this order: all seeds learn stills; `ce` and
`projector` try each learning rate on a seed of their own; what time is left gives the steps of the cells that count,
and the seeds where --seeds does not. A second run with the same OUT goes on behind the rows that are there.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import many
import torch
from aggregate import cells_of, plan_of
from learning import SETTINGS, Cell
from run import TUNED, Log, environment
from start import FOLDER, build, draw_small
from tiny import EARLY, TABLE, WHICH_WAY, Process, keep_row
from torch import Tensor

from motiontune.model.start import scale_projector


COURSE = replace(WHICH_WAY, start="reader", setting=SETTINGS["reader"])
SETTING = COURSE.setting
SEEDS, TUNING_SEED = 3, 101
TUNING_STEPS, FEWEST_STEPS, MOST_STEPS = 600, 1200, 3000
MARGIN = 0.85  # of the time that is left, for the cells of the table


class Reader(Process):
    """As for `tiny.py`; the weights of a seed are those of the start with another encoder."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.taught: dict[int, dict[str, Tensor]] = {}

    def state(self, cell: Cell) -> dict[str, Tensor]:
        """The weights that a cell starts from."""
        if cell.phase not in EARLY:
            return self.taught[cell.seed]
        self.start.model.visual.load_state_dict(draw_small(cell.seed).weights, strict=False)
        torch.manual_seed(cell.seed)
        clips = self.lab.studio.render(64, "in_domain", "stills", -1)
        seen = self.lab.collator(clips).inputs
        scale_projector(self.start, seen["pixel_values_videos"], seen["video_grid_thw"].to(self.lab.device))
        return {name: value.clone() for name, value in self.start.state_dict().items()}

    def keep(self, cell: Cell, state: dict[str, Tensor]) -> None:
        """Keep what a seed's stills have taught, in memory."""
        self.taught[cell.seed] = {name: value.clone() for name, value in state.items()}


def table(rates: dict[str, float], steps: int, seeds: int) -> list[Cell]:
    """List the cells that count in the order of their worth; behind the table the other rates of `ce`."""
    of_all = range(1, seeds + 1)
    cells = [Cell("main", arm, rates.get(arm, rates["projector"]), seed, steps) for seed in of_all for arm in TABLE]
    others = [rate for rate in SETTING.rates if rate != rates["ce"]]
    return cells + [Cell("rates", "ce", rate, seed, steps) for seed in of_all for rate in others]


class Experiment:
    """The order of everything.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.log = arguments, Log()
        self.out: Path = arguments.out
        self.plan = plan_of(self.out, COURSE.start)
        self.rows = cells_of(self.out)
        folder = arguments.folder / f"{COURSE.start}-0"
        if not (folder / "processor_config.json").exists():
            build(arguments.folder, folder, small=True)
        graphs = arguments.device == "cuda"
        clips = (SEEDS * MOST_STEPS + TUNING_STEPS + (SEEDS + 2) * SETTING.stills_steps) * SETTING.batch + 50_000
        room = clips if graphs else 64
        course, finals = COURSE, 512
        if arguments.rehearse:
            many.TEST = finals = 16
            setting = replace(SETTING, batch=SETTING.batch if graphs else 4)
            course = replace(COURSE, setting=setting, curve=dict.fromkeys(COURSE.curve, finals))
        self.process = Reader(arguments.folder, arguments.device, graphs, room, finals, False, course)
        self.process.longer = 0
        self.note(job={"start": COURSE.start, "setting": asdict(SETTING)}, environment=environment(arguments.device))
        self.log("lab")

    def note(self, **entries: Any) -> None:
        """Add to the plan and write it."""
        self.plan |= entries
        (self.out / "plan.json").write_text(json.dumps(self.plan, indent=1) + "\n")

    def run(self) -> None:
        """Do what is missing."""
        if "steps" not in self.plan:
            self.tune()
        plan, seeds = self.plan, self.arguments.seeds or self.plan["seeds"]
        self.note(seeds=max(seeds, plan["seeds"]))
        have = {tuple(row[name] for name in Cell.__dataclass_fields__) for row in self.rows}
        missing = [cell for cell in table(plan["rates"], plan["steps"], seeds) if cell.key not in have]
        self.teach(sorted({cell.seed for cell in missing} - self.process.taught.keys()))
        self.process.steps = plan["steps"]
        self.do(missing)
        if self.arguments.device == "cuda":
            self.log(f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB at most")
        self.log("done")

    def teach(self, seeds: list[int]) -> None:
        """Teach the starts of seeds stills."""
        steps = 2 if self.arguments.rehearse else SETTING.stills_steps
        self.do([Cell("stills", "ce", SETTING.stills_rate, seed, steps) for seed in seeds])

    def tune(self) -> None:
        """Choose learning rates, then by the time that is left steps, and seeds."""
        rehearsed = self.arguments.rehearse
        tuning = 3 if rehearsed else TUNING_STEPS
        self.teach([TUNING_SEED, *range(1, SEEDS + 1)])
        self.process.steps, begin = tuning, time.monotonic()
        tries = [Cell("tune", arm, rate, TUNING_SEED, tuning) for rate in SETTING.rates for arm in TUNED]
        self.do(tries)
        speed = len(tries) * tuning / (time.monotonic() - begin)
        rates = {arm: self.best_rate(arm) for arm in TUNED}
        left = self.arguments.seconds - self.log.seconds()
        steps, number = 3, 1
        for number in [] if rehearsed else range(SEEDS, 0, -1):
            steps = int(MARGIN * left * speed / (number * len(TABLE))) // 100 * 100
            if steps >= FEWEST_STEPS:
                break
        steps = min(steps, MOST_STEPS)
        self.note(rates=rates, steps_per_second=speed, steps=steps, seeds=number)
        self.log(f"{speed:.1f} steps/s, rates {rates}: {steps} steps, {number} seeds")

    def best_rate(self, arm: str) -> float:
        """The rate of tuning with the lowest which-way loss at the end."""
        rows = [row for row in self.rows if row["phase"] == "tune" and row["arm"] == arm]
        rate: float = min(rows, key=lambda row: row["curve"][-1]["which_way_loss"])["rate"]
        return rate

    def do(self, cells: list[Cell]) -> None:
        """Run cells, each if it can end in time."""
        until = time.monotonic() + self.arguments.seconds - self.log.seconds()
        for row in self.process.run(cells, self.arguments.slots, until):
            self.rows.append(row)
            keep_row(row, self.out, self.log)


def main() -> None:
    """Run what is missing in OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the pack; the starts are written there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=420, help="for everything")
    parser.add_argument("--seeds", type=int, choices=range(1, SEEDS + 1), help="instead of what fits")
    parser.add_argument("--slots", type=int, default=6, help="cells at a time")
    parser.add_argument("--rehearse", action="store_true", help="a few steps of everything")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    Experiment(arguments).run()


if __name__ == "__main__":
    main()
