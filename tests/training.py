"""Tiny models, tiny clips and whole runs through LLaMA-Factory, for the tests that train.

Everything lies in one temporary folder per session and is made once. `run(...)` takes the keys of a training YAML and
returns the output folder; `losses`, `history` and `weights` read what it left there.
"""

import atexit
import functools
import gc
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from make_clips import Encoder, encode
from motiontune.model import families
from motiontune.model.tiny import build_tiny


ALL_FAMILIES = families.installed_families()


def family_param(family: str, *values: Any) -> Any:
    """Parameters of a test that begin with a family: those built on Qwen3-VL's code run with the slow ones.

    What is their own (experts, linear attention) is tested in `test_families.py`, always.
    """
    quick = family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    return pytest.param(family, *values, marks=() if quick else pytest.mark.slow)


FAMILIES = [family_param(family) for family in ALL_FAMILIES]
TEMPLATES = {name: families.FAMILIES[name].templates[0] for name in ALL_FAMILIES}
BOTH = {"use_motionvector_crossentropy_loss": True}
MOTION = {"use_only_motionvector_loss": True}
CONTROL = {**BOTH, "motion_loss_weight": 0.0}  # plain LLaMA-Factory, and motion is measured

PROMPT = "<video>Explain the action happening the video."
REPOSITORY = Path(__file__).resolve().parent.parent

# (codec, container, frames, dx, dy per frame): codec vectors and flow, even and odd lengths
CLIPS = (
    ("libx264", "mp4", 16, 2, 1),
    ("mpeg4", "avi", 9, -1, 2),
    ("libvpx-vp9", "webm", 12, 3, 0),
    ("libx264", "mp4", 5, 0, -2),
    ("mpeg4", "mp4", 13, -2, -2),
    ("libx264", "mp4", 8, 1, 3),
)
CAPTIONS = (
    "The square moves left quickly, then stops.",
    "It stops.",
    "The circle moves slowly to the right and turns up.",
    "Spinning.",
    "Pushing something from left to right, moving it up, moving it down.",
    "The triangle spins while the square stands still.",
)

_numbers = itertools.count()


@functools.cache
def session_folder() -> Path:
    """The folder that all of this lies in; it is gone when the session ends."""
    folder = Path(tempfile.mkdtemp(prefix="motiontune-training-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def fresh_folder(name: str = "run") -> Path:
    """A folder that nothing else uses, not made yet."""
    return session_folder() / f"{name}-{next(_numbers)}"


def tiny(family: str = "qwen2_vl", **options: Any) -> Path:
    """A tiny model, once per session; `options` as `build_tiny` takes them."""
    return _tiny(family, **options)


@functools.cache
def _tiny(family: str, **options: Any) -> Path:
    options = {"hidden_size": 32, "initializer_range": 0.1, **options}
    return build_tiny(family, fresh_folder(family), CAPTIONS, **options)


def write_clip(
    path: Path, frames: int = 8, dx: int = 2, dy: int = 1, codec: str = "libx264", fps: int = 8, size: int = 56
) -> Path:
    """Write a clip of a texture that moves by (dx, dy) pixels per frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([frames, dx + 9, dy + 9]).integers(0, 255, (3 * size, 3 * size, 3), np.uint8)
    texture = cv2.GaussianBlur(noise, (5, 5), 0)
    corners = [(size - dx * t, size - dy * t) for t in range(frames)]
    images = [np.ascontiguousarray(texture[y : y + size, x : x + size]) for x, y in corners]
    encoder = Encoder(codec, {"x264-params": "ref=1:bframes=0"})  # the other encoders ignore it
    return encode(path, encoder, images, fps, threads=1)


@functools.cache
def clips() -> tuple[Path, ...]:
    """The clips of `CLIPS`."""
    folder = session_folder() / "clips"
    return tuple(
        write_clip(folder / f"{number}.{ext}", frames, dx, dy, codec)
        for number, (codec, ext, frames, dx, dy) in enumerate(CLIPS)
    )


def sample(
    *turns: str, videos: "list[Any] | tuple[Any, ...]" = (), images: "list[Any] | tuple[Any, ...]" = ()
) -> dict[str, Any]:
    """One sample of alternating user and assistant turns. Videos are paths, or lists of frames' paths."""
    roles = itertools.cycle(("user", "assistant"))

    def text(media: Any) -> Any:
        return [str(part) for part in media] if isinstance(media, (list, tuple)) else str(media)

    return {
        "messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)],
        "videos": [text(video) for video in videos],
        "images": [text(image) for image in images],
    }


def dataset(samples: "list[dict[str, Any]]") -> dict[str, str]:
    """Write a data set; return the keys `dataset_dir` and `dataset` that name it."""
    folder = fresh_folder("data")
    folder.mkdir()
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "videos": "videos", "images": "images"}
    info = {"file_name": "toy.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "toy.json").write_text(json.dumps(samples))
    (folder / "dataset_info.json").write_text(json.dumps({"toy": info}))
    return {"dataset_dir": str(folder), "dataset": "toy"}


@functools.cache
def _toy(number: int) -> tuple[tuple[str, str], ...]:
    pairs = itertools.islice(itertools.cycle(zip(clips(), CAPTIONS, strict=True)), number)
    return tuple(dataset([sample(PROMPT, caption, videos=[clip]) for clip, caption in pairs]).items())


def toy(number: int = len(CLIPS)) -> dict[str, str]:
    """The keys of a data set with one clip and caption per sample."""
    return dict(_toy(number))


def keys_for(family: str = "qwen2_vl", **keys: Any) -> dict[str, Any]:
    """The keys of a run on the CPU, quiet and quick; a key that is None is left out.

    Without `do_predict` or `do_eval` the run trains 2 steps of 2 samples of `toy()`.
    """
    data = toy()
    defaults: dict[str, Any] = {
        "model_name_or_path": str(tiny(family)),
        "stage": "sft",
        "finetuning_type": "full",
        "template": TEMPLATES[family],
        "dataset_dir": data["dataset_dir"],
        "cutoff_len": 1024,
        "video_fps": 8.0,
        "video_maxlen": 16,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0,
        "output_dir": str(fresh_folder()),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "per_device_eval_batch_size": 2,
        "disable_tqdm": True,
    }
    if not (keys.get("do_predict") or (keys.get("do_eval") and not keys.get("do_train"))):
        defaults |= {
            "do_train": True,
            "dataset": data["dataset"],
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_shuffling": True,
        }
    return {key: value for key, value in (defaults | keys).items() if value is not None}


@functools.cache
def start() -> Any:
    """Import LLaMA-Factory (15 s) and return motiontune's `run_exp`; what is tiny is quickest in one thread."""
    from motiontune.llamafactory.install import run_exp

    torch.set_num_threads(1)
    # A fork's pool of threads is replaced when it is next asked for: by the threads of autograd, all at once as these
    # start and without a lock, so that now and then a process crashed (torch 2.11). Here it is before that.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
    gc.collect()
    gc.freeze()  # the Trainer collects garbage several times per run, among all that was imported
    return run_exp


def run(family: str = "qwen2_vl", callbacks: "list[Any] | None" = None, **keys: Any) -> Path:
    """Run one experiment in this process; `keys` over `keys_for`. Returns the output folder."""
    keys = keys_for(family, **keys)
    start()(keys, callbacks)
    return Path(keys["output_dir"])


def run_plain(*experiments: dict[str, Any]) -> list[Path]:
    """Run experiments with LLaMA-Factory alone, in a process that never sees motiontune."""
    code = (
        "import json, sys\n"
        "from llamafactory.train.tuner import run_exp\n"
        "for keys in json.loads(sys.argv[1]): run_exp(keys)\n"
        "assert not any(name.startswith('motiontune') for name in sys.modules)"
    )
    run_command("-c", code, json.dumps(experiments))
    return [Path(keys["output_dir"]) for keys in experiments]


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the messages that LLaMA-Factory's and motiontune's loggers print."""
    start()
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("llamafactory").addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger("llamafactory").removeHandler(handler)


def run_command(
    *arguments: str, env: "dict[str, str] | None" = None, check: bool = True, within: "tuple[str, ...]" = ()
) -> "subprocess.CompletedProcess[str]":
    """Run Python in a process of its own, in one thread, with this source tree on its path.

    Args:
        arguments: Python's.
        env: over this process's environment.
        check: fail if it fails.
        within: a command that runs another one, such as `ip netns exec NAME`.
    """
    path = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [*within, sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not check or result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
    return result


def write_config(keys: dict[str, Any]) -> Path:
    """Write keys as a YAML file (JSON is YAML)."""
    file = fresh_folder("config").with_suffix(".yaml")
    file.write_text(json.dumps(keys))
    return file


def history(folder: Path) -> list[dict[str, Any]]:
    """What a run logged, step by step."""
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def losses(folder: Path, key: str = "loss") -> list[float]:
    """The logged values of one key."""
    return [entry[key] for entry in history(folder) if key in entry]


def results(folder: Path, split: str = "eval") -> dict[str, float]:
    """The metrics of `do_eval` or `do_predict`, without what times the run."""
    metrics = json.loads((folder / f"{split}_results.json").read_text())
    timed = ("runtime", "per_second", "preparation_time")
    return {key: value for key, value in metrics.items() if not key.endswith(timed)}


def weights(folder: Path, head: bool = True) -> dict[str, torch.Tensor]:
    """The saved weights: model or adapter, and the motion head's under `motion_head.*`."""
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        if file.name != "motion_head.safetensors":
            tensors |= load_file(file)
        elif head:
            tensors |= {f"motion_head.{name}": tensor for name, tensor in load_file(file).items()}
    assert tensors, f"no weights in {folder}"
    return tensors


def distance(one: "dict[str, torch.Tensor]", other: "dict[str, torch.Tensor]") -> float:
    """The largest difference of any weight; the names must be the same."""
    assert one.keys() == other.keys()
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)
