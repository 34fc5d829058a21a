"""How fast films of predictions are written, and what motion adds to the time of an answer.

    taskset -c 0 python benchmarks/overlay/run.py

Films: a 480p clip of a panning texture, H.264 with x264's defaults, 30 frames per second, motion of 2 sampled frames
per second; one panel (prediction) and two (prediction and target). Answers: a tiny Qwen2-VL, `predict` with its head
and plain `generate()` on the same batch without one, in turns. Both on one core,
in processor time, which other load on the machine does not change much.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import av
import cv2
import numpy as np
import torch

from motiontune import MotionModel
from motiontune.drawing.films import frame_size, motion_between, write_overlay
from motiontune.drawing.panels import Panel
from motiontune.model.head import MotionHead, MotionHeadConfig, save_head
from motiontune.model.tiny import build_tiny
from motiontune.motion.sources import motion_of
from motiontune.video.frames import all_frames
from motiontune.video.reader import FrameReader


WIDTH, HEIGHT, RATE, SECONDS = 854, 480, 30, 10
ROUNDS, ANSWERS = 5, 40


def write_clip(path: Path) -> None:
    """A texture that moves by (3, 1) pixels per frame."""
    frames = RATE * SECONDS
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT + frames, WIDTH + 3 * frames, 3), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 6) * 4
    with av.open(str(path), "w") as film:
        stream: Any = film.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(frames):
            image = texture[t : t + HEIGHT, 3 * t : 3 * t + WIDTH]
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        film.mux(stream.encode(None))


def films(folder: Path) -> list[dict[str, Any]]:
    """Frames per second of processor time, decoding included, the median of several rounds."""
    clip_file = folder / "pan.mp4"
    write_clip(clip_file)
    reader = FrameReader(fps=2.0)
    clip = reader.read(str(clip_file), with_vectors=True)
    grid = reader.grid_of(clip)
    field = motion_of(clip, grid)
    rows = []
    for show in ("arrows", "colours"):
        for panels in (1, 2):
            rates = []
            for _ in range(ROUNDS):
                start = time.process_time()
                titled = [Panel(title, field.vectors, field.valid, show) for title in ("predicted", "target")][:panels]
                size = frame_size(clip.info.width, clip.info.height, panels)
                frames = motion_between(all_frames(clip.path, *size), clip.indices, field.direction)
                text, rate = "The texture moves.", clip.info.average_rate
                count = write_overlay(folder / "film.mp4", frames, rate, titled, grid.patch, text=text)
                rates.append(count / (time.process_time() - start))
            rate = round(statistics.median(rates), 1)
            rows.append({"show": show, "panels": panels, "frames": count, "frames_per_cpu_second": rate})
            print(rows[-1], flush=True)
    return rows


def answers(folder: Path) -> dict[str, Any]:
    """Time of `generate()` with the motion of its prefill over that without a head, on the same batch, in turns."""
    from motiontune.model.forward import captured_motion

    model_dir = build_tiny("qwen2_vl", folder / "model", hidden_size=256, layers=6)
    plain = MotionModel.from_pretrained(model_dir, fps=4.0)
    save_head(MotionHead(MotionHeadConfig(256, 14, 2, 2)), model_dir)
    motion = MotionModel.from_pretrained(model_dir, fps=4.0)
    clip = plain.reader.read(str(folder / "pan.mp4"), False)
    batch = motion._batch(clip, "Describe the video.")
    arguments = motion._generation_arguments(16) | {"min_new_tokens": 16}

    def with_motion() -> None:
        with captured_motion(motion.model) as captured:
            motion.model.generate(**batch, **arguments)
        assert len(captured) == 1

    ratios = []
    for number in range(ANSWERS):
        seconds = {}
        for name in ("plain", "motion") if number % 2 else ("motion", "plain"):
            start = time.process_time()
            with_motion() if name == "motion" else plain.model.generate(**batch, **arguments)
            seconds[name] = time.process_time() - start
        ratios.append(seconds["motion"] / seconds["plain"])
    tokens = int((batch["input_ids"] == motion.model.config.video_token_id).sum())
    quartiles = [round(q, 4) for q in statistics.quantiles(ratios[2:], n=4)]
    return {"video_tokens": tokens, "new_tokens": 16, "answers": ANSWERS, "time_ratio_quartiles": quartiles}


def main() -> None:
    """Measure and write `results/overlay.json`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"films": films(Path(folder)), "prediction": answers(Path(folder))}
    result["clip"] = {"width": WIDTH, "height": HEIGHT, "rate": RATE, "seconds": SECONDS}
    result["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "av": av.__version__,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
    }
    out = Path(__file__).parent / "results" / "overlay.json"
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(result["prediction"])


if __name__ == "__main__":
    main()
