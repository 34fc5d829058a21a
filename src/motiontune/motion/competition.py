"""Vectors of several sources compete at each patch: the more probable one wins, with its own confidence.

Shapes: R, C patch rows and columns.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.confidence import NEAR, Pair, across_no_cut, exclusive
from motiontune.motion.consensus import smooth
from motiontune.motion.exposure import levelled, of_one_scene
from motiontune.motion.field import STEP, MotionField
from motiontune.motion.flow import flow_of_patches
from motiontune.motion.options import Quality
from motiontune.motion.pairs import each_pair, neighbours
from motiontune.video.clip import Clip


Singles = NDArray[np.float32]
Flags = NDArray[np.bool_]

# Sources that follow motion through the frames between the sampled ones
FOLLOWED = ("codec",)
# Below this, a source's own confidence limits that of its vectors: they may count field lines
DOUBTFUL = 0.3
# Vectors that are more probable than this are what the flow starts from
START = 0.5
# Refinement is finer: it wins unless it is less probable than this share of what it refines
FINER = 0.99
# A pair is open while more than this share of what changes in it has no vector that is rather true than not: before a
# camera that stands still, that is what moves
OPEN = 0.2


@dataclass(frozen=True)
class _Vectors:
    """A vector of each patch.

    Args:
        flow: float32 [R, C, 2], from the frame that the patches belong to, in pixels.
        probable: float32 [R, C], the probability that it is true; 0 where there is none.
        fits: float32 [R, C], the same if nothing repeated.
        own: float32 [R, C], what its source thinks of it, from 0 to 1.
        source: int8 [R, C], the number of its source's name.
    """

    flow: Singles
    probable: Singles
    fits: Singles
    own: Singles
    source: NDArray[np.int8]

    def against(self, other: "_Vectors", wins: Flags) -> "_Vectors":
        """The winner of each patch; one that is near another is no rival of it."""
        rivals = np.sqrt(np.square(self.flow - other.flow).sum(-1)) > NEAR
        winner, loser = np.where(wins, (self.probable, other.probable), (other.probable, self.probable))
        return _Vectors(
            np.where(wins[..., None], self.flow, other.flow),
            np.where(rivals, exclusive(winner, loser), winner),
            np.where(wins, self.fits, other.fits),
            np.where(wins, self.own, other.own),
            np.where(wins, self.source, other.source),
        )


class Competition:
    """Finds the motion of a clip in what sources offer.

    Args:
        first: a source's motion with its own confidence.
        clip: the sampled frames.
        grid: the patch grid.
        frames: the clip's frames in gray, see `gray_frames`.
    """

    def __init__(self, first: MotionField, clip: Clip, grid: VideoGrid, frames: list[NDArray[np.uint8]]) -> None:
        self._clip, self._grid, self._frames = clip, grid, frames
        self._times, self._direction, self._step = first.times, first.direction, np.float32(STEP[first.direction])
        self._pairs = {
            here: Pair(frames[here], frames[there], grid.patch) for here, there in neighbours(clip, first.direction)
        }
        self._best: dict[int, _Vectors] = {}
        self._sources: list[str] = []
        self._refined = ""
        self.add(first)

    def add(self, field: MotionField, wanted: Collection[int] | None = None) -> None:
        """Let a source's vectors compete; of the frames that are wanted, None is all."""
        if field.source not in self._sources:
            self._sources.append(field.source)
        number = np.int8(self._sources.index(field.source))

        def look(here: int, _: int) -> None:
            flow, known, own = self._step * field.vectors[here], field.valid[here], field.confidence[here]
            found = self._pairs[here].compare(flow, own, field.source in FOLLOWED)
            probable = np.where(known, found.probable, np.float32(0))
            vectors = _Vectors(flow, probable, found.fits, own, np.full(known.shape, number))
            best = self._best.get(here)
            self._best[here] = vectors.against(best, probable > best.probable) if best else vectors

        each_pair(look, self._clip, self._direction, wanted)

    def open_frames(self, source: str) -> list[int]:
        """The frames for which a source is worth its time: much of what has changed has no probable vector, and
        nothing says that the scene is another one. A source that has competed finds hardly more of a little, and more
        by chance: for it much of all that a frame shows must be open."""

        def is_open(here: int, there: int) -> bool:
            best, pair = self._best[here], self._pairs[here]
            counted = pair.contrast if source in self._sources else pair.changed
            if (counted * (best.probable <= START)).sum() <= OPEN * counted.sum():
                return False
            everything = np.ones_like(best.fits, np.bool_)
            one_scene = across_no_cut(best.fits, best.fits, everything, pair.contrast).any()
            return bool(one_scene or of_one_scene(self._frames[here], self._frames[there]))

        return [here for here, there in neighbours(self._clip, self._direction) if is_open(here, there)]

    def refine(self, quality: Quality) -> None:
        """Let optical flow compete. It starts from the vectors that are probable, patches without one from their
        neighbours', see `FINER`."""
        level = levelled(self._frames)
        followed = [number for number, source in enumerate(self._sources) if source in FOLLOWED]

        def look(here: int, there: int) -> None:
            best, pair = self._best[here], self._pairs[here]
            flow = flow_of_patches(level[here], level[there], best.flow, best.probable > START, self._grid, quality)
            moved = np.sqrt(np.square(flow - best.flow).sum(-1))
            still_followed = np.isin(best.source, followed) & (best.probable > 0) & (moved < NEAR)
            found = pair.compare(flow, best.own, still_followed)
            finer = _Vectors(flow, found.probable, found.fits, best.own, best.source)
            self._best[here] = finer.against(best, found.probable >= np.float32(FINER) * best.probable)

        each_pair(look, self._clip, self._direction)
        self._refined = "+flow"

    def field(self) -> MotionField:
        """The winners, of a pair of one scene; the field is named after the source that has most of them."""
        vectors = np.zeros((self._grid.frames, self._grid.rows, self._grid.cols, 2), np.float32)
        confidence = np.zeros(vectors.shape[:3], np.float32)
        won = np.zeros(len(self._sources), np.int64)

        def look(here: int, _: int) -> None:
            best = self._best[here]
            everything = np.ones_like(best.probable, np.bool_)
            pair = self._pairs[here]
            probable = pair.unrivalled(best.flow, best.probable)
            confidence[here] = across_no_cut(probable, best.fits, everything, pair.contrast)
            vectors[here] = self._step * smooth(best.flow, confidence[here])

        each_pair(look, self._clip, self._direction)
        for here, best in self._best.items():
            won += np.bincount(best.source[confidence[here] > 0], minlength=len(won))
        source = self._sources[int(won.argmax())] + self._refined
        return MotionField.from_confidence(vectors, confidence, self._times, source, self._direction)


def compared(field: MotionField, clip: Clip, grid: VideoGrid, frames: list[NDArray[np.uint8]]) -> MotionField:
    """Give each vector of one source the probability that it is true, see `confidence.py`.

    Args:
        field: a source's motion with its own confidence.
        clip: the sampled frames.
        grid: the patch grid.
        frames: the clip's frames in gray, see `gray_frames`.
    """
    vectors, confidence = np.zeros_like(field.vectors), np.zeros_like(field.confidence)
    followed = field.source in FOLLOWED
    step = np.float32(STEP[field.direction])

    def compare(here: int, there: int) -> None:
        pair = Pair(frames[here], frames[there], grid.patch)
        known, own = field.valid[here], field.confidence[here]
        found = pair.compare(step * field.vectors[here], own, followed)
        probable = np.where(known, np.minimum(found.probable, own / np.float32(DOUBTFUL)), np.float32(0))
        probable = pair.unrivalled(step * field.vectors[here], probable)
        confidence[here] = across_no_cut(probable, found.fits, known, pair.contrast)
        vectors[here] = smooth(field.vectors[here], confidence[here])

    each_pair(compare, clip, field.direction)
    return MotionField.from_confidence(vectors, confidence, field.times, field.source, field.direction)
