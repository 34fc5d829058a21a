"""Figures that are seen by their motion alone: noise that moves before noise.

Each frame by itself is noise, cell by cell independent: figure and background move by whole cells, and the figure's
edge goes along cells.

Shapes: B clips, F frames, N cells along a side of a frame, S its pixels.
"""

import torch
from torch import Tensor

from motiontune.datasets.questions.shapes import OUTLINES, SHAPES
from motiontune.datasets.questions.stage import Motion
from motiontune.datasets.questions.tasks import COMPASS, Draw, Question, World, ask


CELLS = 56
LEVELS = (70, 185)  # grey values of the noise
NOISE_RADII = (0.2, 0.28)
SPEEDS, UNSEEN_SPEEDS = (1, 2), (3,)  # cells per frame
_STEPS = [(round(x * 1.4), round(y * 1.4)) for x, y in COMPASS.values()]  # cells, to the sides and askew


def make_noise(
    count: int, split: str, world: World, seed: int, side: int
) -> tuple[Tensor, Motion, Motion, list[Question]]:
    """Make clips of noise, and a question about each.

    Args:
        count: B.
        split: of SPLITS; "ood_objects" has other shapes, and no word for them, so it is none of them.
        world: its frames and cameras count: one that pans moves the background.
        seed: of everything random.
        side: S.

    Returns:
        Frames uint8 [B, F, S, S, 3], motion since the previous frame and to the next one, and the questions.
    """
    draw, frames = Draw(count, split, world, seed, "noise_figure"), world.frames
    cells = min(CELLS, side // 2)
    names = list(SHAPES)
    shapes = draw.balanced(len(names))
    speeds = torch.tensor(UNSEEN_SPEEDS if split == "ood_speeds" else SPEEDS)
    own = torch.tensor(_STEPS)[draw.number(len(_STEPS))] * speeds[draw.number(len(speeds))][:, None]
    pans = draw.number(2) * ("pan" in world.cameras)
    ground = torch.tensor(_STEPS)[draw.number(len(_STEPS))] * pans[:, None]
    ground = torch.where((ground == own).all(1, keepdim=True), 0, ground)  # else nothing would tell the figure
    start = draw.number(cells, 2)
    radii = draw.uniform(*NOISE_RADII) * cells
    noise = draw.number(2, 2, cells, cells)  # of the background and of the figure

    time = torch.arange(frames)[:, None]
    at = torch.arange(cells)
    moved = [(velocity[:, None] * time) for velocity in (ground, own)]  # [B, F, 2]
    rows = [(at - m[..., 1:]) % cells for m in moved]  # [B, F, N]
    columns = [(at - m[..., :1]) % cells for m in moved]
    which = torch.arange(count)[:, None, None, None]
    pictures = [noise[which, k, rows[k][..., :, None], columns[k][..., None, :]] for k in (0, 1)]
    figure = torch.stack([_figure(names[s], r, cells) for s, r in zip(shapes.tolist(), radii.tolist(), strict=True)])
    mask = figure[which[..., 0, 0][..., None, None], (rows[1] - start[:, None, 1:])[..., :, None] % cells,
                  (columns[1] - start[:, None, :1])[..., None, :] % cells]  # fmt: skip
    shades = torch.tensor(LEVELS, dtype=torch.uint8)[torch.where(mask, pictures[1], pictures[0])]
    pixel = torch.arange(side) * cells // side
    image = shades[:, :, pixel][..., pixel]
    shown = mask[:, :, pixel][..., pixel].long() - 1
    unit = side / cells
    velocities = torch.stack([ground, own], 1).float() * unit
    motions = [_motion(velocities, mask, shown, pixel, moved, side, step) for step in (-1, 1)]
    questions = []
    for shape in shapes.tolist():
        others = draw.shuffled([name for name in names if name != names[shape]])[:3]
        questions.append(ask(draw, "noise_figure", [names[shape], *others], names[shape]))
    return image[..., None].expand(-1, -1, -1, -1, 3).contiguous(), motions[0], motions[1], questions


def _figure(shape: str, radius: float, cells: int) -> Tensor:
    """Bool [N, N], the shape about the first cell, around the edges."""
    at = (torch.arange(cells) + cells // 2) % cells - cells // 2 + 0.0
    return OUTLINES[shape](at[None], at[:, None], torch.tensor(radius)) <= 0


def _motion(
    velocities: Tensor, mask: Tensor, shown: Tensor, pixel: Tensor, moved: list[Tensor], side: int, step: int
) -> Motion:
    """The motion of each pixel, and where it is seen in the other frame, too."""
    count, frames, cells = mask.shape[:3]
    vectors = torch.where((shown >= 0)[..., None], velocities[:, 1, None, None, None], velocities[:, 0, None, None, None])
    at = torch.arange(side) + 0.5
    goes = vectors * step
    x, y = at + goes[..., 0], at[:, None] + goes[..., 1]
    seen = (x >= 0) & (x <= side) & (y >= 0) & (y <= side)
    there = (torch.arange(frames) + step).clamp(0, frames - 1)
    column = (x * cells / side).long().clamp(0, cells - 1)
    row = (y * cells / side).long().clamp(0, cells - 1)
    clip = torch.arange(count)[:, None, None, None]
    hidden = mask[clip, there[:, None, None], row, column] & (shown < 0)
    seen = seen & ~hidden & (there != torch.arange(frames))[:, None, None]
    return Motion(torch.where(seen[..., None], vectors, 0.0), seen, shown)
