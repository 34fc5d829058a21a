"""Write tables and plots again from results/*.json: `python benchmarks/motion/tables.py`.

The tables stand in README.md and docs/motion.md between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from encoders import ROOM_ENCODINGS
from matplotlib.figure import Figure


FOLDER = Path(__file__).parent
DOCS = FOLDER.parents[1] / "docs"
Rows = list[dict[str, Any]]
SHOWN = ("x264 default", "x264 refs1 bf0", "mpeg4", "vp9")
# Clips are named on which an error is greater than another's by more than this share
ABOVE = 0.03


def load(name: str) -> dict[str, Any]:
    """The results of accuracy.py, real.py or speed.py."""
    results: dict[str, Any] = json.loads((FOLDER / f"results/{name}.json").read_text("utf-8"))
    return results


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body]) + "\n"


def _name(row: dict[str, Any]) -> str:
    return f"{row['source']} {row['quality'] or ''}".strip()


def _cell(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['epe_valid']:.2f} ({row['valid_share']:.0%})"


def accuracy_table(results: dict[str, Any], gap: str) -> str:
    """EPE of the valid patches (and their share), a row for each encoding and a column for each source."""
    rows = [row for row in results["summaries"] if row["gap"] == gap]
    names = list(dict.fromkeys(map(_name, rows)))
    found = {(row["encoding"], _name(row)): row for row in rows}
    encodings = dict.fromkeys(row["encoding"] for row in rows)
    return grid([[gap, *names], *([e, *(_cell(found.get((e, name))) for name in names)] for e in encodings)])


def auc_table(results: dict[str, Any]) -> str:
    """AUC of the confidence, for an error below 3 pixels, frames half a second apart."""
    rows = [row for row in results["summaries"] if row["gap"] == "0.5 s" and row["auc"] not in (None, 0.5)]
    names = list(dict.fromkeys(map(_name, rows)))
    found = {(row["encoding"], _name(row)): f"{row['auc']:.3f}" for row in rows}
    encodings = dict.fromkeys(row["encoding"] for row in rows)
    return grid([["AUC", *names], *([e, *(found.get((e, name), "-") for name in names)] for e in encodings)])


def pan_table(results: dict[str, Any]) -> str:
    """Known pans without noise, frames half a second apart: EPE of the valid patches and its median."""
    rows = [row for row in results["rows"] if row["scene"].startswith("pan ") and row["gap"] == "0.5 s"]
    rows = [row for row in rows if row["source"] in ("codec", "codec+flow", "blockmatch") and row["epe_valid"]]
    pans = list(dict.fromkeys(row["scene"] for row in rows))
    found = {(_name(row), row["encoding"], row["scene"]): row for row in rows}
    lines = [["px per frame", "", *(pan.removeprefix("pan ") for pan in pans)]]
    for name, encoding in dict.fromkeys((_name(row), row["encoding"]) for row in rows):
        cells = [found[name, encoding, pan] for pan in pans]
        lines.append([name, encoding, *(f"{row['epe_valid']:.3f} ({row['median_valid']:.3f})" for row in cells)])
    return grid(lines)


def docs_table(results: dict[str, Any]) -> str:
    """The sources, a row each, for some encodings."""
    rows = [row for row in results["summaries"] if row["gap"] == "0.5 s"]
    found = {(row["encoding"], _name(row)): row for row in rows}
    names = dict.fromkeys(map(_name, rows))
    cost = {name: found.get(("x264 default", name), {}).get("ms_per_pair") for name in names}
    return grid(
        [
            ["", *SHOWN, "ms per pair"],
            *([name, *(_cell(found.get((e, name))) for e in SHOWN), f"{cost[name]:.0f}"] for name in names),
        ]
    )


def real_table(results: dict[str, Any]) -> str:
    """Motion-compensation error on real clips, a row for each clip."""
    rows = results["rows"]
    names = list(dict.fromkeys(map(_name, rows)))
    found = {(row["clip"], _name(row)): row for row in rows if "error" in row}
    lines = [["", *names]]
    for clip in dict.fromkeys(row["clip"] for row in rows):
        cells = [found.get((clip, name)) for name in names]
        lines.append([clip, *("-" if row is None else f"{row['error']:.2f}" for row in cells)])
    for title, key in (
        ("mean", "error"),
        ("mean without cuts", "error_of_scenes"),
        ("mean where `auto` is valid", "error_where_auto"),
    ):
        mean = {_name(row): row[key] for row in results["summaries"]}
        lines.append([f"**{title}**", *(f"**{mean[name]:.2f}**" for name in names)])
    return grid(lines)


def speed_table(results: dict[str, Any]) -> str:
    """Geometric means of the loader's speed over that of decoding: wall time (processor time)."""
    rows = results["summaries"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    found = {(row["kind"], row["job"]): row for row in rows}
    counts = [max(row["clips"] for row in rows if row["kind"] == kind) for kind in kinds]
    lines = [["", *(f"{kind} ({count})" for kind, count in zip(kinds, counts, strict=True))]]
    for job in dict.fromkeys(row["job"] for row in rows):
        cells = [found.get((kind, job)) for kind in kinds]
        lines.append([job, *("-" if r is None else f"{r['ratio']:.2f} ({r['cpu_ratio']:.2f})" for r in cells)])
    return grid(lines)


def conditions_table(before: dict[str, Any], now: dict[str, Any], encoding: str) -> str:
    """`auto` in difficult light, before the confidence was a probability and now: a row for each condition."""
    keys = (
        "epe_valid",
        "valid_share",
        "outliers_valid",
        "outliers_with_hidden",
        "wrong_and_sure",
        "moving_epe_valid",
        "moving_right",
        "ece",
    )
    heads = (
        "EPE valid, px",
        "valid",
        "valid off by > 3 px",
        "hidden patches included",
        "wrong and sure",
        "EPE of what moves by itself",
        "valid and within 3 px of that",
        "ece",
    )
    found = [
        {
            row["condition"]: row | _right(row)
            for row in results["rows"]
            if _is_auto(row) and row["encoding"] == encoding
        }
        for results in (before, now)
    ]
    lines = [[encoding, *heads]]
    for condition in found[1]:
        pairs = [[_figure(key, one.get(condition, {}).get(key)) for one in found] for key in keys]
        lines.append([condition, *(_change(one, other) for one, other in pairs)])
    return grid(lines)


def _change(one: str, other: str) -> str:
    if other == "-":
        return one if one == "-" else f"{one} -> -"
    return f"**{other}**" if one == "-" else f"{one} -> **{other}**"


def _right(row: dict[str, Any]) -> dict[str, float | None]:
    """The share of what moves by itself that is valid and within 3 px of the truth."""
    if row["moving_valid_share"] is None or row["moving_outliers"] is None:
        return {"moving_right": None}
    return {"moving_right": row["moving_valid_share"] * (1 - row["moving_outliers"])}


def _is_auto(row: dict[str, Any]) -> bool:
    return (row["source"], row["quality"]) == ("auto", "balanced")


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key in ("valid_share", "outliers_valid", "outliers_with_hidden", "wrong_and_sure", "moving_right"):
        return f"{value:.1%}"
    return f"{value:.3f}" if key == "ece" else f"{value:.2f}"


def reliability(results: dict[str, Any], path: Path) -> None:
    """The share of vectors within 3 px against their confidence, a line for each source, over all conditions."""
    with mpl.rc_context({"svg.hashsalt": "motiontune", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        for axis, encoding in zip(figure.subplots(1, 2, sharey=True), ("vp9 crf38", "x264 crf23"), strict=True):
            axis.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
            for row in results["rows"]:
                if row["condition"] == "all" and row["encoding"] == encoding and row["bins"]:
                    mean, near, _ = zip(*row["bins"], strict=True)
                    axis.plot(mean, near, "o-", markersize=3, linewidth=0.9, label=f"{_name(row)} ({row['ece']:.3f})")
            axis.set(title=encoding, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
            axis.grid(alpha=0.25, linewidth=0.4)
            axis.legend(fontsize=6)
        figure.axes[0].set_ylabel("share within 3 px")
        figure.savefig(path, metadata={"Date": None})


def quality_table(results: dict[str, Any]) -> str:
    """`auto` at each quality, over all conditions of each encoding that has them all."""
    head = ["", "quality", "EPE valid, px", "valid", "valid off by > 3 px", "of what moves: EPE", "valid", "ms a pair"]
    lines = []
    for row in results["rows"]:
        if row["condition"] == "all" and row["source"] == "auto" and row["encoding"] in ROOM_ENCODINGS:
            shares = [f"{row['valid_share']:.1%}", f"{row['outliers_valid']:.1%}"]
            moving = [f"{row['moving_epe_valid']:.2f}", f"{row['moving_valid_share']:.1%}"]
            quality, ms = row["quality"], f"{row['ms_per_pair']:.1f}"
            lines.append([row["encoding"], quality, f"{row['epe_valid']:.2f}", *shares, *moving, ms])
    return grid([head, *sorted(lines, key=lambda line: line[0], reverse=True)])


def compression_table(results: dict[str, Any]) -> str:
    """Ordinary rooms in every encoding that they have, a line each; EPE of the valid and their share by source."""
    rows = [row for row in results["rows"] if row["condition"] == "ordinary" and row["quality"] in (None, "balanced")]
    found = {(row["encoding"], _name(row)): row for row in rows}
    encodings, names = (sorted({key[i] for key in found}) for i in range(2))
    return grid([["", *names], *([one, *(_cell(found.get((one, name))) for name in names)] for one in encodings)])


def goals_table(conditions: dict[str, Any], real: dict[str, Any], speed: dict[str, Any]) -> str:
    """What was aimed at, set before most of this was built, and what is reached."""
    rows = {(r["condition"], r["encoding"], r["source"], r["quality"]): r for r in conditions["rows"]}
    auto = {key[:2]: row for key, row in rows.items() if key[2:] == ("auto", "balanced") and key[0] != "all"}
    ordinary = auto["ordinary", "vp9 crf38"]
    drift = [row for (condition, encoding), row in auto.items() if "exposure" in condition and "vp9" in encoding]
    codec = [rows["ordinary", encoding, "codec", None] for encoding in ("x264 crf23", "x264 veryslow")]
    clips = {(row["clip"], _name(row)): row["error_of_scenes"] for row in real["rows"] if "error" in row}
    means = {_name(row): row["error_of_scenes"] for row in real["summaries"]}
    above = {
        clip: error / clips[clip, "dis medium"] - 1 for (clip, name), error in clips.items() if name == "auto balanced"
    }
    worst = ", ".join(f"{clip} {more:+.0%}" for clip, more in above.items() if more > ABOVE)
    loaders = {row["job"]: row["cpu_ratio"] for row in speed["summaries"] if row["kind"] == "all"}
    lines = (
        ("ordinary rooms, VP9: EPE of the valid", "0.28 px", f"{ordinary['epe_valid']:.3f} px"),
        ("... valid", "96 %", f"{ordinary['valid_share']:.1%}"),
        ("... of that off by > 3 px", "0.8 %", f"{ordinary['outliers_valid']:.1%}"),
        ("... EPE of what moves by itself", "3 px (a hand)", f"{ordinary['moving_epe_valid']:.2f} px"),
        ("exposure drift, VP9: EPE of the valid", "0.5 px", f"{max(row['epe_valid'] for row in drift):.2f} px"),
        ("... valid", "85 %", f"{min(row['valid_share'] for row in drift):.1%}"),
        ("wrong and sure, any condition", "0.1 %", _range(auto, "wrong_and_sure", ".1%")),
        ("ece, any condition", "0.05", _range(auto, "ece", ".2f")),
        (
            "`codec`, ordinary rooms, x264",
            "0.6 px",
            f"{codec[0]['epe_valid']:.2f} px, {codec[0]['valid_share']:.0%} valid",
        ),
        ("... x264 veryslow", "the same", f"{codec[1]['epe_valid']:.2f} px, {codec[1]['valid_share']:.0%} valid"),
        (
            "real clips without cuts: `auto` beside DIS medium",
            "-8 %",
            f"{means['auto balanced'] / means['dis medium'] - 1:+.1%} (`best`: "
            f"{means['auto best'] / means['dis medium'] - 1:+.1%})",
        ),
        ("... clips on which it is more than 3 % above", "none", worst or "none"),
        (
            "processor time of LLaMA-Factory's reader over that of `auto`",
            "0.75",
            " ".join(
                f"{loaders[f'auto {quality}'] / loaders['llamafactory']:.2f} ({quality})"
                for quality in ("balanced", "fast")
            ),
        ),
        ("... of `codec`", "0.95", f"{loaders['codec'] / loaders['llamafactory']:.2f}"),
    )
    return grid([["", "aimed at", "measured"], *map(list, lines)])


def _range(rows: dict[tuple[str, str], dict[str, Any]], key: str, form: str) -> str:
    ordered = sorted((row[key], f"{condition}, {encoding}") for (condition, encoding), row in rows.items())
    return f"{ordered[0][0]:{form}} to {ordered[-1][0]:{form}} ({ordered[-1][1]})"


def with_table(text: str, name: str, table: str) -> str:
    """A text with the table between its marks replaced."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, rest = text.split(begin)
    return before + begin + table + end + rest.split(end)[1]


TABLES: dict[Path, dict[str, Callable[[], str]]] = {
    FOLDER / "README.md": {
        "accuracy": lambda: accuracy_table(load("accuracy"), "0.5 s"),
        "adjacent": lambda: accuracy_table(load("accuracy"), "adjacent"),
        "auc": lambda: auc_table(load("accuracy")),
        "pans": lambda: pan_table(load("accuracy")),
        "real": lambda: real_table(load("real")),
        "goals": lambda: goals_table(load("conditions"), load("real"), load("speed")),
        "speed": lambda: speed_table(load("speed")),
        "rooms": lambda: conditions_table(load("conditions-before"), load("conditions"), "vp9 crf38"),
        "compression": lambda: compression_table(load("conditions")),
        "rooms-x264": lambda: conditions_table(load("conditions-before"), load("conditions"), "x264 crf23"),
    },
    DOCS / "motion.md": {
        "rooms": lambda: conditions_table(load("conditions-before"), load("conditions"), "vp9 crf38"),
        "accuracy": lambda: docs_table(load("accuracy")),
        "quality": lambda: quality_table(load("conditions")),
        "speed": lambda: speed_table(load("speed")),
    },
}


def current(path: Path) -> str:
    """A document's text with its tables made again."""
    text = path.read_text("utf-8")
    for name, table in TABLES[path].items():
        text = with_table(text, name, table())
    return text


def plot(results: dict[str, Any], path: Path) -> None:
    """Error against cost, a point for each source, on four encodings."""
    rows = [row for row in results["summaries"] if row["gap"] == "0.5 s" and row["epe_all"]]
    style = {"svg.hashsalt": "motiontune", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        axes = figure.subplots(1, len(SHOWN), sharex=True, sharey=True)
        for axis, encoding in zip(axes, SHOWN, strict=True):
            for row in rows:
                if row["encoding"] != encoding:
                    continue
                ours = row["auc"] != 0.5  # what trusts every vector alike is a peer
                axis.plot(
                    row["ms_per_pair"], row["epe_valid"], "o" if ours else "x", color="#1f6f8b" if ours else "#b5493a"
                )
                axis.annotate(
                    _name(row), (row["ms_per_pair"], row["epe_valid"]), (4, 2), textcoords="offset points", fontsize=6
                )
            axis.set(title=encoding, xscale="log", yscale="log", xlabel="ms per pair of frames")
            axis.grid(alpha=0.25, which="both", linewidth=0.4)
        axes[0].set_ylabel("end-point error, valid patches (px)")
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write all of it."""
    for path in TABLES:
        path.write_text(current(path), "utf-8")
    plot(load("accuracy"), FOLDER / "accuracy.svg")
    reliability(load("conditions"), DOCS / "reliability.svg")


if __name__ == "__main__":
    main()
