"""The choice of a source of motion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from make_clips import pan_clip
from motiontune.clip import Clip, read_clip
from motiontune.errors import ClipError, ConfigError, MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion import sources
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.sources import SOURCES, motion_of, needs_vectors, predict_source


def grid_of(clip: Clip) -> VideoGrid:
    return VideoGrid(len(clip.frames) + len(clip.frames) % 2, 8, 10)


@pytest.mark.parametrize(
    ("encoder", "suffix", "source", "reason"),
    [
        ("mpeg4_b", ".mp4", "codec", "usable vectors"),
        ("mpeg2_b", ".ts", "codec", "usable vectors"),
        ("h264_1", ".mp4", "codec", "usable vectors"),
        ("h264", ".mp4", "flow", "several reference frames"),
        ("vp9", ".webm", "flow", "vp9 has no exported vectors"),
        ("hevc", ".mp4", "flow", "hevc has no exported vectors"),
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
    field = motion_of(clip, grid_of(clip), direction=direction)
    assert (field.source, field.direction) == (source, direction)
    frame = 2
    expected = (clip.indices[2] - clip.indices[1]) * np.array([3.0, -1.5]) * 140 / 160
    assert np.abs(np.median(field.vectors[frame][field.valid[frame]], axis=0) - expected).max() < 0.3


def test_a_source_by_name_does_not_fall_back(tmp_path: Path) -> None:
    path = str(pan_clip("vp9", ".webm"))
    clip = read_clip(path, fps=7.0, with_vectors=True)
    with pytest.raises(MotionUnavailable, match="vp9"):
        motion_of(clip, grid_of(clip), "codec")
    with pytest.raises(MotionUnavailable, match="no motion file"):
        motion_of(clip, grid_of(clip), "file", motion_dir=str(tmp_path))
    assert motion_of(clip, grid_of(clip), "flow").source == "flow"
    np.save(tmp_path / (Path(path).stem + ".npy"), np.ones((len(clip.frames), 8, 10, 2), np.float32))
    assert motion_of(clip, grid_of(clip), "file", motion_dir=str(tmp_path)).source == "file"
    assert predict_source(path, "codec")[0] == "codec"


def test_which_sources_need_vectors() -> None:
    assert needs_vectors("auto") and needs_vectors("codec")
    assert not needs_vectors("flow") and not needs_vectors("file")


def test_unknown_names() -> None:
    clip = read_clip(str(pan_clip("mpeg4", ".avi")), fps=2.0)
    for call in (
        lambda: motion_of(clip, grid_of(clip), "radar"),
        lambda: needs_vectors("radar"),
        lambda: predict_source(clip.path, "radar"),
    ):
        with pytest.raises(ConfigError, match="auto, codec, .*'radar'"):
            call()
    with pytest.raises(ClipError, match="does not exist"):
        predict_source("missing.mp4", "auto")


def test_another_source_slots_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def still(clip: Clip, grid: VideoGrid, direction: Direction, motion_dir: str | None) -> MotionField:
        shape = (grid.frames, grid.rows, grid.cols)
        return MotionField(np.zeros((*shape, 2), np.float32), np.ones(shape, np.bool_), np.zeros(grid.frames), "still")

    monkeypatch.setitem(SOURCES, "still", still)
    clip = read_clip(str(pan_clip("mpeg4", ".avi")), fps=2.0)
    assert motion_of(clip, grid_of(clip), "still").source == "still"
    assert not needs_vectors("still")


def test_auto_takes_flow_where_the_bitstream_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few usable pictures are not enough to leave most patches without a target."""
    clip = read_clip(str(pan_clip("mpeg4_b", ".mp4")), fps=14.0, with_vectors=True)
    grid = grid_of(clip)
    vectors = motion_of(clip, grid, "codec")
    thin = np.zeros_like(vectors.valid)
    thin[1] = vectors.valid[1]
    sparse = replace(vectors, valid=thin, vectors=np.where(thin[..., None], vectors.vectors, np.float32(0)))
    monkeypatch.setattr(sources, "codec_motion", lambda *args: sparse)
    assert motion_of(clip, grid, "auto").source == "flow"
    monkeypatch.setattr(sources, "codec_motion", lambda *args: vectors)
    assert motion_of(clip, grid, "auto").source == "codec"
