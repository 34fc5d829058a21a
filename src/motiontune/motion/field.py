"""The motion of one video on its patch grid."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


Direction = Literal["past", "future"]


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
        source: which source made the vectors: "codec", "flow", "file", or the name of a registered one.
        direction: "past" or "future".

    Raises:
        ValueError: on another shape or dtype, a valid vector that is not finite, or an unknown direction.
    """

    vectors: NDArray[np.float32]
    valid: NDArray[np.bool_]
    times: NDArray[np.float64]
    source: str
    direction: Direction = "past"

    def __post_init__(self) -> None:
        if self.vectors.ndim != 4 or self.vectors.shape[-1] != 2 or self.vectors.dtype != np.float32:
            raise ValueError(
                f"vectors must be float32 [frames, rows, cols, 2], not {self.vectors.dtype} {self.vectors.shape}"
            )
        if self.valid.shape != self.vectors.shape[:-1] or self.valid.dtype != np.bool_:
            raise ValueError(
                f"valid must be bool {self.vectors.shape[:-1]}, not {self.valid.dtype} {self.valid.shape}"
            )
        if self.times.shape != self.vectors.shape[:1]:
            raise ValueError(f"times must be [{self.vectors.shape[0]}], not {self.times.shape}")
        if self.direction not in ("past", "future"):
            raise ValueError(f"direction must be past or future, not {self.direction!r}")
        if not np.isfinite(self.vectors).all():
            raise ValueError("a vector is not finite")
