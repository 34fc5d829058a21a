"""True shapes with random weights, batches of a given length, and the floating-point operations that a step needs.

N are weights of matrices, counted from the model: the decoder's layers, the vision encoder's blocks with its patch
embedding, its mergers, LoRA's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experiment import SHAPES, Shape, keys_for, write_model
from internals import (
    MotionHeadConfig,
    SFTDataCollatorWith4DAttentionMask,
    base_of,
    build_tiny,
    language_model_of,
)
from transformers import Qwen3VLConfig


H100_FLOPS = 989e12  # dense bf16, NVIDIA's data sheet of the H100 SXM
ROWS, COLUMNS = 8, 16  # video tokens of each pair of frames: 224 x 448 px with Qwen2-VL, 256 x 512 with Qwen3-VL
LABELS = 11
TINY = Shape(64, 128, 2, 4, 2, 2, 64, 4, vocab_size=1024)


def write_shape(folder: Path, name: str, dtype: str, tiny: bool) -> dict[str, Any]:
    """Write the configuration, tokenizer and processor of a shape; return the keys that name them.

    Args:
        folder: to write.
        name: "2B" and "7B" are Qwen2-VL's, "4B" Qwen3-VL's.
        dtype: of the weights.
        tiny: the family's tiny model in its place.
    """
    if name != "4B":
        write_model(folder, TINY if tiny else SHAPES[name], dtype)
        return {"model_name_or_path": str(folder), "template": "qwen2_vl"}
    build_tiny("qwen3_vl", folder)
    (folder / "model.safetensors").unlink()
    config = Qwen3VLConfig.from_pretrained(folder)
    if not tiny:  # Qwen/Qwen3-VL-4B-Instruct
        for key, value in {
            "vocab_size": 151_936,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262_144,
            "initializer_range": 0.02,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
        }.items():
            setattr(config.text_config, key, value)
        for key, value in {
            "depth": 24,
            "hidden_size": 1024,
            "num_heads": 16,
            "intermediate_size": 4096,
            "out_hidden_size": 2560,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
            "initializer_range": 0.02,
        }.items():
            setattr(config.vision_config, key, value)
        config.tie_word_embeddings = True
    config.dtype = dtype
    config.save_pretrained(folder)
    return {"model_name_or_path": str(folder), "template": "qwen3_vl_nothink"}


def keys_of(files: dict[str, Any], method: str, out: Path, device: str, **more: Any) -> dict[str, Any]:
    """The keys of a run: LLaMA-Factory's defaults with bf16, gradient checkpointing among them."""
    lora = {"lora_rank": 8, "lora_target": "all"} if method == "lora" else {}
    keys = keys_for(Path(files["model_name_or_path"]), out / "data", out / "out", 1000, device)
    keys |= {"finetuning_type": method, "bf16": True, "pure_bf16": False, **lora, **files, **more}
    return keys


@dataclass(frozen=True)
class _Tensors:
    """Stands where LLaMA-Factory's plugin makes pixels out of a batch's clips: gives those it has."""

    pixels: torch.Tensor
    grid: torch.Tensor
    image_token: str = "<|image_pad|>"
    audio_token: None = None

    def get_mm_inputs(self, *_: Any) -> dict[str, Any]:
        return {"pixel_values_videos": self.pixels, "video_grid_thw": self.grid}


def make_batch(
    model: Any, tokenizer: Any, template: Any, head: MotionHeadConfig, tokens: int, dtype: torch.dtype, padding: int
) -> dict[str, torch.Tensor]:
    """Make the batch that LLaMA-Factory's collator makes of a clip with so many video tokens, of random pixels.

    The text fills the row up to a multiple of 8, so that nothing is padded unless `padding` positions are to be.
    """
    config = base_of(model).config
    times = tokens // (ROWS * COLUMNS)
    word = tokenizer.encode("video", add_special_tokens=False)[0]
    start, end, pad = config.vision_start_token_id, config.vision_end_token_id, config.video_token_id
    ids = [word] * 24
    for number in range(times):
        frame = [start] + [pad] * (ROWS * COLUMNS) + [end]
        if config.model_type == "qwen3_vl":
            ids += tokenizer.encode(f"<{number:.1f} seconds>", add_special_tokens=False) + frame
        else:
            ids += frame[number > 0 : len(frame) - (number < times - 1)]
    ids += [word] * (12 + -(len(ids) + 12 + LABELS + padding) % 8)
    labels = [-100] * len(ids) + [word] * LABELS
    ids += [word] * LABELS
    vision = config.vision_config
    grid = torch.tensor([[times, 2 * ROWS, 2 * COLUMNS]])
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    template = type("Template", (), {"mm_plugin": _Tensors(torch.randn(int(grid.prod()), width), grid)})()
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template,
        model=model,
        tokenizer=tokenizer,
        pad_to_multiple_of=8,
        label_pad_token_id=-100,
        block_diag_attn=False,
        attn_implementation=config._attn_implementation,
        compute_dtype=dtype,
    )
    feature = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "videos": [None]}
    batch = dict(collator([feature]))
    assert batch["attention_mask"].sum() + padding == batch["input_ids"].numel()
    shape = (tokens, head.token_width)
    batch["motion_targets"] = torch.randn(shape)
    batch["motion_mask"] = torch.rand(tokens, 1).expand(shape) < 0.7
    return batch


def count_flops(model: Any, batch: dict[str, torch.Tensor], method: str, arm: str) -> dict[str, float]:
    """Count what the matrix products of a step need, in units of 1: see README.md for the formula.

    Args:
        model: whose weights are counted.
        batch: of one row.
        method: "lora" or "full".
        arm: whose loss it is. "motion only" needs no row of `lm_head`, the others those of the labelled tokens.
    """
    base = base_of(model)
    config, decoder, visual = base.config, language_model_of(base), base.model.visual
    text, vision = config.text_config, config.vision_config

    def weights(module: Any, *, lora: bool = False, without: tuple[str, ...] = ()) -> int:
        return sum(
            parameter.numel()
            for name, parameter in module.named_parameters()
            if parameter.ndim > 1 and ("lora_" in name) == lora and not any(part in name for part in without)
        )

    passes = 3 if method == "full" else 2  # forward, gradients of the inputs, and of the weights
    row = int(batch["attention_mask"].sum())
    width = text.num_attention_heads * getattr(text, "head_dim", text.hidden_size // text.num_attention_heads)
    layers = 2 * row * (passes * weights(decoder.layers) + 3 * weights(decoder.layers, lora=True))
    attention = 3 * text.num_hidden_layers * 2 * row**2 * width  # QK and PV, forward and twice back, half of it masked
    rows = int((batch["labels"][:, 1:] != -100).sum()) if arm != "motion only" else 0
    lm_head = 2 * rows * passes * text.hidden_size * text.vocab_size
    head = 0.0
    if arm.startswith("motion"):
        head = 6.0 * base.motion_head.weight.numel() * len(batch["motion_targets"])
    (grid,) = batch["video_grid_thw"].tolist()
    patches, frame = grid[0] * grid[1] * grid[2], grid[1] * grid[2]
    vision_width = getattr(vision, "embed_dim", vision.hidden_size)
    mergers = weights(visual) - weights(visual.blocks) - weights(visual.patch_embed)
    if hasattr(visual, "pos_embed"):
        mergers -= visual.pos_embed.weight.numel()
    encoder = 2 * patches * (weights(visual.blocks) + weights(visual.patch_embed))  # frozen: forward alone
    encoder += 2 * patches // vision.spatial_merge_size**2 * mergers
    encoder += vision.depth * 4 * patches * frame * vision_width  # within each frame
    parts = {"decoder": layers, "attention": attention, "lm_head": lm_head, "vision": encoder, "motion_head": head}
    return {**parts, "all": sum(parts.values())}
