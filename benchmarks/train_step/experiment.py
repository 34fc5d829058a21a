"""Models of a given shape with random weights, clips, answers of a given length, and the keys that train on them."""

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from motiontune.model.tiny import build_tiny


PACKAGES = ("motiontune", "llamafactory", "torch", "transformers", "peft", "av", "numpy")
SIDE, FPS = 336, 8  # 12 x 12 tokens for every two frames
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sparse_logits": {"sparse_logits": True},
    "motion+CE": {"use_motionvector_crossentropy_loss": True},
    "motion only": {"use_only_motionvector_loss": True},
    "liger": {"enable_liger_kernel": True},
}


@dataclass(frozen=True)
class Shape:
    """The shape of a Qwen2-VL.

    Args:
        hidden_size: width of the decoder.
        intermediate_size: width of its MLPs.
        layers: decoder layers.
        heads: attention heads.
        key_value_heads: of them, those with keys and values of their own.
        vision_layers: layers of the vision encoder.
        vision_width: its width.
        vision_heads: its attention heads.
        vocab_size: rows of the embeddings and of `lm_head`.
        tied: these two are one matrix.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    vision_layers: int
    vision_width: int
    vision_heads: int
    vocab_size: int = 151_936
    tied: bool = True

    def config(self) -> Qwen2VLConfig:
        """The model's configuration; ids of special tokens are yet to come."""
        half = self.hidden_size // self.heads // 2
        space = 3 * half // 8  # 16:24:24 as in the released models
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * space, space, space]}
        text = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tied,
        }
        vision = {
            "depth": self.vision_layers,
            "embed_dim": self.vision_width,
            "num_heads": self.vision_heads,
            "hidden_size": self.hidden_size,
        }
        return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=self.tied)

    def parameters(self) -> int:
        """How many weights there are, without making any."""
        with torch.device("meta"):
            model = Qwen2VLForConditionalGeneration(self.config())
        return sum(parameter.numel() for parameter in model.parameters())


SHAPES = {
    "101M": Shape(256, 1024, 19, 4, 2, 4, 256, 4, tied=False),
    "0.5B": Shape(896, 4864, 24, 14, 2, 4, 256, 4),  # Qwen2-0.5B's decoder
    "2B": Shape(1536, 8960, 28, 12, 2, 32, 1280, 16),  # Qwen2-VL-2B
    "7B": Shape(3584, 18944, 28, 28, 4, 32, 1280, 16, vocab_size=152_064, tied=False),  # Qwen2-VL-7B
}


def write_model(folder: Path, shape: Shape, dtype: str) -> Path:
    """Write a checkpoint without weights: LLaMA-Factory draws them (`train_from_scratch`)."""
    build_tiny("qwen2_vl", folder)
    (folder / "model.safetensors").unlink()
    tiny = Qwen2VLConfig.from_pretrained(folder)
    config = shape.config()
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(config, name, getattr(tiny, name))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tiny.text_config, name))
    config.dtype, config.architectures = dtype, tiny.architectures
    config.save_pretrained(folder)
    return folder


def write_clip(path: Path, frames: int) -> Path:
    """Write a texture that moves by (3, 1) pixels per frame, H.264."""
    noise = np.random.default_rng(0).integers(0, 255, (SIDE + frames, SIDE + 3 * frames, 3), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 4) * 3
    with av.open(str(path), "w") as film:
        stream: Any = film.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for t in range(frames):
            image = np.ascontiguousarray(texture[t : t + SIDE, 3 * t : 3 * t + SIDE])
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode(None))
    return path


def write_data(folder: Path, clips: list[Path], labels: int) -> Path:
    """Write a data set of clips with answers that have so many labelled tokens.

    Qwen's tokenizers make a token of each digit; two more end the turn.
    """
    folder.mkdir()
    answer = "7" * (labels - 2)
    turns = [{"role": "user", "content": "<video>Describe the video."}, {"role": "assistant", "content": answer}]
    (folder / "clips.json").write_text(json.dumps([{"messages": turns, "videos": [str(clip)]} for clip in clips]))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "videos": "videos"}
    info = {"file_name": "clips.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"clips": info}))
    return folder


def keys_for(model: Path, data: Path, out: Path, steps: int, device: str, **keys: Any) -> dict[str, Any]:
    """The keys of a run of one sample per step."""
    return {
        "model_name_or_path": str(model),
        "train_from_scratch": True,
        "stage": "sft",
        "do_train": True,
        "template": "qwen2_vl",
        "dataset_dir": str(data),
        "dataset": "clips",
        "cutoff_len": 131_072,
        "video_fps": float(FPS),
        "video_max_pixels": SIDE * SIDE,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "output_dir": str(out),
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1_000_000,
        "disable_tqdm": True,
        "disable_shuffling": True,
        "per_device_train_batch_size": 1,
        "max_steps": steps,
        "learning_rate": 1e-4,
        "use_cpu": device == "cpu",
        "bf16": device == "cuda",
        # else the weights of full fine-tuning are kept in float32
        "pure_bf16": device == "cuda" and keys.get("finetuning_type") == "full",
        **keys,
    }


def log_to(path: Path) -> None:
    """Send all that this process and its libraries print from now on into a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


def log_of(keys: dict[str, Any]) -> Path:
    """Where a run's process logs to."""
    return Path(f"{keys['output_dir']}.log")


def receive(pipe: Any, keys: dict[str, Any]) -> Any:
    """What a run's process sends.

    Raises:
        SystemExit: with the end of its log, if it has died.
    """
    try:
        return pipe.recv()
    except EOFError:
        text = log_of(keys).read_text("utf-8", errors="replace")
        raise SystemExit(f"the run into {keys['output_dir']} has died:\n{text[-3000:]}") from None


def versions() -> dict[str, str]:
    """The versions of what a step runs through."""
    return {name: version(name) for name in PACKAGES}


def device_name(device: str) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else device
