"""What a bitstream says about motion: the vectors that the encoder chose, collected while the stream is decoded.

Shapes: A anchors (I and P pictures), K candidate references, r x c points of a lattice over the decoded frame.
"""

from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import PictureType
from numpy.typing import NDArray

from motiontune.motion.h264 import PictureRefs, ReferenceTracker
from motiontune.motion.kernels import RECORD, spread


# In these codecs a P picture has one reference, the anchor before it
SINGLE_REFERENCE = (
    *("mpeg4", "mpeg2video", "mpeg1video", "h263", "h263i", "h263p", "flv1"),
    *("msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2"),
)
WITH_VECTORS = ("h264", *SINGLE_REFERENCE)

CELL = 8  # vectors stand for blocks of at least this many pixels
QUARTERS = 4
# The lattice is at least this fine, in pixels of the resized frame: two points per patch of 16 and side
LATTICE = 8
# A vector of a picture with fields may count field lines
TRUST_INTERLACED = 0.2


@dataclass(frozen=True)
class CodecMotion:
    """The vectors of a stream's anchors, in the order of presentation.

    Args:
        codec: FFmpeg's name of the codec.
        width: width of a decoded frame in pixels.
        height: height of a decoded frame in pixels.
        spacing: decoded pixels between neighbouring points of the lattice; point (i, j) is at
            ((j + 0.5) * spacing, (i + 0.5) * spacing).
        rate: frames per second.
        times: float64 [A], seconds from the first frame.
        key: bool [A], true for I pictures.
        trust: float64 [A], how far the vectors of a picture can be believed, from 0 to 1.
        candidates: float64 [A, K], when the pictures were shown that the blocks of this one may refer to, nearest in
            the encoder's list first; nan beyond their number; all nan where nothing is certain.
        shifts: int16 [A, r, c, 2], from each point to its reference in quarters of a decoded pixel, right and down.
        inter: bool [A, r, c], whether the point has a vector.

    Raises:
        ValueError: if the shapes do not fit.
    """

    codec: str
    width: int
    height: int
    spacing: int
    rate: float
    times: NDArray[np.float64]
    key: NDArray[np.bool_]
    trust: NDArray[np.float64]
    candidates: NDArray[np.float64]
    shifts: NDArray[np.int16]
    inter: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.times)
        if self.key.shape != (count,) or self.trust.shape != (count,) or self.candidates.shape[:1] != (count,):
            raise ValueError(
                f"key {self.key.shape}, trust {self.trust.shape} and candidates {self.candidates.shape} must have "
                f"{count} anchors"
            )
        if self.inter.shape[:1] != (count,) or self.shifts.shape != (*self.inter.shape, 2):
            raise ValueError(f"shifts {self.shifts.shape} and inter {self.inter.shape} must have {count} anchors")

    @property
    def references(self) -> int:
        """The largest number of pictures that the blocks of one may refer to."""
        return int(np.isfinite(self.candidates).sum(-1).max(initial=0))


def has_vectors(codec: str) -> bool:
    """Whether FFmpeg exports vectors of this codec, and we know what they refer to."""
    return codec in WITH_VECTORS


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
class _Anchor:
    frame: int  # in the order of presentation
    key: bool
    trust: float
    candidates: tuple[int, ...]  # numbers of packets; -1 for the anchor before; empty where nothing is certain
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
        self._tracker = ReferenceTracker(extradata) if codec == "h264" else None
        self._pictures: dict[int, PictureRefs | None] = {}
        self._anchors: list[_Anchor] = []
        self._frame_of: dict[int, int] = {}
        self._pts: list[int | None] = []
        self.see_as(width, height)

    def see_as(self, width: int, height: int) -> None:
        """Choose the lattice for frames that are resized to this size."""
        scale = max(self._width / width, self._height / height)
        self._spacing = CELL * max(1, int(LATTICE * scale / CELL))
        self._shape = (-(-self._height // self._spacing), -(-self._width // self._spacing))

    def add_packet(self, packet: av.Packet) -> bool:
        """Read a packet's headers before it is decoded; say whether no other picture refers to its own."""
        if not packet.size:
            return False
        if self._tracker is None:
            return is_b_picture(self._codec, bytes(packet))
        number = len(self._pts)
        self._pts.append(packet.pts)
        picture = self._tracker.add(bytes(packet), number)
        self._pictures[number] = picture
        packet.pts = number
        return picture is not None and not picture.reference

    def pts_of(self, frame: av.VideoFrame) -> int | None:
        """A frame's own pts."""
        if self._tracker is None or frame.pts is None:
            return frame.pts
        return self._pts[frame.pts] if 0 <= frame.pts < len(self._pts) else None

    def add_frame(self, frame: av.VideoFrame, index: int) -> None:
        """Read the next decoded frame's vectors, if it is an anchor.

        Args:
            frame: the frame.
            index: its place in the order of presentation.
        """
        number = -1 if frame.pts is None else frame.pts
        self._frame_of[number] = index
        kind = frame.pict_type
        self.last_is_anchor = kind not in (PictureType.B, PictureType.BI)
        if not self.last_is_anchor:
            return
        candidates: tuple[int, ...] = (-1,)
        trust = 1.0
        if self._tracker is not None:
            picture = self._pictures.get(number)
            candidates = (picture.candidates if picture else None) or ()
            trust = TRUST_INTERLACED if picture and picture.interlaced else 1.0
        if frame.interlaced_frame:
            trust = TRUST_INTERLACED
        if kind != PictureType.P or frame.is_corrupt:
            candidates = ()
        # vectors to nobody knows where are not worth the time to read them
        shifts, inter = self._points(frame if candidates else None)
        key = kind in (PictureType.I, PictureType.SI)
        self._anchors.append(_Anchor(index, key, trust, candidates, shifts, inter))

    def _points(self, frame: av.VideoFrame | None) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Read a frame's records at the points of the lattice: shifts [r, c, 2] and inter [r, c]."""
        shifts = np.zeros((*self._shape, 2), np.int16)
        inter = np.zeros(self._shape, np.bool_)
        side = None if frame is None else frame.side_data.get("MOTION_VECTORS")
        if isinstance(side, SideData):
            left, top = self._tracker.crop if self._tracker else (0, 0)
            spread(np.frombuffer(memoryview(side), RECORD), self._spacing, left, top, shifts, inter)
        return shifts, inter

    def finish(self, times: NDArray[np.float64], rate: float, start: float, end: float) -> CodecMotion:
        """Put the anchors together.

        Args:
            times: float64 [frames], seconds.
            rate: frames per second.
            start: when the first sampled frame is shown.
            end: when the last sampled frame is shown.
        """
        anchors = self._anchors
        shown = np.array([times[anchor.frame] for anchor in anchors], np.float64)
        low = max(int(np.searchsorted(shown, start, "right")) - 1, 0)
        high = int(np.searchsorted(shown, end, "left")) + 1
        kept = anchors[low:high]
        candidates = np.full((len(kept), max((len(anchor.candidates) for anchor in kept), default=0)), np.nan)
        for index, anchor in enumerate(kept):
            for place, number in enumerate(anchor.candidates):
                if number == -1:
                    candidates[index, place] = shown[low + index - 1] if low + index else np.nan
                elif number in self._frame_of:
                    candidates[index, place] = times[self._frame_of[number]]
        return CodecMotion(
            self._codec,
            self._width,
            self._height,
            self._spacing,
            rate,
            shown[low:high],
            np.array([anchor.key for anchor in kept], np.bool_),
            np.array([anchor.trust for anchor in kept], np.float64),
            candidates,
            np.stack([anchor.shifts for anchor in kept]) if kept else np.zeros((0, *self._shape, 2), np.int16),
            np.stack([anchor.inter for anchor in kept]) if kept else np.zeros((0, *self._shape), np.bool_),
        )
