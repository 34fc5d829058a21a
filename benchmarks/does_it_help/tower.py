"""DINOv2 as the vision encoder of a Qwen2-VL: class token and interpolated positions, no rotary embedding.

Qwen2-VL's own encoder has neither a class token nor absolute positions, so that it cannot hold DINOv2's function;
`dino_grid` in a checkpoint's `vision_config` asks for this one. Call `install_dino_tower` before such a checkpoint is
made or loaded; configurations without `dino_grid` get the stock encoder.

Each pair of frames is an image of its own to the encoder. At first their average: the kernel that reads the pixels is
DINOv2's, half of it for each frame of the pair.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_vl import modeling_qwen2_vl


STOCK = modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel


class DinoPatchEmbed(modeling_qwen2_vl.PatchEmbed):
    """Pixels of a patch in two frames to a vector; owns what DINOv2 adds to it.

    The parameters stand here because freezing an encoder by name (`visual.patch_embed`, `visual.blocks`) finds them.

    Args:
        grid: side of the square of positions that the encoder was trained with.
        sizes: `patch_size`, `temporal_patch_size`, `in_channels`, `embed_dim`.
    """

    def __init__(self, grid: int, **sizes: int) -> None:
        super().__init__(**sizes)
        self.grid = grid
        self.class_token = nn.Parameter(torch.zeros(self.embed_dim))
        self.positions = nn.Parameter(torch.zeros(grid * grid, self.embed_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed patches, floating [patches, C * p * patch * patch] -> [patches, embed_dim], without positions."""
        # a matrix product: the convolution that it equals is slow in bfloat16
        return F.linear(pixels.to(self.proj.weight.dtype), self.proj.weight.flatten(1))

    def positions_of(self, rows: int, cols: int, merge: int) -> Tensor:
        """Interpolate the positions to a grid, float32 [rows * cols, embed_dim], in the order of the patches."""
        square = self.positions.float().view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        fitted = F.interpolate(square, size=(rows, cols), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
        blocks = fitted.reshape(rows // merge, merge, cols // merge, merge, -1)
        return blocks.permute(0, 2, 1, 3, 4).reshape(rows * cols, -1)


class DinoTower(STOCK):
    """Qwen2-VL's encoder, or DINOv2 in its place where the configuration has `dino_grid`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        grid = getattr(config, "dino_grid", 0)
        if grid:
            self.patch_embed = DinoPatchEmbed(
                grid,
                patch_size=config.patch_size,
                temporal_patch_size=config.temporal_patch_size,
                in_channels=config.in_channels,
                embed_dim=config.embed_dim,
            )

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **inputs: Any) -> Any:
        """Encode the pixels of videos or images.

        Args:
            hidden_states: floating [patches, C * p * patch * patch], of all of them.
            grid_thw: int64 [videos, 3]; all of one size.

        Raises:
            ValueError: if the sizes differ.
        """
        if not isinstance(self.patch_embed, DinoPatchEmbed):
            return super().forward(hidden_states, grid_thw=grid_thw, **inputs)
        sizes = {(rows, cols) for _, rows, cols in grid_thw.tolist()}
        if len(sizes) != 1:
            raise ValueError(f"this encoder takes frames of one size at a time, not of {len(sizes)}")
        ((rows, cols),) = sizes
        patches = self.patch_embed(hidden_states).view(-1, rows * cols, self.config.embed_dim)
        patches = patches + self.patch_embed.positions_of(rows, cols, self.spatial_merge_size)
        first = self.patch_embed.class_token.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([first, patches], 1)
        for block in self.blocks:
            tokens = tokens + self._attend(block.attn, block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        hidden = tokens[:, 1:].reshape(-1, self.config.embed_dim)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.merger(hidden))

    @staticmethod
    def _attend(attention: Any, tokens: Tensor) -> Tensor:
        images, length, width = tokens.shape
        query, key, value = (
            attention.qkv(tokens).view(images, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return attention.proj(mixed.transpose(1, 2).reshape(images, length, width))


def install_dino_tower() -> None:
    """Let transformers build this encoder for every Qwen2-VL that asks for it."""
    modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel = DinoTower
