"""Video whose motion is known exactly: textured layers, each moved, turned and scaled as a function of time.

Between any two frames the flow of a pixel follows from the poses of its layer, and it is visible in the other frame
where no layer in front covers it. A scene's directions, speeds, pictures and shapes are drawn from its seed.

Shapes: H, W height and width of a frame in pixels. Integer coordinates are the centres of pixels.
"""

import functools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


WIDTH, HEIGHT, RATE = 640, 352, 30
FRAMES = 121  # nine of them lie half a second apart
NOISE = 2.5
BACKGROUND = (1152, 2304)
LOW_CONTRAST = 0.12
# Pictures have so many pixels for one of the frame, and are smooth enough to be interpolated linearly: OpenCV's cubic
# interpolation moves what it interpolates by up to 0.05 pixels
FINE = 2

Matrix = NDArray[np.float64]
Pose = Callable[[float], Matrix]


@dataclass(frozen=True, eq=False)
class Layer:
    """A picture on a plane.

    Args:
        picture: uint8 [h, w, 3] RGB, mirrored without end beyond its borders.
        alpha: uint8 [h, w], 255 where the layer is; None for a layer without end.
        pose: from a frame's number to a similarity float64 [3, 3], from the picture's pixels to the frame's.
    """

    picture: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    pose: Pose


@dataclass(frozen=True)
class Scene:
    """Layers seen by a noisy camera.

    Args:
        name: one of `SCENES`, or "pan DX,DY".
        seed: what the layers and the noise were drawn from.
        layers: the background, then objects from back to front.
        noise: standard deviation of the sensor's noise in gray levels.
    """

    name: str
    seed: int
    layers: tuple[Layer, ...]
    noise: float = NOISE

    @property
    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The frames one after the other, each uint8 [H, W, 3] RGB."""
        return (self.frame(t) for t in range(FRAMES))

    def frame(self, t: int) -> NDArray[np.uint8]:
        """Frame number t, uint8 [H, W, 3] RGB."""
        image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for layer in self.layers:
            warped = _warp(layer.picture, layer.pose(t), cv2.BORDER_REFLECT_101)
            alpha = _coverage(layer, t)[..., None]
            image += alpha * (warped - image)
        if self.noise:
            random = np.random.default_rng([_number(self.name), self.seed, t])
            image += np.float32(self.noise) * random.standard_normal(image.shape, np.float32)
        return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)

    def top(self, t: float) -> NDArray[np.int64]:
        """Which layer is seen at each pixel of a frame, int64 [H, W]."""
        top = np.zeros((HEIGHT, WIDTH), np.int64)
        for number, layer in enumerate(self.layers):
            top[_coverage(layer, t) >= 0.5] = number
        return top

    def flow(self, t_from: float, t_to: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The way of what is seen at each pixel of one frame, to where it is at the time of another.

        Returns:
            float32 [H, W, 2], (dx, dy) in pixels; and bool [H, W], whether it is inside of the other frame and not
            covered there.
        """
        top = self.top(t_from)
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
        there = np.empty((HEIGHT, WIDTH, 2))
        for number, layer in enumerate(self.layers):
            moved = _apply(layer.pose(t_to) @ np.linalg.inv(layer.pose(t_from)), x, y)
            there[top == number] = moved[top == number]
        inside = (there >= -0.5) & (there <= (WIDTH - 0.5, HEIGHT - 0.5))
        visible = inside.all(-1)
        for number, layer in enumerate(self.layers[1:], start=1):
            at = _apply(np.linalg.inv(layer.pose(t_to)), there[..., 0], there[..., 1]).astype(np.float32)
            covered = cv2.remap(layer.alpha, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderValue=0)
            visible &= (covered < 127.5) | (top >= number)
        return (there - np.stack([x, y], axis=-1)).astype(np.float32), visible


def scene(name: str, seed: int, noise: float = NOISE) -> Scene:
    """Draw a scene of `SCENES`, or a pan by name ("pan 2.25,0.75"), from its seed."""
    if name.startswith("pan "):
        dx, dy = (float(number) for number in name[4:].split(","))
        return pan(dx, dy, noise, seed)
    return Scene(name, seed, tuple(SCENES[name](np.random.default_rng([_number(name), seed]))), noise)


def pan(dx: float, dy: float, noise: float = 0, seed: int = 0) -> Scene:
    """A background that moves by (dx, dy) pixels per frame; whole numbers move its pixels as they are."""
    name = f"pan {dx:g},{dy:g}"
    random = np.random.default_rng([_number(name), seed])
    # the middle frame, a whole number of steps from the others, shows the middle of the picture
    return Scene(name, seed, (_background(random, _camera(_line(dx), _line(dy))),), noise)


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _apply(matrix: Matrix, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(2)], axis=-1)


def _warp(image: NDArray[np.uint8], matrix: Matrix, border: int) -> NDArray[np.uint8]:
    size = (WIDTH, HEIGHT)
    warped = cv2.warpAffine(image, matrix[:2], size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=0)
    return np.asarray(warped, np.uint8)


def _coverage(layer: Layer, t: float) -> NDArray[np.float32]:
    """How much of each pixel a layer covers, float32 [H, W] from 0 to 1."""
    if layer.alpha is None:
        return np.ones((HEIGHT, WIDTH), np.float32)
    return _warp(layer.alpha, layer.pose(t), cv2.BORDER_CONSTANT) / np.float32(255)


# Pictures


@functools.lru_cache(maxsize=8)
def _texture(seed: int, height: int, width: int, contrast: float) -> NDArray[np.uint8]:
    """A picture uint8 [FINE * height, FINE * width, 3] with the statistics of natural ones: overlapping things of all
    sizes, with edges, and noise whose amplitude falls with its frequency."""
    random = np.random.default_rng(seed)
    palette = random.uniform(35, 220, (24, 1)) + random.normal(0, 25, (24, 3))
    image = np.full((height, width, 3), palette[0].clip(0, 255), np.uint8)
    # dead leaves: as many of each size as cover the same area, three times the picture's
    least, most = 6, 150
    for radius in least / np.sqrt(random.uniform((least / most) ** 2, 1, height * width // 170)):
        center = (int(random.integers(width)), int(random.integers(height)))
        axes = (max(int(radius), 2), max(int(radius * random.uniform(0.4, 1)), 2))
        color = (palette[random.integers(len(palette))] + random.normal(0, 15, 3)).clip(0, 255)
        cv2.ellipse(image, center, axes, random.uniform(0, 180), 0, 360, color.tolist(), -1, cv2.LINE_AA)
    result = image.astype(np.float32)
    for octave in range(7):
        size = (max(width >> octave, 4), max(height >> octave, 4))
        grain = random.standard_normal((size[1], size[0]), np.float32)
        layer = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
        result += 2.5 * 1.4**octave * layer[..., None]
    result = cv2.resize(128 + contrast * (result - 128), None, fx=FINE, fy=FINE, interpolation=cv2.INTER_LINEAR)
    # lenses blur, and what is finer could not be resampled
    result = cv2.GaussianBlur(result, (0, 0), 0.8 * FINE)
    return np.asarray(np.rint(result).clip(0, 255), np.uint8)


def _shape(random: Generator, radius: int) -> NDArray[np.uint8]:
    """The alpha of an ellipse or a polygon with round corners, uint8 [2 * FINE * radius, 2 * FINE * radius]."""
    middle = FINE * radius
    mask = np.zeros((2 * middle, 2 * middle), np.uint8)
    if random.random() < 0.5:
        axes = (int(0.9 * middle), int(random.uniform(0.5, 0.9) * middle))
        cv2.ellipse(mask, (middle, middle), axes, random.uniform(0, 180), 0, 360, 255, -1)
    else:
        corners = int(random.integers(3, 7))
        angles = 2 * np.pi * (np.arange(corners) + random.uniform(-0.2, 0.2, corners)) / corners
        reach = random.uniform(0.65, 0.9, corners) * middle
        points = middle + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 255)
        mask = np.asarray(255 * (cv2.GaussianBlur(mask, (0, 0), middle / 12) > 127), np.uint8)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), FINE / 2), np.uint8)


# Poses


def _similarity(x: float, y: float, angle: float = 0.0, scale: float = 1.0) -> Matrix:
    """Turn by an angle in radians and scale about the origin, then move to (x, y)."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])


Path = Callable[[float], float]


def _line(speed: float, middle: float = 0.0, when: float = FRAMES // 2) -> Path:
    return lambda t: middle + speed * (t - when)


def _swing(random: Generator, speed: float, middle: float = 0.0, period: tuple[float, float] = (60, 160)) -> Path:
    """Back and forth with a greatest speed."""
    omega = 2 * np.pi / random.uniform(*period)
    phase = random.uniform(0, 2 * np.pi)
    return lambda t: float(middle + speed / omega * np.sin(omega * t + phase))


def _shake(random: Generator, amplitude: float) -> Path:
    """Smooth and irregular, as a hand shakes: 0.5 to 5 Hz, the faster the smaller."""
    hertz = np.array([0.7, 1.7, 4.0]) * random.uniform(0.7, 1.3, 3)
    phases, sizes = random.uniform(0, 2 * np.pi, 3), amplitude / np.sqrt(hertz)
    return lambda t: float((sizes * np.sin(2 * np.pi * hertz / RATE * t + phases)).sum())


def _camera(x: Path, y: Path, angle: Path = lambda t: 0.0, zoom: Path = lambda t: 0.0) -> Pose:
    """A pose of the world, which has its origin in the middle of the frame; `zoom` is the logarithm of the scale."""
    return lambda t: _similarity(WIDTH // 2 + x(t), HEIGHT // 2 + y(t), angle(t), float(np.exp(zoom(t))))


def _placed(picture: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, pose: Pose) -> Layer:
    """A layer with the middle of its picture where the pose has its origin."""
    height, width = picture.shape[:2]
    to_pixels = _similarity(-width // 2 / FINE, -height // 2 / FINE, scale=1 / FINE)
    return Layer(picture, alpha, lambda t: pose(t) @ to_pixels)


def _background(random: Generator, camera: Pose, contrast: float = 1.0) -> Layer:
    return _placed(_texture(int(random.integers(2**31)), *BACKGROUND, contrast), None, camera)


def _object(
    random: Generator, camera: Pose, x: Path, y: Path, radius: tuple[int, int] = (35, 75), contrast: float = 1.0
) -> Layer:
    """An object with its middle at (x, y) of the world, that turns slowly."""
    r = int(random.integers(*radius))
    alpha = _shape(random, r)
    picture = _texture(int(random.integers(2**31)), 2 * r, 2 * r, contrast)
    turn = _swing(random, random.uniform(0, 0.02))
    return _placed(picture, alpha, lambda t: camera(t) @ _similarity(x(t), y(t), turn(t)))


def _wandering(random: Generator, count: int, speed: tuple[float, float], camera: Pose, **more: float) -> list[Layer]:
    return [
        _object(
            random,
            camera,
            _swing(random, random.uniform(*speed), random.uniform(-200, 200)),
            _swing(random, random.uniform(*speed) / 2, random.uniform(-80, 80)),
            **more,
        )
        for _ in range(count)
    ]


def _signed(random: Generator, low: float, high: float) -> float:
    return float(random.choice([-1, 1]) * random.uniform(low, high))


# Scenes


STILL = _camera(_line(0), _line(0))


def _static(random: Generator) -> list[Layer]:
    return [_background(random, STILL), *_wandering(random, 4, (1, 7), STILL)]


def _subpel_pan(random: Generator) -> list[Layer]:
    return [_background(random, _camera(_line(_signed(random, 0.2, 1.2)), _line(_signed(random, 0.2, 1.2))))]


def _fast_pan(random: Generator) -> list[Layer]:
    speeds = _signed(random, 12, 13.5), _signed(random, 0, 2)
    return [_background(random, _camera(_line(speeds[0]), _line(speeds[1])))]


def _zooming(random: Generator) -> Path:
    """Inwards or outwards, never smaller than the picture, whose detail would alias."""
    rate = random.uniform(0.003, 0.006)
    return (lambda t: rate * t) if random.random() < 0.5 else (lambda t: rate * (FRAMES - t))


def _drift(random: Generator) -> tuple[Path, Path]:
    return _line(_signed(random, 0, 1.5)), _line(_signed(random, 0, 1))


def _zoom(random: Generator) -> list[Layer]:
    return [_background(random, _camera(*_drift(random), zoom=_zooming(random)))]


def _rotation(random: Generator) -> list[Layer]:
    return [_background(random, _camera(*_drift(random), angle=_line(_signed(random, 0.006, 0.014))))]


def _crossing(random: Generator) -> list[Layer]:
    camera = _camera(_line(_signed(random, 0, 2)), _line(0))
    objects = []
    for _ in range(6):
        when = random.uniform(0.3, 0.7) * FRAMES
        x = _line(_signed(random, 3, 8), random.uniform(-60, 60), when)
        y = _line(_signed(random, 0, 2), random.uniform(-70, 70), when)
        objects.append(_object(random, STILL, x, y, (45, 90)))
    return [_background(random, camera), *objects]


def _handheld(random: Generator) -> list[Layer]:
    camera = _camera(_shake(random, 5), _shake(random, 5), _shake(random, 0.008), _shake(random, 0.004))
    return [_background(random, camera), *_wandering(random, 2, (1, 4), camera)]


def _accelerating(random: Generator) -> list[Layer]:
    """From rest to 11 to 16 pixels per frame, with a large object that swings as fast."""
    pull, sign = random.uniform(0.09, 0.13), random.choice([-1, 1])
    half = FRAMES**2 / 4
    camera = _camera(lambda t: float(sign * pull * (t**2 / 2 - half)), _line(_signed(random, 0, 1)))
    x, y = _swing(random, random.uniform(10, 15), period=(60, 90)), _swing(random, random.uniform(1, 4))
    return [_background(random, camera), _object(random, STILL, x, y, (100, 135))]


def _roto_zoom(random: Generator) -> list[Layer]:
    camera = _camera(*_drift(random), _line(_signed(random, 0.004, 0.01)), _zooming(random))
    return [_background(random, camera)]


def _low_texture(random: Generator) -> list[Layer]:
    camera = _camera(_line(_signed(random, 0.5, 4)), _line(_signed(random, 0, 1)))
    objects = _wandering(random, 3, (1, 5), STILL, contrast=LOW_CONTRAST)
    return [_background(random, camera, LOW_CONTRAST), *objects]


SCENES: dict[str, Callable[[Generator], list[Layer]]] = {
    "static camera": _static,
    "subpel pan": _subpel_pan,
    "fast pan": _fast_pan,
    "zoom": _zoom,
    "rotation": _rotation,
    "crossing": _crossing,
    "hand-held": _handheld,
    "accelerating": _accelerating,
    "roto-zoom": _roto_zoom,
    "low texture": _low_texture,
}
