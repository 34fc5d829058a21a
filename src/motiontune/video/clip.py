"""Sampled frames of a video, their times, and the motion vectors of the bitstream."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ClipError, LimitError
from motiontune.limits import ARRAY_BYTES
from motiontune.video.container import VideoInfo, info_of, is_whole, open_video
from motiontune.video.decode import Resize, decode, times_of
from motiontune.video.vectors import CodecMotion, Follower, has_vectors


FPS, MAX_FRAMES, MAX_PIXELS = 2.0, 128, 256 * 256
"""LLaMA-Factory's own `video_fps`, `video_maxlen` and `video_max_pixels`, where none are given."""


@dataclass(frozen=True)
class Sampling:
    """How a model's clips are sampled and resized: LLaMA-Factory's keys of these names, with its defaults.

    Args:
        video_fps: sampled frames per second.
        video_maxlen: at most so many of them.
        video_max_pixels: a frame with more pixels is made smaller; None where the processor alone resizes.
        video_min_pixels: a frame with fewer pixels is made larger; None likewise.
    """

    video_fps: float = FPS
    video_maxlen: int = MAX_FRAMES
    video_max_pixels: int | None = MAX_PIXELS
    video_min_pixels: int | None = 16 * 16

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any]) -> "Sampling":
        """Pick the sampling out of a run's keys, where numbers may be text.

        Raises:
            ValueError, TypeError: on what is no number.
        """
        given = {one.name: keys[one.name] for one in fields(cls) if keys.get(one.name) is not None}
        return cls(**{name: type(getattr(cls, name))(value) for name, value in given.items()})

    @property
    def by_processor(self) -> "Sampling":
        """The same, where the model's processor alone resizes."""
        return replace(self, video_max_pixels=None, video_min_pixels=None)

    def change(self, trained: "Sampling", where: str) -> str:
        """A line about what differs from a training's sampling, or "".

        Args:
            trained: the training's.
            where: the folder or repository of what was trained.
        """
        mine, theirs = asdict(self), asdict(trained)
        changed = [name for name in mine if mine[name] != theirs[name]]
        before, now = (", ".join(f"{name} {one[name]}" for name in changed) for one in (theirs, mine))
        return f"{where} was trained with {before}: clips are sampled with {now} now." if changed else ""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Clip:
    """The sampled frames of one video, without padding. Another shape or dtype of an array is a ValueError.

    Args:
        path: the file, as the user named it (`<frames>` for a list of images).
        frames: uint8 [frames, height, width, 3] RGB, after the first resize (LLaMA-Factory's) where one was given.
        times: float64 [frames], seconds from the first frame of the stream, from pts.
        indices: int64 [frames], which frame of the stream each is, in the order of presentation. An index that
            repeats the one before it is a repeated frame: nothing moved between the two, and nothing is known.
        info: the file's header.
        codec_motion: the bitstream's vectors, in decoded (not resized) pixels; None where it was not
            asked for or the codec exports nothing.
        followed: what took these vectors in place of that while the file was decoded; None if there was nothing that
            could.
    """

    path: str
    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    indices: NDArray[np.int64]
    info: VideoInfo
    codec_motion: CodecMotion | None = field(default=None, repr=False)
    followed: Follower | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be uint8 [frames, height, width, 3], not {self.frames.dtype} {self.frames.shape}"
            )
        for name, array, dtype in (("times", self.times, np.float64), ("indices", self.indices, np.int64)):
            if array.shape != self.frames.shape[:1] or array.dtype != dtype:
                wanted = f"{np.dtype(dtype)} [{len(self.frames)}]"
                raise ValueError(f"{name} must be {wanted}, not {array.dtype} {array.shape}")

    def __repr__(self) -> str:
        count, height, width = self.frames.shape[:3]
        end = f" to {self.times[-1]:.2f} s" if count else ""
        vectors = ", with vectors" if self.codec_motion is not None or self.followed is not None else ""
        return f"Clip({self.path!r}, {count} frames of {width}x{height} px{end}, {self.info.codec}{vectors})"

    @property
    def references(self) -> int:
        """How many pictures a block's vector may refer to, at most; 0 where vectors were not read."""
        vectors = self.codec_motion or self.followed
        return 0 if vectors is None else vectors.references

    def _repr_png_(self) -> bytes:
        """The frames, for notebooks."""
        from motiontune.drawing.images import encode_image  # reading does not wait for drawing
        from motiontune.drawing.sheets import frame_sheet

        return encode_image(frame_sheet(self.path, self.frames, self.times), ".png")


def sample_indices(info: VideoInfo, fps: float, max_frames: int) -> NDArray[np.int64]:
    """Which frames LLaMA-Factory samples: `floor(duration * fps)` of them, evenly spread, at most `max_frames`."""
    wanted = max(1, math.floor(info.duration * fps))
    number = min(info.frames, max_frames, wanted)
    # truncated, as LLaMA-Factory does with the same linspace
    return np.linspace(0, info.frames - 1, number).astype(np.int64)


def read_clip(
    path: str,
    fps: float = FPS,
    max_frames: int = MAX_FRAMES,
    resize: Resize | None = None,
    with_vectors: bool | Follower = False,
) -> Clip:
    """Decode a file once: the sampled frames, and the codec's vectors between them.

    Where decoding yields one sampled frame less than the header promises, the last sampled one is repeated, as
    LLaMA-Factory's padding to an even number does.

    Args:
        path: the file.
        fps: sampled frames per second (LLaMA-Factory's `video_fps`).
        max_frames: LLaMA-Factory's `video_maxlen`.
        resize: applied to each sampled frame [height, width, 3] as it is decoded, so that only small frames are kept.
        with_vectors: also collect the codec's motion vectors: True keeps all of them, which takes some megabytes for
            each second; a `Follower` (`motiontune.motion.sources.vectors_for`) takes them as they come.

    Raises:
        ClipError: as `probe`, or if decoding ends before the sampled frames do, or frames change their size, or
            nothing can be sampled with these numbers.
    """
    _check_rate(path, fps)
    if max_frames < 1:
        raise ClipError(path, f"needs a positive number of frames, not {max_frames}")
    with open_video(path) as opened:
        info = info_of(path, *opened)
        indices = sample_indices(info, fps, max_frames)
        if resize is None:
            size = 3 * len(indices) * info.width * info.height
            if reason := ARRAY_BYTES.excess(size, f"{len(indices)} frames of {info.width}x{info.height}"):
                raise LimitError(path, reason)
        if not isinstance(with_vectors, bool) and not with_vectors.wanted(info.duration, len(indices)):
            with_vectors = False
        # counting has read the file to its end
        decoded = decode(info, indices, resize, with_vectors, None if info.counted else opened)
    seen = len(decoded.pts)
    if not decoded.damage and 0 < seen < info.frames and len(decoded.frames) < len(indices) - (not info.counted):
        # Packets are not always frames: fields in packets of their own, or frames before the first key frame. Only
        # decoding tells, so sample again among the frames that there are. As many, where the tokens were counted by a
        # header.
        fewer = replace(info, frames=seen)
        again = sample_indices(fewer, fps, max_frames)
        if info.counted or is_whole(path) and len(again) == len(indices):
            info, indices = fewer, again
            decoded = decode(info, indices, resize, with_vectors)
    missing = len(indices) - len(decoded.frames)
    if missing > 1 or not decoded.frames:
        reason = f"ends after {len(decoded.pts)} of {info.frames} frames"
        raise ClipError(path, f"{reason} ({decoded.damage or 'truncated?'}); re-encode or remove it")
    if missing == 1:
        decoded.frames.append(decoded.frames[-1])
        indices = np.append(indices[:-1], indices[-2])
    times = times_of(decoded.pts, info.average_rate)
    frames = np.stack(decoded.frames)
    motion, followed = None, None if isinstance(with_vectors, bool) else with_vectors
    if decoded.collector is not None:
        lattice, anchors = decoded.collector.lattice, decoded.collector.take(times.__getitem__)
        if followed is None:
            motion = CodecMotion.of(lattice, anchors)
        else:
            followed.begin(lattice, *frames.shape[:3])
            followed.take(times[np.unique(indices)].tolist(), anchors)
            followed.end()
    elif not has_vectors(info.codec):
        followed = None
    return Clip(path, frames, times[indices], indices, info, motion, followed)


def clip_from_frames(frames: Sequence[NDArray[np.uint8]], fps: float, path: str = "<frames>") -> Clip:
    """Make a clip of images that are sampled already.

    Args:
        frames: at least one array uint8 [height, width, 3], RGB, all of one size.
        fps: how many of them make a second.
        path: the name to use in messages.

    Raises:
        ClipError: if there is no image, one is not uint8 RGB, they differ in size, or `fps` is not positive.
    """
    if len(frames) == 0:
        raise ClipError(path, "has no frame")
    _check_rate(path, fps)
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


def _check_rate(path: str, fps: float) -> None:
    if not fps > 0 or not math.isfinite(fps):
        raise ClipError(path, f"needs a positive number of frames per second, not {fps}")


def _size(frame: NDArray[np.uint8]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
