"""A stage: objects that move before a background under a camera, drawn as frames, and exactly how every pixel moved.

An object that leaves the world at one edge comes in at the other, and the background goes on as in mirrors, so that
no frame by itself tells how anything moves. The world is as large as the frame.

Shapes: B clips, K objects of a clip, F frames, S side of a frame in pixels, R patch rows and columns.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from motiontune.datasets.questions.shapes import (
    COLOURS,
    OUTLINES,
    distances,
    make_textures,
    photo_at,
    photo_textures,
    texture_at,
)


TEXTURE_SIDE = 56
"""Side of a frame over which a texture has its own size."""


@dataclass(frozen=True)
class Script:
    """What happens in B clips; all tensors on the CPU. Lengths are in sides of the frame.

    Args:
        centres: float32 [B, K, F, 2], of the objects in the world; not taken around its edges.
        angles: float32 [B, K, F], radians, positive turns right (clockwise).
        depths: float32 [B, K, F], octaves by which the surface is enlarged; all 0 where none comes closer.
        radii: float32 [B, K]; 0 where there is no object.
        shapes: int64 [B, K], into OUTLINES.
        colours: int64 [B, K], into COLOURS.
        textures: int64 [B, K], into the stage's.
        contrast: float32 [B, K], of the texture, from 0 to 1.
        shading: float32 [B, K], 0 for a flat object, 1 for a ball that is lit from one side.
        light: float32 [B, K], radians, where that light comes from.
        camera: float32 [B, F, 2], where it looks.
        zoom: float32 [B, F], 1 or more.
        grounds: int64 [B], into the stage's.
        crop: float32 [B, 4], of the background: size, offset (x, y), mirrored (1 or -1).
        tone: float32 [B, 2], of the background: contrast, brightness.
    """

    centres: Tensor
    angles: Tensor
    depths: Tensor
    radii: Tensor
    shapes: Tensor
    colours: Tensor
    textures: Tensor
    contrast: Tensor
    shading: Tensor
    light: Tensor
    camera: Tensor
    zoom: Tensor
    grounds: Tensor
    crop: Tensor
    tone: Tensor

    def __len__(self) -> int:
        return len(self.radii)

    def part(self, begin: int, end: int) -> "Script":
        """Some of the clips."""
        return Script(**{entry.name: getattr(self, entry.name)[begin:end] for entry in fields(self)})


class Motion(NamedTuple):
    """How the pixels of B clips move.

    Args:
        vectors: float32 [B, F, S, S, 2], pixels: since the previous frame, or to the next one.
        seen: bool [B, F, S, S], whether what the pixel shows is seen in that other frame, too.
        shown: int64 [B, F, S, S], which object the pixel shows, -1 for the background.
    """

    vectors: Tensor
    seen: Tensor
    shown: Tensor


class Stage:
    """Draws scripts.

    Args:
        photos: uint8 [P, side, side, 3], RGB, of backgrounds and for textures.
        side: S.
        device: where clips are drawn and stay.
    """

    def __init__(self, photos: Tensor, side: int, device: str | torch.device = "cpu") -> None:
        self.side, self.device = side, torch.device(device)
        self.grounds = photos.to(device).permute(0, 3, 1, 2)
        self.textures = torch.cat([make_textures(0), make_textures(1)]).to(device)
        if len(photos):
            self.textures = torch.cat([self.textures, photo_textures(self.grounds)])

    def draw(self, script: Script, behind: Tensor | None = None) -> Tensor:
        """Draw all frames, uint8 [B, F, S, S, 3] RGB.

        Args:
            script: what happens.
            behind: uint8 [B, F, S, S, 3], frames to draw on instead of a background.
        """
        image = self._ground(script) if behind is None else behind.to(self.device).float().permute(0, 1, 4, 2, 3)
        world = self._world(script)
        paint = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[script.colours].to(self.device)
        for k in range(script.radii.shape[1]):
            x, y = self._around(world, script.centres[:, k])
            own = _turned(x, y, -script.angles[:, k].to(self.device)) if script.angles[:, k].any() else (x, y)
            outside = self._outside(script, k, *own)
            cover = (0.5 - outside * script.zoom.to(self.device)[..., None, None]).clamp(0, 1)
            bright = 1 - self._put(script.contrast[:, k]) * (1 - self._texture(script, k, *own))
            if script.shading[:, k].any():
                light, radius = self._put(script.light[:, k]), self._put(script.radii[:, k] * self.side)
                lit = 0.5 + 0.5 * ((x * light.cos() + y * light.sin()) / radius.clamp(min=1)).clamp(-1, 1)
                bright = bright * (1 - self._put(script.shading[:, k]) * (0.85 - lit))
            surface = paint[:, None, k, :, None, None] * bright[:, :, None]
            image = image + cover[:, :, None] * (surface - image)
        return image.round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)

    def motion(self, script: Script, step: int = -1, known: Tensor | None = None) -> Motion:
        """Tell how each pixel moves.

        Args:
            script: what happens.
            step: -1: since the previous frame; 1: to the next one. Frames without one are nowhere seen in it.
            known: bool [B], whether the background's motion is known; not where a clip was drawn on a video.
        """
        count, objects, frames = script.centres.shape[:3]
        here = torch.arange(frames)
        there = (here + step).clamp(0, frames - 1)
        world = self._world(script)
        x, y = torch.broadcast_tensors(*world)
        moved_x, moved_y = torch.zeros_like(x), torch.zeros_like(y)
        shown = torch.full(x.shape, -1, device=self.device)
        inside = torch.ones_like(x, dtype=torch.bool)  # of the object's edge in the other frame
        for k in range(objects):
            away_x, away_y = self._around(world, script.centres[:, k])
            angles = script.angles[:, k].to(self.device)
            own = _turned(away_x, away_y, -angles)
            mine = self._outside(script, k, *own) <= 0
            octaves = script.depths[:, k].to(self.device)
            grown = torch.exp2(octaves[:, there] - octaves)[..., None, None]
            other = own[0] * grown, own[1] * grown
            to_x, to_y = _turned(*other, angles[:, there])
            shift = ((script.centres[:, k, there] - script.centres[:, k]) * self.side).to(self.device)
            moved_x = torch.where(mine, to_x - away_x + shift[..., :1, None], moved_x)
            moved_y = torch.where(mine, to_y - away_y + shift[..., 1:, None], moved_y)
            shown = torch.where(mine, k, shown)
            if script.depths[:, k].any():
                inside = torch.where(mine, self._outside(script, k, *other) <= 0, inside)
        other_x, other_y = x + moved_x, y + moved_y
        seen = inside if known is None else inside & (known.to(self.device)[:, None, None, None] | (shown >= 0))
        for k in range(objects):
            away_x, away_y = self._around((other_x, other_y), script.centres[:, k, there])
            own = _turned(away_x, away_y, -script.angles[:, k, there].to(self.device))
            seen = seen & ((shown >= k) | (self._outside(script, k, *own) > 0))
        half, at = self.side / 2, torch.arange(self.side, device=self.device) + 0.5
        look = (script.camera[:, there] * self.side).to(self.device)
        zoom = script.zoom[:, there].to(self.device)[..., None, None]
        image_x = (other_x - half - look[..., :1, None]) * zoom + half
        image_y = (other_y - half - look[..., 1:, None]) * zoom + half
        for image in (image_x, image_y):
            seen = seen & (image >= 0) & (image <= self.side)
        seen = seen & (there != here).to(self.device)[:, None, None]
        vectors = torch.stack([image_x - at, image_y - at[:, None]], -1) * step
        return Motion(torch.where(seen[..., None], vectors, 0.0), seen, shown)

    def _put(self, values: Tensor) -> Tensor:
        """Numbers of each clip [B], for pictures."""
        return values.to(self.device)[:, None, None, None]

    def _world(self, script: Script) -> tuple[Tensor, Tensor]:
        """Where in the world each pixel looks, in pixels: x [B, F, 1, S] and y [B, F, S, 1]."""
        at = torch.arange(self.side, device=self.device) + 0.5 - self.side / 2
        look = (script.camera * self.side).to(self.device) + self.side / 2
        near = at / script.zoom.to(self.device)[..., None]
        return (near + look[..., :1])[:, :, None, :], (near + look[..., 1:])[..., None]

    def _around(self, world: tuple[Tensor, Tensor], centres: Tensor) -> tuple[Tensor, Tensor]:
        """The way from a centre [B, F, 2] to points of the world, around its edges where that is shorter."""
        middle = (centres * self.side).to(self.device)
        half = self.side / 2
        x = (world[0] - middle[..., :1, None] + half).remainder(self.side) - half
        y = (world[1] - middle[..., 1:, None] + half).remainder(self.side) - half
        return x, y

    def _outside(self, script: Script, k: int, x: Tensor, y: Tensor) -> Tensor:
        radii = (script.radii[:, k] * self.side).to(self.device)
        outside = distances(x, y, radii, script.shapes[:, k], tuple(OUTLINES))
        return outside.masked_fill(self._put(script.radii[:, k]) == 0, self.side)

    def _texture(self, script: Script, k: int, x: Tensor, y: Tensor) -> Tensor:
        """The object's texture at its own points. Where it comes closer, it is one that looks alike at all depths."""
        tiles = self.textures[script.textures[:, k].to(self.device)]
        unit = TEXTURE_SIDE / self.side
        if not script.depths[:, k].any():
            return texture_at(tiles, x, y, unit)
        phase = script.depths[:, k].remainder(1).to(self.device)[..., None, None]
        total = torch.zeros((), device=self.device)
        for octave in (-1, 0, 1):  # weights of a cosine over three octaves: 1 in all, 0 where one comes or goes
            share = (1 + torch.cos(2 * torch.pi / 3 * (phase + octave - 0.5))) / 3
            near = torch.exp2(-phase - octave)
            total = total + share * texture_at(tiles, x * near, y * near, unit)
        return ((total - 0.5) * 1.6 + 0.5).clamp(0, 1)

    def _ground(self, script: Script) -> Tensor:
        """The background, float32 [B, F, 3, S, S]; once for all frames where the camera stands still."""
        still = not (script.camera - script.camera[:, :1]).any() and not (script.zoom - script.zoom[:, :1]).any()
        x, y = self._world(script)
        if still:
            x, y = x[:, :1], y[:, :1]
        size, offset, mirrored = (
            script.crop[:, part].to(self.device) for part in (slice(1), slice(1, 3), slice(3, 4))
        )
        size, mirrored = size[..., None, None], mirrored[..., None, None]
        columns = ((x / self.side * 2 - 1) * size + offset[:, :1, None, None]) * mirrored
        rows = (y / self.side * 2 - 1) * size + offset[:, 1:, None, None]
        columns, rows = torch.broadcast_tensors(columns, rows)
        photos = self.grounds[script.grounds.to(self.device)]
        pale = photo_at(photos, columns.flatten(1, 2), rows.flatten(1, 2), "reflection")
        tone = script.tone.to(self.device)
        pale = pale * tone[:, :1, None, None] + tone[:, 1:, None, None]
        ground: Tensor = pale.unflatten(2, (-1, self.side)).transpose(1, 2)
        return ground


def _turned(x: Tensor, y: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Points turned right by angles [B, F]."""
    cos, sin = angles.cos()[..., None, None], angles.sin()[..., None, None]
    return x * cos - y * sin, x * sin + y * cos


def patch_motion(motion: Motion, patch: int, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Give each patch the mean motion of what fills most of it.

    Args:
        motion: of the pixels.
        patch: its side in pixels.
        share: a patch is valid where at least so much of it shows that one thing, and shows it in both frames.

    Returns:
        float32 [B, F, R, R, 2] in pixels and bool [B, F, R, R].
    """

    def per_patch(values: Tensor) -> Tensor:
        return F.avg_pool2d(values.float(), patch)

    surfaces = torch.arange(-1, int(motion.shown.max()) + 1, device=motion.shown.device)
    filled = torch.stack([per_patch(motion.shown == surface) for surface in surfaces])
    most = surfaces[filled.argmax(0)]
    used = motion.seen & (motion.shown == most.repeat_interleave(patch, 2).repeat_interleave(patch, 3))
    part = per_patch(used)
    valid = part >= share
    means = torch.stack([per_patch(motion.vectors[..., axis] * used) for axis in (0, 1)], -1)
    return torch.where(valid[..., None], means / part.clamp(min=1e-6)[..., None], 0.0), valid
