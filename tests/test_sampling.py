"""Clips are sampled for a model as its training did, wherever it is used; what differs is logged in a line."""

import json
import shutil

import pytest

import training
from commands import command
from motiontune import MotionModel
from motiontune.evaluation.comparison import load_predictions
from motiontune.video.clip import Sampling


TRAINED = {"video_fps": 4, "video_maxlen": 6, "video_max_pixels": 28 * 28}
KEPT = {"video_fps": 4.0, "video_maxlen": 6, "video_max_pixels": 784, "video_min_pixels": 256}
CLIP = training.clips()[0]  # 2 s of 56 x 56 pixels: 4 frames of 56 x 56 with LLaMA-Factory's defaults


@pytest.fixture(scope="module", params=["adapter", "full", "export"])
def trained(request):
    """A folder of each kind that a head lies in."""
    training.start()
    keys = {**training.BOTH, **TRAINED, **training.toy(4), "max_steps": 1}
    if request.param == "full":
        return training.run(**keys)
    adapter = training.run(**keys, finetuning_type="lora", lora_rank=4)
    if request.param == "adapter":
        return adapter
    from motiontune.commands.export import export

    merged = training.fresh_folder("merged")
    keys = {"model_name_or_path": str(training.tiny()), "adapter_name_or_path": str(adapter)}
    export(keys | {"template": "qwen2_vl", "export_dir": str(merged)})
    return merged


@pytest.fixture(scope="module")
def full():
    training.start()
    return training.run(**training.BOTH, **TRAINED, **training.toy(4), max_steps=1)


def frames_and_grid(model):
    clip = model.reader.read(str(CLIP), False)
    grid = model.reader.grid_of(clip)
    return len(clip.frames), grid.height, grid.width


def old(folder, where):
    """A copy of a folder whose head is one of an earlier version."""
    shutil.copytree(folder, where)
    file = where / "motion_head_config.json"
    saved = json.loads(file.read_text())
    del saved["sampling"]
    file.write_text(json.dumps(saved))
    return where


def test_without_options_a_model_samples_as_its_training_did(trained, tmp_path, capfd):
    assert json.loads((trained / "motion_head_config.json").read_text())["sampling"] == KEPT
    with training.logged() as messages:
        assert frames_and_grid(MotionModel.from_pretrained(trained)) == (6, 28, 28)
        options = ["--model", trained, "--out", tmp_path, "--show", "none", "--max-new-tokens", "1"]
        code, _, err = command(capfd, "predict", CLIP, *options)
    assert code == 0 and "clips are sampled" not in err + "".join(messages)
    assert json.loads((tmp_path / "predictions.json").read_text())["clips"][0]["frames"] == 6


def test_another_sampling_is_logged_in_one_line(trained, tmp_path, capfd):
    with training.logged() as messages:
        assert frames_and_grid(MotionModel.from_pretrained(trained, fps=2, max_pixels=784)) == (4, 28, 28)
    line = f"{trained} was trained with video_fps 4.0: clips are sampled with video_fps 2.0 now."
    assert [message for message in messages if "sampled" in message] == [line]
    options = ["--model", trained, "--out", tmp_path, "--show", "none", "--max-new-tokens", "1", "--max-frames", "4"]
    with training.logged() as messages:
        code, _, _ = command(capfd, "predict", CLIP, *options)
    line = f"{trained} was trained with video_maxlen 6: clips are sampled with video_maxlen 4 now."
    assert code == 0 and [message for message in messages if "sampled" in message] == [line]
    assert json.loads((tmp_path / "predictions.json").read_text())["clips"][0]["frames"] == 4


def test_an_evaluation_samples_as_training_did(full, tmp_path, capfd):
    data = training.toy(4)
    options = ["--model", full, "--dataset", "toy", "--dataset-dir", data["dataset_dir"], "--max-samples", "1"]
    options += ["--max-new-tokens", "1", "--bootstrap", "1", "--out", tmp_path / "out"]
    with training.logged() as messages:
        code, _, err = command(capfd, "evaluate", *options)
    assert code == 0, err[-2000:]
    assert "clips are sampled" not in "".join(messages)
    keys = json.loads((tmp_path / "out" / "evaluation.json").read_text())["keys"]
    assert {key: keys[key] for key in KEPT} == KEPT


def test_a_prediction_by_keys_and_an_extraction_sample_as_training_did(full, tmp_path, capfd):
    keys = {**training.BOTH, **training.toy(4), "model_name_or_path": str(full), "do_predict": True}
    keys |= {"eval_dataset": "toy", "predict_with_generate": True, "max_new_tokens": 1, "max_samples": 1}
    del keys["dataset"]
    with training.logged() as messages:
        folder = training.run(**keys, video_fps=None, video_maxlen=None, video_max_pixels=56 * 56)
    (line,) = [message for message in messages if "are sampled as" in message]
    assert line == "Clips are sampled as in the model's training: video_fps 4.0, video_maxlen 6."
    (line,) = [message for message in messages if "clips are sampled with" in message]
    assert line.endswith("was trained with video_max_pixels 784: clips are sampled with video_max_pixels 3136 now.")
    (predicted,) = load_predictions(folder / "motion_predictions")
    assert predicted.predicted.shape[:3] == (6, 4, 4)  # frames and patches

    code, _, _ = command(capfd, "extract", CLIP, "--model", full, "--out", tmp_path, "--source", "blockmatch")
    about = json.loads((tmp_path / "extract.json").read_text())
    assert code == 0 and about["clips"][0]["frames"] == 6
    assert [about["options"][key] for key in ("fps", "max_frames", "max_pixels")] == [4.0, 6, 784]


def test_of_an_old_head_the_notes_of_its_run_count(full, tmp_path):
    noted = old(full, tmp_path / "noted")
    inner = old(full, tmp_path / "noted" / "checkpoint-7")
    (inner / "motiontune_runs.json").unlink()
    for folder in (noted, inner):
        with training.logged() as messages:
            assert frames_and_grid(MotionModel.from_pretrained(folder)) == (6, 28, 28)
        assert "sampled" not in "".join(messages)


@pytest.mark.parametrize("notes", [None, "[{}]", '[{"configuration": {"do_train": true, "video_fps": "x"}}]'])
def test_of_an_old_head_that_nothing_is_known_of_the_defaults_are_logged(full, tmp_path, notes):
    folder = old(full, tmp_path / "old")
    (folder / "motiontune_runs.json").unlink()
    if notes is not None:
        (folder / "motiontune_runs.json").write_text(notes)
    with training.logged() as messages:
        assert frames_and_grid(MotionModel.from_pretrained(folder)) == (4, 56, 56)
    lines = [message for message in messages if "sampled" in message]
    assert lines == [
        f"{folder} does not tell how clips were sampled in its training: LLaMA-Factory's defaults are used, video_fps "
        f"2.0, video_maxlen 128, video_max_pixels 65536, video_min_pixels 256."
    ]
    with training.logged() as messages:
        MotionModel.from_pretrained(folder, fps=4)
    assert not [message for message in messages if "sampled" in message]


def test_a_training_that_goes_on_with_another_sampling_is_not_refused(full):
    keys = {**training.BOTH, **training.toy(4), "max_steps": 1, "model_name_or_path": str(full)}
    keys |= {"video_maxlen": 6, "video_max_pixels": 784}
    with training.logged() as messages:
        folder = training.run(**keys, video_fps=8, save_strategy="steps", save_steps=1)
    line = "was trained with video_fps 4.0: clips are sampled with video_fps 8.0 now."
    assert [message for message in messages if "clips are sampled" in message] == [f"{full} {line}"]
    assert json.loads((folder / "motion_head_config.json").read_text())["sampling"] == KEPT | {"video_fps": 8.0}

    checkpoint = str(folder / "checkpoint-1")
    with training.logged() as messages:
        more = training.run(**keys | {"max_steps": 2}, video_fps=5, resume_from_checkpoint=checkpoint)
    line = f"{checkpoint} was trained with video_fps 8.0: clips are sampled with video_fps 5.0 now."
    assert line in messages
    assert json.loads((more / "motion_head_config.json").read_text())["sampling"]["video_fps"] == 5.0


def test_keys_may_be_text():
    assert Sampling.from_keys({"video_fps": "4", "video_maxlen": None, "video_max_pixels": "784"}) == Sampling(
        4.0, video_max_pixels=784
    )
    with pytest.raises(ValueError, match="could not convert"):
        Sampling.from_keys({"video_fps": "x"})
