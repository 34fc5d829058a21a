"""The motion head that fits a model and its processor."""

from typing import Any

from motiontune.model.forward import tap_depth
from motiontune.model.head import MotionHeadConfig
from motiontune.motion.field import Direction


def fitting_head(
    config: Any, processor: Any, *, reads: str = "last_hidden", direction: Direction = "past", scale: float = 1.0
) -> MotionHeadConfig:
    """Work out what head a model and its processor need.

    Args:
        config: the model's configuration.
        processor: the model's.
        reads: hidden states that the head reads: "last_hidden", "layer:K" or "projector".
        direction: of the motion, "past" or "future".
        scale: targets are pixels of the resized frame, divided by patch size * scale.

    Raises:
        ConfigError: if the model has not the layer that the head is to read.
    """
    tap_depth(reads, config.text_config.num_hidden_layers)
    videos = processor.video_processor
    return MotionHeadConfig(
        hidden_size=config.text_config.hidden_size,
        patch=videos.patch_size,
        merge=videos.merge_size,
        temporal_patch=videos.temporal_patch_size,
        input=reads,
        target=direction,
        scale=scale,
    )
