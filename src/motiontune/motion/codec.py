"""Motion from the bitstream: the vectors that the encoder chose, followed from one sampled frame to the next.

An encoder describes a P picture by blocks of earlier ones. Between two sampled frames lie several such pictures, the
anchors (I and P). A point is walked from the later frame to the earlier one, from each anchor to the picture that the
block there refers to. B pictures are passed over: their own vectors make the walk worse than interpolation between
anchors does.

FFmpeg does not export which of several reference pictures a vector points to. The slice headers list those there are
(`h264.py`), and `follow` chooses the one under which a block moves as the camera, its neighbours and the content
before do.

Shapes: A anchors, r x c points of the lattice, F, R, C frames, patch rows and patch columns.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.consensus import agree, per_patch
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.follow.references import FILLED, follow
from motiontune.motion.follow.walk import interpolate, walk
from motiontune.motion.pairs import each_pair, padded_times
from motiontune.video.clip import Clip
from motiontune.video.container import open_video, packets_of
from motiontune.video.h264 import ReferenceTracker
from motiontune.video.lattice import QUARTERS
from motiontune.video.vectors import CodecMotion, has_vectors


# The confidence of a velocity that comes from the anchors before and after, of theirs
BRIDGED = 0.85
# A P picture with fewer predicted points than this may be a cut
MIN_INTER = 0.5
# A B picture with fewer vectors than this tells nothing of acceleration
MIN_SEEN = 0.1
# Packets whose headers are looked at to foretell whether vectors will be usable
PEEK = 60


def codec_motion(clip: Clip, grid: VideoGrid, direction: Direction = "past") -> MotionField:
    """The displacement of each patch between neighbouring sampled frames, from the codec's vectors.

    A vector's confidence is that of its points, the product of their steps', less where they disagree.

    Args:
        clip: the sampled frames, read with `with_vectors=True`.
        grid: the patch grid; its frames may outnumber the clip's by a repeated last one, which is invalid.
        direction: "past" or "future".

    Raises:
        MotionUnavailable: if the bitstream has no vectors, or it is not known which frames they refer to.
        ValueError: if the grid and the clip do not have the same frames.
    """
    motion = _usable(clip)
    times = padded_times(clip, grid)
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    confidence = np.zeros(vectors.shape[:3], np.float32)
    track = Track(motion)
    points = _points(grid, motion)
    to_grid = np.array([grid.width / motion.width, grid.height / motion.height])

    def follow_pair(here: int, there: int) -> None:
        later, earlier = max(here, there), min(here, there)  # points can be followed back only
        ends, of_points = track.back(points.reshape(-1, 2), float(clip.times[later]), float(clip.times[earlier]))
        displacements = (points.reshape(-1, 2) - ends) * to_grid  # since the earlier frame
        if here == later:
            found = per_patch(displacements.reshape(points.shape), of_points.reshape(points.shape[:-1]))
        else:
            found = _at_start(ends * to_grid, displacements, of_points, grid)
        vectors[here], confidence[here] = agree(*found)

    each_pair(follow_pair, clip, direction)
    return MotionField.from_confidence(vectors, confidence, times, "codec", direction)


def codec_unusable(path: str) -> str | None:
    """Why a file's vectors cannot be used, from its headers and first packets, or None.

    Raises:
        ClipError: if the file cannot be read.
    """
    with open_video(path) as (container, stream):
        codec = str(stream.codec_context.codec.canonical_name)
        if not has_vectors(codec):
            return _no_vectors(codec)
        if codec != "h264":
            return None
        tracker = ReferenceTracker(stream.codec_context.extradata)
        pictures = predicted = unknown = interlaced = 0
        for number, packet in enumerate(packets_of(container, stream)):
            if number >= PEEK:
                break
            picture = tracker.add(bytes(packet), number) if packet.size else None
            if picture is None:
                continue
            interlaced += picture.interlaced
            predicted += picture.kind == "P"
            unknown += picture.kind == "P" and not picture.candidates
            pictures += 1
    if 2 * interlaced > pictures:
        return INTERLACED
    if pictures > 1 and not predicted:
        return _keys_only(codec)
    return UNKNOWN if 2 * unknown > predicted or not pictures else None


INTERLACED = "interlaced video: its vectors may count field lines"
UNKNOWN = "the headers do not say which pictures the vectors refer to (damaged, or long-term references)"


def _no_vectors(codec: str) -> str:
    return f"{codec} has no exported vectors"


def _keys_only(codec: str) -> str:
    return f"this {codec} stream has key frames only"


def _usable(clip: Clip) -> CodecMotion:
    """The clip's vectors.

    Raises:
        MotionUnavailable: if there are none, or too few of them can be understood.
    """
    motion, codec = clip.codec_motion, clip.info.codec
    reason = None
    if motion is None:
        reason = _no_vectors(codec) if not has_vectors(codec) else "read_clip was not asked for vectors"
    elif len(clip.frames) > 1:
        reason = _not_understood(motion, clip.times)
    if reason is not None or motion is None:
        raise MotionUnavailable(f"{clip.path}: {reason}; use motion_source: auto or flow")
    return motion


def _not_understood(motion: CodecMotion, times: NDArray[np.float64]) -> str | None:
    """Why the vectors of a clip with frames at these times are too few, or None."""
    if motion.key.all():
        return _keys_only(motion.codec)
    unknown = ~motion.key & np.isnan(motion.candidates).all(-1)
    unknown[:1] = False  # its vectors lead to before the first frame
    pairs = np.unique(np.searchsorted(times, motion.times[unknown]))
    if 2 * len(pairs) > len(times) - 1:
        return UNKNOWN
    if motion.inter.any():
        return None
    return UNKNOWN if unknown.any() else _no_vectors(f"this {motion.codec} stream")


class Track:
    """The motion between a stream's anchors, ready to follow points through.

    Attributes:
        chosen: int8 [A, r, c], which of the picture's candidates the vector leads to; -1 where there is no vector.
        velocities: float32 [A, r, c, 2], the content's motion since the anchor before, in decoded pixels per second.
        confidence: float32 [A, r, c], from 0 (unknown) to 1.
        bends: of some anchors, float32 [r, c, 2]: times part * (1 - part), how far the content was, in that part of
            the time since the anchor before, from where it would have been had it moved steadily; decoded pixels.
    """

    def __init__(self, motion: CodecMotion) -> None:
        self.motion = motion
        self.chosen, self.velocities, self.confidence = follow(
            motion.shifts,
            motion.inter,
            motion.times,
            motion.key,
            motion.confidence,
            motion.candidates,
            (motion.width, motion.height),
            motion.spacing,
            motion.rate,
        )
        self.bends: dict[int, NDArray[np.float32]] = {}
        for time, shifts, inter in zip(motion.between_times, motion.between_shifts, motion.between_inter, strict=True):
            self._look_between(time, shifts / float(QUARTERS), inter)
        self._bridge()

    def _look_between(self, time: float, shifts: NDArray[np.float64], inter: NDArray[np.bool_]) -> None:
        """Find from a B picture how the content moved between the anchors on its sides, if the later one has no
        vectors, and how far from steadily.

        Args:
            time: when it was shown.
            shifts: float64 [2, r, c, 2], from its points to the anchor before and to the one after.
            inter: bool [2, r, c], where it has these vectors.
        """
        times = self.motion.times
        k = int(np.searchsorted(times, time))
        if not 0 < k < len(times) or times[k] == time:
            return
        span = times[k] - times[k - 1]
        part = (time - times[k - 1]) / span
        both = np.asarray(inter.all(axis=0), np.bool_)
        if not self.confidence[k].any() and both.mean() >= MIN_INTER:
            velocity, near = _from_neighbours((shifts[1] - shifts[0]) / span, both)
            self.velocities[k] = np.where((both | near)[..., None], velocity, 0)
            self.confidence[k] = np.where(both, 1.0, np.where(near, FILLED, 0.0))
        # vectors to both sides need nothing else; where these are rare, the anchor's own motion takes one's place
        seen = inter & (both if both.mean() >= MIN_SEEN else self.confidence[k] > 0)
        if seen.any(axis=0).mean() >= MIN_SEEN:
            displacement = self.velocities[k] * span
            weights = [side[..., None] * share for side, share in zip(seen, (1 - part, part), strict=True)]
            bend = weights[0] * (-shifts[0] - part * displacement)
            bend = bend + weights[1] * ((1 - part) * displacement - shifts[1])
            weight = weights[0] + weights[1]
            known = weight[..., 0] > 0
            bend = bend / np.where(weight > 0, weight, 1) / (part * (1 - part))
            median = np.median(np.ascontiguousarray(bend[known].T), axis=1)  # four times as fast as of rows
            bend = np.where(weight > 0, bend, median).astype(np.float32)
            self.bends[k] = np.asarray(np.dstack([cv2.medianBlur(side, 5) for side in cv2.split(bend)]), np.float32)

    def back(
        self, points: NDArray[np.float64], start: float, end: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Follow points back in time.

        Args:
            points: float64 [N, 2], decoded pixels.
            start: when they are there, in seconds.
            end: the time to go to, before it.

        Returns:
            float64 [N, 2], where they were at `end`, and float64 [N], their confidence; 0 where it is not known.
        """
        motion = self.motion
        points = points - self._bent(points, start)
        ends, confidence = walk(
            points,
            start,
            end,
            motion.times,
            motion.candidates,
            self.chosen,
            motion.shifts,
            self.velocities,
            self.confidence,
            (motion.width, motion.height),
            motion.spacing,
        )
        return ends + self._bent(ends, end), confidence

    def _bent(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """How far points [N, 2] are from where they would be had they moved steadily between anchors, [N, 2]."""
        times = self.motion.times
        k = int(np.searchsorted(times, time))
        if k not in self.bends or times[k] == time:
            return np.zeros_like(points)
        part = (time - times[k - 1]) / (times[k] - times[k - 1])
        everywhere = np.ones(self.motion.inter.shape[1:], np.float32)
        bend = interpolate(self.bends[k], everywhere, points / self.motion.spacing - 0.5)
        return np.asarray(part * (1 - part) * bend, np.float64)

    def _bridge(self) -> None:
        """Give an anchor without vectors the mean of the velocities of the one before it and the one after it."""
        known = self.confidence.any(axis=(1, 2))
        if known.all():
            return
        usable = known & (self.motion.inter.mean(axis=(1, 2)) >= MIN_INTER)
        for k in np.flatnonzero(~known):
            sides = [side for side in (k - 1, k + 1) if 0 <= side < len(usable) and usable[side]]
            if sides:
                weight = self.confidence[sides][..., None]
                self.velocities[k] = (self.velocities[sides] * weight).sum(0) / np.maximum(weight.sum(0), 1e-9)
                self.confidence[k] = BRIDGED * self.confidence[sides].max(0)


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


def _points(grid: VideoGrid, motion: CodecMotion) -> NDArray[np.float64]:
    """Points to follow, in decoded pixels from the upper left corner: float64 [R, C, n * n, 2], n in 2..4."""
    size = (grid.patch * motion.height / grid.height, grid.patch * motion.width / grid.width)
    n = int(np.clip(round(max(size) / motion.spacing), 2, 4))
    inside = (np.arange(n) + 0.5) / n
    y = (np.arange(grid.rows)[:, None] + inside) * size[0]
    x = (np.arange(grid.cols)[:, None] + inside) * size[1]
    points = np.empty((grid.rows, grid.cols, n, n, 2))
    points[..., 0] = x[None, :, None, :]
    points[..., 1] = y[:, None, :, None]
    return points.reshape(grid.rows, grid.cols, n * n, 2)


def _at_start(
    ends: NDArray[np.float64], displacements: NDArray[np.float64], confidence: NDArray[np.float64], grid: VideoGrid
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sort points by the patch of the earlier frame that they came from, for motion that lies ahead.

    A patch where fewer than two points began is covered later, or has left the frame.

    Args:
        ends: float64 [N, 2], where points were in the earlier frame, in pixels of the grid.
        displacements: float64 [N, 2], theirs since then.
        confidence: float64 [N], 0 for a point that could not be followed.
        grid: the patch grid.
    """
    slots = 8
    col, row = (np.floor(ends[:, axis] / grid.patch).astype(np.int64) for axis in (0, 1))
    inside = (confidence > 0) & (col >= 0) & (row >= 0) & (col < grid.cols) & (row < grid.rows)
    patch = (row * grid.cols + col)[inside]
    order = np.argsort(patch, kind="stable")
    patch = patch[order]
    first = np.searchsorted(patch, patch)
    place = np.arange(len(patch)) - first
    kept = place < slots
    in_slots = np.zeros((grid.rows * grid.cols, slots, 2))
    of_slots = np.zeros((grid.rows * grid.cols, slots))
    in_slots[patch[kept], place[kept]] = displacements[inside][order][kept]
    of_slots[patch[kept], place[kept]] = confidence[inside][order][kept]
    # Half of the slots must be taken for a patch to count: repeat its points to fill them
    count = (of_slots > 0).sum(-1)
    index = np.arange(slots) % np.maximum(count, 1)[:, None]
    in_slots = np.take_along_axis(in_slots, index[..., None], axis=1)
    of_slots = np.where((count >= 2)[:, None], np.take_along_axis(of_slots, index, axis=1), 0)
    shape = (grid.rows, grid.cols, slots)
    return per_patch(in_slots.reshape(*shape, 2), of_slots.reshape(shape))
