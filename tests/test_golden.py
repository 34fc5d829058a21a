"""Numbers that were kept stay the same; see `make_golden.py`, whose `--check` compares all of them bit for bit.

Arrays are compared bit for bit with the versions and the processor that the numbers were made with, and what training
logs to 1e-6. Elsewhere means and deviations are compared, to 1e-3: without AVX-512 they differ by up to 7e-7. What the
committed clips' frames and the codec's vectors are is the same everywhere.
"""

import itertools

import numpy as np
import pytest

import make_golden
from make_golden import (
    CLIPS,
    DIRECTIONS,
    KEPT,
    PARTS,
    PATCHES,
    RUNS,
    SOURCES,
    Items,
    describe,
    differences,
    same,
    stored,
)


AS_MADE = make_golden.made_with() == stored()["made_with"]
TOLERANCE = 0.0 if AS_MADE else 1e-3


def compare(kept: Items, now: Items, tolerance: float = TOLERANCE) -> None:
    lines = differences(kept, now, tolerance)
    assert not lines, f"{len(lines)} of {len(kept)} items differ:\n" + "\n".join(lines)


def everywhere(items: Items) -> Items:
    """What is the same on every machine: the frames, and the codec's vectors without their confidence."""
    chosen = {key: items[key] for key in ("frames", "indices", "times")}
    for direction, patch in itertools.product(DIRECTIONS, PATCHES):
        parts = items[key := f"codec {direction} {patch}"].split(PARTS)
        chosen[key] = PARTS.join(part for part in parts if not part.startswith(("confidence", "weights")))
    return chosen


@pytest.mark.parametrize("name", CLIPS)
def test_motion_and_targets_of_every_source(name: str) -> None:
    kept, now = stored()["clips"][name], make_golden.clip_group(name)
    if now is None:
        pytest.skip(f"{name} is not here: run `python tests/fetch_clips.py`")
    if make_golden.other_encoder(kept, now):
        assert not name.startswith("kept "), f"{name} in tests/data/golden was changed"
        pytest.skip(f"{name} was encoded otherwise than the clip whose numbers were kept (another PyAV?)")
    compare(kept, now)
    if name.startswith("kept "):
        compare(everywhere(kept), everywhere(now), tolerance=0.0)


def test_synthetic_scenes() -> None:
    kept, now = stored()["scenes"]["scenes"], make_golden.scene_items()
    assert now["samples"] == kept["samples"]  # text: the same everywhere
    # the streams are the only item that depends on the encoder
    compare(*({key: value for key, value in items.items() if key != "encoded" or AS_MADE} for items in (kept, now)))


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("family", make_golden.FAMILIES)
def test_batches_and_ten_steps(family: str, kind: str) -> None:
    kept, now = stored()["runs"][make_golden.run_name(family, kind)], make_golden.run_items(family, kind)
    if make_golden.other_encoder(kept, now):
        pytest.skip("the clips were encoded otherwise than those whose numbers were kept (another PyAV?)")
    logged = {key for key in kept if key.startswith("steps ")}
    assert {"steps loss", "steps motion_loss", "steps grad_norm"} <= logged
    trained = {*logged, "last weights"}
    compare(*({key: items[key] for key in items if key not in trained} for items in (kept, now)))
    compare(*({key: items[key] for key in items if key in trained} for items in (kept, now)), TOLERANCE or 1e-6)


def test_what_is_kept_covers_every_source() -> None:
    numbers = stored()
    assert numbers["clips"].keys() == CLIPS.keys()
    runs = itertools.product(make_golden.FAMILIES, RUNS)
    assert numbers["runs"].keys() == {make_golden.run_name(*run) for run in runs}
    for name in KEPT:
        items = numbers["clips"][f"kept {name}"]
        assert len(items) == 4 + len(SOURCES) * len(DIRECTIONS) * len(PATCHES)
        without = {key for key, value in items.items() if value == "MotionUnavailable"}
        assert len(without) == (8 if name == "vp9.webm" else 0)


def test_the_smallest_difference_is_found() -> None:
    array = np.linspace(-3, 5, 200, dtype=np.float32)
    other = array.copy()
    other[7] = np.nextafter(other[7], np.float32(9))
    assert same(describe(array), describe(array.copy()))
    assert not same(describe(array), describe(other))
    assert same(describe(array), describe(other), 1e-6)
    assert not same(describe(array), describe(array + np.float32(0.1)), 0.01)
    assert not same(describe(array), describe(array.reshape(2, 100)), 0.01)
    assert not same(describe(array[:3]), describe(array[:4]), 0.01)
    assert differences({"a": "x | #1 2", "b": "1"}, {"a": "x | #1 3", "c": "1"}) == [
        "a: was #1 2, is #1 3",
        "b: was 1, is missing",
        "c: was missing, is 1",
    ]
