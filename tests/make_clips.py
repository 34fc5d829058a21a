"""All files of video and audio that tests write: clips whose motion is known, real ones encoded once more, packets
copied to another file. `encode` writes every clip; those that have a name are made once per test session."""

import atexit
import functools
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray


FOLDER = Path(tempfile.mkdtemp(prefix="motiontune-clips-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

# Formats that a suffix alone does not choose
RAW = {".h264": "h264", ".m4v": "m4v"}


@dataclass(frozen=True)
class Encoder:
    """How to encode.

    Args:
        name: FFmpeg's name of the encoder.
        options: of the encoder. PyAV ignores those that it does not know.
        attributes: of the codec context.
    """

    name: str
    options: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


ENCODERS = {
    "mpeg4": Encoder("mpeg4", {}, {"bit_rate": 1_500_000}),
    "mpeg4_b": Encoder("mpeg4", {}, {"bit_rate": 1_500_000, "max_b_frames": 2}),
    "mpeg4_b1": Encoder("mpeg4", {}, {"bit_rate": 1_500_000, "max_b_frames": 1}),
    "mpeg2": Encoder("mpeg2video", {}, {"bit_rate": 1_500_000}),
    "mpeg2_b": Encoder("mpeg2video", {}, {"bit_rate": 1_500_000, "max_b_frames": 2}),
    "mpeg1": Encoder("mpeg1video", {}, {"bit_rate": 1_500_000}),
    "h264_1": Encoder("libx264", {"x264-params": "bframes=0:ref=1:me=umh:subme=5:qp=20"}),
    "h264_1b": Encoder("libx264", {"x264-params": "bframes=3:ref=1"}),
    "h264_3": Encoder("libx264", {"x264-params": "bframes=0:ref=3"}),
    "h264_half": Encoder("libx264", {"x264-params": "bframes=0:ref=2:keyint=3:min-keyint=3:scenecut=0"}),
    "h264": Encoder("libx264"),
    "h264_refs3_b": Encoder("libx264", {"x264-params": "bframes=2:ref=3:weightp=0"}),
    "h264_baseline": Encoder("libx264", {"profile": "baseline", "x264-params": "keyint=12"}),
    "h264_gops": Encoder("libx264", {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=2"}),
    "h264_open_gop": Encoder("libx264", {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=2:scenecut=0"}),
    "h264_open": Encoder(
        "libx264",
        {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:ref=1:qp=20"},
    ),
    "h264_interlaced": Encoder("libx264", {"x264-params": "interlaced=1:bframes=0:ref=1"}),
    "h264_keys": Encoder("libx264", {"x264-params": "keyint=1"}),
    "msmpeg4v2": Encoder("msmpeg4v2", {}, {"bit_rate": 1_500_000}),
    "msmpeg4v3": Encoder("msmpeg4", {}, {"bit_rate": 1_500_000}),
    "h263": Encoder("h263", {}, {"bit_rate": 1_500_000}),
    "flv1": Encoder("flv", {}, {"bit_rate": 1_500_000}),
    "wmv1": Encoder("wmv1", {}, {"bit_rate": 1_500_000}),
    "wmv2": Encoder("wmv2", {}, {"bit_rate": 1_500_000}),
    "hevc": Encoder("libx265", {"x265-params": "log-level=none"}),
    "vp9": Encoder("libvpx-vp9", {"deadline": "realtime", "cpu-used": "5"}),
    "vp9_altref": Encoder("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "25", "b": "200k", "cpu-used": "4"}),
    "vp8": Encoder("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}),
    "mjpeg": Encoder("mjpeg", {"qscale": "3"}, {"pix_fmt": "yuvj420p"}),
    "av1": Encoder("libaom-av1", {"cpu-used": "8", "usage": "realtime"}),
}


@functools.lru_cache
def texture(seed: int = 0) -> NDArray[np.uint8]:
    """A picture [600, 800, 3] with detail at every place."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (100, 134, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (800, 600), interpolation=cv2.INTER_CUBIC), np.uint8)


def pan(
    count: int, dx: float, dy: float, size: tuple[int, int] = (160, 128), seed: int = 0
) -> list[NDArray[np.uint8]]:
    """Frames whose content moves by (dx, dy) pixels from each to the next."""
    frames = []
    for i in range(count):
        shift = np.array([[1, 0, -300 + dx * i], [0, 1, -220 + dy * i]], np.float32)
        frames.append(np.asarray(cv2.warpAffine(texture(seed), shift, size, flags=cv2.INTER_CUBIC), np.uint8))
    return frames


def encode(
    path: Path,
    encoder: str | Encoder,
    frames: Iterable[NDArray[np.uint8] | av.VideoFrame],
    rate: int = 25,
    pts: Iterable[int] | None = None,
    threads: int = 0,
) -> Path:
    """Write a clip, and return its path.

    Args:
        path: its suffix chooses the container.
        encoder: one of `ENCODERS`, or another.
        frames: uint8 [h, w, 3] of RGB, or as PyAV decoded them; a file without any has a header.
        rate: frames per second.
        pts: when each frame is shown, in units of a frame; one after the other where not given.
        threads: 0 are as many as there are cores.
    """
    encoder = ENCODERS[encoder] if isinstance(encoder, str) else encoder
    with av.open(str(path), "w", format=RAW.get(path.suffix)) as output:
        stream: Any = output.add_stream(encoder.name, rate=rate, options=encoder.options)
        stream.pix_fmt, stream.thread_count = "yuv420p", threads
        for key, value in encoder.attributes.items():
            setattr(stream.codec_context, key, value)
        for image, time in zip(frames, itertools.count() if pts is None else pts, strict=False):
            frame = image if isinstance(image, av.VideoFrame) else av.VideoFrame.from_ndarray(image, format="rgb24")
            if not stream.codec_context.is_open:  # with the first frame it has its size
                stream.height, stream.width = frame.height, frame.width
            frame.pts, frame.time_base = time, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        output.start_encoding()  # where there was a frame, this was done with the first one
    return path


def encode_silence(path: Path) -> Path:
    """Write a file that has audio and no video."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(output.default_audio_codec, rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        output.mux([*stream.encode(frame), *stream.encode()])
    return path


def remuxed(
    source: Path,
    path: Path,
    change: Callable[[int, bytes], bytes | None] = lambda number, data: data,
    earlier: int = 0,
    **options: str,
) -> Path:
    """Write a clip's packets to another file, and return its path.

    Args:
        source: the clip.
        path: the other file.
        change: makes the data of a packet from its number and data; None leaves it out.
        earlier: how many frames earlier all is shown, at 25 per second.
        options: for the container.
    """
    with (
        av.open(str(source)) as whole,
        av.open(str(path), "w", format=RAW.get(path.suffix), options=options) as target,
    ):
        stream = target.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(whole.demux(video=0)):
            data = change(number, bytes(packet)) if packet.size else None
            if data is not None:
                copy, ticks = av.Packet(data), round(earlier / 25 / packet.time_base)
                copy.time_base, copy.duration = packet.time_base, packet.duration or 0
                copy.pts = (number if packet.pts is None else packet.pts) - ticks
                copy.dts = (number if packet.dts is None else packet.dts) - ticks
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                target.mux(copy)
    return path


def encode_packed(path: Path, frames: Iterable[NDArray[np.uint8]]) -> Path:
    """Write RGB frames as DivX and Xvid do: AVI, a B picture in the packet of its anchor, and an empty packet after.

    FFmpeg reads such files and doesn't write them.
    """
    whole = encode(path.with_name(f"unpacked_{path.name}"), "mpeg4_b1", frames)
    with av.open(str(whole)) as source:
        pictures = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    kinds = [data[data.index(b"\0\0\1\xb6") + 4] >> 6 for data in pictures]

    def packed(number: int, data: bytes) -> bytes:
        if number == 0:
            mark = data.index(b"\0\0\1\xb2")
            data = data[:mark] + b"\0\0\1\xb2DivX503b1393p\0" + data[mark:]
        if kinds[number] == 2:
            return b"\0\0\1\xb6\x50\0\0"
        return data + pictures[number + 1] if kinds[number + 1 : number + 2] == [2] else data

    return remuxed(whole, path, packed)


@functools.cache
def pan_clip(encoder: str, suffix: str, dx: float = 3.0, dy: float = -1.5, count: int = 41, rate: int = 25) -> Path:
    """A file with a pan."""
    path = FOLDER / f"pan_{encoder}_{dx}_{dy}_{count}_{rate}{suffix}"
    return encode(path, encoder, pan(count, dx, dy), rate)


@functools.cache
def recoded(source: Path, encoder: str, suffix: str, count: int = 24, width: int = 320) -> Path:
    """The first frames of another file, made smaller."""
    images = []
    with av.open(str(source)) as container:
        for frame in itertools.islice(container.decode(video=0), count):
            height = round(frame.height * width / frame.width / 2) * 2
            images.append(frame.reformat(width, height).to_ndarray(format="rgb24"))
    return encode(FOLDER / f"{source.stem}_{encoder}{suffix}", encoder, images)
