"""Reads clips the way training does for one model, outside of training."""

from pathlib import Path

from transformers import AutoConfig

from motiontune.clip import Clip
from motiontune.errors import ConfigError, in_one_line
from motiontune.grid import VideoGrid
from motiontune.llamafactory.install import get_infer_args, install
from motiontune.llamafactory.workflow import load_processor
from motiontune.model.motion_model import check_video_model


TEMPLATES = {"qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl_nothink"}


class ModelReader:
    """Reads clips as LLaMA-Factory and a model's own processor resize them.

    Args:
        model: a folder or the name of a hub repository.
        fps: sampled frames per second (`video_fps`).
        max_frames: at most so many of them (`video_maxlen`).
        max_pixels: a frame with more pixels is made smaller (`video_max_pixels`).

    Raises:
        ConfigError: if there is no such model, or it has no video tokens.
    """

    def __init__(self, model: str, fps: float = 2.0, max_frames: int = 128, max_pixels: int = 65536) -> None:
        install()
        try:
            config = AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            kind = "a folder" if Path(model).is_dir() else "a folder or the hub"
            raise ConfigError(f"{model} cannot be loaded from {kind}: {in_one_line(error)}") from error
        check_video_model(config)
        model_args, data_args, *_ = get_infer_args(
            {
                "model_name_or_path": model,
                "template": TEMPLATES[config.model_type],
                "video_fps": fps,
                "video_maxlen": max_frames,
                "video_max_pixels": max_pixels,
            }
        )
        _, tokenizer_module, self.template = load_processor(model_args, data_args)
        self.processor = tokenizer_module["processor"]

    def read(self, path: str, with_vectors: bool) -> Clip:
        """Decode a clip; see `read_clip`."""
        clip: Clip = self.template.mm_plugin.read(path, self.processor, with_vectors)
        return clip

    def grid_of(self, clip: Clip) -> VideoGrid:
        """Where the model's patches of a clip lie."""
        grid: VideoGrid = self.template.mm_plugin.grid_of(clip, self.processor)
        return grid
