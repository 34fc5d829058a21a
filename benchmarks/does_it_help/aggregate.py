"""From cells to the tables and the plot.

    python benchmarks/does_it_help/aggregate.py benchmarks/does_it_help/results/{gpu,tiny}

Reads cells.jsonl and plan.json of each folder. Writes there differences.json (each arm against `ce`, clip by clip),
breakthroughs.json (after how many steps an arm leaves chance) and curves.svg, and beside the folders main.json, with a
row for each arm, task and split of all of them. All clips of a test are the same for all arms and seeds.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


DRAWS = 2000
TASKS = {
    "which_way_4": ("which_way", "right"),
    "moving_or_still": ("which_way", "still_right"),
    "appearance": ("appearance", "right"),
}
COLOURS = {"ce": "#666666", "projector": "#d1495b", "last_hidden": "#00798c", "shuffled": "#edae49"}


def bits(row: dict[str, Any], split: str, task: str) -> NDArray[np.float64]:
    """Right or not, float64 [clips]."""
    part, key = TASKS[task]
    return np.array([float(bit) for bit in row["final"][split][part][key]])


def interval(table: NDArray[np.float64], random: np.random.Generator) -> tuple[float, float, float]:
    """Mean of [seeds, clips] with a 95 % interval: seeds and clips are drawn again with replacement, both at once."""
    seeds, clips = table.shape
    means = [
        table[random.integers(seeds, size=seeds)][:, random.integers(clips, size=clips)].mean() for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return round(float(table.mean()), 4), round(float(low), 4), round(float(high), 4)


class Group(NamedTuple):
    """Cells that differ in their seed alone."""

    arm: str
    rate: float
    steps: int


def read(folder: Path) -> tuple[dict[str, Any], dict[Group, dict[int, dict[str, Any]]]]:
    """Read what is known of a run, and its groups of cells: for each seed its row."""
    plan = json.loads((folder / "plan.json").read_text())
    about = {"start": plan["job"]["start"]} | {
        key: plan["environment"][key] for key in ("date", "machine", "versions")
    }
    groups: dict[Group, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in (folder / "cells.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["final"]:
            groups[Group(row["arm"], row["rate"], row["steps"])][row["seed"]] = row
    return about, groups


def aggregate(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make a folder's rows of main.json and differences.json.

    Each group is compared with the `ce` of as many steps, at the learning rate with which `ce` does best on which way
    in domain, and with the longest `ce`, where that is another.
    """
    about, groups = read(folder)
    random = np.random.default_rng(0)
    in_domain = {
        group: np.mean([bits(row, "in_domain", "which_way_4").mean() for row in seeds.values()])
        for group, seeds in groups.items()
        if group.arm == "ce"
    }
    longest = max((group for group in in_domain), key=lambda group: group.steps)
    table, differences = [], []
    for group, seeds in groups.items():
        alike = [other for other in in_domain if other.steps == group.steps]
        others = {max(alike, key=lambda other: in_domain[other]): None} if alike else {}
        others |= {longest: None}
        first = next(iter(seeds.values()))
        for task in TASKS:
            for split in first["final"]:
                scores = {seed: bits(row, split, task) for seed, row in seeds.items()}
                mean, low, high = interval(np.stack(list(scores.values())), random)
                what = {
                    "arm": group.arm,
                    "task": task,
                    "split": split,
                    "steps": group.steps,
                    "learning_rate": group.rate,
                }
                table.append(
                    about
                    | what
                    | {"seeds": sorted(seeds), "clips": len(next(iter(scores.values())))}
                    | {"accuracy": mean, "low": low, "high": high}
                    | {"each_seed": {str(seed): round(float(score.mean()), 4) for seed, score in scores.items()}}
                )
                for other in others:
                    common = sorted(set(seeds) & set(groups[other]))
                    if group.arm == "ce" or not common:
                        continue
                    pairs = np.stack([scores[seed] - bits(groups[other][seed], split, task) for seed in common])
                    mean, low, high = interval(pairs, random)
                    against = {"against": "ce", "against_rate": other.rate, "against_steps": other.steps}
                    each = {str(seed): round(float(pair.mean()), 4) for seed, pair in zip(common, pairs, strict=True)}
                    found = {"seeds": common, "difference": mean, "low": low, "high": high, "each_seed": each}
                    differences.append(what | against | found)
    return table, differences


def breakthroughs(folder: Path) -> list[dict[str, Any]]:
    """Find after how many steps each cell answers half of the which-way questions, twice in a row; None: never."""
    found = []
    for line in (folder / "cells.jsonl").read_text().splitlines():
        row = json.loads(line)
        if not row["final"]:
            continue
        curve = row["curve"]
        over = [point["which_way_4"] >= 0.5 for point in curve]
        steps = [p["step"] for p, now, then in zip(curve, over, over[1:] + over[-1:], strict=True) if now and then]
        cell = {key: row[key] for key in ("arm", "rate", "seed", "steps")}
        found.append(cell | {"breakthrough": steps[0] if steps else None})
    return sorted(found, key=lambda cell: (cell["arm"], cell["rate"], cell["steps"], cell["seed"]))


def draw(folder: Path) -> None:
    """Draw accuracy against steps, a line for each cell, and the same for appearance."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "does it help"
    import matplotlib.pyplot as plt

    _, groups = read(folder)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True, sharey=True)
    for axis, key, title in zip(axes, ("which_way_4", "appearance"), ("which way", "colour, shape"), strict=True):
        named = set()
        for group, seeds in groups.items():
            for row in seeds.values():
                steps, values = zip(*((point["step"], point[key]) for point in row["curve"]), strict=True)
                name = f"{group.arm}, {group.rate:g}"
                label = None if name in named else name
                colour = COLOURS.get(group.arm, "#6a4c93")
                axis.plot(steps, values, color=colour, linewidth=1.1, alpha=0.75, label=label)
                named.add(name)
        axis.axhline(0.25, color="black", linewidth=0.6, linestyle=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("steps")
        axis.set_ylim(0, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy")
    axes[0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "curves.svg", metadata={"Date": None})


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    whole: list[dict[str, Any]] = []
    for folder in parser.parse_args().folders:
        table, differences = aggregate(folder)
        write(folder / "differences.json", differences)
        write(folder / "breakthroughs.json", breakthroughs(folder))
        draw(folder)
        whole += table
        for row in table + differences:
            value = row.get("accuracy", row.get("difference"))
            against = f" minus ce, {row['against_steps']} steps" if "against" in row else ""
            numbers = f"{value:+.3f} ({row['low']:+.3f}, {row['high']:+.3f})"
            name = f"{row['arm']} {row['learning_rate']:g}, {row['steps']} steps{against}"
            print(f"{name:52} {row['task']:16} {row['split']:15} {numbers}")
    newest = max(whole, key=lambda row: row["date"])
    about = {key: newest[key] for key in ("date", "machine", "versions")}
    lines = ",\n".join(json.dumps(row) for row in whole)
    (folder.parent / "main.json").write_text(json.dumps(about)[:-1] + ', "rows": [\n' + lines + "\n]}\n")


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, one a line."""
    file.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
