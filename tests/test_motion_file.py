"""Motion from the user's files: formats, shapes and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motiontune.errors import ConfigError, MotiontuneError, MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.motion.file import (
    ABOUT,
    FORMATS,
    Format,
    check_unshared,
    file_motion,
    find_motion,
    read_flo,
    read_kitti_png,
    write_flo,
    write_kitti_png,
    write_motion,
)
from motiontune.video.clip import Clip, clip_from_frames


GRID = VideoGrid(4, 4, 6)  # 84 x 56 pixels


def clip_at(folder: Path, frames: int = 3) -> Clip:
    return clip_from_frames([np.zeros((64, 96, 3), np.uint8)] * frames, 2.0, path=str(folder / "film.webm"))


def vectors_of(count: int, rows: int = 4, cols: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 5, (count, rows, cols, 2)).astype(np.float32)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_on_the_grid(count: int, dtype: type, tmp_path: Path) -> None:
    vectors = vectors_of(count).astype(dtype)
    np.save(tmp_path / "film.npy", vectors)
    past = file_motion(clip_at(tmp_path), GRID, "past")
    future = file_motion(clip_at(tmp_path), GRID, "future")
    assert past.source == "file" and past.valid[1:3].all() and not past.valid[[0, 3]].any()
    assert future.valid[:2].all() and not future.valid[2:].any()
    skipped = 0 if count == 2 else 1  # a row for the first frame, which has no past
    np.testing.assert_array_equal(past.vectors[1:3], vectors[skipped : skipped + 2].astype(np.float32))
    np.testing.assert_array_equal(future.vectors[:2], vectors[:2].astype(np.float32))


def test_validity_comes_along(tmp_path: Path) -> None:
    vectors, valid = vectors_of(2), np.random.default_rng(1).random((2, 4, 6)) < 0.5
    vectors[~valid] = np.nan
    np.savez(tmp_path / "film.npz", vectors=vectors, valid=valid)
    field = file_motion(clip_at(tmp_path), GRID)
    np.testing.assert_array_equal(field.valid[1:3], valid)
    np.testing.assert_array_equal(field.vectors[1:3][valid], vectors[valid])


@pytest.mark.parametrize("size", [(56, 84), (64, 96), (256, 384), (30, 40)])
def test_dense_vectors_are_rescaled(size: tuple[int, int], tmp_path: Path) -> None:
    height, width = size
    dense = np.zeros((2, height, width, 2), np.float32)
    dense[..., : width // 2, :] = [3.0, -2.0]  # the left half moves
    np.save(tmp_path / "film.npy", dense)
    field = file_motion(clip_at(tmp_path), GRID)
    assert field.valid[1:3].all()
    expected = np.array([3.0 * 84 / width, -2.0 * 56 / height], np.float32)
    np.testing.assert_allclose(field.vectors[1:3, :, :3], np.broadcast_to(expected, (2, 4, 3, 2)), rtol=1e-6)
    assert not field.vectors[1:3, :, 3:].any()


def test_dense_patches_need_a_valid_majority(tmp_path: Path) -> None:
    dense, valid = np.ones((3, 56, 84, 2), np.float32), np.ones((3, 56, 84), np.bool_)
    valid[:, :10, :14] = False
    dense[~valid] = np.inf
    np.savez(tmp_path / "film.npz", vectors=dense, valid=valid)
    field = file_motion(clip_at(tmp_path), GRID)
    assert not field.valid[1, 0, 0] and field.valid[1].sum() == 23


@pytest.mark.parametrize("suffix", [".flo", ".png"])
@pytest.mark.parametrize("in_folder", [True, False])
def test_one_file_per_pair(suffix: str, in_folder: bool, tmp_path: Path) -> None:
    vectors = np.round(vectors_of(2, 56, 84) * 64) / 64
    valid = np.ones((2, 56, 84), np.bool_)
    valid[0, :14, :14] = False
    write = write_flo if suffix == ".flo" else write_kitti_png
    if in_folder:
        (tmp_path / "film").mkdir()
    for i in range(2):
        path = tmp_path / ("film" if in_folder else "") / (f"{i:05d}" if in_folder else f"film_{i:03d}")
        write(f"{path}{suffix}", vectors[i], valid[i])
    field = file_motion(clip_at(tmp_path), GRID)
    assert not field.valid[1, 0, 0] and field.valid[1:3].sum() == 47
    patch = vectors[1, :14, 14:28].reshape(-1, 2)
    assert np.abs(field.vectors[2, 0, 1] - np.median(patch, axis=0)).max() < 0.2


def test_formats_keep_what_they_can(tmp_path: Path) -> None:
    vectors, valid = vectors_of(1, 20, 30)[0], np.random.default_rng(1).random((20, 30)) < 0.7
    expected = np.where(valid[..., None], vectors, 0)
    write_flo(str(tmp_path / "a.flo"), vectors, valid)
    write_kitti_png(str(tmp_path / "a.png"), vectors, valid)
    for read, tolerance in ((read_flo, 0.0), (read_kitti_png, 1 / 128)):
        found, known = read(str(tmp_path / ("a.flo" if read is read_flo else "a.png")))
        np.testing.assert_array_equal(known, valid)
        assert found.dtype == np.float32 and np.abs(found - expected).max() <= tolerance


def test_other_libraries_read_and_write_the_same_files(tmp_path: Path) -> None:
    from torchvision.datasets import _optical_flow as torchvision_flow

    vectors, flo, png = vectors_of(1, 20, 30)[0], str(tmp_path / "a.flo"), str(tmp_path / "a.png")
    valid = np.random.default_rng(1).random((20, 30)) < 0.7
    write_flo(flo, vectors)
    np.testing.assert_array_equal(cv2.readOpticalFlow(flo), vectors)
    np.testing.assert_array_equal(torchvision_flow._read_flo(flo).transpose(1, 2, 0), vectors)
    write_flo(flo, vectors, valid)  # unknown is larger than 1e9, as Middlebury says
    np.testing.assert_array_equal((np.abs(cv2.readOpticalFlow(flo)) < 1e9).all(-1), valid)
    cv2.writeOpticalFlow(flo, vectors)
    np.testing.assert_array_equal(read_flo(flo)[0], vectors)
    assert read_flo(flo)[1].all()

    write_kitti_png(png, vectors, valid)
    theirs, known = torchvision_flow._read_16bits_png_with_flow_and_valid_mask(png)
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_allclose(theirs.transpose(1, 2, 0)[valid], vectors[valid], atol=1 / 128)
    raw = cv2.imread(png, cv2.IMREAD_UNCHANGED)  # OpenCV reads blue first
    assert raw.dtype == np.uint16 and ((raw[..., 0] == 1) == valid).all()
    np.testing.assert_allclose((raw[valid][:, 2:0:-1] - 2.0**15) / 64, vectors[valid], atol=1 / 128)
    steps = np.dstack([valid, np.rint(vectors[..., ::-1] * 64) + 2**15]).astype(np.uint16)
    cv2.imwrite(png, steps)
    found, known = read_kitti_png(png)
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_allclose(found[valid], vectors[valid], atol=1 / 128)


def test_an_npy_has_no_number_where_there_is_no_vector(tmp_path: Path) -> None:
    vectors, valid = vectors_of(2), np.random.default_rng(1).random((2, 4, 6)) < 0.5
    vectors[~valid, 0] = np.nan
    np.save(tmp_path / "film.npy", vectors)
    field = file_motion(clip_at(tmp_path), GRID)
    np.testing.assert_array_equal(field.valid[1:3], valid)
    vectors[0, 0, 0] = np.inf
    np.save(tmp_path / "film.npy", vectors)
    with pytest.raises(MotiontuneError, match="not finite"):
        file_motion(clip_at(tmp_path), GRID)


def test_motion_dir_and_nothing_to_find(tmp_path: Path) -> None:
    (tmp_path / "motion").mkdir()
    with pytest.raises(MotionUnavailable, match=r"film\.npz.*motion_dir"):
        file_motion(clip_at(tmp_path), GRID, motion_dir=str(tmp_path / "motion"))
    with pytest.raises(MotionUnavailable):
        file_motion(clip_at(tmp_path), GRID, motion_dir=str(tmp_path / "nowhere"))
    np.save(tmp_path / "motion" / "film.npy", vectors_of(2))
    assert file_motion(clip_at(tmp_path), GRID, motion_dir=str(tmp_path / "motion")).valid.any()


def with_nan() -> np.ndarray:
    vectors = vectors_of(2)
    vectors[1, 2, 3, 0] = np.nan
    return vectors


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"vectors": vectors_of(5)}, r"\[5, 4, 6, 2\].*\[3 or 2, 4, 6, 2\]"),
        ({"vectors": vectors_of(1)}, r"\[1, 4, 6, 2\].*\[3 or 2, 4, 6, 2\]"),
        ({"vectors": vectors_of(2)[..., :1]}, r"\[2, 4, 6, 1\]"),
        ({"vectors": vectors_of(2)[0]}, r"\[4, 6, 2\]"),
        ({"vectors": vectors_of(2, 6, 4)}, r"\[2, 6, 4, 2\].*grid.*56 x 84"),
        ({"vectors": vectors_of(2, 3, 5)}, r"\[2, 3, 5, 2\]"),
        ({"vectors": vectors_of(2, 60, 60)}, "proportions"),
        ({"vectors": vectors_of(2).astype(np.int16)}, "floats, not int16"),
        ({"vectors": with_nan()}, "not finite"),
        ({"vectors": vectors_of(2), "valid": np.ones((2, 4, 5), np.bool_)}, r"\(2, 4, 5\)"),
        ({"vectors": vectors_of(2), "valid": np.ones((2, 4, 6), np.uint8)}, "uint8"),
        ({"flow": vectors_of(2)}, r"\['flow'\]"),
        ({"vectors": np.float32(3)}, "vectors"),
        ({"vectors": np.zeros((2, 0, 0, 2), np.float32)}, r"\[2, 0, 0, 2\]"),
        ({"vectors": np.array([{"a": 1}], dtype=object)}, "film.npz"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(arrays: dict[str, Any], reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "film.npz", **arrays)
    with pytest.raises(MotiontuneError, match=reason) as caught:
        file_motion(clip_at(tmp_path), GRID)
    assert str(tmp_path / "film.npz") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["film.npz", "film.npy", "film_000.flo", "film_000.png"])
@pytest.mark.parametrize("content", [b"", b"PK\3\4 rubbish", b"\x93NUMPY\1\0", b"PIEH\5\0\0\0\5\0\0\0", b"\x89PNG"])
def test_damaged_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MotiontuneError, match=name):
        file_motion(clip_at(tmp_path), GRID)


def test_pairs_of_different_size_are_refused(tmp_path: Path) -> None:
    for i in range(2):
        write_flo(str(tmp_path / f"film_{i:03d}.flo"), vectors_of(1, 56, 84 + i)[0])
    with pytest.raises(MotiontuneError, match="differ in size"):
        file_motion(clip_at(tmp_path), GRID)


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    vectors = np.stack([np.full((56, 84, 2), i, np.float32) for i in range(12)])
    grid = VideoGrid(14, 4, 6)
    for place in (tmp_path / "film" / "flow_", tmp_path / "numbered" / "film_"):
        place.parent.mkdir()
        for i in (11, 3, 0, 10, 2, 1, 9, 8, 4, 7, 5, 6):
            write_flo(f"{place}{i}.flo", vectors[i])
    for folder in (None, str(tmp_path / "numbered")):
        read = file_motion(clip_at(tmp_path, 13), grid, motion_dir=folder)
        assert read.vectors[1:13, 0, 0, 0].tolist() == list(range(12))


def test_relative_paths_come_before_bare_names(tmp_path: Path) -> None:
    motion = tmp_path / "motion"
    clip = tmp_path / "data" / "left" / "film.webm"
    places = ["film", "film.webm", "left/film", "left/film.webm", "data/left/film", "data/left/film.webm"]
    for place in places:
        file = motion / f"{place}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, vectors=vectors_of(2))
        assert find_motion(str(clip), str(motion)) == [file]
    assert find_motion(str(tmp_path / "data" / "right" / "film.webm"), str(motion)) == [motion / "film.webm.npz"]
    assert find_motion(str(tmp_path / "right" / "other.webm"), str(motion)) == []


def test_two_clips_that_take_one_file_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "film.npz", vectors=vectors_of(2))
    (tmp_path / "link.webm").symlink_to("left/film.webm")
    taken: dict[Path, str] = {}
    check_unshared(["left/film.webm", "left/film.webm", "left/other.webm"], str(tmp_path), taken)
    with pytest.raises(ConfigError, match=r"film\.npz would be the motion of both left/film\.webm and right/"):
        check_unshared(["right/film.mp4"], str(tmp_path), taken)


def test_a_motion_file_knows_its_clip(tmp_path: Path) -> None:
    """A file without the digest, as earlier versions and users write it, is read for any clip that it fits."""
    (tmp_path / "film.webm").write_bytes(b"one")
    clip, field = clip_at(tmp_path), file_motion_of(tmp_path)
    write_motion(tmp_path / "film", clip, field, GRID, "npz")
    assert file_motion(clip, GRID).valid.any()
    with pytest.raises(MotiontuneError, match="was extracted for other frames of .*video_fps"):
        file_motion(replace(clip, times=clip.times * 2), GRID)
    (tmp_path / "film.webm").write_bytes(b"two")
    with pytest.raises(MotiontuneError, match=r"film\.npz: is the motion of another clip than .*film\.webm"):
        file_motion(clip, GRID)
    with np.load(tmp_path / "film.npz") as saved:
        arrays = {key: saved[key] for key in saved if key != "clip"}
    np.savez(tmp_path / "film.npz", **arrays)
    assert file_motion(clip, GRID).valid.any()


@pytest.mark.parametrize("form", FORMATS)
def test_motion_of_another_clip_is_refused(form: Format, tmp_path: Path) -> None:
    field, clips = file_motion_of(tmp_path), []
    for name in ("one", "two"):
        (tmp_path / f"{name}.webm").write_bytes(name.encode())
        clips.append(replace(clip_at(tmp_path), path=str(tmp_path / f"{name}.webm")))
        write_motion(tmp_path / name, clips[-1], field, GRID, form)
        assert file_motion(clips[-1], GRID).valid.any()
    with pytest.raises(MotiontuneError, match="has motion of the past, motion_direction is future"):
        file_motion(clips[0], GRID, "future")
    with pytest.raises(MotiontuneError, match=r"was extracted for other frames of .*video_fps"):
        file_motion(replace(clips[0], times=clips[0].times * 2), GRID)
    for ending in {"npz": [".npz"], "npy": [".npy", ABOUT]}.get(form, ["", ABOUT]):
        one, two = tmp_path / f"one{ending}", tmp_path / f"two{ending}"
        shutil.rmtree(two) if two.is_dir() else two.unlink()
        one.rename(two)
    with pytest.raises(MotiontuneError, match=r"is the motion of another clip than .*two\.webm"):
        file_motion(clips[1], GRID)


@pytest.mark.parametrize("form", ["npy", "flo", "png"])
def test_files_that_are_not_what_was_extracted_are_refused(form: Format, tmp_path: Path) -> None:
    """The user's own, which have nothing about them beside them, are read; so are those that were extracted twice."""
    (tmp_path / "film.webm").write_bytes(b"one")
    clip, field, about = clip_at(tmp_path), file_motion_of(tmp_path), tmp_path / f"film{ABOUT}"
    write_motion(tmp_path / "film", clip, field, GRID, form)
    write_motion(tmp_path / "film", clip, replace(field, vectors=field.vectors + 1), GRID, form)
    files = find_motion(clip.path)
    assert file_motion(clip, GRID).valid.any()
    files[-1].write_bytes(files[-1].read_bytes() + b"0")
    with pytest.raises(
        MotiontuneError, match=rf"is not what was extracted, film{ABOUT} was written about other files"
    ):
        file_motion(clip, GRID)
    for damage in (b"", b"[]", b"{}"):
        about.write_bytes(damage)
        with pytest.raises(MotiontuneError, match="what it was made of is damaged .*; extract again"):
            file_motion(clip, GRID)
    about.unlink()
    assert file_motion(clip, GRID).valid.any()


def file_motion_of(folder: Path) -> MotionField:
    other = folder / "other"
    other.mkdir()
    np.save(other / "film.npy", vectors_of(3))
    return file_motion(clip_at(folder), GRID, motion_dir=str(other))
