"""TRL's SFTTrainer trains with motion, in the TRL that is installed: `make test-trainers` takes several versions."""

import json
import sys
import warnings

import numpy as np
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from motiontune import training as mt
from motiontune.errors import ConfigError
from motiontune.model import MotionObjective
from training import CAPTIONS, REPOSITORY, clips, fresh_folder, tiny


trl = pytest.importorskip("trl", reason="TRL is not installed: `make test-trainers` installs it")
datasets = pytest.importorskip("datasets")
sys.path.insert(0, str(REPOSITORY / "examples"))
example = pytest.importorskip("trl_trainer", reason="this TRL cannot be imported here")

QUIET = {"max_steps": 2, "logging_steps": 1, "save_steps": 1, "use_cpu": True, "bf16": False, "disable_tqdm": True}
SAMPLES = [
    {"video": str(clip), "question": "What happens?", "answer": text}
    for clip, text in zip(clips(), CAPTIONS, strict=True)
]


@pytest.fixture(scope="module")
def trained():
    """The example, run; its trainer and folder."""
    folder = fresh_folder("trl")
    return example.train(str(tiny()), str(folder), SAMPLES, per_device_train_batch_size=2, **QUIET), folder


def test_the_example_trains_motion_and_text(trained):
    trainer, _ = trained
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["ce_loss"] + entry["motion_loss"], rel=1e-3)
        assert entry["motion_loss"] > 0 and entry["epe_zero_motion"] > 0


def test_its_checkpoints_have_the_head_and_predict_the_same(trained):
    trainer, folder = trained
    head = trainer.model.get_base_model().motion_head
    assert head.weight.any()
    # the sampling is kept with the head, so that nothing has to be said again
    saved = json.loads((folder / "motion_head_config.json").read_text())
    assert (saved["sampling"]["video_fps"], saved["sampling"]["video_maxlen"]) == (4.0, 16)
    clip = SAMPLES[0]["video"]
    text, motion = mt.predict(trainer.model, trainer.data_collator, clip, "What happens?", max_new_tokens=4)
    for where in (folder, folder / "checkpoint-2"):
        model = mt.load_motion_model(where)
        settings = mt.TargetSettings(model.motion_head.config)
        collator = mt.MotionCollator(AutoProcessor.from_pretrained(where), settings)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answer, field = mt.predict(model, collator, clip, "What happens?", max_new_tokens=4)
        assert answer == text
        np.testing.assert_array_equal(field.vectors, motion.vectors)
    first = mt.load_motion_model(folder / "checkpoint-1").motion_head
    assert first.weight.any() and not first.weight.equal(head.weight)


def test_an_unchanged_trainer_trains_motion_or_refuses():
    """Newer versions have a forward of their own, which leaves the model's loss out: that must not go unseen."""
    processor = AutoProcessor.from_pretrained(tiny())
    model = AutoModelForImageTextToText.from_pretrained(tiny())
    targets = mt.attach_motion(model, processor, fps=4.0)
    model.motion_objective = MotionObjective(with_logits=True)
    own_batches = {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    keys = QUIET | own_batches | {"save_strategy": "no", "report_to": "none", "max_length": None}
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(str(fresh_folder("unchanged")), **keys),
        train_dataset=datasets.Dataset.from_list(SAMPLES),
        data_collator=mt.MotionCollator(processor, targets, tensors_only=True),
        processing_class=processor,
    )
    try:
        trainer.train()
    except ConfigError as error:
        assert "MotionTrainerMixin" in str(error)
    else:
        assert model.motion_head.weight.any()
