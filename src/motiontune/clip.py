"""Open, sample and decode a video: frames, times and what the bitstream says about motion, in one pass."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


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
    """

    path: str
    codec: str
    width: int
    height: int
    frames: int
    duration: float
    average_rate: float


@dataclass(frozen=True)
class Clip:
    """The sampled frames of one video, without padding.

    Args:
        path: the file, as the user named it ("<frames>" for a list of images).
        frames: uint8 [frames, height, width, 3] RGB, after the first resize (LLaMA-Factory's) where one was given.
        times: float64 [frames], seconds from the first frame of the stream, from pts.
        indices: int64 [frames], which frame of the stream each is, in the order of presentation.
        info: the file's header.
        codec_motion: what the bitstream says about motion, in decoded (not resized) pixels; None where it was not
            asked for or the codec exports nothing.
    """

    path: str
    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    indices: NDArray[np.int64]
    info: VideoInfo
    codec_motion: "object | None" = field(default=None, repr=False)


def probe(path: str) -> VideoInfo:
    """Read a file's header; count its packets where the header has no frame count (WebM, MKV, TS, raw H.264).

    Raises:
        ClipError: if the file is missing, empty, no video, audio only, or has no frame.
    """
    raise NotImplementedError


def sample_indices(info: VideoInfo, fps: float, max_frames: int) -> NDArray[np.int64]:
    """Which frames LLaMA-Factory samples: `floor(duration * fps)` of them, evenly spread, at most `max_frames`."""
    raise NotImplementedError


def read_clip(
    path: str,
    fps: float = 2.0,
    max_frames: int = 128,
    resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    with_vectors: bool = False,
) -> Clip:
    """Decode a file once: the sampled frames, and the codec's vectors between them.

    Args:
        path: the file.
        fps: sampled frames per second (LLaMA-Factory's `video_fps`).
        max_frames: LLaMA-Factory's `video_maxlen`.
        resize: applied to each sampled frame [height, width, 3] as it is decoded, so that only small frames are kept.
        with_vectors: also collect the codec's motion vectors.

    Raises:
        ClipError: as `probe`, or if decoding ends before the sampled frames do.
    """
    raise NotImplementedError
