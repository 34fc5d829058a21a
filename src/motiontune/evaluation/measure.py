"""What is measured of a model over a data set, with confidence intervals: motion clip by clip, and text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.flow_metrics import flow_metrics, interval, resampled, stack
from motiontune.evaluation.sums import MotionSums
from motiontune.evaluation.templates import Templates, without_brackets
from motiontune.tables import text_table


@dataclass(frozen=True)
class Metric:
    """A value with the ends of its 95 % interval, which come of drawing clips again and again."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Args:
        clips: samples with a text that was compared.
        motion_clips: clips with motion that was compared.
        left_out: samples whose clip could not be read.
        no_motion: why it was measured by its text alone, such as "no motion head", or "".
        motion: per source of the target, and "all": metric and value. Empty without a motion head.
        text: metric and value; shares from 0 to 1, BLEU and ROUGE from 0 to 100 as LLaMA-Factory has them.
    """

    clips: int
    motion_clips: int
    left_out: int
    no_motion: str
    motion: dict[str, dict[str, Metric]]
    text: dict[str, Metric]

    def as_json(self) -> dict[str, Any]:
        """Numbers and lists alone; what cannot be measured is null."""

        def plain(metrics: Mapping[str, Metric]) -> dict[str, Any]:
            return {
                name: {"value": _number(one.value), "ci95": [_number(one.low), _number(one.high)]}
                for name, one in metrics.items()
            }

        counts = {"clips": self.clips, "motion_clips": self.motion_clips, "left_out": self.left_out}
        return counts | {"motion": {k: plain(v) for k, v in self.motion.items()}, "text": plain(self.text)}

    def table(self) -> str:
        """One line per metric, with a column for each source of the target."""
        lines: list[tuple[str, ...]] = [(f"the model has {self.no_motion}: text alone",)] if self.no_motion else []
        columns = list(self.motion)
        if columns:
            lines.append((f"motion, {self.motion_clips} clips", *columns))
            for name in self.motion["all"]:
                cells = (_shown(self.motion[column][name], *MOTION_UNITS[name][1:]) for column in columns)
                lines.append((MOTION_UNITS[name][0], *cells))
        if self.text:
            lines += [("",), (f"text, {self.clips} clips", "")] if lines else [(f"text, {self.clips} clips", "")]
            lines += [(name, _shown(one, *TEXT_UNITS[name])) for name, one in self.text.items()]
        return text_table(lines)


# name in the table, factor, unit
MOTION_UNITS = {
    "epe": ("end-point error", 1, " px"),
    "epe_zero_motion": ("  of predicting no motion", 1, " px"),
    "epe_moving": ("end-point error, moving patches", 1, " px"),
    "epe_moving_zero_motion": ("  of predicting no motion", 1, " px"),
    "outliers_1px": ("outliers, 1 px", 100, " %"),
    "outliers_3px": ("outliers, 3 px", 100, " %"),
    "outliers_5px": ("outliers, 5 px", 100, " %"),
    "fl_all": ("Fl-all (3 px and 5 %)", 100, " %"),
    "angular_error": ("angular error", 1, "°"),
    "direction_accuracy": ("direction right, of 8", 100, " %"),
    "epe_s0_10": ("end-point error, s0-10", 1, " px"),
    "epe_s10_40": ("end-point error, s10-40", 1, " px"),
    "epe_s40": ("end-point error, s40+", 1, " px"),
    "r2_zero_motion": ("R2 against no motion", 1, ""),
    "r2_mean_motion": ("R2 against the mean motion", 1, ""),
}
TEXT_UNITS = {
    "exact_match": (100, " %"),
    "bleu-4": (1, ""),
    "rouge-1": (1, ""),
    "rouge-2": (1, ""),
    "rouge-l": (1, ""),
    "template_accuracy": (100, " %"),
    "template_recognised": (100, " %"),
}


class MotionMeter:
    """Measures clips one after the other. Of each clip it keeps its sums and its source, so that any number fits."""

    def __init__(self) -> None:
        self._sums: list[MotionSums] = []
        self._sources: list[str] = []

    def add(self, clip: MotionComparison) -> None:
        """Measure one clip; one without a target or without a valid patch counts for nothing."""
        if clip.target is not None and clip.valid.any():
            self._sums.append(clip.sums())
            self._sources.append(clip.source)

    def metrics(self, rounds: int) -> dict[str, dict[str, Metric]]:
        """Metrics of all clips, and where targets came from several sources of each source's; empty without a clip.

        Args:
            rounds: how often clips are drawn again for the intervals.
        """
        if not self._sums:
            return {}
        sums, sources = stack(self._sums), np.array(self._sources)
        groups = {"all": np.ones(len(sums), np.bool_)}
        if len(set(self._sources)) > 1:
            groups |= {source: sources == source for source in sorted(set(self._sources))}
        return {name: _with_intervals(sums[chosen], rounds) for name, chosen in groups.items()}


def _with_intervals(sums: NDArray[np.float64], rounds: int) -> dict[str, Metric]:
    values = flow_metrics(sums.sum(0))
    if len(sums) == 1:  # one clip drawn again and again tells nothing of others
        return {name: Metric(float(value), math.nan, math.nan) for name, value in values.items()}
    drawn = flow_metrics(resampled(sums, rounds))
    return {name: Metric(float(value), *interval(drawn[name])) for name, value in values.items()}


def measure_text(
    texts: Sequence[tuple[str, str]],
    similarity: Mapping[str, NDArray[np.float64]],
    template_of: Mapping[str, str],
    templates: Sequence[str],
    rounds: int,
) -> dict[str, Metric]:
    """Compare answers with labels.

    Args:
        texts: answer and label of each sample; one or more.
        similarity: further scores of each sample, [samples] each.
        template_of: the template of each label; empty for no accuracy by templates.
        templates: further templates that an answer may follow.
        rounds: how often samples are drawn again for the intervals.
    """
    texts = [(answer.strip(), label.strip()) for answer, label in texts]
    scores = {"exact_match": [answer == label for answer, label in texts], **similarity}
    if template_of:
        rules = Templates([*template_of.values(), *templates])
        # a label without a template has no right answer
        names = [without_brackets(template_of.get(label, "")) for _, label in texts]
        pairs = list(zip(texts, names, strict=True))
        scores["template_accuracy"] = [name != "" and rules.find(answer) == name for (answer, _), name in pairs]
        scores["template_recognised"] = [name != "" and rules.find(label) == name for (_, label), name in pairs]
    columns = np.stack([np.asarray(score, np.float64) for score in scores.values()], axis=-1)
    drawn = resampled(columns, rounds) / len(texts)
    means = columns.mean(axis=0)
    return {name: Metric(float(means[i]), *interval(drawn[:, i])) for i, name in enumerate(scores)}


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _shown(metric: Metric, factor: float, unit: str) -> str:
    value, low, high = (factor * number for number in (metric.value, metric.low, metric.high))
    if not math.isfinite(value):
        return "-"
    return f"{value:.2f}{unit}" + (f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else "")
