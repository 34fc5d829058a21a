"""Decode the sampled frames of a video, and collect the bitstream's motion vectors, in one pass."""

import bisect
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from motiontune.errors import ClipError, LimitError
from motiontune.limits import PIXELS
from motiontune.threads import is_one_thread, threads
from motiontune.video.container import Opened, VideoInfo, in_words, open_video, packets_of
from motiontune.video.vectors import Anchor, Follower, VectorCollector, has_vectors


# Sampled frames in full size that may wait for being resized
MAX_WAITING = 4
# By so much FFmpeg may pad each side of a frame in memory, pixels
PADDING = 128
MOST_PIXELS = (1 << 31) - 1  # that FFmpeg knows
# Anchors that may wait for being followed: some megabytes
MAX_ANCHORS = 256

Resize = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass
class Decoded:
    """What decoding gave.

    Args:
        frames: the sampled frames, uint8 [height, width, 3] RGB, resized.
        pts: seconds, of every frame of the stream up to the last one that was looked at; None where there is none.
        collector: with the vectors of the whole stream; None where they were not asked for, were followed already, or
            the codec has none.
        damage: why decoding ended early; "" where it did not.
    """

    frames: list[NDArray[np.uint8]]
    pts: list[float | None]
    collector: VectorCollector | None
    damage: str = ""


class _Irregular(Exception):
    """Packets and frames do not correspond one to one, or times do not increase."""


class _Plan:
    """Leaves out the packets of pictures that are not sampled and that no other picture refers to.

    Which frame a packet will be is known as soon as no packet can follow that is shown before it.

    Args:
        wanted: the sampled frames' places in the order of presentation.
        by_dts: whether the file has no pts: FFmpeg makes up some by which frames can be told apart, no times.
    """

    def __init__(self, wanted: set[int], by_dts: bool) -> None:
        self.wanted, self.by_dts = wanted, by_dts
        self.decoded: list[int] = []  # dts of the packets that have been read, where these are the times
        self.shown: list[int] = []  # pts of the packets that have been read, sorted
        self.left_out: list[int] = []  # pts, sorted

    def needed(self, packets: Iterable[av.Packet], collector: VectorCollector) -> Iterator[av.Packet]:
        """The packets to decode.

        Raises:
            _Irregular: if a packet has no pts.
        """
        waiting: deque[tuple[av.Packet, int | None, bool]] = deque()
        for packet in packets:
            pts, dts = packet.pts, packet.dts
            disposable = collector.add_packet(packet)
            if packet.size and not packet.is_discard:
                if pts is None:
                    raise _Irregular
                bisect.insort(self.shown, pts)
                if self.by_dts:
                    if dts is None:
                        raise _Irregular
                    self.decoded.append(dts)
            waiting.append((packet, pts, disposable and not packet.is_discard))
            while waiting:
                first, when, dispensable = waiting[0]
                if dispensable and packet.size and (dts is None or when is None or dts < when):
                    break
                waiting.popleft()
                if dispensable and when is not None and bisect.bisect_left(self.shown, when) not in self.wanted:
                    bisect.insort(self.left_out, when)
                else:
                    yield first

    @property
    def moments(self) -> list[int]:
        """When each frame is shown, in ticks from some beginning; for those that have been read."""
        return self.decoded if self.by_dts else self.shown

    def index_of(self, pts: int | None, decoded: int) -> int:
        """A frame's place in the order of presentation, after so many decoded ones.

        Raises:
            _Irregular: if by the packets' pts another frame is due here.
        """
        if pts is None:
            raise _Irregular
        index = bisect.bisect_left(self.shown, pts)
        if self.shown[index : index + 1] != [pts] or index != decoded + bisect.bisect_left(self.left_out, pts):
            raise _Irregular
        return index


def decode(
    info: VideoInfo,
    indices: NDArray[np.int64],
    resize: Resize | None,
    vectors: bool | Follower,
    opened: Opened | None = None,
) -> Decoded:
    """Decode until the last sampled frame, or until the file or the decoder ends.

    Vectors are followed while the file is decoded; where that cannot be, because only the end of a file tells when its
    frames are shown, all of them are kept.

    Args:
        info: the file's header.
        indices: the sampled frames' places in the order of presentation, in ascending order.
        resize: applied to each sampled frame as it is decoded.
        vectors: what takes the codec's motion vectors as they come; True keeps them all; False does without.
        opened: the file, where it is open and its packets have not been read.

    Raises:
        ClipError: if the file cannot be opened, or frames change their size.
    """
    follower = None if isinstance(vectors, bool) else vectors
    has_any = has_vectors(info.codec)
    # without B pictures there is next to nothing to leave out
    leaving_out = has_any and (opened is None or bool(opened[1].codec_context.has_b_frames))
    for by_plan in (True, False):
        if leaving_out if by_plan else has_any and follower is not None:
            with contextlib.suppress(_Irregular):
                return _decode_by(by_plan, info, indices, resize, bool(vectors), follower, opened)
            opened = None
    return _decode_by(False, info, indices, resize, bool(vectors), None, opened)


class _Following:
    """Hands anchors over to a follower, run by run: decoding and following in turns are slower for each picture.

    Args:
        follower: takes them.
        collector: has them.
        pts_of: a frame's pts by its place in the order of presentation, seconds.
    """

    def __init__(
        self,
        follower: Follower,
        collector: VectorCollector,
        pts_of: Callable[[int], float | None],
    ) -> None:
        self._follower, self._collector, self._pts_of = follower, collector, pts_of
        self._begun = False
        self._first = self._last = 0.0  # pts
        self._moments: list[float] = []
        self._anchors: list[Anchor] = []

    def begin(self, frames: int, image: NDArray[np.uint8]) -> None:
        """Begin with the first sampled frame."""
        self._begun = True
        self._follower.begin(self._collector.lattice, frames, *image.shape[:2])

    def after(self, index: int, sampled: bool) -> None:
        """Take what the collector has read with a frame.

        Raises:
            _Irregular: if it is not known to be shown later than the frame before.
        """
        pts = self._pts_of(index)
        if pts is None or index > 0 and pts <= self._last:
            raise _Irregular
        self._first, self._last = self._first if index else pts, pts
        if sampled:
            self._moments.append(self._time_of(index))
        taken = self._collector.take(self._time_of)
        self._anchors += taken
        if len(self._anchors) >= MAX_ANCHORS:
            self._hand_over()

    def end(self) -> None:
        """There are no more frames."""
        if self._begun:  # none could be decoded otherwise
            self._hand_over()
            self._follower.end()

    def _time_of(self, index: int) -> float:
        pts = self._pts_of(index)
        assert pts is not None  # it was looked at when the frame came
        return pts - self._first

    def _hand_over(self) -> None:
        self._follower.take(self._moments, self._anchors)
        self._moments, self._anchors = [], []


def _decode_by(
    by_plan: bool,
    info: VideoInfo,
    indices: NDArray[np.int64],
    resize: Resize | None,
    with_vectors: bool,
    follower: Follower | None,
    opened: Opened | None,
) -> Decoded:
    wanted = set(indices.tolist())
    last = int(indices[-1])
    images: list[Future[NDArray[np.uint8]]] = []  # converted and resized while the next frames are decoded
    source = open_video(info.path) if opened is None else contextlib.nullcontext(opened)
    with threads(1) as resizer, source as (container, stream):
        collector = following = None
        by_dts = container.format.name == "avi"  # which has no pts
        plan = _Plan(wanted, by_dts) if by_plan else None
        # Frame threads would lose and invent vectors, differently in each run. With threads of any kind FFmpeg shows
        # what is damaged in H.264 as it lay in memory, instead of concealing it; and of what is damaged in HEVC, VP8
        # and VP9 it shows other frames, so that a clip would depend on how many cores a machine has.
        stream.thread_type = "NONE"
        if is_one_thread():
            stream.thread_count = 1  # dav1d goes by it alone
        # else FFmpeg crops at the left in steps of 64 pixels, and the frame is narrower than its header has it
        stream.codec_context.flags |= Flags.unaligned
        # of a frame that is larger than its header has it; that of the header has been compared, and may be padded
        padded = (info.width + PADDING) * (info.height + PADDING)
        options = {"max_pixels": str(min(max(PIXELS.value, padded), MOST_PIXELS))}
        if with_vectors and has_vectors(info.codec):
            options["flags2"] = "+export_mvs"
        stream.codec_context.options = options
        if plan is not None or with_vectors and has_vectors(info.codec):
            extradata = stream.codec_context.extradata
            collector = VectorCollector(info.codec, extradata, info.width, info.height, info.average_rate)
        decoded = Decoded([], [], collector if with_vectors else None)
        if follower is not None and collector is not None:

            def pts_of(index: int) -> float | None:
                return decoded.pts[index] if plan is None else _seconds(plan.moments[index], stream)

            following = _Following(follower, collector, pts_of)
        if not info.counted:
            with contextlib.suppress(av.error.FFmpegError):  # a file that starts without a key frame has no such place
                container.seek(0)
        count, ended = 0, True
        earlier: list[int] = []  # the last dts
        try:
            for frame in _frames(container, stream, collector, plan):
                pts = frame.pts if collector is None else collector.pts_of(frame)
                index = count if plan is None else plan.index_of(pts, count)
                count += 1
                if (frame.width, frame.height) != (info.width, info.height):
                    size = f"{frame.width}x{frame.height} at frame {index}"
                    raise ClipError(info.path, f"changes its frame size from {info.width}x{info.height} to {size}")
                if plan is None:
                    decoded.pts.append(_seconds(_next(earlier, frame.dts) if by_dts else pts, stream))
                if index in wanted:
                    images.append(resizer.submit(_image, frame, resize))
                    if decoded.collector is not None and len(images) == 1:
                        decoded.collector.see_as(*images[0].result().shape[1::-1])
                        if following is not None:
                            following.begin(len(indices), images[0].result())
                    images[-MAX_WAITING:][0].result()
                if decoded.collector is not None:
                    decoded.collector.add_frame(frame, index, index in wanted)
                    if following is not None:
                        following.after(index, index in wanted)
                # what moved before a B-frame stands in the anchor after it
                if index >= last and (decoded.collector is None or decoded.collector.last_is_anchor):
                    ended = False
                    break
        except av.error.FFmpegError as error:
            if plan is not None:
                raise _Irregular from error
            width, height = stream.codec_context.width, stream.codec_context.height
            # a size that changes in the middle of the file, which the header does not tell
            if (width, height) != (info.width, info.height):
                if reason := PIXELS.excess(width * height, f"a frame of {width}x{height}"):
                    raise LimitError(info.path, reason) from error
            decoded.damage = f"damaged: {in_words(error)}"
        if plan is not None:
            if ended and count + len(plan.left_out) != len(plan.shown):
                raise _Irregular
            decoded.pts = [_seconds(pts, stream) for pts in plan.moments]
        if following is not None:
            if not increase(decoded.pts):
                raise _Irregular
            following.end()
            decoded.collector = None
        decoded.frames = [image.result() for image in images]
    return decoded


def _image(frame: av.VideoFrame, resize: Resize | None) -> NDArray[np.uint8]:
    """A decoded frame in RGB, resized."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return image if resize is None else resize(image)


def _next(earlier: list[int], dts: int | None) -> int | None:
    """The dts of the packet with which a decoder gave a frame; of the last frames, with none, as far on as before.

    Args:
        earlier: those of the two frames before, which are kept here.
        dts: the frame's own.
    """
    if dts is None and len(earlier) > 1:
        dts = 2 * earlier[-1] - earlier[-2]
    if dts is not None:
        earlier[:] = [*earlier[-1:], dts]
    return dts


def _seconds(pts: int | None, stream: VideoStream) -> float | None:
    tick = stream.time_base
    # a product of fractions is reduced, which takes longer than all the rest of a small frame
    return None if pts is None or tick is None else pts * tick.numerator / tick.denominator


def _frames(
    container: InputContainer, stream: VideoStream, collector: VectorCollector | None, plan: _Plan | None
) -> Iterator[av.VideoFrame]:
    packets: Iterable[av.Packet] = packets_of(container, stream)
    if plan is not None and collector is not None:
        packets = plan.needed(packets, collector)
    elif collector is not None:
        packets = _noted(packets, collector)
    for packet in packets:
        yield from packet.decode()  # type: ignore[misc]


def _noted(packets: Iterable[av.Packet], collector: VectorCollector) -> Iterator[av.Packet]:
    for packet in packets:
        collector.add_packet(packet)
        yield packet


def increase(pts: Sequence[float | None]) -> bool:
    """Whether all pts are known, and each is later than the one before."""
    known = [time for time in pts if time is not None]
    return len(known) == len(pts) and all(known[i] < known[i + 1] for i in range(len(known) - 1))


def times_of(pts: Sequence[float | None], rate: float) -> NDArray[np.float64]:
    """Seconds from the first frame; where pts are missing or do not increase, from the frame rate."""
    numbers = np.arange(len(pts))
    known = np.array([time is not None for time in pts])
    seconds = np.array([np.nan if time is None else time for time in pts], dtype=np.float64)
    if increase(pts):
        return np.asarray(seconds - seconds[0], np.float64)
    if known.sum() > 1 and (np.diff(seconds[known]) > 0).all():
        # some packets without pts (packed B-frames): in between the others
        filled = np.interp(numbers, numbers[known], seconds[known])
        first, last = numbers[known][[0, -1]]
        filled = np.where(numbers < first, seconds[first] - (first - numbers) / rate, filled)
        filled = np.where(numbers > last, seconds[last] + (numbers - last) / rate, filled)
        return np.asarray(filled - filled[0], np.float64)
    return numbers / rate
