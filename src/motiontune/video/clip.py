"""Open, sample and decode a video: frames, times and what the bitstream says about motion, in one pass."""

import bisect
import contextlib
import errno
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from motiontune.errors import ClipError
from motiontune.video.vectors import CodecMotion, VectorCollector, has_vectors


# Sampled frames in full size that may wait for being resized
MAX_WAITING = 4


Opened = tuple[InputContainer, VideoStream]


@dataclass(frozen=True)
class VideoInfo:
    """What can be known of a video file without decoding a frame.

    Args:
        path: the file, as the user named it.
        codec: FFmpeg's name of the codec, such as "h264", "vp9".
        width: width of a decoded frame in pixels.
        height: height of a decoded frame in pixels.
        frames: number of frames that decoding will give, from the header or, where the header has none, counted.
        duration: seconds.
        average_rate: frames per second.
        counted: true where the header has no frame count, so that `frames` and `duration` come from the packets.
    """

    path: str
    codec: str
    width: int
    height: int
    frames: int
    duration: float
    average_rate: float
    counted: bool = False


@dataclass(frozen=True)
class Clip:
    """The sampled frames of one video, without padding.

    Args:
        path: the file, as the user named it ("<frames>" for a list of images).
        frames: uint8 [frames, height, width, 3] RGB, after the first resize (LLaMA-Factory's) where one was given.
        times: float64 [frames], seconds from the first frame of the stream, from pts.
        indices: int64 [frames], which frame of the stream each is, in the order of presentation. An index that
            repeats the one before it is a repeated frame: nothing moved between the two, and nothing is known.
        info: the file's header.
        codec_motion: what the bitstream says about motion, in decoded (not resized) pixels; None where it was not
            asked for or the codec exports nothing.
    """

    path: str
    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    indices: NDArray[np.int64]
    info: VideoInfo
    codec_motion: CodecMotion | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        count, height, width = self.frames.shape[:3]
        end = f" to {self.times[-1]:.2f} s" if count else ""
        vectors = ", with vectors" if self.codec_motion is not None else ""
        return f"Clip({self.path!r}, {count} frames of {width}x{height} px{end}, {self.info.codec}{vectors})"

    def _repr_png_(self) -> bytes:
        """The frames, for notebooks."""
        from motiontune.drawing.images import encode_image  # reading does not wait for drawing
        from motiontune.drawing.sheets import frame_sheet

        return encode_image(frame_sheet(self.path, self.frames, self.times), ".png")


def probe(path: str) -> VideoInfo:
    """Read a file's header; count its packets where the header has no frame count (WebM, MKV, TS, raw H.264).

    Raises:
        ClipError: if the file is missing, empty, no video, audio only, or has no frame.
    """
    with open_video(path) as (container, stream):
        return _info(path, container, stream)


def sample_indices(info: VideoInfo, fps: float, max_frames: int) -> NDArray[np.int64]:
    """Which frames LLaMA-Factory samples: `floor(duration * fps)` of them, evenly spread, at most `max_frames`."""
    wanted = max(1, math.floor(info.duration * fps))
    number = min(info.frames, max_frames, wanted)
    # truncated, as LLaMA-Factory does with the same linspace
    return np.linspace(0, info.frames - 1, number).astype(np.int64)


def read_clip(
    path: str,
    fps: float = 2.0,
    max_frames: int = 128,
    resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    with_vectors: bool = False,
) -> Clip:
    """Decode a file once: the sampled frames, and the codec's vectors between them.

    Where decoding yields one sampled frame less than the header promises, the last sampled one is repeated, as
    LLaMA-Factory's padding to an even number does.

    Args:
        path: the file.
        fps: sampled frames per second (LLaMA-Factory's `video_fps`).
        max_frames: LLaMA-Factory's `video_maxlen`.
        resize: applied to each sampled frame [height, width, 3] as it is decoded, so that only small frames are kept.
        with_vectors: also collect the codec's motion vectors.

    Raises:
        ClipError: as `probe`, or if decoding ends before the sampled frames do, or frames change their size.
    """
    with open_video(path) as opened:
        info = _info(path, *opened)
        indices = sample_indices(info, fps, max_frames)
        # counting has read the file to its end
        decoded = _decode(info, indices, resize, with_vectors, None if info.counted else opened)
    seen = len(decoded.pts)
    if info.counted and not decoded.damage and 0 < seen < info.frames and len(decoded.frames) < len(indices):
        # Packets are not always frames: fields in packets of their own, or frames before the first key frame. Only
        # decoding tells, so sample again among the frames that there are.
        info = replace(info, frames=seen)
        indices = sample_indices(info, fps, max_frames)
        decoded = _decode(info, indices, resize, with_vectors)
    missing = len(indices) - len(decoded.frames)
    if missing > 1 or not decoded.frames:
        reason = f"ends after {len(decoded.pts)} of {info.frames} frames"
        raise ClipError(path, f"{reason} ({decoded.damage or 'truncated?'}); re-encode or remove it")
    if missing == 1:
        decoded.frames.append(decoded.frames[-1])
        indices = np.append(indices[:-1], indices[-2])
    times = _times(decoded.pts, info.average_rate)
    motion = None
    if decoded.collector is not None:
        motion = decoded.collector.finish(
            times, info.average_rate, float(times[indices[0]]), float(times[indices[-1]])
        )
    return Clip(path, np.stack(decoded.frames), times[indices], indices, info, motion)


def clip_from_frames(frames: Sequence[NDArray[np.uint8]], fps: float, path: str = "<frames>") -> Clip:
    """Make a clip of images that are sampled already.

    Args:
        frames: at least one array uint8 [height, width, 3], RGB, all of one size.
        fps: how many of them make a second.
        path: the name to use in messages.

    Raises:
        ClipError: if there is no image, one is not uint8 RGB, or they differ in size.
    """
    if len(frames) == 0:
        raise ClipError(path, "has no frame")
    if not fps > 0 or not math.isfinite(fps):
        raise ClipError(path, f"needs a positive number of frames per second, not {fps}")
    arrays = [np.asarray(frame) for frame in frames]
    for number, frame in enumerate(arrays):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ClipError(path, f"image {number} must be uint8 [height, width, 3], not {frame.dtype} {frame.shape}")
        if frame.shape != arrays[0].shape:
            raise ClipError(path, f"image {number} is {_size(frame)}, the first one {_size(arrays[0])}")
    count = len(arrays)
    height, width = arrays[0].shape[:2]
    info = VideoInfo(path, "images", width, height, count, count / fps, float(fps))
    indices = np.arange(count, dtype=np.int64)
    return Clip(path, np.stack(arrays), indices / float(fps), indices, info)


def _size(frame: NDArray[np.uint8]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"


@contextlib.contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and choose its video stream; every failure of FFmpeg inside becomes a `ClipError`."""
    if not os.path.isfile(path):
        raise ClipError(path, "is a folder, not a file" if os.path.isdir(path) else "does not exist")
    if os.path.getsize(path) == 0:
        raise ClipError(path, "is empty (0 bytes)")
    try:
        # old AVI files carry titles in other encodings than UTF-8
        with av.open(path, "r", metadata_errors="ignore") as container:
            if container.format.name == "tty":  # FFmpeg would draw any .txt as a film of its letters
                raise ClipError(path, "is a text file, not a video")
            yield container, _video_stream(path, container)
    except av.error.FFmpegError as error:
        raise ClipError(path, f"cannot be read as a video ({_in_words(error)})") from error


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The stream's packets, and an empty one that flushes its decoder."""
    # PyAV trips over streams that appear while it reads (MPEG-TS, MPEG-PS, FLV), after its last packet (issue 692)
    with contextlib.suppress(IndexError):
        yield from container.demux(stream)


def _in_words(error: av.error.FFmpegError) -> str:
    if error.errno == errno.EPERM:  # "operation not permitted", which FFmpeg also says of data it can make nothing of
        return "invalid data"
    text = error.strerror or str(error) or type(error).__name__
    return " ".join(text.split())


def _video_stream(path: str, container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        # not from each stream's `type`: PyAV 16 ends the process where FFmpeg has no name for it
        kinds = [kind for kind in ("audio", "subtitles", "data") if getattr(container.streams, kind)]
        raise ClipError(path, f"has no video stream (only {', '.join(kinds) or 'nothing'})")
    if streams[0].codec_context is None:
        raise ClipError(path, "has a video stream that this build of FFmpeg cannot decode")
    return streams[0]


def _codec_name(stream: VideoStream) -> str:
    # the decoder's own name can differ from the codec's: libdav1d for av1
    return str(stream.codec_context.codec.canonical_name)


def _info(path: str, container: InputContainer, stream: VideoStream) -> VideoInfo:
    width, height = int(stream.codec_context.width), int(stream.codec_context.height)
    if width < 1 or height < 1:
        raise ClipError(path, "has a video stream without a frame size")
    rate = float(stream.average_rate or stream.base_rate or 0)
    frames = int(stream.frames)
    counted = frames <= 0
    duration = 0.0
    if counted:
        frames, duration, rate = _count(container, stream, rate)
    elif stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    if not counted and "mp4" in container.format.name and abs(frames - duration * rate) > 1.5:
        # an edit list leaves out frames that the header counts
        counted = True
        frames, duration, rate = _count(container, stream, rate)
    if frames < 1:
        raise ClipError(path, "has no frame")
    if duration <= 0:
        duration = frames / rate if rate > 0 else frames / 25
    return VideoInfo(path, _codec_name(stream), width, height, frames, duration, rate or frames / duration, counted)


def _count(container: InputContainer, stream: VideoStream, rate: float) -> tuple[int, float, float]:
    """Count a stream's frames from its packets: (frames, seconds, frames per second)."""
    codec, tick = _codec_name(stream), stream.time_base or Fraction(1, 90000)
    pts: list[int] = []
    dts: list[int] = []
    count, length, started = 0, 0, False
    with contextlib.suppress(av.error.FFmpegError):  # a cut file ends in an error: what came before it counts
        for packet in packets_of(container, stream):
            # nothing can be shown before the first key frame
            started = started or packet.is_keyframe
            if not packet.size or not started or packet.is_discard or _is_hidden(codec, packet):
                continue
            count += 1
            length += packet.duration or 0
            if packet.pts is not None:
                pts.append(packet.pts)
            if packet.dts is not None:
                dts.append(packet.dts)
    if len(pts) > 1 and dts == sorted(dts):  # else the clock was set back, as where files were joined
        span = max(pts) - min(pts)
        duration = float(span * tick) * count / max(count - 1, 1)
    else:
        duration = float(length * tick)
    if rate > 0 and (duration <= 0 or abs(count / rate - duration) <= 2 * tick + 0.002):
        duration = count / rate  # Matroska rounds to milliseconds, which must not cost a frame in the sampling
    elif duration > 0:
        rate = count / duration  # variable frame rate, or a rate that the header does not know (raw streams)
    return count, duration, rate


def _is_hidden(codec: str, packet: av.Packet) -> bool:
    """Whether a packet holds a frame that is decoded but never shown (an alternate reference of VP8 or VP9)."""
    if codec == "vp8":
        return not bytes(packet)[0] & 0x10
    if codec == "vp9":
        data = bytes(packet)
        if data[-1] & 0xE0 == 0xC0:  # a superframe ends in its index, and in a frame that is shown
            return False
        # frame_marker 2 bits, profile 2, (reserved 1 if profile is 3), show_existing_frame, frame_type, show_frame
        shift = 4 if data[0] & 0x30 == 0x30 else 3
        bits = data[0] << 8 | (data[1] if len(data) > 1 else 0)
        show_existing, show = bits >> (8 + shift) & 1, bits >> (8 + shift - 2) & 1
        return not (show_existing or show)
    return False


@dataclass
class _Decoded:
    frames: list[NDArray[np.uint8]]
    pts: list[float | None]
    collector: VectorCollector | None
    damage: str = ""


class _Irregular(Exception):
    """Packets and frames do not correspond one to one."""


class _Plan:
    """Leaves out the packets of pictures that are not sampled and that no other picture refers to.

    Which frame a packet will be is known as soon as no packet can follow that is shown before it.

    Args:
        wanted: the sampled frames' places in the order of presentation.
    """

    def __init__(self, wanted: set[int]) -> None:
        self.wanted = wanted
        self.shown: list[int] = []  # pts of the packets that have been read, sorted
        self.left_out: list[int] = []  # pts, sorted

    def needed(self, packets: Iterable[av.Packet], collector: VectorCollector) -> Iterator[av.Packet]:
        """The packets to decode.

        Raises:
            _Irregular: if a packet does not say when it is shown.
        """
        waiting: deque[tuple[av.Packet, int | None, bool]] = deque()
        for packet in packets:
            pts, dts = packet.pts, packet.dts
            disposable = collector.add_packet(packet)
            if packet.size and not packet.is_discard:
                if pts is None:
                    raise _Irregular
                bisect.insort(self.shown, pts)
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

    def index_of(self, pts: int | None, decoded: int) -> int:
        """A frame's place in the order of presentation, after so many decoded ones.

        Raises:
            _Irregular: if the packets promised another frame here.
        """
        if pts is None:
            raise _Irregular
        index = bisect.bisect_left(self.shown, pts)
        if self.shown[index : index + 1] != [pts] or index != decoded + bisect.bisect_left(self.left_out, pts):
            raise _Irregular
        return index


def _decode(
    info: VideoInfo,
    indices: NDArray[np.int64],
    resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None,
    with_vectors: bool,
    opened: Opened | None = None,
) -> _Decoded:
    """Decode until the last sampled frame, or until the file or the decoder ends."""
    # without B pictures there is next to nothing to leave out
    if has_vectors(info.codec) and (opened is None or opened[1].codec_context.has_b_frames):
        with contextlib.suppress(_Irregular):
            return _decode_by(_Plan(set(indices.tolist())), info, indices, resize, with_vectors, opened)
        opened = None
    return _decode_by(None, info, indices, resize, with_vectors, opened)


def _decode_by(
    plan: _Plan | None,
    info: VideoInfo,
    indices: NDArray[np.int64],
    resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None,
    with_vectors: bool,
    opened: Opened | None,
) -> _Decoded:
    wanted = set(indices.tolist())
    last = int(indices[-1])
    images: list[Future[NDArray[np.uint8]]] = []  # converted and resized while the next frames are decoded
    source = open_video(info.path) if opened is None else contextlib.nullcontext(opened)
    with ThreadPoolExecutor(1) as resizer, source as (container, stream):
        collector = None
        # Frame threads would lose and invent vectors, differently in each run. With threads of any kind FFmpeg shows
        # what is damaged in H.264 as it lay in memory, instead of concealing it.
        stream.thread_type = "NONE" if info.codec == "h264" else "SLICE"
        # else FFmpeg crops at the left in steps of 64 pixels, and the frame is not as wide as its header says
        stream.codec_context.flags |= Flags.unaligned
        if with_vectors and has_vectors(info.codec):
            stream.codec_context.options = {"flags2": "+export_mvs"}
        if plan is not None or with_vectors and has_vectors(info.codec):
            collector = VectorCollector(info.codec, stream.codec_context.extradata, info.width, info.height)
        decoded = _Decoded([], [], collector if with_vectors else None)
        if not info.counted:
            with contextlib.suppress(av.error.FFmpegError):  # a file that starts without a key frame has no such place
                container.seek(0)
        count, ended = 0, True
        try:
            for frame in _frames(container, stream, collector, plan):
                pts = frame.pts if collector is None else collector.pts_of(frame)
                index = count if plan is None else plan.index_of(pts, count)
                count += 1
                if (frame.width, frame.height) != (info.width, info.height):
                    size = f"{frame.width}x{frame.height} at frame {index}"
                    raise ClipError(info.path, f"changes its frame size from {info.width}x{info.height} to {size}")
                if plan is None:
                    decoded.pts.append(_seconds(pts, stream))
                if index in wanted:
                    images.append(resizer.submit(_image, frame, resize))
                    if decoded.collector is not None and len(images) == 1:
                        decoded.collector.see_as(*images[0].result().shape[1::-1])
                    images[-MAX_WAITING:][0].result()
                if decoded.collector is not None:
                    decoded.collector.add_frame(frame, index, index in wanted)
                # what moved before a B-frame stands in the anchor after it
                if index >= last and (decoded.collector is None or decoded.collector.last_is_anchor):
                    ended = False
                    break
        except av.error.FFmpegError as error:
            if plan is not None:
                raise _Irregular from error
            decoded.damage = f"damaged: {_in_words(error)}"
        if plan is not None:
            if ended and count + len(plan.left_out) != len(plan.shown):
                raise _Irregular
            decoded.pts = [_seconds(pts, stream) for pts in plan.shown]
        decoded.frames = [image.result() for image in images]
    return decoded


def _image(frame: av.VideoFrame, resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None) -> NDArray[np.uint8]:
    """A decoded frame in RGB, resized."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return image if resize is None else resize(image)


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


def _times(pts: Sequence[float | None], rate: float) -> NDArray[np.float64]:
    """Seconds from the first frame; where pts are missing or do not increase, from the frame rate."""
    numbers = np.arange(len(pts))
    known = np.array([time is not None for time in pts])
    seconds = np.array([np.nan if time is None else time for time in pts], dtype=np.float64)
    if known.all() and (np.diff(seconds) > 0).all():
        return np.asarray(seconds - seconds[0], np.float64)
    if known.sum() > 1 and (np.diff(seconds[known]) > 0).all():
        # some packets without pts (packed B-frames): in between the others
        filled = np.interp(numbers, numbers[known], seconds[known])
        first, last = numbers[known][[0, -1]]
        filled = np.where(numbers < first, seconds[first] - (first - numbers) / rate, filled)
        filled = np.where(numbers > last, seconds[last] + (numbers - last) / rate, filled)
        return np.asarray(filled - filled[0], np.float64)
    return numbers / rate
