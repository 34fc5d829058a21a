"""The benchmark of motion sources: that its truth is true, and its figures right."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest


FOLDER = Path(__file__).parents[1] / "benchmarks" / "motion"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType, ModuleType]]:
    """The benchmark's render.py, accuracy.py and rooms.py."""
    sys.path.insert(0, str(FOLDER))
    import accuracy
    import render
    import rooms

    yield render, accuracy, rooms
    sys.path.remove(str(FOLDER))


def _gray(image: Any) -> Any:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _moved(image: Any, way: Any) -> Any:
    y, x = np.mgrid[: way.shape[0], : way.shape[1]].astype(np.float32)
    return cv2.remap(image, x + way[..., 0], y + way[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("name", ["crossing", "roto-zoom", "accelerating"])
def test_the_flow_leads_to_the_same_pixels(modules: Any, name: str) -> None:
    scene = modules[0].scene(name, seed=1, noise=0)
    here, there = _gray(scene.frame(70)), _gray(scene.frame(55))
    way, visible = scene.flow(70, 55)
    assert 0.3 < visible.mean() < 1
    # neither the blur of the comparison nor that of an object's edge is an error of the flow
    wrong = [np.abs(_moved(there, way + error) - here)[visible].mean() for error in (0, np.float32(1))]
    assert wrong[0] < 2
    assert wrong[1] > 3 * wrong[0]


@pytest.mark.parametrize("name", ["cube", "globe", "balls", "cloth"])
def test_the_flow_of_a_room_leads_to_the_same_pixels(modules: Any, name: str) -> None:
    room = modules[2].room(name, 1, "clean")
    way, visible, moving = room.flow(26, 20)
    assert (visible & moving).mean() > 0.02 and np.linalg.norm(way[visible & moving], axis=-1).mean() > 3
    assert_leads_to_the_same(room, way, visible & moving)


def test_the_rows_of_a_rolling_shutter_have_times_of_their_own(modules: Any) -> None:
    rolling, global_ = (modules[2].room("pan", 1, look) for look in ("rolling", ""))
    (way, visible, _), (other, seen, _) = rolling.flow(26, 20), global_.flow(26, 20)
    assert np.abs(way - other)[visible & seen].max() > 0.3
    assert_leads_to_the_same(rolling, way, visible)
    # the row in the middle is exposed when all rows of the other one are
    middle = np.s_[modules[2].HEIGHT // 2]
    np.testing.assert_allclose(rolling._rendered(26)[middle], global_._rendered(26)[middle], atol=6)
    assert np.abs(rolling._rendered(26)[0] - global_._rendered(26)[0]).mean() > 2


def assert_leads_to_the_same(room: Any, way: Any, where: Any) -> None:
    here, there = (_gray(np.clip(room._rendered(number), 0, 255).astype(np.uint8)) for number in (26, 20))
    wrong = [np.abs(_moved(there, way + error) - here)[where].mean() for error in (0, np.float32(2))]
    assert wrong[0] < 5
    assert wrong[1] > 2 * wrong[0]


def test_a_pan_by_whole_pixels_moves_them_as_they_are(modules: Any) -> None:
    scene = modules[0].pan(3, -2)
    before, after = scene.frame(20), scene.frame(21)
    np.testing.assert_array_equal(before[2:, :-3], after[:-2, 3:])
    way, visible = scene.flow(20, 21)
    np.testing.assert_allclose(way, np.broadcast_to(np.float32([3, -2]), way.shape), atol=1e-4)
    assert visible[2:, :-3].all() and not visible[:2].any() and not visible[:, -3:].any()


@pytest.mark.parametrize("name", ["crossing", "hand-held"])
def test_flows_in_a_row_are_one_flow(modules: Any, name: str) -> None:
    scene = modules[0].scene(name, seed=1)
    first, there = scene.flow(40, 50)
    second, further = scene.flow(50, 65)
    both, end = scene.flow(40, 65)
    # between two layers, interpolating the second flow means nothing
    number = _moved(scene.top(50).astype(np.float32), first)
    inner = there & (number == scene.top(40)) & (cv2.erode(there.astype(np.uint8), np.ones((5, 5))) > 0)
    kept = inner & (_moved(further.astype(np.float32), first) == 1)
    assert kept.mean() > 0.3
    error = np.linalg.norm(first + _moved(second, first) - both, axis=-1)[kept]
    # a pixel of a layer can lie among ones of the same number where two other layers meet
    assert np.percentile(error, 99.5) < 0.02
    assert end[kept].mean() > 0.99


def test_seeds_repeat_and_differ(modules: Any) -> None:
    render = modules[0]
    one, same, other = (render.scene("low texture", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.frame(7), same.frame(7))
    assert (one.frame(7) != other.frame(7)).mean() > 0.5
    assert np.abs(one.flow(20, 5)[0] - other.flow(20, 5)[0]).mean() > 0.5
    noise = one.frame(7).astype(float) - render.scene("low texture", 0, noise=0).frame(7)
    assert noise.std() == pytest.approx(render.NOISE, rel=0.05)


def test_auc(modules: Any) -> None:
    auc = modules[1].auc
    good = np.array([True, True, False, False])
    assert auc(np.float32([0.9, 0.8, 0.2, 0.1]), good) == 1
    assert auc(np.float32([0.1, 0.2, 0.8, 0.9]), good) == 0
    assert auc(np.float32([0.5, 0.5, 0.5, 0.5]), good) == 0.5
    # of the four pairs two are in order, one is a tie, one is not
    assert auc(np.float32([0.9, 0.3, 0.3, 0.5]), good) == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert auc(np.float32([0.5, 0.6]), np.array([True, True])) is None


def test_what_is_true_has_no_error(modules: Any, tmp_path: Path) -> None:
    accuracy = modules[1]
    from motiontune.motion.field import MotionField

    case = accuracy.load("accelerating", 1, "x264 ultrafast", "0.5 s", tmp_path)
    truth = case.truth
    vectors = np.zeros((case.grid.frames, case.grid.rows, case.grid.cols, 2), np.float32)
    vectors[truth.frames] = truth.vectors
    vectors[..., 0] += 5
    valid = np.ones(vectors.shape[:3], np.bool_)
    valid[:, :10] = False
    field = MotionField(vectors, valid, np.arange(case.grid.frames) / 2, "test")
    figures = accuracy.figures(accuracy.score(field, truth))
    assert (figures.pairs, figures.patches) == (8, truth.scored.sum())
    assert figures.epe_valid == figures.epe_all == figures.median_valid == pytest.approx(5)
    assert figures.valid_share == pytest.approx(truth.scored[:, 10:].sum() / truth.scored.sum(), abs=1e-4)
    # vectors of 100 pixels and more may be wrong by as much
    lengths = np.linalg.norm(truth.vectors, axis=-1)[:, 10:][truth.scored[:, 10:]]
    assert figures.outliers_valid == pytest.approx((lengths < 100).mean(), abs=1e-4)


@pytest.mark.parametrize("document", ["benchmarks/motion/README.md", "docs/motion.md"])
def test_the_tables_are_those_of_the_results(document: str) -> None:
    sys.path.insert(0, str(FOLDER))
    import tables

    path = FOLDER.parents[1] / document
    assert tables.current(path) == path.read_text("utf-8") and "| x264 default |" in path.read_text("utf-8")
