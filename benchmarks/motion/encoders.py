"""Sixteen ways in which video reaches a user, and how to encode them with PyAV."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoding:
    """How to encode.

    Args:
        encoder: FFmpeg's name of the encoder.
        suffix: of the file, which chooses the container.
        options: of the encoder. PyAV ignores those that it does not know.
        attributes: of the codec context.
    """

    encoder: str
    suffix: str = ".mp4"
    options: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)


def _x264(suffix: str = ".mp4", **options: str) -> Encoding:
    return Encoding("libx264", suffix, options)


ENCODINGS: dict[str, Encoding] = {
    # preset medium, crf 23, 3 references, 3 B-frames: what `ffmpeg -i in out.mp4` gives
    "x264 default": _x264(),
    "x264 refs1 bf0": _x264(refs="1", bf="0"),
    "x264 refs3 bf0": _x264(".mkv", refs="3", bf="0"),
    "x264 veryfast": _x264(preset="veryfast"),
    "x264 slow g30": _x264(".mkv", preset="slow", g="30"),
    "x264 baseline": _x264(profile="baseline"),
    "x264 ultrafast": _x264(".ts", preset="ultrafast"),
    "x264 crf30": _x264(crf="30"),
    "x264 crf18": _x264(crf="18"),
    "mpeg4": Encoding("mpeg4", ".mp4", {}, {"bit_rate": 2_000_000}),
    "mpeg4 bf2": Encoding("mpeg4", ".mp4", {}, {"bit_rate": 2_000_000, "max_b_frames": 2}),
    "mpeg2": Encoding("mpeg2video", ".ts", {}, {"bit_rate": 3_000_000, "max_b_frames": 2, "gop_size": 15}),
    "hevc": Encoding("libx265", ".mp4", {"preset": "veryfast", "x265-params": "log-level=none:pools=1"}),
    "vp9": Encoding("libvpx-vp9", ".mkv", {"crf": "34", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    "av1": Encoding("libaom-av1", ".mp4", {"crf": "34", "b": "0", "usage": "realtime", "cpu-used": "8"}),
    "vp8": Encoding("libvpx", ".mkv", {"crf": "20", "b": "3M", "deadline": "realtime", "cpu-used": "6"}),
}


def _vp9(crf: str) -> Encoding:
    return Encoding("libvpx-vp9", ".webm", {"crf": crf, "b": "0", "deadline": "good", "cpu-used": "4"})


# Something-Something's (VP9) and a phone's own, for the rooms; and those that only ordinary rooms are encoded in
ROOM_ENCODINGS: dict[str, Encoding] = {"vp9 crf38": _vp9("38"), "x264 crf23": _x264(crf="23")}
MORE_ENCODINGS: dict[str, Encoding] = {
    "vp9 crf23": _vp9("23"),
    "vp9 crf45": _vp9("45"),
    "x264 crf38": _x264(crf="38"),
    "x264 crf45": _x264(crf="45"),
    "x264 veryslow": _x264(crf="23", preset="veryslow"),
}
# For pans whose vectors are to be as true as an encoder can make them
PRECISE: dict[str, Encoding] = {"x264 refs1 bf0 qp18": _x264(refs="1", bf="0", qp="18")}


def encode(frames: Iterable[NDArray[np.uint8]], name: str, path: Path, rate: int = 30) -> Path:
    """Write RGB frames [height, width, 3] in one of `ENCODINGS` (or the others) to a path of any name.

    In one thread: how many there are changes a file. x264 writes other bytes each time all the same (its macroblock
    tree does), which shows in the last digits of what is measured.
    """
    encoding = (ENCODINGS | PRECISE | ROOM_ENCODINGS | MORE_ENCODINGS)[name]
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(encoding.encoder, rate=rate, options=encoding.options)
        stream.codec_context.thread_count = 1
        for key, value in encoding.attributes.items():
            setattr(stream.codec_context, key, value)
        stream.pix_fmt = "yuv420p"
        for time, image in enumerate(frames):
            stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path
