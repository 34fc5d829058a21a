"""Stories: what happens in a scene, and its caption; a data set of such clips, made from nothing."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from motiontune.datasets.dataset_info import PROMPT, claim_dataset, make_sample, write_dataset
from motiontune.datasets.encoding import ENCODERS, encode
from motiontune.datasets.scenes import SHAPES, Scene, Sprite, draw, scene_file
from motiontune.errors import ConfigError


ACTIONS = ("move", "stop", "speed_up", "turn", "spin", "still", "cross")

_MARGIN = 0.9  # centres keep this many radii from the frame's edge
_DIRECTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up and left": (-math.sqrt(0.5), -math.sqrt(0.5)),
    "up and right": (math.sqrt(0.5), -math.sqrt(0.5)),
    "down and left": (-math.sqrt(0.5), math.sqrt(0.5)),
    "down and right": (math.sqrt(0.5), math.sqrt(0.5)),
}
_STRAIGHT = ("left", "right", "up", "down")
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

# In frame crossings per clip: the two never overlap, and the quick one is only held as long as the frame is wide.
_SLOW, _QUICK, _SPRINT = (0.3, 0.45), (0.8, 0.95), (1.1, 1.5)
_TURNS = {"slowly": (0.25, 0.4), "quickly": (0.7, 1.0)}  # full turns per clip


def write_synthetic(
    out_dir: str | Path,
    *,
    clips: int,
    seed: int,
    name: str,
    size: int = 56,
    fps: int = 16,
    seconds: float = 1.0,
    codec: str = "libx264",
    actions: Sequence[str] = ACTIONS,
    prompt: str = PROMPT,
) -> Path:
    """Write a data set in LLaMA-Factory's layout: clips, captions, and each clip's scene beside it.

    Clip i depends on the seed and i alone. Sampled at 8 frames per second, a slow shape of the default size moves
    1.5 to 2.2 pixels from frame to frame, a quick one 4 to 7.

    Args:
        out_dir: becomes the `dataset_dir`. Data sets that are in it stay.
        clips: how many.
        seed: of everything; use another one for held-out clips.
        name: of the data set, and of the folder with its clips.
        size: side of the square frames in pixels, even.
        fps: encoded frames per second.
        seconds: length of a clip.
        codec: "libx264" and "mpeg4" (mp4, with vectors in the bitstream), or "libvpx-vp9" (WebM, without).
        actions: what happens, in equal parts; some of ACTIONS.
        prompt: the question; `<video>` is put before it where it isn't in it.

    Returns:
        The JSON file with the samples. Each has its `id` and `action` as extra columns.

    Raises:
        ConfigError: on an unknown codec or action, or a clip too small or too short for anything to move.
    """
    if codec not in ENCODERS:
        raise ConfigError(f"codec must be one of {', '.join(ENCODERS)}, not {codec!r}")
    if unknown := sorted(set(actions) - set(ACTIONS)):
        raise ConfigError(f"unknown actions {', '.join(unknown)}: choose some of {', '.join(ACTIONS)}")
    if not actions:
        raise ConfigError(f"give at least one action: some of {', '.join(ACTIONS)}")
    frames = round(fps * seconds)
    if size < 28 or size % 2 or frames < 4:
        raise ConfigError(f"size must be even and at least 28, with 4 frames or more; not {size} and {frames}")
    out_dir = Path(out_dir)
    folder = out_dir / name
    paths = [folder / f"{i:05d}{ENCODERS[codec][0]}" for i in range(clips)]
    claim_dataset(out_dir, name, [*paths, *map(scene_file, paths)])
    samples = []
    for i, path in enumerate(paths):
        rng = np.random.default_rng([seed, i])
        action = actions[i % len(actions)]
        scene, caption = make_scene(rng, action, size=size, fps=fps, frames=frames)
        encode(path, draw(scene, rng), fps, codec)
        scene.save(scene_file(path))
        video = path.relative_to(out_dir).as_posix()
        samples.append(make_sample(video, prompt, caption, id=f"{name}/{i:05d}", action=action))
    return write_dataset(out_dir, name, samples)


def make_scene(rng: np.random.Generator, action: str, *, size: int, fps: float, frames: int) -> tuple[Scene, str]:
    """Make up a scene in which one thing happens, and its caption.

    Args:
        rng: decides on everything that is left open.
        action: one of ACTIONS.
        size: side of the frame in pixels.
        fps: encoded frames per second.
        frames: how many are encoded.
    """
    story = _Story(rng, size, (frames - 1) / fps)
    sprites, caption = _TELL[action](story)
    return Scene(size, fps, frames, tuple(sprites)), caption


class _Story:
    """What the tellers of the actions share: chance, the frame, and the time.

    Args:
        rng: decides.
        size: side of the frame in pixels.
        end: seconds of the last frame.
    """

    def __init__(self, rng: np.random.Generator, size: int, end: float) -> None:
        self.rng, self.size, self.end = rng, size, end
        self.shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
        self.radius = size * rng.uniform(0.21, 0.24)
        self.moment = end * rng.uniform(0.42, 0.58)  # of the change, where there is one

    def pick(self, options: Sequence[str]) -> str:
        """Choose one."""
        return options[int(self.rng.integers(len(options)))]

    def pace(self, span: tuple[float, float]) -> float:
        """Choose a speed in pixels per second from a span in frame crossings per clip."""
        room = self.size - 2 * _MARGIN * self.radius
        return room / self.end * float(self.rng.uniform(*span))

    def sprite(
        self,
        legs: Sequence[tuple[float, str, float]],
        shape: str | None = None,
        spin: Sequence[float] = (),
        across: Sprite | None = None,
    ) -> Sprite:
        """Build a shape that walks the legs, from wherever they stay within the frame.

        Args:
            legs: for each, until when it lasts (seconds), the direction, and the speed (pixels per second).
            shape: the story's first one, where not given.
            spin: radians that it turns in each leg.
            across: a shape that comes along the same line, and must be met.
        """
        times, path = [0.0], [np.zeros(2)]
        for until, direction, speed in legs:
            path.append(path[-1] + np.array(_DIRECTIONS[direction]) * speed * (until - times[-1]))
            times.append(until)
        way = np.stack(path)
        margin = _MARGIN * self.radius
        low, high = margin - way.min(0), self.size - margin - way.max(0)
        start = self.rng.uniform(np.minimum(low, high), np.maximum(low, high))
        if across is not None:
            aside = int(abs(way[-1, 0]) > abs(way[-1, 1]))  # the axis along which neither moves
            met = across.centres[0, aside] + self.rng.uniform(-0.8, 0.8) * self.radius
            start[aside] = np.clip(met, low[aside], high[aside])
        angles = self.rng.uniform(-0.15, 0.15) + np.concatenate([[0], np.cumsum([*spin] or [0.0] * len(legs))])
        return Sprite(shape or self.shapes[0], self.radius, np.array(times), start + way, angles)


_Told = tuple[list[Sprite], str]


def _tell_move(story: _Story) -> _Told:
    direction, manner = story.pick([*_DIRECTIONS]), story.pick(["slowly", "quickly"])
    speed = story.pace(_QUICK if manner == "quickly" else _SLOW)
    return [story.sprite([(story.end, direction, speed)])], f"The {story.shapes[0]} moves {direction} {manner}."


def _tell_stop(story: _Story) -> _Told:
    direction, manner = story.pick([*_DIRECTIONS]), story.pick(["slowly", "quickly"])
    speed = story.pace(_SPRINT if manner == "quickly" else _SLOW)
    legs = [(story.moment, direction, speed), (story.end, direction, 0.0)]
    return [story.sprite(legs)], f"The {story.shapes[0]} moves {direction} {manner}, then stops."


def _tell_speed_up(story: _Story) -> _Told:
    direction = story.pick([*_DIRECTIONS])
    legs = [(story.moment, direction, story.pace(_SLOW)), (story.end, direction, story.pace(_SPRINT))]
    return [story.sprite(legs)], f"The {story.shapes[0]} moves {direction} slowly, then speeds up."


def _tell_turn(story: _Story) -> _Told:
    first, then = (story.pick(_STRAIGHT) for _ in range(2))
    then = _OPPOSITE[first] if then == first else then
    speed = story.pace(_QUICK)
    turned = "back" if then == _OPPOSITE[first] else then
    legs = [(story.moment, first, speed), (story.end, then, speed)]
    return [story.sprite(legs)], f"The {story.shapes[0]} moves {first}, then turns {turned}."


def _tell_spin(story: _Story) -> _Told:
    manner, stops = story.pick(["slowly", "quickly"]), story.rng.random() < 0.5
    turn = story.rng.choice([-1, 1]) * 2 * math.pi * story.rng.uniform(*_TURNS[manner])
    until = story.moment if stops else story.end
    legs = [(until, "left", 0.0), (story.end + 1, "left", 0.0)]
    sprite = story.sprite(legs, spin=[turn * until / story.end, 0.0])
    return [sprite], f"The {story.shapes[0]} spins {manner}{', then stops' if stops else ''}."


def _tell_still(story: _Story) -> _Told:
    return [story.sprite([(story.end, "left", 0.0)])], f"The {story.shapes[0]} stands still."


def _tell_cross(story: _Story) -> _Told:
    direction = story.pick(_STRAIGHT)
    first, other = story.shapes[:2]
    one = story.sprite([(story.end, direction, story.pace(_QUICK))], first)
    two = story.sprite([(story.end, _OPPOSITE[direction], story.pace(_QUICK))], other, across=one)
    caption = f"The {first} moves {direction} and crosses the {other}, which moves {_OPPOSITE[direction]}."
    return [one, two] if story.rng.random() < 0.5 else [two, one], caption


_TELL: dict[str, Callable[[_Story], _Told]] = {
    "move": _tell_move,
    "stop": _tell_stop,
    "speed_up": _tell_speed_up,
    "turn": _tell_turn,
    "spin": _tell_spin,
    "still": _tell_still,
    "cross": _tell_cross,
}
