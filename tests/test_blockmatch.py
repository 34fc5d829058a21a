"""The encoder as block matcher: known pans, large motion, cuts, odd sizes."""

from typing import Any

import numpy as np
import pytest

from make_clips import pan, texture
from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion import blockmatch, sources
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.patches import gray_frames
from motiontune.motion.sources import motion_of
from motiontune.video.clip import clip_from_frames


@pytest.mark.parametrize("source", ["blockmatch", "blockmatch+flow"])
@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize(
    ("dx", "dy", "within"), [(6.0, -3.0, 0.02), (2.25, 0.75, 0.02), (-3.37, 1.61, 0.2), (0, 0, 0.02)]
)
def test_a_known_pan(source: str, direction: Direction, dx: float, dy: float, within: float) -> None:
    clip = clip_from_frames(pan(5, dx, dy), 4.0)
    grid = VideoGrid(6, 8, 10, patch=16)  # 160 x 128, as it is
    field = motion_of(clip, grid, MotionOptions(source, direction))
    assert (field.source, field.direction) == (source, direction)
    inside = slice(1, 5) if direction == "past" else slice(0, 4)
    assert field.valid[inside].mean() > 0.7 and not field.valid[5].any()
    errors = np.linalg.norm(field.vectors - np.array([dx, dy]), axis=-1)[field.valid]
    assert np.median(errors) < max(within, 0.15 * (source != "blockmatch"))
    again = motion_of(clip, grid, MotionOptions(source, direction))
    np.testing.assert_array_equal(again.vectors, field.vectors)
    np.testing.assert_array_equal(again.confidence, field.confidence)


def test_a_large_motion() -> None:
    clip = clip_from_frames(pan(3, 90.0, -14.0, size=(320, 192)), 2.0)
    field = motion_of(clip, VideoGrid(4, 12, 20, patch=16), MotionOptions("blockmatch"))
    errors = np.linalg.norm(field.vectors - np.array([90.0, -14.0]), axis=-1)[field.valid]
    assert field.valid[1:3].mean() > 0.5 and np.median(errors) < 0.1


@pytest.mark.parametrize("source", ["blockmatch", "blockmatch+flow", "auto"])
@pytest.mark.parametrize(("size", "searched"), [((352, 224), {2}), ((320, 192), {1})])
def test_fast_searches_large_frames_at_half_size(
    source: str, size: tuple[int, int], searched: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, grid = clip_from_frames(pan(3, 30.0, -14.0, size=size), 2.0), VideoGrid(4, size[1] // 16, size[0] // 16, 16)
    sizes = []

    def match(*arguments: Any, smaller: int = 1) -> MotionField:
        sizes.append(arguments[5] if len(arguments) > 5 else smaller)
        return blockmatch.blockmatch_motion(*arguments[:5], smaller=sizes[-1])

    monkeypatch.setattr(sources, "blockmatch_motion", match)
    field = motion_of(clip, grid, MotionOptions(source, quality="fast"))
    assert set(sizes) == searched
    errors = np.linalg.norm(field.vectors - np.array([30.0, -14.0]), axis=-1)[field.valid]
    assert field.valid[1:3].mean() > 0.7 and np.median(errors) < 0.3
    sizes.clear()
    motion_of(clip, grid, MotionOptions(source))
    assert sizes[0] == 1


@pytest.mark.parametrize("direction", ["past", "future"])
def test_a_cut_is_invalid(direction: Direction) -> None:
    clip = clip_from_frames(pan(3, 2, 0) + pan(3, 2, 0, seed=7), 4.0)
    field = motion_of(clip, VideoGrid(6, 8, 10), MotionOptions("blockmatch+flow", direction))
    across = 3 if direction == "past" else 2
    assert not field.valid[across].any()
    assert field.valid[across - 1].any() and field.valid[across + 1].any()


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 14), (14, 2), (3, 7)])
def test_small_and_odd_grids(shape: tuple[int, int]) -> None:
    grid = VideoGrid(2, *shape, merge=1)
    frames = [texture()[40 : 40 + grid.height, at : at + grid.width] for at in (12, 10)]
    for source in ("blockmatch", "blockmatch+flow"):
        field = motion_of(clip_from_frames(frames, 2.0), grid, MotionOptions(source))
        assert np.isfinite(field.vectors).all()


def test_one_frame_has_no_motion() -> None:
    field = motion_of(clip_from_frames(pan(1, 0, 0), 2.0), VideoGrid(2, 8, 10), MotionOptions("blockmatch"))
    assert not field.valid.any()


def test_a_build_without_the_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockmatch, "ENCODER", "no_such_encoder")
    with pytest.raises(MotionUnavailable, match="needs PyAV with libx264"):
        motion_of(clip_from_frames(pan(3, 1, 0), 2.0), VideoGrid(4, 8, 10), MotionOptions("blockmatch"))


@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize("patch", [14, 15, 16])
def test_a_known_pan_in_smaller_frames(patch: int, direction: Direction) -> None:
    clip, grid = (
        clip_from_frames(pan(3, 6.0, -3.0, size=(10 * patch, 8 * patch)), 4.0),
        VideoGrid(4, 8, 10, patch=patch),
    )
    field = blockmatch.blockmatch_motion(clip, grid, direction, gray_frames(clip, grid), smaller=2)
    here = 1
    errors = np.linalg.norm(field.vectors[here] - np.array([6.0, -3.0]), axis=-1)[field.valid[here]]
    assert field.valid[here].mean() > 0.7 and np.median(errors) < 0.3
