"""Frames in gray on the patch grid, the median over a patch's pixels, and how alike two patches are.

Shapes: F, R, C frames, patch rows and patch columns of the grid, H, W its height and width in pixels.
"""

import functools
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.field import STEP, MotionField
from motiontune.motion.pairs import each_pair
from motiontune.video.clip import Clip


# Levels of brightness, of 255: a difference of this is small where there is no texture
NOISE = 2.0
# Patches whose difference is not below this, and this share of their texture more, have nothing to do with each other.
# In six real clips this refuses 0-8 % of the patches that flow there and back, and 91-100 % across a cut.
DIFFERENT, DIFFERENT_TEXTURE = 4.0, 0.4


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


def looks_alike(
    here: NDArray[np.uint8], there: NDArray[np.uint8], flow: NDArray[np.float32], grid: VideoGrid
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How alike patches are to what lies in the other frame where their flow leads.

    Args:
        here: uint8 [H, W], the frame that the patches belong to.
        there: uint8 [H, W], the other frame.
        flow: float32 [R, C, 2], from here to there in pixels.
        grid: the patch grid.

    Returns:
        float32 [R, C] from 0 to 1, near 1 where the difference is small beside the patch's own texture; and bool
        [R, C], false where the two have nothing to do with each other.
    """
    size = (grid.width, grid.height)
    to = _pixel_grid(*size) + cv2.resize(flow, size, interpolation=cv2.INTER_NEAREST)
    found = cv2.remap(there, to, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = _patch_mean(cv2.absdiff(here, found).astype(np.float32), grid)
    texture = np.minimum(*(_patch_deviation(frame.astype(np.float32), grid) for frame in (here, found)))
    alike = 1 / (1 + np.square(difference / (NOISE + texture)))
    return np.asarray(alike, np.float32), np.asarray(difference < DIFFERENT + DIFFERENT_TEXTURE * texture, np.bool_)


@functools.lru_cache(maxsize=8)
def _pixel_grid(width: int, height: int) -> NDArray[np.float32]:
    """Each pixel's own position, float32 [H, W, 2]."""
    return np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def _patch_mean(values: NDArray[np.float32], grid: VideoGrid) -> NDArray[np.float32]:
    """The mean of pixels [H, W] over each patch, [R, C]."""
    return np.asarray(cv2.resize(values, (grid.cols, grid.rows), interpolation=cv2.INTER_AREA), np.float32)


def _patch_deviation(values: NDArray[np.float32], grid: VideoGrid) -> NDArray[np.float32]:
    """The standard deviation of pixels [H, W] within each patch, [R, C]."""
    variance = _patch_mean(values * values, grid) - np.square(_patch_mean(values, grid))
    return np.sqrt(np.maximum(variance, 0))


def verified(field: MotionField, clip: Clip, grid: VideoGrid, frames: list[NDArray[np.uint8]]) -> MotionField:
    """Multiply a field's confidence by how alike its patches look at both ends of their vectors.

    Where most patches of a pair look like something else, the scene has changed, and those that pass do so by
    accident: none of the pair stays valid.

    Args:
        field: a source's motion.
        clip: the sampled frames.
        grid: the patch grid.
        frames: the clip's frames in gray, see `gray_frames`.

    Returns:
        The same vectors, valid where their confidence is still above 0.
    """
    confidence = field.confidence.copy()
    step = np.float32(STEP[field.direction])

    def compare(here: int, there: int) -> None:
        alike, same = looks_alike(frames[here], frames[there], step * field.vectors[here], grid)
        known = field.valid[here]
        cut = 2 * (same & known).sum() < known.sum()
        confidence[here] *= np.float32(0) if cut else alike

    each_pair(compare, clip, field.direction)
    return MotionField.from_confidence(field.vectors, confidence, field.times, field.source, field.direction)
