"""The motion in a bitstream: the vectors that the encoder chose, collected while the stream is decoded.

Shapes: A anchors (I and P pictures), B pictures between them, K candidate references, r x c points of the lattice
over the decoded frame.
"""

import bisect
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import av
import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.frame import PictureType
from numpy.typing import NDArray

from motiontune.video.h264 import PictureRefs, ReferenceTracker
from motiontune.video.lattice import RECORD, spread


# In these codecs a P picture has one reference, the anchor before it
SINGLE_REFERENCE = (
    *("mpeg4", "mpeg2video", "mpeg1video", "h263", "h263i", "h263p", "flv1"),
    *("msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2"),
)
WITH_VECTORS = ("h264", *SINGLE_REFERENCE)
# FFmpeg exports zeros for the B pictures of the others
WITH_B_VECTORS = ("h264", "mpeg2video", "mpeg1video")
# So many B pictures wait for the anchor after them: x264 makes no more
MAX_HELD = 16

CELL = 8  # vectors stand for blocks of at least this many pixels
# The lattice is at least this fine, in pixels of the resized frame: two points per patch of 16 and side
LATTICE = 8
# The confidence of a picture with fields, whose vectors may count field lines
INTERLACED = 0.2
# So many packets after its own a picture is shown at the latest
MAX_DELAY = 256


@dataclass(frozen=True)
class Lattice:
    """The points at which a stream's vectors are kept.

    Args:
        codec: FFmpeg's name of the codec.
        width: width of a decoded frame in pixels.
        height: height of a decoded frame in pixels.
        spacing: decoded pixels between neighbouring points of the lattice; point (i, j) is at
            ((j + 0.5) * spacing, (i + 0.5) * spacing).
        rate: frames per second.
    """

    codec: str
    width: int
    height: int
    spacing: int
    rate: float

    @property
    def shape(self) -> tuple[int, int]:
        """(r, c)."""
        return -(-self.height // self.spacing), -(-self.width // self.spacing)


@dataclass(frozen=True)
class Between:
    """A B picture between two anchors that refers to both.

    Args:
        time: when it is shown, seconds from the first frame.
        shifts: int16 [2, r, c, 2], from its points to the anchor before, or an older one where the stream's pictures
            have several references, and to the anchor after.
        inter: bool [2, r, c], whether there is such a vector.
    """

    time: float
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]


@dataclass(frozen=True)
class Anchor:
    """A picture that others may refer to (I or P), and its vectors.

    Args:
        time: when it is shown, seconds from the first frame.
        key: whether it is an I picture.
        confidence: of its vectors, from 0 to 1.
        candidates: float64 [K], when the pictures are shown that its blocks may refer to, nearest in the encoder's
            list first; empty where nothing is certain.
        shifts: int16 [r, c, 2], from each point to its reference in quarters of a decoded pixel, right and down.
        inter: bool [r, c], whether the point has a vector.
        between: a B picture between the anchor before and this one, where a sampled frame lies there, or this is a key
            frame.
    """

    time: float
    key: bool
    confidence: float
    candidates: NDArray[np.float64]
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]
    between: Between | None = None


class Follower(Protocol):
    """Takes a stream's anchors while it is decoded, so that they need not be kept.

    A file that turns out not to be what its packets promised is decoded again: then everything begins again.

    Attributes:
        references: the largest number of pictures that the blocks of one may refer to.
    """

    references: int

    def wanted(self, duration: float, frames: int) -> bool:
        """Whether vectors are of use between so many sampled frames of a clip of this many seconds."""

    def begin(self, lattice: Lattice, frames: int, height: int, width: int) -> None:
        """Begin a clip of so many sampled frames of this size, in pixels after resizing."""

    def take(self, moments: Sequence[float], anchors: Sequence[Anchor]) -> None:
        """Take the next sampled frames' times, and the next anchors. No anchor is later than the first sampled frame
        that is still to come, but by being the first after the one before it."""

    def end(self) -> None:
        """There are no more."""


@dataclass(frozen=True)
class CodecMotion:
    """The vectors of all of a stream's anchors, in the order of presentation.

    Args:
        lattice: the points at which the vectors are.
        times: float64 [A], seconds from the first frame.
        key: bool [A], true for I pictures.
        confidence: float64 [A], of the vectors of a picture, from 0 to 1.
        candidates: float64 [A, K], when the pictures were shown that the blocks of this one may refer to, nearest in
            the encoder's list first; nan beyond their number; all nan where nothing is certain.
        shifts: int16 [A, r, c, 2], from each point to its reference in quarters of a decoded pixel, right and down.
        inter: bool [A, r, c], whether the point has a vector.
        between_times: float64 [B], when some B pictures were shown that refer to the anchors on both of their sides:
            one between two anchors at most, where a sampled frame lies there, or the later anchor is a key frame.
        between_shifts: int16 [B, 2, r, c, 2], from their points to the anchor before or an older one, and to the one
            after.
        between_inter: bool [B, 2, r, c], whether there is such a vector.

    Raises:
        ValueError: if the shapes do not fit.
    """

    lattice: Lattice
    times: NDArray[np.float64]
    key: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    candidates: NDArray[np.float64]
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]
    between_times: NDArray[np.float64]
    between_shifts: NDArray[np.int16]
    between_inter: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.times)
        if self.key.shape != (count,) or self.confidence.shape != (count,) or self.candidates.shape[:1] != (count,):
            raise ValueError(
                f"key {self.key.shape}, confidence {self.confidence.shape} and candidates {self.candidates.shape} "
                f"must have {count} anchors"
            )
        if self.inter.shape[:1] != (count,) or self.shifts.shape != (*self.inter.shape, 2):
            raise ValueError(f"shifts {self.shifts.shape} and inter {self.inter.shape} must have {count} anchors")

    @classmethod
    def of(cls, lattice: Lattice, anchors: Sequence[Anchor]) -> "CodecMotion":
        """Put anchors together."""
        shape, between = lattice.shape, [anchor.between for anchor in anchors if anchor.between is not None]
        candidates = np.full((len(anchors), max((len(anchor.candidates) for anchor in anchors), default=0)), np.nan)
        for row, anchor in zip(candidates, anchors, strict=True):
            row[: len(anchor.candidates)] = anchor.candidates
        return cls(
            lattice,
            np.array([anchor.time for anchor in anchors], np.float64),
            np.array([anchor.key for anchor in anchors], np.bool_),
            np.array([anchor.confidence for anchor in anchors], np.float64),
            candidates,
            np.array([anchor.shifts for anchor in anchors], np.int16).reshape(-1, *shape, 2),
            np.array([anchor.inter for anchor in anchors], np.bool_).reshape(-1, *shape),
            np.array([picture.time for picture in between], np.float64),
            np.array([picture.shifts for picture in between], np.int16).reshape(-1, 2, *shape, 2),
            np.array([picture.inter for picture in between], np.bool_).reshape(-1, 2, *shape),
        )

    def anchors(self) -> Iterator[Anchor]:
        """The anchors one by one."""
        after = np.searchsorted(self.times, self.between_times).tolist()
        between = {
            k: Between(float(time), shifts, inter)
            for k, time, shifts, inter in zip(
                after, self.between_times, self.between_shifts, self.between_inter, strict=True
            )
        }
        for k, time in enumerate(self.times):
            yield Anchor(
                float(time),
                bool(self.key[k]),
                float(self.confidence[k]),
                self.candidates[k, np.isfinite(self.candidates[k])],
                self.shifts[k],
                self.inter[k],
                between.get(k),
            )

    @property
    def references(self) -> int:
        """The largest number of pictures that the blocks of one may refer to."""
        return int(np.isfinite(self.candidates).sum(-1).max(initial=0))


def has_vectors(codec: str) -> bool:
    """Whether FFmpeg exports vectors of this codec, and we know what they refer to."""
    return codec in WITH_VECTORS


def records_of(frame: av.VideoFrame) -> NDArray[np.void]:
    """The vectors that FFmpeg exports with a frame, `RECORD` [N]; empty where there are none."""
    # `frame.side_data` and the frame would refer to each other: its memory would wait for the garbage collector
    side = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
    return np.frombuffer(memoryview(side), RECORD) if isinstance(side, SideData) else np.zeros(0, RECORD)


def is_b_picture(codec: str, packet: bytes) -> bool:
    """Whether a packet of MPEG-1, 2 or 4 holds a B picture, and no other."""
    start = b"\0\0\1\xb6" if codec == "mpeg4" else b"\0\0\1\0" if codec.startswith("mpeg") else None
    if start is None or packet.count(start) != 1:
        return False
    header = packet[packet.index(start) + 4 :][:2]
    if len(header) < 2:
        return False
    return header[0] >> 6 == 2 if codec == "mpeg4" else header[1] >> 3 & 7 == 3


@dataclass
class _Between:
    frame: int  # in the order of presentation
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]


@dataclass
class _Anchor:
    frame: int
    key: bool
    confidence: float
    candidates: tuple[int, ...]  # numbers of packets; -1 for the anchor before; empty where nothing is certain
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]
    between: _Between | None


class VectorCollector:
    """Takes a stream's packets and frames as they pass through the decoder, and keeps what they hold about motion
    until it is taken.

    To know which packet an H.264 frame came from, its packets travel with their number in place of their pts, which
    the decoder hands on untouched. (PyAV's `opaque`, made for this, loses some: 16.0.0 gave None for up to 3 of 41
    frames, at random.)

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the decoder's extradata.
        width: width of a decoded frame in pixels.
        height: height of a decoded frame in pixels.
        rate: frames per second.
    """

    def __init__(self, codec: str, extradata: bytes | None, width: int, height: int, rate: float) -> None:
        self.last_is_anchor = True
        self.lattice = Lattice(codec, width, height, CELL, rate)
        self._codec = codec
        self._tracker = ReferenceTracker(extradata) if codec == "h264" else None
        self._pictures: dict[int, PictureRefs | None] = {}
        self._anchors: list[_Anchor] = []  # those that have not been taken
        self._last_frame: int | None = None  # of the last anchor that was read
        self._last_time: float | None = None  # of the last anchor that was taken
        self._certain = False  # whether one of those that were taken has had one candidate
        self._held: list[tuple[av.VideoFrame, int]] = []  # the B pictures since the last anchor
        self._sampled_b = False  # whether one of them is sampled
        self._after_key = False
        self._frames = array("l")  # of each packet, its picture's place in the order of presentation; -1 before that
        self._pts: list[int | None] = []
        self.see_as(width, height)

    def see_as(self, width: int, height: int) -> None:
        """Choose the lattice for frames that are resized to this size."""
        scale = max(self.lattice.width / width, self.lattice.height / height)
        self.lattice = replace(self.lattice, spacing=CELL * max(1, int(LATTICE * scale / CELL)))

    def add_packet(self, packet: av.Packet) -> bool:
        """Read a packet's headers before it is decoded.

        Returns:
            Whether its picture is of no use unless it is sampled: no other picture refers to it, and it has no vectors
            across a key frame, which no anchor has.
        """
        if not packet.size:
            return False
        if self._tracker is None:
            disposable = is_b_picture(self._codec, bytes(packet))
            return not self._bridges(disposable, packet.is_keyframe) and disposable
        number = len(self._pts)
        self._pts.append(packet.pts)
        self._frames.append(-1)
        picture = self._tracker.add(bytes(packet), number)
        self._pictures[number] = picture
        self._pictures.pop(number - MAX_DELAY, None)
        packet.pts = number
        kind = None if picture is None else picture.kind
        return not self._bridges(kind == "B", kind == "I") and picture is not None and not picture.reference

    def _bridges(self, is_b: bool, is_key: bool) -> bool:
        """Whether this is the first B picture after a key frame in the order of decoding: it is shown before it, and
        refers to both sides of it, which the key frame itself does not."""
        after_key, self._after_key = self._after_key, is_key
        return is_b and after_key and self._codec in WITH_B_VECTORS

    def pts_of(self, frame: av.VideoFrame) -> int | None:
        """A frame's own pts."""
        if self._tracker is None or frame.pts is None:
            return frame.pts
        return self._pts[frame.pts] if 0 <= frame.pts < len(self._pts) else None

    def add_frame(self, frame: av.VideoFrame, index: int, sampled: bool) -> None:
        """Read the next decoded frame's vectors, if it is an anchor, or a B picture that is of use.

        Args:
            frame: the frame.
            index: its place in the order of presentation.
            sampled: whether it is one of the frames between which motion is wanted.
        """
        number = -1 if frame.pts is None else frame.pts
        if 0 <= number < len(self._frames):
            self._frames[number] = index
        kind = frame.pict_type
        self.last_is_anchor = kind not in (PictureType.B, PictureType.BI)
        if not self.last_is_anchor:
            self._held = [*self._held[1 - MAX_HELD :], (frame, index)]
            self._sampled_b |= sampled
            return
        candidates: tuple[int, ...] = (-1,)
        confidence = 1.0
        if self._tracker is not None:
            picture = self._pictures.get(number)
            candidates = (picture.candidates if picture else None) or ()
            confidence = INTERLACED if picture and picture.interlaced else 1.0
        if frame.interlaced_frame:
            confidence = INTERLACED
        if kind != PictureType.P or frame.is_corrupt:
            candidates = ()
        # without their reference, vectors are not worth the time to read them
        shifts, inter = self._points(frame if candidates else None)
        key = kind in (PictureType.I, PictureType.SI)
        between = None
        if confidence == 1.0 and self._last_frame is not None and self._held and (key or self._sampled_b):
            between = self._read_between(self._last_frame, index)
        self._held, self._sampled_b, self._last_frame = [], False, index
        self._anchors.append(_Anchor(index, key, confidence, candidates, shifts, inter, between))

    def _read_between(self, before: int, after: int) -> _Between | None:
        """Read the vectors of a B picture between two anchors that refers to both, the one next to the middle."""
        both = [(frame, index) for frame, index in self._held if self._refers_to(frame, index, before, after)]
        if not both:
            return None
        frame, index = min(both, key=lambda picture: abs(2 * picture[1] - before - after))
        sides = [self._points(frame, future) for future in (False, True)]
        shifts, inter = (np.stack(arrays) for arrays in zip(*sides, strict=True))
        return _Between(index, shifts, inter)

    def _refers_to(self, frame: av.VideoFrame, index: int, before: int, after: int) -> bool:
        """Whether a B picture's lists begin with these frames, the anchors around it."""
        if frame.is_corrupt or self._codec not in WITH_B_VECTORS:
            return False
        if self._tracker is None:
            return True
        picture = self._pictures.get(-1 if frame.pts is None else frame.pts)
        known = (picture.candidates if picture else None) or ()
        frames = sorted([self._frames[number] for number in known if self._frames[number] >= 0])
        place = bisect.bisect_left(frames, index)
        return frames[max(place - 1, 0) : place + 1] == [before, after]

    def _points(
        self, frame: av.VideoFrame | None, future: bool = False
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Read a frame's records, of the past or the future, at the points of the lattice: shifts [r, c, 2] and inter
        [r, c]."""
        shifts = np.zeros((*self.lattice.shape, 2), np.int16)
        inter = np.zeros(self.lattice.shape, np.bool_)
        if frame is not None:
            left, top = self._tracker.crop if self._tracker else (0, 0)
            records = records_of(frame)
            if future:
                records = records[records["source"] > 0]
                records["source"] = -1
            spread(records, self.lattice.spacing, left, top, shifts, inter)
        return shifts, inter

    def take(self, time_of: Callable[[int], float]) -> list[Anchor]:
        """The anchors that were read since the last call.

        Args:
            time_of: when a frame is shown, by its place in the order of presentation; seconds from the first frame.
        """
        taken = []
        for anchor in self._anchors:
            known: list[float] = []
            if anchor.candidates == (-1,):
                known = [] if self._last_time is None else [self._last_time]
            else:
                frames = [self._frames[number] for number in anchor.candidates]
                # A picture that was not shown (an edit list leaves it out, or it is lost) has no time, and a block
                # that refers to it would be taken for one that refers to another.
                if min(frames, default=-1) >= 0:
                    known = [time_of(frame) for frame in frames]
            # Among several references the motion before tells which one a block means; so nothing can be said until
            # one picture has had no choice, as the first P picture after an IDR picture.
            self._certain |= len(known) == 1
            between = None
            if anchor.between is not None:
                between = Between(time_of(anchor.between.frame), anchor.between.shifts, anchor.between.inter)
            self._last_time = time_of(anchor.frame)
            taken.append(
                Anchor(
                    self._last_time,
                    anchor.key,
                    anchor.confidence,
                    np.array(known if self._certain else [], np.float64),
                    anchor.shifts,
                    anchor.inter,
                    between,
                )
            )
        self._anchors = []
        return taken
