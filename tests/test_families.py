"""The entries of the model families: true of transformers and LLaMA-Factory, and what is new in each works."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import training
from commands import refused_run
from motiontune.errors import ConfigError
from motiontune.evaluation.comparison import load_predictions
from motiontune.grid import VideoGrid
from motiontune.model import MotionHeadConfig, MotionObjective, attach_head
from motiontune.model.families import FAMILIES, Patching, family_of, grids_of, patching_of
from motiontune.model.sparse_logits import use_sparse_logits
from motiontune.video.clip import clip_from_frames
from training import ALL_FAMILIES, BOTH, TEMPLATES, clips, distance, fresh_folder, losses, run, start, tiny, weights


NEW = ("qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
MIXTURES = ("qwen3_vl_moe", "qwen3_5_moe")


def test_transformers_that_is_locked_has_all_families():
    assert ALL_FAMILIES == tuple(FAMILIES) and set(NEW) < set(ALL_FAMILIES)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_an_entry_is_true_of_the_model(family):
    entry = FAMILIES[family]
    model = AutoModelForImageTextToText.from_pretrained(tiny(family))
    assert family_of(model.config) is entry and type(model).__name__ == entry.model
    decoder, visual = entry.language_model_of(model), entry.visual_of(model)
    assert decoder.embed_tokens is model.get_input_embeddings()
    assert entry.lm_head_of(model) is model.get_output_embeddings()
    assert len(decoder.layers) == model.config.text_config.num_hidden_layers
    assert entry.projector in " ".join(name for name, _ in visual.named_parameters())
    assert len(entry.deepstack_of(model)) == len(getattr(model.config.vision_config, "deepstack_visual_indexes", []))
    kinds = getattr(model.config.text_config, "layer_types", None) or []
    assert ("linear_attention" in kinds) == entry.linear_attention
    processor = AutoProcessor.from_pretrained(tiny(family))
    assert type(processor).__name__ == entry.processor
    vision = model.config.vision_config
    assert patching_of(processor) == (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_an_entry_is_true_of_llamafactory(family):
    start()
    from llamafactory.data.mm_plugin import PLUGINS
    from llamafactory.data.template import TEMPLATES as KNOWN

    from motiontune.llamafactory.plugin import check_template, with_motion

    entry = FAMILIES[family]
    for name in entry.templates:
        assert type(KNOWN[name].mm_plugin) is PLUGINS[entry.plugin]
        check_template(with_motion(KNOWN[name], name), name, entry)
    wrong = "qwen2_vl" if entry.timestamps else "qwen3_vl"
    with pytest.raises(ConfigError, match=f"{wrong} is not for models of type {family}: use {min(entry.templates)}"):
        check_template(with_motion(KNOWN[wrong], wrong), wrong, entry)


def test_another_model_is_refused_in_one_line_that_names_the_families(monkeypatch):
    with pytest.raises(ConfigError) as error:
        family_of(SimpleNamespace(model_type="internvl", video_token_id=5))
    names = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3-VL-MoE, Qwen3.5 or Qwen3.5-MoE"
    assert str(error.value) == f"model type internvl is not supported yet: motion needs {names}"
    with pytest.raises(ConfigError, match="model type llama has no video tokens: sparse_logits needs Qwen2-VL, "):
        family_of(SimpleNamespace(model_type="llama"), "sparse_logits")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"qwen3_5 is not in the installed transformers [\d.]+: install a newer"):
        family_of(SimpleNamespace(model_type="qwen3_5"))


# ---- grids ----


def test_grids_of_a_batch():
    video = SimpleNamespace(patch_size=16, merge_size=2, temporal_patch_size=2)
    batch = {"video_grid_thw": torch.tensor([[2, 4, 6], [1, 2, 2]])}
    assert grids_of(batch, SimpleNamespace(video_processor=video)) == [VideoGrid(4, 4, 6, 16), VideoGrid(2, 2, 2, 16)]
    assert grids_of({}, SimpleNamespace(video_processor=video)) == []
    assert [Patching(14, 2, 3).padded(frames) for frames in (1, 3, 4, 6)] == [3, 3, 6, 6]


@pytest.mark.parametrize("temporal_patch", [1, 2, 3, 4])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_the_grid_is_the_processors_whatever_it_pads_to(family, temporal_patch):
    start()
    from llamafactory.data.template import TEMPLATES as KNOWN

    from motiontune.llamafactory.plugin import with_motion

    plugin = with_motion(KNOWN[TEMPLATES[family]], TEMPLATES[family]).mm_plugin
    processor = AutoProcessor.from_pretrained(tiny(family))
    for part in (processor.video_processor, processor.image_processor):
        part.temporal_patch_size = temporal_patch
    processor.video_fps, processor.video_maxlen = 8.0, 16
    for frames in (4, 5, 6, 7):
        pixels = np.random.default_rng(frames).integers(0, 255, (frames, 56, 84, 3), np.uint8)
        clip = clip_from_frames(list(pixels), 8.0)
        batch = plugin._get_mm_inputs([], [clip], [], processor)
        [grid] = grids_of(batch, processor)
        assert plugin.grid_of(clip, processor) == grid
        assert grid.frames >= frames and grid.frames % temporal_patch == 0
    for path in clips()[:2]:
        clip = plugin.read(path, processor)
        assert plugin.count_video_tokens([path], processor) == plugin.grid_of(clip, processor).num_tokens


# ---- mixtures of experts ----


@pytest.fixture(scope="module", params=MIXTURES)
def mixture(request):
    """A model with experts and a batch of two rows, one of them padded."""
    model = AutoModelForImageTextToText.from_pretrained(tiny(request.param))
    processor = AutoProcessor.from_pretrained(tiny(request.param))
    video = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ask = "<|vision_start|><|video_pad|><|vision_end|>What happens?<|im_end|>"
    batch = processor(
        text=[f"{ask}It stops.", f"{ask}The square moves left quickly, then stops."],
        videos=[video, 255 - video],
        return_tensors="pt",
        padding=True,
        do_sample_frames=False,
    )
    batch.pop("video_metadata", None)
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    labels[:, :-4] = -100
    assert not batch["attention_mask"].all()
    targets = {"motion_targets": torch.ones(16, 16), "motion_mask": torch.ones(16, 16, dtype=torch.bool)}
    return request.param, model, {**batch, "labels": labels}, targets


def fresh(mixture):
    return AutoModelForImageTextToText.from_pretrained(tiny(mixture[0]))


def test_the_routers_loss_is_the_models_own(mixture):
    """transformers adds it to the loss of the text where it is asked for in the call."""
    family, original, batch, targets = mixture
    asked = {**batch, "output_router_logits": True}
    expected = original(**asked)
    text = expected.loss - original(**batch).loss
    assert 0 < text.item() == pytest.approx(0.001 * expected.aux_loss.item(), rel=1e-2)

    model = fresh(mixture)
    head = MotionHeadConfig.for_model(model.config, AutoProcessor.from_pretrained(tiny(family)))
    attach_head(model, head, MotionObjective(weight=2.0))
    with_router, without = model(**asked, **targets), model(**batch, **targets)
    assert without.router_loss is None
    torch.testing.assert_close(with_router.router_loss, 0.001 * expected.aux_loss)
    motion = 2.0 * without.motion_sum / targets["motion_mask"].sum()
    torch.testing.assert_close(with_router.loss, motion + expected.loss)
    assert model(**asked).loss == expected.loss  # without targets, it is the original

    with_router.router_loss.backward()
    routers = [parameter for name, parameter in model.named_parameters() if name.endswith("mlp.gate.weight")]
    assert routers and all(parameter.grad.any() for parameter in routers)

    sparse = fresh(mixture)
    use_sparse_logits(sparse)
    torch.testing.assert_close(sparse(**asked).loss, expected.loss)


def test_motion_alone_has_no_routers_loss(mixture):
    family, _, batch, targets = mixture
    model = fresh(mixture)
    head = MotionHeadConfig.for_model(model.config, AutoProcessor.from_pretrained(tiny(family)))
    attach_head(model, head, MotionObjective(with_text=False))
    output = model(**batch, **targets, output_router_logits=True)
    assert output.router_loss is None and output.loss == output.motion_sum / targets["motion_mask"].sum()


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_survive_the_disk_whatever_their_shape(family):
    """transformers turns the experts' matrices when it writes Qwen3-VL-MoE, and tells by their shape that it did."""
    for sizes in ({}, {"intermediate_size": 32, "hidden_size": 32}):
        model = AutoModelForImageTextToText.from_pretrained(tiny(family, **sizes))
        folder = fresh_folder("again")
        model.save_pretrained(folder)
        again = AutoModelForImageTextToText.from_pretrained(folder)
        assert distance(model.state_dict(), again.state_dict()) == 0


# ---- linear attention ----


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_packing_is_refused_where_a_layer_would_carry_a_state_over(family, capfd):
    message = refused_run(capfd, family, **BOTH, neat_packing=True)
    assert message.startswith(f"neat_packing: {FAMILIES[family].name} has layers of linear attention")


def test_such_a_layer_does_see_the_sample_before_it():
    """What the refusal is for: with LLaMA-Factory's mask of blocks, a change in the first sample moves the second."""
    for family, leaks in (("qwen3_vl", False), ("qwen3_5", True)):
        model = AutoModelForImageTextToText.from_pretrained(tiny(family)).eval()
        ids = torch.randint(5, 200, (1, 24), generator=torch.Generator().manual_seed(0))
        other = ids.clone()
        other[:, :12] = ids[:, :12].flip(1)
        sample = torch.arange(24) // 12
        sees = (sample[:, None] == sample[None]) & torch.ones(24, 24).tril().bool()
        mask = torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]
        positions = (torch.arange(24) % 12).expand(4, 1, 24)
        with torch.no_grad():
            one, two = (
                model(input_ids=row, attention_mask=mask, position_ids=positions).logits[:, 12:]
                for row in (ids, other)
            )
        assert torch.allclose(one, two, atol=1e-5) != leaks


# ---- from training to prediction ----


@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
@pytest.mark.parametrize("family", NEW)
def test_a_new_family_trains_resumes_evaluates_and_predicts(family, finetuning_type):
    keys = {**BOTH, "finetuning_type": finetuning_type, "learning_rate": 0.01, "disable_shuffling": False}
    keys |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = run(family, **keys)
    resumed = run(family, **keys, resume_from_checkpoint=str(whole / "checkpoint-2"), seed=7, data_seed=42)
    assert losses(resumed)[2:] == losses(whole)[2:]
    assert distance(weights(whole), weights(resumed)) == 0
    assert distance(weights(whole), weights(whole / "checkpoint-2")) > 1e-4

    place = {"adapter_name_or_path" if finetuning_type == "lora" else "model_name_or_path": str(whole)}
    asked = {**place, "finetuning_type": finetuning_type, "train_on_video_tokens": True, "eval_dataset": "toy"}
    said, motion = [], []
    for batch in (1, 3):  # rows of several lengths, padded on the left
        folder = run(
            family,
            **asked,
            do_predict=True,
            predict_with_generate=True,
            do_sample=False,
            max_new_tokens=4,
            per_device_eval_batch_size=batch,
        )
        lines = (folder / "generated_predictions.jsonl").read_text().splitlines()
        said.append([json.loads(line)["predict"] for line in lines])
        motion.append(list(load_predictions(folder / "motion_predictions")))
    assert len(said[0]) == 6 and said[0] == said[1]
    for one, other in zip(*motion, strict=True):
        assert np.abs(one.predicted).max() > 0.01
        np.testing.assert_allclose(one.predicted, other.predicted, atol=1e-4)
    measured = training.results(run(family, **{**asked, **BOTH}, do_eval=True))
    mean = sum((one.sums() for one in motion[0][1:]), motion[0][0].sums()).metrics()["epe"]
    assert measured["eval_epe"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("family", NEW)
def test_a_new_familys_configuration_is_loaded_by_its_own_name(family):
    assert AutoConfig.from_pretrained(tiny(family)).model_type == family
