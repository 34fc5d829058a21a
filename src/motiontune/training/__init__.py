"""Training with motion over transformers' `Trainer`, TRL's and others, without LLaMA-Factory: see docs/trainers.md."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from motiontune.training.plain import MotionCollator as MotionCollator
    from motiontune.training.plain import attach_motion as attach_motion
    from motiontune.training.plain import load_motion_model as load_motion_model
    from motiontune.training.plain import motion_inputs as motion_inputs
    from motiontune.training.plain import predict as predict
    from motiontune.training.settings import MotionSettings as MotionSettings
    from motiontune.training.settings import TargetSettings as TargetSettings
    from motiontune.training.trainer import MotionTrainerMixin as MotionTrainerMixin

_PLACES = {
    "MotionCollator": "plain",
    "MotionSettings": "settings",
    "MotionTrainerMixin": "trainer",
    "TargetSettings": "settings",
    "attach_motion": "plain",
    "load_motion_model": "plain",
    "motion_inputs": "plain",
    "predict": "plain",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Load torch and transformers, which takes a while, only for what needs them."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"motiontune.training.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
