"""The probability that a vector is true: light, noise, repeats, cuts, and the competition between two vectors."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from make_clips import pan
from motiontune.grid import VideoGrid
from motiontune.motion.compare import BESIDE, EVERY, differences, pixels_of, sums_of
from motiontune.motion.confidence import Pair, across_no_cut, exclusive, probability
from motiontune.motion.exposure import levelled, of_one_scene
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.video.clip import clip_from_frames


ROWS, COLS, PATCH = 12, 16, 14
DX, DY = 6, -4


def frames(gain: float = 1.0, contrast: float = 1.0, noise: float = 1.0) -> list[NDArray[np.uint8]]:
    """Two gray frames [168, 224], the second moved by (DX, DY) and exposed otherwise."""
    random = np.random.default_rng(3)
    gray = [frame.astype(np.float64).mean(-1) for frame in pan(2, DX, DY, size=(COLS * PATCH, ROWS * PATCH))]
    lit = [(30 + contrast * (frame - 30)) * factor for frame, factor in zip(gray, (1.0, gain), strict=True)]
    return [np.clip(np.rint(one + random.normal(0, noise, one.shape)), 0, 255).astype(np.uint8) for one in lit]


def probable(pair: list[NDArray[np.uint8]], dx: float = DX, dy: float = DY) -> NDArray[np.float32]:
    """Of one vector for all patches, those that stay inside."""
    flow = np.broadcast_to(np.float32([-dx, -dy]), (ROWS, COLS, 2)).copy()
    own = np.ones((ROWS, COLS), np.float32)
    return Pair(pair[1], pair[0], PATCH).compare(flow, own).probable[2:-2, 2:-2]


def test_sums_are_those_of_the_pixels() -> None:
    random = np.random.default_rng(0)
    here, there = random.integers(0, 255, (2, 4 * 8, 5 * 8), np.uint8)
    flow = random.integers(-20, 20, (4, 5, 2)).astype(np.float32)
    sums = sums_of(here, there, flow, 8)
    for i, j in np.ndindex(4, 5):
        h = here[8 * i : 8 * i + 8 : EVERY, 8 * j : 8 * j + 8].astype(np.int64)
        np.testing.assert_allclose(sums[i, j, :2], [h.sum(), (h * h).sum()])
        for k, (right, down) in enumerate(BESIDE):
            y = np.clip(np.arange(8 * i, 8 * i + 8, EVERY) + int(flow[i, j, 1]) + down, 0, 31)
            x = np.clip(np.arange(8 * j, 8 * j + 8) + int(flow[i, j, 0]) + right, 0, 39)
            f = there[np.ix_(y, x)].astype(np.int64)
            np.testing.assert_allclose(sums[i, j, 2 + k :: len(BESIDE)], [f.sum(), (f * f).sum(), (h * f).sum()])


def test_between_pixels_sums_are_interpolated() -> None:
    there = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8), (40, 120)).copy()
    flow = np.full((5, 15, 2), 0.5, np.float32)
    sums = sums_of(there, there, flow, 8)
    np.testing.assert_allclose(
        (sums[1:-1, 1:-1, 2] - sums[1:-1, 1:-1, 0]) / pixels_of(8), 1.0
    )  # half a pixel of two levels


def test_nothing_is_left_where_gain_and_offset_explain_it() -> None:
    there = np.random.default_rng(1).integers(10, 100, (48, 64), np.uint8)
    here = 2 * there + np.uint8(20)
    still = np.zeros((6, 8, 2), np.float32)
    sums = sums_of(here, there, still, 8)
    left, beside, wide_left, wide_beside, _, apart = differences(sums, still, float(pixels_of(8)), 2.0)
    assert np.abs(left).max() < 1e-6 and np.abs(wide_left).max() < 1e-6 and not apart.any()
    assert (beside[1:-1, 1:-1] > 500).all() and (wide_beside > 500).all()


@pytest.mark.parametrize("gain", [1.0, 1.15, 0.87])
@pytest.mark.parametrize("contrast", [1.0, 0.3])
def test_light_makes_no_vector_false_and_none_true(gain: float, contrast: float) -> None:
    pair = frames(gain, contrast)
    assert (probable(pair) > 0.8).mean() > 0.9
    for dx, dy in ((0, 0), (DX + 5, DY), (DX - 30, DY + 9)):
        assert (probable(pair, dx, dy) > 0.8).mean() < 0.05


def test_some_evidence_never_speaks_against_a_vector_and_some_never_for_it() -> None:
    """Fits better than beside (the first two kinds); left beside the texture, brighter for no reason."""
    random = np.random.default_rng(0)
    spread = np.array([3, 3, 4, 0.6, 2, 2, 1, 2, 1, 3, 2, 2, 2, 1.5, 1.5, 1])
    evidence = random.standard_normal((4000, len(spread))) * spread
    before = probability(evidence)
    for kind, sign in ((0, 1), (1, 1), (3, -1), (5, -1)):
        more = evidence.copy()
        more[:, kind] += sign * random.uniform(0, 3, len(more)) * spread[kind]
        assert (probability(more) >= before - 1e-6).all() and (probability(more) > before + 0.05).any(), kind


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("cell", [4, 8, 24])
def test_a_thing_that_has_gone_does_not_stand_still(noise: float, cell: int) -> None:
    """Before a camera that stands still nearly everything does: what fits less than that has moved."""

    def texture(height: int, width: int) -> NDArray[np.float32]:
        coarse = random.uniform(-60, 60, (height // cell + 2, width // cell + 2)).astype(np.float32)
        return np.asarray(cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC), np.float32)

    gone, moved, still = [], [], []
    for seed in range(6):
        random = np.random.default_rng(seed)
        background, thing = texture(252, 420)[:252, :420], texture(70, 70)[:70, :70]
        pair = []
        for left in (70, 154):
            frame = background + noise * random.standard_normal(background.shape)
            frame[84:154, left : left + 70] = thing
            pair.append(np.clip(np.rint(128 + frame), 0, 255).astype(np.uint8))
        two, own = Pair(pair[1], pair[0], 14), np.ones((18, 30), np.float32)
        nothing, way = np.zeros((2, 18, 30, 2), np.float32)
        way[6:11, 11:16, 0] = -84
        there, around = np.s_[6:11, 11:16], np.ones((18, 30), np.bool_)
        around[5:12, 4:17] = False
        gone.append(two.compare(nothing, own).probable[there])
        moved.append(two.compare(way, own).probable[there])
        still.append(two.compare(nothing, own).probable[around])
    shares = [(np.concatenate([one.ravel() for one in each]) > 0.8).mean() for each in (gone, moved, still)]
    assert shares[0] < 0.06 and min(shares[1:]) > 0.6, shares


def test_noise_alone_proves_nothing() -> None:
    random = np.random.default_rng(2)
    flat = [random.normal(40, 2, (ROWS * PATCH, COLS * PATCH)).clip(0, 255).astype(np.uint8) for _ in range(2)]
    assert (probable(flat, 0, 0) > 0.5).mean() < 0.1


@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 2])
@pytest.mark.parametrize("board", [False, True])
def test_a_pattern_that_repeats_is_told(angle: float, board: bool) -> None:
    y, x = np.mgrid[: ROWS * PATCH, : COLS * PATCH]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.sin(2 * np.pi * u / 26) * (np.sin(2 * np.pi * v / 26) if board else 1)
    pattern = np.asarray(128 + 100 * np.tanh(3 * wave), np.uint8)
    pair = [pattern, np.roll(pattern, 5, axis=1)]
    assert (Pair(pair[1], pair[0], PATCH).repeats > 0.5).mean() > 0.9
    assert (probable(pair, 5, 0) < 0.8).mean() > 0.9
    # in steps through the frames in between no place of the pattern is taken for the next
    flow, own = np.full((ROWS, COLS, 2), [-5, 0], np.float32), np.ones((ROWS, COLS), np.float32)
    once, followed = (
        Pair(pair[1], pair[0], PATCH).compare(flow, own, by_steps).probable for by_steps in (False, True)
    )
    assert (followed > once).mean() > 0.9


def test_what_does_not_repeat_is_told() -> None:
    texture = Pair(*frames(noise=0), PATCH).repeats
    assert (texture > 0.5).mean() < 0.05
    # a thing before a plain wall: beyond it the wall goes on
    wall = np.full((ROWS * PATCH, COLS * PATCH), 180, np.uint8)
    wall[40:120, 90:120] = 20
    assert not (Pair(wall, wall, PATCH).repeats > 0.5).any()


def test_two_vectors_that_exclude_each_other() -> None:
    numbers = np.float32([0.9, 0.9, 0.6]), np.float32([0.0, 0.9, 0.3])
    np.testing.assert_allclose(exclusive(*numbers), [0.9, 0.09 / 0.19, 0.42 / 0.82], rtol=1e-5)


def test_no_two_patches_come_from_one_place() -> None:
    """A camera pans by three patches; one patch is said to come from where another one, which fits better, was."""
    two = Pair(*frames(), PATCH)
    flow = np.broadcast_to(np.float32([3 * PATCH, 0]), (ROWS, COLS, 2)).copy()
    probable = np.full((ROWS, COLS), 0.99, np.float32)
    flow[5, 4], probable[5, 4] = [5.2 * PATCH, 1.2 * PATCH], 0.9  # to (6.2, 9.2): that of (6, 6) is (6, 9)
    found = two.unrivalled(flow, probable)
    assert found[5, 4] < 0.15
    others = np.ones((ROWS, COLS), np.bool_)
    others[5, 4] = False
    assert np.array_equal(found[others], probable[others])


def test_what_would_have_come_from_outside_is_not_found_elsewhere() -> None:
    """The same camera: what it has left behind at the right fits something at the left, which nothing else claims."""
    two = Pair(*frames(), PATCH)
    flow = np.broadcast_to(np.float32([3 * PATCH, 0]), (ROWS, COLS, 2)).copy()
    probable = np.full((ROWS, COLS), 0.99, np.float32)
    flow[4:7, -2:] = [-13 * PATCH, 10]
    flow[5, 3] = [-2.5 * PATCH, 10]  # a thing of its own in the middle of the picture
    found = two.unrivalled(flow, probable)
    assert (found[4:7, -2:] < 0.8).all() and found[5, 3] == np.float32(0.99)
    assert (found[:, -2:] == np.float32(0.99)).sum() == 2 * ROWS - 6  # outside, as the picture has it


def test_a_pair_of_which_little_fits_is_a_cut() -> None:
    confidence, known = np.float32([[0.9, 0.2, 0.1, 0.8]]), np.array([[True, True, True, False]])
    shown = np.array([[1.0, 9.0, 9.0, 9.0]])
    assert not across_no_cut(confidence, confidence, known, shown).any()
    # what is unknown does not count, and plain patches tell of no cut
    assert (across_no_cut(confidence, confidence, np.ones_like(known), shown) == confidence).all()
    assert (across_no_cut(confidence, confidence, known, np.array([[2.0, 9, 1, 9]])) == confidence).all()


def test_frames_are_levelled_where_the_exposure_drifts() -> None:
    still = frames(noise=0)[0]
    lit = [np.rint(still * gain).clip(0, 255).astype(np.uint8) for gain in (0.9, 0.8, 0.72)]
    means = [frame.mean() for frame in levelled(lit)]
    assert max(means) - min(means) < 1.0 < lit[0].mean() - lit[2].mean()
    # another picture is no exposure
    other = [still, np.roll(still, 40, axis=1), frames(noise=0)[1]]
    assert all(one is two for one, two in zip(other, levelled(other), strict=True))


def test_frames_of_one_scene_are_told_by_their_levels() -> None:
    one, other = frames()
    assert of_one_scene(one, other) and of_one_scene(one, (0.7 * other).astype(np.uint8))
    assert not of_one_scene(one, 255 - other // 3) and not of_one_scene(np.full_like(one, 250), np.full_like(one, 250))


@pytest.mark.parametrize("source", ["blockmatch", "blockmatch+flow", "flow"])
def test_exposure_that_drifts_leaves_motion(source: str) -> None:
    moved = pan(4, 6.0, -3.0)
    lit = [(frame * 0.86**number).astype(np.uint8) for number, frame in enumerate(moved)]
    field = motion_of(clip_from_frames(lit, 4.0), VideoGrid(4, 8, 10, patch=16), MotionOptions(source))
    errors = np.linalg.norm(field.vectors - np.array([6.0, -3.0]), axis=-1)[field.valid]
    assert field.valid[1:].mean() > 0.6 and np.percentile(errors, 95) < 0.7
