"""Motion from the pixels: OpenCV's DIS optical flow between neighbouring sampled frames.

DIS: Kroeger et al. 2016, Fast Optical Flow using Dense Inverse Search.
"""

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.exposure import levelled
from motiontune.motion.field import STEP, Direction, MotionField
from motiontune.motion.options import Quality
from motiontune.motion.pairs import each_pair, padded_times
from motiontune.motion.patches import patch_median
from motiontune.video.clip import Clip


class Search(NamedTuple):
    """How DIS searches, in patches of 8 pixels.

    Args:
        halvings: how often a frame is halved before the last search.
        stride: pixels between those patches.
        steps: steps of gradient descent for each.
        smoothing: steps of its variational refinement.
    """

    halvings: int
    stride: int
    steps: int
    smoothing: int


# `motion_quality`
SEARCHES: dict[Quality, Search] = {
    "fast": Search(1, 6, 5, 0),
    "balanced": Search(1, 5, 8, 0),
    "best": Search(1, 3, 12, 3),
}
# For frames whose shorter side has less than so many pixels: finer searches take motion over edges of small things
SMALL, SEARCH_OF_SMALL = 100, Search(2, 4, 16, 5)

# DIS picks a pyramid that is too high for a frame with a side below 32 px, and then crashes the process (OpenCV 5.0)
MIN_SIDE = 32


def flow_motion(
    clip: Clip,
    grid: VideoGrid,
    direction: Direction,
    frames: list[NDArray[np.uint8]],
    quality: Quality = "balanced",
) -> MotionField:
    """Estimate the displacement of each patch between neighbouring sampled frames with DIS optical flow.

    A patch's confidence is the share of its pixels that flow to the other frame and back again, and stay inside.

    Args:
        clip: the sampled frames, at any size.
        grid: the patch grid; its frames may outnumber the clip's by a repeated last one, which is invalid.
        direction: "past" or "future".
        frames: the clip's frames in gray, see `gray_frames`.
        quality: how much time DIS may take.

    Raises:
        ValueError: if the grid and the clip do not have the same frames.
    """
    times, level = padded_times(clip, grid), levelled(frames)
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    confidence = np.zeros(vectors.shape[:3], np.float32)
    step = np.float32(STEP[direction])

    def look(here: int, there: int) -> None:
        to_there = dis_flow(level[here], level[there], quality)
        back = dis_flow(level[there], level[here], quality)
        flow, confidence[here] = patch_median(to_there, consistent(to_there, back), grid)
        vectors[here] = step * flow

    each_pair(look, clip, direction)
    return MotionField.from_confidence(vectors, confidence, times, "flow", direction)


def flow_of_patches(
    here: NDArray[np.uint8],
    there: NDArray[np.uint8],
    first: NDArray[np.float32],
    known: NDArray[np.bool_],
    grid: VideoGrid,
    quality: Quality,
) -> NDArray[np.float32]:
    """Where each patch of one frame lies in another, from a first guess: float32 [R, C, 2], from here to there.

    Args:
        here: uint8 [H, W].
        there: uint8 [H, W].
        first: float32 [R, C, 2], the guess.
        known: bool [R, C], where there is one; elsewhere it is the neighbours'.
        grid: the patch grid.
        quality: how much time DIS may take.
    """
    start = None
    if known.any():
        size = (grid.width, grid.height)
        start = np.asarray(cv2.resize(filled(first, known), size, interpolation=cv2.INTER_LINEAR), np.float32)
    flow = dis_flow(here, there, quality, start)
    # DIS interpolates between patches of its own: every other pixel has the same median
    step = 2 - grid.patch % 2
    thin = replace(grid, patch=grid.patch // step)
    return patch_median(flow[::step, ::step], np.ones((thin.height, thin.width), np.bool_), thin)[0]


def filled(flow: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
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
    here: NDArray[np.uint8], there: NDArray[np.uint8], quality: Quality, start: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Where each pixel of one frame lies in another: float32 [H, W, 2], from here to there.

    Args:
        here: uint8 [H, W].
        there: uint8 [H, W].
        quality: how much time it may take.
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
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search = SEARCH_OF_SMALL if min(height, width) < SMALL else SEARCHES[quality]
    dis.setFinestScale(search.halvings)
    dis.setPatchStride(search.stride)
    dis.setGradientDescentIterations(search.steps)
    dis.setVariationalRefinementIterations(search.smoothing)
    flow = dis.calc(here, there, None if start is None else start.copy())
    flow = np.asarray(flow, np.float32)[:height, :width]
    finite = np.isfinite(flow)
    return flow if finite.all() else np.asarray(np.where(finite, flow, 0), np.float32)


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
