"""How many clips per second do the workers of a run's data loader read? LLaMA-Factory's and motiontune's, on the CPU.

The data loader is that of a whole run: it is timed when training would begin, and the run ends there.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from experiment import KINDS, keys_for, write_data
from internals import build_tiny, run_exp
from rows import Rows
from transformers import TrainerCallback


READERS = {
    "llamafactory": {},
    "motiontune, motion auto": {**KINDS["motion+CE"], "motion_source": "auto"},
    "motiontune, motion and frames cached": {**KINDS["motion+CE"], "motion_source": "auto", "cached": True},
}
# name: width, height, frames per second, seconds, codec, container, options
CLIPS: dict[str, tuple[int, int, int, float, str, str, dict[str, str]]] = {
    "426x240 VP9": (426, 240, 12, 4.0, "libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "5"}),
    "1280x720 H.264": (1280, 720, 30, 6.0, "libx264", "mp4", {"preset": "veryfast"}),
}


class Enough(Exception):
    """Ends a run."""


class Timed(TrainerCallback):  # type: ignore[misc]
    """Counts batches of one clip for some seconds, after two per worker."""

    def __init__(self, seconds: float, workers: int) -> None:
        self.seconds, self.skipped = seconds, 3 * workers + 3
        self.found: dict[str, Any] = {}

    def on_train_begin(self, *_: Any, train_dataloader: Any, model: Any, **__: Any) -> None:
        """Take batches and end the run."""
        number, started = 0, time.perf_counter()
        for batch in train_dataloader:
            number, last = number + 1, batch
            now = time.perf_counter()
            if number == self.skipped:
                started = now
            elif number > self.skipped:
                self.found = {
                    "clips": number - self.skipped,
                    "clips_per_second": (number - self.skipped) / (now - started),
                }
                if now - started > self.seconds:
                    break
        ids = last["input_ids"]
        self.found["positions_per_clip"] = ids.numel()
        self.found["video_tokens_per_clip"] = int((ids == model.config.video_token_id).sum())
        if "motion_videos" in last:
            self.found["source"] = last["motion_videos"][0].source
        raise Enough


def write_clip(folder: Path, name: str) -> Path:
    """Write a texture that pans while two squares of another move across it."""
    width, height, fps, seconds, codec, container, options = CLIPS[name]
    path = folder / f"{name.replace(' ', '-')}.{container}"
    random = np.random.default_rng(0)
    frames = int(fps * seconds)
    noise = random.integers(0, 255, (height + frames, width + 3 * frames, 3), np.uint8)
    texture, other = (cv2.GaussianBlur(noise, (0, 0), blur) * 3 for blur in (5, 3))
    side = height // 4
    with av.open(str(path), "w") as film:
        stream: Any = film.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            image = np.ascontiguousarray(texture[t // 2 : t // 2 + height, t : t + width])
            for speed, y in ((3, side // 2), (-2, 5 * side // 2)):
                x = (speed * t) % (width - side)
                image[y : y + side, x : x + side] = other[:side, :side]
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode(None))
    return path


def measure(rows: Rows, workers: int, seconds: float, deadline: float, samples: int) -> None:
    """Time each reader on each clip, with LLaMA-Factory's defaults (2 frames per second of at most 65,536 px)."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = build_tiny("qwen2_vl", work / "model")
        for clip in CLIPS:
            data = write_data(work / clip.split()[0], [write_clip(work, clip)] * samples, 11)
            for reader, more in READERS.items():
                if time.time() + 10 + seconds > deadline:
                    rows.add("not run", f"loader: {clip} {reader}", reason="no time left")
                    continue
                _measure_one(rows, work, model, data, clip, reader, dict(more), workers, seconds)


def _measure_one(
    rows: Rows,
    work: Path,
    model: Path,
    data: Path,
    clip: str,
    reader: str,
    more: dict[str, Any],
    workers: int,
    seconds: float,
) -> None:
    timed = Timed(seconds, workers)
    if more.pop("cached", False):
        more |= {"motion_cache_dir": str(work / "motion"), "frame_cache_dir": str(work / "frames")}
    keys = keys_for(model, data, work / "out", 1_000_000, "cpu", finetuning_type="lora", **more)
    keys |= {"video_fps": 2.0, "video_max_pixels": 256 * 256, "dataloader_num_workers": workers}
    keys |= {"train_from_scratch": False, "preprocessing_num_workers": workers}
    with rows.checking(f"{clip} {reader}", part="loader") as found:
        found |= {"clip": clip, "reader": reader, "workers": workers, "cores": len(os.sched_getaffinity(0))}
        try:
            run_exp(keys, [timed])
        except Enough:
            pass
        found |= timed.found
