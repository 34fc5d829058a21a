"""A mixin over transformers' `Trainer` and its subclasses, with which they train and predict the motion of videos.

    class MotionTrainer(MotionTrainerMixin, Seq2SeqTrainer): ...

From top to bottom: the loss of a step, what is logged, the head's learning rate, save and resume, then evaluation and
prediction.
"""

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from accelerate.utils.deepspeed import DummyOptim
from numpy.typing import NDArray
from torch import Tensor
from transformers import EvalPrediction, Seq2SeqTrainer
from transformers.trainer_utils import has_length
from typing_extensions import override

from motiontune.drawing.images import save_png
from motiontune.errors import ConfigError, MotiontuneError, mistakes
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.forms import form_metrics, form_sums, metric_names
from motiontune.evaluation.sums import MotionSums
from motiontune.files import remove
from motiontune.model.checkpoint import (
    check_adapter,
    fill_adapter,
    restore_adapter,
    restore_full_weights,
    restore_head,
)
from motiontune.model.forward import as_bits, captured_motion, whole_head
from motiontune.model.losses import IGNORE_INDEX, motion_loss_sum
from motiontune.model.wrappers import base_of, is_peft, whole_modules
from motiontune.runs.folder import PICTURES_FOLDER, PREDICTIONS_FOLDER
from motiontune.targets import HeadForm, from_tokens, tokens_to_vectors
from motiontune.training.batch import MOTION_TENSORS, NOT_TENSORS, VideoRecord, counts, raise_error_of_worker
from motiontune.training.checkpoints import list_files, saving
from motiontune.training.engines import (
    Use,
    check_checkpoint,
    check_head_group,
    check_scheduler,
    engine_mistakes,
    fit_to_engine,
    know_cpus_of_processes,
)
from motiontune.training.names import check_names, keep_other_folders, log_picture
from motiontune.training.pictures import draw
from motiontune.training.progress import SUMS, Progress, end_point_sums, names_of
from motiontune.training.settings import MotionSettings, head_rate
from motiontune.video.clip import Sampling


NOTHING = "no clip had a vector that is valid, and no sample a label"
STEPS_OF_NOTHING = 100
"""A run whose first steps, so many, had nothing to learn ends there."""

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
        keep_other_folders()
        super().__init__(*args, compute_metrics=self._without_duplicates(compute_metrics), **kwargs)
        self.motion = motion
        sampling = getattr(self.data_collator, "sampling", None)
        if sampling is not None:
            self._keep_sampling(sampling)
        self._has_adapter = is_peft(self.model)
        use = Use(
            generates=getattr(self.args, "predict_with_generate", False),
            has_adapter=self._has_adapter,
            whole_modules=whole_modules(self.model),
        )
        changed = fit_to_engine(self.accelerator, base_of(self.model).motion_head, use)
        if changed and self.is_world_process_zero():
            self.motion_logger.info(changed)
        self._head_trains = any(parameter.requires_grad for parameter in base_of(self.model).motion_head.parameters())
        if not motion.control:
            self.model_accepts_loss_kwargs = True  # the counts are ours: the trainer must not divide again
        self._window = torch.zeros(9 + SUMS, dtype=torch.float64)
        self._progress = Progress(0)
        self._steps, self._learned, self._motion_learned, self._broken = 0.0, 0.0, 0.0, 0.0
        self._sources: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._without_motion: Counter[str] = Counter()
        self._noted: set[str] = set()
        self._sums: dict[tuple[int, int], MotionSums] = {}
        self._text_losses: dict[int, tuple[float, int]] = {}
        self._motion_losses: dict[tuple[int, int], tuple[float, int]] = {}
        self._batch_losses: dict[int, tuple[float, int]] = {}
        self._kinds: dict[tuple[int, int], tuple[str, str]] = {}
        self._unread: dict[int, str] = {}
        self._rows = 0
        self._held: EvalPrediction | None = None
        self._measured: dict[str, float] = {}
        self.unmeasured: dict[str, str] = {}
        """Evaluations that measured nothing, by the prefix of their metrics, and why."""
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
        if not batch_samples or "motion_mask" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        each = torch.stack([counts(batch).to(device) for batch in batch_samples])
        if self.motion.control:  # its loss is the mean of the micro-batches'
            self._count_step((each[:, 0] > 0).double().mean())
            return super()._get_num_items_in_batch(batch_samples, device)
        self._micro_batches = len(batch_samples)
        total = self.accelerator.reduce(each.sum(0), "sum")
        self._count_step((total if self.motion.with_text else total[1:]).any())
        return total

    def _count_step(self, learned: Tensor) -> None:
        """Count a step, and which part of it has anything to learn; on the device, as the rest of the window."""
        self._window = self._window.to(learned.device)
        self._window[6] += 1
        self._window[7] += learned

    def _count_broken(self, loss: Tensor) -> None:
        """Count a micro-batch whose loss is not a finite number."""
        if self.model.training:
            self._window = self._window.to(loss.device)
            self._window[8] += ~loss.detach().isfinite()

    @override
    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the loss of one micro-batch, as its part of the global batch's mean."""
        inputs = self._note_problems(inputs)
        if self.motion.control:
            result = super().compute_loss(model, _without_motion(inputs), return_outputs=return_outputs, **kwargs)
            result = _or_zero(result, _has_labels(inputs))  # the mean over no label is not a number
            self._count_broken(result[0] if isinstance(result, tuple) else result)
            return result

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
            router_loss = outputs.router_loss / (1 if total is None else self._micro_batches)
            loss = loss + torch.where((own if total is None else total).any(), router_loss, 0 * router_loss)

        self._count_broken(loss)
        if self.model.training:
            # on the device until it is logged: reading a number here would wait for the step
            ce_sum = loss.new_zeros(()) if outputs.ce_sum is None else outputs.ce_sum.detach()
            mask = inputs["motion_mask"]
            numbers = [ce_sum, own[0], outputs.motion_sum.detach(), own[1], mask.sum()]
            numbers.append(loss.new_full((), mask.numel(), dtype=torch.float64))
            numbers = [number.to(loss.device, torch.float64) for number in numbers]
            self._window = self._window.to(loss.device)
            self._window[:6] += torch.stack(numbers)
            head = base_of(self.model).motion_head.config
            if head.output == "displacement":
                unit, target = head.patch * head.scale, inputs["motion_targets"]
                self._window[9:] += end_point_sums(outputs.motion, target, mask, unit).to(loss.device)
        return (loss, outputs) if return_outputs else loss

    @override
    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device; the motion stays float32, to which DeepSpeed has its own dtype."""
        motion = {key: inputs[key].to(self.args.device) for key in MOTION_TENSORS if key in inputs}
        return {**super()._prepare_inputs(_without_motion(inputs)), **motion}

    def _note_problems(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Take out of a batch what is no tensor; count the sources, and log each problem once."""
        records: list[VideoRecord] = inputs.get("motion_videos", [])
        skipped: dict[int, str] = inputs.get("motion_skipped", {})
        numbers: list[int] | None = inputs.get("motion_samples")
        problems = [record.problem for record in records if record.problem]
        if numbers is None:
            self._sources.update(record.source for record in records)
            self._left_out.update(skipped.values())
            self._without_motion.update(problems)
        else:  # a sample that fills the last batch comes twice
            self._unread.update((numbers[row], why) for row, why in skipped.items())
            seen: Counter[int] = Counter()
            for record in records:
                self._kinds[numbers[record.row], seen[record.row]] = record.source, record.problem
                seen[record.row] += 1
        for what, reasons in (("Left out of a batch", skipped.values()), ("No motion", problems)):
            for why in reasons:
                if why not in self._noted:
                    self.motion_logger.warning(f"{what}: {why}")
                    self._noted.add(why)
        return {key: value for key, value in inputs.items() if key not in NOT_TENSORS}

    def log_sources(self) -> dict[str, int]:
        """Log where the motion of the training came from and what was left out; return all processes' counts.

        Returns:
            `clips_left_out`, samples that took no part because a clip could not be read; and for each source
            `clips_<source>`, where `clips_none` have no motion and trained their text.
        """
        sources, left_out = _gather_counts(self._sources), _gather_counts(self._left_out)
        without = _gather_counts(self._without_motion)
        if self.is_world_process_zero():
            listed = ", ".join(f"{name} {count}" for name, count in sources.most_common())
            self.motion_logger.info(f"Motion came from: {listed or 'nothing'}")
            if left_out:
                self.motion_logger.warning(f"Left out {_counted(left_out)}")
            if without:
                self.motion_logger.warning(f"Without motion were {_counted(without)}")
            if self._learned and self.motion.loss_weight and not self._motion_learned:
                why = _why(without or left_out) or "no clip had a vector that is valid"
                self.motion_logger.warning(f"The run learned no motion: {why}")
        return {**{f"clips_{name}": count for name, count in sources.items()}, "clips_left_out": left_out.total()}

    @override
    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the trainer below.

        Raises:
            MotiontuneError: if there was not one target and not one label in all steps, or no step at all.
        """
        output = super().train(*args, **kwargs)
        if not self.state.global_step:
            raise MotiontuneError("nothing was learned: max_steps and num_train_epochs ask for no step")
        if self._steps and not self._learned:
            self._refuse_nothing()
        if not self._steps:
            for key in ("train_samples_per_second", "train_steps_per_second"):
                output.metrics.pop(key, None)
        return output._replace(training_loss=output.metrics.get("train_loss", math.nan))

    @override
    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        # here and not in `train`: `auto_find_batch_size` begins again, and what was learned before is gone
        self._window.zero_()
        self._steps, self._learned, self._motion_learned, self._broken = 0.0, 0.0, 0.0, 0.0
        for counter in (self._sources, self._left_out, self._without_motion):
            counter.clear()
        return super()._inner_training_loop(*args, **kwargs)

    @override
    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers looks for the end after a step alone, and a finished run would train one more
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.motion_logger.info(f"Nothing is left to train: the checkpoint is of step {self.state.global_step}")
            self.control.should_training_stop = True

    @property
    def steps_trained(self) -> float:
        """How many steps the last call of `train` made: none where the checkpoint is of a run's end."""
        return self._steps

    def _refuse_nothing(self) -> None:
        reasons = _gather_counts(self._left_out + self._without_motion)
        what = "label" if self.motion.control else "motion target and no label"
        what = what if self.motion.with_text else "motion target"
        why = _why(reasons) or NOTHING
        raise MotiontuneError(f"nothing was learned: {self._steps:.0f} steps had no valid {what}: {why}")

    # ---- logging ----

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add `motion_loss`, `ce_loss` and `motion_valid` (share of valid targets) since the last log.

        So are the end-point errors in pixels, under the names of the evaluation's: `epe`, `epe_zero_motion` (what no
        motion would have scored), `epe_moving` and `epe_moving_zero_motion`. Of directions there are none.

        Steps that had nothing to learn take no part in `loss` and `train_loss`; where there was no other, these are
        absent. So they are where a loss was not a finite number, of which the Trainer would make 0.

        Raises:
            MotiontuneError: if an epoch or `STEPS_OF_NOTHING` had nothing to learn; what follows would not either. If
                a loss was not a finite number, after which the weights are not either; with fp16, which leaves such
                steps out, only at the end.
        """
        if "loss" in logs or "train_loss" in logs:
            window = self.accelerator.reduce(self._window.to(self.args.device), "sum")
            self._window.zero_()
            ce_sum, ce_count, motion_sum, motion_count, motion_valid, motion_total, *rest = window.tolist()
            steps, learned, broken, *errors = rest
            steps, learned = steps / self.accelerator.num_processes, learned / self.accelerator.num_processes
            self._steps, self._learned = self._steps + steps, self._learned + learned
            self._motion_learned += motion_count
            _take_mean(logs, "loss", steps, learned)
            # the Trainer divides by the steps before a checkpoint, too, whose losses it does not know
            all_steps = self._steps if self.motion.control and self._steps else self.state.global_step
            _take_mean(logs, "train_loss", all_steps, self._learned)
            if "loss" in logs and not self.motion.control:
                if ce_count and self.motion.with_text:
                    logs["ce_loss"] = ce_sum / ce_count
                if motion_count:
                    logs["motion_loss"] = motion_sum / motion_count
                if motion_total:
                    logs["motion_valid"] = motion_valid / motion_total
                self._log_errors(logs, steps, errors)
            self._note_broken(logs, broken)
            if not self._learned and self._steps and (self._steps >= STEPS_OF_NOTHING or (self.state.epoch or 0) >= 1):
                self._refuse_nothing()
        super().log(logs, start_time)

    def _note_broken(self, logs: dict[str, float], broken: float) -> None:
        self._broken += broken
        if broken if "loss" in logs else self._broken:
            for key in [
                key for key, value in logs.items() if isinstance(value, float) and not math.isfinite(value)
            ] + ["loss", "train_loss"]:
                logs.pop(key, None)
        if broken and (not self.args.fp16 or self.state.global_step >= self.state.max_steps):
            when = f"{broken:.0f} times until step {self.state.global_step}"
            raise MotiontuneError(
                f"the loss was not a finite number, {when}, and no more are the weights: go back to an earlier "
                f"checkpoint, with a lower learning_rate or motion_loss_weight"
            )

    def _log_errors(self, logs: dict[str, float], steps: float, errors: list[float]) -> None:
        form = base_of(self.model).motion_head.config
        for names, (count, *both) in zip(names_of(form), (errors[:3], errors[3:]), strict=True):
            if count:
                logs.update({name: value / count for name, value in zip(names, both, strict=True)})
        warning = self._progress.notice(self.state.global_step, steps, *errors[4:])
        if warning and self.is_world_process_zero():
            self.motion_logger.warning(warning)

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
        rate = head_rate(self.motion.head_learning_rate, self.args.learning_rate)
        check_scheduler(self.accelerator, rate, self.args.learning_rate)
        head = [p for p in base_of(self.model).motion_head.parameters() if p.requires_grad]
        if fresh and head:
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if all(p is not mine for mine in head)]
            optimizer.add_param_group({"params": head, "lr": rate, "weight_decay": 0.0})
        if fresh or isinstance(optimizer, DummyOptim):  # not the user's own
            check_head_group(optimizer, head, rate, self.args.learning_rate)
        return optimizer

    @override
    def create_accelerator_and_postprocess(self) -> None:
        with engine_mistakes(self.args):
            super().create_accelerator_and_postprocess()

    # ---- save and resume ----

    @override
    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the model and its head, which all processes gather and the main process writes."""
        with whole_head(self.model), saving(self.args.output_dir):
            super().save_model(*args, **kwargs)

    @override
    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, and then a list of its files, by which a damaged one is known when a run is resumed."""
        with saving(self.args.output_dir):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process has written its part
        if self.args.should_save:
            list_files(Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}"))

    @override
    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        self._progress = Progress(self.args.get_warmup_steps(max_steps))
        if resume_from_checkpoint is not None:
            check_checkpoint(self.accelerator, resume_from_checkpoint)
            know_cpus_of_processes()
        # before FSDP wraps the model: of one with an adapter its own checkpoint has no head
        if self.is_fsdp_enabled and resume_from_checkpoint is not None:
            if self._has_adapter:
                restore_adapter(self.model, resume_from_checkpoint)
            self._restore_head(self.model, resume_from_checkpoint)
        with engine_mistakes(self.args):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    @override
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with mistakes(
            f"resume_from_checkpoint: the optimizer in {checkpoint} is of other weights (resume with the keys that it "
            f"was trained with, or start anew from its model)",
            ValueError,
        ):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        # torch takes the saved options as they are, and the first step fails for those that another kind has not
        options = getattr(self.optimizer, "defaults", {})
        lost = [name for name in options if any(name not in group for group in self.optimizer.param_groups)]
        if lost:
            kind = getattr(self.args.optim, "value", self.args.optim)
            raise ConfigError(
                f"resume_from_checkpoint: the optimizer in {checkpoint} has no {lost[0]}, it is of another kind than "
                f"`optim: {kind}` (resume with the keys that it was trained with, or start anew from its model)"
            )

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
                self._restore_head(self.model, best)
        else:
            self._restore(best, self.model, lambda *args: load())

    def _restore(self, folder: str, model: Any, original: Callable[..., None]) -> None:
        if is_peft(model):
            check_adapter(model, folder)
            original(folder, model)
        else:
            restore_full_weights(base_of(model), folder)
        self._restore_head(model, folder)

    def _restore_head(self, model: Any, folder: str) -> None:
        self._log_sampling(base_of(model).motion_head.config.sampling, restore_head(model, folder).sampling, folder)

    def _keep_sampling(self, sampling: Sampling) -> None:
        """Keep with the head how the collator samples clips."""
        head: Any = base_of(self.model).motion_head
        self._log_sampling(sampling, head.config.sampling, "The motion head")
        head.config = replace(head.config, sampling=sampling)

    def _log_sampling(self, sampling: Sampling | None, trained: Sampling | None, where: str) -> None:
        change = "" if sampling is None or trained is None else sampling.change(trained, where)
        if change and self.is_world_process_zero():
            self.motion_logger.warning(change)

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
            token is labelled) and `motion` a list with one `MotionComparison` per video of the batch, or nothing where
            the head predicts no dense motion; the labels.
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
            form = base_of(self.model).motion_head.config
            rows = _first_beams(captured[0], records, len(numbers), form) if captured else targets[:0]
            motion = self._measure(rows, targets, mask, records)
            return loss, tokens if self._in_loop else (tokens, motion), labels

        with torch.no_grad(), self.compute_loss_context_manager():
            if self.motion.control:
                loss = super().compute_loss(model, _without_motion(inputs))
                count = int(_has_labels(inputs))
                self._batch_losses.update((number, (loss.item() if count else 0.0, count)) for number in numbers)
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
        sizes = [config.rows(record.grid) for record in records]
        seen: Counter[int] = Counter()
        parts = zip(*(tensor.cpu().split(sizes) for tensor in (motion.float(), targets, mask)), strict=True)
        for record, (predicted_rows, target_rows, mask_rows) in zip(records, parts, strict=True):
            arrays = predicted_rows.numpy(), target_rows.numpy(), mask_rows.numpy()
            key = (cast(int, record.sample), seen[record.row])
            seen[record.row] += 1
            loss = motion_loss_sum(predicted_rows, target_rows, mask_rows, self.motion.loss_type)
            self._motion_losses[key] = loss.item(), int(mask_rows.sum())
            if not config.has_field:
                self._sums[key] = form_sums(*arrays, record.grid, config.scale, config)
                continue
            predicted, target = (tokens_to_vectors(rows, record.grid, config.scale) for rows in arrays[:2])
            valid = from_tokens(arrays[2], record.grid)[..., 0]
            self._sums[key] = MotionSums.from_fields(predicted, target, valid)
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
        Samples that were left out take no part in any metric, and are counted as `clips_left_out`; `clips_none` had
        no motion. A metric of nothing is absent.
        """
        prefix = kwargs.get("metric_key_prefix", "eval")
        self._sums, self._text_losses, self._motion_losses, self._batch_losses = {}, {}, {}, {}
        self._kinds, self._unread, self._rows, self._held = {}, {}, 0, None
        self._num_samples = len(dataloader.dataset) if has_length(dataloader.dataset) else None
        self._in_loop = True
        try:
            with engine_mistakes(self.args):
                output = super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self._in_loop = False
        metrics = output.metrics
        sums = sum(_gather_dict(self._sums).values(), MotionSums.zero())
        form = base_of(self.model).motion_head.config
        metrics.update({f"{prefix}_{name}": value for name, value in form_metrics(sums, form).items()})
        unread = self._unread = _gather_dict(self._unread)
        kinds = _gather_dict(self._kinds).values()
        text_loss, motion_loss = _mean(self._text_losses), _mean(self._motion_losses)
        if text_loss is not None:
            metrics[f"{prefix}_ce_loss"] = text_loss
        if motion_loss is not None:
            metrics[f"{prefix}_motion_loss"] = motion_loss
        if f"{prefix}_loss" in metrics:
            if not self.motion.control:
                losses = (None if motion_loss is None else self.motion.loss_weight * motion_loss, text_loss)
                measured = [loss for loss in losses if loss is not None]
                loss = sum(measured) if measured else None
            elif unread or not all(count for _, count in _gather_dict(self._batch_losses).values()):
                loss = _mean({number: one for number, one in self._batch_losses.items() if number not in unread})
            else:
                loss = metrics[f"{prefix}_loss"]
            if loss is None:
                del metrics[f"{prefix}_loss"]
            else:
                metrics[f"{prefix}_loss"] = loss
        broken = [key for key, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
        if broken:
            self.motion_logger.warning(f"Not a finite number, and left out: {', '.join(broken)}")
            for key in broken:
                del metrics[key]
        counted = (metric_names(form)["valid_patches"], "model_preparation_time")
        if {key.removeprefix(f"{prefix}_") for key in metrics} <= {*counted}:
            problems = Counter([*unread.values(), *(why for _, why in kinds if why)])
            self.unmeasured[prefix] = _why(problems) or NOTHING
            self.motion_logger.warning(f"The evaluation {prefix!r} measured nothing: {self.unmeasured[prefix]}")
        else:
            self.unmeasured.pop(prefix, None)
        metrics[f"{prefix}_clips_left_out"] = len(unread)
        without = sum(source == "none" for source, _ in kinds)
        if without:
            metrics[f"{prefix}_clips_none"] = without
        return output

    @override
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and draw the first few samples from what that computed: the same ones each time."""
        self._pictured = {}
        metrics = cast(dict[str, float], super().evaluate(*args, **kwargs))
        # with several data sets, the Trainer comes here once for each, and at last with nothing to draw
        pictured, self._pictured, self._measured = _gather_dict(self._pictured), {}, metrics
        if pictured and self.is_world_process_zero():
            prefix, step, sheet = kwargs.get("metric_key_prefix", "eval"), self.state.global_step, draw(pictured)
            save_png(Path(self.args.output_dir, PICTURES_FOLDER, f"{prefix}-{step:06d}.png"), sheet)
            log_picture(self.callback_handler.callbacks, f"{prefix}_motion", sheet, step)
        return metrics

    @override
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict text and motion; dense motion of each video goes to `motion_predictions/` in the output folder."""
        form, folder = base_of(self.model).motion_head.config, Path(self.args.output_dir) / PREDICTIONS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_world_process_zero():
            remove(folder.glob("*.npz"))
        if form.has_field:
            self._predictions_dir = folder
        elif self.is_world_process_zero():
            self.motion_logger.info(f"The motion head predicts {form}: there is no dense motion to write")
        self.accelerator.wait_for_everyone()
        try:
            output = super().predict(*args, **kwargs)
        finally:
            self._predictions_dir = None
        rows = self._num_samples
        predictions, labels = _first(output.predictions, rows), _first(output.label_ids, rows)
        if predictions is not None:  # what was generated without the clip is no prediction
            predictions[[number for number in self._unread if number < len(predictions)]] = IGNORE_INDEX
        return output._replace(predictions=predictions, label_ids=labels)

    @override
    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate while training; a learning rate that follows a metric stays where it was not measured."""
        try:
            return super()._evaluate(*args, **kwargs)
        except KeyError:
            if self._has_best_metric(self._measured):
                raise
            return self._measured

    @override
    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self.args.metric_for_best_model is not None and not self._has_best_metric(metrics):
            self.motion_logger.warning(
                f"metric_for_best_model: {self.args.metric_for_best_model} was not measured at step "
                f"{self.state.global_step}, which cannot be the best one"
            )
            return False
        return bool(super()._determine_best_metric(metrics=metrics, trial=trial))

    def _has_best_metric(self, metrics: dict[str, float]) -> bool:
        name = str(self.args.metric_for_best_model)
        return name in metrics or f"eval_{name}" in metrics

    def _without_duplicates(self, compute_metrics: Any) -> Any:
        # Seq2SeqTrainer gathers with plain `gather`, which keeps the samples that filled the last batch
        if compute_metrics is None:
            return None

        @functools.wraps(compute_metrics, updated=())  # with `batch_eval_metrics` the Trainer looks at its parameters
        def compute(prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
            rows = None if self._num_samples is None else max(self._num_samples - self._rows, 0)
            predictions, labels = _first(prediction.predictions, rows), _first(prediction.label_ids, rows)
            if labels is None:
                return compute_metrics(EvalPrediction(predictions, labels), **kwargs)
            self._rows += len(labels)
            labelled = (labels[:, 1:] != IGNORE_INDEX).any(-1)  # other rows were left out, or cut: nothing to compare
            if labelled.any():
                if self._held is not None:
                    compute_metrics(self._held, compute_result=False)
                self._held = EvalPrediction(predictions[labelled], labels[labelled])
            if self._held is None or not kwargs.get("compute_result", True):
                return {}  # the last batch may have no row, and asks for the result
            held, self._held = self._held, None
            metrics: dict[str, float] = compute_metrics(held, **kwargs)
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


def _has_labels(inputs: dict[str, Any]) -> Tensor:
    return (inputs["labels"][:, 1:] != IGNORE_INDEX).any()


def _or_zero(result: Any, learned: Tensor) -> Any:
    """Put zero, with a graph, in the place of a loss that is the mean over no label; `result` as of `compute_loss`."""
    if isinstance(result, tuple):
        return _or_zero(result[0], learned), *result[1:]
    return torch.where(learned, result, torch.zeros_like(result))


def _take_mean(logs: dict[str, float], name: str, steps: float, learned: float) -> None:
    """Make the mean over all steps one over those that learned; take it out where none did."""
    if name in logs and learned != steps:
        if learned:
            logs[name] *= steps / learned
        else:
            del logs[name]


def _counted(reasons: Counter[str]) -> str:
    return f"{reasons.total()} clips during the run, {len(reasons)} different: {_why(reasons)}"


def _why(reasons: Counter[str]) -> str:
    return "; ".join(f"{reason} ({count}x)" for reason, count in reasons.most_common(5))


def _without_motion(inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key not in MOTION_TENSORS}


def _gather_dict(mine: dict[Any, Any]) -> dict[Any, Any]:
    """Merge the dictionaries of all processes; a key that several have counts once."""
    return {key: value for part in gather_object([mine]) for key, value in part.items()}


def _gather_counts(mine: Counter[str]) -> Counter[str]:
    return sum((Counter(one) for one in gather_object([dict(mine)])), Counter())


def _mean(mine: dict[Any, tuple[float, int]]) -> float | None:
    """Divide the sum of the sums of all processes by that of their counts; None where nothing was counted."""
    sums, numbers = np.array([*_gather_dict(mine).values(), (0.0, 0)], np.float64).sum(0)
    return float(sums / numbers) if numbers else None


def _first_beams(motion: Tensor, records: list[VideoRecord], samples: int, form: HeadForm) -> Tensor:
    """Keep the first of the beams that `generate()` made of each sample: [T * beams, D] to [T, D]."""
    own: Counter[int] = Counter()
    for record in records:
        own[record.row] += form.rows(record.grid)
    total = sum(own.values())
    if total == 0 or motion.shape[0] == total:
        return motion
    beams = motion.shape[0] // total
    rows = motion.split([own[row] for row in range(samples) for _ in range(beams)])
    return torch.cat(rows[::beams])
