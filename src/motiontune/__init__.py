"""Teach video-language models to see motion: see `motiontune --help`, or `MotionModel` for notebooks."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from motiontune.llamafactory.predictor import MotionModel as MotionModel
    from motiontune.llamafactory.predictor import MotionPrediction as MotionPrediction

__all__ = ["MotionModel", "MotionPrediction"]


def __getattr__(name: str) -> Any:
    """Load LLaMA-Factory, which takes a while, only for what needs it."""
    if name in __all__:
        from motiontune.llamafactory import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
