"""`motiontune prepare start`: two models become one, and both compute what they did."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import training
from motiontune import cli
from motiontune.commands import prepare
from motiontune.errors import ConfigError, OutputError
from motiontune.model import start, tower
from motiontune.model.tiny import SENTENCES, build_tiny
from motiontune.training.plain import attach_motion


SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def write_words(folder: Path) -> None:
    """A byte-level BPE that splits digits and puts a token before each text, as Llama's do."""
    backend = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<s>").save_pretrained(folder)


def write_language(folder: Path, kind: str = "llama", **keys: Any) -> Path:
    torch.manual_seed(1)
    made: Any = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **keys)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **keys)),
    }[kind]()
    for name, value in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value)  # transformers begins with 0
    made.save_pretrained(folder)
    write_words(folder)
    return folder


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language(tmp_path_factory.mktemp("language"), tie_word_embeddings=True, rope_theta=5e3)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, layerscale_value=0.3
    )
    made = Dinov2Model(config)
    for value in made.parameters():  # transformers begins with zeros and ones, which would hide what is left out
        value.data += 0.1 * torch.randn_like(value)
    folder = tmp_path_factory.mktemp("vision")
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built(language: Path, vision: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "start"
    report = start.write_start(str(language), str(vision), out)
    assert [part[0] for part in report.parts] == ["decoder", "encoder", "projector"] and not report.stock
    assert all(off is not None and off < 1e-5 for *_, off in report.parts[:2])
    return out


def test_both_parts_compute_what_they_did(built: Path, language: Path, vision: Path) -> None:
    tower.install_dino_tower()
    model = AutoModelForImageTextToText.from_pretrained(built)
    words, processor = LlamaForCausalLM.from_pretrained(language), AutoProcessor.from_pretrained(built)
    ids = processor.tokenizer("The square moves left.", return_tensors="pt").input_ids
    assert len(ids[0]) > 4 and ids[0, 0] != 0  # nothing is put before a text
    found, wanted = (each(input_ids=ids).logits[..., :300] for each in (model, words))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)

    # two sizes at once, each clip of frames that are alike: DINOv2's features of the frame
    dino = Dinov2Model.from_pretrained(vision).eval()
    frames = [torch.randint(256, (3, 28 * rows, 28 * cols), dtype=torch.uint8) for rows, cols in ((2, 3), (1, 2))]
    clips = [frame.expand(2 * (k + 1), -1, -1, -1) for k, frame in enumerate(frames)]
    inputs = processor.video_processor(clips, do_sample_frames=False, return_tensors="pt")
    visual, grid = model.model.visual, inputs["video_grid_thw"]
    assert grid.tolist() == [[1, 4, 6], [2, 2, 4]]
    found = visual.merger.ln_q(visual(inputs["pixel_values_videos"], grid_thw=grid).last_hidden_state)
    mean, std = (torch.tensor(start.IMAGENET[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    wanted = []
    for frame, (pairs, rows, cols) in zip(frames, grid.tolist(), strict=True):
        features = dino(pixel_values=((frame / 255 - mean) / std)[None]).last_hidden_state[0, 1:]
        blocks = features.view(rows // 2, 2, cols // 2, 2, -1).transpose(1, 2).reshape(rows * cols, -1)
        wanted.append(blocks.repeat(pairs, 1))
    torch.testing.assert_close(found, torch.cat(wanted), atol=2e-4, rtol=1e-3)


def test_new_tokens_are_the_mean_of_the_known_ones(built: Path, language: Path) -> None:
    table = AutoModelForImageTextToText.from_pretrained(built).get_input_embeddings().weight
    old = LlamaForCausalLM.from_pretrained(language).get_input_embeddings().weight
    words = AutoProcessor.from_pretrained(built).tokenizer
    known = len(words) - len(start.CHAT_TOKENS) - len(start.VISION_TOKENS)
    torch.testing.assert_close(table[:known], old[:known])
    for token in (*start.CHAT_TOKENS, *start.VISION_TOKENS):
        number = words.convert_tokens_to_ids(token)
        assert number >= known
        torch.testing.assert_close(table[number], old[:known].mean(0))
    assert words.eos_token == "<|im_end|>" and len(table) % start.ROWS == 0


def test_the_projector_gives_tokens_as_large_as_words(built: Path) -> None:
    model, processor = AutoModelForImageTextToText.from_pretrained(built), AutoProcessor.from_pretrained(built)
    pixels, grid = start._patterns(processor)
    sizes = model.model.visual(pixels, grid_thw=grid).pooler_output.pow(2).mean().sqrt()
    torch.testing.assert_close(sizes, model.get_input_embeddings().weight.pow(2).mean().sqrt(), rtol=1e-3, atol=0)


def test_stock_transformers_refuses_the_folder(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder without positions would read these weights without a word, and see something else."""
    stock = tower.Qwen2VisionTransformerPretrainedModel
    monkeypatch.setattr(stock, "_from_config", classmethod(stock._from_config.__func__.__wrapped__))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForImageTextToText.from_pretrained(built)


@pytest.mark.parametrize("tied", [False, True])
def test_a_qwen2_and_the_encoder_of_a_qwen2_vl(tied: bool, tmp_path: Path) -> None:
    """No encoder of our own is in there: any transformers loads it."""
    language = write_language(tmp_path / "language", "qwen2", tie_word_embeddings=tied)
    vision = build_tiny("qwen2_vl", tmp_path / "vision", hidden_size=32, layers=1, vision_hidden_size=48)
    report = start.write_start(str(language), str(vision), tmp_path / "out")
    assert report.stock and all(off is not None and off < 1e-5 for *_, off in report.parts[:2])
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(model.model.visual) is tower.Qwen2VisionTransformerPretrainedModel
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"attention_bias": True}, "a bias behind attention"),
        ({"mlp_bias": True}, "biases of its MLP"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"head_dim": 32}, "heads that are not as wide"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type linear"),
    ],
)
def test_what_the_decoder_cannot_have_is_refused_in_one_line(
    keys: dict[str, Any], reason: str, vision: Path, tmp_path: Path
) -> None:
    LlamaConfig(**SIZES, **keys).save_pretrained(tmp_path / "language")
    with pytest.raises(ConfigError, match=reason) as caught:
        start.write_start(str(tmp_path / "language"), str(vision), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_frames_that_differ_are_told_apart(language: Path, vision: Path, built: Path, tmp_path: Path) -> None:
    """One before the other is not the other before the one; a start whose frames are equal cannot tell."""
    tower.install_dino_tower()
    start.write_start(str(language), str(vision), tmp_path / "equal", apart=0)
    one, other = torch.randint(256, (2, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    orders = [torch.stack([one, other]), torch.stack([other, one])]
    for folder, apart in ((built, True), (tmp_path / "equal", False)):
        visual = AutoModelForImageTextToText.from_pretrained(folder).model.visual
        seen = AutoProcessor.from_pretrained(folder).video_processor(
            orders, do_sample_frames=False, return_tensors="pt"
        )
        features = visual(seen["pixel_values_videos"], grid_thw=seen["video_grid_thw"]).last_hidden_state
        off = (features[:16] - features[16:]).norm() / features.norm()
        assert (off > 0.05) if apart else (off < 1e-5)
    with pytest.raises(ConfigError, match=r"--frames-apart must be from 0 to 100, not -1"):
        start.write_start(str(language), str(vision), tmp_path / "out", apart=-1)
    build_tiny("qwen2_vl", tmp_path / "tiny", ["left right"])
    with pytest.raises(ConfigError, match="--frames-apart 1 is of a DINOv2, which knows no time; .* is qwen2_vl"):
        start.write_start(str(language), str(tmp_path / "tiny"), tmp_path / "out", apart=1)


def test_layer_scales_are_trained_by_themselves(built: Path, vision: Path) -> None:
    tower.install_dino_tower()
    visual = AutoModelForImageTextToText.from_pretrained(built).model.visual
    dino = Dinov2Model.from_pretrained(vision)
    for block, layer in zip(visual.blocks, dino.encoder.layer, strict=True):
        assert torch.equal(block.scale1, layer.layer_scale1.lambda1) and block.scale1.requires_grad
        assert torch.equal(block.mlp.fc2.weight, layer.mlp.fc2.weight)
        assert torch.equal(block.attn.proj.weight, layer.attention.output.dense.weight)


def test_starts_of_before_have_their_layer_scales_in_the_weights(built: Path, tmp_path: Path) -> None:
    tower.install_dino_tower()
    model = AutoModelForImageTextToText.from_pretrained(built)
    folded = {name: value for name, value in model.state_dict().items() if ".scale" not in name}
    for number, block in enumerate(model.model.visual.blocks):
        for layer, scale in (("attn.proj", block.scale1), ("mlp.fc2", block.scale2)):
            for part in ("weight", "bias"):
                name = f"model.visual.blocks.{number}.{layer}.{part}"
                folded[name] = folded[name] * scale.view(-1, *[1] * (folded[name].dim() - 1))
    config = copy.deepcopy(model.config)
    del config.vision_config.dino_layer_scale
    old = type(model)(config)
    old.load_state_dict(folded)
    old.save_pretrained(tmp_path / "old")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "old")
    pixels, grid = torch.randn(32, 1176, generator=torch.Generator().manual_seed(0)), torch.tensor([[2, 4, 4]])
    found, wanted = (each.model.visual(pixels, grid_thw=grid).last_hidden_state for each in (loaded, model))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_other_kinds_and_full_folders_are_refused(language: Path, vision: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="a language model must be one of llama, mistral, qwen2, not dinov2"):
        start.write_start(str(vision), str(vision), out)
    with pytest.raises(ConfigError, match="a vision model must be one of dinov2, qwen2_vl, not llama"):
        start.write_start(str(language), str(language), out)
    with pytest.raises(ConfigError, match="cannot be loaded from a folder or the hub"):
        start.write_start(str(tmp_path / "nowhere"), str(vision), out)
    with pytest.raises(OutputError, match="is not empty"):
        start.write_start(str(language), str(vision), language)


def test_the_command_prints_what_it_made(
    language: Path, vision: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["start", "--language", str(language), "--vision", str(vision), "--out", str(out)]
    prepare.run(cli.parser_of("prepare").parse_args(given))
    printed = capsys.readouterr().out
    assert f"model_name_or_path: {out}" in printed and "template: qwen2_vl" in printed
    assert "transformers alone refuses" in printed and (out / "model.safetensors").is_file()


def test_motiontune_loads_it_with_a_head_and_predicts(built: Path, tmp_path: Path) -> None:
    """The way of `motiontune predict` and `evaluate`: LLaMA-Factory loads the model."""
    training.start()
    from motiontune import MotionModel

    model = AutoModelForImageTextToText.from_pretrained(built)
    processor = AutoProcessor.from_pretrained(built)
    attach_motion(model, processor, input="projector")
    torch.nn.init.normal_(model.motion_head.weight)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = MotionModel.from_pretrained(tmp_path / "saved", fps=8.0, max_frames=16)
    said = loaded.predict(training.clips()[0], max_new_tokens=2)
    assert said.field.valid.any() and np.abs(said.field.vectors[said.field.valid]).max() > 1e-3
    assert type(loaded.model.model.visual) is tower.DinoTower
