"""LLaMA-Factory's SFT trainer with motion."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from typing_extensions import override

from motiontune.files import write_text
from motiontune.llamafactory.arguments import MotionFinetuningArguments
from motiontune.llamafactory.names import get_logger
from motiontune.runs.folder import TEXTS
from motiontune.training.settings import MotionSettings
from motiontune.training.trainer import MotionTrainerMixin


class MotionTrainer(MotionTrainerMixin, CustomSeq2SeqTrainer):
    r"""Trains on motion + text or motion alone, as LLaMA-Factory's keys ask.

    LLaMA-Factory takes the mean of each micro-batch, which makes a run depend on how its batch is split; the mixin
    does not. With `motion_loss_weight: 0` the loss is left to LLaMA-Factory, so that such a run equals its own bit for
    bit.
    """

    motion_logger = get_logger(__name__)

    def __init__(
        self, *, finetuning_args: MotionFinetuningArguments, fold_video_tokens: bool = True, **kwargs: Any
    ) -> None:
        settings = motion_settings(finetuning_args)
        super().__init__(motion=settings, finetuning_args=finetuning_args, **kwargs)
        self._folds = fold_video_tokens
        self._given_gen_kwargs: dict[str, Any] = dict(kwargs.get("gen_kwargs") or {})

    @override
    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Evaluate, and generate as the keys ask.

        transformers 5.6 forgets the arguments of `generate()` in evaluations while training, and in those of each of
        several data sets; LLaMA-Factory pads on the left, where the text goes on, only once training is over.
        """
        generates = getattr(self.args, "predict_with_generate", False)
        side = self.processing_class.padding_side
        if generates:
            kwargs = self._given_gen_kwargs | kwargs
            self.processing_class.padding_side = "left"
        try:
            return super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self.processing_class.padding_side = side

    @override
    def save_predictions(self, *args: Any, **kwargs: Any) -> None:
        """Write the predicted text; in the prompts, a run of video tokens once with its number where the keys ask."""
        super().save_predictions(*args, **kwargs)
        if self._folds and self.is_world_process_zero():
            file = Path(self.args.output_dir, TEXTS)
            rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
            folded = [row | {"prompt": _RUN.sub(_folded, row["prompt"])} for row in rows]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in folded)
            write_text(file, text, listed=False)  # in the place of what LLaMA-Factory has just written

    def predict_each(
        self,
        datasets: dict[str, Any],
        skip_special_tokens: bool,
        counts: Mapping[str, Mapping[str, int]],
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """Predict several data sets, each into a folder of its own: `predict_NAME/` in the output folder.

        Args:
            datasets: by their names.
            skip_special_tokens: leave special tokens out of the predicted text.
            counts: for each data set further metrics, without a prefix.
            gen_kwargs: arguments of `generate()`.

        Returns:
            All metrics, which begin with `predict_NAME_`. In the folders' own `predict_results.json` they begin with
            `predict_`.
        """
        metrics: dict[str, float] = {}
        output = self.args.output_dir
        for name, dataset in datasets.items():
            prefix = f"predict_{name}"
            self.args.output_dir = os.path.join(output, prefix.replace(os.sep, "_"))
            try:
                results = self.predict(dataset, metric_key_prefix=prefix, **gen_kwargs)
                results.metrics.update({f"{prefix}_{key}": value for key, value in counts.get(name, {}).items()})
                own = {key.replace(prefix, "predict", 1): value for key, value in results.metrics.items()}
                self.save_metrics("predict", own, combined=False)
                self.save_predictions(dataset, results, skip_special_tokens)
            finally:
                self.args.output_dir = output
            metrics |= results.metrics
        return metrics


_RUN = re.compile(r"(<\|(?:video|image)_pad\|>)\1+")


def _folded(run: re.Match[str]) -> str:
    return f"{run[1]} x {len(run[0]) // len(run[1])}"


def motion_settings(finetuning_args: MotionFinetuningArguments) -> MotionSettings:
    """Gather what the trainer needs of the keys."""
    return MotionSettings(
        loss_weight=finetuning_args.motion_loss_weight,
        loss_type=finetuning_args.motion_loss_type,
        gradient=finetuning_args.motion_gradient,
        with_text=not finetuning_args.use_only_motionvector_loss,
        head_learning_rate=finetuning_args.motion_head_learning_rate,
        control=finetuning_args.motion_loss_weight == 0 and finetuning_args.use_motion_loss,
    )
