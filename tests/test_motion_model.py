"""The head inside every family: taps, what a forward pass computes, saving."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from motiontune.errors import ConfigError, HeadError
from motiontune.model.families import FAMILIES as ENTRIES
from motiontune.model.families import installed_families
from motiontune.model.forward import MotionObjective, attach_head, captured_motion, freeze_unused
from motiontune.model.head import MotionHead, MotionHeadConfig, load_head, save_head
from motiontune.model.tiny import build_tiny


FAMILIES = installed_families()
TAPS = ("last_hidden", "layer:1", "layer:2", "projector", "encoder")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A tiny model of each family and one batch of one clip for it."""
    folder = build_tiny(request.param, tmp_path_factory.mktemp(request.param))
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder).video_processor
    side = 4 * processor.patch_size
    video = torch.randint(0, 255, (4, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = processor(videos=[video], return_tensors="pt", do_sample_frames=False)
    config = model.config
    frame = [config.vision_start_token_id, *[config.video_token_id] * 4, 7]
    whole = [config.vision_start_token_id, *[config.video_token_id] * 8, 7]
    ids = torch.tensor([[5, 6, *(frame * 2 if ENTRIES[request.param].timestamps else whole), 8, 9, 10]])
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = ids[:, -2:]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "mm_token_type_ids": 2 * (ids == config.video_token_id).long(),
        "pixel_values_videos": pixels["pixel_values_videos"],
        "video_grid_thw": pixels["video_grid_thw"],
    }
    targets = {"motion_targets": torch.ones(8, 16), "motion_mask": torch.ones(8, 16, dtype=torch.bool)}
    return folder, model, processor, batch, targets


def with_head(family, tap="last_hidden", form=None, **objective):
    _, original, processor, _, _ = family
    model = copy.deepcopy(original)
    own = SimpleNamespace(video_processor=processor)
    head = MotionHead(MotionHeadConfig.for_model(model.config, own, tap, **(form or {})))
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    attach_head(model, head, MotionObjective(**objective))
    return model


@pytest.mark.parametrize("tap", TAPS)
def test_without_targets_the_forward_pass_is_the_original(family, tap):
    _, original, _, batch, _ = family
    model = with_head(family, tap)
    # in the same memory: where weights lie may decide in which order they are added up
    model.load_state_dict(original.state_dict(), assign=True, strict=False)
    assert torch.equal(model(**batch).logits, original(**batch).logits)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("tap", TAPS)
def test_gradients_do_not_depend_on_checkpointing(family, tap, reentrant):
    _, _, _, batch, targets = family
    gradients = []
    for checkpointing in (False, True):
        model = with_head(family, tap)
        model.train()
        model.enable_input_require_grads()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        output = model(**batch, **targets)
        (output.motion_sum + output.ce_sum).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_cross_entropy_is_the_models_own(family):
    _, original, _, batch, targets = family
    output = with_head(family)(**batch, **targets)
    torch.testing.assert_close(output.ce_sum / 2, original(**batch).loss)


@pytest.mark.parametrize("tap", TAPS)
def test_motion_alone_never_reaches_the_output_layer(family, tap):
    _, _, _, batch, targets = family
    model = with_head(family, tap, with_text=False)
    model.lm_head.register_forward_hook(lambda *_: pytest.fail("a row of lm_head was computed"))
    assert model(**batch, **targets).ce_sum is None


@pytest.mark.parametrize("tap", TAPS)
def test_motion_alone_trains_every_weight_that_is_left_trainable(family, tap):
    """DDP waits for the gradient of each of them."""
    _, _, _, batch, targets = family
    model = with_head(family, tap, with_text=False)
    frozen = freeze_unused(model)
    model(**batch, **targets).motion_sum.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    needless = [name for name, p in model.named_parameters() if name in frozen and p.grad is not None]
    assert needless == []
    # nothing was frozen that the loss does reach
    everything = with_head(family, tap, with_text=False)
    everything(**batch, **targets).motion_sum.backward()
    reached = {name for name, p in everything.named_parameters() if p.grad is not None and p.grad.any()}
    assert not reached & set(frozen)


@pytest.mark.parametrize("tap", TAPS)
def test_generate_gives_the_motion_of_its_own_prefill(family, tap):
    _, _, _, batch, targets = family
    model = with_head(family, tap).eval()
    expected = model(**batch, **targets).motion
    prompt = {key: value for key, value in batch.items() if key != "labels"}
    with captured_motion(model) as captured:
        model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert len(captured) == 1
    torch.testing.assert_close(captured[0], expected)


@pytest.mark.parametrize("tap", TAPS)
def test_engines_find_every_layer_by_its_name(family, tap):
    """FSDP through accelerate and PEFT take the first class that bears a layer's name, and wrap its instances."""
    from accelerate.utils.dataclasses import get_module_class_from_name

    _, original, _, _, _ = family
    name = type(original.model.language_model.layers[0]).__name__
    assert name in original._no_split_modules
    found = get_module_class_from_name(with_head(family, tap), name)
    assert all(isinstance(layer, found) for layer in with_head(family, tap).model.language_model.layers)


def test_an_unknown_tap_is_refused(family):
    for tap in ("layer:0", "layer:3", "layer:x", "logits"):
        with pytest.raises(ConfigError, match="layer:K with K from 1 to 2"):
            with_head(family, tap)


def test_the_saved_model_knows_nothing_of_the_head(family, tmp_path):
    folder, original, _, batch, targets = family
    model = with_head(family)
    model.save_pretrained(tmp_path)
    save_head(model.motion_head, tmp_path)
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]
    assert type(loaded) is type(original)
    assert loaded.config.architectures == original.config.architectures
    attach_head(loaded, load_head(tmp_path), MotionObjective())
    assert torch.equal(loaded(**batch, **targets).motion, model(**batch, **targets).motion)


def test_a_head_that_does_not_fit_is_refused_with_both_numbers(tmp_path):
    head = MotionHead(MotionHeadConfig(64, 14, 2, 2))
    for wanted, numbers in (
        (MotionHeadConfig(32, 14, 2, 2), "hidden_size 64, .* 32"),
        (MotionHeadConfig(64, 16, 2, 2), "patch 14, .* 16"),
        (MotionHeadConfig(64, 14, 1, 2), "merge 2, .* 1"),
        (MotionHeadConfig(64, 14, 2, 2, input="layer:1"), "input last_hidden, .* layer:1"),
    ):
        with pytest.raises(HeadError, match=numbers):
            head.config.check_fits(wanted, "folder")


def test_half_a_head_and_a_broken_one_are_refused(tmp_path):
    assert load_head(tmp_path) is None
    save_head(MotionHead(MotionHeadConfig(8, 14, 2, 2)), tmp_path)
    (tmp_path / "motion_head_config.json").write_text("{}")
    with pytest.raises(HeadError, match="cannot be read"):
        load_head(tmp_path)
    (tmp_path / "motion_head_config.json").unlink()
    with pytest.raises(HeadError, match="only one of"):
        load_head(tmp_path)


def test_a_model_without_video_is_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(ConfigError, match="llama has no video tokens"):
        attach_head(LlamaForCausalLM(config), MotionHead(MotionHeadConfig(8, 14, 2, 2)), MotionObjective())


def test_a_second_head_is_refused(family):
    model = with_head(family)
    with pytest.raises(ConfigError, match="^the model has a motion head already: "):
        attach_head(model, model.motion_head)


def test_arguments_by_their_place_are_those_of_the_original(family):
    _, _, _, batch, targets = family
    model = with_head(family).eval()
    ids, mask, rest = batch["input_ids"], batch["attention_mask"], dict(batch)
    del rest["input_ids"], rest["attention_mask"]
    assert model(ids, mask, **rest, **targets).loss == model(**batch, **targets).loss
