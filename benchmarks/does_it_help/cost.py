"""What does a step cost with motion? Floating-point operations, and CPU time, beside the model without a motion head.

    python benchmarks/does_it_help/start.py photos           # once, with a network; `pack` as well for the reader
    python benchmarks/does_it_help/cost.py [--starts tiny reader] [--rounds 15]

A step is forward and backward over one batch, and AdamW; drawing the clips and making their targets is not counted.
Operations are those of matrix products, convolutions and attention, as torch counts them (a product and a sum are
two). CPU time is taken in turns.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import Studio
from learning import IGNORE, SETTINGS, Collator, Setting, arm_groups, load_start, make_arm, make_optimizer
from run import environment, make_tiny
from start import FOLDER, UNSEEN_PHOTOS, build
from tiny import ARMS
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


RESULTS = Path(__file__).parent / "results" / "cost.json"
ARMS_SHOWN = ("projector", "layer_1", "last_hidden")
CLIPS = {"tiny": 32, "reader": 8}


def plain_step(start: Any, inputs: dict[str, Tensor], setting: Setting) -> Callable[[], None]:
    """A step of the model without a motion head."""
    model = copy.deepcopy(start)
    optimizer = make_optimizer([(list(model.parameters()), setting.rates[0])], setting.memory)
    kept = {name: value for name, value in inputs.items() if not name.startswith("motion_")}

    def step() -> None:
        model(**kept).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def arm_step(start: Any, name: str, inputs: dict[str, Tensor], setting: Setting) -> Callable[[], None]:
    """A step of an arm."""
    arm = ARMS[name]
    model = make_arm(start, arm, setting)
    optimizer = make_optimizer(arm_groups(model, setting.rates[0], setting), setting.memory)

    def step() -> None:
        output = model(**inputs)
        text = output.ce_sum / (inputs["labels"] != IGNORE).sum()
        motion = output.motion_sum / inputs["motion_mask"].sum().clamp(min=1)
        (text + arm.weight * motion).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(start: Any, collator: Collator, studio: Studio, count: int, rounds: int) -> list[dict[str, Any]]:
    """A row for the plain model and for each arm.

    Args:
        start: the plain model.
        collator: makes the batch.
        studio: draws its clips.
        count: of clips.
        rounds: of timing, all arms in turns.
    """
    inputs = collator(studio.render(count, "in_domain", "mixed", 1)).inputs
    steps = {"no motion head": plain_step(start, inputs, collator.setting)}
    steps |= {name: arm_step(start, name, inputs, collator.setting) for name in ARMS_SHOWN}
    rows, seconds = [], {name: [] for name in steps}  # type: list[dict[str, Any]], dict[str, list[float]]
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        rows.append({"arm": name, "flops": counter.get_total_flops()})
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            seconds[name].append(time.process_time() - begin)
    base = np.array(seconds["no motion head"])
    for row in rows:
        taken = np.array(seconds[row["arm"]])
        row["cpu_seconds"] = round(float(np.median(taken)), 4)
        for name, share in (("ratio_low", 25), ("ratio", 50), ("ratio_high", 75)):
            row[name] = round(float(np.percentile(taken / base, share)), 3)
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=CLIPS, default=list(CLIPS))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the photos and the pack")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos = torch.from_numpy(np.load(arguments.folder / "photos.npy"))
    rows = []
    for name in arguments.starts:
        folder, setting = arguments.folder / f"{name}-0", SETTINGS[name]
        if not (folder / "processor_config.json").exists():
            make_tiny(arguments.folder, 0) if name == "tiny" else build(arguments.folder, folder, small=True)
        start = load_start(folder, "cpu").train()
        studio = Studio(photos, UNSEEN_PHOTOS, setting.side, setting.frames, "cpu")
        found = measure(start, Collator(folder, setting, "cpu"), studio, CLIPS[name], arguments.rounds)
        weights = sum(parameter.numel() for parameter in start.parameters())
        rows += [{"start": name, "weights": weights, "clips": CLIPS[name], **row} for row in found]
    written = environment("cpu") | {"rounds": arguments.rounds, "rows": rows}
    arguments.out.write_text(json.dumps(written, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
