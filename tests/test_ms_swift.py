"""ms-swift trains with motion by examples/ms_swift_plugin.py: `make test-trainers` installs it."""

import importlib.metadata
import json
import math
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from motiontune import training as mt
from motiontune.model.wrappers import base_of
from training import CAPTIONS, REPOSITORY, clips, fresh_folder, tiny


try:
    importlib.metadata.version("ms-swift")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("ms-swift is not installed: `make test-trainers` installs it", allow_module_level=True)

from swift import SftArguments, sft_main  # noqa: E402
from swift.trainers import Seq2SeqTrainer  # noqa: E402


KINDS = [("qwen2_vl", "lora"), ("qwen2_vl", "full"), ("qwen2_5_vl", "lora"), ("qwen3_vl", "lora")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def trained(request):
    """Two steps of `swift sft` with the example as its plugin: the trainer, and the folder of the last checkpoint."""
    family, tuner = request.param
    rows = [
        {
            "messages": [{"role": "user", "content": "<video>Why?"}, {"role": "assistant", "content": text}],
            "videos": [str(clip)],
        }
        for clip, text in zip(clips(), CAPTIONS, strict=True)
    ]
    folder = fresh_folder("swift")
    folder.mkdir()
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trainers = []

    def train(self, *args, **kwargs):
        trainers.append(self)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        original = Seq2SeqTrainer.train
        patch.setattr(Seq2SeqTrainer, "train", train)
        for name, value in {"FPS": 4, "FPS_MAX_FRAMES": 16, "FPS_MIN_FRAMES": 2, "MOTION_LOSS_WEIGHT": 2}.items():
            patch.setenv(name, str(value))
        keys = {"model": str(tiny(family)), "model_type": family, "template": family, "tuner_type": tuner}
        keys |= {"dataset": [str(folder / "samples.jsonl")], "split_dataset_ratio": 0, "torch_dtype": "float32"}
        keys |= {"max_steps": 2, "save_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 2}
        keys |= {"gradient_accumulation_steps": 1, "learning_rate": 1e-3, "report_to": ["none"], "use_cpu": True}
        keys |= {"dataloader_num_workers": 0, "add_version": False, "output_dir": str(folder / "out")}
        sft_main(SftArguments(**keys, external_plugins=[str(REPOSITORY / "examples" / "ms_swift_plugin.py")]))
    (trainer,) = trainers
    return trainer, folder / "out" / "checkpoint-2"


def test_the_loss_is_of_motion_and_text(trained):
    trainer, _ = trained
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        assert entry["motion_loss"] > 0 and math.isfinite(entry["ce_loss"])
        assert entry["loss"] == pytest.approx(entry["ce_loss"] + 2 * entry["motion_loss"], rel=1e-3)


def test_its_checkpoint_has_the_head_and_predicts_the_same(trained):
    trainer, folder = trained
    head = base_of(trainer.model).motion_head
    assert head.weight.any()
    loaded = mt.load_motion_model(folder).eval()
    assert loaded.motion_head.weight.equal(head.weight)
    batch = next(iter(trainer.get_train_dataloader()))
    names = [name for name in batch if name not in ("labels", "position_ids", "text_position_ids")]
    batch = {name: batch[name] for name in names}
    trainer.model.eval()
    with torch.no_grad():
        expected, found = base_of(trainer.model)(**batch).motion, loaded(**batch).motion
    assert expected.any()
    torch.testing.assert_close(found, expected)


def test_the_saved_model_predicts_a_clip_as_it_was_trained(trained):
    _, folder = trained
    model = mt.load_motion_model(folder)
    config = model.motion_head.config
    assert (config.sampling.video_fps, config.sampling.video_maxlen) == (4.0, 16)
    processor = AutoProcessor.from_pretrained(tiny(model.config.model_type))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*sampled")
        collator = mt.MotionCollator(processor, mt.TargetSettings(config))
        text, field = mt.predict(model, collator, clips()[0], "Why?", max_new_tokens=4)
    assert isinstance(text, str) and len(field.vectors) == 8
    assert np.abs(field.vectors[field.valid]).max() > 0
