"""Training with motion over transformers' Trainer alone, where importing LLaMA-Factory fails."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoProcessor

from blocking import without
from motiontune.model.families import grids_of, patching_of
from motiontune.model.head import MotionHeadConfig
from motiontune.motion.codec import Following
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.training import MotionCollator, TargetSettings
from motiontune.video.clip import read_clip
from training import ALL_FAMILIES, CAPTIONS, FAMILIES, REPOSITORY, clips, fresh_folder, run_command, tiny, weights


BLOCK = without("llamafactory")
SCRIPT = """
import json, sys
import numpy as np
import torch

sys.path.insert(0, sys.argv[1])
from plain_trainer import MotionTrainer, train
from motiontune import training as mt

torch.set_num_threads(1)
folder, samples = sys.argv[2], json.loads(sys.argv[3])
out, kept = {}, {}

def remember(self, *args, **kwargs):
    kept["model"] = self.model
    return super(MotionTrainer, self).train(*args, **kwargs)

MotionTrainer.train = remember
for model in sys.argv[4:]:
    where = folder + "/" + model.rsplit("/", 1)[-1]
    collator = train(model, where, samples, fps=8.0, max_steps=4, per_device_train_batch_size=2,
                     logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True)
    clip, question, _ = samples[0]
    kept["model"].train()
    before = mt.predict(kept["model"], collator, clip, question, max_new_tokens=4)
    after = mt.predict(mt.load_motion_model(where), collator, clip, question, max_new_tokens=4)
    assert before[0] == after[0] and kept["model"].training
    np.testing.assert_array_equal(before[1].vectors, after[1].vectors)
    assert np.abs(after[1].vectors[after[1].valid]).max() > 1e-3 and not after[1].valid[0].any()
    head = mt.load_motion_model(where).motion_head.config
    again = mt.MotionCollator(collator.processor, mt.TargetSettings(head, collator.settings.options)).sampling
    assert again == collator.sampling and (again.video_fps, again.video_maxlen) == (8.0, 16)
    out[where] = {"text": after[0], "shape": after[1].vectors.shape}
assert not any(name.partition(".")[0] == "llamafactory" for name in sys.modules)
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def trained() -> dict[str, dict[str, Any]]:
    """The example, run for each family in a process without LLaMA-Factory."""
    blocked = fresh_folder("blocked")
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(BLOCK)
    samples = [[str(clip), "What happens?", caption] for clip, caption in zip(clips(), CAPTIONS, strict=True)]
    models = [str(tiny(family)) for family in ALL_FAMILIES]
    example = str(REPOSITORY / "examples")
    folder = fresh_folder("plain")
    path = f"{blocked}:{REPOSITORY / 'src'}"
    arguments = (example, str(folder), json.dumps(samples), *models)
    result = run_command("-c", SCRIPT, *arguments, env={"PYTHONPATH": path})
    found: dict[str, dict[str, Any]] = json.loads(result.stdout.split("RESULT")[1])
    return {
        family: {"folder": Path(where), "model": model, **each}
        for family, model, (where, each) in zip(ALL_FAMILIES, models, found.items(), strict=True)
    }


def test_llamafactory_cannot_be_imported_there() -> None:
    blocked = fresh_folder("blocked")
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(BLOCK)
    result = run_command("-c", "import llamafactory", env={"PYTHONPATH": str(blocked)}, check=False)
    assert result.returncode != 0 and "No module named 'llamafactory'" in result.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_the_example_trains_saves_and_predicts(family: str, trained: dict[str, dict[str, Any]]) -> None:
    run = trained[family]
    state = json.loads((run["folder"] / "trainer_state.json").read_text())
    losses = [entry for entry in state["log_history"] if "loss" in entry]
    assert losses and all(math.isfinite(entry["loss"]) for entry in losses)
    assert all(entry["motion_loss"] > 0 and entry["ce_loss"] > 0 and entry["motion_valid"] > 0.5 for entry in losses)
    now, then = weights(run["folder"]), weights(Path(run["model"]))
    assert now["motion_head.weight"].any() and now.keys() - then.keys() == {"motion_head.weight", "motion_head.bias"}
    assert all((now[name] != then[name]).any() for name in then if "lm_head" in name)
    # 16 frames of 56 x 56 pixels: 4 x 4 patches of 14, or 16 after rounding
    assert run["shape"][0] == 16 and run["shape"][3] == 2
    assert (run["folder"] / "preprocessor_config.json").is_file() or (
        run["folder"] / "processor_config.json"
    ).is_file()


def test_the_example_is_short_and_uses_public_names_only() -> None:
    text = (REPOSITORY / "examples" / "plain_trainer.py").read_text()
    assert len(text.splitlines()) <= 60
    imports = [line for line in text.splitlines() if "import" in line and "motiontune" in line]
    assert imports == ["from motiontune import training as mt"]
    from motiontune import training

    used = {part.split("(")[0].split(")")[0].split(":")[0] for part in text.split("mt.")[1:]}
    assert used <= set(training.__all__) | {"MotionTrainerMixin, Trainer"}


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_codecs_vectors_are_followed_on_the_processors_grid(family: str) -> None:
    """Kept vectors would take memory that grows with the clip."""
    processor = AutoProcessor.from_pretrained(tiny(family))
    settings = TargetSettings(MotionHeadConfig(8, *patching_of(processor)), MotionOptions("codec"))
    collator = MotionCollator(processor, settings, fps=8.0)
    clip = collator.read(clips()[0])
    assert isinstance(clip.followed, Following) and clip.codec_motion is None
    (grid,) = grids_of(collator.prompt(clip, "What happens?"), processor)
    assert collator.grid_of(clip) == grid
    kept = read_clip(str(clips()[0]), 8.0, with_vectors=True)
    motion, other = (motion_of(one, grid, settings.options) for one in (clip, kept))
    assert motion.valid.any()
    np.testing.assert_array_equal(motion.vectors, other.vectors)
