"""The choice of a source of motion."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from make_clips import pan, pan_clip
from motiontune.errors import ClipError, ConfigError, MotiontuneError, MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import SOURCES, motion_of, needs_vectors, predict_source
from motiontune.video.clip import Clip, clip_from_frames, read_clip


def grid_of(clip: Clip) -> VideoGrid:
    return VideoGrid(len(clip.frames) + len(clip.frames) % 2, 8, 10)


@pytest.mark.parametrize(
    ("encoder", "suffix", "source", "reason"),
    [
        ("mpeg4_b", ".mp4", "codec+flow", "usable vectors"),
        ("mpeg2_b", ".ts", "codec+flow", "usable vectors"),
        ("h264_1", ".mp4", "codec+flow", "usable vectors"),
        ("h264", ".mp4", "codec+flow", "usable vectors"),
        ("h264_interlaced", ".mp4", "blockmatch+flow", "interlaced"),
        ("vp9", ".webm", "blockmatch+flow", "vp9 has no exported vectors"),
        ("hevc", ".mp4", "blockmatch+flow", "hevc has no exported vectors"),
    ],
)
@pytest.mark.parametrize("direction", ["past", "future"])
def test_auto_takes_vectors_where_they_are_usable(
    encoder: str, suffix: str, source: str, reason: str, direction: Direction
) -> None:
    path = str(pan_clip(encoder, suffix))
    foretold, why = predict_source(path, "auto")
    assert foretold == source and reason in why
    clip = read_clip(path, fps=14.0, with_vectors=needs_vectors("auto"))  # two frames apart
    field = motion_of(clip, grid_of(clip), MotionOptions(direction=direction))
    assert (field.source, field.direction) == (source, direction)
    frame = 2
    expected = (clip.indices[2] - clip.indices[1]) * np.array([3.0, -1.5]) * 140 / 160
    assert np.abs(np.median(field.vectors[frame][field.valid[frame]], axis=0) - expected).max() < 0.3


def test_a_source_by_name_does_not_fall_back(tmp_path: Path) -> None:
    path = str(pan_clip("vp9", ".webm"))
    clip = read_clip(path, fps=7.0, with_vectors=True)
    with pytest.raises(MotionUnavailable, match="vp9"):
        motion_of(clip, grid_of(clip), MotionOptions("codec"))
    with pytest.raises(MotionUnavailable, match="no motion file"):
        motion_of(clip, grid_of(clip), MotionOptions("file", motion_dir=str(tmp_path)))
    assert motion_of(clip, grid_of(clip), MotionOptions("flow")).source == "flow"
    np.save(tmp_path / (Path(path).stem + ".npy"), np.ones((len(clip.frames), 8, 10, 2), np.float32))
    assert motion_of(clip, grid_of(clip), MotionOptions("file", motion_dir=str(tmp_path))).source == "file"
    assert predict_source(path, "codec")[0] == "codec"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"direction": "sideways"}, "motion_direction: 'sideways' is none of past, future"),
        ({"quality": "fastest"}, "motion_quality: 'fastest' is none of"),
        ({"min_confidence": 1.0}, "motion_min_confidence: 1.0"),
    ],
)
def test_options_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MotionOptions(**wrong)


def test_which_sources_need_vectors() -> None:
    by_vectors = {source for source in [*SOURCES, "file"] if needs_vectors(source)}
    assert by_vectors == {"auto", "codec", "codec+flow"}
    # a clip without vectors has all that the others need
    clip = clip_from_frames(pan(3, 2, 1), 4.0)
    for source in set(SOURCES) - {"raft"}:
        if source in by_vectors - {"auto"}:
            with pytest.raises(MotionUnavailable):
                motion_of(clip, grid_of(clip), MotionOptions(source))
        else:
            assert motion_of(clip, grid_of(clip), MotionOptions(source)).valid.any()


def test_sources_are_light_to_import() -> None:
    code = "import sys, motiontune.motion.sources; print([name for name in HEAVY if name in sys.modules])"
    heavy = ["torch", "torchvision", "transformers", "llamafactory", "matplotlib", "PIL", "datasets"]
    done = subprocess.run([sys.executable, "-c", f"HEAVY = {heavy}; {code}"], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_unknown_names() -> None:
    clip = read_clip(str(pan_clip("mpeg4", ".avi")), fps=2.0)
    for call in (
        lambda: motion_of(clip, grid_of(clip), MotionOptions("radar")),
        lambda: needs_vectors("radar"),
        lambda: predict_source(clip.path, "radar"),
    ):
        with pytest.raises(ConfigError, match="'radar' is none of auto, codec, "):
            call()
    with pytest.raises(ClipError, match="does not exist"):
        predict_source("missing.mp4", "auto")


def test_auto_goes_by_the_pixels_where_the_bitstream_says_little() -> None:
    """A few usable pictures are not enough to leave most patches without a target."""
    clip = read_clip(str(pan_clip("h264_1", ".mp4")), fps=14.0, with_vectors=True)
    assert clip.codec_motion is not None
    assert motion_of(clip, grid_of(clip)).source == "codec+flow"
    # as if what comes after the first third were interlaced
    confidence = np.where(clip.codec_motion.times < 0.5, 1.0, 0.2)
    thin = replace(clip, codec_motion=replace(clip.codec_motion, confidence=confidence))
    assert motion_of(thin, grid_of(thin), MotionOptions("codec")).valid.any()
    assert motion_of(thin, grid_of(thin)).source == "blockmatch+flow"


def test_less_confidence_less_valid() -> None:
    clip = read_clip(str(pan_clip("mpeg1", ".mpg")), fps=7.0, with_vectors=True)
    fields = [motion_of(clip, grid_of(clip), MotionOptions("codec", min_confidence=least)) for least in (0, 0.3, 0.6)]
    shares = [field.valid.mean() for field in fields]
    assert shares[0] > shares[1] > shares[2] > 0
    for field, least in zip(fields, (0, 0.3, 0.6), strict=True):
        assert (field.valid == (field.confidence > least)).all()


def test_the_example_of_other_targets() -> None:
    clip = clip_from_frames([np.full((112, 140, 3), level, np.uint8) for level in (10, 30, 25)], 4.0)
    own = Path(__file__).parents[1] / "examples/frame_difference.py"
    field = motion_of(clip, grid_of(clip), MotionOptions(f"{own}:energy"))
    assert field.valid[1:3].all() and not field.valid[[0, 3]].any() and field.source == "frame difference"
    assert (field.vectors[1] == [20, 20]).all() and (field.vectors[2] == [5, -5]).all()
    forecast = motion_of(clip, grid_of(clip), MotionOptions(f"{own}:energy", "future"))
    assert (forecast.vectors[:2] == field.vectors[1:3]).all()


OWN = """
import cv2
import numpy as np
from motiontune.motion.field import MotionField

def still(clip, grid, direction):
    shape = (grid.frames, grid.rows, grid.cols)
    zero, times = np.zeros((*shape, 2), np.float32), np.zeros(grid.frames)
    return MotionField(zero, np.ones(shape, bool), times, "still", direction)

def past(clip, grid, direction):
    return still(clip, grid, "past")

def with_vectors(clip, grid, direction):
    assert clip.codec_motion is not None
    return still(clip, grid, direction)

with_vectors.needs_vectors = True

def fails(clip, grid, direction):
    return 1 / 0

def other(clip, grid, direction):
    return np.zeros(3)

def small(clip, grid, direction):
    return MotionField(np.zeros((1, 2, 2, 2), np.float32), np.ones((1, 2, 2), bool), np.zeros(1), "small")
"""


def test_a_function_of_the_users_is_a_source(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    clip = read_clip(str(pan_clip("mpeg4", ".avi")), fps=2.0)
    for direction in ("past", "future"):
        field = motion_of(clip, grid_of(clip), MotionOptions(f"{file}:still", direction))
        assert (field.source, field.direction) == ("still", direction) and field.valid.all()
    assert not needs_vectors(f"{file}:still") and needs_vectors(f"{file}:with_vectors")
    assert predict_source(clip.path, f"{file}:still") == (f"{file}:still", "chosen by motion_source")
    for name, reason in (("fails", "ZeroDivisionError"), ("other", "returned ndarray"), ("small", "the grid is")):
        with pytest.raises(MotiontuneError, match=reason) as caught:
            motion_of(clip, grid_of(clip), MotionOptions(f"{file}:{name}"))
        assert str(caught.value).startswith(clip.path) and "\n" not in str(caught.value)
    assert motion_of(clip, grid_of(clip), MotionOptions(f"{file}:past")).valid.all()
    with pytest.raises(MotiontuneError, match="returned motion of the past, asked for future"):
        motion_of(clip, grid_of(clip), MotionOptions(f"{file}:past", "future"))
    with pytest.raises(ConfigError, match="did you mean 'still'"):
        needs_vectors(f"{file}:stil")
    with pytest.raises(ConfigError, match="does not exist"):
        needs_vectors("missing.py:still")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(ConfigError, match="cannot be imported: No module named"):
        needs_vectors(f"{tmp_path / 'broken.py'}:still")


@pytest.mark.parametrize("source", ["codec", "codec+flow", "blockmatch+flow"])
def test_thirty_runs_give_the_same_bits(source: str) -> None:
    """Whatever the number of threads, and of clips that are read at the same time."""
    path = str(pan_clip("h264", ".mp4"))

    def run(threads: int) -> bytes:
        cv2.setNumThreads(threads)
        clip = read_clip(path, fps=7.0, with_vectors=True)
        field = motion_of(clip, grid_of(clip), MotionOptions(source, min_confidence=0))
        return clip.frames.tobytes() + field.vectors.tobytes() + field.confidence.tobytes()

    before = cv2.getNumThreads()
    try:
        alone = [run(1 + number % 4) for number in range(18)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(run, [2] * 12))
    finally:
        cv2.setNumThreads(before)
    assert len(alone + together) == 30 and len(set(alone + together)) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_a_clip_of_some_pixels_has_no_motion(source: str) -> None:
    frames = [np.full((4, 40, 3), 20 * k, np.uint8) for k in range(4)]
    clip = clip_from_frames(frames, fps=4.0)
    with pytest.raises(MotionUnavailable, match="its frames of 40x4 px are too small to search: a side must have 8"):
        motion_of(clip, VideoGrid(4, 2, 2), MotionOptions(source))
