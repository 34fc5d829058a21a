"""LLaMA-Factory's multimodal plugins, reading clips through `motiontune.video.clip`.

The pixels and grids stay LLaMA-Factory's own, bit for bit, for every file whose header counts its frames. Files that
do not (WebM, MKV, TS, raw streams), or count wrong (AVI), are counted, and sampled by `video_fps` like the others.
"""

import copy
import functools
import os
import weakref
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from llamafactory.data.mm_plugin import Qwen2VLPlugin, Qwen3VLPlugin
from llamafactory.data.template import Template
from llamafactory.extras.constants import VIDEO_PLACEHOLDER
from PIL import Image

from motiontune.cache import FrameCache, frames_key, motion_key
from motiontune.errors import ClipError, ConfigError
from motiontune.grid import VideoGrid
from motiontune.manifest import ClipFacts
from motiontune.model.families import FAMILIES, Family, patching_of
from motiontune.motion.options import MotionOptions
from motiontune.video.clip import Clip, Sampling, clip_from_frames, read_clip, sample_indices
from motiontune.video.container import VideoInfo, content_of, probe
from motiontune.video.vectors import Follower


def reading_settings(processor: Any) -> dict[str, Any]:
    """LLaMA-Factory's settings of sampling and resizing, which a processor carries; its defaults where it does not."""
    return {key: getattr(processor, key, default) for key, default in asdict(Sampling()).items()}


T = TypeVar("T")

HEADERS = 1024
"""Headers of clips whose video tokens are kept for each processor."""
_MADE: "weakref.WeakKeyDictionary[Any, dict[Any, Any]]" = weakref.WeakKeyDictionary()

_Plugin: Any = Qwen2VLPlugin if TYPE_CHECKING else object  # what the mixin is mixed over


def _probed(path: str, facts: ClipFacts | None) -> VideoInfo:
    """Probe a clip, once while the file stays as it is: tokenizing a sample asks for its clips several times."""
    try:
        status = os.stat(path)
    except OSError:
        return probe(path)  # which tells what is wrong
    return _probe_once(path, status.st_size, status.st_mtime_ns, facts)


@functools.lru_cache(maxsize=256)
def _probe_once(path: str, size: int, changed: int, facts: ClipFacts | None) -> VideoInfo:
    known = None if facts is None else facts.info(path)
    return probe(path) if known is None else known


class ClipReadingPlugin(_Plugin):
    """Mixed over a Qwen-VL plugin: videos come as paths, as lists of frames, or as clips that were read before.

    Attributes:
        frame_cache: where resized frames are kept, or None.
        facts: clips' headers that are known already, or None.
    """

    frame_cache: FrameCache | None = None
    facts: ClipFacts | None = None

    def read(self, video: Any, processor: Any, with_vectors: bool | Follower = False) -> Clip:
        """Decode one video as the processor's `video_*` settings say, resized as LLaMA-Factory does.

        Args:
            video: a path, or a list of frames (paths or PIL images).
            processor: carries LLaMA-Factory's `video_fps`, `video_maxlen`, `video_max_pixels`, `video_min_pixels`.
            with_vectors: also collect the codec's motion vectors, see `read_clip`.

        Raises:
            ClipError: if the video cannot be read.
        """
        settings = reading_settings(processor)
        fps, max_frames = settings["video_fps"], settings["video_maxlen"]
        limits = {"image_max_pixels": settings["video_max_pixels"], "image_min_pixels": settings["video_min_pixels"]}
        if isinstance(video, list):
            name = str(video[0]) if video and isinstance(video[0], (str, os.PathLike)) else "<frames>"
            try:
                images = self._regularize_images(video, **limits)["images"]
            except (OSError, ValueError) as error:
                raise ClipError(name, f"a frame cannot be read ({error})") from error
            return clip_from_frames([np.asarray(image) for image in images], fps, path=name)

        def resize(frame: np.ndarray) -> np.ndarray:
            return np.asarray(self._preprocess_image(Image.fromarray(frame), **limits))

        path, key = os.fspath(video), None
        if self.frame_cache is not None:
            key = frames_key(content_of(path), settings)
            kept = None if with_vectors else self.frame_cache.load(key, path)
            if kept is not None:
                return kept
        clip = read_clip(path, fps, max_frames, resize=resize, with_vectors=with_vectors)
        if self.frame_cache is not None and key is not None and key not in self.frame_cache:
            self.frame_cache.save(key, clip)
        return clip

    def motion_key(self, video: Any, processor: Any, options: MotionOptions) -> str | None:
        """The name under which a video's motion is kept, or None where it is not: lists of frames, motion files.

        Raises:
            ClipError: if the video cannot be read.
        """
        if isinstance(video, list):
            return None
        grid = {
            **patching_of(processor)._asdict(),
            "size": dict(processor.video_processor.size),
            "plugin": type(self).__name__,
        }
        return motion_key(content_of(os.fspath(video)), reading_settings(processor), grid, options)

    def grid_of(self, clip: Clip, processor: Any) -> VideoGrid:
        """Work out where the patches of a clip will lie, without running the processor."""
        patching, size = patching_of(processor), processor.video_processor.size
        frames = len(clip.frames) + len(clip.frames) % 2  # LLaMA-Factory's padding; the processor's comes after it
        height, width = self._get_qwen_video_resize(
            frames,
            *clip.frames.shape[1:3],
            patching.patch,
            patching.temporal_patch,
            patching.merge,
            size["shortest_edge"],
            size["longest_edge"],
        )
        rows, cols = height // patching.patch, width // patching.patch
        return VideoGrid(patching.padded(frames), rows, cols, *patching)

    def frames_and_rate(self, video: Any, processor: Any) -> tuple[int, float]:
        """Count the frames that will be sampled of a video, by its header; one that is repeated counts once.

        Returns:
            The number of frames, and how many of them there are per second of the video.

        Raises:
            ClipError: if the video cannot be opened.
        """
        settings = reading_settings(processor)
        if isinstance(video, list):
            return len(video), settings["video_fps"]
        info = _probed(os.fspath(video), self.facts)
        frames = len(set(sample_indices(info, settings["video_fps"], settings["video_maxlen"])))
        return frames, frames / info.duration

    def count_video_tokens(self, videos: list[Any], processor: Any) -> int:
        """Count the video tokens of one sample's videos, without decoding where they are files."""
        return sum(
            self._once("count", video, processor, functools.partial(self._count_tokens, video, processor))
            for video in videos
        )

    def _count_tokens(self, video: Any, processor: Any) -> int:
        videos = [video]
        metadata = self._get_video_token_metadata(videos, processor)
        if metadata is None:  # lists of frames
            return sum(self.grid_of(self.read(video, processor), processor).num_tokens for video in videos)
        return int(metadata["video_grid_thw"].prod(-1).sum()) // patching_of(processor).merge ** 2

    def patch_rows_and_cols(self, videos: list[Any], processor: Any) -> tuple[int, int] | None:
        """The patch grid of a sample's first video, by its header; None without one that is a file."""
        metadata = self._get_video_token_metadata(videos, processor)
        if metadata is None or len(metadata["video_grid_thw"]) == 0:
            return None
        rows, cols = metadata["video_grid_thw"][0, 1:].tolist()
        return rows, cols

    def _regularize_videos(self, videos: list[Any], **kwargs: Any) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"videos": [], "fps_per_video": [], "durations": [], "frames_indices": []}
        settings = _Settings(kwargs)
        for video in videos:
            clip = video if isinstance(video, Clip) else self.read(video, settings)
            images = [Image.fromarray(frame) for frame in clip.frames]
            if len(images) % 2:  # as LLaMA-Factory does, whose count of tokens is for an even number
                images.append(images[-1])
            info = clip.info
            out["videos"].append(images)
            out["durations"].append(info.duration)
            out["fps_per_video"].append(len(clip.frames) / info.duration)
            # Qwen3-VL divides these by video_fps again to write its timestamps
            out["frames_indices"].append([index / info.average_rate * kwargs["video_fps"] for index in clip.indices])
        return out

    def _get_qwen_video_stream_metadata(
        self, video: Any, video_fps: float, video_maxlen: int
    ) -> dict[str, Any] | None:
        if not isinstance(video, (str, os.PathLike)):
            return None
        info = _probed(os.fspath(video), self.facts)
        return {
            "width": info.width,
            "height": info.height,
            "average_fps": info.average_rate,
            "sample_indices": sample_indices(info, video_fps, video_maxlen),
        }

    def process_messages(
        self,
        messages: list[dict[str, Any]],
        images: list[Any],
        videos: list[Any],
        audios: list[Any],
        processor: Any,
    ) -> list[dict[str, Any]]:
        """Expand each video by itself: LLaMA-Factory's Qwen3-VL takes all of a sample's videos to be of one length
        and in the first turn, and otherwise fails, or trains zero steps without a word."""
        self._validate_messages(messages, images, videos, audios)
        messages = copy.deepcopy(messages)
        tokens = iter(
            [
                self._once("text", video, processor, functools.partial(self._expand, video, processor))
                for video in videos
            ]
        )
        for message in messages:
            head, *rest = message["content"].split(VIDEO_PLACEHOLDER)
            message["content"] = head + "".join(next(tokens) + part for part in rest)
        return super().process_messages(messages, images, [], audios, processor)

    def _expand(self, video: Any, processor: Any) -> str:
        """The text that stands for one video."""
        messages = [{"role": "user", "content": VIDEO_PLACEHOLDER}]
        return str(super().process_messages(messages, [], [video], [], processor)[0]["content"])

    def _once(self, what: str, video: Any, processor: Any, make: Callable[[], T]) -> T:
        """Make what depends on a video's header alone once for each header: many clips of a data set share one."""
        if not isinstance(video, (str, os.PathLike)):
            return make()
        info = _probed(os.fspath(video), self.facts)
        header = (info.width, info.height, info.frames, info.duration, info.average_rate)
        size = tuple(sorted(dict(processor.video_processor.size).items()))
        settings = (*reading_settings(processor).values(), *patching_of(processor), size, self.expand_mm_tokens)
        known = _MADE.setdefault(processor, {})
        key = (what, type(self), self.video_token, header, settings)
        if key not in known:
            if len(known) >= HEADERS:
                known.clear()
            known[key] = make()
        made: T = known[key]
        return made


class _Settings:
    """LLaMA-Factory's keyword arguments of one call, under the names that a processor carries them by."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        self.video_fps, self.video_maxlen = kwargs["video_fps"], kwargs["video_maxlen"]
        self.video_max_pixels, self.video_min_pixels = kwargs["image_max_pixels"], kwargs["image_min_pixels"]


class MotionQwen2VLPlugin(ClipReadingPlugin, Qwen2VLPlugin):
    """The tokens of a video follow each other without a break."""


class MotionQwen3VLPlugin(ClipReadingPlugin, Qwen3VLPlugin):
    """A timestamp stands before the tokens of each temporal patch."""


PLUGINS: dict[str, tuple[type, type[ClipReadingPlugin]]] = {
    "qwen2_vl": (Qwen2VLPlugin, MotionQwen2VLPlugin),
    "qwen3_vl": (Qwen3VLPlugin, MotionQwen3VLPlugin),
}
"""LLaMA-Factory's plugins and ours over them, by the names that the families know them by."""


def with_motion(template: Template, name: str | None) -> Template:
    """Return a copy of a template whose plugin reads clips through motiontune.

    Raises:
        ConfigError: if the template is for none of the supported families.
    """
    plugin = template.mm_plugin
    ours = dict(PLUGINS.values()).get(type(plugin))
    if ours is None:
        known = [f"{_listed(family.templates)} ({family.name})" for family in FAMILIES.values()]
        raise ConfigError(f"template {name} has no video tokens that motiontune knows: use {'; '.join(known)}")
    template = copy.copy(template)
    values = {field.name: getattr(plugin, field.name) for field in fields(plugin)}
    template.mm_plugin = ours(**values)
    return template


def check_template(template: Template, name: str | None, family: Family) -> None:
    """Refuse a template whose plugin writes video tokens otherwise than the model's family reads them.

    Args:
        template: of `with_motion`.
        name: the template's, for the message.
        family: the model's.

    Raises:
        ConfigError: naming the right templates.
    """
    if type(template.mm_plugin) is not PLUGINS[family.plugin][1]:
        raise ConfigError(
            f"template: {name} is not for models of type {family.model_type}: use {_listed(family.templates)}"
        )


def _listed(names: tuple[str, ...]) -> str:
    *others, last = sorted(names)
    return f"{', '.join(others)} or {last}" if others else last
