"""Which source a clip's motion comes from."""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ConfigError, MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.blockmatch import blockmatch_motion
from motiontune.motion.codec import Following, codec_motion, codec_unusable
from motiontune.motion.competition import Competition, compared
from motiontune.motion.field import MotionField
from motiontune.motion.file import file_motion
from motiontune.motion.flow import flow_motion
from motiontune.motion.options import MotionOptions
from motiontune.motion.pairs import neighbours
from motiontune.motion.patches import gray_frames
from motiontune.motion.provider import is_provider, load_provider, provided_motion
from motiontune.motion.raft import raft_motion
from motiontune.video.clip import FPS, MAX_FRAMES, Clip
from motiontune.video.container import VideoInfo
from motiontune.video.vectors import Follower


SMALLEST = 8
"""Pixels that each side of a clip's own frames must have: what is smaller than a block has nothing to be found by."""

LARGE = 200
"""Pixels of the shorter side of a frame from which on a fast block match searches it at half size alone."""

Frames = list[NDArray[np.uint8]]
Source = Callable[[Clip, VideoGrid, MotionOptions, Frames], MotionField]

NO_SOURCE = "none"
"""Stands for no source, where a comparison may have none."""

USABLE, USABLE_SHARE = 0.3, 0.5
"""Where less than this share of the bitstream's vectors has that much confidence of its own (fields, lost references),
`auto` goes by the pixels from the start."""


def _codec(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
    return codec_motion(clip, grid, options.direction)


def _blockmatch(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
    return blockmatch_motion(clip, grid, options.direction, frames, smaller=_sizes(grid, options)[0])


def _flow(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
    return flow_motion(clip, grid, options.direction, frames, options.quality)


def _raft(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
    return raft_motion(clip, grid, options.direction, options.raft_weights)


def _compared(first: Source) -> Source:
    def source(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
        return compared(first(clip, grid, options, frames), clip, grid, frames)

    return source


def _codec_and_flow(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
    competition = Competition(_codec(clip, grid, options, frames), clip, grid, frames)
    competition.refine(options.quality)
    return competition.field()


def _blockmatch_and_flow(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
    competition = Competition(_blockmatch(clip, grid, options, frames), clip, grid, frames)
    _match_what_is_open(competition, clip, grid, options, frames, _sizes(grid, options)[1:])
    competition.refine(options.quality)
    return competition.field()


def _auto(clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames) -> MotionField:
    try:
        vectors = _codec(clip, grid, options, frames)
    except MotionUnavailable:
        return _blockmatch_and_flow(clip, grid, options, frames)
    usable = (vectors.confidence > USABLE).mean(axis=(1, 2))
    pairs = dict(neighbours(clip, options.direction))
    if pairs and usable[[*pairs]].mean() < USABLE_SHARE:
        return _blockmatch_and_flow(clip, grid, options, frames)
    competition = Competition(vectors, clip, grid, frames)
    with contextlib.suppress(MotionUnavailable):  # no x264
        _match_what_is_open(competition, clip, grid, options, frames, _sizes(grid, options))
    competition.refine(options.quality)
    return competition.field()


def _sizes(grid: VideoGrid, options: MotionOptions) -> tuple[int, ...]:
    """By how much frames are made smaller for block matches, which take more time than anything else, one by one."""
    return (2,) if options.quality == "fast" and min(grid.height, grid.width) >= LARGE else (1, 2)


def _match_what_is_open(
    competition: Competition, clip: Clip, grid: VideoGrid, options: MotionOptions, frames: Frames, sizes: Sequence[int]
) -> None:
    """Let block matches compete for what is still open, each of frames that are made smaller by so much."""
    for smaller in sizes:
        wanted = competition.open_frames("blockmatch")
        if wanted:
            matched = blockmatch_motion(clip, grid, options.direction, frames, wanted, smaller)
            competition.add(matched, wanted)


# Each gives its vectors the probability that they are true, see `confidence.py`. A new one is a new line here.
SOURCES: dict[str, Source] = {
    "auto": _auto,
    "codec": _compared(_codec),
    "codec+flow": _codec_and_flow,
    "blockmatch": _compared(_blockmatch),
    "blockmatch+flow": _blockmatch_and_flow,
    "flow": _compared(_flow),
    "raft": _compared(_raft),
}


def motion_of(clip: Clip, grid: VideoGrid | None = None, options: MotionOptions | None = None) -> MotionField:
    """The motion of a clip on its patch grid.

    Args:
        clip: the sampled frames, read with `with_vectors=vectors_for(options, grid_of)`, or `needs_vectors(source)`.
        grid: the patch grid after all resizing; None is that of the clip's own size, see `VideoGrid.for_size`.
        options: source, direction, quality and so on. The field's own `source` names the one that was taken.

    Raises:
        ConfigError: if there is no such source, or it lacks what it needs for any clip.
        MotionUnavailable: if the clip has no motion of the kind that was asked for by name.
        MotiontuneError: if a motion file is damaged or does not fit, or the user's own function fails.
        ValueError: if the grid and the clip do not have the same frames.
    """
    grid = grid or VideoGrid.for_size(*clip.frames.shape[:3])
    options = options or MotionOptions()
    check_source(options.source)
    if options.source == "file":
        field = file_motion(clip, grid, options.direction, options.motion_dir)
    elif is_provider(options.source):
        field = provided_motion(options.source, clip, grid, options.direction)
    elif min(clip.info.width, clip.info.height) < SMALLEST:
        raise MotionUnavailable(
            f"{clip.path}: its frames of {clip.info.width}x{clip.info.height} px are too small to search: a side must "
            f"have {SMALLEST}"
        )
    else:
        field = SOURCES[options.source](clip, grid, options, gray_frames(clip, grid))
    return field.above(options.min_confidence)


def needs_vectors(source: str) -> bool:
    """Whether the clip must be read with the codec's vectors.

    Raises:
        ConfigError: if there is no such source.
    """
    check_source(source)
    if is_provider(source):
        return bool(getattr(load_provider(source), "needs_vectors", False))
    return source in ("auto", "codec", "codec+flow")


def vectors_for(options: MotionOptions, grid_of: Callable[[Clip], VideoGrid]) -> bool | Follower:
    """How to read one clip for its motion: the `with_vectors` of `read_clip` and of a `Reader`.

    The codec's vectors are followed while the clip is decoded, which takes as much memory for an hour as for a minute.
    Only a user's own source gets all of them.

    Args:
        options: of `motion_of`.
        grid_of: the patch grid of the clip, by the number and size of its frames.

    Raises:
        ConfigError: if there is no such source.
    """
    if is_provider(options.source) or not needs_vectors(options.source):
        return needs_vectors(options.source)

    def of_size(frames: int, height: int, width: int) -> VideoGrid:
        nothing = np.broadcast_to(np.uint8(0), (frames, height, width, 3))
        info = VideoInfo("<frames>", "images", width, height, frames, 0.0, 0.0)
        return grid_of(Clip(info.path, nothing, np.zeros(frames), np.arange(frames), info))

    return Following(of_size, options.direction)


def predict_source(path: str, source: str, fps: float = FPS, max_frames: int = MAX_FRAMES) -> tuple[str, str]:
    """Which source will be taken for a file, and why, from headers alone: ("codec", "chosen by motion_source").

    Only decoding is certain: `auto` can still end in blockmatch+flow where the headers look like usable vectors.

    Args:
        path: the file.
        source: `motion_source`.
        fps: sampled frames per second.
        max_frames: at most so many of them.

    Raises:
        ConfigError: if there is no such source.
        ClipError: if the file cannot be read.
    """
    check_source(source)
    if source != "auto":
        return source, "chosen by motion_source"
    reason = codec_unusable(path, fps, max_frames)
    return ("codec+flow", "the bitstream has usable vectors") if reason is None else ("blockmatch+flow", reason)


def check_source(source: str) -> None:
    """Refuse a name that is no source.

    Raises:
        ConfigError: naming those that there are, or what is wrong with the user's own.
    """
    if is_provider(source):
        load_provider(source)
    elif source != "file" and source not in SOURCES:
        names = ", ".join([*SOURCES, "file"])
        raise ConfigError(f"motion_source: {source!r} is none of {names}, FILE.py:FUNCTION")
