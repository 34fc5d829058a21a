"""LLaMA-Factory's SFT trainer with motion."""

from typing import Any

from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

from motiontune.llamafactory.arguments import MotionFinetuningArguments
from motiontune.llamafactory.names import get_logger
from motiontune.training.settings import MotionSettings
from motiontune.training.trainer import MotionTrainerMixin


class MotionTrainer(MotionTrainerMixin, CustomSeq2SeqTrainer):
    r"""Trains on motion + text or motion alone, as LLaMA-Factory's keys ask.

    LLaMA-Factory takes the mean of each micro-batch, which makes a run depend on how its batch is split; the mixin
    does not. With `motion_loss_weight: 0` the loss is left to LLaMA-Factory, so that such a run equals its own bit for
    bit.
    """

    motion_logger = get_logger(__name__)

    def __init__(self, *, finetuning_args: MotionFinetuningArguments, **kwargs: Any) -> None:
        settings = motion_settings(finetuning_args)
        super().__init__(motion=settings, finetuning_args=finetuning_args, **kwargs)


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
