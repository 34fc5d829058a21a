"""What differs between the model families, one entry each, and what all of them need.

A new family is one more entry here, and a plugin in `llamafactory/plugin.py` where LLaMA-Factory reads its clips in
another way. Nothing else in the package knows the families by name.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from motiontune.errors import ConfigError
from motiontune.grid import VideoGrid


Layers = dict[str, Any]
"""The keys of one part of a configuration, such as `text_config`."""


class Patching(NamedTuple):
    """How a processor cuts video into patches and tokens.

    Args:
        patch: side of a patch in pixels of the resized frame.
        merge: patches per token along each side.
        temporal_patch: frames per token.
    """

    patch: int
    merge: int
    temporal_patch: int

    def padded(self, frames: int) -> int:
        """Count the frames after the processor has repeated the last one to fill the last token."""
        return -(-frames // self.temporal_patch) * self.temporal_patch


@dataclass(frozen=True)
class Family:
    """One family of video-language models.

    Args:
        model_type: of its configuration.
        name: as its makers write it.
        model: transformers' class with the output layer. Classes are named, not imported: an older transformers may
            lack them.
        processor: transformers' class.
        video_processor: transformers' class.
        templates: LLaMA-Factory's templates for it, the one to take where none is named first.
        plugin: the name of the plugin of these templates.
        tokenizer: transformers' class.
        timestamps: whether the time of each temporal patch stands as text before its tokens, so that the tokens of a
            video are several runs.
        visual: where the vision encoder lies in the model.
        language_model: where the decoder lies that reads token embeddings.
        lm_head: where the output layer lies.
        patch_embed: the first layer within the vision encoder.
        projector: where, within the vision encoder, the projector lies; part of the name of each of its weights, and
            of no other but those of `deepstack`.
        encoder_width: key of the vision encoder's configuration with the width of its patches before the projector.
        windows: whether the projector reads tokens in the order of the encoder's windows.
        deepstack: where, within the vision encoder, the mergers lie whose features are added after the first decoder
            layers, or None.
        linear_attention: whether some decoder layers carry a state along the row in place of attention. Such a layer
            does not see where a packed row's samples end.
        patch: of the family's own processor; a tiny model has the same.
        mean_std: of the family's own pixel normalisation, or None for CLIP's.
        default_system: the system prompt that its chat template puts first where a chat has none.
        tiny_text: changes the decoder's keys of a tiny model to the family's; see `model/tiny.py`.
        tiny_vision: changes the vision encoder's keys, given the decoder's.
    """

    model_type: str
    name: str
    model: str
    processor: str
    video_processor: str
    templates: tuple[str, ...]
    plugin: Literal["qwen2_vl", "qwen3_vl"]
    tokenizer: str = "Qwen2Tokenizer"
    timestamps: bool = False
    visual: str = "model.visual"
    language_model: str = "model.language_model"
    lm_head: str = "lm_head"
    patch_embed: str = "patch_embed"
    projector: str = "merger"
    encoder_width: str = "hidden_size"
    windows: bool = False
    deepstack: str | None = None
    linear_attention: bool = False
    patch: int = 16
    mean_std: float | None = 0.5
    default_system: str | None = None
    tiny_text: Callable[[Layers], Layers] = lambda text: text
    tiny_vision: Callable[[Layers, Layers], Layers] = lambda vision, text: vision

    @property
    def is_installed(self) -> bool:
        """Whether the installed transformers has this family."""
        return importlib.util.find_spec(f"transformers.models.{self.model_type}") is not None

    def visual_of(self, base: Any) -> Any:
        """Return the vision encoder of a model."""
        return base.get_submodule(self.visual)

    def projector_of(self, base: Any) -> Any:
        """Return the projector, the last part of the vision encoder."""
        return self.visual_of(base).get_submodule(self.projector)

    def encoder_width_of(self, config: Any) -> int:
        """Width of a patch in the vision encoder, before the projector."""
        return int(getattr(config.vision_config, self.encoder_width))

    def in_token_order(self, rows: Tensor, visual: Any, thw: Tensor) -> Tensor:
        """Put what the projector reads or returns, one row per token, into the order of the tokens.

        Args:
            rows: [tokens, width].
            visual: the vision encoder.
            thw: int64 [videos, 3], the grids that it was called with.
        """
        return rows[torch.argsort(visual.get_window_index(thw)[0]).to(rows.device)] if self.windows else rows

    def language_model_of(self, base: Any) -> Any:
        """Return the decoder that reads the token embeddings."""
        return base.get_submodule(self.language_model)

    def lm_head_of(self, base: Any) -> Any:
        """Return the output layer."""
        return base.get_submodule(self.lm_head)

    def deepstack_of(self, base: Any) -> list[nn.Module]:
        """Return the mergers whose features are added after the first decoder layers, one after each."""
        return [] if self.deepstack is None else [*self.visual_of(base).get_submodule(self.deepstack)]


# ---- what is different in a tiny model ----


def _rope(text: Layers, interleaved: bool) -> Layers:
    """Share half a head's width between time, rows and columns, about as the real ones do (16:24:24, 24:20:20)."""
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    space = half // 3 if interleaved else 3 * half // 8
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * space, space, space]}
    return text | {"rope_parameters": rope | ({"mrope_interleaved": True} if interleaved else {})}


def _qwen2_text(text: Layers) -> Layers:
    return _rope(text, interleaved=False)


def _qwen2_vision(vision: Layers, text: Layers) -> Layers:
    return vision | {"embed_dim": vision["hidden_size"], "hidden_size": text["hidden_size"], "mlp_ratio": 4}


def _qwen2_5_vision(vision: Layers, text: Layers) -> Layers:
    sizes = {"intermediate_size": 4 * vision["hidden_size"], "out_hidden_size": text["hidden_size"]}
    return vision | sizes | {"fullatt_block_indexes": [vision["depth"] - 1]}


def _qwen3_text(text: Layers) -> Layers:
    return _rope(text, interleaved=True) | {"head_dim": text["hidden_size"] // text["num_attention_heads"]}


def _qwen3_5_text(text: Layers) -> Layers:
    """Heads that turn a quarter of their width, and full attention in every fourth layer, the last one among them."""
    heads, width = text["num_attention_heads"], text["hidden_size"] // text["num_attention_heads"]
    text = _rope(text, interleaved=True)
    text["rope_parameters"]["partial_rotary_factor"] = 0.25
    layers = text["num_hidden_layers"]
    kinds = ["linear_attention" if (layers - 1 - layer) % 4 else "full_attention" for layer in range(layers)]
    linear = {"linear_num_key_heads": max(1, heads // 2), "linear_num_value_heads": heads}
    return (
        text
        | linear
        | {
            "head_dim": 4 * width,
            "layer_types": kinds,
            "linear_key_head_dim": width,
            "linear_value_head_dim": width,
        }
    )


def _experts(text: Layers) -> Layers:
    """Four experts, two of which see a token."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": text["intermediate_size"] // 2}
    return text | experts


def _qwen3_moe_text(text: Layers) -> Layers:
    return _experts(_qwen3_text(text))


def _qwen3_5_moe_text(text: Layers) -> Layers:
    text = _experts(_qwen3_5_text(text))
    shared = {"shared_expert_intermediate_size": text["moe_intermediate_size"]}
    del text["intermediate_size"]  # every layer has experts
    return text | shared


def _qwen3_5_vision(vision: Layers, text: Layers) -> Layers:
    sizes = {"intermediate_size": 4 * vision["hidden_size"], "out_hidden_size": text["hidden_size"]}
    return vision | sizes | {"num_position_embeddings": 16 * 16}


def _qwen3_vision(vision: Layers, text: Layers) -> Layers:
    # each of the first decoder layers takes the features of one vision layer
    deepstack = list(range(min(vision["depth"], text["num_hidden_layers"], 3)))
    return _qwen3_5_vision(vision, text) | {"deepstack_visual_indexes": deepstack}


# ---- the families ----

_QWEN2: dict[str, Any] = {
    "video_processor": "Qwen2VLVideoProcessor",
    "templates": ("qwen2_vl",),
    "plugin": "qwen2_vl",
    "patch": 14,
    "mean_std": None,
    "default_system": "You are a helpful assistant.",
    "tiny_text": _qwen2_text,
}
_QWEN3: dict[str, Any] = {
    "processor": "Qwen3VLProcessor",
    "video_processor": "Qwen3VLVideoProcessor",
    "plugin": "qwen3_vl",
    "timestamps": True,
}
_QWEN3_VL = _QWEN3 | {"templates": ("qwen3_vl_nothink", "qwen3_vl"), "deepstack": "deepstack_merger_list"}
_QWEN3_5 = _QWEN3 | {
    "templates": ("qwen3_5_nothink", "qwen3_5", "qwen3_6"),
    "tokenizer": "Qwen3_5Tokenizer",
    "linear_attention": True,
}

SIMPLEST = Family(
    model_type="qwen2_vl",
    name="Qwen2-VL",
    model="Qwen2VLForConditionalGeneration",
    processor="Qwen2VLProcessor",
    encoder_width="embed_dim",
    tiny_vision=_qwen2_vision,
    **_QWEN2,
)
"""The family for demonstrations."""

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        SIMPLEST,
        Family(
            model_type="qwen2_5_vl",
            name="Qwen2.5-VL",
            model="Qwen2_5_VLForConditionalGeneration",
            processor="Qwen2_5_VLProcessor",
            windows=True,
            tiny_vision=_qwen2_5_vision,
            **_QWEN2,
        ),
        Family(
            model_type="qwen3_vl",
            name="Qwen3-VL",
            model="Qwen3VLForConditionalGeneration",
            tiny_text=_qwen3_text,
            tiny_vision=_qwen3_vision,
            **_QWEN3_VL,
        ),
        Family(
            model_type="qwen3_vl_moe",
            name="Qwen3-VL-MoE",
            model="Qwen3VLMoeForConditionalGeneration",
            tiny_text=_qwen3_moe_text,
            tiny_vision=_qwen3_vision,
            **_QWEN3_VL,
        ),
        Family(
            model_type="qwen3_5",
            name="Qwen3.5",
            model="Qwen3_5ForConditionalGeneration",
            tiny_text=_qwen3_5_text,
            tiny_vision=_qwen3_5_vision,
            **_QWEN3_5,
        ),
        Family(
            model_type="qwen3_5_moe",
            name="Qwen3.5-MoE",
            model="Qwen3_5MoeForConditionalGeneration",
            tiny_text=_qwen3_5_moe_text,
            tiny_vision=_qwen3_5_vision,
            **_QWEN3_5,
        ),
    )
}
"""The supported families by their model type."""


def installed_families() -> tuple[str, ...]:
    """The model types that are supported here and that the installed transformers has."""
    return tuple(name for name, family in FAMILIES.items() if family.is_installed)


def family_of(config: Any, what: str = "motion") -> Family:
    """Find the family of a model.

    Args:
        config: the model's configuration.
        what: needs one of the families, for the message.

    Raises:
        ConfigError: naming the model's type, and the families that are supported.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        *others, last = (family.name for family in FAMILIES.values())
        has_video = getattr(config, "video_token_id", None) is not None
        raise ConfigError(
            f"model type {config.model_type} {'is not supported yet' if has_video else 'has no video tokens'}: "
            f"{what} needs {', '.join(others)} or {last}"
        )
    if not family.is_installed:
        raise ConfigError(
            f"model type {config.model_type} is not in the installed transformers {transformers.__version__}: "
            f"install a newer one for {family.name}"
        )
    return family


# ---- what all of them share ----


def patching_of(processor: Any) -> Patching:
    """Read from a processor how it cuts video into patches and tokens."""
    video = processor.video_processor
    return Patching(int(video.patch_size), int(video.merge_size), int(video.temporal_patch_size))


def grids_of(batch: dict[str, Any], processor: Any) -> list[VideoGrid]:
    """Read the grid of each video of a batch, in the order of the video tokens.

    Args:
        batch: what the processor returned: all families have `video_grid_thw` in it so far.
        processor: the model's.
    """
    thw = batch.get("video_grid_thw")
    return [] if thw is None else [VideoGrid.from_thw(row, *patching_of(processor)) for row in thw]


def token_types(input_ids: Tensor, image_token_id: int, video_token_id: int) -> Tensor:
    """Mark image tokens with 1 and video tokens with 2, as `mm_token_type_ids`.

    From these the models number positions by time, row and column.

    Args:
        input_ids: int64 [B, S].
        image_token_id: stands for a part of an image.
        video_token_id: stands for a part of a video.

    Returns:
        int64 [B, S].
    """
    types = torch.zeros_like(input_ids)
    types[input_ids == image_token_id] = 1
    types[input_ids == video_token_id] = 2
    return types


def prepare_to_generate(batch: dict[str, Any], image_token_id: int, video_token_id: int) -> None:
    """Change what `generate()` does not take of LLaMA-Factory's batch, in place."""
    batch.pop("video_metadata", None)  # where there are timestamps they are in the text; generate() refuses it
    batch["mm_token_type_ids"] = token_types(batch["input_ids"], image_token_id, video_token_id)
    if "second_per_grid_ts" in batch:  # a list, which beam search cannot split
        batch["second_per_grid_ts"] = torch.tensor(batch["second_per_grid_ts"])
