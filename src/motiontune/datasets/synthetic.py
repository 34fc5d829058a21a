"""A data set made from nothing: textured shapes that move, their captions, and exactly how every point moved.

A scene is a still background and one or two shapes whose positions and angles change at constant rates between a few
moments, so that the motion between any two times is known without error, occlusions included.

Coordinates are continuous pixels: x to the right, y down, the centre of the first pixel at (0.5, 0.5).
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.datasets.dataset_info import make_sample, write_dataset
from motiontune.errors import ConfigError
from motiontune.grid import VideoGrid
from motiontune.motion.field import STEP, Direction, MotionField, frames_with_motion


PROMPT = "<video>Explain the action happening the video."
SHAPES = ("circle", "triangle", "square")
ACTIONS = ("move", "stop", "speed_up", "turn", "spin", "still", "cross")

_SIDES = {"circle": 0, "triangle": 3, "square": 4}
# Bright on dark, and each shape of its own hue: what a clip is about is the motion, not finding the shape.
_COLOURS = {"circle": (110, 240, 130), "triangle": (130, 150, 250), "square": (250, 180, 100)}
_MARGIN = 0.9  # centres keep this many radii from the frame's edge
_TEXELS = 64  # side of a shape's texture
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

# Container, pixel format and options per encoder. One reference and no B-frames: then each H.264 vector says where the
# content was one frame before. Adaptive quantisation and psy options trade truthful vectors for looks.
_X264 = "ref=1:bframes=0:weightp=0:scenecut=0:keyint=250:me=umh:merange=24:subme=7:qp=18:aq-mode=0:psy=0:threads=1"
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "libx264": (".mp4", {"x264-params": _X264}),
    "mpeg4": (".mp4", {"bf": "0", "g": "250", "qmin": "3", "qmax": "3", "mbd": "rd"}),
    "libvpx-vp9": (".webm", {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
}


@dataclass(frozen=True)
class Sprite:
    """One shape: what it looks like, and where it is when.

    Args:
        shape: one of SHAPES.
        radius: half the shape's size in pixels: of the circle itself, and of the circle of about equal area.
        times: float64 [knots], seconds, increasing. Between two knots everything changes at a constant rate.
        centres: float64 [knots, 2], (x, y) in pixels.
        angles: float64 [knots], radians, positive turns right (x towards y).
    """

    shape: str
    radius: float
    times: NDArray[np.float64]
    centres: NDArray[np.float64]
    angles: NDArray[np.float64]

    def pose(self, time: float) -> tuple[NDArray[np.float64], float]:
        """Return the centre [2] in pixels and the angle in radians at a time in seconds."""
        x, y = (np.interp(time, self.times, self.centres[:, axis]) for axis in (0, 1))
        return np.array([x, y]), float(np.interp(time, self.times, self.angles))

    def to_own(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """Turn image points [..., 2] into the shape's own coordinates, pixels from its centre."""
        centre, angle = self.pose(time)
        return (points - centre) @ _rotation(-angle).T

    def to_image(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """Turn the shape's own coordinates [..., 2] into image points."""
        centre, angle = self.pose(time)
        return points @ _rotation(angle).T + centre

    def outside(self, own: NDArray[np.float64]) -> NDArray[np.float64]:
        """Say how many pixels each own point [..., 2] lies outside of the shape's edge; negative inside."""
        sides = _SIDES[self.shape]
        if not sides:
            return np.asarray(np.hypot(own[..., 0], own[..., 1]) - self.radius)
        # a regular polygon as large as the circle: area = sides * inner**2 * tan(pi / sides)
        inner = self.radius * math.sqrt(math.pi / (sides * math.tan(math.pi / sides)))
        turns = math.pi / 2 + 2 * math.pi / sides * np.arange(sides)  # one side lies at the bottom
        return np.asarray((own @ np.stack([np.cos(turns), np.sin(turns)])).max(-1) - inner)


@dataclass(frozen=True)
class Scene:
    """All that moves in one clip; what is later in `sprites` is in front.

    Args:
        size: side of the square frame in pixels.
        fps: encoded frames per second; frame k shows the time k / fps.
        frames: how many are encoded.
        sprites: the shapes, from back to front.
    """

    size: int
    fps: float
    frames: int
    sprites: tuple[Sprite, ...]

    def save(self, path: Path) -> None:
        """Write the scene as an npz file, without pickled objects."""
        arrays: dict[str, Any] = {"size": self.size, "fps": self.fps, "frames": self.frames}
        for i, sprite in enumerate(self.sprites):
            for name in ("shape", "radius", "times", "centres", "angles"):
                arrays[f"{i}_{name}"] = getattr(sprite, name)
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Scene":
        """Read the scene of a clip.

        Args:
            path: of the clip, or of the npz file beside it.

        Raises:
            ConfigError: if there is none.
        """
        file = Path(path) if str(path).endswith(".npz") else _scene_file(Path(path))
        if not file.is_file():
            raise ConfigError(f"{path} has no scene beside it: {file} is missing")
        with np.load(file) as arrays:
            sprites: list[Sprite] = []
            while f"{len(sprites)}_shape" in arrays:
                i = len(sprites)
                knots = (arrays[f"{i}_{name}"] for name in ("times", "centres", "angles"))
                sprites.append(Sprite(str(arrays[f"{i}_shape"]), float(arrays[f"{i}_radius"]), *knots))
            return cls(int(arrays["size"]), float(arrays["fps"]), int(arrays["frames"]), tuple(sprites))


def true_flow(
    scene: Scene, time: float, other: float, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Say where what each pixel shows at one time is at another time.

    Args:
        scene: the clip's.
        time: seconds; the pixels are those of this time.
        other: seconds.
        height: of the frame in pixels, after any resizing.
        width: likewise.

    Returns:
        float32 [height, width, 2], position at `other` minus position at `time` in pixels of this frame size; bool
        [height, width], true where the point is within the frame and not hidden at `other`; int64 [height, width],
        which sprite the pixel shows, -1 for the background.
    """
    points = _pixel_centres(height, width) * (scene.size / width, scene.size / height)
    shown = np.full((height, width), -1, np.int64)
    moved = points.copy()
    for i, sprite in enumerate(scene.sprites):
        own = sprite.to_own(points, time)
        inside = sprite.outside(own) <= 0
        shown[inside] = i
        moved[inside] = sprite.to_image(own[inside], other)
    seen = np.asarray(((moved >= 0) & (moved <= scene.size)).all(-1))
    for i, sprite in enumerate(scene.sprites):
        seen = np.asarray(seen & ((shown >= i) | (sprite.outside(sprite.to_own(moved, other)) > 0)))
    flow = (moved - points) * (width / scene.size, height / scene.size)
    return flow.astype(np.float32), seen, shown


def true_motion(
    scene: Scene | str | os.PathLike[str],
    times: NDArray[np.float64],
    grid: VideoGrid,
    direction: Direction = "past",
    share: float = 0.5,
) -> MotionField:
    """Give the exact motion of a clip between its sampled frames, one vector per patch.

    A patch says the mean motion of what fills most of it. It is invalid where less than `share` of the patch shows
    that one thing and shows it at both times: then no single vector is true.

    Args:
        scene: of the clip, or a path that `Scene.load` reads.
        times: float64 [frames], seconds of the sampled frames; up to `grid.frames`, the rest is padding.
        grid: of the video after all resizing.
        direction: "past" or "future".
        share: of a patch's pixels.

    Raises:
        ValueError: if there are more times than the grid has frames.
        ConfigError: if there is no scene at the path.
    """
    if not isinstance(scene, Scene):
        scene = Scene.load(scene)
    times = np.asarray(times, np.float64)
    if not 0 < len(times) <= grid.frames:
        raise ValueError(f"{len(times)} times do not fit a grid of {grid.frames} frames")
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    valid = np.zeros((grid.frames, grid.rows, grid.cols), np.bool_)
    step = STEP[direction]
    for i in frames_with_motion(len(times), direction):
        flow, seen, shown = true_flow(scene, times[i], times[i + step], grid.height, grid.width)
        vectors[i], valid[i] = _patch_means(step * flow, seen, shown, grid.patch, share)
    padded = np.concatenate([times, np.full(grid.frames - len(times), times[-1])])
    return MotionField(vectors, valid, padded, "scene", direction)


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
    if codec not in _ENCODERS:
        raise ConfigError(f"codec must be one of {', '.join(_ENCODERS)}, not {codec!r}")
    if unknown := sorted(set(actions) - set(ACTIONS)):
        raise ConfigError(f"unknown actions {', '.join(unknown)}: choose some of {', '.join(ACTIONS)}")
    if not actions:
        raise ConfigError(f"give at least one action: some of {', '.join(ACTIONS)}")
    frames = round(fps * seconds)
    if size < 28 or size % 2 or frames < 4:
        raise ConfigError(f"size must be even and at least 28, with 4 frames or more; not {size} and {frames}")
    out_dir = Path(out_dir)
    folder = out_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for i in range(clips):
        rng = np.random.default_rng([seed, i])
        action = actions[i % len(actions)]
        scene, caption = make_scene(rng, action, size=size, fps=fps, frames=frames)
        path = folder / f"{i:05d}{_ENCODERS[codec][0]}"
        _encode(path, draw(scene, rng), fps, codec)
        scene.save(_scene_file(path))
        video = path.relative_to(out_dir).as_posix()
        samples.append(make_sample(video, prompt, caption, id=f"{name}/{i:05d}", action=action))
    return write_dataset(out_dir, name, samples)


def add_real_clips(
    out_dir: str | Path,
    paths: Iterable[str | Path],
    *,
    captions: Sequence[str] | str = "",
    name: str = "real",
    prompt: str = PROMPT,
    copy: bool = False,
) -> Path:
    """Enter video files in a data set of their own, beside the synthetic ones.

    Args:
        out_dir: the `dataset_dir`.
        paths: of the clips.
        captions: one for each clip, or one for all; empty where nobody knows.
        name: of the data set.
        prompt: as in `write_synthetic`.
        copy: copy the files into `<out_dir>/<name>`, so that the folder can be moved.

    Returns:
        The JSON file with the samples.

    Raises:
        ConfigError: if a file is missing, or the captions are not as many as the clips.
    """
    out_dir, files = Path(out_dir), [Path(path) for path in paths]
    texts = [captions] * len(files) if isinstance(captions, str) else list(captions)
    if len(texts) != len(files):
        raise ConfigError(f"{len(files)} clips with {len(texts)} captions: give one each, or one for all")
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ConfigError(f"no such file: {', '.join(missing)}")
    samples = []
    for i, (file, text) in enumerate(zip(files, texts, strict=True)):
        video = str(file.absolute())
        if copy:
            target = out_dir / name / f"{i:05d}_{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            video = target.relative_to(out_dir).as_posix()
        samples.append(make_sample(video, prompt, text, id=file.stem))
    return write_dataset(out_dir, name, samples)


def make_scene(rng: np.random.Generator, action: str, *, size: int, fps: float, frames: int) -> tuple[Scene, str]:
    """Make up a scene in which one thing happens, and the caption that says it.

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


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw all frames of a scene, with made-up shades and textures.

    Returns:
        uint8 [frames, size, size, 3] RGB.
    """
    size = scene.size
    background = _texture(rng, size, rng.uniform(20, 70, 3), contrast=8)
    looks = []
    for sprite in scene.sprites:
        colour = np.array(_COLOURS[sprite.shape]) + rng.uniform(-30, 30, 3)
        looks.append(_texture(rng, _TEXELS, colour, contrast=25))
    points = _pixel_centres(size, size)
    frames = np.empty((scene.frames, size, size, 3), np.uint8)
    for k in range(scene.frames):
        frame = background
        for sprite, look in zip(scene.sprites, looks, strict=True):
            own = sprite.to_own(points, k / scene.fps)
            cover = np.clip(0.5 - sprite.outside(own), 0, 1)[..., None].astype(np.float32)  # soft over one pixel
            texel = (own * (0.32 * _TEXELS / sprite.radius) + _TEXELS / 2).astype(np.float32)
            surface = cv2.remap(look, texel[..., 0], texel[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            frame = frame + cover * (surface - frame)
        frames[k] = np.clip(np.rint(frame), 0, 255)
    return frames


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


def _scene_file(clip: Path) -> Path:
    return clip.with_suffix(".scene.npz")


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _pixel_centres(height: int, width: int) -> NDArray[np.float64]:
    """Return float64 [height, width, 2], the (x, y) of each pixel's centre."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x, y], -1)


def _patch_means(
    flow: NDArray[np.float32], seen: NDArray[np.bool_], shown: NDArray[np.int64], patch: int, share: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Average a dense flow [H, W, 2] over what fills most of each patch: float32 [R, C, 2] and bool [R, C]."""

    def per_patch(values: NDArray[Any]) -> NDArray[np.float64]:
        height, width = values.shape
        return np.asarray(values.reshape(height // patch, patch, width // patch, patch).mean((1, 3), np.float64))

    surfaces = np.arange(-1, shown.max() + 1)
    most = surfaces[np.argmax([per_patch(shown == i) for i in surfaces], axis=0)]
    used = seen & (shown == most.repeat(patch, 0).repeat(patch, 1))
    filled = per_patch(used)
    valid = filled >= share
    means = np.stack([per_patch(flow[..., axis] * used) for axis in (0, 1)], -1)
    vectors = np.where(valid[..., None], means / np.maximum(filled, 1e-9)[..., None], 0)
    return vectors.astype(np.float32), valid


def _texture(rng: np.random.Generator, size: int, colour: NDArray[np.float64], contrast: float) -> NDArray[np.float32]:
    """Make a float32 [size, size, 3] texture: coarse and fine blobs, which survive the encoder, about one colour."""
    coarse = cv2.resize(rng.normal(size=(size // 6, size // 6)), (size, size), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), 0.9) * 3
    noise = (coarse + 0.6 * fine)[..., None] * contrast
    return np.asarray(colour + noise, np.float32)


def _encode(path: Path, frames: NDArray[np.uint8], fps: int, codec: str) -> None:
    """Write frames [frames, height, width, 3] as a video file."""
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=fps, options=_ENCODERS[codec][1]))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # small frames: starting threads costs more than they save
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
