"""Renders clips whose motion is known, and re-encodes real ones, with PyAV; made once per test session."""

import atexit
import functools
import itertools
import shutil
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray


FOLDER = Path(tempfile.mkdtemp(prefix="motiontune-clips-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

# name: (FFmpeg's encoder, its options, attributes of the codec context). PyAV ignores options that it does not know.
ENCODERS: dict[str, tuple[str, dict[str, str], dict[str, int]]] = {
    "mpeg4": ("mpeg4", {}, {"bit_rate": 1_500_000}),
    "mpeg4_b": ("mpeg4", {}, {"bit_rate": 1_500_000, "max_b_frames": 2}),
    "mpeg4_b1": ("mpeg4", {}, {"bit_rate": 1_500_000, "max_b_frames": 1}),
    "mpeg2": ("mpeg2video", {}, {"bit_rate": 1_500_000}),
    "mpeg2_b": ("mpeg2video", {}, {"bit_rate": 1_500_000, "max_b_frames": 2}),
    "mpeg1": ("mpeg1video", {}, {"bit_rate": 1_500_000}),
    "h264_1": ("libx264", {"x264-params": "bframes=0:ref=1:me=umh:subme=5:qp=20"}, {}),
    "h264_1b": ("libx264", {"x264-params": "bframes=3:ref=1"}, {}),
    "h264_3": ("libx264", {"x264-params": "bframes=0:ref=3"}, {}),
    "h264_half": ("libx264", {"x264-params": "bframes=0:ref=2:keyint=3:min-keyint=3:scenecut=0"}, {}),
    "h264": ("libx264", {}, {}),
    "h264_refs3_b": ("libx264", {"x264-params": "bframes=2:ref=3:weightp=0"}, {}),
    "h264_baseline": ("libx264", {"profile": "baseline", "x264-params": "keyint=12"}, {}),
    "h264_gops": ("libx264", {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=2"}, {}),
    "h264_open_gop": ("libx264", {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=2:scenecut=0"}, {}),
    "h264_interlaced": ("libx264", {"x264-params": "interlaced=1:bframes=0:ref=1"}, {}),
    "h264_keys": ("libx264", {"x264-params": "keyint=1"}, {}),
    "msmpeg4v2": ("msmpeg4v2", {}, {"bit_rate": 1_500_000}),
    "msmpeg4v3": ("msmpeg4", {}, {"bit_rate": 1_500_000}),
    "h263": ("h263", {}, {"bit_rate": 1_500_000}),
    "flv1": ("flv", {}, {"bit_rate": 1_500_000}),
    "wmv1": ("wmv1", {}, {"bit_rate": 1_500_000}),
    "wmv2": ("wmv2", {}, {"bit_rate": 1_500_000}),
    "hevc": ("libx265", {"x265-params": "log-level=none"}, {}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "5"}, {}),
    "vp9_altref": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "25", "b": "200k", "cpu-used": "4"}, {}),
    "vp8": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}, {}),
    "av1": ("libaom-av1", {"cpu-used": "8", "usage": "realtime"}, {}),
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
    encoder: str,
    frames: Iterable[NDArray[np.uint8]],
    rate: int = 25,
    pts: Iterable[int] | None = None,
    container: str | None = None,
    threads: int = 0,
) -> Path:
    """Write RGB frames with one of `ENCODERS`, `pts` in units of a frame; 0 threads are as many as there are cores."""
    name, options, attributes = ENCODERS[encoder]
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(name, rate=rate, options=options)
        for key, value in attributes.items():
            setattr(stream.codec_context, key, value)
        stream.pix_fmt, stream.thread_count = "yuv420p", threads
        for image, time in zip(frames, itertools.count() if pts is None else pts, strict=False):
            stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def encode_packed(path: Path, frames: Iterable[NDArray[np.uint8]]) -> Path:
    """Write RGB frames as DivX and Xvid do: AVI, a B picture in the packet of its anchor, and an empty packet after.

    FFmpeg reads such files and doesn't write them.
    """
    whole = encode(path.with_name(f"unpacked_{path.name}"), "mpeg4_b1", frames)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        pictures = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        mark = pictures[0].index(b"\0\0\1\xb2")
        pictures[0] = pictures[0][:mark] + b"\0\0\1\xb2DivX503b1393p\0" + pictures[0][mark:]
        kinds = [data[data.index(b"\0\0\1\xb6") + 4] >> 6 for data in pictures]
        for number, data in enumerate(pictures):
            if kinds[number] == 2:
                data = b"\0\0\1\xb6\x50\0\0"
            elif kinds[number + 1 : number + 2] == [2]:
                data += pictures[number + 1]
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.dts, packet.pts = stream, Fraction(1, 25), number, number
            packet.is_keyframe = kinds[number] == 0
            target.mux(packet)
    return path


@functools.cache
def pan_clip(encoder: str, suffix: str, dx: float = 3.0, dy: float = -1.5, count: int = 41, rate: int = 25) -> Path:
    """A file with a pan."""
    path = FOLDER / f"pan_{encoder}_{dx}_{dy}_{count}_{rate}{suffix}"
    return encode(path, encoder, pan(count, dx, dy), rate, container="h264" if suffix == ".h264" else None)


@functools.cache
def recoded(source: Path, encoder: str, suffix: str, count: int = 24, width: int = 320) -> Path:
    """The first frames of another file, made smaller."""
    images = []
    with av.open(str(source)) as container:
        for frame in itertools.islice(container.decode(video=0), count):
            height = round(frame.height * width / frame.width / 2) * 2
            images.append(frame.reformat(width, height).to_ndarray(format="rgb24"))
    return encode(FOLDER / f"{source.stem}_{encoder}{suffix}", encoder, images)
