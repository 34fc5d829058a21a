"""Whatever is configured: a run ends with finite numbers of what was measured, or with one line.

Keys, values and data are drawn. A few configurations, always the same, are tried with all tests;
`make test-configurations` draws new ones for half an hour, or for `MOTIONTUNE_MINUTES`.
"""

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from PIL import Image

from make_clips import remuxed
from motiontune.errors import MotiontuneError
from training import (
    BOTH,
    CONTROL,
    MOTION,
    PROMPT,
    clips,
    dataset,
    fresh_folder,
    keys_for,
    run,
    sample,
    session_folder,
    start,
    write_clip,
)


TASKS: list[dict[str, Any]] = [
    {"do_train": True},
    {"do_train": True, "do_eval": True, "eval_dataset": "toy"},
    {"do_train": True, "eval_dataset": "toy", "eval_strategy": "steps", "eval_steps": 1},
    {"do_eval": True, "eval_dataset": "toy", "dataset": None},
    {"do_predict": True, "eval_dataset": "toy", "dataset": None, "predict_with_generate": True, "max_new_tokens": 3},
    {"do_train": True, "do_predict": True, "eval_dataset": "toy", "predict_with_generate": True, "max_new_tokens": 3},
]
VALUES: dict[str, list[Any]] = {
    # motion
    "motion_source": ["auto", "codec", "codec+flow", "blockmatch", "flow", "file", "radar"],
    "motion_quality": ["fast", "best"],
    "motion_direction": ["past", "future"],
    "motion_min_confidence": [0.0, 0.5, 0.999, 1.0],
    "motion_on_error": ["auto", "raise", "skip"],
    "motion_loss_weight": [0.0, 1e-3, 100.0, -1.0, "one"],
    "motion_loss_type": ["smooth_l1", "l1", "l2", "epe"],
    "motion_head_input": ["last_hidden", "layer:1", "layer:9", "projector"],
    "motion_head_learning_rate": [0.0, 1e-4],
    "motion_confidence_weighting": [True, False],
    "motion_scale": [0.01, 100.0, 0.0],
    "motion_pictures": [0, 1, -1],
    "train_on_video_tokens": [True, False],
    # reading
    "video_fps": [0.1, 1.0, 30.0, 0.0],
    "video_maxlen": [1, 2, 3, 64],
    "video_max_pixels": [900, 65536],
    "cutoff_len": [4, 24, 60, 200],
    "neat_packing": [True],
    "packing": [True],
    "train_on_prompt": [True],
    "mask_history": [True],
    "tokenized_path": ["tokens"],
    "motion_cache_dir": ["cache"],
    "frame_cache_dir": ["frames"],
    "preprocessing_num_workers": [1, 2],
    "dataloader_num_workers": [0, 1],
    "max_samples": [1, 2],
    "streaming": [True],
    "accelerator_config": [{"dispatch_batches": False}],
    "mix_strategy": ["interleave_under", "concat"],
    # training
    "finetuning_type": ["lora", "freeze", "full"],
    "per_device_train_batch_size": [1, 3],
    "gradient_accumulation_steps": [2, 3],
    "max_steps": [1, 3, -1],
    "num_train_epochs": [1, 0.5, 2],
    "learning_rate": [0.0, "1e-4", "fast"],
    "optim": ["sgd", "adafactor", "adamw_8bit"],
    "lr_scheduler_type": ["cosine", "reduce_lr_on_plateau"],
    "label_smoothing_factor": [0.1],
    "neftune_noise_alpha": [5.0],
    "bf16": [True],
    "disable_gradient_checkpointing": [True, False],
    "freeze_vision_tower": [False],
    "additional_target": ["embed_tokens,lm_head", "nothing"],
    "use_dora": [True],
    "loraplus_lr_ratio": [16.0],
    "logging_steps": [2, 10],
    "plot_loss": [True],
    "save_strategy": ["steps", "epoch", "best"],
    "save_steps": [1],
    # evaluation
    "per_device_eval_batch_size": [1, 3],
    "compute_accuracy": [True],
    "predict_with_generate": [True],
    "batch_eval_metrics": [True],
    "eval_on_each_dataset": [True],
    "eval_strategy": ["steps", "epoch"],
    "val_size": [0.3, 1, 50],
    "load_best_model_at_end": [True],
    "metric_for_best_model": ["loss", "epe", "accuracy", "eval_nothing"],
    "early_stopping_steps": [1],
    "num_beams": [2],
}
ROWS = (
    "h264", "vp9", "mpeg4", "one frame", "torn", "missing", "text", "image", "frames", "two clips", "second turn",
    "no answer", "no turn", "long answer", "no video token",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """A sample of each kind."""
    start()
    folder = session_folder() / "any"
    one = write_clip(folder / "one.mp4", 1)
    whole = remuxed(write_clip(folder / "whole.mp4", 16), folder / "header_first.mp4", movflags="faststart")
    (folder / "torn.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    pictures = []
    for number in range(4):
        pictures.append(folder / f"{number}.png")
        Image.effect_noise((56, 56), 80 + 10 * number).convert("RGB").save(pictures[-1])
    videos = {"h264": clips()[0], "vp9": clips()[2], "mpeg4": clips()[1], "one frame": one}
    videos |= {"torn": folder / "torn.mp4", "missing": folder / "missing.mp4"}
    made = {kind: sample(PROMPT, "It stops.", videos=[video]) for kind, video in videos.items()}
    made["text"] = sample("What?", "It stops.")
    made["image"] = sample("<image>What?", "It stops.", images=[pictures[0]])
    made["frames"] = sample(PROMPT, "It stops.", videos=[[str(picture) for picture in pictures]])
    made["two clips"] = sample("<video>And <video>?", "It stops.", videos=[clips()[0], clips()[3]])
    made["second turn"] = sample("Hello?", "Yes.", PROMPT, "It stops.", videos=[clips()[3]])
    made["no answer"] = sample(PROMPT, "", videos=[clips()[3]])
    made["no turn"] = sample(PROMPT, videos=[clips()[3]])
    made["long answer"] = sample(PROMPT, "It stops. " * 40, videos=[clips()[3]])
    made["no video token"] = sample("What?", "It stops.", videos=[clips()[3]])
    return made


@pytest.fixture(scope="module")
def trained(rows: Any) -> str:
    """A model with a head."""
    return str(run(**BOTH, max_steps=1))


@st.composite
def configurations(draw: Any) -> tuple[dict[str, Any], list[str]]:
    """The keys of a run, without a model and data; and the kinds of its samples."""
    objective = draw(st.sampled_from([BOTH, MOTION, CONTROL]))
    keys = {**objective, **draw(st.sampled_from(TASKS))}
    for key in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=6, unique=True)):
        keys[key] = draw(st.sampled_from(VALUES[key]))
    usual = st.sampled_from(("h264", "mpeg4", "vp9"))
    kinds = draw(st.lists(st.one_of(usual, st.sampled_from(ROWS)), min_size=1, max_size=5))
    return keys, kinds


def check(configuration: tuple[dict[str, Any], list[str]], rows: dict[str, Any], model: str) -> None:
    """Run a configuration; whatever it is, what it leaves is right."""
    keys, kinds = dict(configuration[0]), configuration[1]
    work = fresh_folder("any")
    work.mkdir()
    for key in ("tokenized_path", "motion_cache_dir", "frame_cache_dir"):
        if key in keys:
            keys[key] = str(work / keys[key])
    keys |= {"dataset_dir": dataset([rows[kind] for kind in kinds])["dataset_dir"], "output_dir": str(work / "out")}
    if "dataset" not in keys:
        keys["dataset"] = "toy"
    keys = keys_for(model_name_or_path=model, **keys)
    note(f"{json.dumps(configuration[0])} {kinds}")
    try:
        start()(keys)
    except MotiontuneError as error:
        assert str(error) and "\n" not in str(error)
    finally:
        shutil.rmtree(keys["dataset_dir"])
    check_numbers(work / "out", len(kinds))
    shutil.rmtree(work)


def check_numbers(folder: Path, samples: int) -> None:
    """All numbers are finite, and of something."""
    state = folder / "trainer_state.json"
    entries = json.loads(state.read_text())["log_history"] if state.is_file() else []
    entries += [json.loads(file.read_text()) for file in folder.rglob("*_results.json")]
    for entry in entries:
        assert all(math.isfinite(value) for value in entry.values() if isinstance(value, (int, float))), entry
        assert entry.get("loss") != 0 and entry.get("train_loss") != 0, entry
        for prefix in ("eval", "predict"):
            if entry.get(f"{prefix}_clips_left_out") == samples:
                assert not {f"{prefix}_loss", f"{prefix}_accuracy", f"{prefix}_bleu-4"} & set(entry), entry
            if not entry.get(f"{prefix}_valid_patches", 1):
                assert f"{prefix}_epe" not in entry and f"{prefix}_motion_loss" not in entry, entry


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=12, derandomize=True, phases=[Phase.generate], **QUIET)
@given(configuration=configurations())
def test_a_few_configurations(configuration: Any, rows: Any, trained: str) -> None:
    check(configuration, rows, trained)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_configurations_for_half_an_hour(rows: Any, trained: str) -> None:
    end = time.monotonic() + 60 * float(os.environ.get("MOTIONTUNE_MINUTES", "30"))
    tried = 0

    @settings(max_examples=20, **QUIET)  # then it is asked for the time
    @given(configuration=configurations())
    def try_some(configuration: Any) -> None:
        nonlocal tried
        tried += 1
        check(configuration, rows, trained)

    while time.monotonic() < end:
        try_some()
    print(f"{tried} configurations")
