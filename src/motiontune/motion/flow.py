"""Motion from the pixels: OpenCV's DIS optical flow between neighbouring sampled frames, alone or as a refinement."""

from collections.abc import Collection
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.confidence import NEAR, Pair, across_no_cut, exclusive
from motiontune.motion.exposure import levelled
from motiontune.motion.field import STEP, Direction, MotionField
from motiontune.motion.pairs import each_pair, padded_times
from motiontune.motion.patches import patch_median
from motiontune.video.clip import Clip


PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

# DIS picks a pyramid that is too high for a frame with a side below 32 px, and then crashes the process (OpenCV 5.0)
MIN_SIDE = 32

# Sources that follow motion through the frames between the sampled ones
FOLLOWED = ("codec",)
# Below this, a source's own confidence limits that of its vectors: they may count field lines
DOUBTFUL = 0.3
# Vectors that are as probable as this are what the flow starts from
START = 0.5
# Refinement that moves a vector further than this found another place (pixels of the resized frame)
MOVED = 1.0


def flow_motion(
    clip: Clip,
    grid: VideoGrid,
    direction: Direction,
    frames: list[NDArray[np.uint8]],
    preset: str = "medium",
) -> MotionField:
    """Estimate the displacement of each patch between neighbouring sampled frames with DIS optical flow.

    A patch's confidence is the share of its pixels that flow to the other frame and back again, and stay inside.

    Args:
        clip: the sampled frames, at any size.
        grid: the patch grid; its frames may outnumber the clip's by a repeated last one, which is invalid.
        direction: "past" or "future".
        frames: the clip's frames in gray, see `gray_frames`.
        preset: DIS's speed, "ultrafast", "fast" or "medium".

    Raises:
        ValueError: if the preset is unknown, or the grid and the clip do not have the same frames.
    """
    _check(preset)
    times, level = padded_times(clip, grid), levelled(frames)
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    confidence = np.zeros(vectors.shape[:3], np.float32)
    step = np.float32(STEP[direction])

    def look(here: int, there: int) -> None:
        to_there = dis_flow(level[here], level[there], preset)
        back = dis_flow(level[there], level[here], preset)
        flow, confidence[here] = patch_median(to_there, consistent(to_there, back), grid)
        vectors[here] = step * flow

    each_pair(look, clip, direction)
    return MotionField.from_confidence(vectors, confidence, times, "flow", direction)


def compared(field: MotionField, clip: Clip, grid: VideoGrid, frames: list[NDArray[np.uint8]]) -> MotionField:
    """Give each vector of a source the probability that it is true, see `confidence.py`.

    Args:
        field: a source's motion with its own confidence.
        clip: the sampled frames.
        grid: the patch grid.
        frames: the clip's frames in gray, see `gray_frames`.
    """
    confidence, followed = np.zeros_like(field.confidence), field.source in FOLLOWED
    step = np.float32(STEP[field.direction])

    def compare(here: int, there: int) -> None:
        pair = Pair(frames[here], frames[there], grid.patch)
        known, own = field.valid[here], field.confidence[here]
        found = pair.compare(step * field.vectors[here], own, followed)
        probable = np.where(known, np.minimum(found.probable, own / np.float32(DOUBTFUL)), np.float32(0))
        confidence[here] = across_no_cut(probable, found.fits, known, pair.contrast)

    each_pair(compare, clip, field.direction)
    return MotionField.from_confidence(field.vectors, confidence, field.times, field.source, field.direction)


def refined(
    field: MotionField,
    clip: Clip,
    grid: VideoGrid,
    frames: list[NDArray[np.uint8]],
    preset: str = "medium",
    wanted: Collection[int] | None = None,
) -> MotionField:
    """Improve another source's motion by DIS flow that starts from it.

    The flow starts from the vectors that are probable; patches without one start from their neighbours'. At each patch
    the first vector and the refined one compete, and the winner brings its own confidence: where they lie apart, the
    more probable one; else the refined one, which is finer.

    Args:
        field: another source's motion with its own confidence.
        clip: the sampled frames.
        grid: the patch grid.
        frames: the clip's frames in gray, see `gray_frames`.
        preset: DIS's speed, "ultrafast", "fast" or "medium".
        wanted: the frames whose motion is to be refined, the others' is invalid; None is all.

    Raises:
        ValueError: if the preset is unknown.
    """
    _check(preset)
    vectors, confidence = field.vectors.copy(), np.zeros_like(field.confidence)
    step, level, followed = np.float32(STEP[field.direction]), levelled(frames), field.source in FOLLOWED
    step_in = 2 - grid.patch % 2
    thin = replace(grid, patch=grid.patch // step_in)
    everywhere = np.ones((thin.height, thin.width), np.bool_)

    def refine(here: int, there: int) -> None:
        pair = Pair(frames[here], frames[there], grid.patch)
        start, known, own = None, field.valid[here], field.confidence[here]
        first = step * field.vectors[here]
        coarse = pair.compare(first, own, followed)
        probable = np.where(known, coarse.probable, np.float32(0))
        if (probable > START).any():
            whole = _filled(first, probable > START)
            size = (grid.width, grid.height)
            start = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_LINEAR), np.float32)
        flow = dis_flow(level[here], level[there], preset, start)
        # DIS interpolates between patches of its own: every other pixel has the same median
        finer = patch_median(flow[::step_in, ::step_in], everywhere, thin)[0]
        moved = np.sqrt(np.square(finer - first).sum(-1))
        fine = pair.compare(finer, own, followed & known & (moved < NEAR))
        kept = known & (moved > MOVED) & (probable > fine.probable)
        vectors[here] = step * np.where(kept[..., None], first, finer)
        winner, loser = np.where(kept, (probable, fine.probable), (fine.probable, probable))
        winner = np.where(moved > NEAR, exclusive(winner, loser), winner)
        confidence[here] = across_no_cut(
            winner, np.where(kept, coarse.fits, fine.fits), np.ones_like(known), pair.contrast
        )

    each_pair(refine, clip, field.direction, wanted)
    return MotionField.from_confidence(vectors, confidence, field.times, f"{field.source}+flow", field.direction)


def _check(preset: str) -> None:
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")


def _filled(flow: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give patches without a vector the mean of their neighbours', from the border of the hole to its middle."""
    flow, known = flow.copy(), valid.copy()
    while not known.all():
        weight = known.astype(np.float32)
        sums = cv2.boxFilter(flow * weight[..., None], -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
        count = cv2.boxFilter(weight, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
        reached = ~known & (count > 0)
        flow[reached] = sums[reached] / count[reached][:, None]
        known |= reached
    return flow


def dis_flow(
    here: NDArray[np.uint8], there: NDArray[np.uint8], preset: str, start: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Where each pixel of one frame lies in another: float32 [H, W, 2], from here to there.

    Args:
        here: uint8 [H, W].
        there: uint8 [H, W].
        preset: "ultrafast", "fast" or "medium".
        start: float32 [H, W, 2], a first guess.
    """
    height, width = here.shape
    below, right = max(0, MIN_SIDE - height), max(0, MIN_SIDE - width)
    if below or right:
        here, there = (
            np.asarray(cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
            for frame in (here, there)
        )
        if start is not None:
            start = np.asarray(cv2.copyMakeBorder(start, 0, below, 0, right, cv2.BORDER_REPLICATE), np.float32)
    # a DIS object remembers earlier flows: one object per call
    flow = cv2.DISOpticalFlow.create(PRESETS[preset]).calc(here, there, None if start is None else start.copy())
    flow = np.asarray(flow, np.float32)[:height, :width]
    return np.asarray(np.where(np.isfinite(flow), flow, 0), np.float32)


def consistent(to_there: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.bool_]:
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
