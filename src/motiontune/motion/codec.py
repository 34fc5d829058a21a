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

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.consensus import agree, per_patch
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.follow.track import Track
from motiontune.motion.pairs import padded_times
from motiontune.video.clip import FPS, MAX_FRAMES, Clip, sample_indices
from motiontune.video.container import codec_name, open_video, packets_of, probe
from motiontune.video.h264 import ReferenceTracker
from motiontune.video.vectors import Anchor, Lattice, has_vectors


# Sampled frames that lie this far apart, seconds on average, are not followed: in six real clips the frames themselves
# then give at least as many vectors (at 1 s, five of eight have more from the codec, by up to 9 %)
FAR = 2.0
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
    followed = _usable(clip, grid, direction)
    times = padded_times(clip, grid)
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    confidence = np.zeros(vectors.shape[:3], np.float32)
    vectors[: len(clip.frames)], confidence[: len(clip.frames)] = followed.vectors, followed.confidence
    return MotionField.from_confidence(vectors, confidence, times, "codec", direction)


class Following:
    """Follows a clip's vectors from each sampled frame to the one before it, while the file is decoded.

    Args:
        grid_of: the patch grid of so many frames of some height and width.
        direction: "past" or "future".

    Attributes:
        direction: as given.
        grid: the patch grid.
        vectors: float32 [frames, R, C, 2], pixels of the grid, of the clip's own frames.
        confidence: float32 [frames, R, C].
        references: the largest number of pictures that the blocks of one may refer to.
    """

    def __init__(self, grid_of: Callable[[int, int, int], VideoGrid], direction: Direction) -> None:
        self.direction = direction
        self._grid_of = grid_of

    def wanted(self, duration: float, frames: int) -> bool:
        """Whether vectors can be followed between so many sampled frames of a clip of this many seconds."""
        return not _far_apart(duration, frames)

    def begin(self, lattice: Lattice, frames: int, height: int, width: int) -> None:
        """Begin a clip of so many sampled frames of this size, in pixels after resizing."""
        self.grid = grid = self._grid_of(frames, height, width)
        self.vectors = np.zeros((frames, grid.rows, grid.cols, 2), np.float32)
        self.confidence = np.zeros(self.vectors.shape[:3], np.float32)
        self.references = 0
        self._lattice, self._track = lattice, Track(lattice)
        self._points = _points(grid, lattice)
        self._moments: list[float] = []
        self._pair = 1  # the number of the next pair's later frame
        self._anchors, self._keys = 0, 0
        self._any_inter = False
        self._unknown: list[float] = []  # when the anchors were shown whose vectors lead to nobody knows where

    def take(self, moments: Sequence[float], anchors: Sequence[Anchor]) -> None:
        """Take the next sampled frames' times, and the next anchors."""
        self._moments += moments
        for anchor in anchors:
            known = len(anchor.candidates)
            self.references = max(self.references, known)
            if self._anchors and not anchor.key and not known:  # the first one's lead to before the first frame
                self._unknown.append(anchor.time)
            self._anchors += 1
            self._keys += anchor.key
            self._any_inter = self._any_inter or bool(anchor.inter.any())
            self._track.add(anchor)
            while self._pair < len(self._moments) and self._track.reaches(self._moments[self._pair]):
                self._follow_pair()

    def end(self) -> None:
        """Follow what is left; there are no more anchors."""
        self._track.end()
        while self._pair < len(self._moments):
            self._follow_pair()

    def problem(self) -> str | None:
        """Why the vectors are too few, or None."""
        codec = self._lattice.codec
        if self._keys == self._anchors:
            return _keys_only(codec)
        pairs = np.unique(np.searchsorted(self._moments, self._unknown))
        if 2 * len(pairs) > len(self.vectors) - 1:
            return UNKNOWN
        if self._any_inter:
            return None
        return UNKNOWN if self._unknown else _no_vectors(f"this {codec} stream")

    def _follow_pair(self) -> None:
        earlier, later = self._pair - 1, self._pair  # points can be followed back only
        self._pair += 1
        grid, points, flat = self.grid, self._points, self._points.reshape(-1, 2)
        to_grid = np.array([grid.width / self._lattice.width, grid.height / self._lattice.height])
        ends, of_points = self._track.back(flat, self._moments[later], self._moments[earlier])
        self._track.forget(self._moments[later])
        displacements = (flat - ends) * to_grid  # since the earlier frame
        if self.direction == "past":
            here, found = later, per_patch(displacements.reshape(points.shape), of_points.reshape(points.shape[:-1]))
        else:
            here, found = earlier, _at_start(ends * to_grid, displacements, of_points, grid)
        self.vectors[here], self.confidence[here] = agree(*found)


def codec_unusable(path: str, fps: float = FPS, max_frames: int = MAX_FRAMES) -> str | None:
    """Why a file's vectors cannot be used, from its headers and first packets, or None.

    Args:
        path: the file.
        fps: sampled frames per second.
        max_frames: at most so many of them.

    Raises:
        ClipError: if the file cannot be read.
    """
    reason = _stream_unusable(path)
    if reason is None:
        info = probe(path)
        frames = len(sample_indices(info, fps, max_frames))
        reason = _too_far(info.duration, frames) if _far_apart(info.duration, frames) else None
    return reason


def _stream_unusable(path: str) -> str | None:
    with open_video(path) as (container, stream):
        codec = codec_name(stream)
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


def _far_apart(duration: float, frames: int) -> bool:
    return frames > 1 and duration / frames >= FAR


def _too_far(duration: float, frames: int) -> str:
    return f"sampled frames lie {duration / frames:.1f} s apart (video_fps, video_maxlen), too far to follow vectors"


def _keys_only(codec: str) -> str:
    return f"this {codec} stream has key frames only"


def _usable(clip: Clip, grid: VideoGrid, direction: Direction) -> Following:
    """The clip's vectors, followed.

    Raises:
        MotionUnavailable: if there are none, or too few of them can be understood.
        ValueError: if they were followed on another grid, or the other way.
    """
    followed, codec = clip.followed, clip.info.codec
    if not has_vectors(codec):
        reason: str | None = _no_vectors(codec)
    elif _far_apart(clip.info.duration, len(clip.frames)):
        reason = _too_far(clip.info.duration, len(clip.frames))
    elif followed is None and clip.codec_motion is None:
        reason = "read_clip was not asked for vectors"
    else:
        if followed is None:
            followed = _follow_all(clip, grid, direction)
        assert isinstance(followed, Following)
        if followed.direction != direction or not _same_patches(followed.grid, grid):
            read_for = f"{followed.direction} on {followed.grid}"
            raise ValueError(f"{clip.path} was read for {read_for}, not {direction} on {grid}")
        reason = followed.problem() if len(clip.frames) > 1 else None
        if reason is None:
            return followed
    raise MotionUnavailable(f"{clip.path}: {reason}; use motion_source: auto or blockmatch")


def _follow_all(clip: Clip, grid: VideoGrid, direction: Direction) -> Following:
    """Follow vectors that were kept."""
    assert clip.codec_motion is not None
    followed = Following(lambda *_: grid, direction)
    followed.begin(clip.codec_motion.lattice, *clip.frames.shape[:3])
    followed.take(clip.times[np.unique(clip.indices, return_index=True)[1]].tolist(), [])
    for anchor in clip.codec_motion.anchors():
        followed.take([], [anchor])
    followed.end()
    return followed


def _same_patches(one: VideoGrid, other: VideoGrid) -> bool:
    return (one.rows, one.cols, one.patch) == (other.rows, other.cols, other.patch)


def _points(grid: VideoGrid, lattice: Lattice) -> NDArray[np.float64]:
    """Points to follow, in decoded pixels from the upper left corner: float64 [R, C, n * n, 2], n in 2..4."""
    size = (grid.patch * lattice.height / grid.height, grid.patch * lattice.width / grid.width)
    n = int(np.clip(round(max(size) / lattice.spacing), 2, 4))
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
