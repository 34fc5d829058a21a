"""Other targets than motion: how much each patch's brightness changes between neighbouring sampled frames.

Use it with `motion_source: examples/frame_difference.py:energy`.
"""

import numpy as np

from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.pairs import neighbours, padded_times
from motiontune.motion.patches import gray_frames
from motiontune.video.clip import Clip


def energy(clip: Clip, grid: VideoGrid, direction: Direction) -> MotionField:
    """Two numbers per patch: the mean absolute change of brightness, and the mean change with its sign.

    They take the places of dx and dy. Brightness counts 0 to 255 here; targets are divided by patch * motion_scale, as
    pixels are.
    """
    frames = [frame.astype(np.float32) for frame in gray_frames(clip, grid)]
    values = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    valid = np.zeros(values.shape[:3], np.bool_)
    for here, there in neighbours(clip, direction):
        earlier, later = sorted((here, there))
        change = (frames[later] - frames[earlier]).reshape(grid.rows, grid.patch, grid.cols, grid.patch)
        values[here, ..., 0] = np.abs(change).mean(axis=(1, 3))
        values[here, ..., 1] = change.mean(axis=(1, 3))
        valid[here] = True
    return MotionField(values, valid, padded_times(clip, grid), "frame difference", direction)
