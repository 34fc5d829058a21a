"""From cells to the table and the plot.

    python benchmarks/does_it_help/aggregate.py benchmarks/does_it_help/results/h100

Reads cells.jsonl and plan.json of the folder. Writes main.json (a row for each arm, task and split), differences.json
(each arm against `ce`, clip by clip) and curves.svg there. All clips of a test are the same for all arms and seeds.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

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


def aggregate(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the rows of main.json and differences.json."""
    plan = json.loads((folder / "plan.json").read_text())
    rows = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["phase"] == "main"]
    arms: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        arms[row["arm"]][row["seed"]] = row
    about = {"start": plan["job"]["start"]} | {
        key: plan["environment"][key] for key in ("date", "machine", "versions")
    }
    random = np.random.default_rng(0)
    table, differences = [], []
    for arm, seeds in arms.items():
        first = next(iter(seeds.values()))
        common = sorted(set(seeds) & set(arms["ce"]))
        for task in TASKS:
            for split in first["final"]:
                scores = {seed: bits(row, split, task) for seed, row in seeds.items()}
                mean, low, high = interval(np.stack(list(scores.values())), random)
                what = {
                    "arm": arm,
                    "task": task,
                    "split": split,
                    "steps": first["steps"],
                    "learning_rate": first["rate"],
                }
                table.append(
                    about
                    | what
                    | {"seeds": sorted(seeds), "clips": len(scores[first["seed"]])}
                    | {"accuracy": mean, "low": low, "high": high}
                    | {"each_seed": {str(seed): round(float(score.mean()), 4) for seed, score in scores.items()}}
                )
                if arm != "ce" and common:
                    pairs = np.stack([scores[seed] - bits(arms["ce"][seed], split, task) for seed in common])
                    mean, low, high = interval(pairs, random)
                    found = {"seeds": common, "difference": mean, "low": low, "high": high}
                    differences.append(what | {"against": "ce"} | found)
    return table, differences


def draw(folder: Path) -> None:
    """Draw accuracy against steps, a line for each seed, and the same for appearance."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "does it help"
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True, sharey=True)
    for axis, key, title in zip(axes, ("which_way_4", "appearance"), ("which way", "colour, shape"), strict=True):
        named = set()
        for row in rows:
            if row["phase"] != "main":
                continue
            arm = row["arm"]
            steps, values = zip(*((point["step"], point[key]) for point in row["curve"]), strict=True)
            label = None if arm in named else f"{arm}, {row['rate']:g}"
            axis.plot(steps, values, color=COLOURS[arm], linewidth=1.4, alpha=0.85, label=label)
            named.add(arm)
        axis.axhline(0.25, color="black", linewidth=0.6, linestyle=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("steps")
        axis.set_ylim(0, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "curves.svg", metadata={"Date": None})


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    table, differences = aggregate(folder)
    for name, rows in (("main", table), ("differences", differences)):
        (folder / f"{name}.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    draw(folder)
    for row in table + differences:
        value = row.get("accuracy", row.get("difference"))
        against = " minus ce" if "against" in row else ""
        numbers = f"{value:+.3f} ({row['low']:+.3f}, {row['high']:+.3f})"
        print(f"{row['arm'] + against:22} {row['task']:16} {row['split']:15} {numbers}")


if __name__ == "__main__":
    main()
