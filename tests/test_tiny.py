"""Tiny checkpoints: complete, loadable without a network, reproducible, and shaped like the real ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from motiontune.model.families import FAMILIES as ENTRIES
from motiontune.model.families import installed_families
from motiontune.model.tiny import ADDED_TOKENS, SPECIAL_TOKENS, build_tiny


FAMILIES = installed_families()
CAPTIONS = ["The hexagon zigzags upwards.", "The hexagon zigzags downwards."] * 20


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(request.param, tmp_path_factory.mktemp(request.param), CAPTIONS)


def side(folder: Path) -> int:
    """Pixels of a token's side, twice the patch."""
    return 2 * int(AutoProcessor.from_pretrained(folder).video_processor.patch_size)


def encode(folder: Path, frames: int = 8, tokens: int = 2) -> Any:
    """Turn a chat about a noisy video of `tokens` x `tokens` tokens per two frames into the model's inputs."""
    processor = AutoProcessor.from_pretrained(folder)
    pixels = tokens * side(folder)
    video = np.random.default_rng(0).integers(0, 256, (frames, pixels, pixels, 3), np.uint8)
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    batch = processor(text=[text], videos=[list(video)], return_tensors="pt", do_sample_frames=False)
    batch.pop("video_metadata", None)
    return batch


def test_loads_completely_and_generates(checkpoint: Path) -> None:
    model, report = AutoModelForImageTextToText.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    batch = encode(checkpoint)
    at_video = batch["input_ids"] == model.config.video_token_id
    assert at_video.sum() == 4 * 2 * 2 and batch["video_grid_thw"].tolist() == [[4, 4, 4]]
    said = model.generate(**batch, max_new_tokens=4)
    assert said.shape[1] > batch["input_ids"].shape[1]
    assert model.generation_config.eos_token_id[0] == AutoTokenizer.from_pretrained(checkpoint).eos_token_id


def test_answer_depends_on_pixels_and_every_weight_learns(checkpoint: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    batch = encode(checkpoint)
    logits = model(**batch).logits
    with torch.no_grad():
        other = model(**{**batch, "pixel_values_videos": -batch["pixel_values_videos"]}).logits
    assert not torch.allclose(logits[:, -1], other[:, -1])
    logits.square().sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not without


def test_vocabulary_is_the_tokenizer(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings == model.get_output_embeddings().out_features
    for name in ("image", "video"):
        assert config[f"{name}_token_id"] == tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")
    assert config["vision_start_token_id"] == tokenizer.convert_tokens_to_ids("<|vision_start|>")


def test_tokenizer(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    for token in SPECIAL_TOKENS + ADDED_TOKENS:
        assert tokenizer.tokenize(f"a{token}b") == ["a", token, "b"]
    for text in ("The hexagon zigzags upwards.", "Größe: 12 px, 视频 🎬\n\tdone"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("The hexagon zigzags") == ["The", "Ġhexagon", "Ġzigzags"]
    assert tokenizer.tokenize("12") == ["1", "2"]  # Qwen's split: digits one by one
    said = tokenizer("<|im_start|><think>a</think><|im_end|>")["input_ids"]
    assert tokenizer.decode(said, skip_special_tokens=True) == "<think>a</think>"


def test_small_clips_keep_their_size(checkpoint: Path) -> None:
    """Down to one token; the family's own minimum would enlarge them."""
    pixels = side(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    for size in (pixels, 2 * pixels, 4 * pixels):
        video = [np.zeros((size, size, 3), np.uint8)] * 2
        grid = processor.video_processor([video], return_tensors="pt", do_sample_frames=False)["video_grid_thw"]
        assert grid.tolist() == [[1, 2 * size // pixels, 2 * size // pixels]]
        image = processor.image_processor([video[0]], return_tensors="pt")["image_grid_thw"]
        assert image.tolist() == grid.tolist()


def test_pixel_limits_are_taken_and_are_not_shared(tmp_path: Path) -> None:
    for name, limits in (("a", {"min_pixels": 112 * 112, "max_pixels": 224 * 224}), ("b", {})):
        build_tiny("qwen2_vl", tmp_path / name, **limits)
    sizes = []
    for name in "ab":
        processor = AutoProcessor.from_pretrained(tmp_path / name)
        for part in (processor.video_processor, processor.image_processor):
            sizes.append((part.size["shortest_edge"], part.size["longest_edge"]))
    assert sizes == [(112 * 112, 224 * 224)] * 2 + [(28 * 28, 28 * 28 * 768), (28 * 28, 28 * 28 * 1280)]


@pytest.mark.parametrize("family", FAMILIES)
def test_patch_layout_is_the_real_one(family: str, tmp_path: Path) -> None:
    folder = build_tiny(family, tmp_path, layers=3, vision_layers=3)
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    patch = 14 if family in ("qwen2_vl", "qwen2_5_vl") else 16
    assert (vision["patch_size"], vision["spatial_merge_size"], vision["temporal_patch_size"]) == (patch, 2, 2)
    videos = AutoProcessor.from_pretrained(folder).video_processor
    assert (videos.patch_size, videos.merge_size, videos.temporal_patch_size) == (patch, 2, 2)
    assert vision.get("deepstack_visual_indexes") == ([0, 1, 2] if ENTRIES[family].deepstack else None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_rope_sections_fill_the_head(family: str, heads: int, tmp_path: Path) -> None:
    folder = build_tiny(family, tmp_path, heads=heads, hidden_size=64)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert sum(text["rope_parameters"]["mrope_section"]) == 64 // heads // 2
    assert min(text["rope_parameters"]["mrope_section"]) > 0
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert torch.isfinite(model(**encode(folder)).logits).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_tied_embeddings(family: str, tmp_path: Path) -> None:
    for tied in (False, True):
        folder = build_tiny(family, tmp_path / str(tied), tie_word_embeddings=tied)
        model = AutoModelForImageTextToText.from_pretrained(folder)
        one, other = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert (one is other) == tied
        assert torch.equal(one, other) == tied


def test_same_arguments_same_files(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_tiny("qwen3_vl", tmp_path / "a", CAPTIONS, seed=1)
    assert torch.equal(torch.rand(1), expected), "the global random state was touched"
    build_tiny("qwen3_vl", tmp_path / "b", reversed(CAPTIONS), seed=1)
    build_tiny("qwen3_vl", tmp_path / "c", CAPTIONS, seed=2)
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ac")
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "c" / "tokenizer.json").read_bytes()


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="qwen2_vl, qwen2_5_vl, qwen3_vl, .* not 'qwen9'"):
        build_tiny("qwen9", tmp_path)
    with pytest.raises(ValueError, match="multiple of 8"):
        build_tiny("qwen2_vl", tmp_path, hidden_size=36)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "template"),
    [(family, template) for family in FAMILIES for template in ENTRIES[family].templates],
)
def test_llamafactory_trains_and_generates(family: str, template: str, tmp_path: Path) -> None:
    """Two steps of plain LLaMA-Factory and a prediction, on synthetic clips."""
    pytest.importorskip("llamafactory")
    from llamafactory.train.tuner import run_exp

    from motiontune.datasets.stories import write_synthetic

    write_synthetic(tmp_path / "data", clips=4, seed=0, name="x", size=64)
    keys: dict[str, Any] = {
        "model_name_or_path": str(build_tiny(family, tmp_path / "model")),
        "stage": "sft",
        "finetuning_type": "full",
        "template": template,
        "dataset_dir": str(tmp_path / "data"),
        "video_fps": 8.0,
        "cutoff_len": 512,
        "report_to": "none",
        "use_cpu": True,
    }
    train = {"do_train": True, "dataset": "x", "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-3}
    run_exp({**keys, **train, "output_dir": str(tmp_path / "run")})
    log = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 2 and losses[1] < losses[0] < 8
    if ENTRIES[family].timestamps:
        return  # LLaMA-Factory 0.9.5 leaves `video_metadata` in the batch, which `generate()` refuses
    predict = {"do_predict": True, "predict_with_generate": True, "eval_dataset": "x", "max_new_tokens": 4}
    keys["model_name_or_path"] = str(tmp_path / "run")
    run_exp({**keys, **predict, "output_dir": str(tmp_path / "said"), "do_sample": False})
    rows = (tmp_path / "said" / "generated_predictions.jsonl").read_text().splitlines()
    assert len(rows) == 4 and all(json.loads(row)["label"].startswith("The ") for row in rows)
