"""Frames in gray on the patch grid, and the median over a patch's pixels.

Shapes: F, R, C frames, patch rows and patch columns of the grid, H, W its height and width in pixels.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.video.clip import Clip


def resized(frames: Iterable[NDArray[np.uint8]], grid: VideoGrid) -> list[NDArray[np.uint8]]:
    """Frames uint8 [h, w, ...] at the grid's size, [H, W, ...]."""

    def one(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frame.shape[:2]
        if (width, height) == (grid.width, grid.height):
            return frame
        how = cv2.INTER_AREA if grid.width * grid.height < width * height else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(frame, (grid.width, grid.height), interpolation=how), np.uint8)

    return [one(frame) for frame in frames]


def gray_frames(clip: Clip, grid: VideoGrid) -> list[NDArray[np.uint8]]:
    """The clip's frames as the vision encoder sees them, uint8 [H, W] of brightness."""
    gray = (np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in clip.frames)
    return resized(gray, grid)


def patch_median(
    flow: NDArray[np.float32], good: NDArray[np.bool_], grid: VideoGrid
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The median of the good pixels in each patch, float32 [R, C, 2], zero where there is none, and the share of
    pixels that are good, float32 [R, C].

    Args:
        flow: float32 [H, W, 2].
        good: bool [H, W].
        grid: the patch grid.
    """
    rows, cols, patch = grid.rows, grid.cols, grid.patch
    split = flow.reshape(rows, patch, cols, patch, 2).transpose(0, 2, 4, 1, 3).reshape(rows, cols, 2, -1)
    chosen = good.reshape(rows, patch, cols, patch).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    count = chosen.sum(-1)
    ordered = np.sort(np.where(chosen[:, :, None], split, np.float32(np.inf)), axis=-1)
    middle = np.maximum(count - 1, 0)[..., None, None] // 2
    median = np.take_along_axis(ordered, np.broadcast_to(middle, (rows, cols, 2, 1)), axis=-1)[..., 0]
    share = (count / np.float32(patch * patch)).astype(np.float32)
    return np.asarray(np.where(count[..., None] > 0, median, 0), np.float32), share
