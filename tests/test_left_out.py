"""What was left out, or not measured, takes no part in any number; a run that learned nothing is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback

from commands import refused_run, trained
from make_clips import remuxed
from motiontune.errors import MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.model.head import MotionHeadConfig
from motiontune.motion.options import MotionOptions
from motiontune.training.batch import ReadClip, add_motion
from motiontune.training.settings import TargetSettings
from motiontune.video.clip import clip_from_frames
from training import (
    BOTH,
    CONTROL,
    MOTION,
    PROMPT,
    clips,
    dataset,
    fresh_folder,
    history,
    logged,
    losses,
    results,
    run,
    sample,
    session_folder,
    start,
    write_clip,
)


OBJECTIVES = pytest.mark.parametrize("objective", [BOTH, MOTION, CONTROL], ids=["both", "motion", "control"])


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()


def data(*videos):
    return dataset([sample(PROMPT, "It stops.", videos=[video]) for video in videos])


@pytest.fixture(scope="module")
def torn():
    """A clip whose header promises 16 frames, and whose body ends in the middle."""
    folder = session_folder() / "left-out"
    whole = remuxed(write_clip(folder / "whole.mp4", 16), folder / "header_first.mp4", movflags="faststart")
    torn = folder / "torn.mp4"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return torn


@pytest.fixture(scope="module")
def model():
    return str(run(**BOTH, max_steps=1))


# ---- training ----


@OBJECTIVES
def test_a_step_with_nothing_to_learn_takes_no_part_in_the_loss(objective, torn):
    keys = {"optim": "sgd", "learning_rate": 0.0, "max_grad_norm": 0.0, "weight_decay": 0.0, **objective}
    whole = run(**keys, **data(clips()[0], clips()[1]), max_steps=1)
    (expected,) = losses(whole)
    mixed = run(**keys, **data(torn, torn, clips()[0], clips()[1]))
    first, second, *_ = history(mixed)
    assert "loss" not in first and "motion_loss" not in first and "motion_valid" not in first
    assert second["loss"] == pytest.approx(expected)
    assert results(mixed, "train")["train_loss"] == pytest.approx(expected)
    assert results(mixed, "train")["clips_left_out"] == 2
    both = run(**keys, **data(torn, torn, clips()[0], clips()[1]), logging_steps=2)
    assert losses(both) == pytest.approx([expected])


@OBJECTIVES
def test_a_micro_batch_with_nothing_to_learn_takes_no_part(objective, torn):
    keys = {"learning_rate": 0.0, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 1}
    keys |= objective
    one = run(**{**keys, "gradient_accumulation_steps": 1}, **data(clips()[0]))
    assert losses(run(**keys, **data(clips()[0], torn))) == pytest.approx(losses(one))


@OBJECTIVES
def test_steps_that_found_the_batch_too_large_take_no_part(objective, torn):
    class TooLarge(TrainerCallback):
        once = True

        def on_step_end(self, *_, **__):
            if self.once:
                self.once = False
                raise RuntimeError("CUDA out of memory.")

    keys = {"learning_rate": 0.0, "max_steps": 3, **objective, **data(clips()[0], torn, clips()[1])}
    found = run(**keys, callbacks=[TooLarge()], auto_find_batch_size=True)
    small = run(**keys, per_device_train_batch_size=1)
    assert losses(found) == losses(small) and len(losses(small)) == 2
    assert results(found, "train")["train_loss"] == pytest.approx(np.mean(losses(small)), abs=1e-6)
    assert results(found, "train")["clips_left_out"] == 1


@OBJECTIVES
def test_a_run_that_learned_nothing_is_refused(objective, torn, capfd):
    output = fresh_folder()
    message = refused_run(capfd, **objective, **data(torn, torn), output_dir=str(output))
    assert message.startswith("nothing was learned: ") and f"{torn}: ends after 4 of 16 frames" in message
    assert not list(output.glob("*.safetensors"))


def test_an_epoch_without_anything_to_learn_is_the_last(torn, capfd):
    message = refused_run(capfd, **BOTH, **data(torn, torn), max_steps=50)
    assert message.startswith("nothing was learned: 1 steps had no valid motion target and no label: ")


@pytest.mark.parametrize("keys", [BOTH, CONTROL], ids=["both", "control"])
def test_a_loss_that_is_no_number_ends_the_run(keys, capfd):
    """The Trainer counts it as 0, and saves weights that are no numbers either."""
    output = fresh_folder()
    message = refused_run(capfd, **keys, learning_rate=1e30, max_steps=4, output_dir=str(output))
    assert message.startswith("the loss was not a finite number, 1 times until step 2, and no more are the weights")
    assert not list(output.glob("*.safetensors"))
    logged = [json.loads(line) for line in (output / "trainer_log.jsonl").read_text().splitlines()]
    assert [entry["current_steps"] for entry in logged if "loss" in entry] == [1]


def test_a_run_without_a_step_is_refused(capfd):
    assert refused_run(capfd, **BOTH, max_steps=0).startswith("nothing was learned: max_steps and num_train_epochs")


# ---- evaluation ----


def evaluated(model, *videos, **keys):
    keys = {"do_eval": True, "eval_dataset": "toy", **data(*videos), "dataset": None, **keys}
    return run(model_name_or_path=model, **keys)


@OBJECTIVES
def test_samples_left_out_take_no_part_in_an_evaluation(objective, torn, model):
    accuracy = {} if objective is MOTION else {"compute_accuracy": True}
    whole = results(evaluated(model, clips()[0], clips()[1], **objective, **accuracy))
    # a batch of both kinds, one that is torn, one that is whole
    videos = [clips()[0], torn, torn, torn, clips()[1]]
    half = results(evaluated(model, *videos, **objective, **accuracy, per_device_eval_batch_size=2))
    assert half.pop("eval_clips_left_out") == 3 and whole.pop("eval_clips_left_out") == 0
    assert half == pytest.approx(whole, rel=1e-5)


def test_samples_left_out_take_no_part_in_the_scores_of_texts(torn, model):
    keys = {**BOTH, "do_eval": None, "do_predict": True, "predict_with_generate": True, "max_new_tokens": 4}
    keys |= {"do_sample": False, "per_device_eval_batch_size": 1}
    whole = results(evaluated(model, clips()[0], clips()[1], **keys), "predict")
    folder = evaluated(model, clips()[0], torn, torn, clips()[1], **keys)
    half = results(folder, "predict")
    assert half.pop("predict_clips_left_out") == 2 and whole.pop("predict_clips_left_out") == 0
    assert half == pytest.approx(whole)
    rows = [json.loads(line) for line in (folder / "generated_predictions.jsonl").read_text().splitlines()]
    assert [(row["predict"], row["label"]) for row in rows[1:3]] == [("", "")] * 2 and rows[3]["label"]
    videos = [torn, clips()[0], clips()[1], torn]
    batched = results(evaluated(model, *videos, **keys, batch_eval_metrics=True), "predict")
    assert batched["predict_bleu-4"] == pytest.approx(whole["predict_bleu-4"]) and whole["predict_bleu-4"] > 0


@pytest.mark.parametrize("generate", [False, True])
@OBJECTIVES
def test_an_evaluation_of_nothing_is_refused(objective, generate, torn, model, capfd):
    output = fresh_folder()
    what = {"do_predict": True, "predict_with_generate": True, "max_new_tokens": 2} if generate else {"do_eval": True}
    keys = {**objective, **data(torn, torn), "dataset": None, "eval_dataset": "toy", **what}
    message = refused_run(capfd, **keys, model_name_or_path=model, output_dir=str(output))
    split = "predict" if generate else "eval"
    assert message.startswith(f"do_{split} measured nothing: {torn}: ends after 4 of 16 frames")
    measured = {key: value for key, value in results(output, split).items() if key.startswith(split)}
    counts = {"valid_patches": 0, "clips_left_out": 2, "samples_left_out": 0}
    assert measured == {f"{split}_{name}": count for name, count in counts.items()}


def test_what_was_not_measured_is_not_the_best(torn):
    keys = {**data(clips()[0], torn), "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"}
    folder = Path(keys["dataset_dir"])
    info = json.loads((folder / "dataset_info.json").read_text())
    for name, number in (("good", 0), ("bad", 1)):
        rows = json.loads((folder / "toy.json").read_text())[number : number + 1]
        (folder / f"{name}.json").write_text(json.dumps(rows))
        info[name] = {**info["toy"], "file_name": f"{name}.json"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    keys |= {"dataset": "good", "eval_dataset": "bad", "save_steps": 1, "load_best_model_at_end": True}
    keys |= {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"}
    output = fresh_folder()
    with logged() as messages, pytest.raises(MotiontuneError, match="^do_eval measured nothing: "):
        run(**BOTH, **keys, output_dir=str(output))
    assert not losses(output, "eval_loss") and losses(output, "eval_clips_left_out") == [1, 1]
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["best_metric"] is None and state["best_model_checkpoint"] is None
    assert any("metric_for_best_model: loss was not measured at step 1" in line for line in messages)


def test_training_and_evaluation_count_apart(torn):
    keys = {**data(clips()[0], torn, clips()[2], clips()[4]), "eval_dataset": "toy", "do_eval": True, "do_train": True}
    folder = run(**BOTH, **keys, eval_strategy="steps", eval_steps=1)
    train = results(folder, "train")
    assert train["clips_left_out"] == 1 and sum(v for k, v in train.items() if k.startswith("clips_")) == 4
    assert results(folder)["eval_clips_left_out"] == 1
    assert all(math.isfinite(value) for value in results(folder).values())


# ---- tokens and clips that do not fit each other ----


@OBJECTIVES
def test_data_that_were_tokenized_with_other_keys_are_refused_before_training(objective, capfd, tmp_path):
    keys = {**objective, **data(clips()[0], clips()[1]), "tokenized_path": str(tmp_path / "tokens")}
    run(**keys)
    output = fresh_folder()
    for more in ({}, {"motion_on_error": "skip"}):
        message = refused_run(capfd, **keys, video_fps=4.0, output_dir=str(output), **more)
        assert message.startswith(f"{clips()[0]}: its sample was tokenized to 32 video tokens, but needs 16: the clip")
    assert not output.exists()
    run(**keys)


def test_a_clip_that_was_replaced_after_its_tokens_were_kept_is_refused(capfd, tmp_path):
    videos = [write_clip(tmp_path / f"{number}.mp4", 16) for number in range(40)]
    keys = {**BOTH, **data(*videos), "tokenized_path": str(tmp_path / "tokens")}
    run(**keys)
    write_clip(videos[39], 8)  # of the first 32 it is none
    message = refused_run(capfd, **keys)
    assert message.startswith(f"{videos[39]}: its sample was tokenized to 32 video tokens, but needs 16: ")
    said = trained(capfd, **keys, motion_on_error="skip", max_steps=20)
    assert f"Left out of a batch: {videos[39]}: its sample was tokenized to 32 video tokens" in said
    videos[39].unlink()
    assert refused_run(capfd, **keys).startswith(f"{videos[39]}: does not exist")


def test_the_collator_refuses_what_nobody_looked_at_before(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("motiontune.llamafactory.workflow.check_tokenized", lambda *arguments: None)
    keys = {**BOTH, **data(clips()[0], clips()[1]), "tokenized_path": str(tmp_path / "tokens")}
    run(**keys)
    message = refused_run(capfd, **keys, video_fps=4.0)
    assert message.startswith(f"{clips()[0]}: its sample was tokenized to 32 video tokens, but needs 16: ")


def test_clips_of_one_frame_are_announced_as_without_motion(capfd, tmp_path):
    one = write_clip(tmp_path / "one.mp4", 1)
    output = fresh_folder()
    said = trained(capfd, **BOTH, **data(one, one), output_dir=str(output))
    assert "none for 2 (one frame is sampled of each clip" in said and "has no motion: one frame" in said
    assert "The run learned no motion: no clip had a vector that is valid" in said and "no sample a label" not in said
    numbers = results(output, "train")
    assert numbers["clips_none"] == 4 and not any("flow" in name for name in numbers)  # 2 steps of 2 clips
    message = refused_run(capfd, **MOTION, **data(one, one))
    assert message.startswith("motion_source: auto gives no motion for data set toy.json: one frame is sampled")
    message = refused_run(capfd, **MOTION, **data(clips()[0]), video_fps=0.5)
    assert message.startswith("motion_source: auto gives no motion for data set toy.json: one frame is sampled")


def test_a_clip_without_motion_has_a_time_for_each_padded_frame():
    clip = clip_from_frames([np.zeros((56, 56, 3), np.uint8)] * 5, 2.0)
    grid = VideoGrid(8, 4, 4, temporal_patch=4)
    settings = TargetSettings(MotionHeadConfig(8, 14, 2, 4), MotionOptions("codec"), raise_on_error=False)
    batch = {}
    add_motion(batch, [ReadClip(0, clip)], [grid], settings, [None])
    (record,) = batch["motion_videos"]
    assert record.source == "none" and record.times == (0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0)
    assert not batch["motion_mask"].any()
