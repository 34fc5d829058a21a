"""What is asked about motion, and scripts that answer it in no other way than by their motion.

Answers come in equal parts, wordings and the order of options by chance. Start, size, looks, background and camera are
drawn in the same way whatever the answer is, and the world has no edges (`stage.py`), so that a single frame, a
position or a text tells nothing.

Shapes: B clips, K objects of a clip, F frames.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motiontune.datasets.questions.shapes import COLOURS, OUTLINES, SHAPES, UNSEEN_SHAPES
from motiontune.datasets.questions.stage import Script


SPLITS = ("train", "in_domain", "ood_photos", "ood_objects", "ood_speeds", "real_backgrounds")
CAMERAS = ("still", "pan", "zoom", "shake")
WAYS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_HALF = math.sqrt(0.5)
COMPASS = {
    "north": (0.0, -1.0),
    "northeast": (_HALF, -_HALF),
    "east": (1.0, 0.0),
    "southeast": (_HALF, _HALF),
    "south": (0.0, 1.0),
    "southwest": (-_HALF, _HALF),
    "west": (-1.0, 0.0),
    "northwest": (-_HALF, -_HALF),
}
RADII = (0.16, 0.23)  # of the frame's side
LARGE_RADII = (0.26, 0.36)  # of what is looked at more closely
MOST_ZOOM = 1.15
TILT = 0.3  # radians at most, of what does not turn
SHAKE = 0.012  # standard deviation, of the frame's side
TURN = 5.0  # radians for each side of the frame that a moving object goes
APPROACH = 4.0  # octaves, likewise
FAST = (0.3, 1.7)  # what changes its speed goes from so much of its mean speed to so much
SEEN_TEXTURES = 32  # the stage has 32 of each kind, and those of the photos behind them

WORDINGS = {
    "which_way_4": (
        "Which way does the object move over the background: {}?",
        "Where does the object go, seen against the background: {}?",
        "In which direction does the object move: {}?",
    ),
    "which_way_8": (
        "With north at the top, which way does the object move over the background: {}?",
        "As on a map, where does the object go, seen against the background: {}?",
        "North is up. In which direction does the object move: {}?",
    ),
    "speed": (
        "Does the object get faster or slower? Answer {}.",
        "How does the speed of the object change: {}?",
        "Over time, does the object become {}?",
    ),
    "stops": (
        "What does the object's motion do: {}?",
        "After a while, what becomes of the object's motion: {}?",
        "How does the motion of the object end: {}?",
    ),
    "turns": (
        "Which way does the object turn: {}?",
        "How does the object rotate: {}?",
        "In which sense does the object spin: {}?",
    ),
    "which_of_two": (
        "Which object moves over the background: {}?",
        "One of the objects moves, one stays where it is. Which moves: {}?",
        "What colour is the object that moves: {}?",
    ),
    "towards_away": (
        "Seen through the opening, where does the surface go: {}?",
        "Which way does the surface behind the opening move: {}?",
        "Does what is seen through the opening come or go: {}?",
    ),
    "order": (
        "The object moves two ways, one after the other. Which comes first: {}?",
        "Where does the object go first: {}?",
        "Of its two motions, which does the object begin with: {}?",
    ),
    "noise_figure": (
        "Which shape moves in the noise: {}?",
        "A shape can be seen by its motion. Which one: {}?",
        "What is the outline of what moves: {}?",
    ),
    "caption": (
        "Explain the action happening the video.",
        "What happens in the video?",
        "Describe the motion in the video.",
    ),
    "colour": ("What colour is the object: {}?", "Which colour does the object have: {}?"),
    "shape": ("What shape is the object: {}?", "Which shape does the object have: {}?"),
}
TASKS = (*[task for task in WORDINGS if task not in ("colour", "shape")], "appearance")
SPEED, STOPS, TURNS, APPROACHES = (
    ("faster", "slower"),
    ("stops", "continues"),
    ("clockwise", "counterclockwise"),
    ("closer", "away"),
)
# Our own, in the manner of Something-Something's; what is in brackets is filled in.
CAPTIONS = {
    "move": ("{} gliding {}", "{} drifting {}", "{} going {} at an even pace"),
    "faster": ("{} moving {} faster and faster", "{} gaining speed on its way {}"),
    "slower": ("{} moving {} slower and slower", "{} losing speed on its way {}"),
    "halts": ("{} moving {} and then halting", "{} gliding {} until it rests"),
    "turns": ("{} spinning {}", "{} turning {} on the spot"),
    "rests": ("{} spinning {} and soon resting", "{} turning {}, then coming to rest"),
    "order": ("{} moving {} first and then {}", "{} going {}, after that {}"),
}


@dataclass(frozen=True)
class Question:
    """What is asked about one clip.

    Args:
        task: of TASKS, "appearance" as "colour" or "shape".
        text: the question with its options.
        options: the words that may answer it, in the order of the text; none of a caption.
        answer: the right one.
        template: of a caption, with what fills it in brackets.
        action: of a caption, of CAPTIONS.
    """

    task: str
    text: str
    options: tuple[str, ...]
    answer: str
    template: str = ""
    action: str = ""


@dataclass(frozen=True)
class World:
    """What clips are drawn of, and how they move.

    Args:
        frames: F, four or more.
        grounds: how many backgrounds there are in training.
        unseen_grounds: how many more there are behind these, for "ood_photos".
        photos: the first so many of the backgrounds give textures, too.
        speeds: of the frame's side per frame, from and to.
        cameras: which there are, of CAMERAS, in equal parts.
        plain: objects may be nearly plain, shaded like a ball, or have a photo for their texture.
    """

    frames: int
    grounds: int
    unseen_grounds: int = 0
    photos: int = 0
    speeds: tuple[float, float] = (0.03, 0.06)
    cameras: tuple[str, ...] = CAMERAS
    plain: bool = True

    @property
    def unseen_speeds(self) -> tuple[tuple[float, float], ...]:
        """Slower and faster ones."""
        low, high = self.speeds
        return (low * 0.47, low * 0.73), (high * 1.25, high * 1.5)


class Draw:
    """Chance, for B clips of a split: what tasks have in common.

    Args:
        count: B.
        split: of SPLITS.
        world: what there is.
        seed: of everything; the same one gives the same clips.
        name: of what is drawn, another one gives others.
    """

    def __init__(self, count: int, split: str, world: World, seed: int, name: str) -> None:
        self.count, self.split, self.world = count, split, world
        self.random = torch.Generator().manual_seed(zlib.crc32(f"{split} {name} {seed}".encode()))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw float32 [B, ...]."""
        return torch.rand(self.count, *shape, generator=self.random) * (high - low) + low

    def number(self, high: int, *shape: int) -> Tensor:
        """Draw int64 [B, ...] below a number."""
        return torch.randint(high, (self.count, *shape), generator=self.random)

    def balanced(self, high: int) -> Tensor:
        """Draw int64 [B] below a number, each as often, in random order."""
        return (torch.randperm(self.count, generator=self.random) + int(self.number(high)[0])) % high

    def pick(self, items: Sequence[str]) -> str:
        """Choose one."""
        return items[int(torch.randint(len(items), (1,), generator=self.random))]

    def shuffled(self, items: Sequence[str]) -> list[str]:
        """The items in random order."""
        return [items[k] for k in torch.randperm(len(items), generator=self.random)]

    def speed(self) -> Tensor:
        """Draw float32 [B], sides of the frame per frame."""
        ranges = torch.tensor(self.world.unseen_speeds if self.split == "ood_speeds" else [self.world.speeds])
        low, high = ranges[self.number(len(ranges))].unbind(1)
        return low + (high - low) * self.uniform(0, 1)

    def half_way(self) -> Tensor:
        """Draw int64 [B], a step in the middle third, of which and after which all is otherwise."""
        steps = self.world.frames - 1
        first, last = math.ceil(steps / 3), steps * 2 // 3
        return first + self.number(last - first + 1)

    def script(self, objects: int = 1, radii: tuple[float, float] = RADII, patterned: bool = False) -> Script:
        """Draw the looks of clips in which nothing moves but the camera.

        Args:
            objects: K.
            radii: of the frame's side, from and to.
            patterned: no surface is nearly plain: its own motion must be seen.
        """
        world, shape = self.world, (objects,)
        shapes = UNSEEN_SHAPES if self.split == "ood_objects" else SHAPES
        names = list(OUTLINES)
        numbers = torch.tensor([names.index(name) for name in shapes])
        colours = torch.stack(
            [torch.randperm(len(COLOURS), generator=self.random)[:objects] for _ in range(self.count)]
        )
        own = SEEN_TEXTURES + self.number(32, *shape) if self.split == "ood_objects" else self.number(32, *shape)
        photos = 2 * SEEN_TEXTURES + self.number(max(world.photos, 1), *shape)
        textured = self.uniform(0, 1, *shape)  # a third each: photos, textures, and nearly plain
        shaded = self.uniform(0, 1, *shape) < 0.25
        if not world.plain:
            textured, shaded = torch.full_like(textured, 0.5), torch.zeros_like(shaded)
        grounds = self.number(world.grounds)
        if self.split == "ood_photos":
            grounds = world.grounds + self.number(world.unseen_grounds)
        rest = self.uniform(0, 1, objects, 1, 2).expand(-1, -1, world.frames, -1).clone()
        camera, zoom = self._camera()
        return Script(
            centres=rest,
            angles=self.uniform(-TILT, TILT, objects, 1).expand(-1, -1, world.frames).clone(),
            depths=torch.zeros(self.count, objects, world.frames),
            radii=self.uniform(*radii, *shape),
            shapes=numbers[self.number(len(numbers), *shape)],
            colours=colours,
            textures=torch.where((textured < 1 / 3) & (world.photos > 0), photos, own),
            contrast=torch.where(
                (textured > 2 / 3) & (not patterned), self.uniform(0.2, 0.3, *shape), self.uniform(0.45, 0.6, *shape)
            ),
            shading=torch.where(shaded, self.uniform(0.6, 0.9, *shape), 0.0),
            light=self.uniform(-math.pi, math.pi, *shape),
            camera=camera,
            zoom=zoom,
            grounds=grounds,
            crop=torch.cat([self.uniform(0.35, 0.7, 1), self.uniform(-2, 2, 2), self.uniform(-1, 1, 1).sign()], 1),
            tone=torch.stack([self.uniform(0.4, 0.7), self.uniform(20, 70)], 1),
        )

    def _camera(self) -> tuple[Tensor, Tensor]:
        """Draw where the camera looks, float32 [B, F, 2], and its zoom, float32 [B, F]."""
        frames, world = self.world.frames, self.world
        kinds = ("still",) if self.split == "real_backgrounds" else world.cameras
        which = self.number(len(kinds))
        is_kind = {name: (which == k) if name in kinds else None for k, name in enumerate(kinds)}
        time = torch.arange(frames, dtype=torch.float32)
        camera, zoom = torch.zeros(self.count, frames, 2), torch.ones(self.count, frames)
        if (pans := is_kind.get("pan")) is not None:
            angle, speed = self.uniform(-math.pi, math.pi), self.uniform(*world.speeds)
            velocity = torch.stack([angle.cos(), angle.sin()], 1) * speed[:, None]
            camera = torch.where(pans[:, None, None], velocity[:, None] * time[None, :, None], camera)
        if (shakes := is_kind.get("shake")) is not None:
            jolts = torch.randn(self.count, frames, 2, generator=self.random) * SHAKE
            camera = torch.where(shakes[:, None, None], jolts, camera)
        if (zooms := is_kind.get("zoom")) is not None:
            grown = self.uniform(1.05, MOST_ZOOM)[:, None] ** (time / (frames - 1))
            grown = torch.where(self.uniform(0, 1)[:, None] < 0.5, grown, grown.flip(1))
            zoom = torch.where(zooms[:, None], grown, zoom)
        return camera, zoom


def ask(draw: Draw, task: str, options: Sequence[str], answer: str) -> Question:
    """Ask one question; wording and order of the options are random."""
    shuffled = draw.shuffled(options)
    listed = ", ".join(shuffled[:-1]) + " or " + shuffled[-1]
    return Question(task, draw.pick(WORDINGS[task]).format(listed), tuple(shuffled), answer)


Made = tuple[Script, list[Question]]


def _along(script: Script, ways: Tensor, steps: Tensor, k: int = 0) -> Script:
    """Let object k go: ways float32 [B, 2] or [B, F - 1, 2], steps float32 [B, F - 1]."""
    if ways.ndim == 2:
        ways = ways[:, None]
    path = torch.nn.functional.pad((ways * steps[..., None]).cumsum(1), (0, 0, 1, 0))
    centres = script.centres.clone()
    centres[:, k] += path
    return replace(script, centres=centres)


def _turning(draw: Draw, script: Script, steps: Tensor, turns: Tensor | None = None) -> Script:
    """Let objects turn from any angle by steps float32 [B, F - 1], radians: all, or where bool [B] is set."""
    angles = script.angles.clone()
    begin = draw.uniform(-math.pi, math.pi, 1)
    begin = begin if turns is None else torch.where(turns[:, None], begin, angles[:, 0, :1])
    angles[:, 0] = begin + torch.nn.functional.pad(steps.cumsum(1), (1, 0))
    return replace(script, angles=angles)


def _even(draw: Draw) -> Tensor:
    """Steps of one length in each clip, float32 [B, F - 1]."""
    return draw.speed()[:, None].expand(-1, draw.world.frames - 1)


def _change(draw: Draw, faster: Tensor) -> Tensor:
    """Factors that grow where `faster`, bool [B], and else fall: the same from their end; float32 [B, F - 1]."""
    change = torch.linspace(*FAST, draw.world.frames - 1)
    return torch.where(faster[:, None], change, change.flip(0))


def _until(draw: Draw, stops: Tensor) -> Tensor:
    """1 while something goes on, else 0, float32 [B, F - 1]."""
    moment = draw.half_way()[:, None]
    return ((torch.arange(draw.world.frames - 1) < moment) | ~stops[:, None]).float()


def _which_way(draw: Draw, task: str) -> Made:
    words = WAYS if task == "which_way_4" else COMPASS
    ways = draw.balanced(len(words))
    script = _along(draw.script(), torch.tensor(list(words.values()))[ways], _even(draw))
    return script, [ask(draw, task, list(words), list(words)[way]) for way in ways.tolist()]


def _somewhere(draw: Draw) -> Tensor:
    """Ways at any angle, float32 [B, 2]."""
    angle = draw.uniform(-math.pi, math.pi)
    return torch.stack([angle.cos(), angle.sin()], 1)


def _speed(draw: Draw, task: str) -> Made:
    faster = draw.balanced(2) == 0
    script = _along(draw.script(), _somewhere(draw), _even(draw) * _change(draw, faster))
    return script, [ask(draw, task, SPEED, SPEED[not one]) for one in faster.tolist()]


def _stops(draw: Draw, task: str) -> Made:
    """Half of the objects move, half turn."""
    stops = draw.balanced(2) == 0
    turns, going = draw.number(2)[:, None] == 0, _until(draw, stops)
    script = _along(draw.script(patterned=True), _somewhere(draw), _even(draw) * going * ~turns)
    steps = _even(draw) * TURN * going * turns * _sense(draw.number(2))
    script = _turning(draw, script, steps, turns[:, 0])
    return script, [ask(draw, task, STOPS, STOPS[not one]) for one in stops.tolist()]


def _sense(number: Tensor) -> Tensor:
    """1 for number 0 (clockwise), -1 for 1, float32 [B, 1]."""
    return 1.0 - 2.0 * number[:, None]


def _turns(draw: Draw, task: str) -> Made:
    sense = draw.balanced(2)
    script = _turning(draw, draw.script(radii=LARGE_RADII, patterned=True), _even(draw) * TURN * _sense(sense))
    return script, [ask(draw, task, TURNS, TURNS[one]) for one in sense.tolist()]


def _which_of_two(draw: Draw, task: str) -> Made:
    """Which object is in front is left to chance, too: the second one always is, and either may move."""
    first = draw.balanced(2) == 0
    script, ways, steps = draw.script(objects=2), _somewhere(draw), _even(draw)
    script = _along(script, ways, steps * first[:, None], 0)
    script = _along(script, ways, steps * ~first[:, None], 1)
    questions = []
    for colours, one in zip(script.colours.tolist(), first.tolist(), strict=True):
        names = [list(COLOURS)[colour] for colour in colours]
        questions.append(ask(draw, task, names, names[not one]))
    return script, questions


def _towards_away(draw: Draw, task: str) -> Made:
    """The opening keeps its size, and the surface looks alike at all depths: else its size would tell."""
    sense = draw.balanced(2)
    steps = _even(draw) * APPROACH * _sense(sense)
    depths = draw.uniform(0, 1)[:, None] + torch.nn.functional.pad(steps.cumsum(1), (1, 0))
    script = replace(draw.script(radii=LARGE_RADII, patterned=True), depths=depths[:, None])
    return script, [ask(draw, task, APPROACHES, APPROACHES[one]) for one in sense.tolist()]


def _order(draw: Draw, task: str) -> Made:
    """Two different ways, one after the other; the question names both."""
    words, script, ways = list(WAYS), *_two_ways(draw)
    named = [(words[one], words[other]) for one, other in ways.tolist()]
    return script, [ask(draw, task, pair, pair[0]) for pair in named]


def _two_ways(draw: Draw) -> tuple[Script, Tensor]:
    """Scripts, and the first and second way int64 [B, 2], into WAYS."""
    first = draw.balanced(4)
    ways = torch.stack([first, (first + 1 + draw.number(3)) % 4], 1)
    later = torch.arange(draw.world.frames - 1) >= draw.half_way()[:, None]
    vectors = torch.tensor(list(WAYS.values()))[ways.gather(1, later.long())]
    return _along(draw.script(patterned=True), vectors, _even(draw)), ways


def _caption(draw: Draw, task: str) -> Made:
    """One of CAPTIONS' actions in each clip, in equal parts; all objects are drawn from the same looks."""
    actions = [list(CAPTIONS)[k] for k in draw.balanced(len(CAPTIONS)).tolist()]

    def are(*names: str) -> Tensor:
        return torch.tensor([action in names for action in actions])

    script, ways = _two_ways(draw)
    walk = torch.diff(script.centres[:, 0], dim=1)
    straight = torch.tensor(list(WAYS.values()))[ways[:, 0]][:, None] * _even(draw)[..., None]
    walk = torch.where(are("order")[:, None, None], walk, straight)
    paces = torch.where(are("faster", "slower")[:, None], _change(draw, are("faster")), 1.0)
    going = _until(draw, are("halts", "rests")) * paces
    spins, sense = are("turns", "rests"), draw.number(2)
    walk = walk * (going * ~spins[:, None])[..., None]
    script = replace(script, centres=script.centres[:, :, :1].expand_as(script.centres).clone())
    script = _along(script, walk, torch.ones(walk.shape[:2]))
    steps = _even(draw) * TURN * going * spins[:, None] * _sense(sense)
    script = _turning(draw, script, steps)  # all from any angle: else it would tell what turns
    questions, words = [], list(WAYS)
    for row, action in enumerate(actions):
        form = draw.pick(CAPTIONS[action])
        shape, colour = list(OUTLINES)[script.shapes[row, 0]], list(COLOURS)[script.colours[row, 0]]
        named = {"turns": [TURNS[sense[row]]], "rests": [TURNS[sense[row]]]}.get(action, [words[ways[row, 0]]])
        named += [words[ways[row, 1]]] * (action == "order")
        # the way belongs to the template, as in Something-Something
        template, answer = form.format("[Something]", *named), form.format(name_thing(colour, shape), *named)
        questions.append(Question(task, draw.pick(WORDINGS[task]), (), answer, template, action))
    return script, questions


def name_thing(colour: str, shape: str) -> str:
    """Name an object at the beginning of a caption: "An orange ring"."""
    return f"{'An' if colour[0] in 'aeiou' else 'A'} {colour} {shape}"


def _appearance(draw: Draw, task: str) -> Made:
    """Colour and shape in clips as in which_way_4; no word is taught for an unseen shape."""
    script, _ = _which_way(draw, "which_way_4")
    return script, [_look(draw, script, row) for row in range(draw.count)]


def _look(draw: Draw, script: Script, row: int) -> Question:
    shape, colour = list(OUTLINES)[script.shapes[row, 0]], list(COLOURS)[script.colours[row, 0]]
    if shape in SHAPES and draw.pick(("colour", "shape")) == "shape":
        return ask(draw, "shape", [shape, *draw.shuffled([s for s in SHAPES if s != shape])[:3]], shape)
    return ask(draw, "colour", [colour, *draw.shuffled([c for c in COLOURS if c != colour])[:3]], colour)


def _stills(draw: Draw, task: str) -> Made:
    """Colour and shape in clips of which nothing moves."""
    script = draw.script()
    return script, [_look(draw, script, row) for row in range(draw.count)]


_MAKE: dict[str, Callable[[Draw, str], Made]] = {
    "which_way_4": _which_way,
    "which_way_8": _which_way,
    "speed": _speed,
    "stops": _stops,
    "turns": _turns,
    "which_of_two": _which_of_two,
    "towards_away": _towards_away,
    "order": _order,
    "caption": _caption,
    "appearance": _appearance,
    "stills": _stills,
}


def make_scripts(task: str, count: int, split: str, world: World, seed: int) -> Made:
    """Make clips of one task and a question about each; the same arguments give the same ones.

    Args:
        task: of TASKS but "noise_figure" (`noise.py`), or "stills": what the objects look like, and nothing moves.
        count: B.
        split: of SPLITS.
        world: what there is.
        seed: of everything random.
    """
    return _MAKE[task](Draw(count, split, world, seed, task), task)
