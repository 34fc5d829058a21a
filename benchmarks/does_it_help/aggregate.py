"""From cells to the tables and the plot.

    cd benchmarks/does_it_help/results
    python ../aggregate.py gpu tiny tiny_follow_up tiny_measured tiny_questions tiny_other_targets reader

Reads cells.jsonl and plan.json of each folder. Writes there differences.json (what README.md compares, clip by clip),
breakthroughs.json (after how many steps an arm leaves chance) and with --curves curves.svg, and beside the folders
main.json, with a row for each arm, task and split of all of them. All clips of a test are the same for all arms and
seeds. A long cells.jsonl is kept as cells.jsonl.xz, a twentieth of it: `xz cells.jsonl`.
"""

import argparse
import json
import lzma
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


DRAWS = 2000
WHICH_WAY = {
    "which_way_4": ("which_way", "right"),
    "moving_or_still": ("which_way", "still_right"),
    "appearance": ("appearance", "right"),
}
COLOURS = {"ce": "#666666", "projector": "#d1495b", "last_hidden": "#00798c", "shuffled": "#edae49"}


def cells_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's cells: those that are kept packed, then those that a run has added since.

    Raises:
        SystemExit: if a row is not whole.
    """
    packed, plain = folder / "cells.jsonl.xz", folder / "cells.jsonl"
    text = lzma.decompress(packed.read_bytes()).decode() if packed.exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    for number, line in enumerate(plain.read_text().splitlines() if plain.exists() else (), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise SystemExit(f"{plain}, line {number}: the row is not whole; delete it, its cell runs again") from None
    return rows


def plan_of(folder: Path, start: str, run: str | None = None) -> dict[str, Any]:
    """The plan of a folder's run, empty where none has begun.

    Args:
        folder: of a run.
        start: what it calls its start.
        run: its name, where several have that start.

    Raises:
        SystemExit: if the plan is not whole, or that of another run.
    """
    file = folder / "plan.json"
    try:
        plan: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"job": {"start": start}}
        theirs = plan["job"]["start"]
    except (ValueError, KeyError):
        raise SystemExit(f"{file} is not whole: choose another --out") from None
    if theirs != start or run and plan.get("run", run) != run:
        raise SystemExit(f"{folder} holds another run ({plan.get('run', theirs)}): choose another --out")
    return plan


def tasks_of(row: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Where the answers to each task stand in a row's tests."""
    found = next(iter(row["final"].values()))
    return WHICH_WAY if "which_way" in found else {task: (task, "right") for task in found}


def bits(row: dict[str, Any], split: str, task: str) -> NDArray[np.float64]:
    """Right or not, float64 [clips]."""
    part, key = tasks_of(row)[task]
    return np.array([float(bit) for bit in row["final"][split][part][key]])


@cache
def draws(seeds: int, clips: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each seed and each clip is drawn, [DRAWS, seeds] and [DRAWS, clips]; the same at each call."""
    random = np.random.default_rng(0)
    return tuple(
        np.stack([np.bincount(random.integers(n, size=n), minlength=n) for _ in range(DRAWS)]).astype(np.float64)
        for n in (seeds, clips)
    )


def interval(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of [seeds, clips] with a 95 % interval: seeds and clips are drawn again with replacement, both at once."""
    of_seeds, of_clips = draws(*table.shape)
    means = ((of_seeds @ table) * of_clips).sum(1) / table.size
    low, high = np.quantile(means, [0.025, 0.975])
    return round(float(table.mean()), 4), round(float(low), 4), round(float(high), 4)


class Group(NamedTuple):
    """Cells that differ in their seed alone."""

    arm: str
    rate: float
    steps: int


Groups = dict[Group, dict[int, dict[str, Any]]]  # for each seed its row


def read(folder: Path) -> tuple[dict[str, Any], Groups]:
    """Read what is known of a run, and its groups of cells: for each seed its row."""
    plan = json.loads((folder / "plan.json").read_text())
    about = {"run": folder.name, "start": plan["job"]["start"]} | {
        key: plan["environment"][key] for key in ("date", "machine", "versions")
    }
    groups: Groups = defaultdict(dict)
    for row in cells_of(folder):
        if row["final"]:
            groups[Group(row["arm"], row["rate"], row["steps"])][row["seed"]] = row
    return about, groups


def tests_of(folder: Path) -> tuple[str, bool]:
    """What the clips of a run's tests depend on: the start, and whether they were rendered in a CPU's chunks."""
    plan = json.loads((folder / "plan.json").read_text())
    return plan["job"]["start"], plan.get("mode", "").endswith("cpu")


def compared_with(arm: str) -> list[str]:
    """The arms that README.md compares an arm with."""
    name, _, about = arm.partition(", ")
    if about.endswith("answers"):
        number = about.split()[0]
        return {"ce": [], "projector": [f"ce, {about}", f"projector, {number} clips"]}.get(name, [f"ce, {about}"])
    if about in ("auto", "looks", "change", "order", "half") or about.endswith("% of clips"):
        return ["ce", name]
    if about:  # "future", "a third"
        return [name] if not about.endswith("clips") else []
    if arm.split()[0] in ("noise", "clip", "gaps"):
        return ["projector"]
    others = {
        "ce": [],
        "projector": ["ce", "shuffled"],
        "projector_10": ["ce", "projector"],
        "last_hidden": ["ce", "projector"],
        "shuffled": ["ce"],
    }
    return [*others[arm], "before"] if arm in others else []


def reference(group: Group, arm: str, runs: list[Groups]) -> tuple[Group, dict[int, dict[str, Any]]] | None:
    """Find what a group is compared with: the best learning rate of that arm, in the first run that has it.

    Best is which way in domain, on the test itself; this favours the reference. As many steps, or else any number.
    """
    for steps in (group.steps, None):
        for groups in runs:
            alike = [other for other in groups if other.arm == arm and steps in (other.steps, None)]
            if alike:
                best = max(alike, key=lambda other: (np.mean(correct(groups[other])), other.steps))
                return best, groups[best]
    return None


def correct(seeds: dict[int, dict[str, Any]]) -> list[float]:
    """Share of right answers to which way in domain, of each seed."""
    return [float(bits(row, "in_domain", "which_way_4").mean()) for row in seeds.values()]


def aggregate(folder: Path, others: Sequence[Path] = ()) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make a folder's rows of main.json and differences.json.

    Args:
        folder: of a run.
        others: of runs whose arms may be compared with, if their start is the same.
    """
    about, groups = read(folder)
    runs = [groups] + [read(other)[1] for other in others if tests_of(other) == tests_of(folder)]
    table, differences = [], []
    for group, seeds in groups.items():
        found = [reference(group, arm, runs) for arm in compared_with(group.arm)]
        one = next(iter(seeds.values()))
        for task in tasks_of(one):
            for split in one["final"]:
                scores = {seed: bits(row, split, task) for seed, row in seeds.items()}
                mean, low, high = interval(np.stack(list(scores.values())))
                where = {"arm": group.arm, "task": task, "split": split}
                where |= {"steps": group.steps, "learning_rate": group.rate}
                numbers = {"accuracy": mean, "low": low, "high": high}
                clips = len(next(iter(scores.values())))
                table.append(about | where | {"seeds": sorted(seeds), "clips": clips} | numbers | each_seed(scores))
                for other in found:
                    common = sorted(set(seeds) & set(other[1])) if other else []
                    if not other or not common:
                        continue
                    pairs = {seed: scores[seed] - bits(other[1][seed], split, task) for seed in common}
                    mean, low, high = interval(np.stack(list(pairs.values())))
                    against = {"against": other[0].arm, "against_rate": other[0].rate, "against_steps": other[0].steps}
                    numbers = {"seeds": common, "difference": mean, "low": low, "high": high}
                    differences.append(where | against | numbers | each_seed(pairs))
    return table, differences


def each_seed(scores: dict[int, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """The mean of each seed by itself."""
    return {"each_seed": {str(seed): round(float(score.mean()), 4) for seed, score in scores.items()}}


def breakthroughs(folder: Path) -> list[dict[str, Any]]:
    """Find after how many steps each cell answers half of the which-way questions, twice in a row; None: never."""
    found = []
    for row in cells_of(folder):
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
    parser.add_argument("--curves", action="store_true", help="draw all cells of each folder")
    arguments = parser.parse_args()
    whole: list[dict[str, Any]] = []
    folders = arguments.folders
    if missing := [str(folder) for folder in folders if not (folder / "plan.json").exists()]:
        parser.error(f"no plan.json in {', '.join(missing)}: name folders of runs")
    for folder in folders:
        table, differences = aggregate(folder, [other for other in folders if other != folder])
        write(folder / "differences.json", differences)
        write(folder / "breakthroughs.json", breakthroughs(folder))
        if arguments.curves:
            draw(folder)
        whole += table
        for row in table + differences:
            value = row.get("accuracy", row.get("difference"))
            against = f" minus {row['against']}, {row['against_steps']} steps" if "against" in row else ""
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
