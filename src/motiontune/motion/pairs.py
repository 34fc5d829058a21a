"""Pairs of neighbouring sampled frames, and the times of all."""

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.field import STEP, Direction, frames_with_motion
from motiontune.threads import threads
from motiontune.video.clip import Clip


# Pairs of frames that are looked at at once, as reading uses two threads, too
THREADS = 2


def neighbours(clip: Clip, direction: Direction) -> list[tuple[int, int]]:
    """The pairs of sampled frames between which things move: (the frame that the vectors belong to, the other one).

    A repeated frame has no pair.
    """
    pairs = [(i, i + STEP[direction]) for i in frames_with_motion(len(clip.frames), direction)]
    return [(i, j) for i, j in pairs if clip.indices[i] != clip.indices[j]]


def each_pair(
    work: Callable[[int, int], None], clip: Clip, direction: Direction, wanted: Collection[int] | None = None
) -> None:
    """Call `work` with each of the `neighbours`, two at a time; of the frames that are wanted, None is all."""
    pairs = [pair for pair in neighbours(clip, direction) if wanted is None or pair[0] in wanted]
    with threads(THREADS) as pool:
        list(pool.map(lambda pair: work(*pair), pairs))


def padded_times(clip: Clip, grid: VideoGrid) -> NDArray[np.float64]:
    """The times of the grid's frames, float64 [F]: the clip's, the last one repeated for padding.

    Raises:
        ValueError: if the grid has fewer frames than the clip, or more than padding explains.
    """
    extra = grid.frames - len(clip.frames)
    if not 0 <= extra < max(grid.temporal_patch, 2):
        raise ValueError(f"{clip.path}: the grid has {grid.frames} frames, the clip has {len(clip.frames)}")
    return np.concatenate([clip.times, np.repeat(clip.times[-1:], extra)])
