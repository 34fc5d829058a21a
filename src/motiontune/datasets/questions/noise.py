"""Figures that are seen by their motion alone: noise that moves before noise.

Each frame by itself is noise, cell by cell independent: figure and background move by whole cells, and the figure's
edge goes along cells.

Shapes: B clips, F frames, N cells along a side of a frame.
"""

import torch
from torch import Tensor

from motiontune.datasets.questions.shapes import OUTLINES, SHAPES
from motiontune.datasets.questions.stage import Motion
from motiontune.datasets.questions.tasks import COMPASS, Draw, Question, World, ask


LEVELS = (70, 185)  # grey values of the noise
NOISE_RADII = (0.2, 0.28)  # of the frame's side
SPEEDS, UNSEEN_SPEEDS = (1, 2), (3,)  # cells per frame
_STEPS = [(round(x * 1.4), round(y * 1.4)) for x, y in COMPASS.values()]  # cells, to the sides and askew


def make_noise(
    count: int, split: str, world: World, seed: int, cells: int
) -> tuple[Tensor, tuple[Motion, Motion], list[Question]]:
    """Make clips of noise, and a question about each.

    Args:
        count: B.
        split: of SPLITS; none of "ood_objects" (no word is taught for its shapes) and "real_backgrounds".
        world: its frames and cameras count: one that pans moves the background.
        seed: of everything random.
        cells: N.

    Returns:
        Frames uint8 [B, F, N, N, 3], a pixel for each cell; motion in cells since the previous frame and to the next
        one; and the questions.
    """
    draw, frames = Draw(count, split, world, seed, "noise_figure"), world.frames
    shapes = draw.balanced(len(SHAPES))
    speeds = torch.tensor(UNSEEN_SPEEDS if split == "ood_speeds" else SPEEDS)
    own = torch.tensor(_STEPS)[draw.number(len(_STEPS))] * speeds[draw.number(len(speeds))][:, None]
    pans = draw.number(2) * ("pan" in world.cameras)
    ground = torch.tensor(_STEPS)[draw.number(len(_STEPS))] * pans[:, None]
    ground = torch.where((ground == own).all(1, keepdim=True), 0, ground)  # else nothing would tell the figure
    start, radii = draw.number(cells, 2), draw.uniform(*NOISE_RADII) * cells
    noise = draw.number(2, 2, cells, cells)  # of the background and of the figure

    clip = torch.arange(count)[:, None, None, None]
    time, at = torch.arange(frames)[:, None], torch.arange(cells)

    def place(velocity: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Row [B, F, N, 1] and column [B, F, 1, N] of what each cell shows, in a picture that moves."""
        come = origin[:, None] + velocity[:, None] * time
        return (at - come[..., 1:])[..., None] % cells, (at - come[..., :1])[..., None, :] % cells

    origin = torch.zeros_like(start)
    behind, before = noise[clip, 0, *place(ground, origin)], noise[clip, 1, *place(own, origin)]
    figures = torch.stack([_figure(SHAPES[s], r, cells) for s, r in zip(shapes.tolist(), radii.tolist(), strict=True)])
    mask = figures[clip, *place(own, start)]
    image = torch.tensor(LEVELS, dtype=torch.uint8)[torch.where(mask, before, behind)]
    velocities = torch.where(mask[..., None], own[:, None, None, None], ground[:, None, None, None]).float()
    motions = _motion(velocities, mask, -1), _motion(velocities, mask, 1)
    questions = []
    for shape in shapes.tolist():
        others = draw.shuffled([name for name in SHAPES if name != SHAPES[shape]])[:3]
        questions.append(ask(draw, "noise_figure", [SHAPES[shape], *others], SHAPES[shape]))
    return image[..., None].expand(-1, -1, -1, -1, 3).contiguous(), motions, questions


def _figure(shape: str, radius: float, cells: int) -> Tensor:
    """Bool [N, N], the shape about the first cell, around the edges."""
    at = (torch.arange(cells) + cells // 2) % cells - cells // 2 + 0.0
    return OUTLINES[shape](at[None], at[:, None], torch.tensor(radius)) <= 0


def _motion(velocities: Tensor, mask: Tensor, step: int) -> Motion:
    """The motion of each cell, and where it is seen in the other frame, too."""
    count, frames, cells = mask.shape[:3]
    at = torch.arange(cells)
    column, row = at + velocities[..., 0].long() * step, at[:, None] + velocities[..., 1].long() * step
    seen = (column >= 0) & (column < cells) & (row >= 0) & (row < cells)
    there = (torch.arange(frames) + step).clamp(0, frames - 1)
    clip = torch.arange(count)[:, None, None, None]
    covered = mask[clip, there[:, None, None], row.clamp(0, cells - 1), column.clamp(0, cells - 1)]
    seen = seen & (mask | ~covered) & (there != torch.arange(frames))[:, None, None]
    return Motion(torch.where(seen[..., None], velocities, 0.0), seen, mask.long() - 1)
