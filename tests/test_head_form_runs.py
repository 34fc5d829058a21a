"""Runs with other forms of the motion head: trained, evaluated, saved, resumed, exported, predicted."""

import json

import numpy as np
import pytest

import training
from commands import command
from motiontune import MotionModel
from motiontune.errors import HeadError
from motiontune.evaluation.comparison import load_predictions
from motiontune.files import LIST
from motiontune.model.head import load_head
from training import BOTH, distance, history, logged, losses, results, run, weights


DELTADIRECT = {"features": "delta", "form": "pooled", "output": "direction", "input": "projector"}
EVALUATED = {"eval_dataset": "toy", "do_train": True, "do_eval": True}
SIZES = {"fps": 8.0, "max_frames": 16}


@pytest.fixture(scope="module", autouse=True)
def imported():
    training.start()


@pytest.fixture(scope="module")
def preset():
    """A run with DeltaDirect's head: 3 steps, a checkpoint after 2, evaluated at its end."""
    keys = {
        **BOTH,
        **EVALUATED,
        "motion_head": "deltadirect",
        "max_steps": 3,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    return keys, run(**keys)


def test_the_preset_is_one_line_for_these_keys(preset):
    keys, folder = preset
    config = json.loads((folder / "motion_head_config.json").read_text())
    assert config.items() >= DELTADIRECT.items()
    head = weights(folder)["motion_head.weight"]
    assert head.shape == (2, config["hidden_size"]) and head.any()
    long = {f"motion_head_{name}": value for name, value in DELTADIRECT.items()} | {
        "freeze_multi_modal_projector": False
    }
    long |= {"motion_gradient": "projector", "motion_loss_type": "l2", "motion_loss_weight": 1.0}
    other = run(**{key: value for key, value in keys.items() if key not in ("motion_head", "save_steps")} | long)
    assert distance(weights(folder), weights(other)) == 0


def test_a_key_beside_the_preset_stands():
    from motiontune.llamafactory.config import with_new_names

    keys = with_new_names({"motion_head": "deltadirect", "motion_gradient": "head", **BOTH})
    assert keys["motion_gradient"] == "head" and keys["motion_head_form"] == "pooled"
    assert with_new_names(keys) == keys
    options = with_new_names(["--train-on-video-tokens", "--motion-head", "deltadirect", "--motion_gradient=head"])
    assert options[-1] == "--motion_gradient=head" and "--motion_head_form=pooled" in options
    assert "--freeze_multi_modal_projector=False" in options
    assert with_new_names({"motion_loss_weight": 2.0}) == {"motion_loss_weight": 2.0}


def test_without_a_motion_flag_the_preset_stands_for_nothing():
    from motiontune.llamafactory.config import with_new_names

    for flag in ({}, dict.fromkeys(BOTH, False), dict.fromkeys(BOTH)):
        keys = {"motion_head": "deltadirect", **flag}
        assert with_new_names(keys) == keys
    options = ["--motion_head=deltadirect", "--use_motionvector_crossentropy_loss", "False"]
    assert with_new_names(options) == options


def test_pooled_directions_are_measured_by_what_they_have(preset):
    _, folder = preset
    measured = results(folder)
    assert {"eval_motion_loss", "eval_pooled_direction_accuracy", "eval_pooled_valid_steps"} <= measured.keys()
    assert not [name for name in measured if "epe" in name or "patches" in name]
    assert 0 <= measured["eval_pooled_direction_accuracy"] <= 1 and measured["eval_pooled_valid_steps"] > 0
    assert all(np.isfinite(entry["motion_loss"]) for entry in history(folder) if "motion_loss" in entry)
    assert losses(folder, "motion_loss")[0] == pytest.approx(0.5)  # of zero, against unit vectors


def test_a_form_is_resumed_and_another_one_refused(preset):
    keys, folder = preset
    resumed = run(**keys, resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert distance(weights(folder), weights(resumed)) < 1e-6
    with pytest.raises(HeadError, match="has form pooled, this model and configuration have dense"):
        run(**keys, resume_from_checkpoint=str(folder / "checkpoint-2"), motion_head_form="dense")


def test_prediction_says_once_that_there_is_no_dense_motion(preset, capfd, tmp_path):
    _, folder = preset
    reason = "a motion head that predicts one direction per temporal step from differences in time, no dense motion"
    model = MotionModel.from_pretrained(folder, **SIZES)
    assert model.no_motion == reason and not model.has_head
    prediction = model.predict(training.clips()[0], max_new_tokens=2, compare_with="auto")
    assert prediction.field is None and prediction.target is None
    clip, out = str(training.clips()[0]), tmp_path / "out"
    code, _, err = command(capfd, "predict", clip, "--model", str(folder), "--out", str(out), "--max-new-tokens", "2")
    assert code == 0 and err.count(reason) == 1
    assert {file.name for file in out.iterdir()} == {"predictions.json", LIST}
    data = ["--dataset", "toy", "--dataset-dir", training.toy()["dataset_dir"], "--fps", "8", "--max-frames", "16"]
    options = ["--out", str(tmp_path / "measured"), "--max-new-tokens", "2", "--bootstrap", "2"]
    code, said, _ = command(capfd, "evaluate", "--model", str(folder), *data, *options)
    assert code == 0 and f"the model has {reason}: text alone\n" in said


def test_inspect_describes_what_is_predicted(capfd, tmp_path):
    keys = training.keys_for(**BOTH, motion_head="deltadirect")
    code, said, _ = command(capfd, "inspect", training.write_config(keys), "--out", tmp_path, "--samples", 1)
    assert code == 0 and "one direction per temporal step from differences in time, " in said
    assert not list(tmp_path.glob("*.png"))


def test_do_predict_measures_what_there_is_of_the_first_beam(preset):
    _, folder = preset
    keys = {
        "model_name_or_path": str(folder),
        "eval_dataset": "toy",
        "train_on_video_tokens": True,
        "do_predict": True,
    }
    with logged() as messages:
        out = run(**keys, predict_with_generate=True, max_new_tokens=2, num_beams=2)
    assert results(out, "predict")["predict_pooled_direction_accuracy"] == pytest.approx(
        results(folder)["eval_pooled_direction_accuracy"]
    )
    assert any("there is no dense motion to write" in message for message in messages)
    assert not list((out / "motion_predictions").iterdir())


ENCODER = {"motion_head_features": "delta", "motion_head_input": "encoder", "freeze_vision_tower": False}
LAYER = {"motion_head_form": "pooled", "motion_head_input": "layer:1", "finetuning_type": "lora"}
PROBE = {"motion_head_output": "direction", "motion_gradient": "head", "neat_packing": True}
PROJECTOR = {"motion_head": "deltadirect", "finetuning_type": "lora", "additional_target": "merger"}
ALONE = {"motion_head": "deltadirect", "finetuning_type": "freeze", **training.MOTION}


@pytest.mark.parametrize(
    ("family", "keys", "metric"),
    [
        ("qwen2_5_vl", {**BOTH, **ENCODER}, "epe"),
        ("qwen3_vl", {**BOTH, **LAYER}, "pooled_epe"),
        ("qwen2_vl", {**BOTH, **PROBE}, "direction_accuracy"),
        ("qwen3_vl", {**BOTH, **PROJECTOR}, "pooled_direction_accuracy"),
        ("qwen2_vl", ALONE, "pooled_direction_accuracy"),
    ],
    ids=["encoder", "layer", "probe", "projector", "alone"],
)
def test_other_forms_are_trained_and_evaluated(family, keys, metric):
    folder = run(family, **EVALUATED, **keys)
    assert load_head(folder).weight.any() and np.isfinite(list(results(folder).values())).all()
    assert f"eval_{metric}" in results(folder)


def test_differences_are_dense_motion_without_the_first_step():
    folder = run(**BOTH, motion_head_features="delta")
    keys = {
        "model_name_or_path": str(folder),
        "eval_dataset": "toy",
        "train_on_video_tokens": True,
        "do_predict": True,
    }
    out = run(**keys, predict_with_generate=True, max_new_tokens=2)
    model = MotionModel.from_pretrained(folder, **SIZES)
    for theirs in load_predictions(out / "motion_predictions"):
        field = model.predict(theirs.path, training.PROMPT, max_new_tokens=2).field
        assert not theirs.valid[:2].any() and not field.valid[:2].any() and field.valid[2:].any()
        np.testing.assert_allclose(
            field.vectors[field.valid], theirs.predicted[: len(field.valid)][field.valid], atol=1e-4
        )


def test_a_head_that_learns_alone_is_named():
    with logged() as messages:
        run(**BOTH, motion_head_input="projector", max_steps=1)
    assert any("The motion loss trains the head alone" in message for message in messages)
    with logged() as messages:
        run(**BOTH, motion_head_input="projector", motion_gradient="head", max_steps=1)
        run(**BOTH, motion_head="deltadirect", max_steps=1)
    assert not any("The motion loss trains the head alone" in message for message in messages)
