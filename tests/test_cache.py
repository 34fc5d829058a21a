"""What is kept of clips: never stale, whole or not at all, and the same batches with it as without."""

import functools
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import motiontune
from make_clips import pan_clip
from motiontune.cache import (
    ENTRIES,
    Cache,
    FrameCache,
    MotionCache,
    file_digest,
    frames_key,
    imported_files,
    motion_key,
)
from motiontune.errors import ConfigError
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.video.clip import read_clip
from training import BOTH, PROMPT, clips, dataset, keys_for, logged, run, sample, start, tiny, weights


PACKAGE = Path(motiontune.__file__).parent
READING = {"video_fps": 2.0, "video_maxlen": 128, "video_max_pixels": 65536, "video_min_pixels": 256}
GRID = {"patch": 14, "merge": 2, "temporal_patch": 2, "size": {"shortest_edge": 1, "longest_edge": 2}}


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path = str(pan_clip("h264", ".mp4"))
    clip = read_clip(path, fps=7.0, with_vectors=True)
    field = motion_of(clip, VideoGrid(12, 8, 10), MotionOptions("codec"))
    frames, motion = FrameCache(str(tmp_path / "a")), MotionCache(str(tmp_path / "b"))
    assert frames.load("ab12", path) is None and motion.load("ab12") is None and "ab12" not in frames
    frames.save("ab12", clip)
    motion.save("ab12", field)
    kept, again = frames.load("ab12", "elsewhere.mp4"), motion.load("ab12")
    assert kept is not None and again is not None and "ab12" in frames
    assert kept.path == kept.info.path == "elsewhere.mp4" and kept.info == replace(clip.info, path="elsewhere.mp4")
    for name in ("frames", "times", "indices"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(clip, name))
    for name in ("vectors", "valid", "confidence", "times"):
        np.testing.assert_array_equal(getattr(again, name), getattr(field, name))
    assert (again.source, again.direction) == (field.source, field.direction) and 0.2 < again.valid.mean() < 1
    assert frames.size()[0] == 1 and frames.size()[1] > clip.frames.nbytes


def test_every_setting_makes_another_key(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def f(clip, grid, direction): ...")
    weights_file = tmp_path / "raft.pth"
    weights_file.write_bytes(b"1")
    options = [
        MotionOptions(),
        *(MotionOptions(source) for source in ("codec", "blockmatch", f"{own}:f", f"{own}:g")),
        MotionOptions(direction="future"),
        MotionOptions(quality="best"),
        MotionOptions(min_confidence=0.5),
        MotionOptions("raft", raft_weights=str(weights_file)),
    ]
    readings = [READING, *({**READING, key: value + 1} for key, value in READING.items())]
    grids = [GRID, *({**GRID, key: 3} for key in GRID)]
    keys = [motion_key("content", READING, GRID, one) for one in options]
    keys += [motion_key("content", one, GRID, options[0]) for one in readings[1:]]
    keys += [motion_key("content", READING, one, options[0]) for one in grids[1:]]
    keys += [motion_key("other", READING, GRID, options[0])]
    keys += [frames_key("content", one) for one in readings] + [frames_key("other", READING)]
    own.write_text("def f(clip, grid, direction): return None")
    weights_file.write_bytes(b"22")
    keys += [motion_key("content", READING, GRID, options[number]) for number in (3, 8)]
    assert None not in keys and len(set(keys)) == len(keys)
    assert motion_key("content", READING, GRID, options[0]) == keys[0]
    assert motion_key("content", READING, GRID, MotionOptions("file")) is None
    assert motion_key("content", READING, GRID, MotionOptions("flow", raft_weights="nowhere.pth"))  # not read


def keys_of_copy(folder: Path, code: str) -> list[str]:
    """What `code` prints, in a process that imports motiontune from a folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_the_code_that_reads_and_makes_motion_is_part_of_a_key(tmp_path: Path) -> None:
    """In a copy of the package: a changed comment in any file that these keys stand for makes another key."""
    package = Path(shutil.copytree(PACKAGE, tmp_path / "motiontune"))
    covered = [file.relative_to(package).as_posix() for file in imported_files(package, ENTRIES)]
    reading = {"llamafactory/plugin.py", "video/clip.py", "video/vectors.py", "video/h264.py", "grid.py"}
    motion = {f"motion/{name}.py" for name in "blockmatch codec field file flow options pairs provider raft".split()}
    assert reading | motion | {"motion/sources.py"} <= set(covered)
    others = ["commands/evaluate.py", "evaluation/sums.py", "viewer/page.css", "cli.py", "training/trainer.py"]
    code = f"""
import motiontune.motion.sources, sys
from pathlib import Path
from motiontune import cache
def key():
    cache.this_code.cache_clear()
    print(cache.frames_key("content", {{}}))
key()
for name in {[*covered, *others]!r}:
    file = Path(cache.__file__).parent / name
    before = file.read_bytes()
    file.write_bytes(before + b"# one more comment")
    key()
    file.write_bytes(before)
key()
print(*sorted(name for name in sys.modules if name.startswith("motiontune.")))
"""
    first, *rest = keys_of_copy(tmp_path, code)
    changed, kept, (same, *modules) = (
        rest[: len(covered)],
        rest[len(covered) :][: len(others)],
        rest[len(covered) + len(others) :],
    )
    assert len({first, *changed}) == len(covered) + 1
    assert set(kept) == {first} == {same}
    # whatever really is imported to make motion is covered
    files = {f"{name.removeprefix('motiontune.').replace('.', '/')}" for name in modules}
    assert len(files) > 10 and not [name for name in files if not {f"{name}.py", f"{name}/__init__.py"} & set(covered)]


def test_the_versions_of_packages_are_part_of_a_key(tmp_path: Path) -> None:
    """Other metadata of an installed package, as another version has it, makes another key."""
    code = "from motiontune import cache; print(cache.frames_key('content', {}))"
    keys = []
    for name in ("none_of_ours", "torch", "transformers", "numba", "opencv-python-headless", "av"):
        folder = tmp_path / name / f"{name.replace('-', '_')}-0.0.1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
        keys += keys_of_copy(Path(f"{folder.parent}{os.pathsep}{PACKAGE.parent}"), code)
    assert len(set(keys)) == len(keys) and keys[0] == frames_key("content", {})


def test_a_field_of_another_grid_is_computed_again(tmp_path: Path) -> None:
    """Such as one that another program wrote under the same name."""
    folders = {"motion_cache_dir": str(tmp_path / "motion")}
    plain = collated(tmp_path, **folders)
    files = sorted((tmp_path / "motion").rglob("*.npz"))
    with np.load(files[0]) as saved:
        arrays = {name: saved[name] for name in saved.files}
    for name in ("vectors", "valid", "confidence"):
        arrays[name] = arrays[name][:, :2]
    np.savez(files[0], **arrays)
    with pytest.warns(UserWarning, match=f"{files[0].name} has motion for .* and is computed again"):
        again = collated(tmp_path, **folders)
    assert torch.equal(plain["motion_targets"], again["motion_targets"]) and plain["motion_mask"].any()
    with np.load(files[0]) as saved:
        assert saved["valid"].shape[1] > 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        collated(tmp_path, **folders)


def test_every_key_of_a_run_makes_another_name() -> None:
    """The settings reach the name by way of LLaMA-Factory's processor, which must carry them."""
    start()
    from motiontune.llamafactory.install import get_train_args, install
    from motiontune.llamafactory.workflow import load_processor, motion_options

    install()

    def name(family: str = "qwen2_vl", **keys: Any) -> str:
        model_args, data_args, *_ = get_train_args(keys_for(family, **BOTH, **keys))
        _, tokens, template = load_processor(model_args, data_args)
        plugin, options = template.mm_plugin, motion_options(data_args)
        key: str = plugin.motion_key(str(clips()[0]), tokens["processor"], options)
        return key

    changes: list[dict[str, Any]] = [
        {},
        {"video_fps": 4.0},
        {"video_maxlen": 8},
        {"video_max_pixels": 3136},
        {"video_min_pixels": 784},
        {"motion_source": "blockmatch"},
        {"motion_quality": "best"},
        {"motion_direction": "future"},
        {"motion_min_confidence": 0.5},
        {"model_name_or_path": str(tiny(min_pixels=7840))},
        {"model_name_or_path": str(tiny(max_pixels=7840))},
        {"family": "qwen3_vl"},
    ]
    names = [name(**keys) for keys in changes]
    assert len(set(names)) == len(names) and name() == names[0]


@pytest.mark.parametrize("kind", ["motion", "frames"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another"])
def test_a_damaged_file_is_computed_again(damage: str, kind: str, tmp_path: Path) -> None:
    file = str(pan_clip("mpeg4", ".avi"))
    clip = read_clip(file, fps=2.0)
    cache: Any = MotionCache(str(tmp_path)) if kind == "motion" else FrameCache(str(tmp_path))
    kept: Any = motion_of(clip, VideoGrid(4, 8, 10), MotionOptions("blockmatch")) if kind == "motion" else clip
    more = () if kind == "motion" else (file,)
    cache.save("ab12", kept)
    path = tmp_path / "ab" / "ab12.npz"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 3] ^= 255
    elif damage == "empty":
        data = bytearray()
    path.write_bytes(data)
    if damage == "another":
        np.savez(path, vectors=np.zeros(3))
    with pytest.warns(UserWarning, match="ab12.npz is damaged and computed again"):
        assert cache.load("ab12", *more) is None
    cache.save("ab12", kept)
    assert cache.load("ab12", *more) is not None and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("kind", ["motion", "frames"])
def test_exchanged_files_are_computed_again(kind: str, tmp_path: Path) -> None:
    file = str(pan_clip("mpeg4", ".avi"))
    clip = read_clip(file, fps=2.0)
    cache: Any = MotionCache(str(tmp_path)) if kind == "motion" else FrameCache(str(tmp_path))
    kept: Any = motion_of(clip, VideoGrid(4, 8, 10), MotionOptions("blockmatch")) if kind == "motion" else clip
    more = () if kind == "motion" else (file,)
    for key in ("ab12", "cd34"):
        cache.save(key, kept)
    cache.path_of("ab12").replace(cache.path_of("cd34"))
    with pytest.warns(
        UserWarning, match="cd34.npz is damaged and computed again .it was written under another name, or"
    ):
        assert cache.load("cd34", *more) is None
    assert cache.load("ab12", *more) is None


def test_any_damaged_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """No byte of a file, whatever it becomes, gives other motion or another error than a warning."""
    cache = MotionCache(str(tmp_path))
    vectors = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    valid = np.ones((2, 2, 2), np.bool_)
    cache.save("ab12", MotionField(vectors, valid, np.arange(2.0), "codec"))
    path = tmp_path / "ab" / "ab12.npz"
    data = path.read_bytes()
    rebuilt = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 255
        path.write_bytes(changed)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            field = cache.load("ab12")
        if field is None:
            rebuilt += 1
            assert "is damaged and computed again" in str(said[0].message)
        else:
            np.testing.assert_array_equal(field.vectors, vectors)
            np.testing.assert_array_equal(field.valid, valid)
            assert (field.source, field.direction, field.times.tolist()) == ("codec", "past", [0, 1])
    assert rebuilt > len(data) / 2


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(str(tmp_path))

    def killed(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.put("ab12", {})
    assert "ab12" not in cache and cache.get("ab12") is None and cache.size() == (0, 0)


def _write(folder: str, number: int) -> None:
    cache = Cache(folder)
    for _ in range(20):
        cache.put("ab12", {"values": np.full(20_000, number)})
        kept = cache.get("ab12")
        assert kept is not None and len(set(kept["values"].tolist())) == 1


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(functools.partial(_write, str(tmp_path)), range(2))
    assert Cache(str(tmp_path)).size()[0] == 1 and not list(tmp_path.rglob("*.part"))


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be written to"):
        Cache(str(tmp_path / "file"))
    cache = Cache(str(tmp_path / "full"))

    def full(*arguments: Any, **keys: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left on device; what it is for is not kept"):
        cache.put("ab12", {})
    assert cache.get("ab12") is None and not list(tmp_path.rglob("*.part"))


def collated(folder: Path, **keys: Any) -> dict[str, Any]:
    """The batch of the training clips with caches in a folder."""
    start()
    from motiontune.llamafactory.install import get_train_args, install
    from motiontune.llamafactory.workflow import (
        MotionDataCollator,
        head_config,
        load_datasets,
        load_processor,
        target_settings,
    )

    install()
    data = dataset([sample(PROMPT, "It moves.", videos=[clip]) for clip in clips()])
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(keys_for(**data, **BOTH, **keys))
    config, tokens, template = load_processor(model_args, data_args)
    module = load_datasets(template, model_args, data_args, training_args, tokens)
    motion = target_settings(
        head_config(config, tokens["processor"], data_args, finetuning_args), data_args, finetuning_args
    )
    collator = MotionDataCollator(template=template, model=None, pad_to_multiple_of=8, motion=motion, **tokens)
    return collator(list(module["train_dataset"]))


def test_batches_are_the_same_and_the_second_epoch_decodes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"motion_cache_dir": str(tmp_path / "motion"), "frame_cache_dir": str(tmp_path / "frames")}
    plain, first = collated(tmp_path), collated(tmp_path, **folders)
    from motiontune.llamafactory import plugin
    from motiontune.training import batch

    def decoded(*arguments: Any, **keys: Any) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(plugin, "read_clip", decoded)
    monkeypatch.setattr(batch, "motion_of", decoded)
    monkeypatch.setattr("motiontune.llamafactory.workflow.log_source", lambda *arguments: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        second = collated(tmp_path, **folders)
    for made in (first, second):
        assert made.keys() == plain.keys()
        for key, value in plain.items():
            assert torch.equal(value, made[key]) if torch.is_tensor(value) else value == made[key], key
    assert plain["motion_mask"].any()
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "frames")
    third = collated(tmp_path, **folders)
    assert torch.equal(third["pixel_values_videos"], plain["pixel_values_videos"])
    assert torch.equal(third["motion_targets"], plain["motion_targets"])


def test_a_run_with_workers_fills_the_caches_and_trains_the_same(tmp_path: Path) -> None:
    data = dataset([sample(PROMPT, "It moves.", videos=[clip]) for clip in clips()])
    keys = {**data, **BOTH, "max_steps": 3, "dataloader_num_workers": 2}
    plain = run(**keys)
    folders = {"motion_cache_dir": str(tmp_path / "motion"), "frame_cache_dir": str(tmp_path / "frames")}
    with logged() as messages:
        kept = [run(**keys, **folders) for _ in range(2)]
    for folder in folders.values():
        files, size = Cache(folder).size()
        assert f"{folder} keeps {files} clips in {size / 1e6:,.1f} MB." in messages
    assert Cache(folders["motion_cache_dir"]).size()[0] > 2 and Cache(folders["frame_cache_dir"]).size()[0] > 2
    for folder in kept:
        ours, theirs = weights(folder), weights(plain)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_copy_shares_what_is_kept(tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    shutil.copy(clips()[0], copy)
    assert file_digest(str(copy)) == file_digest(str(clips()[0])) != file_digest(str(clips()[1]))
