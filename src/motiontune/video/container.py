"""Open a video file, and find out what can be known of it without decoding a frame."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from motiontune.errors import ClipError, LimitError
from motiontune.files import as_url, known_digest
from motiontune.limits import FRAMES, PIXELS


PLAYLISTS = ("concat", "dash", "hls", "imf", "sdp")
"""FFmpeg's names of formats that read further files and addresses."""

Opened = tuple[InputContainer, VideoStream]

# old AVI files carry titles in other encodings than UTF-8; PyAV 19 no longer takes the argument
_READING: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}


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
        counted: true where the header has no frame count or a wrong one, so that `frames` and `duration` come from the
            packets.
    """

    path: str
    codec: str
    width: int
    height: int
    frames: int
    duration: float
    average_rate: float
    counted: bool = False


def probe(path: str) -> VideoInfo:
    """Read a file's header; count its packets where the header has no frame count (WebM, MKV, TS, raw H.264), and
    where it may be wrong (AVI, edit lists).

    Raises:
        ClipError: if the file is missing, empty, no video, audio only, or has no frame.
    """
    with open_video(path) as (container, stream):
        return info_of(path, container, stream)


@contextlib.contextmanager
def open_video(path: str) -> Iterator[Opened]:
    """Open a file and choose its video stream; every failure of FFmpeg inside becomes a `ClipError`."""
    check_file(path)
    try:
        # old AVI files carry titles in other encodings than UTF-8
        with av.open(as_url(path), "r", **_READING) as container:
            if container.format.name == "tty":  # FFmpeg would draw any .txt as a film of its letters
                raise ClipError(path, "is a text file, not a video")
            if container.format.name in PLAYLISTS:
                raise ClipError(path, "is a list of other files, not a video: give these")
            yield container, _video_stream(path, container)
    except av.error.FFmpegError as error:
        raise ClipError(path, f"cannot be read as a video ({in_words(error)})") from error


def check_file(path: str) -> None:
    """Refuse what is no file with something in it. Nothing is opened: a pipe would keep who opens it waiting.

    Raises:
        ClipError: that says what it is.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        link = f"is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else "does not exist"
        raise ClipError(path, link) from None
    except (OSError, ValueError) as error:
        raise ClipError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ClipError(path, f"is {kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
    if status.st_size == 0:
        raise ClipError(path, "is empty (0 bytes)")


def content_of(path: str) -> str:
    """A digest of a clip's content, read once per process while the file stays as it is.

    Raises:
        ClipError: if it cannot be read.
    """
    check_file(path)
    try:
        return known_digest(path)
    except OSError as error:
        raise ClipError(path, f"cannot be read ({error.strerror})") from error


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The stream's packets, and an empty one that flushes its decoder.

    Empty ones in between (Theora's, for a frame that is shown twice) hold no frame, and a decoder would end there.
    """
    last = None
    # PyAV trips over streams that appear while it reads (MPEG-TS, MPEG-PS, FLV), after its last packet (issue 692)
    with contextlib.suppress(IndexError):
        for packet in container.demux(stream):
            last = packet
            if packet.size:
                yield packet
    if last is not None and not last.size:
        yield last


def frames_of(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """The stream's frames."""
    for packet in packets_of(container, stream):
        yield from packet.decode()  # type: ignore[misc]


def is_whole(path: str) -> bool:
    """Whether a file is of a kind that says how long it is (AVI, MP4, MOV), and is that long."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        if start[:4] == b"RIFF":
            return 8 + int.from_bytes(start[4:], "little") <= size + 1  # an odd size is padded
        if start[4:] not in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return False
        at, length = 0, 8
        while at + 8 <= size and length >= 8:
            file.seek(at)
            box = file.read(16)
            length = int.from_bytes(box[:4], "big")
            if length == 1:
                length = int.from_bytes(box[8:], "big")
            at += length
        return at <= size


def in_words(error: av.error.FFmpegError) -> str:
    """FFmpeg's message in one line."""
    if error.errno == errno.EPERM:  # "operation not permitted", also of data that FFmpeg can make nothing of
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


def codec_name(stream: VideoStream) -> str:
    """FFmpeg's name of a stream's codec."""
    # the decoder's own name can differ from the codec's: libdav1d for av1
    return str(stream.codec_context.codec.canonical_name)


def info_of(path: str, container: InputContainer, stream: VideoStream) -> VideoInfo:
    """What `probe` returns, of a file that is open; where the header has no frame count, it is read to its end."""
    width, height = int(stream.codec_context.width), int(stream.codec_context.height)
    if width < 1 or height < 1:
        raise ClipError(path, "has a video stream without a frame size")
    if reason := PIXELS.excess(width * height, f"a frame of {width}x{height}"):
        raise LimitError(path, reason)
    rate = float(stream.average_rate or stream.base_rate or 0)
    frames = int(stream.frames)
    counted = frames <= 0
    duration = 0.0
    if counted:
        frames, duration, rate, _ = _count(container, stream, rate)
    elif stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    if not counted and "mp4" in container.format.name and abs(frames - duration * rate) > 1.5:
        # an edit list leaves out frames that the header counts
        counted = True
        frames, duration, rate, _ = _count(container, stream, rate)
    elif not counted and container.format.name == "avi" and is_whole(path):
        # it may count the places in time where nothing is; one more than there are LLaMA-Factory can read
        found = _count(container, stream, rate)
        if abs(found[3] - frames) > 1:
            counted = True
            frames, duration, rate, _ = found
    if frames < 1:
        raise ClipError(path, "has no frame")
    if reason := FRAMES.excess(frames):
        raise LimitError(path, reason)
    if duration <= 0:
        if rate <= 0 and frames > 1:
            raise ClipError(path, "has neither times nor a frame rate: write it again, into .mp4 or .mkv")
        duration = frames / (rate or 25)  # how long a single frame is shown changes nothing
    return VideoInfo(path, codec_name(stream), width, height, frames, duration, rate or frames / duration, counted)


def _count(container: InputContainer, stream: VideoStream, rate: float) -> tuple[int, float, float, int]:
    """Count a stream's frames from its packets: (frames, seconds, frames per second, packets)."""
    codec, tick = codec_name(stream), stream.time_base or Fraction(1, 90000)
    pts: list[int] = []
    dts: list[int] = []
    count, length, packets, started = 0, 0, 0, False
    with contextlib.suppress(av.error.FFmpegError):  # a cut file ends in an error: what came before it counts
        for packet in packets_of(container, stream):
            # nothing can be shown before the first key frame
            started = started or packet.is_keyframe
            packets += packet.size > 0
            if not packet.size or not started or packet.is_discard or _is_hidden(codec, packet):
                continue
            count += 1
            length += packet.duration or 0
            if packet.pts is not None:
                pts.append(packet.pts)
            if packet.dts is not None:
                dts.append(packet.dts)
    if container.format.name == "avi":  # it has no pts; those that FFmpeg makes up end too early
        pts = dts
    if len(pts) > 1 and dts == sorted(dts):  # else the clock was set back, as where files were joined
        span = max(pts) - min(pts)
        duration = float(span * tick * count / max(count - 1, 1))  # of fractions: rounding must not cost a frame
    else:
        duration = float(length * tick)
    if rate > 0 and (duration <= 0 or abs(count / rate - duration) <= 2 * tick + 0.002):
        duration = count / rate  # Matroska rounds to milliseconds, which must not cost a frame in the sampling
    elif duration > 0:
        rate = count / duration  # variable frame rate, or a rate that the header does not know (raw streams)
    return count, duration, rate, packets


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
