"""Write all tables and plots of the documentation again from benchmarks/*/results/*.json.

    python benchmarks/figures.py

Tables stand between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


sys.path.insert(0, str(Path(__file__).parent / "motion"))
sys.path.insert(0, str(Path(__file__).parent / "does_it_help"))

import tables
from aggregate import breakthroughs, cells_of
from tables import grid, with_table


FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
PLOT = ROOT / "docs" / "cost.svg"
ANSWERS_PLOT = ROOT / "docs" / "does_it_help.svg"
QUESTIONS_PLOT = ROOT / "docs" / "does_it_help_questions.svg"
SEER_PLOT = ROOT / "docs" / "does_it_help_seer.svg"
READER_PLOT = ROOT / "docs" / "does_it_help_reader.svg"
KNOWN_PLOT = ROOT / "docs" / "does_it_help_known.svg"
PRETRAINED_PLOT = ROOT / "docs" / "does_it_help_pretrained.svg"
TRAINING_PLOT = ROOT / "docs" / "training_runs.svg"
SOAK_PLOT = ROOT / "docs" / "soak.svg"
TRAINING_RUNS = FOLDER / "training_curves/results/runs.json"
QUESTIONS_RUNS = [FOLDER / "does_it_help/results" / name for name in ("tiny_questions", "tiny_questions_longer")]
FUZZ = ROOT / "tests" / "fuzz" / "results.json"
Row = dict[str, Any]
METHODS = {"lora": "LoRA", "full": "full"}
GPU_MODELS = {"2B": "Qwen2-VL-2B", "4B": "Qwen3-VL-4B", "7B": "Qwen2-VL-7B"}


def load_lines(name: str) -> list[Row]:
    """The rows of a file with one JSON object a line, such as "gpu/h100"."""
    folder, _, file = name.partition("/")
    lines = (FOLDER / folder / "results" / f"{file}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def whole(name: str) -> Row:
    """A file of results, such as "train_step/cpu-answers"."""
    folder, _, file = name.partition("/")
    results: Row = json.loads((FOLDER / folder / "results" / f"{file}.json").read_text("utf-8"))
    return results


def load(name: str) -> list[Row]:
    """The rows of a file of results."""
    results = whole(name)
    rows: list[Row] = results.get("summaries") or results["rows"]
    return rows


def ratios(row: Row) -> list[str]:
    """Time (with quartiles) and memory, LLaMA-Factory's being 1."""
    low, high = row["time_to_llamafactory_low"], row["time_to_llamafactory_high"]
    return [f"{row['time_to_llamafactory']:.2f} ({low:.2f} to {high:.2f})", f"{row['memory_to_llamafactory']:.2f}"]


def method(row: Row) -> str:
    """How the weights are trained."""
    return f"{METHODS[row['method']]}{'' if row['checkpointing'] else ', no checkpointing'}"


def step_table(rows: list[Row]) -> str:
    """The step of the prototype's setting: a row for each way of training, time and memory for each kind."""
    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind != "plain"]
    lines = [["", *(head for kind in kinds for head in (f"{kind}: time", "memory"))]]
    for name in dict.fromkeys(map(method, rows)):
        found = {row["kind"]: row for row in rows if method(row) == name}
        lines.append([name, *(cell for kind in kinds for cell in ratios(found[kind]))])
    return grid(lines)


def gpu_table(rows: list[Row]) -> str:
    """Motion and text against LLaMA-Factory's text on a GPU, at the true shapes."""
    steps: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["part"] == "step" and not row["padding"] and not row["liger"]:
            steps.setdefault((row["model"], row["method"], row["video_tokens"]), {})[row["arm"]] = row
    lines = [["", "video tokens", "LLaMA-Factory, text", "motiontune, motion + text", "time", "memory"]]
    for (model, training, tokens), arms in sorted(steps.items(), key=lambda item: (item[0][1], item[0])):
        cells = [f"{GPU_MODELS[model]}, {METHODS[training]}", f"{tokens:,}"]
        ours, theirs = arms["motion+CE"], arms["llamafactory"]
        for row in (theirs, ours):
            fits = "seconds" in row
            cells.append(f"{row['seconds']:.2f} s, {row['peak_mb'] / 1000:.0f} GB" if fits else "out of memory")
        if "seconds" in theirs:
            low, high = ours["time_to_llamafactory_low"], ours["time_to_llamafactory_high"]
            cells.append(f"{ours['time_to_llamafactory']:.2f} ({low:.2f} to {high:.2f})")
            cells.append(f"{ours['peak_mb'] / theirs['peak_mb']:.2f}")
        else:
            cells += ["", ""]
        lines.append(cells)
    return grid(lines)


def part_table(rows: list[Row]) -> str:
    """What motion adds to a step that computes few logits already."""
    lines = [["", "motion+CE over sparse_logits", "head and loss, share of a step"]]
    for row in rows:
        if row["kind"] == "motion+CE":
            middle, low, high = (row[f"time_to_sparse_logits{end}"] for end in ("", "_low", "_high"))
            lines.append([method(row), f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{row['head_share']:.2%}"])
    return grid(lines)


def size_table(rows: list[Row]) -> str:
    """Motion and text against LLaMA-Factory's text, for clips and answers of different length and different models."""
    lines = [["weights", "training", "video tokens", "labelled tokens", "time", "memory"]]
    for row in rows:
        if row["kind"] == "motion+CE":
            cells = [row["model"], method(row), f"{row['video_tokens']:,}", f"{row['labels']:,}"]
            lines.append([*cells, *ratios(row)])
    return grid(lines)


def reading_table(rows: list[Row]) -> str:
    """Clips per second of each reader, LLaMA-Factory's being 1."""
    names = {"frames": "frames, without motion", "cached": "second epoch, motion and frames cached"}
    lines = [["reader", "clips", "clips per second", "slowest clip"]]
    for row in rows:
        if row["job"] != "llamafactory":
            cells = [names.get(row["job"], row["job"]), str(row["clips"])]
            lines.append([*cells, f"{row['ratio_to_llamafactory']:.2f}", f"{row['least_ratio']:.2f}"])
    return grid(lines)


def waiting_table(rows: list[Row]) -> str:
    """The share of training that is spent waiting for data."""
    lines = [["reader", "workers", "waited per step", "step", "share"]]
    for row in rows:
        name = {"llamafactory": "LLaMA-Factory, text alone"}.get(row["reader"], row["reader"])
        cells = [name, str(row["workers"]), f"{row['waited_ms_per_step']:.0f} ms", f"{row['step_ms']:.0f} ms"]
        lines.append([*cells, f"{row['waiting_share']:.1%}"])
    return grid(lines)


def memory_table(rows: list[Row]) -> str:
    """Resident memory over many samples."""
    lines = [["reader", "samples", "first", "last", "highest", "growth per 1,000 samples"]]
    for row in rows:
        cells = [f"{row[key]:,.0f} MB" for key in ("first_mb", "last_mb", "highest_mb")]
        lines.append([row["reader"], f"{row['samples']:,}", *cells, f"{row['mb_per_1000_samples']:.1f} MB"])
    return grid(lines)


def fuzz_table(results: dict[str, Row]) -> str:
    """What was done to each reader of files, by hand of `make fuzz`."""
    lines = [["reader", "CPU minutes", "inputs", "read, not refused", "slowest", "memory", "findings"]]
    for name, row in results.items():
        cells = [f"{row['cpu_seconds'] / 60:.1f}", f"{row['executions']:,}", f"{row['values']:,}"]
        cells += [f"{row['slowest_seconds']:.2f} s", f"{row['more_megabytes']:,} MB", str(len(row["findings"]))]
        lines.append([FUZZED[name], *cells])
    return grid(lines)


FUZZED = {
    "boxes": "lengths of MP4 and AVI, hidden frames of VP8 and VP9",
    "flo": "`.flo`",
    "h264": "H.264 headers",
    "head": "`motion_head_config.json`",
    "labels": "JSON of data sets, splits and labels",
    "list": "lists of clips, `.txt`",
    "manifest": "manifests and lists in Parquet",
    "npy": "`.npy` of motion",
    "npz": "`.npz` of motion",
    "png": "KITTI's `.png`",
    "run": "files of a run's folder",
    "tar": "tars",
    "video": "clips, with their vectors (FFmpeg's decoders are not guided)",
    "weights": "`motion_head.safetensors`",
}


def length_table(rows: list[Row]) -> str:
    """Peak memory of a process that reads one clip, by the clip's length."""
    peaks = {(row["minutes"], row["reading"].partition(",")[0]): row["peak_mb"] for row in rows}
    readings = list(dict.fromkeys(reading for _, reading in peaks))
    lines = [["minutes", *readings]]
    for minutes in dict.fromkeys(minutes for minutes, _ in peaks):
        lines.append([str(minutes), *(f"{peaks[minutes, reading]:.0f} MB" for reading in readings)])
    return grid(lines)


def speed_table(rows: list[Row]) -> str:
    """Clips per second of workers that extract, the median of some rounds, with the least and the most."""
    head = ["", "CPU time of a clip", "clips per CPU second", "clips per second", "to the first row"]
    lines = [[*head, "cores that others used", "CPU time of the start"]]
    for row in rows:
        name = f"{row['workers']} worker{'s' * (row['workers'] > 1)}{', Ray' * (row['engine'] == 'ray')}"
        milliseconds = spread([1000 * value for value in row["cpu_seconds_per_clip"]], ".0f")
        cells = [
            f"{milliseconds} ms",
            spread(row["clips_per_core_second"], ".1f"),
            spread(row["clips_per_second"], ".1f"),
        ]
        cells += [spread(row["rate_to_first"], ".2f"), spread(row["others"], ".1f")]
        lines.append([name, *cells, f"{row['start_cpu_seconds'][0]:.1f} s"])
    return grid(lines)


def alone_table(rows: list[Row]) -> str:
    """What an engine costs by itself: clips that are not there."""
    lines = [["", "CPU time of all processes, by clip", "of the driver"]]
    for row in rows:
        times = (row["cpu_seconds_per_clip"], row["driver_cpu_seconds_per_clip"])
        cells = [f"{spread([1000 * value for value in values], '.2f')} ms" for values in times]
        lines.append([{"local": "worker processes", "ray": "Ray"}[row["engine"]], *cells])
    return grid(lines)


def spread(values: list[float], form: str) -> str:
    """A median, with the least and the most."""
    middle, least, most = (f"{value:{form}}" for value in values)
    return f"{middle} ({least} to {most})"


SOAKED = {"mb": "resident memory, MB", "files": "open files", "threads": "threads"}


SOAK_COUNTS = {"extract": "clips", "train": "steps"}


def soaked() -> dict[str, Row]:
    """The results of `benchmarks/many_clips/soak.py`."""
    return {name: whole(f"many_clips/soak_{name}") for name in SOAK_COUNTS}


def soak_table(results: dict[str, Row]) -> str:
    """What processes held over thousands of clips or steps."""
    lines = [["", "", "second quarter", "last quarter", "growth by a line", "most"]]
    for title, result in results.items():
        for part, kinds in result["growth"].items():
            name = "driver" if part == "driver" and len(result["growth"]) > 1 else part.replace("driver", "")
            for kind, about in SOAKED.items():
                found, digits = kinds[kind], 0 if kind == "mb" else 1
                cells = [
                    f"{found[key]:,.{digits}f}" for key in ("second_quarter", "last_quarter", "by_line", "highest")
                ]
                lines.append([", ".join(filter(None, (title, name))), about, *cells])
    return grid(lines)


def projection_table(results: Callable[[str], Row]) -> str:
    """What the measured figures make of 16 and of 1,000 cores: a calculation, not a measurement."""
    speed = results("many_clips/speed")["summaries"]
    empty = results("many_clips/speed_engines_alone")["summaries"]
    driver, sizes = results("many_clips/driver"), results("many_clips/driver")["mb"]
    clip = speed[0]["cpu_seconds_per_clip"][0]
    listing = driver["first"]["cpu_seconds"] / driver["clips"]
    handing = {row["engine"]: row["driver_cpu_seconds_per_clip"][0] for row in empty}
    lines = [["", "how it is calculated", "16 cores", "1,000 cores"]]

    def add(title: str, how: str, value: Callable[[int], str]) -> None:
        lines.append([title, how, value(16), value(1000)])

    def rate(cores: int) -> float:
        return cores / clip

    add("clips per second", f"cores / {clip:.4f} s", lambda cores: f"{rate(cores):,.0f}")
    add(
        "Something-Something V2's training set",
        f"{TRAINING_SET:,} clips / rate",
        lambda cores: f"{TRAINING_SET / rate(cores) / 60:.1f} minutes",
    )
    add("a million clips", "1,000,000 clips / rate", lambda cores: f"{1e6 / rate(cores) / 60:.0f} minutes")
    for engine, name in (("local", "one driver, cores"), ("ray", "one driver with Ray, cores")):
        # the journal is in both of them
        how = f"rate * ({1000 * listing:.2f} + {1000 * handing[engine]:.2f} ms)"
        each = listing + handing[engine]
        add(name, how, lambda cores, each=each: f"{rate(cores) * each:.2f}")  # type: ignore[misc]
    add(
        "read from the storage",
        f"rate * {CLIP_BYTES / 1000:.0f} kB",
        lambda cores: f"{rate(cores) * CLIP_BYTES / 1e6:,.0f} MB/s",
    )
    add("requests to an object store", "rate * 2 (size, content)", lambda cores: f"{2 * rate(cores):,.0f} a second")
    add("motion files made", "rate * 1", lambda cores: f"{rate(cores):,.0f} a second")
    row_bytes = 1e6 * sizes["extract.jsonl"] / driver["clips"]
    add("journal", f"rate * {row_bytes:.0f} B", lambda cores: f"{rate(cores) * row_bytes / 1e6:.2f} MB/s")
    return grid(lines)


TRAINING_SET = 168_913  # clips of Something-Something V2
CLIP_BYTES = 88_000  # 19.4 GB, as its page has it, by 220,847 clips


ANSWERS = {  # arm, rate of learning, steps
    ("ce", 5e-4, 2000): "answers alone",
    ("ce", 1e-4, 2000): "answers alone, learning rate 1e-4",
    ("ce", 2e-3, 2000): "answers alone, learning rate 2e-3",
    ("ce", 5e-4, 8000): "answers alone, four times the steps",
    ("shuffled", 5e-4, 2000): "with the motion of other clips (placebo)",
    ("projector", 5e-4, 2000): "**with motion**, at the projector",
    ("layer_1", 5e-4, 2000): "**with motion**, after layer 1 of 2",
    ("last_hidden", 5e-4, 2000): "**with motion**, at the last hidden states",
    ("projector_10", 5e-4, 2000): "a tenth of the weight, at the projector",
    ("last_hidden_10", 5e-4, 2000): "a tenth of the weight, at the last hidden states",
    ("delta", 5e-4, 2000): "from differences in time, at the projector",
    ("deltadirect", 5e-4, 2000): "DeltaDirect's head, `motion_head: deltadirect`",
    ("deltadirect_100", 5e-4, 2000): "DeltaDirect's head, weight 100",
}


READER = {  # arm, rate of learning, steps
    ("ce", 3e-5, 1500): "answers alone",
    ("ce", 1e-4, 1500): "answers alone, learning rate 1e-4",
    ("shuffled", 1e-4, 1500): "with the motion of other clips (placebo)",
    ("projector", 1e-4, 1500): "**with motion**, at the projector",
    ("last_hidden", 1e-4, 1500): "**with motion**, at the last hidden states",
}


SEER = {
    ("ce", 5e-4, 1200): "answers alone",
    ("shuffled", 5e-4, 1200): "with the motion of other clips (placebo)",
    ("projector", 5e-4, 1200): "**with motion**, at the projector",
    ("last_hidden", 5e-4, 1200): "**with motion**, at the last hidden states",
}
PRETRAINED = {(arm, 1e-4, 600): title for (arm, _, _), title in SEER.items()}
KNOWN = {
    ("before", 5e-4, 0): "before, the start itself",
    ("ce", 5e-4, 2000): "answers alone",
    ("projector", 5e-4, 2000): "**with motion**, at the projector",
    ("projector, half", 5e-4, 2000): "the same, motion in the first half of the steps alone",
    ("projector_10", 5e-4, 2000): "the same, a tenth of the weight",
    ("last_hidden", 5e-4, 2000): "**with motion**, at the last hidden states",
    ("ce", 5e-4, 4000): "answers alone, 4,000 steps",
    ("projector", 5e-4, 4000): "**with motion**, at the projector, 4,000 steps",
    ("ce", 5e-4, 8000): "answers alone, 8,000 steps",
    ("projector", 5e-4, 8000): "**with motion**, at the projector, 8,000 steps",
}
TRIALS = {
    ("projector", 5e-4, 2000): "motion at the projector, exact",
    ("noise 0.5", 5e-4, 2000): "an error of each patch, 0.5 px",
    ("noise 1", 5e-4, 2000): "an error of each patch, 1 px",
    ("clip noise 1", 5e-4, 2000): "an error that a clip's patches share, 1 px",
    ("gaps 0.3", 5e-4, 2000): "30 % of the patches without a target",
    ("projector, a third", 5e-4, 3000): "motion in the first third of 3,000 steps alone",
    ("last_hidden, a third", 5e-4, 3000): "the same, at the last hidden states",
    ("projector, future", 5e-4, 2000): "motion to the next frame",
    ("last_hidden, future", 5e-4, 2000): "the same, at the last hidden states",
    ("delta", 5e-4, 8000): "from differences in time, 8,000 steps",
    ("pooled", 5e-4, 2000): "direction of the mean over tokens",
    ("deltadirect", 5e-4, 8000): "DeltaDirect's head, 8,000 steps",
    ("deltadirect_100", 5e-4, 8000): "DeltaDirect's head, weight 100, 8,000 steps",
}


def rows_of(run: str) -> list[Row]:
    """The rows of main.json that are of one run."""
    return [row for row in load("does_it_help/main") if row["run"] == run]


def trial_table(run: str, titles: dict[tuple[str, float, int], str]) -> str:
    """What half a million weights answer right where targets, time or the head's form differ, and when they do."""
    reached: dict[Any, list[Row]] = {}
    for row in breakthroughs(FOLDER / "does_it_help/results" / run):
        reached.setdefault((row["arm"], row["rate"], row["steps"]), []).append(row["breakthrough"])
    more = {
        key: "never" if None in found else " to ".join(f"{n:,}" for n in sorted({min(found), max(found)}))
        for key, found in reached.items()
    }
    return shares_table(rows_of(run), titles, ("half right after steps", more))


def cost_table(rows: list[Row]) -> str:
    """What a step costs, beside the model without a motion head."""
    titles = {"projector": "motion at the projector", "layer_1": "after layer 1", "last_hidden": "last hidden states"}
    starts = {row["start"]: row["weights"] for row in rows}
    found = {(row["start"], row["arm"]): row for row in rows}
    lines = [
        [
            "a step, of the one without motion",
            *(f"{weights / 1e6:,.1f} million weights" for weights in starts.values()),
        ]
    ]
    for arm, title in titles.items():
        cells = []
        for start in starts:
            row, base = found[start, arm], found[start, "no motion head"]
            cells.append(
                f"operations {row['flops'] / base['flops']:.2f}, CPU time {row['ratio']:.2f} "
                f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
            )
        lines.append([title, *cells])
    return grid(lines)


COLUMNS = {
    "which way": ("which_way_4", "in_domain"),
    "unseen photos": ("which_way_4", "unseen_photos"),
    "colour and shape": ("appearance", "in_domain"),
}
KNOWN_COLUMNS = {
    "which way": ("which_way_4", "in_domain"),
    "colour and shape": ("appearance", "in_domain"),
    "on unseen photos": ("appearance", "unseen_photos"),
    "of unseen objects": ("appearance", "unseen_objects"),
}


def shares_table(
    rows: list[Row],
    titles: dict[tuple[str, float, int], str],
    more: tuple[str, dict[Any, str]] | None = None,
    columns: dict[str, tuple[str, str]] = COLUMNS,
) -> str:
    """Right answers of some cells in per cent, with intervals over seeds and clips.

    Args:
        rows: of main.json.
        titles: arm, learning rate and steps of each line, and what it is called.
        more: a column behind, its title and what stands there.
        columns: their titles, tasks and splits.
    """
    found = {(row["arm"], row["learning_rate"], row["steps"], row["task"], row["split"]): row for row in rows}
    lines = [["trained on", "seeds", *columns, *(more[:1] if more else ())]]
    for key, title in titles.items():
        if (*key, "which_way_4", "in_domain") not in found:  # did not end
            continue
        cells = [found[(*key, *column)] for column in columns.values()]
        shares = [f"{100 * c['accuracy']:.0f} ({100 * c['low']:.0f} to {100 * c['high']:.0f})" for c in cells]
        lines.append([title, str(len(cells[0]["seeds"])), *shares, *([more[1][key]] if more else ())])
    return grid(lines)


MEASURED = {
    ("ce", 5e-4, 1000): "answers alone",
    ("projector", 5e-4, 1000): "motion at the projector, exact",
    ("projector, auto", 5e-4, 1000): "**motion as `auto` measures it**, at the projector",
    ("last_hidden, auto", 5e-4, 1000): "the same, at the last hidden states",
}
OTHER_TARGETS = {
    ("ce", 5e-4, 1000): "answers alone",
    ("shuffled", 5e-4, 1000): "with the motion of other clips (placebo)",
    ("projector, looks", 5e-4, 1000): "looks, at the projector",
    ("last_hidden, looks", 5e-4, 1000): "looks, at the last hidden states",
    ("last_hidden, order", 5e-4, 1000): "order, at the last hidden states",
    ("projector, change", 5e-4, 1000): "change, at the projector",
    ("last_hidden, change", 5e-4, 1000): "change, at the last hidden states",
    ("projector", 5e-4, 1000): "**motion**, at the projector",
    ("last_hidden", 5e-4, 1000): "**motion**, at the last hidden states",
    ("projector, 30 % of clips", 5e-4, 2000): "motion of 30 % of the clips, 2,000 steps",
    ("projector, 10 % of clips", 5e-4, 2000): "motion of 10 % of the clips, 2,000 steps",
    ("projector, 10 % of clips", 5e-4, 6000): "motion of 10 % of the clips, 6,000 steps",
    ("projector, 3 % of clips", 5e-4, 2000): "motion of 3 % of the clips, 2,000 steps",
}
STAGES = {
    "encoder": "encoder",
    "projector": "projector",
    "layer_1": "layer 1 of 2",
    "last_hidden": "last hidden states",
    "answer": "where the answer begins",
}


def probes_table(cells: list[Row]) -> str:
    """What linear probes read off each stage, beside what the model answers itself, in per cent: over seeds."""
    found: dict[tuple[str, float, int], list[Row]] = {}
    for row in cells:
        if row.get("probes"):
            found.setdefault((row["arm"], row["rate"], row["steps"]), []).append(row)
    lines = [["trained on", "seeds", *STAGES.values(), "its answers"]]
    for key, title in OTHER_TARGETS.items():
        if rows := found.get(key):
            shares = [[row["probes"]["which_way"][stage] for row in rows] for stage in STAGES]
            shares.append([row["curve"][-1]["which_way_4"] for row in rows])
            spans = [sorted({f"{100 * value:.0f}" for value in (min(some), max(some))}, key=int) for some in shares]
            lines.append([title, str(len(rows)), *(" to ".join(span) for span in spans)])
    return grid(lines)


FEW_ARMS = {
    "ce, {} answers": "answers alone",
    "projector, {} clips": "motion of the clips with answers, at the projector",
    "projector, {} answers": "**motion of all clips**, at the projector",
    "last_hidden, {} answers": "**motion of all clips**, at the last hidden states",
}
FEW = (64, 256, 1024, 4096)


def few_table(rows: list[Row]) -> str:
    """What a model of half a million weights answers right that got few answers, in per cent; empty where not run."""
    found = {
        (row["arm"], row["task"]): row
        for row in rows
        if row["run"] == "tiny_follow_up" and row["split"] == "in_domain"
    }
    lines = [["which way", *(f"{number:,} answers" for number in FEW)]]
    for task, about in (("which_way_4", ""), ("appearance", "colour and shape: ")):
        for arm, title in FEW_ARMS.items():
            cells = [found.get((arm.format(number), task)) for number in FEW]
            shares = [
                f"{100 * c['accuracy']:.0f} ({100 * c['low']:.0f} to {100 * c['high']:.0f})" if c else ""
                for c in cells
            ]
            if any(shares):
                lines.append([about + title, *shares])
    return grid(lines)


ENGINE_NAMES = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp1": "FSDP1", "fsdp2": "FSDP2"}
ENGINE_TESTS = {
    "test_what_an_engine_saved_is_predicted_and_merged_without_it": "predicted and merged after ZeRO-3, FSDP1, FSDP2",
    "test_a_run_that_was_killed_goes_on": "killed: one process, all, within a save",
    "test_a_launcher_makes_one_run": "`torchrun`; tasks of `srun`",
    "test_accelerate_starts_fsdp_as_its_example_has_it": "`accelerate launch`, FSDP2",
    "test_two_launchers_make_one_run": "`NNODES=2`: on one machine, between two network namespaces",
    "test_two_workers_of_ray_make_one_run": "Ray",
}


def engine_table(rows: list[Row]) -> str:
    """What was tested of each engine and launcher, and how long it took."""
    lines = [["", "tests", "failed", "minutes"]]
    groups = [(name, [row for row in rows if row.get("engine") == engine]) for engine, name in ENGINE_NAMES.items()]
    groups += [(name, [row for row in rows if row["test"] == test]) for test, name in ENGINE_TESTS.items()]
    for name, found in groups:
        ran = [row for row in found if row["outcome"] != "skipped"]
        failed = sum(row["outcome"] != "passed" for row in ran)
        cells = [str(len(ran)), str(failed), f"{sum(row['seconds'] for row in ran) / 60:.1f}"]
        if ran:
            lines.append([name, *cells])
    return grid(lines)


QUESTION_ARMS = {
    "before": "before, the start itself",
    "ce": "answers alone",
    "shuffled": "with the motion of other clips (placebo)",
    "projector": "**with motion**, at the projector",
    "last_hidden": "**with motion**, at the last hidden states",
}
QUESTION_TASKS = {
    "which_way_4": "which way of 4",
    "which_way_8": "of 8",
    "speed": "faster or slower",
    "stops": "stops or not",
    "turns": "turns which way",
    "appearance": "colour and shape",
}
CAPTION_TASKS = {
    "caption": "the whole caption",
    "caption_thing": "its thing",
    "caption_action": "its action",
    "caption_way": "its way",
    "which_way_4": "asked which way",
    "appearance": "asked colour or shape",
}


QUESTION_CHANCE = {
    "which_way_4": 25,
    "which_way_8": 12.5,
    "speed": 50,
    "stops": 50,
    "turns": 50,
    "appearance": 25,
}  # per cent


def question_table(rows: list[Row], start: str, tasks: dict[str, str]) -> str:
    """What a model of half a million weights gets right of many tasks learned at once, in per cent, in domain."""
    rows = [row for row in rows if row["start"] == start and row["split"] == "in_domain"]
    found = {(row["steps"], row["arm"], row["task"]): row for row in rows if row["learning_rate"] == 5e-4}
    lines = [["trained on", "steps", "seeds", *tasks.values()]]
    for steps in sorted({key[0] for key in found}):
        for arm, title in QUESTION_ARMS.items():
            cells = [found[steps, arm, task] for task in tasks if (steps, arm, task) in found]
            if cells:
                shares = [f"{100 * c['accuracy']:.0f} ({100 * c['low']:.0f} to {100 * c['high']:.0f})" for c in cells]
                lines.append([title, f"{steps:,}", str(len(cells[0]["seeds"])), *shares])
    return grid(lines)


TABLES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"gpu": lambda: gpu_table(load_lines("gpu/h100"))},
    ROOT / "docs/engines.md": {"engines": lambda: engine_table(load("engine_matrix/cpu"))},
    ROOT / "docs/does_it_help.md": {
        "answers": lambda: shares_table(rows_of("tiny"), ANSWERS),
        "questions": lambda: question_table(load("does_it_help/main"), "tiny_questions", QUESTION_TASKS),
        "captions": lambda: question_table(load("does_it_help/main"), "tiny_captions", CAPTION_TASKS),
        "few": lambda: few_table(load("does_it_help/main")),
        "reader": lambda: shares_table(rows_of("reader"), READER),
        "seer": lambda: trial_table("seer", SEER),
        "pretrained": lambda: trial_table("pretrained", PRETRAINED),
        "known": lambda: shares_table(rows_of("tiny_known"), KNOWN, columns=KNOWN_COLUMNS),
        "trials": lambda: trial_table("tiny_follow_up", TRIALS),
        "cost": lambda: cost_table(load("does_it_help/cost")),
        "measured": lambda: trial_table("tiny_measured", MEASURED),
        "others": lambda: trial_table("tiny_other_targets", OTHER_TARGETS),
        "probes": lambda: probes_table(cells_of(FOLDER / "does_it_help/results/tiny_other_targets")),
    },
    ROOT / "docs/reliability.md": {
        "fuzz": lambda: fuzz_table(json.loads(FUZZ.read_text("utf-8"))),
        "lengths": lambda: length_table(load("long_clips/cpu")),
    },
    ROOT / "docs/scale.md": {
        "speed": lambda: speed_table(load("many_clips/speed")),
        "engines": lambda: alone_table(load("many_clips/speed_engines_alone")),
        "soak": lambda: soak_table(soaked()),
        "projection": lambda: projection_table(whole),
    },
    FOLDER / "train_step/README.md": {
        "step": lambda: step_table(load("train_step/cpu-prototype")),
        "part": lambda: part_table(load("train_step/cpu-prototype")),
        "answers": lambda: size_table(load("train_step/cpu-answers")),
        "lengths": lambda: size_table(load("train_step/cpu-lengths")),
        "models": lambda: size_table(load("train_step/cpu-models")),
        "reading": lambda: reading_table(load("data_path/cpu")),
        "waiting": lambda: waiting_table(load("data_path/waiting")),
        "memory": lambda: memory_table(load("memory_over_time/cpu")),
    },
}


def current(path: Path) -> str:
    """A document's text with its tables made again."""
    text = path.read_text("utf-8")
    for name, table in TABLES[path].items():
        text = with_table(text, name, table())
    return text


@contextmanager
def drawn(path: Path, height: float) -> Iterator[Figure]:
    """A figure that is written at the end, the same bytes each time."""
    with mpl.rc_context({"svg.hashsalt": "motiontune", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, height), layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Date": None})


def side_by_side(figure: Figure, titles: dict[str, str]) -> Iterator[tuple[Axes, str]]:
    """A plot for each key under its title, all with one y axis: the axis and the key, to be drawn on."""
    for axis, (key, title) in zip(figure.subplots(1, len(titles), sharey=True), titles.items(), strict=True):
        yield axis, key
        axis.set_title(title)
        axis.grid(alpha=0.25, linewidth=0.4)


def plot(rows: list[Row], path: Path) -> None:
    """Time and memory of motion and text over those of LLaMA-Factory's text, against the answer's length."""
    with drawn(path, 2.8) as figure:
        titles = {"time_to_llamafactory": "time of a step", "memory_to_llamafactory": "peak memory"}
        for axis, key in side_by_side(figure, titles):
            for name, colour in (("lora", "#1f6f8b"), ("full", "#b5493a")):
                found = [row for row in rows if row["method"] == name and row["kind"] == "motion+CE"]
                labels, values = [row["labels"] for row in found], [row[key] for row in found]
                axis.plot(labels, values, "o-", color=colour, label=METHODS[name])
                if f"{key}_low" in found[0]:
                    ends = ([row[f"{key}_{end}"] for row in found] for end in ("low", "high"))
                    axis.fill_between(labels, *ends, color=colour, alpha=0.2, linewidth=0)
            axis.axhline(1, color="black", linewidth=0.8)
            axis.set(xscale="log", xlabel="labelled tokens of the answer", ylim=(0, None))
            axis.legend(loc="lower right")
        figure.axes[0].set_ylabel("motion + text over\nLLaMA-Factory's text")


CURVES = {  # arm: title, colour
    "projector": ("motion at the projector", "#c2410c"),
    "last_hidden": ("motion at the last hidden states", "#1f6f8b"),
    "delta": ("from differences in time", "#8a7d1f"),
    "shuffled": ("motion of other clips", "#7a5195"),
    "deltadirect": ("DeltaDirect's head", "#2f855a"),
    "ce": ("answers alone", "#4b5563"),
}


def plot_answers(rows: list[Row], path: Path) -> None:
    """Right answers against steps: the mean over seeds, and the range of all of them."""
    with drawn(path, 3.3) as figure:
        titles = {"which_way_4": "which way (chance 25 %)", "appearance": "colour and shape"}
        for axis, key in side_by_side(figure, titles):
            for arm, (label, colour) in CURVES.items():
                found = [row["curve"] for row in rows if row["arm"] == arm]
                if not found:
                    continue
                steps = [point["step"] for point in found[0]]
                values = np.array([[100 * point[key] for point in curve] for curve in found])
                axis.plot(
                    steps, values.mean(0), color=colour, label=f"{label} ({len(found)} seed{'s' * (len(found) > 1)})"
                )
                axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
            axis.set(xlabel=f"steps of {16 if path.name == PRETRAINED_PLOT.name else 32} clips", ylim=(0, 101))
        figure.axes[0].set_ylabel("right answers, %")
        figure.axes[0].axhline(25, color="black", linewidth=0.6, linestyle=":")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def answers_to_plot() -> dict[Path, list[Row]]:
    """The cells that each plot of `plot_answers` shows."""
    results = FOLDER / "does_it_help/results"
    return {
        ANSWERS_PLOT: [row for row in cells_of(results / "tiny") if (row["rate"], row["steps"]) == (5e-4, 2000)],
        SEER_PLOT: [row for row in cells_of(results / "seer") if row["phase"] == "main"],
        READER_PLOT: [row for row in cells_of(results / "reader") if row["phase"] == "main"],
        KNOWN_PLOT: [
            row for row in cells_of(results / "tiny_known") if row["steps"] == 2000 and row["phase"] == "main"
        ],
        PRETRAINED_PLOT: [row for row in cells_of(results / "pretrained") if row["phase"] == "main"],
    }


def plot_questions(rows: list[Row], path: Path) -> None:
    """Right answers to each kind of question against steps; a line for each cell, dashed where a run was longer."""
    rows = [row for row in rows if row["phase"] == "main" and row["rate"] == 5e-4]
    shortest = min(row["steps"] for row in rows)
    with drawn(path, 4.4) as figure:
        panels = figure.subplots(2, 3, sharex=True, sharey=True)
        for axis, (task, title) in zip(panels.flat, QUESTION_TASKS.items(), strict=True):
            for row in sorted(rows, key=lambda row: list(QUESTION_ARMS).index(row["arm"])):
                steps, values = zip(*((point["step"], 100 * point[task]) for point in row["curve"]), strict=True)
                label, colour = CURVES[row["arm"]]
                style = "-" if row["steps"] == shortest else "--"
                axis.plot(steps, values, style, color=colour, linewidth=1.1, label=label)
            axis.set(title=title, ylim=(0, 101))
            axis.axhline(QUESTION_CHANCE[task], color="black", linewidth=0.6, linestyle=":")
            axis.grid(alpha=0.25, linewidth=0.4)
        for axis in panels[1]:
            axis.set_xlabel("steps of 32 clips")
        for axis in panels[:, 0]:
            axis.set_ylabel("right answers, %")
        names = dict(zip(*reversed(panels.flat[0].get_legend_handles_labels()), strict=True))
        figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=4, frameon=False)


def plot_training(runs: dict[str, list[Row]], path: Path) -> None:
    """What a good run and bad ones log: the error over moving patches, in training and on held-out clips."""
    curves = {
        "epe_moving": ("training", "-", "#1f6f8b"),
        "eval_epe_moving": ("held-out clips", "-", "#b5493a"),
        "eval_epe_moving_zero_motion": ("no motion, held-out clips", ":", "black"),
    }
    with drawn(path, 2.7) as figure:
        for axis, name in side_by_side(figure, {name: name for name in runs}):
            for key, (label, style, colour) in curves.items():
                points = [(row["step"], row[key]) for row in runs[name] if key in row]
                axis.plot(*zip(*points, strict=True), style, color=colour, linewidth=1.3, label=label)
            axis.set(xlabel="steps", ylim=(0, None))
        first = figure.axes[0]
        first.set_ylabel("end-point error,\nmoving patches, px")
        figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def plot_soak(results: dict[str, Row], path: Path) -> None:
    """Resident memory of each process over thousands of clips or steps, a panel each from zero."""
    with drawn(path, 2.4) as figure:
        panels = figure.subplots(1, len(results))
        for axis, (title, result) in zip(panels, results.items(), strict=True):
            for part in result["growth"]:
                points = [(row["done"], row[part]["mb"]) for row in result["records"] if part in row]
                axis.plot(*zip(*points, strict=True), linewidth=1.3, label=part)
            axis.set(title=title, xlabel=SOAK_COUNTS[title], ylim=(0, 1.2 * axis.get_ylim()[1]))
            axis.xaxis.set(major_formatter="{x:,.0f}", major_locator=MaxNLocator(4))
            axis.grid(alpha=0.25, linewidth=0.4)
            if len(result["growth"]) > 1:
                axis.legend(loc="lower right")
        panels[0].set_ylabel("resident memory, MB")


def main() -> None:
    """Write all of it."""
    tables.main()
    for path in TABLES:
        path.write_text(current(path), "utf-8")
    plot(load("train_step/cpu-answers"), PLOT)
    for path, rows in answers_to_plot().items():
        plot_answers(rows, path)
    plot_training(json.loads(TRAINING_RUNS.read_text("utf-8"))["runs"], TRAINING_PLOT)
    plot_soak(soaked(), SOAK_PLOT)
    plot_questions([row for folder in QUESTIONS_RUNS if folder.exists() for row in cells_of(folder)], QUESTIONS_PLOT)


if __name__ == "__main__":
    main()
