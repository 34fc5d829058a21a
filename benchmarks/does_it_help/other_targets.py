"""Targets that are no motion, two numbers per patch as motion has: does any extra target do?

Each function is a source of motiontune's, `motion_source: other_targets.py:looks`, and has a unit in which the
numbers of rendered clips are about as large as their motion (0.5 px, root of the mean square).
"""

import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction, MotionField
from motiontune.video.clip import Clip


LOOKS, CHANGE = 32.0, 14.0  # grey levels in a unit


def looks(clip: Clip, grid: VideoGrid, direction: Direction) -> MotionField:
    """The mean colour of each patch: blue and red against the mean of all three. No time in it."""
    colours = _means(clip.frames.astype(np.float32), grid)
    return _field(clip, (colours[..., [2, 0]] - colours.mean(-1, keepdims=True)) / LOOKS, direction)


def change(clip: Clip, grid: VideoGrid, direction: Direction) -> MotionField:
    """How much each patch has changed since the frame before, in brightness and colour: where, but not which way."""
    frames = clip.frames.astype(np.float32)
    steps = np.abs(np.diff(frames, axis=0, prepend=frames[:1]))
    grey = np.abs(np.diff(frames.mean(-1), axis=0, prepend=frames[:1].mean(-1)))
    means = _means(np.stack([grey, steps.max(-1)], -1), grid)
    return _field(clip, means / CHANGE, direction)


def order(clip: Clip, grid: VideoGrid, direction: Direction) -> MotionField:
    """The number of a patch's frame, from -0.5 to 0.5, and the same for its pair of frames: when, but not where."""
    at = np.arange(grid.frames, dtype=np.float32)
    pair = at // grid.temporal_patch
    numbers = np.stack([at / at.max() - 0.5, pair / max(pair.max(), 1) - 0.5], -1)
    vectors = np.broadcast_to(numbers[:, None, None], (grid.frames, grid.rows, grid.cols, 2))
    return _field(clip, vectors, direction)


def _means(values: NDArray[np.float32], grid: VideoGrid) -> NDArray[np.float32]:
    """Means over the patches, [F, H, W, n] -> [F, rows, cols, n]."""
    side = grid.patch
    parts = values.reshape(len(values), grid.rows, side, grid.cols, side, -1)
    means: NDArray[np.float32] = parts.mean((2, 4), dtype=np.float32)
    return means


def _field(clip: Clip, vectors: NDArray[np.float32], direction: Direction) -> MotionField:
    """A field that is valid where motion since the previous frame can be: not in the first one."""
    valid = np.ones(vectors.shape[:3], dtype=bool)
    valid[0] = False
    vectors = np.where(valid[..., None], vectors, 0).astype(np.float32)
    return MotionField(vectors, valid, clip.times, "other", direction)
