"""Curves as inline SVG that follow a page's text colour."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = ("#4f8ef7", "#f0883e", "#2fae7a")  # readable on white and on near-black
_INK = "#0a0b0c"  # stands for the page's text colour, see `_as_inline_svg`

SMOOTH_FROM = 60
"""Points from which on a curve is drawn smoothed, over itself as it is."""


@dataclass(frozen=True)
class Curves:
    """A drawn picture.

    Args:
        svg: an <svg> element.
        box: where the x axis begins and ends, as shares of the picture's width.
        limits: what stands there.
    """

    svg: str
    box: tuple[float, float]
    limits: tuple[float, float]


def draw_curves(
    series: Mapping[str, NDArray[np.float64]],
    label: str,
    levels: Mapping[str, float | None] | None = None,
    over: str = "step",
    size: tuple[float, float] = (6.0, 3.4),
    may_be_log: bool = True,
) -> Curves:
    """Draw curves.

    Args:
        series: name and points float64 [n, 2] of each, at most three.
        label: of the y axis.
        levels: dotted lines in the colour of the curve of that name.
        over: label of the x axis.
        size: width and height in inches.
        may_be_log: values far apart get a logarithmic axis.

    Raises:
        ImportError: without matplotlib.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # matplotlib has a type for the keys of its settings that no list of names would fit
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 10, "text.color": _INK}
    style |= {f"{part}color": _INK for part in ("axes.edge", "axes.label", "xtick.", "ytick.")}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for (name, points), colour in zip(series.items(), _LINES, strict=False):
            _draw_curve(axes, name, points, colour)
            level = (levels or {}).get(name)
            if level is not None:
                axes.axhline(level, color=colour, linestyle=":", linewidth=1.3)
        values = np.concatenate([points[:, 1] for points in series.values()])
        if may_be_log and values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
        axes.set_xlabel(over)
        if over == "step":
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color=_INK, alpha=0.12, linewidth=0.7)
        axes.legend(frameon=False)
        drawn = StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=metadata)
        box, limits = axes.get_position(), axes.get_xlim()
    return Curves(_as_inline_svg(drawn.getvalue(), f"{label} over {over}"), (box.x0, box.x1), limits)


def _draw_curve(axes: "Axes", name: str, points: NDArray[np.float64], colour: str) -> None:
    steps, values = points.T
    if len(points) < SMOOTH_FROM:
        axes.plot(steps, values, color=colour, linewidth=1.8, label=name, marker="o" if len(points) < 12 else None)
        return
    window = len(points) // 30
    kernel = np.ones(2 * window + 1)
    # dividing by what the window covers keeps the ends true, where padding would bend them
    smooth = np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(steps, smooth, color=colour, linewidth=1.9, label=name)


def _as_inline_svg(svg: str, label: str) -> str:
    """Make matplotlib's file a part of the page: as wide as there is room, in the page's font and text colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    head += f' role="img" aria-label="{escape(label)}"'
    rest = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", rest)
    # matplotlib names every group; only what is referred to needs a name, and the others would be in the page twice
    rest = re.sub(r' id="([^"]*)"', lambda name: name[0] if f"#{name[1]}" in rest else "", rest)
    return f"{head}>{rest}".replace(_INK, "currentColor")
