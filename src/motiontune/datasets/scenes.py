"""Scenes: textured shapes that move, drawn as frames, and exactly how every point moved.

A scene is a still background and one or two shapes whose positions and angles change at constant rates between a few
moments, so that the motion between any two times is known without error, occlusions included.

Coordinates are continuous pixels: x to the right, y down, the centre of the first pixel at (0.5, 0.5).
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ConfigError
from motiontune.files import write_whole
from motiontune.grid import VideoGrid
from motiontune.limits import load_npz
from motiontune.motion.field import STEP, Direction, MotionField, frames_with_motion


SHAPES = ("circle", "triangle", "square")

_SIDES = {"circle": 0, "triangle": 3, "square": 4}
# Bright on dark, and each shape of its own hue: what a clip is about is the motion, not finding the shape.
_COLOURS = {"circle": (110, 240, 130), "triangle": (130, 150, 250), "square": (250, 180, 100)}
_TEXELS = 64  # side of a shape's texture


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
        """How many pixels each own point [..., 2] lies outside of the shape's edge; negative inside."""
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
        with write_whole(path) as unfinished, open(unfinished, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Scene":
        """Read the scene of a clip.

        Args:
            path: of the clip, or of the npz file beside it.

        Raises:
            ConfigError: if there is none.
        """
        file = Path(path) if str(path).endswith(".npz") else scene_file(Path(path))
        if not file.is_file():
            raise ConfigError(f"{path} has no scene beside it: {file} is missing")
        with load_npz(file) as arrays:
            sprites: list[Sprite] = []
            while f"{len(sprites)}_shape" in arrays:
                i = len(sprites)
                knots = (arrays[f"{i}_{name}"] for name in ("times", "centres", "angles"))
                sprites.append(Sprite(str(arrays[f"{i}_shape"]), float(arrays[f"{i}_radius"]), *knots))
            return cls(int(arrays["size"]), float(arrays["fps"]), int(arrays["frames"]), tuple(sprites))


def true_flow(
    scene: Scene, time: float, other: float, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Where the content of each pixel at one time is at another time.

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

    A patch has the mean motion of what fills most of it. It is invalid where less than `share` of the patch shows
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


def scene_file(clip: Path) -> Path:
    """Where the scene of a clip lies."""
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
