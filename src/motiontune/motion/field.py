"""The motion of one video on its patch grid."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray


if TYPE_CHECKING:
    from PIL.Image import Image


Direction = Literal["past", "future"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
STEP: dict[Direction, int] = {"past": -1, "future": 1}
"""From the frame that vectors belong to, to the other one of its pair; and the sign between flow and displacement.

Flow leads from a frame to the other one. In the future content goes where the flow leads; in the past it came from
there, and moved the other way.
"""

MOVING_PIXELS = 1.0
"""A patch moves if its vector is longer than this: still background would otherwise drown what moves."""


def frames_with_motion(count: int, direction: Direction) -> range:
    """Which of so many frames have another one to move from (all but the first) or to (all but the last)."""
    return range(1, count) if STEP[direction] < 0 else range(count - 1)


@dataclass(frozen=True)
class MotionField:
    """Motion between neighbouring sampled frames, one vector per patch.

    Under `past`, frame i holds how the content at each patch of frame i moved since frame i - 1, and frame 0 is
    invalid. Under `future`, frame i holds how the content at each patch of frame i will have moved by frame i + 1,
    and the last frame is invalid. A repeated frame (padding) is invalid. No vector is invalid, never zero.

    Args:
        vectors: float32 [frames, rows, cols, 2], (dx, dy) in pixels of the resized frame that the vision encoder
            sees. Positive dx is to the right, positive dy is down. Zero where `valid` is false.
        valid: bool [frames, rows, cols].
        times: float64 [frames], seconds from the first frame of the stream.
        source: which source made the vectors: "codec", "blockmatch+flow", "file", or the name of the user's own.
        direction: "past" or "future".
        confidence: float32 [frames, rows, cols], from 0 to 1, of each vector; 0 where there is none. None for a
            source that has no degrees of it: 1 where `valid`.

    Raises:
        ValueError: on another shape or dtype, a vector that is not finite, a confidence outside of 0 to 1, a valid
            vector of confidence 0, or an unknown direction.
    """

    vectors: NDArray[np.float32]
    valid: NDArray[np.bool_]
    times: NDArray[np.float64]
    source: str
    direction: Direction = "past"
    confidence: NDArray[np.float32] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 4 or self.vectors.shape[-1] != 2 or self.vectors.dtype != np.float32:
            raise ValueError(
                f"vectors must be float32 [frames, rows, cols, 2], not {self.vectors.dtype} {self.vectors.shape}"
            )
        if self.valid.shape != self.vectors.shape[:-1] or self.valid.dtype != np.bool_:
            raise ValueError(
                f"valid must be bool {self.vectors.shape[:-1]}, not {self.valid.dtype} {self.valid.shape}"
            )
        if self.times.shape != self.vectors.shape[:1] or self.times.dtype != np.float64:
            raise ValueError(
                f"times must be float64 [{self.vectors.shape[0]}], not {self.times.dtype} {self.times.shape}"
            )
        if self.direction not in STEP:
            raise ValueError(f"direction must be past or future, not {self.direction!r}")
        if not np.isfinite(self.vectors).all():
            raise ValueError("a vector is not finite")
        if cast(Any, self.confidence) is None:
            object.__setattr__(self, "confidence", self.valid.astype(np.float32))
        if self.confidence.shape != self.valid.shape or self.confidence.dtype != np.float32:
            raise ValueError(
                f"confidence must be float32 {self.valid.shape}, not {self.confidence.dtype} {self.confidence.shape}"
            )
        if not ((self.confidence >= 0) & (self.confidence <= 1)).all():
            raise ValueError("a confidence is not between 0 and 1")
        if (self.valid & (self.confidence == 0)).any():
            raise ValueError("a valid vector has confidence 0")

    @classmethod
    def from_confidence(
        cls,
        vectors: NDArray[np.float32],
        confidence: NDArray[np.float32],
        times: NDArray[np.float64],
        source: str,
        direction: Direction = "past",
    ) -> "MotionField":
        """Make a field whose vectors are valid where their confidence is above 0."""
        valid = confidence > 0
        return cls(np.where(valid[..., None], vectors, np.float32(0)), valid, times, source, direction, confidence)

    def above(self, least: float) -> "MotionField":
        """The same motion, with only the vectors valid whose confidence is above `least`."""
        valid = self.valid & (self.confidence > least)
        return replace(self, vectors=np.where(valid[..., None], self.vectors, np.float32(0)), valid=valid)

    def plot(self, frames: NDArray[np.uint8] | None = None, columns: int = 8, patch: int | None = None) -> "Image":
        """Draw the motion: as arrows on frames, or without them in the colours of the optical-flow wheel.

        Args:
            frames: uint8 [frames, height, width, 3], RGB: the clip's. They are resized to whole patches.
            columns: at most so many frames, evenly chosen.
            patch: side of a patch in pixels; None takes what fits the frames best, which is exact where they have the
                grid's size.

        Raises:
            ValueError: if there are not as many frames as in the field.
        """
        from PIL.Image import fromarray  # pictures are for people; reading motion must not wait for them

        from motiontune.drawing.sheets import SheetRow, colour_sheet, contact_sheet

        title, arrays = f"{self.source}, {self.direction}", (self.vectors, self.valid, self.times)
        if frames is None:
            return fromarray(colour_sheet(title, *arrays, columns))
        return fromarray(contact_sheet([SheetRow.of(title, frames, *arrays, patch)], columns))

    @property
    def valid_share(self) -> float:
        """Share of the patches with a vector, 0 to 1, of those of frames that have a neighbour."""
        frames, rows, cols = self.valid.shape
        return float(self.valid.sum() / max((frames - 1) * rows * cols, 1))

    def __repr__(self) -> str:
        frames, rows, cols = self.valid.shape
        size = f"{frames} frames of {rows} x {cols} patches"
        return f"MotionField({size}, {self.source}, {self.direction}, {self.valid_share:.0%} valid)"

    def _repr_png_(self) -> bytes:
        """The motion in the colours of the wheel, for notebooks."""
        from motiontune.drawing.images import encode_image

        return encode_image(np.asarray(self.plot()), ".png")
