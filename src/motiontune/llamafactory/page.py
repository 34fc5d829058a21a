"""The page that `motiontune train` writes to the terminal: settings, progress, result, and where things lie."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamafactory.extras.misc import count_parameters
from transformers import TrainerCallback

from motiontune.model.wrappers import base_of
from motiontune.runs.folder import EVALUATION, PICTURES_FOLDER, PREDICTIONS_FOLDER, TEXTS
from motiontune.tables import text_table
from motiontune.terminal import Terminal
from motiontune.training.settings import head_rate


ROWS = 20
"""Lines of progress over a run, about."""

EVERY = 600.0
"""Seconds after which there is one more."""

_COLUMNS = ("step", "loss", "motion", "no motion", "text", "learning rate", "time", "left")
_LEGEND = (
    "motion: end-point error in px of patches that move, beside that of predicting no motion; text: cross-entropy"
)
_FILES = {
    "adapter_model.safetensors": "the adapter",
    "model.safetensors": "the model",
    "model.safetensors.index.json": "the model",
    "motion_head.safetensors": "the motion head",
    TEXTS: "the predicted text",
    PREDICTIONS_FOLDER: "the predicted motion",
    PICTURES_FOLDER: "target and predicted motion, drawn at each evaluation",
    EVALUATION: "all numbers, with intervals",
}


class WritePage(TrainerCallback):
    """Writes how a run goes to the terminal.

    Args:
        terminal: of the run.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._begun = self._shown_at = time.monotonic()
        self._first, self._shown_step = 0, 0
        self._last: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        self._output = Path()
        self._trains = False
        self._batch = 0
        self._evaluated: set[tuple[str, int]] = set()

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._output = Path(args.output_dir)
        self._terminal.keep(self._output)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = self._shown_at = time.monotonic()
        self._first = self._shown_step = state.global_step
        self._trains = True
        if self._first >= state.max_steps:
            self._terminal.show(f"\nAll {state.max_steps} steps were done before: nothing is left to train.")
        self._terminal.show(f"\n{_LEGEND}\n{self._row(_COLUMNS)}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._terminal.is_live and state.global_step < state.max_steps:
            self._terminal.live(self._row(self._cells(state, self._last)))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if logs is None or "loss" not in logs:
            self._metrics |= {key: value for key, value in (logs or {}).items() if key.startswith("train_")}
            return
        self._last = dict(logs)
        now, step = time.monotonic(), state.global_step
        ended = step >= state.max_steps
        due = step - self._shown_step >= state.max_steps / ROWS or now - self._shown_at >= EVERY
        if due or ended or self._shown_step == self._first:
            self._show(self._row(self._cells(state, logs)))
            self._shown_at, self._shown_step = now, step

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self._metrics |= metrics or {}
        prefix = next((key.removesuffix("runtime") for key in metrics or {} if key.endswith("_runtime")), "eval_")
        found = {key.removeprefix(prefix): value for key, value in (metrics or {}).items()}
        name = prefix.removeprefix("eval_").rstrip("_")
        if (prefix, state.global_step) in self._evaluated:  # at the last step, and with do_eval after it
            return
        self._evaluated.add((prefix, state.global_step))
        where = f"step {state.global_step}, {name or 'held out'}"
        self._show(self._row([where, *self._numbers(found)]) if self._trains else f"evaluated {name}".rstrip())

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loader: Any = kwargs.get("eval_dataloader")
        if self._terminal.is_live and hasattr(loader, "__len__"):
            self._batch = self._batch % len(loader) + 1
            self._terminal.live(f"batch {self._batch} of {len(loader)}")

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self._metrics |= metrics or {}

    def end(self) -> None:
        """Show what the run ended with, and where things lie, where the page ends with the run."""
        self._terminal.live("")
        if not self._terminal.with_result:
            return
        rows = [row for prefix in ("train", "eval", "predict") for row in _results(prefix, self._metrics)]
        if rows:
            self._show("\n" + text_table([("result", ""), *rows], rule=True))
        show_files(self._terminal, self._output)

    def _show(self, text: str) -> None:
        self._terminal.live("")
        self._terminal.show(text)

    def _row(self, cells: Any) -> str:
        return text_table([list(cells)], "<>>>>>>>", least=(22, 7, 8, 9, 7, 13, 8, 8))

    def _cells(self, state: Any, logs: Mapping[str, Any]) -> list[str]:
        passed, done = time.monotonic() - self._begun, state.global_step - self._first
        left = passed / done * (state.max_steps - state.global_step) if done else 0.0
        rate = f"{logs['learning_rate']:.2g}" if "learning_rate" in logs else ""
        return [f"{state.global_step} of {state.max_steps}", *self._numbers(logs), rate, _time(passed), _time(left)]

    def _numbers(self, logs: Mapping[str, Any]) -> list[str]:
        """Loss, motion and no motion in pixels, text; a dash for what was not measured."""
        prefix = "pooled_" if "pooled_epe" in logs else ""
        keys = ("loss", f"{prefix}epe_moving", f"{prefix}epe_moving_zero_motion", "ce_loss")
        return [f"{logs[key]:.4g}" if key in logs else "-" for key in keys]


def show_files(terminal: Terminal, folder: Path) -> None:
    """Show what a run has left in its output folder."""
    there = [(name, text) for name, text in _FILES.items() if (folder / name).exists()]
    if there:
        log = (terminal.name, "everything else that was printed")
        report = ("", f"motiontune report {folder} writes a page with curves and clips")
        terminal.show("\n" + text_table([(str(folder), ""), *there, log, report], rule=True))


def _results(prefix: str, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the metrics of one part of a run: those that one looks at first, in words."""
    found = {key.removeprefix(f"{prefix}_"): value for key, value in metrics.items() if key.startswith(f"{prefix}_")}
    if prefix == "train":  # whose counts have no prefix
        found |= {key: value for key, value in metrics.items() if key in ("clips_left_out", "samples_left_out")}
    what = {"train": "training", "eval": "held out", "predict": "predicted"}[prefix]
    rows = []
    if prefix == "train" and "runtime" in found:
        rows.append((f"{what}, time", _time(found["runtime"])))
    for key, text in (("epe_moving", "motion of moving patches"), ("epe", "motion of all patches")):
        for name in (key, f"pooled_{key}"):
            if name in found:
                zero = found.get(f"{name}_zero_motion")
                rows.append((f"{what}, {text}", f"{found[name]:.2f} px, no motion {zero:.2f} px"))
    if "direction_accuracy" in found:
        rows.append((f"{what}, direction right", f"{found['direction_accuracy']:.0%}, chance 12%"))
    for key in ("loss", "ce_loss", "accuracy", "bleu-4", "rouge-l"):
        if key in found:
            rows.append((f"{what}, {key}", f"{found[key]:.4g}"))
    for key in ("clips_left_out", "samples_left_out"):
        if found.get(key):
            rows.append((f"{what}, {key.replace('_', ' ')}", f"{found[key]:.0f}"))
    return rows


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def settings_table(model: Any, head: Any, data_args: Any, training_args: Any, finetuning_args: Any, sets: Any) -> str:
    """The settings of a run that one checks before it trains.

    Args:
        model: with what trains.
        head: the configuration of its motion head.
        data_args: where motion comes from.
        training_args: LLaMA-Factory's.
        finetuning_args: with the motion loss.
        sets: `train_dataset` and `eval_dataset`, where there are.
    """
    rows = [("setting", "")]
    trainable, every = count_parameters(model)  # which knows of weights that ZeRO-3 has parted
    base = base_of(model).config
    if training_args.do_train:
        motion = f"motion ({finetuning_args.motion_loss_type})"
        both = f"motion ({finetuning_args.motion_loss_type}, weight {finetuning_args.motion_loss_weight:g}) + text"
        learns = motion if finetuning_args.use_only_motionvector_loss else both
        rows.append(("learns", learns if finetuning_args.motion_loss_weight else "text; motion is measured"))
    rows.append(("model", f"{base.model_type}, {every:,} weights"))
    if training_args.do_train:
        kind = finetuning_args.finetuning_type
        kind += f", rank {finetuning_args.lora_rank}" if kind == "lora" else ""
        rows.append(("trains", f"{trainable:,} weights ({trainable / every:.2%}): {kind}"))
    rows.append(("motion", f"{data_args.motion_source}, {head.direction}; {head.input} predicts {head}"))
    if head.sampling is not None:
        keys = head.sampling
        most = "" if keys.video_max_pixels is None else f" of at most {keys.video_max_pixels:,} px"
        rows.append(("clips", f"{keys.video_fps:g} frames a second, at most {keys.video_maxlen}{most}"))
    if training_args.do_train:
        size = training_args.per_device_train_batch_size
        accumulated, processes = training_args.gradient_accumulation_steps, training_args.world_size
        total = size * accumulated * processes
        rows.append(("batch", f"{total} = {size} x {accumulated} accumulated x {processes} processes"))
        rate = head_rate(finetuning_args.motion_head_learning_rate, training_args.learning_rate)
        schedule = getattr(training_args.lr_scheduler_type, "value", training_args.lr_scheduler_type)
        rows.append(("learning rate", f"{training_args.learning_rate:g} {schedule}, head {rate:g}"))
        held_out = sets.get("eval_dataset")
        when = getattr(training_args.eval_strategy, "value", training_args.eval_strategy)
        if held_out is not None and (when != "no" or training_args.do_eval):
            count = len(held_out) if hasattr(held_out, "__len__") else "streamed"
            names = {"no": "at the end", "steps": f"every {training_args.eval_steps or 0:g} steps"}
            when = names.get(when, "every epoch")
            rows.append(("evaluates", f"{count} held-out samples {when}"))
        else:
            rows.append(("evaluates", "nothing: set val_size and eval_strategy to see held-out clips"))
    precision = "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "float32"
    rows.append(("device", f"{training_args.device}, {precision}"))
    rows.append(("output", str(training_args.output_dir)))
    return text_table(rows, rule=True)
