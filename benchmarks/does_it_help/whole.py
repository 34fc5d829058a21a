"""Qwen2-VL for batches whose clips all have one size and place: the same numbers, and nothing waits for the device.

transformers asks the device how many video tokens there are, and attends to each pair of frames by itself. Here both
are known beforehand, so that a step can be recorded as a CUDA graph, and a CPU does a third of the work. Weights,
their names and what comes out are those of transformers' model; `tests/test_does_it_help.py` holds it to that.
"""

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel, Qwen2VLModelOutputWithPast

from motiontune.grid import VideoGrid
from motiontune.model import forward
from motiontune.model.losses import IGNORE_INDEX as IGNORE
from motiontune.model.tower import DinoTower


class WholeModel(Qwen2VLModel):
    """Takes batches of clips of one grid whose video tokens begin at one place.

    Args of `forward` are those of transformers' model, as far as they are needed.
    """

    grid: ClassVar[VideoGrid]
    begin: ClassVar[int]

    def forward(self, input_ids: Tensor, position_ids: Tensor, pixel_values_videos: Tensor, **_: Any) -> Any:
        """Run the model.

        Args:
            input_ids: int64 [B, S].
            position_ids: int64 [3, B, S].
            pixel_values_videos: float32 [B * patches, numbers of a patch].
        """
        words = self.language_model.embed_tokens(input_ids)
        video = self.see(pixel_values_videos).view(len(words), -1, words.shape[-1])
        end = self.begin + video.shape[1]
        embeds = torch.cat([words[:, : self.begin], video, words[:, end:]], 1)
        hidden = self.language_model(inputs_embeds=embeds, position_ids=position_ids, use_cache=False)[0]
        return Qwen2VLModelOutputWithPast(last_hidden_state=hidden)

    def see(self, pixels: Tensor) -> Tensor:
        """Encode the clips, [B * patches, numbers] -> [B * tokens, H]."""
        visual: Any = self.visual
        if isinstance(visual, DinoTower):  # does so by itself
            thw = torch.tensor([[1, self.grid.rows, self.grid.cols]])
            images = len(pixels) // (self.grid.rows * self.grid.cols)
            seen: Tensor = visual(pixels, grid_thw=thw.expand(images, -1)).pooler_output
            return seen
        length, heads = self.grid.rows * self.grid.cols, visual.config.num_heads
        # a matrix product: the convolution that it equals is slow
        hidden = F.linear(pixels, visual.patch_embed.proj.weight.flatten(1)).view(-1, length, visual.config.embed_dim)
        for block in visual.blocks:
            qkv = block.attn.qkv(block.norm1(hidden)).view(-1, length, 3, heads, hidden.shape[-1] // heads)
            query, key, value = qkv.unbind(2)
            query, key = modeling_qwen2_vl.apply_rotary_pos_emb_vision(query, key, *self.turns)
            mixed = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
            hidden = hidden + block.attn.proj(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + block.mlp(block.norm2(hidden))
        return visual.merger(hidden.flatten(0, 1))


def make_whole(model: Any, grid: VideoGrid, begin: int, labelled: int = 2) -> None:
    """Let a model with a motion head take whole batches, in place.

    Args:
        model: after `attach_head`.
        grid: of each clip.
        begin: position of the first video token.
        labelled: tokens of the longest answer, with its end.
    """
    inner = model.model
    inner.__class__ = type("WholeModel", (WholeModel,), {"grid": grid, "begin": begin})
    with torch.no_grad():
        angles = inner.visual.rot_pos_emb(torch.tensor([[1, grid.rows, grid.cols]]))
        angles = torch.cat([angles, angles], -1)
        inner.turns = (angles.cos(), angles.sin())
    model.video_positions = lambda input_ids: _places(input_ids, begin, grid.num_tokens)
    forward.supervised_positions = partial(_answer_positions, count=labelled)


def _places(input_ids: Tensor, begin: int, tokens: int) -> Tensor:
    rows = torch.arange(len(input_ids), device=input_ids.device)[:, None] * input_ids.shape[1]
    return (rows + torch.arange(begin, begin + tokens, device=input_ids.device)).flatten()


def _answer_positions(labels: Tensor, count: int) -> Tensor:
    """Find the positions that predict so many tokens of each row, first labelled ones first, int64 [count * B]."""
    first = (labels != IGNORE).int().argmax(1).clamp(min=1) - 1  # a row without an answer: tokens that count nowhere
    rows = torch.arange(len(labels), device=labels.device) * labels.shape[1]
    return (rows[:, None] + first[:, None] + torch.arange(count, device=labels.device)).flatten()
