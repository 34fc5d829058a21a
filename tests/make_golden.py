"""Writes tests/data/golden: today's numbers of every source of motion, of batches and of training, as digests.

A change that must not move numbers is held to them:

    python tests/make_golden.py --check     compares bit for bit and prints a line per item that differs
    python tests/make_golden.py             writes them again, for a change that is meant to move numbers

Encoders differ between versions, so each clip's file has a digest too: what was computed from another file is not
compared. A few small encoded clips are kept beside the numbers and are the same everywhere. Floats differ between
processors and versions, so `test_golden.py` is less strict where these are not those of `made_with`.
"""

import argparse
import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import training
from make_clips import FOLDER, encode, texture
from real_clips import clip_folders


# isort: split
# All that is used of motiontune, beside what `training` uses
from motiontune.datasets.scenes import true_motion
from motiontune.datasets.stories import write_synthetic
from motiontune.errors import MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, needs_vectors
from motiontune.targets import field_to_targets, field_to_weights
from motiontune.video.clip import read_clip


GOLDEN = Path(__file__).parent / "data" / "golden"
NUMBERS = GOLDEN / "numbers.json"
REPOSITORY = Path(__file__).resolve().parent.parent

PROVIDER = "examples/frame_difference.py:energy"  # from the repository's root
SOURCES = ("codec", "blockmatch", "flow", "codec+flow", "blockmatch+flow", "auto", PROVIDER)
DIRECTIONS = ("past", "future")
PATCHES = (14, 16)
ROWS, COLS = 6, 8

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # those that there were when the numbers were written

# The objectives that are trained: LLaMA-Factory's keys and ours, over `training.keys_for`
STEPS = 10
RUNS: dict[str, dict[str, Any]] = {
    "full": {**training.BOTH},
    "lora": {**training.BOTH, "finetuning_type": "lora", "motion_confidence_weighting": True},
    "motion": {**training.MOTION, "motion_loss_weight": 5.0},
}

# Arrays of up to so many numbers are kept whole
WHOLE = 16
PARTS = " | "

# A group of items that were made from one clip, or by one run: {item: what `describe` gives}
Items = dict[str, str]


# ---- clips ----


def film(count: int, size: tuple[int, int] = (128, 96), cut: int | None = None) -> list[NDArray[np.uint8]]:
    """A background that moves one way and a thing that moves another, by whole pixels; another scene after a cut."""
    width, height = size
    frames = []
    for i in range(count):
        seed = 0 if cut is None or i < cut else 2
        x, y = 200 + 2 * i, 160 - i
        image = texture(seed)[y : y + height, x : x + width].copy()
        left, top = 8 + 3 * i % (width - 40), height // 4 + i % 9
        image[top : top + 32, left : left + 32] = texture(seed + 1)[80:112, 80:112]
        frames.append(image)
    return frames


def _encoded(encoder: str, suffix: str, count: int = 20, size: tuple[int, int] = (128, 96), **keys: Any) -> Path:
    path = FOLDER / f"golden_{encoder}_{count}_{size[0]}{suffix}"
    return encode(path, encoder, film(count, size, **keys), threads=1)  # with more, the number of cores shows


def _irregular() -> Path:
    times = itertools.accumulate(itertools.cycle((1, 2, 1, 4)))
    pts = [0, *itertools.islice(times, 19)]
    return encode(FOLDER / "golden_irregular.mp4", "h264", film(20, cut=11), pts=pts, threads=1)


@functools.cache
def _scenes() -> Path:
    """A synthetic data set of each kind of action."""
    return write_synthetic(FOLDER / "golden_scenes", clips=7, seed=0, name="golden")


def _scene_clip(number: int) -> Path:
    return _scenes().parent / json.loads(_scenes().read_text())[number]["videos"][0]


def _real(name: str) -> Path | None:
    return next((folder / name for folder in clip_folders() if (folder / name).is_file()), None)


# These are committed, so that they are the same with any encoder: name: (encoder, frames, (width, height))
KEPT = {
    "h264.mp4": ("h264", 12, (96, 64)),
    "h264_refs3.mp4": ("h264_refs3_b", 12, (98, 62)),  # x264 encodes this one differently one time in thirty
    "mpeg4.mp4": ("mpeg4_b", 11, (94, 62)),
    "mpeg2.mp4": ("mpeg2_b", 9, (96, 64)),
    "vp9.webm": ("vp9", 10, (95, 63)),
}

# name: how it is made; None where it is not here
CLIPS: dict[str, Callable[[], Path | None]] = {
    **{f"kept {name}": functools.partial(Path, GOLDEN / name) for name in KEPT},
    "h264": lambda: _encoded("h264", ".mp4"),
    "h264, 1 reference": lambda: _encoded("h264_1", ".mkv", 21),
    "h264, 3 references": lambda: _encoded("h264_3", ".mp4", 19, (144, 80)),
    "h264, open GOPs": lambda: _encoded("h264_open_gop", ".ts", 25),
    "h264, interlaced": lambda: _encoded("h264_interlaced", ".mp4"),
    "h264, irregular, with a cut": _irregular,
    "h264, 1 frame": lambda: _encoded("h264", ".mp4", 1),
    "mpeg4": lambda: _encoded("mpeg4", ".avi", 17, (144, 112)),
    "mpeg4, B-frames": lambda: _encoded("mpeg4_b", ".mp4", cut=9),
    "mpeg2, B-frames": lambda: _encoded("mpeg2_b", ".mpg", 23),
    "motion JPEG": lambda: _encoded("mjpeg", ".avi", 15),
    "vp9": lambda: _encoded("vp9", ".webm", 21, (144, 112)),
    "hevc": lambda: _encoded("hevc", ".mp4"),
    "scene 1": lambda: _scene_clip(1),
    "scene 6": lambda: _scene_clip(6),
    "a.mp4": lambda: _real("a.mp4"),
    "b.mp4": lambda: _real("b.mp4"),
}


# ---- what is kept of an array ----


def digest(data: bytes) -> str:
    """16 hexadecimal digits."""
    return "#" + hashlib.blake2b(data, digest_size=8).hexdigest()


def stream_digest(*paths: Path) -> str:
    """The digest of what was encoded; containers can differ from one time to the next (WebM has a random number)."""
    data = b""
    for path in paths:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                data += f"{packet.pts} {packet.dts} {packet.size} ".encode() + bytes(packet)
    return digest(data)


def array_digest(array: NDArray[Any]) -> str:
    """The digest of an array's dtype, shape and bytes."""
    return digest(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())


def summary(array: NDArray[Any]) -> str:
    """An array's digest, mean and deviation: by the latter two a difference can be read."""
    numbers = array.astype(np.float64)
    return f"{array_digest(array)} {numbers.mean():.7g} {numbers.std():.7g}"


def describe(array: Any) -> str:
    """Dtype and shape, then all numbers of a small array, the summary of a large one."""
    array = np.asarray(array)
    kind = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    whole = " ".join(repr(number) for number in array.ravel().tolist()) if array.size <= WHOLE else summary(array)
    return f"{kind} {whole}"


def same(one: str, other: str, tolerance: float = 0.0) -> bool:
    """Whether two descriptions are of equal arrays.

    Args:
        one: what `describe` gave then.
        other: what it gives now.
        tolerance: 0 for equal bits. Else digests do not count, and other numbers may differ by this share of
            themselves, or by a hundredth of it.
    """
    if not tolerance or one == other:
        return one == other

    floor = tolerance / 100

    def close(a: str, b: str) -> bool:
        try:
            return a == b or a[0] == b[0] == "#" or math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=floor)
        except ValueError:
            return False

    words = one.split(), other.split()
    return len(words[0]) == len(words[1]) and all(map(close, *words))


def differences(kept: Items, now: Items, tolerance: float = 0.0) -> list[str]:
    """A line for each item that differs, is missing or is new."""
    lines = []
    for name in [*kept, *(name for name in now if name not in kept)]:
        parts = (items.get(name, "missing").split(PARTS) for items in (kept, now))
        for one, other in itertools.zip_longest(*parts, fillvalue="missing"):
            if not same(one, other, tolerance):
                lines.append(f"{name}: was {one}, is {other}")
    return lines


# ---- what is computed ----


def motion_items(path: Path) -> Items:
    """A clip's frames, and its motion and targets from every source in both directions on both grids."""
    clips = {with_vectors: _read(path, with_vectors) for with_vectors in (False, True)}
    assert np.array_equal(clips[False].frames, clips[True].frames)
    clip = clips[True]
    items = {"frames": describe(clip.frames), "indices": describe(clip.indices), "times": describe(clip.times)}
    for source, direction, patch in itertools.product(SOURCES, DIRECTIONS, PATCHES):
        name = f"{Path(source).name} {direction} {patch}"
        grid = VideoGrid(len(clip.frames) + len(clip.frames) % 2, ROWS, COLS, patch)
        named = f"{REPOSITORY}/{source}" if source == PROVIDER else source
        options = MotionOptions(source=named, direction=direction)  # type: ignore[arg-type]
        try:
            field = motion_of(clips[needs_vectors(named)], grid, options)
        except MotiontuneError as error:
            items[name] = type(error).__name__
            continue
        targets = field_to_targets(field, grid)
        parts = [
            field.source,
            f"vectors {summary(field.vectors)}",
            f"confidence {summary(field.confidence)}",
            f"valid {summary(field.valid)}",
            f"targets {array_digest(targets.values)}",
            f"mask {array_digest(targets.mask)}",
            f"weights {array_digest(field_to_weights(field, grid))}",
        ]
        items[name] = PARTS.join(parts)
    return items


def _read(path: Path, with_vectors: bool) -> Any:
    def small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        scale = 200 / max(frame.shape)
        return frame if scale >= 1 else np.asarray(cv2.resize(frame, None, fx=scale, fy=scale), np.uint8)

    fps = 20.0 if path.parent == GOLDEN else 10.0
    return read_clip(str(path), fps=fps, max_frames=9, resize=small, with_vectors=with_vectors)


def scene_items() -> Items:
    """The captions of a synthetic data set, its scenes, and the true motion of each."""
    samples = json.loads(_scenes().read_text())
    items = {"encoded": stream_digest(*(_scene_clip(number) for number in range(len(samples))))}
    items |= {"samples": digest(json.dumps(samples, sort_keys=True).encode())}
    for number in range(len(samples)):
        clip = _scene_clip(number)
        with np.load(clip.with_suffix(".scene.npz")) as arrays:
            items |= {f"{number} {key}": describe(arrays[key]) for key in arrays if not key.endswith("_shape")}
        for direction in DIRECTIONS:
            field = true_motion(clip, np.arange(8) / 8, VideoGrid(8, 4, 4), direction)
            items[f"{number} {direction} vectors"] = describe(field.vectors)
            items[f"{number} {direction} valid"] = describe(field.valid)
    return items


def run_items(family: str, kind: str) -> Items:
    """The first batch of a run, its initial and its last weights, and what it logged at each step."""
    from transformers import TrainerCallback

    items: Items = {"encoded": stream_digest(*training.clips())}

    class Batch(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):  # type: ignore[no-untyped-def]
            batch = next(iter(train_dataloader))
            for key in sorted(batch):
                value = batch[key]
                if key == "motion_videos":
                    for number, record in enumerate(value):
                        items[f"batch {key} {number} times"] = describe(record.times)
                        items[f"batch {key} {number} source"] = record.source
                elif not isinstance(value, list | dict) or (
                    isinstance(value, list) and value and isinstance(value[0], (int, float))
                ):
                    items[f"batch {key}"] = describe(value)

    items["initial weights"] = _all(training.weights(training.tiny(family)))
    keys = {**RUNS[kind], "max_steps": STEPS, "per_device_train_batch_size": 3}
    folder = training.run(family, callbacks=[Batch()], **keys)
    steps = training.history(folder)[:STEPS]
    for key in sorted(steps[0].keys() - {"epoch", "step"}):
        items[f"steps {key}"] = describe([step[key] for step in steps])
    items["last weights"] = _all(training.weights(folder))
    return items


def _all(weights: dict[str, torch.Tensor]) -> str:
    return describe(torch.cat([weights[name].float().flatten() for name in sorted(weights)]).numpy())


# ---- groups ----


def run_name(family: str, kind: str) -> str:
    """The name of a run's group."""
    return f"{family} {kind}"


def clip_group(name: str) -> Items | None:
    """The items of one of `CLIPS`, with the digest of its stream; None where the file is not here."""
    path = CLIPS[name]()
    if path is None:
        return None
    return {"encoded": stream_digest(path), **motion_items(path)}


def made_with() -> dict[str, str]:
    """What floats and encoders depend on, apart from this project."""
    packages = ("av", "numpy", "opencv-python-headless", "torch", "transformers", "llamafactory")
    cpu = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), "")
    return {
        "cpu": f"{cpu or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}",
        **{package: importlib.metadata.version(package) for package in packages},
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


@functools.cache
def stored() -> dict[str, dict[str, Items]]:
    """What is kept in the file: {"made_with": ..., "clips", "scenes", "runs": {group: items}}."""
    return json.loads(NUMBERS.read_text())


def other_encoder(kept: Items, now: Items) -> bool:
    """Whether what was computed is of clips that another encoder made."""
    return kept["encoded"] != now["encoded"]


def compute() -> dict[str, dict[str, Items]]:
    """All groups that can be made here."""
    clips = {name: group for name in CLIPS if (group := clip_group(name)) is not None}
    runs = {run_name(*run): run_items(*run) for run in itertools.product(FAMILIES, RUNS)}
    return {"clips": clips, "scenes": {"scenes": scene_items()}, "runs": runs}


def write() -> None:
    """Make the committed clips where they are missing, and write all numbers."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, (encoder, count, size) in KEPT.items():
        if not (GOLDEN / name).exists():
            encode(GOLDEN / name, encoder, film(count, size), threads=1)
    NUMBERS.write_text(json.dumps({"made_with": made_with(), **compute()}, indent=0) + "\n")


def check() -> int:
    """Compare bit for bit and print what differs; return the number of items that do."""
    kept = stored()
    for key, value in made_with().items():
        if value != kept["made_with"].get(key):
            print(f"made with {key} {kept['made_with'].get(key)}, this is {value}")
    count, compared = 0, 0
    for kind, groups in compute().items():
        for name in [*kept[kind], *(name for name in groups if name not in kept[kind])]:
            if name not in groups:
                print(f"{kind}: {name}: not here")
                continue
            before = kept[kind].get(name, {})
            if before and other_encoder(before, groups[name]):
                print(f"{kind}: {name}: its clips were encoded otherwise; the numbers are not compared")
                count += 1
                continue
            lines = differences(before, groups[name])
            for line in lines:
                print(f"{kind}: {name}: {line}")
            count, compared = count + len(lines), compared + len(before)
    print(f"{compared} items compared, {count} differ")
    return count


def main() -> int:
    """Write or check."""
    import conftest  # noqa: F401  (the environment of the tests)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare bit for bit and write nothing")
    if parser.parse_args().check:
        return int(check() > 0)
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
