"""Sources compete at each patch: the right vector wins, whoever has it."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from make_clips import pan
from motiontune.grid import VideoGrid
from motiontune.motion import competition
from motiontune.motion.competition import Competition
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.flow import flow_motion
from motiontune.motion.options import MotionOptions
from motiontune.motion.patches import gray_frames
from motiontune.motion.sources import motion_of
from motiontune.video.clip import Clip, clip_from_frames


def competition_of(fields: Sequence[MotionField], clip: Clip, grid: VideoGrid) -> Competition:
    found = Competition(fields[0], clip, grid, gray_frames(clip, grid))
    for field in fields[1:]:
        found.add(field)
    return found


def refined(fields: Sequence[MotionField], clip: Clip, grid: VideoGrid) -> MotionField:
    found = competition_of(fields, clip, grid)
    found.refine("balanced")
    return found.field()


def told(way: NDArray[np.float32], name: str, direction: Direction = "past") -> MotionField:
    """A source that says so of two frames, float32 [R, C, 2]."""
    vectors, confidence = np.zeros((2, *way.shape), np.float32), np.zeros((2, *way.shape[:2]), np.float32)
    here = 1 if direction == "past" else 0
    vectors[here], confidence[here] = way, 0.9
    return MotionField.from_confidence(vectors, confidence, np.array([0.0, 0.5]), name, direction)


@pytest.mark.parametrize("direction", ["past", "future"])
def test_each_is_right_in_its_half(direction: Direction) -> None:
    """A pan that is too large for the flow: one source has it on the left, another one on the right."""
    clip, grid = clip_from_frames(pan(2, 41.0, -20.0), 2.0), VideoGrid(2, 8, 10, patch=16)
    way, here = np.float32([41.0, -20.0]), 1 if direction == "past" else 0
    left = np.broadcast_to(way, (8, 10, 2)).copy()
    right = left.copy()
    left[:, 6:], right[:, :6] = -way, -way
    fields = [told(left, "left", direction), told(right, "right", direction)]
    for order in (fields, fields[::-1]):
        assert competition_of(order, clip, grid).field().source == "left"
        field = refined(order, clip, grid).above(0.8)
        # what leaves the picture, or was not in it before, has no motion
        inside = field.valid[here, 2:6, 3:7]
        assert inside.mean() > 0.8 and np.abs(field.vectors[here, 2:6, 3:7][inside] - way).max() < 0.2
        assert field.source == "left+flow"
    alone = competition_of(fields[1:], clip, grid).field().above(0.6)
    assert alone.valid[here, 2:6, 3:6].mean() < 0.3


def test_a_rival_costs_confidence() -> None:
    """Of two vectors that fit alike at least one is wrong; a near one is no rival."""
    stripes = np.tile(np.repeat(np.uint8([40, 200]), 24), 4)
    frame = np.dstack([np.tile(stripes, (128, 1))] * 3)
    noise = np.random.default_rng(0).normal(0, 2, (2, *frame.shape))
    clip, grid = (
        clip_from_frames(list((frame + noise).clip(0, 255).astype(np.uint8)), 2.0),
        VideoGrid(2, 8, 12, patch=16),
    )
    still, by_a_stripe = (np.broadcast_to(np.float32([x, 0]), (8, 12, 2)).copy() for x in (0, 48))
    alone = competition_of([told(still, "still")], clip, grid).field().confidence[1, :, 4:8]
    near = competition_of([told(still, "still"), told(still + 1, "near")], clip, grid).field().confidence[1, :, 4:8]
    rivals = competition_of([told(still, "still"), told(by_a_stripe, "far")], clip, grid).field().confidence[1, :, 4:8]
    assert (near >= alone).all() and (rivals <= 0.51).all()


def test_which_frames_are_open() -> None:
    """Where the first source is right there is nothing to look for, nor across a cut."""
    way, grid = np.float32([6.0, -3.0]), VideoGrid(2, 8, 10, patch=16)
    clip = clip_from_frames(pan(2, *way), 2.0)
    right = np.broadcast_to(way, (8, 10, 2)).copy()
    assert competition_of([told(right, "right")], clip, grid).open_frames("blockmatch") == []
    for wrong, found in ((2, []), (5, [1])):
        some = right.copy()
        some[:, :wrong] += 20
        assert competition_of([told(some, "some")], clip, grid).open_frames("blockmatch") == found, wrong
    first, other = pan(1, 0, 0)[0], 255 - pan(1, 0, 0, seed=7)[0] // 3
    cut = clip_from_frames([first, other], 2.0)
    assert competition_of([told(right, "any")], cut, grid).open_frames("blockmatch") == []


def test_a_small_thing_before_a_camera_that_stands_still_is_open() -> None:
    """It is little of what is shown, and all that changes; noise is no change."""
    random = np.random.default_rng(0)
    background, grid = pan(1, 0, 0)[0], VideoGrid(2, 8, 10, patch=16)
    thing = 255 - pan(1, 0, 0, seed=7)[0][:32, :32]
    frames = []
    for left in (40, 64):
        frame = background + random.normal(0, 2, background.shape)
        frame[50:82, left : left + 32] = thing
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    lost = np.zeros((8, 10, 2), np.float32)
    lost[3:6, 2:6] = 31
    found = competition_of([told(lost, "lost")], clip_from_frames(frames, 2.0), grid)
    assert found.open_frames("another") == [1] and found.open_frames("lost") == []
    still = [background + random.integers(-3, 4, background.shape).clip(0, 255 - background) for _ in range(2)]
    clip = clip_from_frames([frame.astype(np.uint8) for frame in still], 2.0)
    assert competition_of([told(lost, "lost")], clip, grid).open_frames("blockmatch") == []


@pytest.mark.parametrize("source", ["blockmatch+flow", "auto"])
@pytest.mark.parametrize("direction", ["past", "future"])
def test_a_thing_that_moves_further_than_it_is_wide(source: str, direction: Direction) -> None:
    """It covers 3 x 3 patches before something still, under a little noise: half is found, and none elsewhere."""
    grid, far, side = VideoGrid(2, 12, 16), 56, 42
    here, left = (1, 14 + far) if direction == "past" else (0, 14)
    where = np.s_[4 : 4 + side // 14, left // 14 : (left + side) // 14]
    found, around = [], np.ones((12, 16), np.bool_)
    around[3:8, :9] = False
    for seed in range(4):
        clip = thing_that_moves(far, side, 1.0, seed)
        field = motion_of(clip, grid, MotionOptions(source, direction))
        known = field.valid[here][where]
        assert np.abs(field.vectors[here][where][known] - [far, 0]).max(initial=0) < 3
        assert field.valid[here][around].mean() > 0.99 and np.abs(field.vectors[here][around]).max() < 0.2
        found.append(known)
    assert np.mean(found) >= 0.5


def thing_that_moves(far: int, side: int = 28, noise: float = 0.0, seed: int = 5) -> Clip:
    random = np.random.default_rng(seed)
    back, thing = random.integers(0, 256, (2, 21, 28)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    images = []
    for left in (14, 14 + far):
        image = back.copy()
        image[56 : 56 + side, left : left + side] = thing[:side, :side]
        image = np.rint(image + noise * random.standard_normal(image.shape)).clip(0, 255).astype(np.uint8)
        images.append(np.dstack([image] * 3))
    return clip_from_frames(images, 2.0)


@pytest.mark.parametrize("direction", ["past", "future"])
def test_refinement_fills_holes_mends_errors_and_keeps_large_motion(direction: Direction) -> None:
    """A pan too large for DIS alone, told by the first source but for a hole, and with wrong vectors in one place."""
    clip = clip_from_frames(pan(2, 41.0, -20.0), 2.0)
    grid = VideoGrid(2, 8, 10)
    way = np.float32([41.0 * 140 / 160, -20.0 * 112 / 128])
    frames, here = gray_frames(clip, grid), 1 if direction == "past" else 0
    vectors, confidence = np.zeros((2, 8, 10, 2), np.float32), np.zeros((2, 8, 10), np.float32)
    vectors[here], confidence[here] = way, 0.9
    confidence[here, 3:5, 3:5] = 0
    vectors[here, 3:5, 6] = -way
    first = MotionField.from_confidence(vectors, confidence, np.array([0.0, 0.5]), "told", direction)
    field = refined([first], clip, grid).above(0.8)
    errors = np.linalg.norm(field.vectors[here] - way, axis=-1)
    assert field.source == "told+flow" and not field.valid[1 - here].any()
    assert field.valid[here, 3:5, 3:7].all() and errors[3:5, 3:7].max() < 0.5
    alone = flow_motion(clip, grid, direction, frames, "best")
    assert np.linalg.norm(alone.vectors[here] - way, axis=-1)[3:5, 3:7].max() > 10


def test_refinement_makes_no_right_vector_wrong() -> None:
    """A small thing moves far: the flow follows its surroundings, and the first source's vector stays."""
    clip, grid = thing_that_moves(112), VideoGrid(2, 12, 16)
    vectors, confidence = np.zeros((2, 12, 16, 2), np.float32), np.zeros((2, 12, 16), np.float32)
    confidence[1] = 0.9
    vectors[1, 4:6, 9:11, 0] = 112
    first = MotionField.from_confidence(vectors, confidence, np.array([0.0, 0.5]), "told", "past")
    found = refined([first], clip, grid)
    assert np.abs(found.vectors[1, 4:6, 9:11] - [112, 0]).max() < 1


def test_refinement_that_fits_worse_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the finest texture that there is, less than a pixel off is off."""
    texture = np.repeat(np.random.default_rng(0).integers(0, 256, (128, 160, 1), np.uint8), 3, axis=2)
    clip, grid = clip_from_frames([texture, np.roll(texture, (-3, 5), (0, 1))], 2.0), VideoGrid(2, 8, 10, patch=16)
    way = np.broadcast_to(np.float32([5.0, -3.0]), (8, 10, 2)).copy()
    monkeypatch.setattr(competition, "flow_of_patches", lambda _, __, first, *___: first + np.float32([0.9, 0]))
    found = refined([told(way, "told")], clip, grid)
    assert np.abs(found.vectors[1, 2:6, 2:8] - way[0, 0]).max() < 0.2 and found.valid[1, 2:6, 2:8].all()


def test_what_one_source_finds_twice_counts_as_one() -> None:
    """Two block matches have three columns each, the codec four."""
    clip, grid = clip_from_frames(pan(2, 41.0, -20.0), 2.0), VideoGrid(2, 8, 10, patch=16)
    way = np.broadcast_to(np.float32([41.0, -20.0]), (8, 10, 2))
    fields = []
    for name, part in (("codec", slice(0, 4)), ("blockmatch", slice(4, 7)), ("blockmatch", slice(7, 10))):
        everything = told(way, name)
        confidence = np.zeros_like(everything.confidence)
        confidence[:, :, part] = everything.confidence[:, :, part]
        fields.append(MotionField.from_confidence(everything.vectors, confidence, everything.times, name, "past"))
    assert competition_of(fields, clip, grid).field().source == "blockmatch"
