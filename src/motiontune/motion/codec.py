"""Motion from the bitstream: the vectors that the encoder chose, followed from one sampled frame to the next.

An encoder describes a P picture by blocks of an earlier one. Between two sampled frames lie several such pictures, the
anchors (I and P); the vectors of each, divided by the time to its reference, are a velocity for the time since the
anchor before it. A point is walked from one sampled frame to the other through these velocities. B pictures are
passed over: their own vectors make the walk worse than interpolation between anchors does.

Shapes: A anchors, r x c cells of 8 x 8 decoded pixels, F, R, C frames, patch rows and patch columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import PictureType
from numpy.typing import NDArray

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.pixels import neighbours, padded_times
from motiontune.motion.h264 import ReferenceTracker


if TYPE_CHECKING:
    from motiontune.clip import Clip


CELL = 8
QUARTERS = 4
# In these codecs a P picture has one reference, the anchor before it
SINGLE_REFERENCE = ("mpeg4", "mpeg2video", "mpeg1video")
WITH_VECTORS = ("h264", *SINGLE_REFERENCE)

# libavutil's AVMotionVector
RECORD = np.dtype(
    [
        ("source", np.int32),
        ("w", np.uint8),
        ("h", np.uint8),
        ("src_x", np.int16),
        ("src_y", np.int16),
        ("dst_x", np.int16),
        ("dst_y", np.int16),
        ("flags", np.uint64),
        ("motion_x", np.int32),
        ("motion_y", np.int32),
        ("motion_scale", np.uint16),
    ],
    align=True,
)

# A point that a step carries this far from where the inverse step would take it is not followed (decoded pixels)
STEP_TOLERANCE = 1.0
# A P picture with fewer predicted cells than this may be a cut
MIN_INTER = 0.5
# Packets whose headers are looked at to foretell whether vectors will be usable
PEEK = 60


@dataclass(frozen=True)
class CodecMotion:
    """The vectors of a stream's anchors, in the order of presentation.

    Args:
        codec: FFmpeg's name of the codec.
        width: width of a decoded frame in pixels.
        height: height of a decoded frame in pixels.
        times: float64 [A], seconds from the first frame.
        key: bool [A], true for I pictures.
        reference_times: float64 [A], when the one picture was shown that all blocks of this one refer to; nan where
            there is none (I), more than one candidate, or no certainty.
        shifts: int16 [A, r, c, 2], from each cell to its reference in quarters of a decoded pixel, right and down.
        inter: bool [A, r, c], whether the cell has a vector.
        interlaced: whether a picture is interlaced, so that vectors may count field lines.

    Raises:
        ValueError: if the shapes do not fit.
    """

    codec: str
    width: int
    height: int
    times: NDArray[np.float64]
    key: NDArray[np.bool_]
    reference_times: NDArray[np.float64]
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]
    interlaced: bool

    def __post_init__(self) -> None:
        count = len(self.times)
        if self.key.shape != (count,) or self.reference_times.shape != (count,):
            raise ValueError(
                f"key {self.key.shape} and reference_times {self.reference_times.shape} must be [{count}]"
            )
        if self.inter.shape[:1] != (count,) or self.shifts.shape != (*self.inter.shape, 2):
            raise ValueError(f"shifts {self.shifts.shape} and inter {self.inter.shape} must have {count} anchors")


def has_vectors(codec: str) -> bool:
    """Whether FFmpeg exports vectors of this codec, and we know what they refer to."""
    return codec in WITH_VECTORS


@dataclass
class _Anchor:
    frame: int
    key: bool
    reference: int | None  # number of the packet; -1 for the anchor before
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]


class VectorCollector:
    """Takes a stream's packets and frames as they pass through the decoder, and keeps what they say about motion.

    To know which packet an H.264 frame came from, its packets travel with their number in place of their pts, which
    the decoder hands on untouched. (PyAV's `opaque`, made for this, loses some: 16.0.0 gave None for up to 3 of 41
    frames, at random.)

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the decoder's extradata.
        width: width of a decoded frame in pixels.
        height: height of a decoded frame in pixels.
    """

    def __init__(self, codec: str, extradata: bytes | None, width: int, height: int) -> None:
        self.last_is_anchor = True
        self._codec, self._width, self._height = codec, width, height
        self._shape = (-(-height // 16) * 2, -(-width // 16) * 2)
        self._tracker = ReferenceTracker(extradata) if codec == "h264" else None
        self._candidates: dict[int, tuple[int, ...] | None] = {}
        self._anchors: list[_Anchor] = []
        self._frame_of: dict[int, int] = {}
        self._pts: list[int | None] = []
        self._frames = 0
        self._interlaced = False

    def add_packet(self, packet: av.Packet) -> None:
        """Read a packet's headers before it is decoded."""
        if self._tracker is None or not packet.size:
            return
        number = len(self._pts)
        self._pts.append(packet.pts)
        packet.pts = number
        picture = self._tracker.add(bytes(packet), number)
        self._candidates[number] = picture.candidates if picture else None
        self._interlaced |= picture is not None and picture.interlaced

    def pts_of(self, frame: av.VideoFrame) -> int | None:
        """A frame's own pts."""
        if self._tracker is None or frame.pts is None:
            return frame.pts
        return self._pts[frame.pts] if 0 <= frame.pts < len(self._pts) else None

    def add_frame(self, frame: av.VideoFrame) -> None:
        """Read the next decoded frame's vectors."""
        number = -1 if frame.pts is None else frame.pts
        self._frame_of[number] = self._frames
        kind = frame.pict_type
        self._interlaced |= bool(frame.interlaced_frame)
        self.last_is_anchor = kind != PictureType.B
        if self.last_is_anchor:
            key = kind in (PictureType.I, PictureType.SI)
            reference = None
            if kind == PictureType.P and not frame.is_corrupt:
                reference = self._reference(number)
            # vectors to nobody knows where are not worth the time to read them
            shifts, inter = self._cells(frame if reference is not None else None)
            self._anchors.append(_Anchor(self._frames, key, reference, shifts, inter))
        self._frames += 1

    def _reference(self, number: int) -> int | None:
        if self._tracker is None:
            return -1
        candidates = self._candidates.get(number)
        return candidates[0] if candidates and len(candidates) == 1 else None

    def _cells(self, frame: av.VideoFrame | None) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Spread a frame's records over the cells: shifts [r, c, 2] and inter [r, c]."""
        shifts = np.zeros((*self._shape, 2), np.int16)
        inter = np.zeros(self._shape, np.bool_)
        side = None if frame is None else frame.side_data.get("MOTION_VECTORS")
        if not isinstance(side, SideData):
            return shifts, inter
        records = np.frombuffer(memoryview(side), RECORD)
        records = records[(records["source"] < 0) & (records["motion_scale"] > 0)]
        motion = np.stack([records["motion_x"], records["motion_y"]], axis=-1)
        # half pixels in MPEG-1 and MPEG-2, quarters in H.264, either in MPEG-4
        motion = np.clip(motion * QUARTERS // records["motion_scale"][:, None], -32768, 32767).astype(np.int16)
        width, height = records["w"].astype(np.int64), records["h"].astype(np.int64)
        col, row = (records["dst_x"] - width // 2) // CELL, (records["dst_y"] - height // 2) // CELL
        for down in range(2):
            for right in range(2):
                part = (CELL * right < width) & (CELL * down < height)
                r, c = row + down, col + right
                part &= (r >= 0) & (r < self._shape[0]) & (c >= 0) & (c < self._shape[1])
                shifts[r[part], c[part]] = motion[part]
                inter[r[part], c[part]] = True
        return shifts, inter

    def finish(self, times: NDArray[np.float64], start: float, end: float) -> CodecMotion:
        """Put the anchors together.

        Args:
            times: float64 [decoded frames], seconds.
            start: when the first sampled frame is shown.
            end: when the last sampled frame is shown.
        """
        anchors = self._anchors
        shown = np.array([times[anchor.frame] for anchor in anchors], np.float64)
        references = np.full(len(anchors), np.nan)
        for index, anchor in enumerate(anchors):
            if anchor.reference == -1:
                references[index] = shown[index - 1] if index else np.nan
            elif anchor.reference is not None and anchor.reference in self._frame_of:
                references[index] = times[self._frame_of[anchor.reference]]
        low = max(int(np.searchsorted(shown, start, "right")) - 1, 0)
        high = int(np.searchsorted(shown, end, "left")) + 1
        kept = anchors[low:high]
        return CodecMotion(
            self._codec,
            self._width,
            self._height,
            shown[low:high],
            np.array([anchor.key for anchor in kept], np.bool_),
            references[low:high],
            np.stack([anchor.shifts for anchor in kept]) if kept else np.zeros((0, *self._shape, 2), np.int16),
            np.stack([anchor.inter for anchor in kept]) if kept else np.zeros((0, *self._shape), np.bool_),
            self._interlaced,
        )


def codec_motion(clip: "Clip", grid: VideoGrid, direction: Direction = "past") -> MotionField:
    """The displacement of each patch between neighbouring sampled frames, from the codec's vectors.

    A patch is valid if most of its points could be followed from frame to frame without leaving the picture, and if it
    looks alike at both ends. Across a picture without vectors, such as a key frame, the velocity after it is taken, or
    else the one before it.

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
    velocities = _velocities(motion)
    points = _points(grid, motion)
    to_grid = np.array([grid.width / motion.width, grid.height / motion.height], np.float32)
    sign = -1 if direction == "past" else 1
    for here, there in neighbours(clip, direction):
        way, good = _walk(motion, velocities, points, float(clip.times[here]), float(clip.times[there]))
        way, good = _per_patch(way * to_grid, good)
        vectors[here], confidence[here] = sign * way, good
    return MotionField.from_confidence(vectors, confidence, times, "codec", direction)


def codec_unusable(path: str) -> str | None:
    """Why a file's vectors cannot be used, from its headers and first packets, or None.

    Raises:
        ClipError: if the file cannot be read.
    """
    from motiontune.clip import open_video  # clip.py collects vectors with this module

    with open_video(path) as (container, stream):
        codec = str(stream.codec_context.codec.canonical_name)
        if not has_vectors(codec):
            return _no_vectors(codec)
        if codec != "h264":
            return None
        tracker = ReferenceTracker(stream.codec_context.extradata)
        pictures = predicted = ambiguous = 0
        for number, packet in enumerate(container.demux(stream)):
            if number >= PEEK:
                break
            picture = tracker.add(bytes(packet), number) if packet.size else None
            if picture is None:
                continue
            if picture.interlaced:
                return INTERLACED
            predicted += picture.kind == "P"
            ambiguous += picture.kind == "P" and (picture.candidates is None or len(picture.candidates) != 1)
            pictures += 1
    if pictures > 1 and not predicted:
        return _keys_only(codec)
    return AMBIGUOUS if ambiguous > predicted / 10 else None


INTERLACED = "interlaced video: its vectors may count field lines"
AMBIGUOUS = "h264 with several reference frames: a vector does not say which one it points to"


def _no_vectors(codec: str) -> str:
    return f"{codec} has no exported vectors"


def _keys_only(codec: str) -> str:
    return f"this {codec} stream has key frames only"


def _usable(clip: "Clip") -> CodecMotion:
    """The clip's vectors.

    Raises:
        MotionUnavailable: if there are none, or too few of them can be understood.
    """
    motion, codec = clip.codec_motion, clip.info.codec
    reason = None
    if motion is None:
        reason = _no_vectors(codec) if not has_vectors(codec) else "read_clip was not asked for vectors"
    elif motion.interlaced:
        reason = INTERLACED
    elif len(clip.frames) > 1:
        reason = _not_understood(motion, clip.times)
    if reason is not None or motion is None:
        raise MotionUnavailable(f"{clip.path}: {reason}; use motion_source: auto or flow")
    return motion


def _not_understood(motion: CodecMotion, times: NDArray[np.float64]) -> str | None:
    """Why the vectors of a clip with frames at these times are too few, or None."""
    if motion.key.all():
        return _keys_only(motion.codec)
    unknown = ~motion.key & np.isnan(motion.reference_times)
    unknown[:1] = False  # what moved before the first frame is nobody's business
    pairs = np.unique(np.searchsorted(times, motion.times[unknown]))
    if 2 * len(pairs) > len(times) - 1:
        return AMBIGUOUS if motion.codec == "h264" else f"this {motion.codec} stream has pictures of an unknown kind"
    return None if motion.inter.any() else _no_vectors(f"this {motion.codec} stream")


def _velocities(motion: CodecMotion) -> NDArray[np.float32]:
    """The content's velocity at each anchor since the one before: float32 [A, r, c, 3], (x, y) in decoded pixels per
    second where the third number is 1; where it is 0 nothing is known."""
    since = motion.times - motion.reference_times
    known = np.isfinite(since) & (np.abs(since) > 1e-6)
    fields = np.zeros((*motion.inter.shape, 3), np.float32)
    for k in np.flatnonzero(known):
        velocity = motion.shifts[k] * np.float32(-1 / (QUARTERS * since[k]))
        fields[k] = _fill_holes(velocity, motion.inter[k])
    # Neither has the last picture of an MPEG stream with B-frames: FFmpeg hands it out without its vectors
    for k in np.flatnonzero(motion.key | known & ~motion.inter.any(axis=(1, 2))):
        for neighbour in (k + 1, k - 1):
            if 0 <= neighbour < len(known) and known[neighbour] and motion.inter[neighbour].mean() >= MIN_INTER:
                fields[k] = fields[neighbour]
                break
    return fields


def _fill_holes(velocity: NDArray[np.float32], inter: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give a cell without a vector the mean of its neighbours, where at least three of the eight have one."""
    weight = inter.astype(np.float32)
    field = np.dstack([velocity * weight[..., None], weight])
    if not inter.all():
        sums = cv2.boxFilter(field, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
        fillable = ~inter & (sums[..., 2] > 2.5)
        field[fillable] = sums[fillable] / sums[fillable][:, 2:]
    return np.asarray(field, np.float32)


def _points(grid: VideoGrid, motion: CodecMotion) -> NDArray[np.float32]:
    """Points to follow, in decoded pixels from the upper left corner: float32 [R, C, n, n, 2], n in 2..4."""
    size = (grid.patch * motion.height / grid.height, grid.patch * motion.width / grid.width)
    n = int(np.clip(round(max(size) / CELL), 2, 4))
    inside = (np.arange(n) + 0.5) / n
    y = (np.arange(grid.rows)[:, None] + inside) * size[0]
    x = (np.arange(grid.cols)[:, None] + inside) * size[1]
    points = np.empty((grid.rows, grid.cols, n, n, 2), np.float32)
    points[..., 0] = x[None, :, None, :]
    points[..., 1] = y[:, None, :, None]
    return points


def _walk(
    motion: CodecMotion, velocities: NDArray[np.float32], points: NDArray[np.float32], start: float, end: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Follow points from one time to another.

    Args:
        motion: the anchors.
        velocities: float32 [A, r, c, 3], see `_velocities`.
        points: float32 [R, C, n, n, 2], where the points are at `start`, in decoded pixels.
        start: seconds.
        end: seconds, before or after `start`.

    Returns:
        float32 [R, C, n, n, 2], the way that each point has come, and bool [R, C, n, n], whether it could be followed.
    """
    shape = points.shape
    x = points.reshape(shape[0] * shape[2] * shape[1], shape[3], 2).copy()
    good = np.ones(x.shape[:2], np.bool_)
    anchors, limit = motion.times, np.array([motion.width, motion.height], np.float32)
    now, backwards = start, end < start
    while now != end:
        # the anchor at the end of the interval that the step lies in
        k = int(np.searchsorted(anchors, now, "left" if backwards else "right"))
        if not 1 <= k < len(anchors):
            good[:] = False
            break
        following = max(float(anchors[k - 1]), end) if backwards else min(float(anchors[k]), end)
        x, followed = _step(velocities[k], x, now - float(anchors[k]), following - now)
        good &= followed & (x >= 0).all(-1) & (x <= limit).all(-1)
        now = following
    return x.reshape(shape) - points, good.reshape(shape[:-1])


def _step(
    field: NDArray[np.float32], x: NDArray[np.float32], offset: float, duration: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Move points by an anchor's velocities.

    A velocity belongs to where content is at the anchor. Points at another time look up where they will be then.

    Args:
        field: float32 [r, c, 3], see `_velocities`.
        x: float32 [N, M, 2], decoded pixels.
        offset: seconds from the anchor to the points' time, zero or negative.
        duration: seconds to move, negative for backwards.
    """
    velocity, known = _sample(field, x)
    drift = np.zeros(x.shape[:2], np.float32)
    if offset:
        for _ in range(3):
            before = velocity
            velocity, known = _sample(field, x - before * np.float32(offset))
            drift = np.abs((velocity - before) * np.float32(offset)).max(-1)
    return x + velocity * np.float32(duration), known & (drift < STEP_TOLERANCE)


def _sample(field: NDArray[np.float32], x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Interpolate an anchor's velocities at points [N, M, 2]; known where at least half of the weight is."""
    at = x / np.float32(CELL) - np.float32(0.5)
    at = np.clip(at, -2, np.array([field.shape[1] + 1, field.shape[0] + 1], np.float32))
    found = cv2.remap(field, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = found[..., 2]
    velocity = found[..., :2] / np.maximum(weight, np.float32(1e-3))[..., None]
    return np.asarray(velocity, np.float32), np.asarray(weight >= 0.5, np.bool_)


def _per_patch(way: NDArray[np.float32], good: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The median way of each patch's good points [R, C, 2], and whether they are the majority [R, C]."""
    rows, cols = good.shape[:2]
    chosen = good.reshape(rows, cols, -1)
    count = chosen.sum(-1)
    masked = np.where(chosen[..., None], way.reshape(rows, cols, -1, 2), np.float32(np.inf))
    ordered = np.sort(masked, axis=2)
    lower, upper = (np.maximum(count - 1, 0) // 2, np.minimum(count // 2, chosen.shape[-1] - 1))
    pair = [np.take_along_axis(ordered, m[..., None, None], axis=2)[:, :, 0] for m in (lower, upper)]
    enough = np.asarray(2 * count >= chosen.shape[-1], np.bool_)
    pair = [np.where(enough[..., None], side, 0) for side in pair]
    return np.asarray((pair[0] + pair[1]) / 2, np.float32), enough
