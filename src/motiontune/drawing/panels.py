"""Motion in several pictures beside each other: what each is called, what it holds and how it is shown."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


Show = Literal["arrows", "colours", "heat", "none"]
"""Arrows; colours of the wheel; heat for the lengths alone; or the bare frame."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One of the pictures that stand side by side, over all frames of a clip.

    Args:
        title: stands above it.
        vectors: float32 [F, R, C, 2], (dx, dy) in pixels of the frame that the patches lie in; None where there is no
            motion, and the frames stand alone.
        valid: bool [F, R, C]; None only where `vectors` is.
        show: how the motion is shown.

    Raises:
        ValueError: if the shapes do not fit each other.
    """

    title: str
    vectors: NDArray[np.float32] | None = None
    valid: NDArray[np.bool_] | None = None
    show: Show = "arrows"

    def __post_init__(self) -> None:
        if self.vectors is None and self.valid is None:
            return
        shapes = [None if array is None else array.shape for array in (self.vectors, self.valid)]
        if self.vectors is None or self.valid is None or self.vectors.shape != (*self.valid.shape, 2):
            raise ValueError(f"vectors must be [F, R, C, 2] and valid [F, R, C], not {shapes[0]} and {shapes[1]}")


def comparison_panels(
    predicted: NDArray[np.float32],
    valid: NDArray[np.bool_],
    target: NDArray[np.float32] | None = None,
    target_valid: NDArray[np.bool_] | None = None,
    *,
    target_title: str = "target",
    show: Show = "arrows",
    error: bool = False,
) -> list[Panel]:
    """The pictures of a prediction: its target before it where there is one, its error behind it where asked for.

    Args:
        predicted: float32 [F, R, C, 2], pixels.
        valid: bool [F, R, C].
        target: the same as `predicted`; None where there is nothing to compare with.
        target_valid: bool [F, R, C]; None where it is the same as `valid`.
        target_title: stands above the target.
        show: how both are shown.
        error: also the error as heat.
    """
    panels = [Panel("predicted", predicted, valid, show)]
    if target is not None:
        target_valid = valid if target_valid is None else target_valid
        panels.insert(0, Panel(target_title, target, target_valid, show))
        if error:
            wrong, both = difference(predicted, valid, target, target_valid)
            panels.append(Panel(f"error, 0 to {long_motion(wrong[both]):.1f} px", wrong, both, "heat"))
    return panels


def difference(
    one: NDArray[np.float32], one_valid: NDArray[np.bool_], other: NDArray[np.float32], other_valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One motion [..., 2] minus another, zero where not both are valid, and where both are [...]."""
    both = one_valid & other_valid
    return np.where(both[..., None], one - other, np.float32(0)), both


def long_motion(vectors: NDArray[np.float32]) -> float:
    """The length of full colour for vectors [n, 2]: their 98th percentile, but at least a pixel."""
    return max(float(np.percentile(np.linalg.norm(vectors, axis=-1), 98)), 1.0) if len(vectors) else 1.0
