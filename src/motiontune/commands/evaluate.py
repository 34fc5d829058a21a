"""`motiontune evaluate`: a model's text and motion over a data set, in the numbers that each field knows.

The predictions are those of `motiontune train` with `do_predict` and `predict_with_generate`, in as many processes as
that takes; what is added is the measuring.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from llamafactory.extras.constants import DATA_CONFIG
from llamafactory.train.sft.metric import ComputeSimilarity
from numpy.typing import NDArray
from transformers import EvalPrediction

from motiontune.drawing.images import save_png
from motiontune.drawing.sheets import contact_sheet
from motiontune.errors import ConfigError, MotiontuneError, in_one_line, mistakes
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.flow_metrics import FlowSums, bootstrap_weights, flow_metrics, interval, stack
from motiontune.evaluation.templates import Templates, read_templates, without_brackets
from motiontune.llamafactory.install import run_exp
from motiontune.llamafactory.names import quiet_loggers
from motiontune.llamafactory.reader import model_keys
from motiontune.llamafactory.workflow import PREDICT_LEFT_OUT
from motiontune.model.head import find_head
from motiontune.runs.folder import EVALUATION, prediction_files, read_texts
from motiontune.runs.page import prediction_rows
from motiontune.video.clip import read_clip


PLOT_COLUMNS, PLOT_WIDTH = 6, 240


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
        has_head: False where the model has no motion head and was measured by its text alone.
        motion: per source of the target, and "all": metric and value. Empty without a motion head.
        text: metric and value; shares from 0 to 1, BLEU and ROUGE from 0 to 100 as LLaMA-Factory has them.
    """

    clips: int
    motion_clips: int
    left_out: int
    has_head: bool
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
        lines: list[tuple[str, ...]] = [] if self.has_head else [("the model has no motion head: text alone",)]
        columns = list(self.motion)
        if columns:
            lines.append((f"motion, {self.motion_clips} clips", *columns))
            for name in self.motion["all"]:
                cells = (_shown(self.motion[column][name], *MOTION_UNITS[name][1:]) for column in columns)
                lines.append((MOTION_UNITS[name][0], *cells))
        if self.text:
            lines += [("",), (f"text, {self.clips} clips", "")] if lines else [(f"text, {self.clips} clips", "")]
            lines += [(name, _shown(one, *TEXT_UNITS[name])) for name, one in self.text.items()]
        widths = [max((len(line[i]) for line in lines if len(line) > i), default=0) for i in range(len(columns) + 2)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


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


def evaluate(
    model: str,
    dataset: str,
    dataset_dir: str = "data",
    out: str = "motiontune-evaluate",
    *,
    base: str | None = None,
    template: str | None = None,
    keys: Mapping[str, Any] | None = None,
    templates: str | None = None,
    rounds: int = 1000,
    plots: int = 0,
) -> Evaluation:
    """Predict a data set and measure text and motion; write `evaluation.json` and what prediction writes.

    Args:
        model: a folder or hub repository: a model or an adapter.
        dataset: its name in `dataset_info.json`.
        dataset_dir: the folder of `dataset_info.json`.
        out: the output folder.
        base: an adapter's model, where it is not the one that it names.
        template: LLaMA-Factory's, where it is not the family's own.
        keys: more keys of a training YAML, such as `video_fps`, `motion_source`, `max_samples`.
        templates: Something-Something's labels.json; None takes the templates that the data set's own file names.
        rounds: how often clips are drawn again for the intervals.
        plots: of how many clips to save a picture.

    Raises:
        MotiontuneError: on a model, data set or key that cannot be used.
    """
    known = read_templates(templates) if templates else []
    with quiet_loggers():
        own = model_keys(model, base, template)
        places = [own[key] for key in ("adapter_name_or_path", "model_name_or_path") if key in own]
        with_motion = find_head(places) is not None
        configuration = {
            "stage": "sft",
            "finetuning_type": "lora" if "adapter_name_or_path" in own else "full",
            "do_predict": True,
            "predict_with_generate": True,
            "eval_dataset": dataset,
            "dataset_dir": dataset_dir,
            "output_dir": out,
            "cutoff_len": 131072,  # prompts are never cut
            "do_sample": False,
            "report_to": "none",
            "overwrite_cache": True,
            "trust_remote_code": True,
            **({"train_on_video_tokens": True, "motion_on_error": "skip"} if with_motion else {}),
            **own,
            **(keys or {}),
        }
        with mistakes("a clip of the data set cannot be read", av.error.FFmpegError):  # LLaMA-Factory's own reading
            run_exp(configuration)
    texts = read_texts(Path(out))
    files = prediction_files(Path(out)) if with_motion else {}
    comparisons = {key: MotionComparison.load(file) for key, file in files.items()}
    samples = {number for number, _ in comparisons}
    readable = [number for number in range(len(texts)) if not with_motion or number in samples]
    result = Evaluation(
        clips=len(readable),
        motion_clips=len(comparisons),
        left_out=len(texts) - len(readable) + _before_predicting(Path(out)),
        has_head=with_motion,
        motion=_measure_motion(list(comparisons.values()), rounds),
        text=_measure_text([texts[number] for number in readable], _templates_of(dataset_dir, dataset), known, rounds),
    )
    about = {"model": model, "dataset": dataset, "keys": configuration, "bootstrap_rounds": rounds}
    Path(out, EVALUATION).write_text(json.dumps(about | result.as_json(), indent=1) + "\n", "utf-8")
    _save_plots(Path(out) / "plots", list(comparisons.items())[:plots], configuration)
    return result


def _before_predicting(folder: Path) -> int:
    """How many samples were left out before anything was predicted."""
    results = json.loads((folder / "predict_results.json").read_text("utf-8"))
    return int(results.get(PREDICT_LEFT_OUT, 0))


def _measure_motion(clips: Sequence[MotionComparison], rounds: int) -> dict[str, dict[str, Metric]]:
    compared = [clip for clip in clips if clip.target is not None and clip.valid.any()]
    if not compared:
        return {}
    sums = stack([FlowSums.from_fields(c.predicted, np.asarray(c.target), c.valid, c.grid.width) for c in compared])
    sources = np.array([clip.source for clip in compared])
    groups = {"all": np.ones(len(compared), np.bool_)}
    if len(set(sources)) > 1:
        groups |= {source: sources == source for source in sorted(set(sources))}
    return {name: _with_intervals(sums[chosen], rounds) for name, chosen in groups.items()}


def _with_intervals(sums: NDArray[np.float64], rounds: int) -> dict[str, Metric]:
    values = flow_metrics(sums.sum(0))
    drawn = flow_metrics(bootstrap_weights(len(sums), rounds) @ sums)
    nothing = np.full(1, np.nan)  # one clip drawn again and again says nothing of others
    return {
        name: Metric(float(value), *interval(drawn[name] if len(sums) > 1 else nothing))
        for name, value in values.items()
    }


def _measure_text(
    texts: Sequence[tuple[str, str]], template_of: Mapping[str, str], known: Sequence[str], rounds: int
) -> dict[str, Metric]:
    """Compare answers with labels; samples without a label are not compared."""
    texts = [(said, label) for said, label in texts if label.strip()]
    if not texts:
        return {}
    scores = _similarity(texts)
    texts = [(said.strip(), label.strip()) for said, label in texts]
    scores = {"exact_match": np.array([said == label for said, label in texts], np.float64), **scores}
    weights = bootstrap_weights(len(texts), rounds) / len(texts)
    if template_of:
        rules = Templates([*template_of.values(), *known])
        true = [without_brackets(template_of.get(label, "")) for _, label in texts]
        # a label without a template has no right answer
        scores["template_accuracy"] = np.array(
            [name != "" and rules.find(said) == name for (said, _), name in zip(texts, true, strict=True)], np.float64
        )
        scores["template_recognised"] = np.array(
            [name != "" and rules.find(label) == name for (_, label), name in zip(texts, true, strict=True)],
            np.float64,
        )
    return {name: Metric(float(one.mean()), *interval(weights @ one)) for name, one in scores.items()}


class _Texts:
    """Stands for a tokenizer whose tokens are whole texts: LLaMA-Factory's metric takes tokens alone."""

    pad_token_id = 0

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)

    def batch_decode(self, rows: NDArray[np.int64], **_: Any) -> list[str]:
        return [self.texts[int(row[0])] for row in rows]


def _similarity(texts: Sequence[tuple[str, str]]) -> dict[str, NDArray[np.float64]]:
    """LLaMA-Factory's BLEU and ROUGE of each answer, 0 to 100."""
    count = len(texts)
    metric = ComputeSimilarity(_Texts([*(said for said, _ in texts), *(label for _, label in texts)]))
    numbers = np.arange(2 * count).reshape(2, count, 1)
    metric(EvalPrediction(predictions=numbers[0], label_ids=numbers[1]), compute_result=False)
    order = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
    return {name: np.array(metric.score_dict[name], np.float64) for name in order}


def _templates_of(dataset_dir: str, dataset: str) -> dict[str, str]:
    """{label: template} of a data set whose rows name their template, as `motiontune prepare` writes them."""
    found: dict[str, str] = {}
    info = json.loads((Path(dataset_dir) / DATA_CONFIG).read_text("utf-8"))
    for name in dataset.split(","):
        file = Path(dataset_dir) / str(info.get(name.strip(), {}).get("file_name", ""))
        if file.suffix != ".json" or not file.is_file():
            continue
        try:
            rows = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise ConfigError(f"{file} is not JSON: {in_one_line(error)}") from error
        for row in rows:
            if row.get("template") and row.get("messages"):
                found[row["messages"][-1]["content"].strip()] = row["template"]
    return found


def _save_plots(
    folder: Path, clips: Sequence[tuple[tuple[int, int], MotionComparison]], keys: Mapping[str, Any]
) -> None:
    for (sample, number), clip in clips:
        try:
            frames = read_clip(clip.path, keys.get("video_fps", 2.0), keys.get("video_maxlen", 128)).frames
        except MotiontuneError:
            continue  # frames that are files have no film to read
        rows = prediction_rows(Path(clip.path).name, frames, clip, PLOT_WIDTH)
        save_png(folder / f"{sample:06d}-{number}.png", contact_sheet(rows, PLOT_COLUMNS, PLOT_WIDTH))


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _shown(metric: Metric, factor: float, unit: str) -> str:
    value, low, high = (factor * number for number in (metric.value, metric.low, metric.high))
    if not math.isfinite(value):
        return "-"
    return f"{value:.2f}{unit}" + (f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else "")
