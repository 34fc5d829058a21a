"""Optical flow: known pans, nothing to see, small frames, cuts."""

import numpy as np
import pytest

from make_clips import pan, texture
from motiontune.grid import VideoGrid
from motiontune.motion.competition import compared
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.flow import SEARCHES
from motiontune.motion.flow import flow_motion as flow_of_frames
from motiontune.motion.options import Quality
from motiontune.motion.patches import gray_frames
from motiontune.video.clip import Clip, clip_from_frames, read_clip
from real_clips import real_clip


def flow_motion(clip: Clip, grid: VideoGrid, direction: Direction = "past", quality: Quality = "best") -> MotionField:
    frames = gray_frames(clip, grid)
    return compared(flow_of_frames(clip, grid, direction, frames, quality), clip, grid, frames).above(0.8)


@pytest.mark.parametrize("quality", list(SEARCHES))
@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize(("dx", "dy"), [(6.0, -3.0), (-2.5, 1.25), (0.0, 0.0)])
def test_a_known_pan(quality: Quality, direction: Direction, dx: float, dy: float) -> None:
    clip = clip_from_frames(pan(5, dx, dy), 4.0)
    grid = VideoGrid(6, 8, 10)  # 140 x 112 pixels for 160 x 128
    field = flow_motion(clip, grid, direction, quality)
    assert (field.source, field.direction) == ("flow", direction)
    inside = slice(1, 5) if direction == "past" else slice(0, 4)
    assert field.valid[inside].mean() > 0.6
    outside = np.ones(6, np.bool_)
    outside[inside] = False
    assert not field.valid[outside].any()
    errors = np.linalg.norm(field.vectors - np.array([dx, dy]) * 140 / 160, axis=-1)[field.valid]
    assert np.median(errors) < (0.1 if quality == "best" else 0.2) and np.percentile(errors, 95) < 0.5
    again = flow_motion(clip, grid, direction, quality)
    np.testing.assert_array_equal(again.vectors, field.vectors)
    np.testing.assert_array_equal(again.valid, field.valid)
    np.testing.assert_array_equal(field.times, [0, 0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("level", [0, 128, 255])
def test_frames_without_texture(level: int) -> None:
    clip = clip_from_frames([np.full((90, 120, 3), level, np.uint8)] * 4, 2.0)
    field = flow_motion(clip, VideoGrid(4, 6, 8))
    assert np.abs(field.vectors).max() < 1e-3


def test_one_frame() -> None:
    field = flow_motion(clip_from_frames(pan(1, 0, 0), 2.0), VideoGrid(2, 8, 10))
    assert not field.valid.any()


# DIS crashes the process for some of these when they are not padded
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 14), (14, 2), (2, 80), (3, 7)])
@pytest.mark.parametrize("quality", list(SEARCHES))
def test_small_and_narrow_frames(shape: tuple[int, int], quality: Quality) -> None:
    rows, cols = shape
    grid = VideoGrid(2, rows, cols, merge=1)
    frames = [texture()[40 : 40 + grid.height, at : at + min(grid.width, 700)] for at in (12, 10)]
    field = flow_motion(clip_from_frames(frames, 2.0), grid, quality=quality)
    assert np.isfinite(field.vectors).all()
    if min(shape) > 1:
        moved = 2.0 * grid.width / frames[0].shape[1]
        assert field.valid[1].mean() > 0.3
        assert np.median(np.abs(field.vectors[1][field.valid[1]] - [moved, 0])) < 0.3


def test_tiny_images() -> None:
    frames = [texture()[:5, i : i + 7] for i in range(2)]
    assert np.isfinite(flow_motion(clip_from_frames(frames, 2.0), VideoGrid(2, 2, 2)).vectors).all()


@pytest.mark.parametrize("direction", ["past", "future"])
def test_a_cut_is_invalid(direction: Direction) -> None:
    clip = clip_from_frames(pan(3, 2, 0) + pan(3, 2, 0, seed=7), 4.0)
    field = flow_motion(clip, VideoGrid(6, 8, 10), direction)
    across = 3 if direction == "past" else 2
    assert not field.valid[across].any()
    assert field.valid[across - 1].any() and field.valid[across + 1].any()


def test_a_cut_between_real_clips_is_invalid() -> None:
    a, b = (read_clip(str(real_clip(name)), max_frames=2).frames[0] for name in ("bikes.mp4", "b.mp4"))
    clip = clip_from_frames([a[:256, :448], b[:256, :448]], 2.0)
    assert not flow_motion(clip, VideoGrid(2, 18, 32)).valid.any()


def test_a_repeated_frame_is_invalid() -> None:
    clip = read_clip(str(real_clip("b.avi")), fps=2.0)
    field = flow_motion(clip, VideoGrid(len(clip.frames) + len(clip.frames) % 2, 10, 18))
    assert clip.indices[-1] == clip.indices[-2] and not field.valid[len(clip.frames) - 1].any()
