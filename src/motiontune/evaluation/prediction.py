"""A model's answer and motion of one clip, beside the motion from a source."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from motiontune.drawing.images import data_uri
from motiontune.drawing.panels import Panel, Show, comparison_panels
from motiontune.drawing.sheets import comparison_rows, contact_sheet
from motiontune.errors import MotiontuneError
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.sums import MotionSums
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.video.clip import Clip


@dataclass(frozen=True, eq=False)
class MotionPrediction:
    """What a model answers and predicts for one clip.

    Args:
        text: the answer.
        field: the motion, valid wherever a frame has a neighbour to move from or to; None where the model has no
            head, or one without dense motion.
        target: the motion from a source to compare with; None where it was not asked for or there is none.
        clip: the sampled frames.
        grid: where the patches of these frames lie.
        problem: why there is no target; "" where there is one, or none was asked for.
    """

    text: str
    field: MotionField | None
    target: MotionField | None
    clip: Clip
    grid: VideoGrid
    problem: str = ""

    def comparison(self) -> MotionComparison | None:
        """The motion beside its target, with the patches that count; None where the model has no motion head."""
        if self.field is None:
            return None
        target = self.target
        return MotionComparison(
            predicted=self.field.vectors,
            target=None if target is None else target.vectors,
            valid=self.field.valid if target is None else self.field.valid & target.valid,
            times=self.field.times,
            grid=self.grid,
            path=self.clip.path,
            source="" if target is None else target.source,
            direction=self.field.direction,
        )

    def sums(self) -> MotionSums:
        """Compare with the target where both are valid; the sums over nothing where one is missing."""
        comparison = self.comparison()
        return MotionSums.zero() if comparison is None else comparison.sums()

    def panels(self, show: Show = "arrows", error: bool = False) -> list[Panel]:
        """The motion as pictures for a sheet or a film: target, prediction and where asked for its error.

        Empty where the model has no motion head and no target was asked for.
        """
        one, other = self.field, self.target
        if one is None:
            return [] if other is None else [Panel(f"target: {other.source}", other.vectors, other.valid, show)]
        if other is None:
            return comparison_panels(one.vectors, one.valid, show=show)
        title = f"target: {other.source}"
        arrays = (one.vectors, one.valid, other.vectors, other.valid)
        return comparison_panels(*arrays, target_title=title, show=show, error=error)

    def plot(self, columns: int = 8) -> Image.Image:
        """Draw the motion as arrows on the frames, below the target's where there is one.

        Args:
            columns: at most so many frames, evenly chosen.

        Raises:
            MotiontuneError: if the model predicts no dense motion.
        """
        if self.field is None:
            raise MotiontuneError(f"{self.clip.path}: there is no motion to draw, the model predicts none")
        name, frames, times = Path(self.clip.path).name, self.clip.frames, self.clip.times
        rows = comparison_rows(name, frames, times, self.panels(), self.grid.patch)
        return Image.fromarray(contact_sheet(rows, columns))

    def __repr__(self) -> str:
        parts = [repr(self.text), Path(self.clip.path).name]
        parts += [repr(field) for field in (self.field, self.target) if field is not None]
        return f"MotionPrediction({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """The answer, and the motion below it, for notebooks."""
        text = f"<p>{escape(self.text)}</p>"
        if self.field is None:
            return text
        return f'{text}<img src="{data_uri(np.asarray(self.plot()))}" alt="predicted motion">'
