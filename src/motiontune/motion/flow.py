"""Motion from the pixels: OpenCV's DIS optical flow between neighbouring sampled frames."""

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction, MotionField


if TYPE_CHECKING:
    from motiontune.clip import Clip


Preset = Literal["ultrafast", "fast", "medium"]
PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

# DIS picks a pyramid that is too high for a frame with a side below 32 px, and then crashes the process (OpenCV 5.0)
MIN_SIDE = 32


def flow_motion(clip: "Clip", grid: VideoGrid, direction: Direction = "past", preset: str = "medium") -> MotionField:
    """Estimate the displacement of each patch between neighbouring sampled frames with DIS optical flow.

    A patch is valid if most of its pixels flow to the other frame and back again, stay inside, and look alike there.

    Args:
        clip: the sampled frames, at any size.
        grid: the patch grid; its frames may outnumber the clip's by a repeated last one, which is invalid.
        direction: "past" or "future".
        preset: DIS's speed, "ultrafast", "fast" or "medium".

    Raises:
        ValueError: if the preset is unknown, or the grid and the clip do not have the same frames.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    times = padded_times(clip, grid)
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    valid = np.zeros(vectors.shape[:3], np.bool_)
    frames = gray_frames(clip, grid)
    for i in range(1, len(frames)):
        if clip.indices[i] == clip.indices[i - 1]:
            continue
        here, there = (frames[i], frames[i - 1]) if direction == "past" else (frames[i - 1], frames[i])
        to_there, back = dis_flow(here, there, preset), dis_flow(there, here, preset)
        good = _consistent(to_there, back)
        flow, good = patch_median(to_there, good, grid)
        good = looks_alike(here, there, flow, good, grid)
        # The flow leads to the other frame. In the past the content came from there: it moved the other way.
        j, sign = (i, -1) if direction == "past" else (i - 1, 1)
        vectors[j], valid[j] = np.where(good[..., None], sign * flow, 0), good
    return MotionField(vectors, valid, times, "flow", direction)


def padded_times(clip: "Clip", grid: VideoGrid) -> NDArray[np.float64]:
    """The times of the grid's frames, float64 [F]: the clip's, the last one repeated for padding.

    Raises:
        ValueError: if the grid has fewer frames than the clip, or more than padding explains.
    """
    extra = grid.frames - len(clip.frames)
    if not 0 <= extra < max(grid.temporal_patch, 2):
        raise ValueError(f"{clip.path}: the grid has {grid.frames} frames, the clip has {len(clip.frames)}")
    return np.concatenate([clip.times, np.repeat(clip.times[-1:], extra)])


def gray_frames(clip: "Clip", grid: VideoGrid) -> list[NDArray[np.uint8]]:
    """The clip's frames as the vision encoder sees them, uint8 [grid.height, grid.width] of brightness."""
    height, width = clip.frames.shape[1:3]
    shrinks = grid.width * grid.height < width * height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]
    if (width, height) != (grid.width, grid.height):
        gray = [cv2.resize(frame, (grid.width, grid.height), interpolation=how) for frame in gray]
    return [np.asarray(frame, np.uint8) for frame in gray]


def dis_flow(here: NDArray[np.uint8], there: NDArray[np.uint8], preset: str) -> NDArray[np.float32]:
    """Where each pixel of one frame lies in another: float32 [height, width, 2], the way from here to there."""
    height, width = here.shape
    below, right = max(0, MIN_SIDE - height), max(0, MIN_SIDE - width)
    if below or right:
        here, there = (
            np.asarray(cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
            for frame in (here, there)
        )
    # a DIS object remembers earlier flows: one object per call
    flow = cv2.DISOpticalFlow.create(PRESETS[preset]).calc(here, there, None)
    flow = np.asarray(flow, np.float32)[:height, :width]
    return np.asarray(np.where(np.isfinite(flow), flow, 0), np.float32)


def _consistent(to_there: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which pixels [H, W] stay inside the frame and come back to where they started."""
    height, width = to_there.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    to_x, to_y = x + to_there[..., 0], y + to_there[..., 1]
    returned = cv2.remap(back, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (to_x >= -0.5) & (to_x <= width - 0.5) & (to_y >= -0.5) & (to_y <= height - 0.5)
    error = np.square(to_there + returned).sum(-1)
    # the usual tolerance (Sundaram et al. 2010): half a pixel squared, and one per cent of the motion squared
    tolerance = 0.01 * (np.square(to_there).sum(-1) + np.square(returned).sum(-1)) + 0.5
    return np.asarray(inside & (error < tolerance), np.bool_)


def patch_median(
    flow: NDArray[np.float32], good: NDArray[np.bool_], grid: VideoGrid
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The median of the good pixels in each patch [R, C, 2], and whether they are the majority [R, C]."""
    rows, cols, patch = grid.rows, grid.cols, grid.patch
    split = flow.reshape(rows, patch, cols, patch, 2).transpose(0, 2, 4, 1, 3).reshape(rows, cols, 2, -1)
    chosen = good.reshape(rows, patch, cols, patch).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    count = chosen.sum(-1)
    ordered = np.sort(np.where(chosen[:, :, None], split, np.float32(np.inf)), axis=-1)
    middle = np.maximum(count - 1, 0)[..., None, None] // 2
    median = np.take_along_axis(ordered, np.broadcast_to(middle, (rows, cols, 2, 1)), axis=-1)[..., 0]
    enough = np.asarray(2 * count >= patch * patch, np.bool_)
    return np.asarray(np.where(enough[..., None], median, 0), np.float32), enough


def looks_alike(
    here: NDArray[np.uint8],
    there: NDArray[np.uint8],
    way: NDArray[np.float32],
    good: NDArray[np.bool_],
    grid: VideoGrid,
) -> NDArray[np.bool_]:
    """Which of the good patches, moved along their way, find themselves in the other frame.

    Args:
        here: uint8 [H, W], the frame that the patches belong to.
        there: uint8 [H, W], the other frame.
        way: float32 [R, C, 2], from here to there in pixels.
        good: bool [R, C], the patches to check.
        grid: the patch grid.

    Returns:
        bool [R, C]; all false where most of the good patches fail, because then the scene has changed, and those
        that pass do so by accident.
    """
    spread = np.repeat(np.repeat(way, grid.patch, axis=0), grid.patch, axis=1)
    y, x = np.mgrid[: grid.height, : grid.width].astype(np.float32)
    moved = cv2.remap(there, x + spread[..., 0], y + spread[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shape = (grid.rows, grid.patch, grid.cols, grid.patch)
    a, b = here.astype(np.float32).reshape(shape), moved.astype(np.float32).reshape(shape)
    difference = np.abs(a - b).mean(axis=(1, 3))
    texture = np.minimum(a.std(axis=(1, 3)), b.std(axis=(1, 3)))
    # In six real clips this refuses 0-8 % of the patches that flow there and back, and 91-100 % across a cut
    alike = good & (difference < 4 + 0.4 * texture)
    if 2 * alike.sum() < good.sum():
        alike[:] = False
    return np.asarray(alike, np.bool_)
