"""Predictions on disk: round trip, no pickles, no half files, and errors that name file and key."""

from dataclasses import replace

import numpy as np
import pytest

from motiontune.errors import MotiontuneError, OutputError
from motiontune.evaluation.comparison import MotionComparison, load_predictions
from motiontune.grid import VideoGrid


GRID = VideoGrid(frames=4, rows=4, cols=6, patch=14)


def prediction(seed=0, path="clips/74225.webm"):
    rng = np.random.default_rng(seed)
    return MotionComparison(
        predicted=rng.normal(size=(4, 4, 6, 2)).astype(np.float32),
        target=rng.normal(size=(4, 4, 6, 2)).astype(np.float32),
        valid=rng.random((4, 4, 6)) < 0.8,
        times=np.arange(4) / 8,
        grid=GRID,
        path=path,
        source="blockmatch",
        direction="past",
    )


def rewrite(path, changes):
    """Save the same file again with some keys changed, or dropped where the value is None."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files} | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def test_round_trip(tmp_path):
    saved = prediction(path="ünï/运动 clip.webm")
    loaded = MotionComparison.load(saved.save(tmp_path / "deep" / "down" / "000001.npz"))
    for name in ("predicted", "target", "valid", "times"):
        was, now = getattr(saved, name), getattr(loaded, name)
        assert was.dtype == now.dtype
        np.testing.assert_array_equal(was, now)
    for name in ("grid", "path", "source", "direction"):
        assert getattr(saved, name) == getattr(loaded, name)
    assert isinstance(loaded.grid.rows, int) and isinstance(loaded.path, str)
    assert loaded.sums() == saved.sums()
    assert loaded.sums().patches == saved.valid.sum()


def test_keys_are_readable_without_motiontune(tmp_path):
    path = prediction().save(tmp_path / "a.npz")
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {
            "predicted", "target", "valid", "times", "grid", "path", "source", "direction"
        }  # fmt: skip
        assert file["grid"].tolist() == [4, 4, 6, 14, 2, 2]


def test_without_target(tmp_path):
    path = replace(prediction(), target=None).save(tmp_path / "a.npz")
    loaded = MotionComparison.load(path)
    assert loaded.target is None
    assert loaded.sums().metrics() == {"valid_patches": 0}


def test_suffix_is_appended_not_replaced(tmp_path):
    assert prediction().save(tmp_path / "clip.v2").name == "clip.v2.npz"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = prediction(seed=1).save(tmp_path / "a.npz")
    before = path.read_bytes()

    def half(file, **arrays):
        file.write(b"PK half a file")
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(np, "savez_compressed", half)
    with pytest.raises(OutputError, match=r"a\.npz cannot be written: no space left on device"):
        prediction(seed=2).save(path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["a.npz"] and not list(tmp_path.glob(".*.part"))


def test_folder_is_read_in_order_of_samples_and_their_clips(tmp_path):
    names = ["000000", "000000-1", "000000-2", "999999", "1000000", "1000000-1"]
    for name in reversed(names):
        prediction(path=name).save(tmp_path / f"{name}.npz")
    assert [item.path for item in load_predictions(tmp_path)] == names


def test_folder_is_read_in_order(tmp_path):
    for name in ("000002", "000000", "000001"):
        prediction(path=f"{name}.webm").save(tmp_path / f"{name}.npz")
    (tmp_path / ".000003.npz.1.tmp").write_bytes(b"half")
    (tmp_path / "generated_predictions.jsonl").write_text("{}")
    assert [item.path for item in load_predictions(tmp_path)] == ["000000.webm", "000001.webm", "000002.webm"]
    with pytest.raises(MotiontuneError, match="nowhere"):
        load_predictions(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["predicted", "valid", "times", "grid", "path", "source", "direction"])
def test_missing_key(tmp_path, key):
    path = prediction().save(tmp_path / "a.npz")
    rewrite(path, {key: None})
    with pytest.raises(MotiontuneError, match=rf"a\.npz.*'{key}' is missing"):
        MotionComparison.load(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("predicted", np.zeros((4, 4, 5, 2), np.float32)),
        ("predicted", np.zeros((4, 4, 6, 2))),
        ("target", np.zeros((4, 4, 6), np.float32)),
        ("valid", np.zeros((4, 4, 6), np.uint8)),
        ("times", np.zeros(3)),
        ("grid", np.array([4, 4, 6])),
        ("grid", np.array([4, 4, 5, 14, 2, 2])),
        ("path", np.array(["a", "b"])),
        ("direction", np.array("sideways")),
    ],
)
def test_key_that_does_not_fit(tmp_path, key, value):
    path = prediction().save(tmp_path / "a.npz")
    rewrite(path, {key: value})
    with pytest.raises(MotiontuneError, match=rf"a\.npz.*{key}"):
        MotionComparison.load(path)


def test_pickles_are_refused(tmp_path):
    path = prediction().save(tmp_path / "a.npz")
    rewrite(path, {"source": np.array([{"a": 1}], object)})
    with pytest.raises(MotiontuneError, match=r"a\.npz.*'source' cannot be read"):
        MotionComparison.load(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_damaged_file(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(MotiontuneError, match=r"a\.npz"):
        MotionComparison.load(path)


def test_truncated_and_corrupt_files(tmp_path):
    path = prediction().save(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MotiontuneError, match=r"a\.npz"):
        MotionComparison.load(path)
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(MotiontuneError, match=r"a\.npz.*cannot be read"):
        MotionComparison.load(path)


def test_missing_file_and_single_array(tmp_path):
    with pytest.raises(MotiontuneError, match=r"gone\.npz: no such file"):
        MotionComparison.load(tmp_path / "gone.npz")
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(MotiontuneError, match="single array"):
        MotionComparison.load(tmp_path / "a.npy")


def test_arrays_are_checked_on_construction():
    with pytest.raises(ValueError, match="predicted must be float32"):
        replace(prediction(), predicted=np.zeros((4, 4, 6, 2)))
    with pytest.raises(ValueError, match="direction"):
        replace(prediction(), direction="sideways")
