"""A stream's anchors between two sampled frames, and points followed back through them.

Shapes: A anchors, r x c points of the lattice over the decoded frame, N points that are followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.motion.follow.camera import Floats
from motiontune.motion.follow.references import FILLED, References, Singles
from motiontune.motion.follow.walk import interpolate, walk
from motiontune.video.lattice import QUARTERS
from motiontune.video.vectors import Anchor, Between, Lattice


# The confidence of a velocity that comes from the anchors before and after, of theirs
BRIDGED = 0.85
# A P picture with fewer predicted points than this may be a cut
MIN_INTER = 0.5
# A B picture with fewer vectors than this tells nothing of acceleration
MIN_SEEN = 0.1
# Where vectors to the past may lead to older pictures, those of a B picture go with the motion between its anchors if
# they are off by no more than so many pixels, and this share of that motion: to both sides, and to one
SAME, SAME_SHARE, STEADY_SHARE = 1.0, 0.05, 0.25
# Of so many pictures after a key frame one has several references, or none of the stream has
FIRST_ANCHORS = 4


@dataclass
class _Step:
    """An anchor, and how the content moved since the one before it.

    Args:
        anchor: the picture.
        chosen: int8 [r, c], which of the picture's candidates the vector leads to; -1 where there is no vector.
        velocities: float32 [r, c, 2], the content's motion since the anchor before, in decoded pixels per second.
        confidence: float32 [r, c], from 0 (unknown) to 1.
        bend: float32 [r, c, 2]: times part * (1 - part), how far the content was, in that part of the time since the
            anchor before, from where it would have been had it moved steadily; decoded pixels. None where not known.
        known: whether this comes from vectors.
        settled: whether nothing of this will change.
    """

    anchor: Anchor
    chosen: NDArray[np.int8]
    velocities: Singles
    confidence: Singles
    bend: Singles | None = None
    known: bool = True
    settled: bool = True


class Track:
    """The motion between a stream's anchors, as far as it is needed to follow points from one sampled frame to the one
    before.

    Args:
        lattice: the points of the vectors.
    """

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice
        self._references = References(lattice)
        self._first: list[Anchor] | None = []  # until there are enough to see whether vectors are ambiguous
        self._steps: list[_Step] = []

    def add(self, anchor: Anchor) -> None:
        """Take the next anchor."""
        self._references.ambiguous |= len(anchor.candidates) > 1
        if self._first is None:
            self._follow(anchor)
            return
        self._first.append(anchor)
        if len(self._first) == FIRST_ANCHORS:
            self._follow_first()

    def end(self) -> None:
        """There are no more anchors."""
        self._follow_first()
        if self._steps and not self._steps[-1].settled:
            self._bridge(len(self._steps) - 1)

    def reaches(self, time: float) -> bool:
        """Whether points that are there at this time can be followed back."""
        return any(step.anchor.time >= time and step.settled for step in self._steps[-2:])

    def forget(self, time: float) -> None:
        """Drop the anchors that no point will come to that is followed back to this time or a later one."""
        start = self._start(time)
        del self._steps[:start]

    def _start(self, time: float) -> int:
        """The number of the last step that is not after a time."""
        later = [step.anchor.time > time for step in self._steps]
        return max(later.index(True) if True in later else len(later), 1) - 1

    def _follow_first(self) -> None:
        first, self._first = self._first or [], None
        for anchor in first:
            self._follow(anchor)

    def _follow(self, anchor: Anchor) -> None:
        step = _Step(anchor, *self._references.add(anchor))
        if anchor.between is not None and self._steps:
            self._look_between(step, self._steps[-1].anchor.time, anchor.between, self._references.ambiguous)
        step.known = step.settled = bool(step.confidence.any())
        self._steps.append(step)
        if len(self._steps) > 1 and not self._steps[-2].settled:
            self._bridge(len(self._steps) - 2)

    @staticmethod
    def _look_between(step: _Step, before: float, between: Between, ambiguous: bool) -> None:
        """Find from a B picture how the content moved between the anchors on its sides, if the later one has no
        vectors, and how far from steadily.

        Args:
            step: the later anchor's.
            before: when the earlier one was shown.
            between: the B picture.
            ambiguous: whether its vectors to the past may lead to an older picture than the earlier anchor. Those to
                the future have no choice: nothing that is shown after the later anchor is decoded by then.
        """
        shifts, inter = between.shifts / float(QUARTERS), between.inter
        span = np.float64(step.anchor.time - before)  # not Python's, which would leave products in float32
        part = (between.time - before) / span
        both = np.asarray(inter.all(axis=0), np.bool_)
        predicted = step.confidence > 0
        told = bool(predicted.any())
        sound = inter
        if ambiguous:
            # However unsteadily the content moved, vectors to both anchors differ by its motion between these. Where a
            # key frame does not tell this, or there is a vector to the past only, it must have moved about steadily.
            moved = step.velocities * span if told else shifts[1] / (1 - part)
            same, steady = (SAME + share * np.linalg.norm(moved, axis=-1) for share in (SAME_SHARE, STEADY_SHARE))
            off = np.linalg.norm(shifts[1] - shifts[0] - moved, axis=-1)
            both &= (predicted & (off < same)) if told else (off * (1 - part) < steady)
            alone = inter[0] & predicted & (np.linalg.norm(shifts[0] + part * moved, axis=-1) < steady)
            sound = np.stack([both | alone, inter[1]])
        if not told and both.mean() >= MIN_INTER:
            velocity, near = _from_neighbours((shifts[1] - shifts[0]) / span, both)
            step.velocities = np.where((both | near)[..., None], velocity, 0).astype(np.float32)
            step.confidence = np.where(both, 1.0, np.where(near, FILLED, 0.0)).astype(np.float32)
        # vectors to both sides need nothing else; where these are rare, the anchor's own motion takes one's place
        seen = sound & (both if both.mean() >= MIN_SEEN else step.confidence > 0)
        if seen.any(axis=0).mean() >= MIN_SEEN:
            displacement = step.velocities * span
            weights = [side[..., None] * share for side, share in zip(seen, (1 - part, part), strict=True)]
            bend = weights[0] * (-shifts[0] - part * displacement)
            bend = bend + weights[1] * ((1 - part) * displacement - shifts[1])
            weight = weights[0] + weights[1]
            known = weight[..., 0] > 0
            bend = bend / np.where(weight > 0, weight, 1) / (part * (1 - part))
            median = np.median(np.ascontiguousarray(bend[known].T), axis=1)  # four times as fast as of rows
            bend = np.where(weight > 0, bend, median).astype(np.float32)
            step.bend = np.asarray(np.dstack([cv2.medianBlur(side, 5) for side in cv2.split(bend)]), np.float32)

    def _bridge(self, k: int) -> None:
        """Give an anchor without vectors the mean of the velocities of the one before it and the one after it."""
        step, around = self._steps[k], self._steps[max(k - 1, 0) : k + 2]
        sides = [side for side in around if side.known and side.anchor.inter.mean() >= MIN_INTER]
        if sides:
            confidence = np.stack([side.confidence for side in sides])
            weight = confidence[..., None]
            velocities = np.stack([side.velocities for side in sides])
            step.velocities = (velocities * weight).sum(0) / np.maximum(weight.sum(0), 1e-9)
            step.confidence = BRIDGED * confidence.max(0)
        step.settled = True

    def back(self, points: Floats, start: float, end: float) -> tuple[Floats, Floats]:
        """Follow points back in time.

        Args:
            points: float64 [N, 2], decoded pixels.
            start: when they are there, in seconds.
            end: the time to go to, before it.

        Returns:
            float64 [N, 2], where they were at `end`, and float64 [N], their confidence; 0 where it is not known.
        """
        steps = self._steps[self._start(end) :]
        steps = steps[: 1 + sum(step.anchor.time < start for step in steps)]
        if not steps or steps[-1].anchor.time < start:
            return points.copy(), np.zeros(len(points))
        candidates = np.full((len(steps), max(len(step.anchor.candidates) for step in steps)), np.nan)
        for row, step in zip(candidates, steps, strict=True):
            row[: len(step.anchor.candidates)] = step.anchor.candidates
        ends, confidence = walk(
            points - self._bent(points, start, steps),
            start,
            end,
            np.array([step.anchor.time for step in steps]),
            candidates,
            np.stack([step.chosen for step in steps]),
            np.stack([step.anchor.shifts for step in steps]),
            np.stack([step.velocities for step in steps]),
            np.stack([step.confidence for step in steps]),
            (self._lattice.width, self._lattice.height),
            self._lattice.spacing,
        )
        return ends + self._bent(ends, end, steps), confidence

    def _bent(self, points: Floats, time: float, steps: Sequence[_Step]) -> Floats:
        """How far points [N, 2] are from where they would be had they moved steadily between anchors, [N, 2]."""
        k = sum(step.anchor.time < time for step in steps)
        bend = steps[k].bend if 0 < k < len(steps) else None
        if bend is None or steps[k].anchor.time == time:
            return np.zeros_like(points)
        before, after = steps[k - 1].anchor.time, steps[k].anchor.time
        part = (time - before) / (after - before)
        everywhere = np.ones(self._lattice.shape, np.float32)
        found = interpolate(bend, everywhere, points / self._lattice.spacing - 0.5)
        return np.asarray(part * (1 - part) * found, np.float64)


def _from_neighbours(
    velocity: NDArray[np.float64], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fill holes with the mean of at least three neighbours: velocity [r, c, 2], and which [r, c] were filled."""
    weight = known.astype(np.float64)
    sums = cv2.boxFilter(np.dstack([velocity * weight[..., None], weight]), -1, (3, 3), normalize=False)
    near = ~known & (sums[..., 2] > 2.5)
    filled = velocity.copy()
    filled[near] = sums[near][:, :2] / sums[near][:, 2:]
    return filled, near
