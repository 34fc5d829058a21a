"""What the viewer needs of a model. `motiontune.MotionModel` is one; the viewer does not know how it was trained."""

from collections.abc import Iterator
from typing import Protocol

from motiontune.drawing.panels import Panel
from motiontune.evaluation.sums import MotionSums
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.video.clip import Clip


class Prediction(Protocol):
    """What a model answers and predicts for one clip; see `motiontune.MotionPrediction`."""

    @property
    def text(self) -> str:
        """The answer."""

    @property
    def field(self) -> MotionField | None:
        """The predicted motion; None where the model has no head."""

    @property
    def target(self) -> MotionField | None:
        """The motion to compare with; None where there is none."""

    @property
    def problem(self) -> str:
        """Why there is no target; "" where there is one."""

    @property
    def clip(self) -> Clip:
        """The sampled frames."""

    @property
    def grid(self) -> VideoGrid:
        """Where the patches of these frames lie."""

    def sums(self) -> MotionSums:
        """Compare with the target where both are valid."""

    def panels(self, *, error: bool) -> list[Panel]:
        """The motion as pictures beside each other: target, prediction and where asked for its error."""


class Model(Protocol):
    """A model that the page asks."""

    @property
    def name(self) -> str:
        """The folder or hub repository that it was loaded from."""

    @property
    def has_head(self) -> bool:
        """Whether it predicts dense motion; else it gives text alone."""

    def stream(
        self, video: str, prompt: str, *, compare_with: MotionOptions, max_new_tokens: int
    ) -> Iterator[str | Prediction]:
        """Yield the text so far whenever it has grown, and at last the prediction.

        Args:
            video: the clip.
            prompt: the question.
            compare_with: the source to compare with, and its settings.
            max_new_tokens: at most so many tokens of text.
        """
