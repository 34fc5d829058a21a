"""What objects are made of: outlines, colours and textures.

Shapes: S side of a frame in pixels, N points.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "white": (245, 245, 245),
    "black": (45, 45, 45),
    "pink": (250, 130, 190),
    "orange": (250, 140, 30),
}
TILE = 64
"""Side of a texture."""

Outline = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Signed distance of points (x, y) from the edge of a shape of radius r about the origin; negative inside."""


def _lobes(number: int, depth: float) -> Outline:
    """A star or a flower; the distance is that along the ray."""
    return lambda x, y, r: torch.hypot(x, y) - r * (1 - depth + depth * torch.cos(number * torch.atan2(x, -y)))


OUTLINES: dict[str, Outline] = {
    "circle": lambda x, y, r: torch.hypot(x, y) - r,
    "square": lambda x, y, r: torch.maximum(x.abs(), y.abs()) - 0.87 * r,
    "triangle": lambda x, y, r: torch.maximum(0.853 * x.abs() - 0.521 * (y + 1.15 * r), y - 0.65 * r),
    "diamond": lambda x, y, r: 0.707 * (x.abs() + y.abs()) - 0.82 * r,
    "ring": lambda x, y, r: (torch.hypot(x, y) - 0.72 * r).abs() - 0.3 * r,
    "cross": lambda x, y, r: torch.minimum(
        torch.maximum(x.abs() - 0.36 * r, y.abs() - r), torch.maximum(x.abs() - r, y.abs() - 0.36 * r)
    ),
    "star": _lobes(5, 0.28),
    "flower": _lobes(8, 0.12),
}
# a diamond that turns is a square that turns
SHAPES = ("circle", "square", "triangle", "star", "flower")
UNSEEN_SHAPES = ("ring", "cross")


def distances(x: Tensor, y: Tensor, radii: Tensor, shapes: Tensor, names: tuple[str, ...]) -> Tensor:
    """How far points lie outside of the edge of each clip's own shape, float32 [B, F, S, S].

    Args:
        x: float32 [B, F, S or 1, S], from the object's centre, in its own orientation.
        y: float32 [B, F, S, S or 1], likewise.
        radii: float32 [B], in the same unit.
        shapes: int64 [B] on the CPU, so that nothing waits for a device; into `names`.
        names: of outlines.
    """
    count, frames, side = len(x), x.shape[1], x.shape[-1]
    distance = x.new_empty(count, frames, side, side)
    for number, name in enumerate(names):
        rows = (shapes == number).nonzero()[:, 0].to(x.device)
        distance[rows] = OUTLINES[name](x[rows], y[rows], radii[rows, None, None, None])
    return distance


def texture_at(tiles: Tensor, x: Tensor, y: Tensor, unit: float = 1.0) -> Tensor:
    """Look up a texture at points, float32 [B, F, S, S] from 0 to 1; around its edges it goes on as in a mirror.

    Args:
        tiles: float32 [B, TILE, TILE].
        x: float32 [B, F, S or 1, S], from the tile's centre.
        y: float32 [B, F, S, S or 1].
        unit: of x and y in texels.
    """
    grid = torch.stack(torch.broadcast_tensors(x, y), -1) / (TILE / 2 / unit)
    texture = F.grid_sample(tiles[:, None], grid.flatten(1, 2), align_corners=False, padding_mode="reflection")
    return texture.view(grid.shape[:-1])


def photo_at(photos: Tensor, x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Look up photos at points, float32 [B, 3, H, W], paler than they are.

    Args:
        photos: uint8 [B, 3, side, side].
        x: float32 [B, H, W], from -1 to 1 over the photo.
        y: likewise.
        padding: what lies outside, as `grid_sample` takes it.
    """
    part = F.grid_sample(photos.float(), torch.stack([x, y], -1), align_corners=False, padding_mode=padding)
    return 0.5 * part + 0.5 * part.mean(1, keepdim=True)


def make_textures(kind: int, count: int = 32) -> Tensor:
    """Draw textures, float32 [count, TILE, TILE] from 0 to 1; kind 0: clouds and stripes, kind 1: checks and dots."""
    random = torch.Generator().manual_seed(100 + kind)
    at = torch.arange(TILE, dtype=torch.float32)
    tiles = []
    for number in range(count):
        angle, phase = torch.rand(2, generator=random) * 2 * torch.pi
        wave = 5 + 6 * torch.rand((), generator=random)
        u = (at[None] * angle.cos() + at[:, None] * angle.sin()) * 2 * torch.pi / wave + phase
        v = (at[:, None] * angle.cos() - at[None] * angle.sin()) * 2 * torch.pi / wave
        if kind == 0 and number % 2:
            noise = torch.rand(1, 1, TILE // 4, TILE // 4, generator=random)
            tile = F.interpolate(noise, size=(TILE, TILE), mode="bicubic", align_corners=False)[0, 0]
        elif kind == 0:
            tile = 0.5 + 0.5 * u.sin()
        elif number % 2:
            tile = (4 * u.sin() * v.sin()).clamp(-1, 1) * 0.5 + 0.5
        else:
            tile = (4 * (u.cos() + v.cos() - 0.6)).clamp(-1, 1) * 0.5 + 0.5
        tiles.append(((tile - tile.min()) / (tile.max() - tile.min())).clamp(0, 1))
    return torch.stack(tiles)


def photo_textures(photos: Tensor) -> Tensor:
    """Turn the middle of photos uint8 [P, 3, side, side] into textures, float32 [P, TILE, TILE] from 0 to 1."""
    grey = F.interpolate(photos.float().mean(1, keepdim=True), size=(TILE, TILE), mode="area")[:, 0]
    low, high = (grey.flatten(1).quantile(share, 1)[:, None, None] for share in (0.05, 0.95))
    return ((grey - low) / (high - low).clamp(min=1)).clamp(0, 1)
