"""One page that shows what a run has learnt: report.html, readable anywhere and without a network.

Pictures, curves and style are inside the file. It holds no script, follows the reader's light or dark setting, and
prints.
"""

import base64
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.arrows import STILL_PIXELS
from motiontune.drawing.colours import colour_wheel_legend
from motiontune.drawing.curves import SMOOTH_FROM, draw_curves
from motiontune.drawing.sheets import SheetCell, SheetRow, draw_cells, encode_image, frames_on_grid, row_length
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.sums import SECTORS
from motiontune.files import write_text
from motiontune.runs.folder import without_secrets


COLUMNS = 6
"""Frames of each clip."""

_CELL_WIDTH = 260  # about half as large again as it is shown, for dense screens
_CELL_AREA = 36_000  # pixels: a tall clip gets narrower frames, so that every clip costs about the same
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)

_SPLIT_PREFIX = re.compile(r"^(?:predict|eval|test)_")
_CURVES = {"loss": "loss", "motion_loss": "motion loss", "ce_loss": "cross-entropy"}
_HELD_OUT = {"epe": "all patches", "epe_moving": "moving patches"}
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
        log_history: the Trainer's; `loss`, `motion_loss`, `ce_loss`, the same of evaluations ("eval_loss"), and
            `eval_epe`, `eval_epe_moving` are drawn over `step`.
        clips: held-out clips, in the order in which they are shown.
        configuration: what the run was started with.
        versions: names of packages, and whatever else says where the run took place.
        notes: a paragraph below the heading; an empty line starts another one.
        answers: what was said and what should have been, of a run without motion.
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
        _fold("All metrics", _definitions(metrics)),
        _fold("Configuration", _definitions(configuration)),
        _fold("Versions", _definitions(versions)),
        *(_fold(label, _definitions(values)) for label, values in (folds or {}).items()),
    ]
    page = _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(part for part in body if part))
    # a file name that is not UTF-8 arrives with surrogates; it must not cost the report
    write_text(path, page, errors="replace")
    return path


def prediction_rows(
    name: str, frames: NDArray[np.uint8], prediction: MotionComparison, cell_width: int
) -> list[SheetRow]:
    """Target (where there is one) above prediction, with arrows of the same length, ready for a contact sheet.

    Args:
        name: goes into both titles.
        frames: uint8 [f, h, w, 3], the sampled frames, of any size.
        prediction: of the same clip.
        cell_width: width of a frame in pixels.
    """
    sized = frames_on_grid(frames, prediction.grid)
    valid, times, patch = prediction.valid, prediction.times, prediction.grid.patch
    said = SheetRow(f"{name} · predicted", sized, prediction.predicted, valid, times, patch)
    if prediction.target is None:
        return [said]
    true = SheetRow(f"{name} · target", sized, prediction.target, valid, times, patch)
    length = row_length(true, cell_width)
    return [replace(true, length=length), replace(said, length=length)]


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
        note = f"of moving patches, one of {SECTORS} directions; chance is {_percent(1 / SECTORS)}"
        tiles.append(_tile("Direction right", _percent(numbers["direction_accuracy"]), note))
    exact = numbers.get("caption_exact_match", numbers.get("exact_match"))
    if exact is not None:
        tiles.append(_tile("Captions exact", _percent(exact), "of predicted captions"))
    if "valid_patches" in numbers:
        tiles.append(_tile("Compared", f"{numbers['valid_patches']:,.0f}", "valid patches"))
    if not table:
        of = f" ({dataset})" if dataset else ""
        tiles += [_tile(label, f"{numbers[key]:.4g}", note + of) for key, label, note in _TEXT_TILES if key in numbers]
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
    return f"{_percent(abs(change), 0)} {'below' if change < 0 else 'above'} predicting no motion"


def _tile(label: str, value: str, note: str) -> str:
    return f"<div class=tile><div>{escape(label)}</div><strong>{escape(value)}</strong><p>{escape(note)}</p></div>"


# The curves


def _curves_section(log_history: Sequence[Mapping[str, Any]], of_datasets: Mapping[str, Mapping[str, float]]) -> str:
    training = _all_series(log_history, _CURVES)
    evaluated = []
    for name in of_datasets:
        prefix = f"eval_{name}_" if name else "eval_"
        for label, keys in (("end-point error, px", _HELD_OUT), ("loss", _CURVES)):
            series = _all_series(log_history, {prefix + key: curve for key, curve in keys.items()})
            if series:
                evaluated.append((name, label, series))
    if not training and not evaluated:
        return ""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "<section><h2>Curves</h2><p class=quiet>matplotlib is not installed, so none were drawn.</p></section>"
    figures = []
    if training:
        smoothed = max(len(series) for series in training.values()) >= SMOOTH_FROM
        note = f"Training loss per step{'; faint: as logged, bold: smoothed' if smoothed else ''}"
        figures.append(_figure(draw_curves(training, "loss").svg, note))
    for name, label, series in evaluated:
        zeros = {curve: of_datasets[name].get(f"{key}_zero_motion") for key, curve in _HELD_OUT.items()}
        note = f"{label.partition(',')[0].capitalize()} on {name or 'held-out samples'}"
        note += "; dotted: predicting no motion" if any(zeros.get(curve) for curve in series) else ""
        figures.append(_figure(draw_curves(series, label, zeros).svg, note))
    return f"<section><h2>Curves</h2><div class=plots>{''.join(figures)}</div></section>"


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
    articles = "".join(f"<article>{_captions(expected, said)}</article>" for said, expected in answers)
    return f"<section><h2>The first answers</h2>{articles}</section>" if answers else ""


def _pictures_section(pictures: Mapping[str, NDArray[np.uint8]]) -> str:
    if not pictures:
        return ""
    figures = "".join(
        _figure(f'<img src="{data_uri(picture)}" alt="target and predicted motion" loading=lazy>', label)
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
    drawn = [draw_cells(row, COLUMNS, width) for row in rows]
    strips = "".join(_strip(label, cells) for label, cells in zip(labels, drawn, strict=True))
    times = "".join(f"<time>{cell.time:.2f} s</time>" for cell in drawn[0])
    size = f"--columns:{len(drawn[0])};--width:{drawn[0][0].image.shape[1]}px"
    film = f'<div class=scroll tabindex=0><div class=film style="{size}">{strips}<span></span>{times}</div></div>'
    length = row_length(rows[0], width)
    scale = "arrows to scale" if length == 1 else f"arrows {length:g} × as long as the motion"
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
        parts.append(f"direction right <strong>{_percent(found['direction_accuracy'])}</strong>")
    return f"<p class=numbers>{' · '.join(parts) or 'no valid patch to compare'}</p>"


def _captions(expected: str | None, said: str | None) -> str:
    lines = []
    if expected:
        lines.append(f"<dt>expected</dt><dd>{escape(expected)}</dd>")
    if said is not None:
        mark = ""
        if expected:
            same = said.strip() == expected.strip()
            mark = " <mark class=same>exact</mark>" if same else " <mark class=other>differs</mark>"
        lines.append(f"<dt>predicted</dt><dd>{escape(said) or '<i>nothing</i>'}{mark}</dd>")
    return f"<dl class=captions>{''.join(lines)}</dl>" if lines else ""


# Small parts


def data_uri(image: NDArray[np.uint8]) -> str:
    """The picture as PNG, or as JPEG where film would make that several times as large."""
    png, jpeg = encode_image(image, ".png"), encode_image(image, ".jpg", _JPEG)
    kind, data = ("png", png) if len(png) <= 1.5 * len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _fold(label: str, content: str) -> str:
    return f"<details><summary>{escape(label)}</summary>{content}</details>" if content else ""


def _definitions(values: Mapping[str, Any]) -> str:
    """One line `key: value` each, to be copied into a configuration again."""
    lines = "\n".join(f"{key}: {_shown(value)}" for key, value in without_secrets(values).items())
    return f"<pre>{escape(lines)}</pre>" if lines else ""


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


def _percent(share: float, digits: int = 1) -> str:
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

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f5f6f8; --ink: #1b1e24; --quiet: #5c636f;
  --line: #dfe2e7; --model: #2f6fe4; --rival: #b4bac5; --good: #14714a; --bad: #a8321f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1d2026; --ink: #e9ebef; --quiet: #9aa2ae;
  --line: #30353d; --model: #6ea2ff; --rival: #565e6b; --good: #58c793; --bad: #f08a76; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 44px 0 14px; }
h3 { font-size: 17px; margin: 0; overflow-wrap: anywhere; }
p { margin: 0 0 8px; }
.warning { color: var(--bad); font-weight: 600; margin-top: 16px; }
header p, .quiet { color: var(--quiet); max-width: 75ch; overflow-wrap: anywhere; }
.headline { display: grid; grid-template-columns: minmax(0, 1fr) 320px; gap: 28px; margin-top: 28px; }
table.bars { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; align-self: start; }
.bars caption { text-align: left; font-weight: 600; margin-bottom: 4px; }
.bars span { color: var(--quiet); font-weight: 400; }
.bars th { text-align: left; font-weight: 600; padding: 12px 0 3px; }
.bars th span { margin-left: 8px; }
.bars td { padding: 3px 14px 3px 0; white-space: nowrap; }
.bars .number { text-align: right; }
.bars tr.model td { font-weight: 600; }
.bars .track { width: 100%; padding-right: 0; }
.bar { height: 16px; border-radius: 3px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bar.model { background: var(--model); } .bar.rival { background: var(--rival); }
.tiles { display: grid; gap: 12px; align-content: start; }
.tiles.row { grid-template-columns: repeat(auto-fit, minmax(180px, 240px)); margin-top: 28px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile strong { display: block; font-size: 28px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile p { color: var(--quiet); font-size: 14px; margin: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 24px; }
figure { margin: 0; max-width: 640px; } figure svg { width: 100%; height: auto; display: block; }
figure img { max-width: 100%; height: auto; border-radius: 6px; }
figure svg text { font-family: inherit; }
figcaption { color: var(--quiet); font-size: 14px; }
.legend { display: flex; gap: 18px; align-items: center; margin-bottom: 20px; color: var(--quiet); font-size: 14px; }
.legend img { width: 72px; height: 72px; border-radius: 50%; flex: none; } .legend p { max-width: 80ch; margin: 0; }
article { border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px 14px; margin-bottom: 20px;
  background: var(--card); break-inside: avoid; }
.path { color: var(--quiet); font-size: 14px; overflow-wrap: anywhere; } .path code { margin-right: 10px; }
.captions { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 14px; margin: 8px 0 12px; }
.captions dt { color: var(--quiet); } .captions dd { margin: 0; overflow-wrap: anywhere; }
mark { background: none; font-size: 13px; font-weight: 600; border: 1px solid; border-radius: 999px;
  padding: 0 8px; margin-left: 6px; white-space: nowrap; }
mark.same { color: var(--good); } mark.other { color: var(--bad); }
.scroll { overflow-x: auto; }
.film { display: grid; gap: 6px; align-items: center; font-size: 13px; width: max-content; max-width: 100%;
  grid-template-columns: 74px repeat(var(--columns), minmax(112px, var(--width))); }
.film img { width: 100%; height: auto; display: block; border-radius: 3px; }
.film b { font-weight: 600; color: var(--quiet); } .film time { color: var(--quiet); margin-top: -3px; }
.numbers { margin: 10px 0 0; font-variant-numeric: tabular-nums; font-size: 15px; color: var(--quiet); }
.numbers strong { color: var(--ink); }
details { border-top: 1px solid var(--line); padding: 12px 0; } summary { cursor: pointer; font-weight: 600; }
section + details { margin-top: 36px; }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
@media (max-width: 760px) { main { padding: 20px 14px 40px; } .headline { grid-template-columns: minmax(0, 1fr); }
  .bars td { padding-right: 10px; } article { padding: 14px; } .film { max-width: none; } h1 { font-size: 25px; } }
"""
