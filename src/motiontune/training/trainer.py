"""A mixin over transformers' `Trainer` and its subclasses, with which they train and predict the motion of videos.

    class MotionTrainer(MotionTrainerMixin, Seq2SeqTrainer): ...

From top to bottom: the loss of a step, what is logged, the head's learning rate, save and resume, then evaluation and
prediction.
"""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate.utils import DummyOptim, gather_object
from numpy.typing import NDArray
from torch import Tensor
from transformers import EvalPrediction, Seq2SeqTrainer
from typing_extensions import override

from motiontune.drawing.images import save_png
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.sums import MotionSums
from motiontune.model.checkpoint import (
    check_adapter,
    fill_adapter,
    restore_adapter,
    restore_full_weights,
    restore_head,
)
from motiontune.model.forward import as_bits, captured_motion, whole_head
from motiontune.model.losses import IGNORE_INDEX, motion_loss_sum
from motiontune.model.wrappers import base_of, is_peft
from motiontune.runs.folder import PICTURES_FOLDER, PREDICTIONS_FOLDER
from motiontune.targets import from_tokens, tokens_to_vectors
from motiontune.training.batch import MOTION_TENSORS, NOT_TENSORS, VideoRecord, counts, raise_error_of_worker
from motiontune.training.engines import check_head_group, fit_to_engine
from motiontune.training.names import check_names, log_picture
from motiontune.training.pictures import draw
from motiontune.training.settings import MotionSettings


_Trainer: Any = Seq2SeqTrainer if TYPE_CHECKING else object  # what the mixin is mixed over; Any, as transformers is


class MotionTrainerMixin(_Trainer):
    r"""Trains on motion + text or motion alone; every mean is over the global batch.

    Stands before a `Trainer` whose model has a motion head (`attach_head`) and whose batches have motion
    (`add_motion`). The sums of all micro-batches on all processes are divided by their common counts, so that a run
    does not depend on how its batch is split.

    Args:
        args: the trainer's positional arguments.
        motion: what is trained, and how.
        compute_metrics: as the trainer's own; gets each sample once.
        kwargs: the trainer's keyword arguments.
    """

    motion_logger: Any = logging.getLogger(__name__)
    """Where messages go. LLaMA-Factory's trainer puts its own here."""

    def __init__(self, *args: Any, motion: MotionSettings, compute_metrics: Any = None, **kwargs: Any) -> None:
        check_names()
        super().__init__(*args, compute_metrics=self._without_duplicates(compute_metrics), **kwargs)
        self.motion = motion
        fit_to_engine(self.accelerator, base_of(self.model).motion_head)
        self._has_adapter = is_peft(self.model)
        self._head_trains = any(parameter.requires_grad for parameter in base_of(self.model).motion_head.parameters())
        if not motion.control:
            self.model_accepts_loss_kwargs = True  # the counts are ours: the trainer must not divide again
        self._window = torch.zeros(6, dtype=torch.float64)
        self._sources: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._sums: dict[tuple[int, int], MotionSums] = {}
        self._text_losses: dict[int, tuple[float, int]] = {}
        self._motion_losses: dict[tuple[int, int], tuple[float, int]] = {}
        self._predictions_dir: Path | None = None
        self._pictured: dict[tuple[int, int], tuple[NDArray[np.uint8], MotionComparison]] = {}
        self._num_samples: int | None = None
        self._micro_batches = 1
        self._in_loop = False

    # ---- the loss of a step ----

    @override
    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Count labelled tokens and valid motion numbers of the global batch: int64 [2].

        With weights the motion numbers count with these: float64 [2].
        """
        raise_error_of_worker(*batch_samples)
        if self.motion.control or not batch_samples or "motion_mask" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        self._micro_batches = len(batch_samples)
        total = torch.stack([counts(batch).to(device) for batch in batch_samples]).sum(0)
        return self.accelerator.reduce(total, "sum")

    @override
    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the loss of one micro-batch, as its part of the global batch's mean."""
        inputs = self._note_problems(inputs)
        if self.motion.control:
            return super().compute_loss(model, _without_motion(inputs), return_outputs=return_outputs, **kwargs)

        own = counts(inputs)
        total = kwargs.get("num_items_in_batch")
        outputs = model(**_through_engine(inputs))
        share = own if total is None else total
        share = torch.where(share > 0, share, torch.ones_like(share))
        loss = self.motion.loss_weight * outputs.motion_sum / share[1]
        if outputs.ce_sum is not None:
            loss = loss + outputs.ce_sum / share[0]
        if total is not None:  # DDP averages gradients over processes, the counts are of all of them
            loss = loss * self.accelerator.num_processes
        if outputs.router_loss is not None:  # a mean over the micro-batches, as it is without motion
            loss = loss + outputs.router_loss / (1 if total is None else self._micro_batches)

        if self.model.training:
            # on the device until it is logged: reading a number here would wait for the step
            ce_sum = loss.new_zeros(()) if outputs.ce_sum is None else outputs.ce_sum.detach()
            mask = inputs["motion_mask"]
            numbers = [ce_sum, own[0], outputs.motion_sum.detach(), own[1], mask.sum()]
            numbers.append(loss.new_full((), mask.numel(), dtype=torch.float64))
            numbers = [number.to(loss.device, torch.float64) for number in numbers]
            self._window = self._window.to(loss.device) + torch.stack(numbers)
        return (loss, outputs) if return_outputs else loss

    @override
    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device; the motion stays float32, to which DeepSpeed has its own dtype."""
        prepared = super()._prepare_inputs(inputs)
        motion = {key: inputs[key].to(self.args.device) for key in MOTION_TENSORS if key in inputs}
        return {**prepared, **motion}

    def _note_problems(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Take out of a batch what is no tensor; count the sources, and log each problem once."""
        records: list[VideoRecord] = inputs.get("motion_videos", [])
        self._sources.update(record.source for record in records)
        for problem in [*inputs.get("motion_skipped", []), *(record.problem for record in records if record.problem)]:
            if problem not in self._reasons:
                self.motion_logger.warning(f"Left out of a batch: {problem}")
            self._reasons[problem] += 1
        return {key: value for key, value in inputs.items() if key not in NOT_TENSORS}

    def log_sources(self) -> dict[str, int]:
        """Log where the motion came from and what was left out; return the counts of all processes."""
        sources = sum((Counter(one) for one in gather_object([dict(self._sources)])), Counter())
        reasons = sum((Counter(one) for one in gather_object([dict(self._reasons)])), Counter())
        if self.is_world_process_zero():
            listed = ", ".join(f"{name} {count}" for name, count in sources.most_common())
            self.motion_logger.info(f"Motion came from: {listed or 'nothing'}")
            if reasons:
                worst = "; ".join(f"{reason} ({count}x)" for reason, count in reasons.most_common(5))
                self.motion_logger.warning(
                    f"Left out {reasons.total()} clips during the run, {len(reasons)} different: {worst}"
                )
        return {**{f"clips_{name}": count for name, count in sources.items()}, "clips_left_out": reasons.total()}

    # ---- logging ----

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add `motion_loss`, `ce_loss` and `motion_valid` (share of valid targets) since the last log."""
        if "loss" in logs and not self.motion.control:
            window = self.accelerator.reduce(self._window.to(self.args.device), "sum").tolist()
            self._window.zero_()
            ce_sum, ce_count, motion_sum, motion_count, motion_valid, motion_total = window
            if ce_count and self.motion.with_text:
                logs["ce_loss"] = ce_sum / ce_count
            if motion_count:
                logs["motion_loss"] = motion_sum / motion_count
            logs["motion_valid"] = motion_valid / max(motion_total, 1)
        super().log(logs, start_time)

    # ---- optimizer ----

    @override
    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Give the motion head a parameter group of its own.

        Raises:
            ConfigError: where the engine keeps the optimizer, or the head's parameters, to itself.
        """
        fresh = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if not self._head_trains:
            return optimizer
        rate = self.motion.head_learning_rate
        rate = 10 * self.args.learning_rate if rate is None else rate
        head = [p for p in base_of(self.model).motion_head.parameters() if p.requires_grad]
        if fresh and head:
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if all(p is not mine for mine in head)]
            optimizer.add_param_group({"params": head, "lr": rate, "weight_decay": 0.0})
        if fresh or isinstance(optimizer, DummyOptim):  # not the user's own
            check_head_group(optimizer, head, rate, self.args.learning_rate)
        return optimizer

    # ---- save and resume ----

    @override
    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the model and its head, which all processes gather and the main process writes."""
        with whole_head(self.model):
            super().save_model(*args, **kwargs)

    @override
    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        # Before FSDP wraps the model. Of one with an adapter its own checkpoint has no head, and the adapter that it
        # loads is not the one that was saved.
        if self.is_fsdp_enabled and resume_from_checkpoint is not None:
            if self._has_adapter:
                restore_adapter(self.model, resume_from_checkpoint)
            restore_head(self.model, resume_from_checkpoint)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            if not self._has_adapter:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:  # DeepSpeed never comes here: its own checkpoint has all that trains
            self._restore(resume_from_checkpoint, model or self.model, super()._load_from_checkpoint)

    @override
    def _load_best_model(self) -> None:
        load, best = super()._load_best_model, self.state.best_model_checkpoint
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            load()
            if self.is_fsdp_enabled:
                if self._has_adapter and self.accelerator.is_fsdp2:
                    fill_adapter(self.model, best)
                restore_head(self.model, best)
        else:
            self._restore(best, self.model, lambda *args: load())

    def _restore(self, folder: str, model: Any, original: Callable[..., None]) -> None:
        if is_peft(model):
            check_adapter(model, folder)
            original(folder, model)
        else:
            restore_full_weights(base_of(model), folder)
        restore_head(model, folder)

    # ---- evaluation and prediction ----

    @override
    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """Predict text and motion of one batch.

        With `predict_with_generate` both come out of `generate()`: its prefill is the pass that the head reads.

        Returns:
            The loss; `(token_ids, motion)`, where `token_ids` is int64 [B, S] (generated, or the most likely where a
            token is labelled) and `motion` a list with one `MotionComparison` per video of the batch; the labels.
            Inside an evaluation loop, which gathers tensors, the motion is measured and written out instead, and the
            token ids stand alone.
        """
        raise_error_of_worker(inputs)
        records, numbers = inputs["motion_videos"], inputs["motion_samples"]
        inputs = self._prepare_inputs(self._note_problems(inputs))
        if getattr(self.args, "predict_with_generate", False) and not prediction_loss_only:
            targets, mask = inputs["motion_targets"], inputs["motion_mask"]
            with captured_motion(self.model) as captured:
                loss, tokens, labels = super().prediction_step(
                    model, _without_motion(inputs), prediction_loss_only, ignore_keys=ignore_keys, **gen_kwargs
                )
            rows = _first_beams(captured[0], records, len(numbers)) if captured else targets[:0]
            motion = self._measure(rows, targets, mask, records)
            return loss, tokens if self._in_loop else (tokens, motion), labels

        with torch.no_grad(), self.compute_loss_context_manager():
            if self.motion.control:
                loss = super().compute_loss(model, _without_motion(inputs))
            outputs = model(**_through_engine(inputs))
        if not self.motion.control:
            loss = outputs.motion_sum  # `evaluation_loop` puts the mean over the whole data set in its place
        if outputs.ce_rows is not None:
            labelled = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum(-1)
            sums = zip(outputs.ce_rows.tolist(), labelled.tolist(), strict=True)
            self._text_losses.update(zip(numbers, sums, strict=True))
        motion = self._measure(outputs.motion, inputs["motion_targets"], inputs["motion_mask"], records)
        tokens = None if prediction_loss_only else outputs.token_ids
        return loss.detach(), tokens if self._in_loop else (tokens, motion), inputs["labels"]

    def _measure(
        self, motion: Tensor, targets: Tensor, mask: Tensor, records: list[VideoRecord]
    ) -> list[MotionComparison]:
        """Compare predicted and target motion of each video of a batch, in pixels, and write it where the run asks."""
        predictions = []
        config = base_of(self.model).motion_head.config
        sizes = [record.grid.num_tokens for record in records]
        seen: Counter[int] = Counter()
        parts = zip(*(tensor.cpu().split(sizes) for tensor in (motion.float(), targets, mask)), strict=True)
        for record, (predicted_rows, target_rows, mask_rows) in zip(records, parts, strict=True):
            predicted = tokens_to_vectors(predicted_rows.numpy(), record.grid, config.scale)
            target = tokens_to_vectors(target_rows.numpy(), record.grid, config.scale)
            valid = from_tokens(mask_rows.numpy(), record.grid)[..., 0]
            key = (cast(int, record.sample), seen[record.row])
            seen[record.row] += 1
            self._sums[key] = MotionSums.from_fields(predicted, target, valid)
            loss = motion_loss_sum(predicted_rows, target_rows, mask_rows, self.motion.loss_type)
            self._motion_losses[key] = loss.item(), int(mask_rows.sum())
            prediction = MotionComparison(
                predicted=predicted,
                target=target,
                valid=valid,
                times=np.asarray(record.times, np.float64),
                grid=record.grid,
                path=record.path,
                source=record.source,
                direction=config.direction,
            )
            predictions.append(prediction)
            if record.frames is not None:
                self._pictured[key] = record.frames, prediction
            if self._predictions_dir is not None:
                suffix = f"-{key[1]}" if key[1] else ""
                prediction.save(self._predictions_dir / f"{key[0]:06d}{suffix}.npz")
        return predictions

    @override
    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the loop, then add the motion metrics; samples repeated to fill the last batch count once.

        They count all valid vectors alike, `motion_loss` too, so that runs with and without weights can be compared.
        """
        prefix = kwargs.get("metric_key_prefix", "eval")
        self._sums, self._text_losses, self._motion_losses = {}, {}, {}
        self._num_samples = len(dataloader.dataset) if hasattr(dataloader.dataset, "__len__") else None
        self._in_loop = True
        try:
            output = super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self._in_loop = False
        sums = _gather_dict(self._sums).values()
        output.metrics.update({f"{prefix}_{k}": v for k, v in sum(sums, MotionSums.zero()).metrics().items()})
        text_loss, motion_loss = _mean(self._text_losses), _mean(self._motion_losses)
        if text_loss is not None:
            output.metrics[f"{prefix}_ce_loss"] = text_loss
        if motion_loss is not None:
            output.metrics[f"{prefix}_motion_loss"] = motion_loss
        if f"{prefix}_loss" in output.metrics and not self.motion.control:
            output.metrics[f"{prefix}_loss"] = self.motion.loss_weight * (motion_loss or 0.0) + (text_loss or 0.0)
        return output

    @override
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and draw the first few samples from what that computed: the same ones each time."""
        self._pictured = {}
        metrics = cast(dict[str, float], super().evaluate(*args, **kwargs))
        # with several data sets, the Trainer comes here once for each, and at last with nothing to draw
        pictured, self._pictured = _gather_dict(self._pictured), {}
        if pictured and self.is_world_process_zero():
            prefix, step, sheet = kwargs.get("metric_key_prefix", "eval"), self.state.global_step, draw(pictured)
            save_png(Path(self.args.output_dir, PICTURES_FOLDER, f"{prefix}-{step:06d}.png"), sheet)
            log_picture(self.callback_handler.callbacks, f"{prefix}_motion", sheet, step)
        return metrics

    @override
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict text and motion; the motion of each video goes to `motion_predictions/` in the output folder."""
        self._predictions_dir = Path(self.args.output_dir) / PREDICTIONS_FOLDER
        self._predictions_dir.mkdir(parents=True, exist_ok=True)
        for old in self._predictions_dir.glob("*.npz") if self.is_world_process_zero() else ():
            old.unlink()
        self.accelerator.wait_for_everyone()
        try:
            output = super().predict(*args, **kwargs)
        finally:
            self._predictions_dir = None
        rows = self._num_samples
        return output._replace(predictions=_first(output.predictions, rows), label_ids=_first(output.label_ids, rows))

    def _without_duplicates(self, compute_metrics: Any) -> Any:
        # Seq2SeqTrainer gathers with plain `gather`, which keeps the samples that filled the last batch
        if compute_metrics is None:
            return None

        def compute(prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
            rows = self._num_samples
            metrics: dict[str, float] = compute_metrics(
                EvalPrediction(_first(prediction.predictions, rows), _first(prediction.label_ids, rows)), **kwargs
            )
            return metrics

        return compute


def _first(values: Any, rows: int | None) -> Any:
    return None if values is None else values[:rows]


def _through_engine(inputs: dict[str, Any]) -> dict[str, Any]:
    """Let nothing round the motion on its way into the model."""
    return {
        key: as_bits(value) if key in MOTION_TENSORS and value.dtype == torch.float32 else value
        for key, value in inputs.items()
    }


def _without_motion(inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key not in MOTION_TENSORS}


def _gather_dict(mine: dict[Any, Any]) -> dict[Any, Any]:
    """Merge the dictionaries of all processes; a key that several have counts once."""
    return {key: value for part in gather_object([mine]) for key, value in part.items()}


def _mean(mine: dict[Any, tuple[float, int]]) -> float | None:
    """Divide the sum of the sums of all processes by that of their counts; None where nothing was counted."""
    sums, numbers = np.array([*_gather_dict(mine).values(), (0.0, 0)], np.float64).sum(0)
    return float(sums / numbers) if numbers else None


def _first_beams(motion: Tensor, records: list[VideoRecord], samples: int) -> Tensor:
    """Keep the first of the beams that `generate()` made of each sample: [T * beams, D] to [T, D]."""
    tokens: Counter[int] = Counter()
    for record in records:
        tokens[record.row] += record.grid.num_tokens
    total = sum(tokens.values())
    if total == 0 or motion.shape[0] == total:
        return motion
    beams = motion.shape[0] // total
    rows = motion.split([tokens[row] for row in range(samples) for _ in range(beams)])
    return torch.cat(rows[::beams])
