"""The pictures that each evaluation draws: of the same samples, from what it computed, where the user looks."""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest

import training
from motiontune.drawing import sheets
from training import BOTH, dataset, run, sample


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "do_eval": True, "do_train": True}


@pytest.fixture(scope="module", autouse=True)
def imported():
    training.start()


def pictures(folder):
    return {file.name: cv2.imread(str(file))[..., ::-1] for file in sorted((folder / "motion_pictures").glob("[!.]*"))}


@pytest.fixture
def titles(monkeypatch):
    """The titles of the rows of each sheet that is drawn."""
    from motiontune.training import pictures as drawing_of_pictures

    drawn = []

    def draw(rows, *size):
        drawn.append([row.title for row in rows])
        return sheets.contact_sheet(rows, *size)

    monkeypatch.setattr(drawing_of_pictures, "contact_sheet", draw)
    return drawn


def test_each_evaluation_draws_the_same_samples_and_tensorboard_has_them(titles):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(**BOTH, **EVALUATED, eval_dataset="toy", learning_rate=1e-2, report_to="tensorboard")
    drawn = pictures(folder)
    assert list(drawn) == ["eval-000001.png", "eval-000002.png"]
    first = [f"{number}: {training.clips()[number].name}" for number in range(4)]
    expected = [f"{name} · {what}" for name in first for what in ("target", "predicted")]
    assert titles == [expected] * 3  # after both steps, and at the end over the last one's
    one, other = drawn.values()
    assert one.shape == other.shape and not np.array_equal(one, other)  # the prediction has moved

    (events,) = {file.parent for file in folder.rglob("events.out.tfevents.*")}
    logged = EventAccumulator(str(events), size_guidance={"images": 0})
    logged.Reload()
    assert logged.Tags()["images"] == ["eval/motion"] and "eval/epe" in logged.Tags()["scalars"]
    images = logged.Images("eval/motion")
    assert [image.step for image in images] == [1, 2, 2]
    for image, sheet in zip(images, [one, other, other], strict=True):
        data = np.frombuffer(image.encoded_image_string, np.uint8)
        np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], sheet)


def test_an_evaluation_without_training_with_generated_text_and_workers_draws_too(titles):
    keys = {"do_eval": True, "eval_dataset": "toy", "train_on_video_tokens": True, "max_new_tokens": 2}
    model = run(**BOTH, max_steps=1)
    keys |= {"model_name_or_path": str(model), "predict_with_generate": True, "dataloader_num_workers": 1}
    assert list(pictures(run(**keys, motion_pictures=1))) == ["eval-000000.png"]
    assert titles == [[f"0: {training.clips()[0].name} · {what}" for what in ("target", "predicted")]]


def test_wandb_gets_the_picture_at_the_step_of_the_metrics(monkeypatch):
    """W&B's callback is transformers' own; the module that it writes to notes what it is given."""
    from transformers.integrations import integration_utils

    given = []
    fake = MagicMock(Image=lambda picture: ("picture", picture), log=given.append)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.config_util", MagicMock(ConfigError=ValueError))
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: True)
    folder = run(**BOTH, **EVALUATED, eval_dataset="toy", max_steps=1, report_to="wandb")
    of_evaluations = [one for one in given if {"eval/epe", "eval/motion"} & one.keys()]
    assert [one["train/global_step"] for one in of_evaluations] == [1, 1, 1, 1]
    assert ["eval/motion" in one for one in of_evaluations] == [False, True, False, True]
    kind, picture = of_evaluations[-1]["eval/motion"]
    assert kind == "picture"
    np.testing.assert_array_equal(picture, pictures(folder)["eval-000001.png"])


def test_each_of_several_data_sets_has_its_picture_and_0_draws_none():
    data = dataset([sample(training.PROMPT, "It stops.", videos=[training.clips()[1]])])
    listed = Path(data["dataset_dir"], "dataset_info.json")
    info = json.loads(listed.read_text())
    listed.write_text(json.dumps(info | {"other": info["toy"]}))
    keys = {**BOTH, **EVALUATED, **data, "max_steps": 1, "eval_dataset": "toy,other", "eval_on_each_dataset": True}
    assert list(pictures(run(**keys))) == ["eval_other-000001.png", "eval_toy-000001.png"]
    assert not (run(**keys, motion_pictures=0) / "motion_pictures").exists()
