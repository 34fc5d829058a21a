"""What reads clips: for a model as it needs them (a `Reader` of its own), or for no model in particular."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from motiontune.grid import VideoGrid
from motiontune.video.clip import FPS, MAX_FRAMES, MAX_PIXELS, Clip, read_clip
from motiontune.video.vectors import Follower


class Reader(Protocol):
    """Reads clips, and knows where patches lie; for a model it is `motiontune.llamafactory.reader.ModelReader`."""

    def read(self, path: str, with_vectors: bool | Follower) -> Clip:
        """Decode a clip's sampled frames, resized."""

    def grid_of(self, clip: Clip) -> VideoGrid:
        """The patch grid of a clip."""


@dataclass(frozen=True)
class FrameReader:
    """Reads clips for no model in particular: LLaMA-Factory's `video_*` keys, and patches.

    Args:
        fps: sampled frames per second (`video_fps`).
        max_frames: at most so many of them (`video_maxlen`).
        max_pixels: a frame with more pixels is made smaller (`video_max_pixels`).
        patch: side of a patch in pixels.
        merge: patches per video token along each side; sides are rounded to whole tokens.
    """

    fps: float = FPS
    max_frames: int = MAX_FRAMES
    max_pixels: int = MAX_PIXELS
    patch: int = 14
    merge: int = 2

    def read(self, path: str, with_vectors: bool | Follower) -> Clip:
        """Decode a clip's sampled frames, resized."""
        return read_clip(path, self.fps, self.max_frames, self._resize, with_vectors)

    def grid_of(self, clip: Clip) -> VideoGrid:
        """The patch grid of a clip; sides are rounded to whole tokens."""
        frames, height, width = clip.frames.shape[:3]
        return VideoGrid.for_size(frames, height, width, self.patch, self.merge)

    def _resize(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frame.shape[:2]
        if width * height <= self.max_pixels:
            return frame
        factor = (self.max_pixels / (width * height)) ** 0.5
        size = max(int(width * factor), 1), max(int(height * factor), 1)
        return np.asarray(Image.fromarray(frame).resize(size), np.uint8)
