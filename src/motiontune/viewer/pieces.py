"""The pieces of the page: what a clip, a prediction and a comparison of sources are in HTML. Needs no Gradio."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motiontune.datasets.dataset_info import ClipOfSample
from motiontune.drawing.arrows import STILL_PIXELS
from motiontune.drawing.colours import colour_wheel_legend
from motiontune.drawing.curves import draw_curves
from motiontune.drawing.images import data_uri
from motiontune.evaluation.sums import MotionSums
from motiontune.grid import VideoGrid
from motiontune.video.clip import Clip
from motiontune.viewer.library import Measured
from motiontune.viewer.model import Prediction
from motiontune.viewer.views import SourceRow, error_curve


def status(text: str, kind: str = "plain") -> str:
    """A line about what is going on: "busy", "error" or "plain"."""
    return f'<p class="mt-status mt-{kind}" role="status">{escape(text)}</p>' if text else ""


@dataclass(frozen=True)
class Row:
    """A row of the table: the clip's number in its data set, the clip, and its motion where it was measured."""

    number: int
    clip: ClipOfSample
    measured: Measured | None


def clip_table(
    rows: Sequence[Row], models: Sequence[str], errors: Sequence[Sequence[MotionSums | None]], at: int | None
) -> str:
    """The table of clips, for page.js.

    Args:
        rows: the clips.
        models: names, each with a column of errors.
        errors: of each row and model; None where it was not measured.
        at: the number of the clip that is open.
    """
    columns = [("#", "row in the data set"), ("clip", ""), ("answer, or what is wrong", "")]
    columns += [("move %", "of the patches"), ("none %", "of the patches, without a vector"), ("px", "mean motion")]
    named = [("error", f"end-point error of {name}, px") for name in models]
    columns += [(f"error {i}", title) for i, (_, title) in enumerate(named, 1)] if len(named) > 1 else named
    lines = []
    for row, sums in zip(rows, errors, strict=True):
        about, numbers, one = row.clip.answer, ["", "", ""], row.measured
        if one is not None and one.problem:
            about = f"✗ {one.problem}"
        elif one is not None:
            numbers = [_percent(one.moving, ""), _percent(one.invalid, ""), _pixels(one.mean_motion)]
        numbers += [f"{one.epe / one.patches:.2f}" if one is not None and one.patches else "" for one in sums]
        cells = [str(row.number), Path(row.clip.path).name, about, *numbers]
        text = "".join(f'<td title="{escape(cell)}">{escape(cell)}</td>' for cell in cells)
        open_now = " aria-selected=true" if row.number == at else ""
        lines.append(f"<tr data-row={row.number}{open_now}>{text}</tr>")
    head = "".join(f'<th title="{escape(title)}">{escape(name)}</th>' for name, title in columns)
    return f"<table class=mt-clips><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def describe(clip: Clip, grid: VideoGrid, measured: Measured, answer: str = "", link: str = "") -> str:
    """What a clip is, what of it the model sees, and its motion in numbers."""
    info = clip.info
    parts = [
        f"{info.codec}, {info.width}×{info.height}, {info.duration:.1f} s at {info.average_rate:.4g} fps",
        f"{measured.frames} frames of {grid.width}×{grid.height} px, {grid.rows}×{grid.cols} patches",
    ]
    if measured.source:
        parts.append(
            f"{measured.source}: mean motion {_pixels(measured.mean_motion)} px, {_percent(measured.moving)} of "
            f"patches move, {_percent(measured.invalid)} have no vector"
        )
    label = f"<p class=mt-answer>“{escape(answer)}”</p>" if answer else ""
    name = escape(Path(clip.path).name)
    if link:
        name = f'<a href="{escape(link)}" title="a link to this clip">{name}</a>'
    return f"<h2 class=mt-name>{name}</h2>{label}<p class=mt-facts>{' · '.join(map(escape, parts))}</p>"


def player(film: str, times: NDArray[np.float64], name: str, note: str = "") -> str:
    """A film with its controls, for page.js.

    Args:
        film: its place on the server.
        times: float64 [n], seconds in the clip, of its pictures.
        name: what it is called when it is downloaded.
        note: stands beside the controls.
    """
    shown_at = json.dumps([round(float(time), 4) for time in times])

    def button(data: str, label: str, title: str) -> str:
        return f'<button type=button data-{data} title="{title}">{label}</button>'

    clips = button('clip="-1"', "▲ clip", "the clip above (arrow up)")
    clips += button('clip="1"', "clip ▼", "the clip below (arrow down)")
    steps = button('step="-1"', "◀ frame", "the frame before (arrow left)")
    steps += button('step="1"', "frame ▶", "the next frame (arrow right)")
    speeds = "".join(
        f'<button type=button data-speed="{speed}" aria-pressed={str(speed == 1).lower()}>{label}</button>'
        for speed, label in ((0.25, "¼×"), (0.5, "½×"), (1, "1×"), (2, "2×"))
    )
    download = f'<a href="{film}" download="{escape(name)}.motion.mp4" title="download this film">⤓ film</a>'
    shown = f'<video src="{film}" autoplay loop muted playsinline controls></video>'
    gap, note = "<span class=mt-gap></span>", f"<span>{escape(note)}</span>" if note else ""
    bar = f"{clips}{gap}{steps}{gap}{speeds}{gap}{download}{note}<output class=mt-time></output>"
    return f'<div class=mt-player data-times="{shown_at}">{shown}<div class=mt-bar>{bar}</div>{_legend()}</div>'


def _legend() -> str:
    wheel = data_uri(colour_wheel_legend(96))
    return (
        f'<div class=mt-legend><img src="{wheel}" alt="colour wheel: right is red, down yellow, left cyan, up blue">'
        f"<p>Colour is direction. A dot moves less than {STILL_PIXELS:g} px, a cross or a bare patch has no vector."
        "</p></div>"
    )


def compare(predictions: Mapping[str, Prediction]) -> str:
    """The numbers of each model's prediction against its target, and the errors over time.

    Args:
        predictions: of one clip, by the models' names.
    """
    lines, series = [], {}
    for name, prediction in predictions.items():
        if prediction.field is None or prediction.target is None:
            continue
        name = name if len(predictions) > 1 else "this model"
        numbers = prediction.sums().metrics()
        if "epe" not in numbers:
            lines.append(f"<p class=mt-facts>{_of(name, predictions)}No patch has a vector in both.</p>")
            continue
        parts = [
            f"end-point error <strong>{numbers['epe']:.2f} px</strong> (no motion {numbers['epe_zero_motion']:.2f})"
        ]
        if "epe_moving" in numbers:
            parts.append(
                f"moving patches <strong>{numbers['epe_moving']:.2f} px</strong> "
                f"(no motion {numbers['epe_moving_zero_motion']:.2f})"
            )
            parts.append(f"direction right <strong>{_percent(numbers['direction_accuracy'])}</strong>")
        lines.append(f"<p class=mt-facts>{_of(name, predictions)}{' · '.join(parts)}</p>")
        curve = error_curve(prediction.field, prediction.target)
        series[name] = np.stack([curve.times, curve.error], axis=-1)
        series.setdefault("no motion", np.stack([curve.times, curve.no_motion], axis=-1))
    if not series:
        return "".join(lines)
    series["no motion"] = series.pop("no motion")  # its colour comes last
    drawn = draw_curves(series, "end-point error, px", over="time, s", size=(9.0, 2.6), may_be_log=False)
    data = json.dumps({"box": drawn.box, "limits": drawn.limits})
    cursor = "<div class=mt-cursor hidden></div>"
    return (
        f"{''.join(lines)}"
        f'<figure class=mt-curve data-axis="{escape(data)}" title="click to go there">{drawn.svg}{cursor}</figure>'
    )


def _of(name: str, predictions: Mapping[str, Prediction]) -> str:
    return f"{escape(name)}: " if len(predictions) > 1 else ""


def source_table(rows: Sequence[SourceRow]) -> str:
    """All sources of a clip, in numbers."""
    lines = []
    for row in rows:
        one = row.measured
        if one.source:
            cells = [one.source, _percent(one.invalid), _percent(one.moving), _pixels(one.mean_motion)]
            cells += [f"{1000 * row.seconds:.0f}"]
            text = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        else:
            text = f"<td colspan=5>{escape(one.problem)}</td>"
        lines.append(f"<tr><th scope=row>{escape(row.source)}</th>{text}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "from", "no vector", "moving", "mean px", "ms"))
    return f"<table class=mt-sources><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _percent(share: float | None, unit: str = " %") -> str:
    return "-" if share is None else f"{100 * share:.0f}{unit}"


def _pixels(length: float | None) -> str:
    return "-" if length is None else f"{length:.2f}"
