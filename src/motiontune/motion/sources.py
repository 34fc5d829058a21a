"""Which source a clip's motion comes from."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from motiontune.errors import ConfigError, MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.codec import codec_motion, codec_unusable
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.file import file_motion
from motiontune.motion.flow import flow_motion


if TYPE_CHECKING:
    from motiontune.clip import Clip


MIN_VALID_SHARE = 0.5
"""Where the bitstream says less than this share of the motion (many reference frames, say), `auto` tries flow."""

Source = Callable[["Clip", VideoGrid, Direction, str | None], MotionField]


def _auto(clip: "Clip", grid: VideoGrid, direction: Direction, motion_dir: str | None) -> MotionField:
    try:
        vectors = codec_motion(clip, grid, direction)
    except MotionUnavailable:
        return flow_motion(clip, grid, direction)
    pairs = max(len(clip.frames) - 1, 1)
    if vectors.valid.sum() >= MIN_VALID_SHARE * pairs * grid.rows * grid.cols:
        return vectors
    flow = flow_motion(clip, grid, direction)
    return flow if flow.valid.sum() > vectors.valid.sum() else vectors


# A source is a function of (clip, grid, direction, motion_dir). A new one is a new line here.
SOURCES: dict[str, Source] = {
    "auto": _auto,
    "codec": lambda clip, grid, direction, motion_dir: codec_motion(clip, grid, direction),
    "flow": lambda clip, grid, direction, motion_dir: flow_motion(clip, grid, direction),
    "file": file_motion,
}


def motion_of(
    clip: "Clip",
    grid: VideoGrid,
    source: str = "auto",
    direction: Direction = "past",
    motion_dir: str | None = None,
) -> MotionField:
    """The motion of a clip on its patch grid.

    Args:
        clip: the sampled frames, read with `with_vectors=needs_vectors(source)`.
        grid: the patch grid after all resizing.
        source: "auto" (codec vectors where they say most, else flow), "codec", "flow", "file", or the name of
            another entry in `SOURCES`. The field's own `source` says which one it was.
        direction: "past" or "future".
        motion_dir: where "file" looks for motion files; None is beside the clip.

    Raises:
        ConfigError: if there is no such source.
        MotionUnavailable: if the clip has no motion of the kind that was asked for by name.
        MotiontuneError: if a motion file is damaged or does not fit.
    """
    _check(source)
    return SOURCES[source](clip, grid, direction, motion_dir)


def needs_vectors(source: str) -> bool:
    """Whether the clip must be read with the codec's vectors.

    Raises:
        ConfigError: if there is no such source.
    """
    _check(source)
    return source in ("auto", "codec")


def predict_source(path: str, source: str) -> tuple[str, str]:
    """Which source will be taken for a file, and why, from headers alone: ("flow", "vp9 has no exported vectors").

    The decoded frames have the last word: `auto` can still end in "flow" where the headers promise vectors.

    Raises:
        ConfigError: if there is no such source.
        ClipError: if the file cannot be read.
    """
    _check(source)
    if source != "auto":
        return source, "chosen by motion_source"
    reason = codec_unusable(path)
    return ("codec", "the bitstream has usable vectors") if reason is None else ("flow", reason)


def _check(source: str) -> None:
    if source not in SOURCES:
        raise ConfigError(f"motion_source must be one of {', '.join(SOURCES)}, not {source!r}")
