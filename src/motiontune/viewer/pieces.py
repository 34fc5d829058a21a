"""The pieces of the page: what a clip, a prediction and a comparison of sources are in HTML. Needs no Gradio."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from motiontune.drawing.arrows import STILL_PIXELS
from motiontune.drawing.colours import colour_wheel_legend
from motiontune.drawing.curves import draw_curves
from motiontune.drawing.images import data_uri
from motiontune.grid import VideoGrid
from motiontune.video.clip import Clip
from motiontune.viewer.library import Measured
from motiontune.viewer.model import Prediction
from motiontune.viewer.views import SourceRow, error_curve


def status(text: str, kind: str = "plain") -> str:
    """A line about what is going on: "busy", "error" or "plain"."""
    return f'<p class="mt-status mt-{kind}" role="status">{escape(text)}</p>' if text else ""


def describe(clip: Clip, grid: VideoGrid, measured: Measured, answer: str = "") -> str:
    """What a clip is, what of it the model sees, and its motion in numbers."""
    info = clip.info
    parts = [
        f"{info.codec}, {info.width}×{info.height}, {info.duration:.1f} s at {info.average_rate:.4g} fps",
        f"{measured.frames} frames of {grid.width}×{grid.height} px, {grid.rows}×{grid.cols} patches",
    ]
    if measured.source:
        parts.append(
            f"{measured.source}: mean motion {measured.mean_motion:.2f} px, {_percent(measured.moving)} of patches "
            f"move, {_percent(measured.invalid)} have no vector"
        )
    label = f"<p class=mt-answer>“{escape(answer)}”</p>" if answer else ""
    name = escape(Path(clip.path).name)
    return f"<h2 class=mt-name>{name}</h2>{label}<p class=mt-facts>{' · '.join(map(escape, parts))}</p>"


def player(film: str, clip: Clip) -> str:
    """A film of the sampled frames with its controls, for page.js."""
    times = json.dumps([round(float(time), 4) for time in clip.times])
    steps = "".join(
        f'<button type=button data-step="{step}" title="{title}">{label}</button>'
        for step, label, title in ((-1, "◀ frame", "the frame before"), (1, "frame ▶", "the next frame"))
    )
    speeds = "".join(
        f'<button type=button data-speed="{speed}" aria-pressed={str(speed == 1).lower()}>{label}</button>'
        for speed, label in ((0.25, "¼×"), (0.5, "½×"), (1, "1×"), (2, "2×"))
    )
    shown = f'<video src="{film}" autoplay loop muted playsinline controls></video>'
    bar = f"<div class=mt-bar>{steps}<span class=mt-gap></span>{speeds}<output class=mt-time></output></div>"
    return f'<div class=mt-player data-times="{times}">{shown}{bar}{_legend()}</div>'


def _legend() -> str:
    wheel = data_uri(colour_wheel_legend(96))
    return (
        f'<div class=mt-legend><img src="{wheel}" alt="colour wheel: right is red, down yellow, left cyan, up blue">'
        f"<p>Colour is direction. A dot moves less than {STILL_PIXELS:g} px, a cross or a bare patch has no vector."
        "</p></div>"
    )


def compare(prediction: Prediction) -> str:
    """A prediction's numbers against its target, and its error over time."""
    if prediction.field is None or prediction.target is None:
        return ""
    numbers = prediction.sums().metrics()
    if "epe" not in numbers:
        return "<p class=mt-facts>No patch has a vector in both.</p>"
    parts = [f"end-point error <strong>{numbers['epe']:.2f} px</strong> (no motion {numbers['epe_zero_motion']:.2f})"]
    if "epe_moving" in numbers:
        parts.append(
            f"moving patches <strong>{numbers['epe_moving']:.2f} px</strong> "
            f"(no motion {numbers['epe_moving_zero_motion']:.2f})"
        )
        parts.append(f"direction right <strong>{_percent(numbers['direction_accuracy'])}</strong>")
    curve = error_curve(prediction.field, prediction.target)
    series = {"this model": curve.error, "no motion": curve.no_motion}
    points = {name: np.stack([curve.times, values], axis=-1) for name, values in series.items()}
    drawn = draw_curves(points, "end-point error, px", over="time, s", size=(9.0, 2.6), may_be_log=False)
    data = json.dumps({"box": drawn.box, "limits": drawn.limits})
    cursor = "<div class=mt-cursor hidden></div>"
    return (
        f"<p class=mt-facts>{' · '.join(parts)}</p>"
        f'<figure class=mt-curve data-axis="{escape(data)}" title="click to go there">{drawn.svg}{cursor}</figure>'
    )


def source_table(rows: Sequence[SourceRow]) -> str:
    """All sources of a clip, in numbers."""
    lines = []
    for row in rows:
        one = row.measured
        if one.source:
            cells = [one.source, _percent(one.invalid), _percent(one.moving), f"{one.mean_motion:.2f}"]
            cells += [f"{1000 * row.seconds:.0f}"]
            text = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        else:
            text = f"<td colspan=5>{escape(one.problem)}</td>"
        lines.append(f"<tr><th scope=row>{escape(row.source)}</th>{text}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "from", "no vector", "moving", "mean px", "ms"))
    return f"<table class=mt-sources><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
