"""DINOv2 as the vision encoder of a Qwen2-VL: class token and interpolated positions, no rotary embedding.

Qwen2-VL's own encoder has neither a class token nor absolute positions, so that it cannot hold DINOv2's function;
`dino_grid` in a checkpoint's `vision_config` asks for this one. `install_dino_tower` lets transformers build it;
configurations without `dino_grid` get the stock encoder. A transformers that does not know it refuses the checkpoint:
its `patch_embed.proj.weight` has two dimensions where the stock encoder's has five.

Each pair of frames is an image to the encoder.
"""

from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLVisionBlock,
    VisionAttention,
)

from motiontune.model.wrappers import build_encoders_by


class DinoPatchEmbed(nn.Module):
    """Pixels of a patch in a pair of frames to a vector; owns what DINOv2 adds to it.

    The parameters stand here because freezing an encoder by name (`visual.patch_embed`, `visual.blocks`) finds them.

    Args:
        numbers: of a patch, channels * frames * patch * patch.
        width: of the vector.
        grid: side of the square of positions that the encoder was trained with.
    """

    def __init__(self, numbers: int, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.proj = nn.Linear(numbers, width, bias=False)  # its bias is part of the positions
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(grid * grid, width))

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed patches, floating [patches, numbers] -> [patches, width], without positions."""
        embedded: Tensor = self.proj(pixels.to(self.proj.weight.dtype))
        return embedded

    def positions_of(self, rows: int, cols: int, merge: int) -> Tensor:
        """Interpolate the positions to a grid, float32 [rows * cols, width], in the order of the patches."""
        square = self.positions.float().view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        fitted = F.interpolate(square, size=(rows, cols), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
        blocks = fitted.reshape(rows // merge, merge, cols // merge, merge, -1)
        return blocks.permute(0, 2, 1, 3, 4).reshape(rows * cols, -1)


class DinoAttention(VisionAttention):
    """The stock encoder's weights, over whole images."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend within each image, floating [images, tokens, width] -> the same."""
        images, length, width = tokens.shape
        qkv = self.qkv(tokens).view(images, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv)
        attended: Tensor = self.proj(mixed.transpose(1, 2).reshape(images, length, width))
        return attended


class DinoBlock(Qwen2VLVisionBlock):
    """The stock encoder's weights, over whole images, and DINOv2's layer scales.

    The early layers add little to what they get, and in the first steps of training would come to add far more if the
    scales were part of the weights.

    Args:
        config: the `vision_config`; without `dino_layer_scale` the scales are part of the weights.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.attn = DinoAttention(config)
        scaled = getattr(config, "dino_layer_scale", False)
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(config.embed_dim)) if scaled else 1.0 for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Run one layer, floating [images, tokens, width] -> the same."""
        tokens = tokens + self.scale1 * self.attn(self.norm1(tokens))
        return tokens + self.scale2 * self.mlp(self.norm2(tokens))


class DinoTower(Qwen2VisionTransformerPretrainedModel):
    """DINOv2 in the place of Qwen2-VL's encoder, before Qwen2-VL's projector.

    Args:
        config: the `vision_config`, with `dino_grid`.
    """

    _no_split_modules = ["DinoBlock"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        numbers = config.in_channels * config.temporal_patch_size * config.patch_size**2
        self.patch_embed = DinoPatchEmbed(numbers, config.embed_dim, config.dino_grid)
        self.blocks = nn.ModuleList(DinoBlock(config) for _ in range(config.depth))
        self.post_init()

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Encode the pixels of videos or images.

        Args:
            hidden_states: floating [patches, C * p * patch * patch], of all of them.
            grid_thw: int64 [videos, 3].
        """
        embedded = self.patch_embed(hidden_states)
        encoded, begin = [], 0
        for (rows, cols), some in groupby(grid_thw.tolist(), key=lambda thw: thw[1:]):  # of one size at a time
            end = begin + sum(thw[0] for thw in some) * rows * cols
            encoded.append(self._encode(embedded[begin:end], rows, cols))
            begin = end
        hidden = torch.cat(encoded)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.merger(hidden))

    def _encode(self, embedded: Tensor, rows: int, cols: int) -> Tensor:
        positions = self.patch_embed.positions_of(rows, cols, self.spatial_merge_size).to(embedded.dtype)
        patches = embedded.view(-1, rows * cols, embedded.shape[-1]) + positions
        first = self.patch_embed.class_token.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([first, patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 1:].reshape(embedded.shape)


def install_dino_tower() -> None:
    """Let transformers build this encoder for each Qwen2-VL that asks for it; a second call changes nothing."""
    build_encoders_by(
        Qwen2VisionTransformerPretrainedModel, lambda config: DinoTower if getattr(config, "dino_grid", 0) else None
    )
