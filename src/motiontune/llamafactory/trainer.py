"""LLaMA-Factory's SFT trainer, learning and predicting the motion at the video tokens.

From top to bottom: the loss of a step, what is logged, the head's learning rate, save and resume, then evaluation and
prediction.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from numpy.typing import NDArray
from torch import Tensor
from transformers import EvalPrediction
from typing_extensions import override

from motiontune.drawing.images import save_png
from motiontune.drawing.panels import comparison_panels
from motiontune.drawing.sheets import comparison_rows, contact_sheet
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.sums import MotionSums
from motiontune.llamafactory.collator import VideoRecord
from motiontune.llamafactory.names import get_logger, log_picture
from motiontune.model.checkpoint import check_adapter, restore_full_weights, restore_head
from motiontune.model.forward import captured_motion
from motiontune.model.head import save_head
from motiontune.model.losses import IGNORE_INDEX, motion_loss_sum
from motiontune.model.wrappers import base_of, is_peft
from motiontune.runs.folder import PICTURES_FOLDER, PREDICTIONS_FOLDER
from motiontune.targets import from_tokens, tokens_to_vectors


logger = get_logger(__name__)

NOT_TENSORS = ("motion_videos", "motion_skipped", "motion_samples")
MOTION_TENSORS = ("motion_targets", "motion_mask", "motion_weights")
PICTURE_COLUMNS, PICTURE_WIDTH = 6, 160  # frames of each clip, and about the width of each in pixels


class MotionTrainer(CustomSeq2SeqTrainer):
    r"""Trains on motion + text or motion alone; every mean is over the global batch.

    LLaMA-Factory takes the mean of each micro-batch, which makes a run depend on how its batch is split. Here the sums
    of all micro-batches on all processes are divided by their common counts. With `motion_loss_weight: 0` everything
    is left to LLaMA-Factory, so that such a run equals its own bit for bit.
    """

    def __init__(self, **kwargs: Any) -> None:
        compute_metrics = kwargs.pop("compute_metrics", None)
        super().__init__(compute_metrics=self._without_duplicates(compute_metrics), **kwargs)
        self.weight: float = self.finetuning_args.motion_loss_weight
        self.control_run = self.weight == 0 and self.finetuning_args.use_motion_loss
        if not self.control_run:
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
        self._in_loop = False

    # ---- the loss of a step ----

    @override
    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Count labelled tokens and valid motion numbers of the global batch: int64 [2].

        With `motion_confidence_weighting` the motion numbers count with their weights: float64 [2].
        """
        _raise_error_of_worker(*batch_samples)
        if self.control_run or not batch_samples or "motion_mask" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        counts = torch.stack([_counts(batch).to(device) for batch in batch_samples]).sum(0)
        return self.accelerator.reduce(counts, "sum")

    @override
    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the loss of one micro-batch, as its part of the global batch's mean."""
        inputs = self._note_problems(inputs)
        if self.control_run:
            inputs = {key: value for key, value in inputs.items() if key not in MOTION_TENSORS}
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)

        own_counts = _counts(inputs)
        counts = kwargs.get("num_items_in_batch")
        outputs = model(**inputs)
        share = own_counts if counts is None else counts
        share = torch.where(share > 0, share, torch.ones_like(share))
        loss = self.weight * outputs.motion_sum / share[1]
        if outputs.ce_sum is not None:
            loss = loss + outputs.ce_sum / share[0]
        if counts is not None:  # DDP averages gradients over processes, the counts are of all of them
            loss = loss * self.accelerator.num_processes

        if self.model.training:
            # on the device until it is logged: reading a number here would wait for the step
            ce_sum = loss.new_zeros(()) if outputs.ce_sum is None else outputs.ce_sum.detach()
            mask = inputs["motion_mask"]
            numbers = [ce_sum, own_counts[0], outputs.motion_sum.detach(), own_counts[1], mask.sum()]
            numbers.append(loss.new_full((), mask.numel(), dtype=torch.float64))
            numbers = [number.to(loss.device, torch.float64) for number in numbers]
            self._window = self._window.to(loss.device) + torch.stack(numbers)
        return (loss, outputs) if return_outputs else loss

    def _note_problems(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Take out of a batch what is no tensor; remember the sources and say each problem once."""
        records: list[VideoRecord] = inputs.get("motion_videos", [])
        self._sources.update(record.source for record in records)
        for problem in [*inputs.get("motion_skipped", []), *(record.problem for record in records if record.problem)]:
            if problem not in self._reasons:
                logger.warning(f"Left out of a batch: {problem}")
            self._reasons[problem] += 1
        return {key: value for key, value in inputs.items() if key not in NOT_TENSORS}

    def say_sources(self) -> dict[str, int]:
        """Say in the log where the motion came from and what was left out; return the counts of all processes."""
        sources = sum((Counter(counts) for counts in gather_object([dict(self._sources)])), Counter())
        reasons = sum((Counter(counts) for counts in gather_object([dict(self._reasons)])), Counter())
        logger.info_rank0(
            "Motion came from: " + (", ".join(f"{k} {v}" for k, v in sources.most_common()) or "nothing")
        )
        if reasons:
            worst = "; ".join(f"{reason} ({count}x)" for reason, count in reasons.most_common(5))
            logger.warning_rank0(f"Left out {reasons.total()} clips during the run, {len(reasons)} different: {worst}")
        return {**{f"clips_{k}": v for k, v in sources.items()}, "clips_left_out": reasons.total()}

    # ---- logging ----

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add `motion_loss`, `ce_loss` and `motion_valid` (share of valid targets) since the last log."""
        if "loss" in logs and not self.control_run:
            window = self.accelerator.reduce(self._window.to(self.args.device), "sum").tolist()
            self._window.zero_()
            ce_sum, ce_count, motion_sum, motion_count, motion_valid, motion_total = window
            if ce_count and self.finetuning_args.use_motionvector_crossentropy_loss:
                logs["ce_loss"] = ce_sum / ce_count
            if motion_count:
                logs["motion_loss"] = motion_sum / motion_count
            logs["motion_valid"] = motion_valid / max(motion_total, 1)
        super().log(logs, start_time)

    # ---- optimizer ----

    @override
    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Give the motion head a parameter group of its own."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        head = [p for p in base_of(self.model).motion_head.parameters() if p.requires_grad]
        if fresh and head:
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if all(p is not mine for mine in head)]
            rate = self.finetuning_args.motion_head_learning_rate
            rate = 10 * self.args.learning_rate if rate is None else rate
            optimizer.add_param_group({"params": head, "lr": rate, "weight_decay": 0.0})
        return optimizer

    # ---- save and resume ----

    @override
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        save_head(base_of(self.model).motion_head, output_dir or self.args.output_dir, state_dict)

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._restore(resume_from_checkpoint, model or self.model, super()._load_from_checkpoint)

    @override
    def _load_best_model(self) -> None:
        self._restore(
            self.state.best_model_checkpoint, self.model, lambda *args: super(MotionTrainer, self)._load_best_model()
        )

    def _restore(self, folder: str, model: Any, original: Any) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:  # the head is in the engine's own checkpoint
            original(folder, model)
            return
        if is_peft(model):
            check_adapter(model, folder)
            original(folder, model)
        else:
            restore_full_weights(base_of(model), folder)
        restore_head(base_of(model), folder)

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
        _raise_error_of_worker(inputs)
        records, numbers = inputs["motion_videos"], inputs["motion_samples"]
        inputs = self._prepare_inputs(self._note_problems(inputs))
        if self.args.predict_with_generate and not prediction_loss_only:
            targets, mask, _ = (inputs.pop(key, None) for key in MOTION_TENSORS)
            with captured_motion(self.model) as captured:
                loss, tokens, labels = super().prediction_step(
                    model, inputs, prediction_loss_only, ignore_keys=ignore_keys, **gen_kwargs
                )
            rows = _first_beams(captured[0], records, len(numbers)) if captured else targets[:0]
            motion = self._measure(rows, targets, mask, records)
            return loss, tokens if self._in_loop else (tokens, motion), labels

        with torch.no_grad(), self.compute_loss_context_manager():
            if self.control_run:
                loss = super().compute_loss(model, {k: v for k, v in inputs.items() if k not in MOTION_TENSORS})
            outputs = model(**inputs)
        if not self.control_run:
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
        kind = self.finetuning_args.motion_loss_type
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
            loss = motion_loss_sum(predicted_rows, target_rows, mask_rows, kind)
            self._motion_losses[key] = loss.item(), int(mask_rows.sum())
            prediction = MotionComparison(
                predicted=predicted,
                target=target,
                valid=valid,
                times=np.asarray(record.times, np.float64),
                grid=record.grid,
                path=record.path,
                source=record.source,
                direction=config.target,
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

        They count all valid vectors alike, `motion_loss` too, so that runs with and without
        `motion_confidence_weighting` can be compared.
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
        if f"{prefix}_loss" in output.metrics and not self.control_run:
            output.metrics[f"{prefix}_loss"] = self.weight * (motion_loss or 0.0) + (text_loss or 0.0)
        return output

    @override
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and draw the first few samples from what that computed: the same ones each time."""
        self._pictured = {}
        metrics = cast(dict[str, float], super().evaluate(*args, **kwargs))
        # with several data sets, the Trainer comes here once for each, and at last with nothing to draw
        pictured, self._pictured = _gather_dict(self._pictured), {}
        if pictured and self.is_world_process_zero():
            self._draw(pictured, kwargs.get("metric_key_prefix", "eval"))
        return metrics

    def _draw(self, pictured: dict[tuple[int, int], tuple[NDArray[np.uint8], MotionComparison]], prefix: str) -> None:
        """Draw frames, target and prediction of each clip on one sheet, for the output folder and the loggers."""
        rows = []
        for (sample, _), (frames, comparison) in sorted(pictured.items(), key=lambda item: item[0]):
            name = f"{sample}: {Path(comparison.path).name}"
            panels = comparison_panels(comparison.predicted, comparison.valid, comparison.target)
            grid = comparison.grid
            padding = grid.temporal_patch - 1
            rows += comparison_rows(name, frames, comparison.times, panels, grid.patch, padding, PICTURE_WIDTH)
        sheet = contact_sheet(rows, PICTURE_COLUMNS, PICTURE_WIDTH)
        step = self.state.global_step
        save_png(Path(self.args.output_dir, PICTURES_FOLDER, f"{prefix}-{step:06d}.png"), sheet)
        log_picture(self.callback_handler.callbacks, f"{prefix}_motion", sheet, step)

    @override
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict text and motion; the motion of each video goes to `motion_predictions/` in the output folder."""
        self._predictions_dir = Path(self.args.output_dir) / PREDICTIONS_FOLDER
        os.makedirs(self._predictions_dir, exist_ok=True)
        for old in self._predictions_dir.glob("*.npz") if self.is_world_process_zero() else ():
            old.unlink()
        self.accelerator.wait_for_everyone()
        try:
            output = super().predict(*args, **kwargs)
        finally:
            self._predictions_dir = None
        rows = self._num_samples
        return output._replace(predictions=output.predictions[:rows], label_ids=output.label_ids[:rows])

    def _without_duplicates(self, compute_metrics: Any) -> Any:
        # LLaMA-Factory gathers with plain `gather`, which keeps the samples that filled the last batch
        if compute_metrics is None:
            return None

        def compute(prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
            rows = self._num_samples
            return compute_metrics(
                EvalPrediction(predictions=prediction.predictions[:rows], label_ids=prediction.label_ids[:rows]),
                **kwargs,
            )

        return compute


def _raise_error_of_worker(*batches: dict[str, Any]) -> None:
    for batch in batches:
        if "motion_error" in batch:
            raise batch["motion_error"]


def _count_labels(batch: dict[str, Any]) -> Tensor:
    labels = batch.get("labels")
    return torch.zeros((), dtype=torch.int64) if labels is None else (labels[:, 1:] != IGNORE_INDEX).sum()


def _counts(batch: dict[str, Any]) -> Tensor:
    """Count labelled tokens and valid motion numbers, or the sum of these numbers' weights."""
    labels, weights = _count_labels(batch), batch.get("motion_weights")
    if weights is None:
        return torch.stack([labels, batch["motion_mask"].sum().to(labels.device)])
    return torch.stack([labels.double(), weights.double().sum().to(labels.device)])


def _gather_dict(mine: dict[Any, Any]) -> dict[Any, Any]:
    """Merge the dictionaries of all processes; a key that several have counts once."""
    return {key: value for part in gather_object([mine]) for key, value in part.items()}


def _mean(mine: dict[Any, tuple[float, int]]) -> float | None:
    """Divide the sum of the sums of all processes by that of their counts; None where nothing was counted."""
    sums, counts = np.array([*_gather_dict(mine).values(), (0.0, 0)], np.float64).sum(0)
    return float(sums / counts) if counts else None


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
