"""Clips whose motion is known exactly, with a question about each, rendered in batches where they are needed.

A textured object moves over a part of a photo that stands still, in one of four directions, or stands still itself.
It leaves the frame at one edge and comes in at the other, and starts anywhere, so that no single frame tells where it
goes.

Shapes: B clips, F frames, S side of a frame in pixels, R = S / 14 patch rows and columns.
"""

import itertools
import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from motiontune.datasets.questions.shapes import COLOURS, distances, make_textures, photo_at, texture_at


PATCH = 14
SHAPES = ("circle", "square", "triangle", "diamond")
UNSEEN_SHAPES = ("ring", "cross")
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "nowhere": (0, 0)}
PLACES = {"left": (0.25, 0.5), "right": (0.75, 0.5), "top": (0.5, 0.25), "bottom": (0.5, 0.75), "middle": (0.5, 0.5)}
SPLITS = ("in_domain", "unseen_photos", "unseen_objects", "unseen_speeds")

SPEEDS = ((0.03, 0.06),)  # of the frame's side, per frame
UNSEEN_SPEEDS = ((0.014, 0.022), (0.075, 0.09))
RADII = (0.16, 0.23)  # of the frame's side
STILL_SHARE = 0.25

WHICH_WAY = (
    "Which way does the object move: {}?",
    "Where does the object go: {}?",
    "In which direction does it move: {}?",
)
COLOUR = ("What colour is the object: {}?", "Which colour does it have: {}?")
SHAPE = ("What shape is the object: {}?", "Which shape does it have: {}?")
PLACE = ("Where is the object: {}?",)


@dataclass(frozen=True)
class Question:
    """What is asked about one clip.

    Args:
        task: "which_way", "colour", "shape" or "place".
        text: the question with its options.
        options: the words that may answer it, in the order of the text.
        answer: number of the right option.
    """

    task: str
    text: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Clips:
    """A batch of clips.

    Args:
        frames: uint8 [B, F, S, S, 3], RGB.
        vectors: float32 [B, F, R, R, 2], pixels since the previous frame, of each patch.
        valid: bool [B, F, R, R]; false in the first frame and where a patch is partly the object.
        ahead: as `vectors`, but to the next frame.
        ahead_valid: of `ahead`; false in the last frame.
        ways: int64 [B], into `WAYS`.
        colours: int64 [B], into `COLOURS`.
        shapes: int64 [B], into `SHAPES` and, behind them, `UNSEEN_SHAPES`.
        places: int64 [B], into `PLACES`; of clips of "stills".
        questions: B of them, or none.
    """

    frames: Tensor
    vectors: Tensor
    valid: Tensor
    ahead: Tensor
    ahead_valid: Tensor
    ways: Tensor
    colours: Tensor
    shapes: Tensor
    places: Tensor
    questions: list[Question]


class Studio:
    """Renders clips.

    Args:
        photos: uint8 [P, side, side, 3], RGB.
        unseen: the last so many photos are kept for the split `unseen_photos`.
        side: S, a multiple of 28.
        frames: F, even.
        device: where clips are rendered and stay.
    """

    def __init__(self, photos: Tensor, unseen: int, side: int, frames: int, device: str | torch.device) -> None:
        self.photos = photos.to(device).permute(0, 3, 1, 2)
        self.seen_photos = len(photos) - unseen
        self.side, self.frames, self.device = side, frames, device
        self.textures = make_textures(0).to(device)
        self.unseen_textures = make_textures(1).to(device)

    def render(
        self, count: int, split: str, task: str, seed: int, frames: int | None = None, asked: bool = True
    ) -> Clips:
        """Make clips; the same arguments give the same ones.

        Args:
            count: B.
            split: one of `SPLITS`.
            task: "which_way"; "appearance" (of clips as in which_way); "mixed" (3 of 4 are asked which way); "stills"
                (appearance and place in clips that all stand still).
            seed: of everything random.
            frames: F, where not the studio's.
            asked: with questions.
        """
        length = frames or self.frames
        random = torch.Generator().manual_seed(zlib.crc32(f"{split} {task} {seed}".encode()))

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=random) * (high - low) + low

        def number(high: int) -> Tensor:
            return torch.randint(high, (count,), generator=random)

        still = torch.rand(count, generator=random) < (1.0 if task == "stills" else STILL_SHARE)
        ways = torch.where(still, list(WAYS).index("nowhere"), number(4))
        ranges = torch.tensor(UNSEEN_SPEEDS if split == "unseen_speeds" else SPEEDS)
        low, high = ranges[number(len(ranges))].unbind(1)
        speed = (low + (high - low) * torch.rand(count, generator=random)) * self.side
        velocity = torch.tensor(list(WAYS.values()))[ways] * speed[:, None]
        places = number(len(PLACES))
        near = torch.tensor(list(PLACES.values()))[places] + uniform(-0.07, 0.07, 2)
        begin = (near if task == "stills" else uniform(0, 1, 2)) * self.side
        colours, radius = number(len(COLOURS)), uniform(*RADII) * self.side
        shapes = number(len(SHAPES)) if split != "unseen_objects" else len(SHAPES) + number(len(UNSEEN_SHAPES))
        textures = number(len(self.textures))
        photos = number(self.seen_photos)
        if split == "unseen_photos":
            photos = self.seen_photos + number(len(self.photos) - self.seen_photos)
        crop = torch.cat([uniform(0.35, 1.0, 1), uniform(-1, 1, 2), uniform(-1, 1, 1).sign()], 1)
        light = torch.stack([uniform(0.4, 0.7), uniform(20, 70)], 1)

        questions = []
        for k in range(count if asked else 0):
            one = _ask(task, k, int(ways[k]), int(colours[k]), int(shapes[k]), int(places[k]), random)
            questions.append(one)

        move = [begin.to(self.device), velocity.to(self.device), shapes, radius.to(self.device)]
        tile = (self.unseen_textures if split == "unseen_objects" else self.textures)[textures.to(self.device)]
        paint = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[colours].to(self.device)
        ground = self._background(photos.to(self.device), crop.to(self.device), light.to(self.device))
        cover, texture = self._object(*move, tile, length)
        object_ = paint[:, None, :, None, None] * (0.55 + 0.45 * texture[:, :, None])
        image = ground[:, None] + cover[:, :, None] * (object_ - ground[:, None])
        frames_ = image.round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
        share = F.avg_pool2d(cover, PATCH)
        moved = move[1][:, None, None, None, :].expand(*share.shape, 2)
        vectors = torch.where((share > 0.5)[..., None], moved, 0.0)
        # of a patch that is part object, part ground no single vector is right
        valid = (share > 0.5) | (share < 0.02) | still.to(self.device)[:, None, None, None]
        past, ahead = valid.clone(), valid.clone()
        past[:, 0], ahead[:, -1] = False, False
        fields = [(torch.where(some[..., None], vectors, 0.0), some) for some in (past, ahead)]
        return Clips(frames_, *fields[0], *fields[1], ways, colours, shapes, places, questions)

    def _background(self, photos: Tensor, crop: Tensor, light: Tensor) -> Tensor:
        """Cut a part of each photo, float32 [B, 3, S, S], paler and greyer than it was."""
        at = (torch.arange(self.side, device=self.device) + 0.5) / self.side * 2 - 1
        size, offset, flip = crop[:, 0, None], crop[:, 1:3] * (1 - crop[:, :1]), crop[:, 3, None]
        x = (at[None] * size + offset[:, :1]) * flip
        y = at[None] * size + offset[:, 1:]
        columns, rows = x[:, None].expand(-1, self.side, -1), y[:, :, None].expand(-1, -1, self.side)
        pale = photo_at(self.photos[photos], columns, rows, "border")
        return pale * light[:, :1, None, None] + light[:, 1:, None, None]

    def _object(
        self, begin: Tensor, velocity: Tensor, shapes: Tensor, radius: Tensor, tile: Tensor, frames: int
    ) -> tuple[Tensor, Tensor]:
        """Draw the object: how much of each pixel it covers, and its texture, float32 [B, F, S, S] from 0 to 1."""
        time = torch.arange(frames, device=self.device)
        centre = begin[:, None] + velocity[:, None] * time[None, :, None]
        at = torch.arange(self.side, device=self.device) + 0.5
        half = self.side / 2
        x = (at - centre[..., :1] + half).remainder(self.side) - half  # [B, F, S], around the edge
        y = (at - centre[..., 1:] + half).remainder(self.side) - half
        x, y = x[:, :, None, :], y[..., None]
        distance = distances(x, y, radius, shapes, SHAPES + UNSEEN_SHAPES)
        return (0.5 - distance).clamp(0, 1), texture_at(tile, x, y)


def _ask(task: str, row: int, way: int, colour: int, shape: int, place: int, random: torch.Generator) -> Question:
    """Ask one question; wording and order of the options are random."""

    def pick(count: int) -> int:
        return int(torch.randint(count, (1,), generator=random))

    if task == "mixed":
        task = "appearance" if row % 4 == 3 else "which_way"
    if task in ("appearance", "stills"):
        about = ["colour", "shape"][: 1 if shape >= len(SHAPES) else 2] + (["place"] if task == "stills" else [])
        task = about[pick(len(about))]
    if task == "which_way":
        wordings, options, right = WHICH_WAY, list(WAYS), list(WAYS)[way]
    elif task == "colour":
        right = list(COLOURS)[colour]
        others = [name for name in COLOURS if name != right]
        options = [right] + [others[k] for k in torch.randperm(len(others), generator=random)[:3]]
        wordings = COLOUR
    elif task == "shape":
        wordings, options, right = SHAPE, list(SHAPES), SHAPES[shape]
    else:
        wordings, options, right = PLACE, list(PLACES), list(PLACES)[place]
    options = [options[k] for k in torch.randperm(len(options), generator=random)]
    listed = ", ".join(options[:-1]) + " or " + options[-1]
    return Question(task, wordings[pick(len(wordings))].format(listed), tuple(options), options.index(right))


def every_question() -> list[Question]:
    """List all questions about clips of shapes that are seen in training, each with each of its answers."""
    asked = [
        ("which_way", WHICH_WAY, list(itertools.permutations(WAYS))),
        ("colour", COLOUR, list(itertools.permutations(COLOURS, 4))),
        ("shape", SHAPE, list(itertools.permutations(SHAPES))),
        ("place", PLACE, list(itertools.permutations(PLACES))),
    ]
    questions = []
    for task, wordings, orders in asked:
        for wording, options in itertools.product(wordings, orders):
            text = wording.format(", ".join(options[:-1]) + " or " + options[-1])
            questions += [Question(task, text, options, answer) for answer in range(len(options))]
    return questions
