"""Print the tables of a `gpu.jsonl`.

python benchmarks/gpu/table.py [FILE]
"""

import sys
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parent))

from rows import FILE, read


FAR = 160  # characters of a reason


def table(header: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def steps(rows: list[dict[str, Any]]) -> str:
    """Time, memory and use of the GPU of each kind of step."""
    lines = []
    for row in rows:
        kind = row["method"] + " padded" * bool(row["padding"]) + " Liger" * row["liger"]
        line = [row["model"], kind, f"{row['video_tokens']:,}", row["arm"]]
        if "seconds" not in row:
            lines.append([*line, row.get("error", "")[:FAR], "", "", "", "", ""])
            continue
        ratio = ""
        if "time_to_llamafactory" in row:
            low, high = row["time_to_llamafactory_low"], row["time_to_llamafactory_high"]
            ratio = f"{row['time_to_llamafactory']:.3f} ({low:.3f} to {high:.3f})"
        milliseconds = [f"{1000 * row[key]:,.1f}" for key in ("seconds", "seconds_low", "seconds_high")]
        lines.append(
            [
                *line,
                f"{milliseconds[0]} ({milliseconds[1]} to {milliseconds[2]})",
                ratio,
                f"{row['positions_per_second']:,.0f}",
                f"{100 * row['mfu']:.1f}%",
                f"{row['peak_mb'] / 1000:,.1f}" if "peak_mb" in row else "",
                str(row["rounds"]),
            ]
        )
    header = ["model", "training", "video tokens", "step", "ms (quartiles)", "to LLaMA-Factory", "tokens/s", "MFU"]
    return table([*header, "peak GB", "rounds"], lines)


def loader(rows: list[dict[str, Any]], timed: list[dict[str, Any]]) -> str:
    """Clips per second, and the cores that keep a GPU busy that trains the 2B at the shortest clips measured."""
    steps = [
        row for row in timed if "seconds" in row and row["model"] == "2B" and not (row["padding"] or row["liger"])
    ]
    steps = [row for row in steps if row["method"] == "lora" and row["arm"] == "motion+CE"]
    fastest = min(steps, key=lambda row: row["video_tokens"], default=None)
    lines = []
    for row in rows:
        if "clips_per_second" not in row:
            lines.append([row["name"], row.get("error", "")[:FAR], "", "", "", ""])
            continue
        each = row["clips_per_second"] / row["workers"]
        cores = ""
        if fastest is not None:
            cores = f"{fastest['positions_per_second'] / row['positions_per_clip'] / each:.1f}"
        line = [row["clip"], row["reader"], str(row["workers"]), f"{row['clips_per_second']:.1f}", f"{each:.2f}"]
        lines.append([*line, str(row["positions_per_clip"]), cores])
    header = ["clips", "reader", "workers", "clips/s", "per worker", "tokens per clip", "cores per GPU (2B LoRA)"]
    return table(header, lines)


def checks(rows: list[dict[str, Any]]) -> str:
    """What held and what did not."""
    lines = [
        [row["name"], "yes" if row["ok"] else "NO", f"{row['seconds']:.1f}", row.get("error", "").split("\n")[0][:FAR]]
        for row in rows
    ]
    return table(["check", "holds", "seconds", ""], lines)


def tables(path: Path) -> str:
    """All tables of a file."""
    rows = read(path)
    by_part: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_part.setdefault(row["part"], []).append(row)
    timed = by_part.get("step", [])
    parts = [str(one) for one in by_part.get("about", [])]
    parts += [checks(by_part["check"])] if "check" in by_part else []
    parts += [steps(timed)] if timed else []
    parts += [loader(by_part["loader"], timed)] if "loader" in by_part else []
    missing = [f"* {row['name']}: {row['reason']}" for row in by_part.get("not run", [])]
    parts += ["Not run:\n\n" + "\n".join(missing)] if missing else []
    failed = [f"* {row['name']}: {row['error'][:FAR]}" for row in by_part.get("error", [])]
    parts += ["Errors:\n\n" + "\n".join(failed)] if failed else []
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(tables(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / FILE))
