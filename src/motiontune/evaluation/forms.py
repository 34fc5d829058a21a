"""What is measured of each form of a motion head: a form without dense motion has fewer metrics."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.evaluation.sums import METRICS, MotionSums
from motiontune.grid import VideoGrid
from motiontune.motion.field import MOVING_PIXELS
from motiontune.targets import HeadForm


def form_sums(
    predicted: NDArray[np.float32],
    target: NDArray[np.float32],
    mask: NDArray[np.bool_],
    grid: VideoGrid,
    scale: float,
    form: HeadForm,
) -> MotionSums:
    """Compare the rows of one video, as the head predicts them.

    Args:
        predicted: float32 [T, D], normalised.
        target: float32 [T, D].
        mask: bool [T, D], where it is a target.
        grid: the video's.
        scale: the head's.
        form: the head's.
    """
    # a direction has no length: any will do with which it counts as moving
    unit = grid.patch * scale if form.output == "displacement" else 2 * MOVING_PIXELS
    p, t = (unit * values.reshape(len(values), -1, 2) for values in (predicted, target))
    return MotionSums.from_fields(p, t, mask.reshape(p.shape)[..., 0])


def metric_names(form: HeadForm) -> dict[str, str]:
    """The metrics of a form, and what each is called there: of directions no lengths, of pooled vectors own names."""
    names = ("valid_patches", *METRICS) if form.output == "displacement" else ("valid_patches", "direction_accuracy")
    return {name: _pooled(name) if form.form == "pooled" else name for name in names}


def form_metrics(sums: MotionSums, form: HeadForm) -> dict[str, Any]:
    """Finish the sums into the metrics of a form, by the names that they have there."""
    metrics, names = sums.metrics(), metric_names(form)
    return {names[name]: value for name, value in metrics.items() if name in names}


def main_metric(form: HeadForm) -> str:
    """The metric that is drawn in the course of training."""
    name = "epe" if form.output == "displacement" else "direction_accuracy"
    return _pooled(name) if form.form == "pooled" else name


def _pooled(name: str) -> str:
    return "pooled_" + name.replace("valid_patches", "valid_steps")
