"""`motiontune demo`: data, a tiny model, training, evaluation and a report, from nothing, on a CPU.

Everything goes through the same commands that a real run takes; the YAML files that are left in the folder can be
given to `motiontune train` again.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from motiontune.commands.options import MOST, check_range
from motiontune.datasets.real_clips import write_real_clips
from motiontune.datasets.scenes import true_motion
from motiontune.datasets.stories import write_synthetic
from motiontune.drawing.images import encode_image
from motiontune.drawing.sheets import contact_sheet
from motiontune.evaluation.comparison import MotionComparison, load_predictions, prediction_rows
from motiontune.evaluation.sums import MotionSums, constant_epe
from motiontune.files import claim_empty, write_bytes, write_text
from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction
from motiontune.motion.sources import motion_of
from motiontune.runs.folder import PREDICTIONS_FOLDER, read_texts, versions
from motiontune.runs.page import ReportClip, write_report
from motiontune.tables import text_table
from motiontune.video.clip import read_clip


FOLDER = "motiontune-demo"
DESCRIPTION = "Train a tiny model on synthetic clips and show what it learned, in minutes."
TRAIN_CLIPS, HELD_OUT_CLIPS, STEPS, BATCH = 512, 96, 300, 32
FPS, ENCODED_FPS = 8.0, 8
REAL_CAPTION = "Something is going on in a real video."
REPORT_CLIPS, CELL = 9, 112


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--out", help=f"output folder (default: {FOLDER}, or {FOLDER}-2, ... where that is taken)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and model (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Run the demo.

    Raises:
        MotiontuneError: if the folder holds anything, or a step fails.
    """
    check_range("--seed", arguments.seed, 0, MOST // 4)  # of which others are made
    run_demo(arguments.out or free_folder(), arguments.seed)


def free_folder() -> Path:
    """The first of `motiontune-demo`, `motiontune-demo-2`, ... that holds nothing: an earlier demo's stays."""
    names = (Path(FOLDER if number == 1 else f"{FOLDER}-{number}") for number in count(1))
    return next(name for name in names if not os.path.lexists(name) or (name.is_dir() and not any(name.iterdir())))


def run_demo(out: str | Path, seed: int = 0) -> dict[str, float]:
    """Train a tiny Qwen2-VL on synthetic and real clips, measure it on held-out ones and write `report.html`.

    Args:
        out: the folder, which must be empty or not be there yet.
        seed: of data and training.

    Returns:
        What `metrics.json` holds: `epe`, `epe_zero_motion`, `epe_mean_motion`, `epe_moving`, `epe_moving_zero_motion`,
        `direction_accuracy` against the targets; those of `against_truth`; `caption_exact_match`, and `seconds`.
        Lengths in pixels of the resized frame.

    Raises:
        MotiontuneError: if the folder holds anything, or a step fails.
    """
    start = time.monotonic()
    out = Path(out)
    claim_empty(out)
    log = out / "log.txt"

    print(f"1/5  data: {TRAIN_CLIPS} + {HELD_OUT_CLIPS} synthetic clips, and real ones", flush=True)
    data = out / "data"
    write_synthetic(data, clips=TRAIN_CLIPS, seed=2 * seed, name="synthetic_train", fps=ENCODED_FPS)
    write_synthetic(data, clips=HELD_OUT_CLIPS, seed=2 * seed + 1, name="synthetic_heldout", fps=ENCODED_FPS)
    real = write_real_clips(data, REAL_CAPTION)
    if not real:
        print("     no real clips: gradio's sample videos are not installed", flush=True)

    print("2/5  model: a tiny Qwen2-VL with random weights (loading LLaMA-Factory takes a moment)", flush=True)
    with _quietly(log):
        import torch

        from motiontune.llamafactory.install import run_exp
        from motiontune.model.families import SIMPLEST
        from motiontune.model.tiny import build_tiny

        # one core decodes; threads that wait for it would spin
        torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
        template = SIMPLEST.templates[0]

        captions = [sample["messages"][1]["content"] for sample in _read_json(data / "synthetic_train.json")]
        build_tiny(SIMPLEST.model_type, out / "model", [*captions, REAL_CAPTION], seed=seed, **MODEL)

    print("3/5  training: motion + text", flush=True)
    train = _configuration(
        out,
        "train",
        seed,
        template,
        dataset="synthetic_train" + (",real_train" if real else ""),
        do_train=True,
        **TRAINING,
    )
    with _quietly(log) as terminal:
        run_exp(train, callbacks=[_progress(terminal)])

    print("4/5  prediction: text and motion of the held-out clips", flush=True)
    with _quietly(log):
        for name in ["synthetic_heldout", *(["real_heldout"] if real else [])]:
            keys = {"eval_dataset": name, "do_predict": True, "predict_with_generate": True, "max_new_tokens": 24}
            keys |= {"model_name_or_path": str(out / "train"), "train_on_video_tokens": True}
            run_exp(_configuration(out, f"predict_{name}", seed, template, **keys, per_device_eval_batch_size=BATCH))

    print("5/5  report", flush=True)
    metrics = _measure(out, data)
    metrics["seconds"] = round(time.monotonic() - start, 1)
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    clips = _report_clips(out, data)
    rows = [row for clip in clips[1:4] for row in prediction_rows(clip.name, clip.frames, clip.prediction, CELL)]
    write_bytes(out / "motion.jpg", encode_image(contact_sheet(rows, columns=7, cell_width=CELL), ".jpg"))
    write_report(
        out / "report.html",
        title="motiontune demo: a tiny Qwen2-VL that predicts motion",
        metrics=metrics,
        log_history=_read_json(out / "train" / "trainer_state.json")["log_history"],
        clips=clips,
        configuration=train,
        versions=versions(),
        notes=(
            f"Trained from random weights on {TRAIN_CLIPS} synthetic clips{' and a few real ones' if real else ''} "
            f"for {STEPS} steps on a CPU. The metrics are of {HELD_OUT_CLIPS} synthetic clips that it never saw. A "
            f"model this small shows that the path works from video to picture; it tells nothing about large ones."
        ),
    )
    print(f"\n{format_table(metrics)}\n\n{metrics['seconds']:.0f} seconds; see {out / 'report.html'}")
    return metrics


MODEL: dict[str, Any] = {"hidden_size": 64, "layers": 2, "vision_layers": 2}
TRAINING: dict[str, Any] = {
    "use_motionvector_crossentropy_loss": True,
    "motion_loss_weight": 10.0,
    "motion_scale": 0.1,  # targets of the size of a pixel, not of a patch: the shapes move by a few pixels
    "freeze_vision_tower": False,
    "freeze_multi_modal_projector": False,
    "disable_gradient_checkpointing": True,
    "per_device_train_batch_size": BATCH,
    "max_steps": STEPS,
    "learning_rate": 3.0e-3,
    "motion_head_learning_rate": 2.0e-2,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.05,
    "logging_steps": 5,
    "save_strategy": "no",
    "plot_loss": True,
    "dataloader_num_workers": 2,
}


def _configuration(out: Path, name: str, seed: int, template: str, **keys: Any) -> dict[str, Any]:
    """Make the keys of one run and leave them in the folder as a YAML."""
    configuration = {
        "model_name_or_path": str(out / "model"),
        "stage": "sft",
        "finetuning_type": "full",
        "template": template,
        "dataset_dir": str(out / "data"),
        "output_dir": str(out / name),
        "video_fps": FPS,
        "cutoff_len": 256,
        "preprocessing_num_workers": 1,
        "overwrite_cache": True,
        "report_to": "none",
        "use_cpu": True,
        "seed": seed,
        **keys,
    }
    write_text(out / f"{name}.yaml", yaml.safe_dump(configuration, sort_keys=False))
    return configuration


def _measure(out: Path, data: Path) -> dict[str, float]:
    """Metrics of the held-out synthetic clips, with the two baselines that see nothing, and against the truth."""
    predictions = list(load_predictions(out / "predict_synthetic_heldout" / PREDICTIONS_FOLDER))
    mean = _mean_motion(data)
    constant = np.array([constant_epe(cast(Any, p.target), p.valid, mean) for p in predictions]).sum(0)
    metrics = sum((prediction.sums() for prediction in predictions), MotionSums.zero()).metrics()
    metrics["epe_mean_motion"] = float(constant[0] / constant[1])
    metrics |= against_truth(predictions)
    texts = _texts(out, "synthetic_heldout")
    metrics["caption_exact_match"] = float(np.mean([answer == expected for answer, expected in texts]))
    return {key: round(value, 4) for key, value in metrics.items()}


def against_truth(predictions: Iterable[MotionComparison]) -> dict[str, float]:
    """Compare predictions of synthetic clips, and their targets, with how the clips' scenes really move.

    Both are compared at the same patches: those with a target where a single vector is true.

    Returns:
        `truth_patches`, how many these are; `truth_epe`, `truth_epe_zero_motion`, `truth_epe_moving`,
        `truth_epe_moving_zero_motion`, `truth_direction_accuracy` of the predictions; `target_epe` and
        `target_epe_moving` of the targets. What no patch was measured for is left out. A patch moves if it truly does.

    Raises:
        ConfigError: if a clip has no scene beside it.
    """
    predicted, targets = MotionSums.zero(), MotionSums.zero()
    for one in predictions:
        if one.target is None:
            continue
        truth = true_motion(one.path, one.times, one.grid, cast(Direction, one.direction))
        valid = truth.valid & one.valid
        predicted += MotionSums.from_fields(one.predicted, truth.vectors, valid, one.grid.width)
        targets += MotionSums.from_fields(one.target, truth.vectors, valid, one.grid.width)
    found = predicted.metrics()
    metrics = {"truth_patches": found.pop("valid_patches")} | {f"truth_{name}": found[name] for name in found}
    own = targets.metrics()
    return metrics | {f"target_{name}": own[name] for name in ("epe", "epe_moving") if name in own}


def _mean_motion(data: Path, clips: int = 64) -> NDArray[np.float32]:
    """The mean vector of the first training clips, in pixels: the best constant that training could learn."""
    vectors = []
    for sample in _read_json(data / "synthetic_train.json")[:clips]:
        clip = read_clip(str(data / sample["videos"][0]), FPS, with_vectors=True)
        field = motion_of(clip, VideoGrid.for_size(*clip.frames.shape[:3]))
        vectors.append(field.vectors[field.valid])
    return np.asarray(np.concatenate(vectors).mean(0), np.float32)


def _report_clips(out: Path, data: Path) -> list[ReportClip]:
    """Held-out clips for the report: one of each action, then the real ones."""
    clips: list[ReportClip] = []
    actions = [sample["action"] for sample in _read_json(data / "synthetic_heldout.json")]
    for name in ("synthetic_heldout", "real_heldout"):
        folder = out / f"predict_{name}" / PREDICTIONS_FOLDER
        if not folder.is_dir():
            continue
        predictions = list(load_predictions(folder))
        texts = _texts(out, name)
        chosen = [actions.index(action) for action in dict.fromkeys(actions)] if name.startswith("synth") else [0, 1]
        for i in chosen[: len(predictions)]:
            clips.append(_report_clip(predictions[i], *texts[i]))
    return clips[:REPORT_CLIPS]


def _report_clip(prediction: MotionComparison, answer: str, expected: str) -> ReportClip:
    clip = read_clip(prediction.path, FPS)
    return ReportClip(Path(prediction.path).name, clip.frames, prediction, expected, answer)


def _texts(out: Path, name: str) -> list[tuple[str, str]]:
    return [(answer.strip(), label.strip()) for answer, label in read_texts(out / f"predict_{name}")]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def format_table(metrics: Mapping[str, float]) -> str:
    """Lay out the metrics of `metrics.json` as the demo prints them; what was not measured has no line."""
    measured = "truth_epe_moving" in metrics
    head = ["held-out synthetic clips", "model", "no motion", "mean motion", *(["target"] if measured else [])]
    errors = {
        "end-point error, moving patches": ("epe_moving", "epe_moving_zero_motion"),
        "end-point error, all patches": ("epe", "epe_zero_motion", "epe_mean_motion"),
    }
    if measured:
        errors["against the truth, moving patches"] = (
            "truth_epe_moving",
            "truth_epe_moving_zero_motion",
            "",
            "target_epe_moving",
        )
        errors["against the truth, all patches"] = ("truth_epe", "truth_epe_zero_motion", "", "target_epe")
    rows = [head]
    rows += [[name, *(f"{metrics[key]:.2f} px" if key else "" for key in keys)] for name, keys in errors.items()]
    rows.append(["direction right, moving patches", f"{metrics['direction_accuracy']:.0%}"])
    rows.append(["caption right, word for word", f"{metrics['caption_exact_match']:.0%}"])
    return text_table(rows, "<>>>>", least=(34, 8, 10, 11, 8))


@contextmanager
def _quietly(log: Path) -> Iterator[int]:
    """Send all output of this process, and of libraries below Python, to a log file; its end is shown on an error.

    Yields:
        A file descriptor of the terminal's stderr.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield saved[1]
        failed = False
    except BaseException:
        failed = True
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        if failed:
            print(f"The end of {log}:\n" + log.read_text(encoding="utf-8", errors="replace")[-1500:], file=sys.stderr)


def _progress(terminal: int) -> Any:
    """Make a trainer callback that shows steps, rate, time left and the losses on the terminal."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]  # everything from transformers is Any
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.file = os.fdopen(os.dup(terminal), "w")
            self.bar = tqdm(total=state.max_steps, desc="     steps", file=self.file, mininterval=0.5)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            names = {"ce_loss": "text", "motion_loss": "motion"}
            self.bar.set_postfix({name: f"{logs[key]:.3g}" for key, name in names.items() if key in (logs or {})})

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()
            self.file.close()

    return Progress()
