"""One page that shows what a run has learnt: report.html, readable anywhere and without a network.

Pictures, curves and style are inside the file. It holds no script, follows the reader's light or dark setting, and
prints. Any stands for what JSON holds: metrics and configurations are the user's own, or the Trainer's.
"""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.arrows import STILL_PIXELS
from motiontune.drawing.colours import colour_wheel_legend
from motiontune.drawing.curves import SMOOTH_FROM, draw_curves
from motiontune.drawing.images import data_uri
from motiontune.drawing.sheets import SheetCell, draw_cells, length_note, row_length
from motiontune.evaluation.comparison import MotionComparison, prediction_rows
from motiontune.evaluation.sums import SECTORS
from motiontune.files import write_text
from motiontune.runs.folder import without_secrets


_COLUMNS = 6  # frames of each clip
_CELL_WIDTH = 260  # about half as large again as it is shown, for dense screens
_CELL_AREA = 36_000  # pixels: a tall clip gets narrower frames, so that every clip costs about the same

_SPLIT_PREFIX = re.compile(r"^(?:predict|eval|test)_")
_EPE = {"epe": "all patches", "epe_moving": "moving patches"}
_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("loss", {"loss": "loss"}),
    ("end-point error, px", _EPE),
    ("end-point error, px", {f"pooled_{key}": label.replace("patches", "steps") for key, label in _EPE.items()}),
    ("motion loss", {"motion_loss": "motion loss"}),
    ("cross-entropy of the text", {"ce_loss": "cross-entropy"}),
)
"""The plots of a run: what stands at the y axis, and the logged numbers that are drawn there. The motion's loss, which
has no unit, only where there is no end-point error."""
_MEANINGS = (
    ("clips_left_out", "samples that took no part, since a clip of theirs could not be read"),
    ("clips_none", "clips for which there is no motion: they trained, or were measured by, their text alone"),
    (r"clips_([^_]+)", r"clips whose motion came from \1, each as often as it was seen"),
    ("epe", "mean end-point error over valid patches, pixels of the resized frame"),
    ("epe_moving", "the same over patches that move by more than a pixel"),
    ("epe_zero_motion", "what predicting no motion scores over valid patches, pixels"),
    ("epe_moving_zero_motion", "what predicting no motion scores over moving patches, pixels"),
    ("direction_accuracy", "share of moving patches whose direction is the right one of eight"),
    ("valid_patches", "patches that were compared"),
    ("motion_loss", "the part of the loss that is motion, per number, in no unit"),
    ("ce_loss", "the part of the loss that is text: cross-entropy per token"),
)
"""How the name of a metric ends, and what it is."""
_TEXT_TILES = (
    ("loss", "Loss", "on held-out samples"),
    ("bleu-4", "BLEU-4", "of 100, over characters"),
    ("rouge-l", "ROUGE-L", "of 100"),
)


@dataclass(frozen=True, eq=False)
class ReportClip:
    """One held-out clip.

    Args:
        name: heading.
        frames: uint8 [f, h, w, 3], RGB, the sampled frames; they are brought to the prediction's grid.
        prediction: predicted motion, with its target where there is one.
        expected_text: the caption of the data set, or None where captions were not predicted.
        predicted_text: what the model wrote, or None.
        section: heading of the clip and its neighbours that have the same.
    """

    name: str
    frames: NDArray[np.uint8]
    prediction: MotionComparison
    expected_text: str | None = None
    predicted_text: str | None = None
    section: str = "Held-out clips"


def write_report(
    path: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    log_history: Sequence[Mapping[str, Any]],
    clips: Sequence[ReportClip],
    configuration: Mapping[str, Any],
    versions: Mapping[str, Any],
    notes: str = "",
    answers: Sequence[tuple[str, str]] = (),
    pictures: Mapping[str, NDArray[np.uint8]] | None = None,
    folds: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write one self-contained HTML file, whole or not at all.

    A clip takes about 0.1 to 0.4 MB, so a dozen of them is a good number. Values of the configuration that look like
    credentials by their key are left out, since reports are passed on.

    Args:
        path: the file; its folder is made.
        title: heading of the page.
        metrics: names of `MotionSums.metrics`, with or without a prefix "predict_", "eval_" or "test_". These have a
            place of their own: `epe`, `epe_zero_motion`, `epe_mean_motion` and the same with `epe_moving`, in pixels;
            `direction_accuracy` and `caption_exact_match` (or `exact_match`), 0 to 1; `valid_patches`. With several
            evaluation data sets ("eval_NAME_epe") each has a table. All are listed in a fold.
        log_history: the Trainer's; `loss`, `epe` and `epe_moving` (or `motion_loss`), `ce_loss` and the same of
            evaluations ("eval_loss") are drawn over `step`, each in a plot of its own.
        clips: held-out clips, in the order in which they are shown.
        configuration: what the run was started with.
        versions: names of packages, and whatever else tells where the run took place.
        notes: a paragraph below the heading; an empty line starts another one.
        answers: the predicted and the expected text of samples, of a run without motion.
        pictures: uint8 [h, w, 3], RGB, that evaluations drew, under what stands below them.
        folds: further folds, below the others.

    Returns:
        The path.

    Raises:
        ValueError: if a clip's frames do not fit its prediction's grid; the message names the clip.
    """
    path = Path(path)
    of_datasets = _by_dataset(metrics)
    body = [
        f"<header><h1>{escape(title)}</h1>{_paragraphs(notes)}</header>",
        *(_headline(numbers, dataset) for dataset, numbers in of_datasets.items()),
        _not_numbers(metrics),
        _curves_section(log_history, of_datasets),
        _clips_section(clips),
        _answers_section(answers),
        _pictures_section(pictures or {}),
        fold("All metrics", definitions(metrics) + _meanings(metrics)),
        fold("Configuration", definitions(configuration)),
        fold("Versions", definitions(versions)),
        *(fold(label, definitions(values)) for label, values in (folds or {}).items()),
    ]
    return write_page(path, title, body)


def write_page(path: Path, title: str, body: Sequence[str]) -> Path:
    """Write a self-contained HTML file of the parts of its body, whole or not at all, and return its path."""
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    page = _PAGE.format(title=escape(title), style=f"\n{style}", body="\n".join(part for part in body if part))
    # a file name that is not UTF-8 arrives with surrogates; it must not cost the report
    write_text(path, page, errors="replace")
    return path


# The headline


def _by_dataset(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers of each evaluation data set that has a name, and under "" those that are of no certain one."""
    names = sorted({match[1] for key in metrics if (match := re.fullmatch(r"eval_(.+)_(?:epe|runtime)", str(key)))})
    found = {"": _finite_numbers(metrics)}
    for name in names:
        prefix = f"eval_{name}_"
        own = {key.removeprefix(prefix): metrics[key] for key in map(str, metrics) if key.startswith(prefix)}
        found[name] = _finite_numbers(own)
    return found


def _headline(numbers: Mapping[str, float], dataset: str) -> str:
    """The table of end-point errors against the baselines, and the shares beside it."""
    groups = [_epe_group("epe_moving", "Moving patches", numbers), _epe_group("epe", "All valid patches", numbers)]
    rows = "".join(group for group in groups if group)
    table = (
        f"<table class=bars><caption>{f'{escape(dataset)}: ' if dataset else ''}End-point error, pixels of the "
        f"resized frame <span>(lower is better)</span></caption>{rows}</table>"
        if rows
        else ""
    )
    tiles = []
    if "direction_accuracy" in numbers:
        note = f"of moving patches, one of {SECTORS} directions; chance is {percent(1 / SECTORS)}"
        tiles.append(tile("Direction right", percent(numbers["direction_accuracy"]), note))
    exact = numbers.get("caption_exact_match", numbers.get("exact_match"))
    if exact is not None:
        tiles.append(tile("Captions exact", percent(exact), "of predicted captions"))
    if "valid_patches" in numbers:
        tiles.append(tile("Compared", f"{numbers['valid_patches']:,.0f}", "valid patches"))
    if not table:
        of = f" ({dataset})" if dataset else ""
        tiles += [tile(label, f"{numbers[key]:.4g}", note + of) for key, label, note in _TEXT_TILES if key in numbers]
        return f"<section class='tiles row'>{''.join(tiles)}</section>" if tiles else ""
    return f"<section class=headline>{table}<div class=tiles>{''.join(tiles)}</div></section>"


def _not_numbers(metrics: Mapping[str, Any]) -> str:
    """A run that diverged must not look like one without metrics."""
    lost = [str(key) for key, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
    return f"<p class=warning>Not a finite number: {escape(', '.join(lost))}</p>" if lost else ""


def _epe_group(key: str, label: str, numbers: Mapping[str, float]) -> str:
    """Rows of the table for one set of patches: the model, and the baselines that are known."""
    if key not in numbers:
        return ""
    rivals = {"mean motion": numbers.get(f"{key}_mean_motion"), "zero motion": numbers.get(f"{key}_zero_motion")}
    shown = {"this model": numbers[key]} | {name: value for name, value in rivals.items() if value is not None}
    longest = max(shown.values()) or 1.0
    zero = rivals["zero motion"]
    change = f" <span>{_against(numbers[key], zero)}</span>" if zero else ""
    lines = [f"<tr><th colspan=3 scope=rowgroup>{escape(label)}{change}</th></tr>"]
    for name, value in shown.items():
        kind = "model" if name == "this model" else "rival"
        bar = f'<div class="bar {kind}" style="width:{max(100 * value / longest, 0.5):.1f}%"></div>'
        lines.append(
            f"<tr class={kind}><td>{name}</td><td class=number>{_pixels(value)}</td><td class=track>{bar}</td></tr>"
        )
    return f"<tbody>{''.join(lines)}</tbody>"


def _against(value: float, zero: float) -> str:
    change = value / zero - 1
    if abs(change) < 0.005:
        return "as good as predicting no motion"
    return f"{percent(abs(change), 0)} {'below' if change < 0 else 'above'} predicting no motion"


def tile(label: str, value: str, note: str) -> str:
    """A number with a label above and a note below."""
    return f"<div class=tile><div>{escape(label)}</div><strong>{escape(value)}</strong><p>{escape(note)}</p></div>"


# The curves


def _curves_section(log_history: Sequence[Mapping[str, Any]], of_datasets: Mapping[str, Mapping[str, float]]) -> str:
    panels = []
    for name in ("training", *of_datasets):
        prefix = "" if name == "training" else f"eval_{name}_" if name else "eval_"
        drawn = [
            (label, series, _levels(log_history, keys, prefix))
            for label, keys in _PANELS
            if (series := _all_series(log_history, {prefix + key: curve for key, curve in keys.items()}))
        ]
        in_pixels = any("end-point" in label for label, _, _ in drawn)
        panels += [(name, *panel) for panel in drawn if not (in_pixels and panel[0] == "motion loss")]
    if not panels:
        return ""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "<section><h2>Curves</h2><p class=quiet>matplotlib is not installed, so none were drawn.</p></section>"
    figures = []
    for name, label, series, levels in panels:
        note = f"{label.partition(',')[0].capitalize()} {_where(name)}"
        note += "; dotted: predicting no motion" if levels else ""
        smoothed = max(len(points) for points in series.values()) >= SMOOTH_FROM
        note += "; faint: as logged, bold: smoothed" if smoothed else ""
        figures.append(figure(draw_curves(series, label, levels).svg, note))
    return f"<section><h2>Curves</h2><div class=plots>{''.join(figures)}</div></section>"


def _where(name: str) -> str:
    return "in training" if name == "training" else f"on {name or 'held-out samples'}"


def _levels(log_history: Sequence[Mapping[str, Any]], keys: Mapping[str, str], prefix: str) -> dict[str, float | None]:
    """The mean of what predicting no motion scored, for each curve of end-point errors."""
    found: dict[str, float | None] = {}
    for key, curve in keys.items():
        zero = _series(log_history, f"{prefix}{key}_zero_motion")
        if len(zero):
            found[curve] = float(zero[:, 1].mean())
    return found


def _all_series(log_history: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
    """The curves, by label, of the logged numbers that make one."""
    found = {label: _series(log_history, key) for key, label in labels.items()}
    return {label: series for label, series in found.items() if len(series) > 1}


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    """Steps and values [n, 2] of one logged number, by step; what a resumed run logged again counts once."""
    points = {}
    for entry in log_history:
        step, value = _number(entry.get("step")), _number(entry.get(key))
        if step is not None and value is not None:
            points[step] = value
    return np.array(sorted(points.items()), np.float64).reshape(-1, 2)


# The clips


def _clips_section(clips: Sequence[ReportClip]) -> str:
    if not clips:
        return ""
    wheel = data_uri(colour_wheel_legend(144))
    legend = (
        f'<div class=legend><img src="{wheel}" alt="colour wheel: right is red, down yellow, left cyan, up blue">'
        "<p>An arrow starts at its patch and points where the content moves; its colour is its direction. "
        f"A dot moves less than {STILL_PIXELS:g} px. A grey cross has no vector and is not compared: the first frame, "
        "padding, and what comes into view. Where patches are small, one arrow is the mean of several.</p></div>"
    )
    sections: list[str] = []
    for heading, members in itertools.groupby(clips, lambda clip: clip.section):
        articles = "".join(_clip(clip) for clip in members)
        sections.append(f"<section><h2>{escape(heading)}</h2>{'' if sections else legend}{articles}</section>")
    return "".join(sections)


def _answers_section(answers: Sequence[tuple[str, str]]) -> str:
    articles = "".join(f"<article>{_captions(expected, predicted)}</article>" for predicted, expected in answers)
    return f"<section><h2>The first answers</h2>{articles}</section>" if answers else ""


def _pictures_section(pictures: Mapping[str, NDArray[np.uint8]]) -> str:
    if not pictures:
        return ""
    figures = "".join(
        figure(f'<img src="{data_uri(picture)}" alt="target and predicted motion" loading=lazy>', label)
        for label, picture in pictures.items()
    )
    return f"<section><h2>While training</h2><div class=plots>{figures}</div></section>"


def _clip(clip: ReportClip) -> str:
    prediction, width = clip.prediction, _cell_width(clip.prediction)
    try:
        rows = prediction_rows(clip.name, clip.frames, prediction, width)
    except ValueError as error:
        raise ValueError(f"{clip.name}: {error}") from None
    labels = ("target", "predicted")[-len(rows) :]
    drawn = [draw_cells(row, _COLUMNS, width) for row in rows]
    strips = "".join(_strip(label, cells) for label, cells in zip(labels, drawn, strict=True))
    times = "".join(f"<time>{cell.time:.2f} s</time>" for cell in drawn[0])
    size = f"--columns:{len(drawn[0])};--width:{drawn[0][0].image.shape[1]}px"
    film = f'<div class=scroll tabindex=0><div class=film style="{size}">{strips}<span></span>{times}</div></div>'
    scale = length_note(row_length(rows[0], width))
    about = escape(f"{prediction.source} · {prediction.direction} · {scale}")
    return (
        f"<article><h3>{escape(clip.name)}</h3><p class=path><code>{escape(prediction.path)}</code> {about}</p>"
        f"{_captions(clip.expected_text, clip.predicted_text)}{film}{_clip_numbers(prediction)}</article>"
    )


def _cell_width(prediction: MotionComparison) -> int:
    aspect = prediction.grid.width / prediction.grid.height
    return max(80, min(_CELL_WIDTH, round(math.sqrt(_CELL_AREA * aspect))))


def _strip(label: str, cells: Sequence[SheetCell]) -> str:
    pictures = "".join(
        f'<img src="{data_uri(cell.image)}" alt="{label} motion at {cell.time:.2f} s" loading=lazy>' for cell in cells
    )
    return f"<b>{label}</b>{pictures}"


def _clip_numbers(prediction: MotionComparison) -> str:
    if prediction.target is None:
        return "<p class=numbers>no target to compare with</p>"
    found = prediction.sums().metrics()
    parts = []
    for key, label in (("epe_moving", "moving patches"), ("epe", "all patches")):
        if key in found and math.isfinite(found[key]):
            zero = found[f"{key}_zero_motion"]
            parts.append(f"{label} <strong>{_pixels(found[key])} px</strong> (zero motion {_pixels(zero)})")
    if parts:
        parts[0] = f"end-point error: {parts[0]}"
    if "direction_accuracy" in found:
        parts.append(f"direction right <strong>{percent(found['direction_accuracy'])}</strong>")
    return f"<p class=numbers>{' · '.join(parts) or 'no valid patch to compare'}</p>"


def _captions(expected: str | None, predicted: str | None) -> str:
    lines = []
    if expected:
        lines.append(f"<dt>expected</dt><dd>{escape(expected)}</dd>")
    if predicted is not None:
        mark = ""
        if expected:
            same = predicted.strip() == expected.strip()
            mark = " <mark class=same>exact</mark>" if same else " <mark class=other>differs</mark>"
        lines.append(f"<dt>predicted</dt><dd>{escape(predicted) or '<i>nothing</i>'}{mark}</dd>")
    return f"<dl class=captions>{''.join(lines)}</dl>" if lines else ""


# Small parts


def figure(picture: str, caption: str) -> str:
    """A picture with a caption."""
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def fold(label: str, content: str) -> str:
    """Content that opens with a click, or nothing where there is none."""
    return f"<details><summary>{escape(label)}</summary>{content}</details>" if content else ""


def definitions(values: Mapping[str, Any]) -> str:
    """One line `key: value` each, to be copied into a configuration again."""
    lines = "\n".join(f"{key}: {_shown(value)}" for key, value in without_secrets(values).items())
    return f"<pre>{escape(lines)}</pre>" if lines else ""


def _meanings(metrics: Mapping[str, Any]) -> str:
    """One line for each metric of motiontune's: its name, and what it counts or measures."""
    lines = {}
    for key in sorted(map(str, metrics)):
        for pattern, meaning in _MEANINGS:
            if found := re.search(rf"(?:^|_){pattern}$", key):
                name = found[0].removeprefix("_")
                lines[name] = f"<dt><code>{escape(name)}</code></dt><dd>{escape(found.expand(meaning))}</dd>"
                break
    return f"<dl class=captions>{''.join(lines.values())}</dl>" if lines else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _paragraphs(text: str) -> str:
    parts = (part.strip() for part in re.split(r"\n\s*\n", text))
    return "".join(f"<p>{escape(part)}</p>" for part in parts if part)


def _finite_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers, without the prefix that the Trainer puts before them."""
    numbers = {_SPLIT_PREFIX.sub("", str(key)): _number(value) for key, value in metrics.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _pixels(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def percent(share: float, digits: int = 1) -> str:
    """A share, 0 to 1, as text."""
    text = f"{100 * share:.{digits}f}"
    return f"{text.removesuffix('.0')} %"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
