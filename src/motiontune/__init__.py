"""Teach video-language models to see motion: see `motiontune --help`.

The motion of a clip as numpy arrays, without a model:

    from motiontune import motion_of, read_clip
    field = motion_of(read_clip("clip.mp4", with_vectors=True))
    field.vectors, field.valid, field.times  # float32 [F, R, C, 2] in pixels, bool [F, R, C], float64 [F] in seconds

`with_vectors` also reads what the codec stored; without it, or where a codec has no vectors, the motion comes from the
pixels. A trained model answers and predicts motion:

    from motiontune import MotionModel
    prediction = MotionModel.from_pretrained("saves/my_run").predict("clip.mp4", "What happens?")
    prediction.text, prediction.field

Clips, fields and predictions show themselves in a notebook.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from motiontune.evaluation.prediction import MotionPrediction as MotionPrediction
    from motiontune.grid import VideoGrid as VideoGrid
    from motiontune.llamafactory.predictor import MotionModel as MotionModel
    from motiontune.motion.field import MotionField as MotionField
    from motiontune.motion.options import MotionOptions as MotionOptions
    from motiontune.motion.sources import motion_of as motion_of
    from motiontune.video.clip import Clip as Clip
    from motiontune.video.clip import read_clip as read_clip

    __version__: str

# each is loaded when it is first used: LLaMA-Factory alone takes 20 s
_PLACES = {
    "Clip": "video.clip",
    "MotionField": "motion.field",
    "MotionModel": "llamafactory.predictor",
    "MotionOptions": "motion.options",
    "MotionPrediction": "evaluation.prediction",
    "VideoGrid": "grid",
    "motion_of": "motion.sources",
    "read_clip": "video.clip",
}

__all__ = [
    "Clip",
    "MotionField",
    "MotionModel",
    "MotionOptions",
    "MotionPrediction",
    "VideoGrid",
    "__version__",
    "motion_of",
    "read_clip",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        try:
            value = getattr(import_module(f"motiontune.{_PLACES[name]}"), name)
        except ModuleNotFoundError as error:
            if not _PLACES[name].startswith("llamafactory."):
                raise
            from motiontune.errors import INSTALL

            raise ImportError(f"{name} needs {error.name}: {INSTALL}", name=error.name) from error
    elif name == "__version__":
        from importlib.metadata import version

        value = version("motiontune")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # from now on without a detour
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
