"""Packed samples, and data sets in which not every sample is one video in the first turn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from motiontune.errors import ConfigError
from motiontune.model.families import FAMILIES as ENTRIES
from training import (
    ALL_FAMILIES,
    BOTH,
    FAMILIES,
    MOTION,
    PROMPT,
    clips,
    dataset,
    distance,
    family_param,
    history,
    logged,
    losses,
    results,
    run,
    sample,
    session_folder,
    weights,
)


# a layer of linear attention carries its state over the samples of a row: refused, see test_families.py
PACKED = [family_param(name) for name in ALL_FAMILIES if not ENTRIES[name].linear_attention]
ONCE = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0}
TEXT = sample("What happens in the video?", "It stops.")


@pytest.fixture(scope="module")
def image():
    """A picture."""
    path = session_folder() / "image.png"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (56, 56, 3), np.uint8))
    return path


# ---- neat packing ----


@pytest.mark.parametrize("objective", [BOTH, MOTION], ids=["both", "motion"])
@pytest.mark.parametrize("family", PACKED)
def test_a_packed_step_is_the_step_of_its_samples(family, objective):
    """Samples in one row, and in a row each: the same losses and, after a step of SGD, the same weights."""
    packed = run(family, **objective, **ONCE, neat_packing=True, cutoff_len=1024, per_device_train_batch_size=1)
    apart = run(family, **objective, **ONCE, per_device_train_batch_size=6)
    for key in ("loss", "motion_loss", "motion_valid"):
        assert losses(packed, key) == pytest.approx(losses(apart, key), rel=1e-5)
    assert distance(weights(packed), weights(apart)) < 1e-5
    assert weights(apart)["motion_head.weight"].abs().max() > 1e-4


@pytest.mark.parametrize("family", PACKED)
def test_packed_and_unpacked_samples_have_the_same_motion(family):
    trained = str(run(family, **BOTH, max_steps=4, learning_rate=0.01))
    common = {"model_name_or_path": trained, "do_eval": True, "eval_dataset": "toy", **BOTH}
    common |= {"per_device_eval_batch_size": 1}
    apart = results(run(family, **common))
    packed = results(run(family, **common, neat_packing=True, cutoff_len=1024))
    assert apart["eval_motion_loss"] > 0
    for key in ("eval_motion_loss", "eval_ce_loss", "eval_epe", "eval_loss"):
        assert packed[key] == pytest.approx(apart[key], rel=1e-5), key


@pytest.mark.parametrize("accumulation", [1, 2])
def test_packed_rows_train_step_after_step(accumulation, image):
    samples = [sample(PROMPT, "It stops.", videos=[clip]) for clip in clips()]
    samples += [TEXT, sample("<image>Describe.", "Spinning.", images=[image])]
    packed = {"neat_packing": True, "cutoff_len": 160, "per_device_train_batch_size": 1}
    folder = run(**BOTH, **dataset(samples), **packed, gradient_accumulation_steps=accumulation, max_steps=4)
    assert len(losses(folder)) == 4 and np.isfinite(losses(folder)).all()
    assert sum(losses(folder, "motion_valid")) > 0


def test_plain_packing_is_refused():
    with pytest.raises(ConfigError, match="neat_packing: true"):
        run(**BOTH, packing=True)


# ---- mixed data ----


@pytest.mark.parametrize("objective", [BOTH, MOTION], ids=["both", "motion"])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_and_images_train_among_videos(family, objective, image):
    """Batches of 2: text alone, an image and a video, videos alone, text and a video."""
    video = [sample(PROMPT, "It stops.", videos=[clip]) for clip in clips()]
    picture = sample("<image>Describe.", "Spinning.", images=[image])
    both = sample("<image><video>Describe the video.", "Spinning.", images=[image], videos=[clips()[3]])
    data = dataset([TEXT, TEXT, picture, video[0], video[1], video[3], TEXT, both])
    folder = run(family, **objective, **data, max_steps=4, finetuning_type="lora")
    entries = [entry for entry in history(folder) if "grad_norm" in entry]
    assert ["motion_valid" in entry and "motion_loss" in entry for entry in entries] == [False, True, True, True]
    assert all(np.isfinite(entry.get("loss", 0)) and np.isfinite(entry["grad_norm"]) for entry in entries)
    if objective is MOTION:
        assert "loss" not in entries[0] and entries[0]["grad_norm"] == 0
    else:
        assert entries[0]["loss"] == pytest.approx(entries[0]["ce_loss"])
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_text_trains_text_as_llamafactory_does(family):
    data = dataset([TEXT, TEXT, sample(PROMPT, "It stops.", videos=[clips()[0]])])  # the only batch is the first one
    motion = run(family, **BOTH, **data, **ONCE)
    plain = run(family, **data, **ONCE)
    assert losses(motion) == pytest.approx(losses(plain), rel=1e-5)
    assert distance({name: weights(motion)[name] for name in weights(plain)}, weights(plain)) < 1e-6
    assert not weights(motion)["motion_head.weight"].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_text_beside_a_video_adds_no_motion(family):
    video = sample(PROMPT, "It stops.", videos=[clips()[0]])
    alone = run(family, **MOTION, **dataset([video]), **ONCE, per_device_train_batch_size=1)
    beside = run(family, **MOTION, **dataset([TEXT, video]), **ONCE, per_device_train_batch_size=2)
    assert losses(beside, "motion_loss") == pytest.approx(losses(alone, "motion_loss"), rel=1e-6)
    assert distance(weights(alone), weights(beside)) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_videos_anywhere_in_a_sample(family):
    """Two of different length in a turn, one in the second turn, one in each: the samples' motion is their videos'."""
    long, short = clips()[0], clips()[3]
    ask = "Describe the video."
    samples = [
        sample(f"<video><video>{ask}", "It stops.", videos=[long, short]),
        sample("What happens?", "It stops.", f"<video>{ask}", "Spinning.", videos=[long]),
        sample(f"<video>{ask}", "It stops.", f"{ask}<video>", "Spinning.", videos=[short, long]),
    ]
    folder = run(family, **BOTH, **dataset(samples), max_steps=3, per_device_train_batch_size=1)
    assert len(losses(folder, "motion_loss")) == 3

    def patches(samples):
        keys = {"model_name_or_path": str(folder), "dataset_dir": dataset(samples)["dataset_dir"], **BOTH}
        return results(run(family, do_eval=True, eval_dataset="toy", **keys))["eval_valid_patches"]

    of_long, of_short = (patches([sample(PROMPT, "It stops.", videos=[clip])]) for clip in (long, short))
    assert patches(samples) == 3 * of_long + 2 * of_short > 0


def test_a_sample_without_an_answer_is_dropped_as_llamafactory_does():
    """In alpaca format an answer that is null leaves a sample with a question alone."""
    clip, *_ = clips()
    data = dataset([])
    folder = Path(data["dataset_dir"])
    rows = [{"instruction": PROMPT, "output": answer, "videos": [str(clip)]} for answer in ("It moves.", None)]
    (folder / "toy.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "response": "output", "videos": "videos"}
    info = json.loads((folder / "dataset_info.json").read_text())
    info["toy"] = {"file_name": "toy.json", "formatting": "alpaca", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with logged() as messages:
        run(**data, use_motionvector_crossentropy_loss=True)
    assert any("1 of 2 samples were left out" in message for message in messages)
