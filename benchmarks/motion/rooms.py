"""Rooms under a perspective camera, as a phone sees them: 426 x 240 pixels, 12 frames a second, motion known exactly.

A room has textured walls, and things stand and move in it at their own depths: a hand that pushes a thing, a spinning
cube that stops, small fast things, balls that turn, cloth that waves. Every surface is flat (balls and cloth have
many); where a pixel's ray meets it gives its texture, and where that point of the surface is seen at another time
gives the flow. What a scene looks like (dim, drifting exposure, fade, shadow, noise, cut) is put upon the rendered
frames, and changes no flow; a rolling shutter does, whose rows have times of their own. Drawn textures are rich
everywhere, pictures that people take are not: the photo scenes have a wall and things out of pictures of real clips.

Shapes: H, W height and width of a frame in pixels. Times are seconds, lengths metres.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from loading import ROOT
from numpy.random import Generator
from numpy.typing import NDArray
from render import FINE, _number, _signed, _texture

from motiontune.video.clip import read_clip


WIDTH, HEIGHT, RATE, SECONDS = 426, 240, 12, 5
FRAMES = RATE * SECONDS
FOCAL = 380.0
# Rendered so many times finer and averaged: surfaces seen at an angle would alias
SUPER = 2
NOISE = 1.5
# A ball has so many rings of facets, which reach beyond each other by this share of their sides, and so many pixels in
# a metre
RINGS, OVER, DETAIL = 14, 0.03, 110
# A cloth is so many cells wide and tall, of two triangles each, which reach beyond each other by so many pixels
CELLS, HEM = 10, 2
SUBFRAMES = 4
# of the time from one frame to the next that a blurred frame is exposed
EXPOSED = 0.6
# Seconds from the first row of a rolling shutter to the last one, as phones have it; found again in so many rounds
READOUT, ROUNDS = 0.025, 4

# Clips whose pictures tuning sees, and those that scoring does: of `make clips ARGS=--all`
TUNED = ("bikes.mp4", "box.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4", "b.mp4")
SCORED = ("cup.mp4", "cityCC0.mpg", "vtest.avi", "Megamind.avi")

Floats = NDArray[np.float64]
Path = Callable[[float], float]
Placing = Callable[[float], tuple[Floats, Floats, Floats]]
Painter = Callable[[Generator, int, int], NDArray[np.uint8]]
Camera = Callable[[float], tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class Turning:
    """About an axis, float64 [3] of length 1, from an angle on by so much in a second (radians)."""

    axis: Floats
    start: float
    speed: float

    def at(self, t: float) -> Floats:
        """float64 [3, 3]."""
        return np.asarray(cv2.Rodrigues(self.axis * (self.start + self.speed * t))[0], np.float64)


@dataclass(frozen=True, eq=False)
class Surface:
    """A flat picture in space.

    Args:
        picture: uint8 [h, w, 3] RGB.
        alpha: uint8 [h, w], 255 where the surface is.
        placing: from a time to the world's place of the picture's upper left corner, and the steps from one pixel to
            the next one to the right and below.
        moving: whether it moves by itself.
        one_sided: whether it is seen from its front alone.
    """

    picture: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    placing: Placing
    moving: bool = False
    one_sided: bool = False


@dataclass(frozen=True, eq=False)
class Look:
    """What becomes of the light.

    Args:
        deviation: the picture's standard deviation in gray levels; None leaves it.
        gain: by time.
        shadow: whether a soft shadow wanders over the picture.
        noise: of the sensor, standard deviation in gray levels.
    """

    deviation: float | None = None
    gain: Path = lambda t: 1.0
    shadow: bool = False
    noise: float = NOISE


@dataclass(frozen=True, eq=False)
class Room:
    """Surfaces, from back to front, under a moving camera.

    Args:
        name: the scene's.
        seed: what it was drawn from.
        surfaces: the walls first.
        camera: from a time to the camera's place [3] and its turning [3, 3], from the world's axes to the camera's.
        look: what becomes of the light.
        blurred: whether things blur as they move.
        cut: another room, shown from half of the time on.
        readout: seconds from the first row's exposure to the last one's.
    """

    name: str
    seed: int
    surfaces: tuple[Surface, ...]
    camera: Camera
    look: Look = field(default_factory=Look)
    blurred: bool = False
    cut: "Room | None" = None
    readout: float = 0.0

    @property
    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The frames one after the other, each uint8 [H, W, 3] RGB."""
        for number in range(FRAMES):
            yield self._lit(number)

    def shows(self, number: int) -> "Room":
        """The room that a frame shows."""
        return self.cut if self.cut is not None and number >= FRAMES // 2 else self

    def flow(
        self, number_from: int, number_to: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """The way of what is seen at each pixel of one frame, to where it is in another one.

        Returns:
            float32 [H, W, 2], (dx, dy) in pixels; bool [H, W], whether it is seen there; bool [H, W], whether it
            belongs to something that moves by itself.
        """
        one, other = self.shows(number_from), self.shows(number_to)
        t_from, t_to = number_from / RATE, number_to / RATE
        top, at = one._top(t_from)
        moving = np.array([surface.moving for surface in one.surfaces])[top]
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
        if one is not other:
            return np.zeros((HEIGHT, WIDTH, 2), np.float32), np.zeros((HEIGHT, WIDTH), np.bool_), moving
        there = np.empty((HEIGHT, WIDTH, 2))
        for number in range(len(one.surfaces)):
            chosen = top == number
            there[chosen] = one._seen_at(number, t_to, at[chosen])
        near = np.rint(there).clip(-1, [WIDTH, HEIGHT]).astype(np.int64)
        inside = ((near >= 0) & (near < [WIDTH, HEIGHT])).all(-1)
        col, row = near[..., 0].clip(0, WIDTH - 1), near[..., 1].clip(0, HEIGHT - 1)
        seen = inside & (other._top(t_to)[0][row, col] == top)
        return (there - np.stack([x, y], axis=-1)).astype(np.float32), seen, moving

    def _times(self, t: float, rows: Floats) -> Floats:
        """When a frame's rows are exposed: a time for each, or one for all."""
        return t + self.readout * (rows / (HEIGHT - 1) - 0.5) if self.readout else np.array([t])

    def _seen_at(self, number: int, t: float, points: Floats) -> Floats:
        """Where a surface's points [N, 2] are in a time's frame, float64 [N, 2]; behind the camera far outside."""
        points = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        matrices = np.stack([self._to_pixels(number, time) for time in self._times(t, np.arange(HEIGHT))])
        found = points @ matrices[len(matrices) // 2].T
        for _ in range(ROUNDS if self.readout else 0):
            # a point is seen in a row that has this row's time
            row = (found[:, 1] / _not_zero(found[:, 2])).clip(0, HEIGHT - 1)
            above = row.astype(np.int64).clip(0, HEIGHT - 2)
            between = (row - above)[:, None, None]
            each = (1 - between) * matrices[above] + between * matrices[above + 1]
            found = np.einsum("nij,nj->ni", each, points)
        return np.where(found[:, 2:] > 0.05, found[:, :2] / _not_zero(found[:, 2:]), -1e4)

    def _to_pixels(self, number: int, t: float) -> Floats:
        """From a surface's pixels to the frame's, float64 [3, 3]; the third coordinate is the depth."""
        place, turned = self.camera(t)
        corner, right, down = self.surfaces[number].placing(t)
        lens = np.array([[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]])
        return lens @ turned @ np.stack([right, down, corner - place], axis=1)

    def _matrix(self, number: int, t: float) -> Floats | None:
        """As `_to_pixels`; None where a surface turns its back to the camera."""
        matrix = self._to_pixels(number, t)
        return None if self.surfaces[number].one_sided and np.linalg.det(matrix) <= 0 else matrix

    @functools.lru_cache(maxsize=24)  # noqa: B019  (a room lives as long as the process)
    def _top(self, t: float) -> tuple[NDArray[np.int64], Floats]:
        """Which surface is seen at each pixel, int64 [H, W], and where of it, float64 [H, W, 2]."""
        top, at = np.zeros((HEIGHT, WIDTH), np.int64), np.zeros((HEIGHT, WIDTH, 2))
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
        for number, surface in enumerate(self.surfaces):
            if self._matrix(number, t) is None:
                continue
            back = np.linalg.inv([self._to_pixels(number, time) for time in self._times(t, np.arange(HEIGHT))])
            a, b, c = (back[:, i, :1] * x + back[:, i, 1:2] * y + back[:, i, 2:] for i in range(3))
            where = np.stack([a, b], axis=-1) / np.where(c > 1e-9, c, 1)[..., None]
            cover = cv2.remap(surface.alpha, where.astype(np.float32), None, cv2.INTER_LINEAR, borderValue=0)
            chosen = (cover >= 127.5) & (c > 1e-9)
            top[chosen], at[chosen] = number, where[chosen]
        return top, at

    def _image(self, t: float) -> NDArray[np.float32]:
        image = np.zeros((HEIGHT * SUPER, WIDTH * SUPER, 3), np.uint8)
        times = self._times(t, np.arange(HEIGHT))
        for number, band in enumerate(np.split(image, len(times))):
            self._paint(band, number * len(band), float(times[number]))
        return np.asarray(
            cv2.resize(image.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.float32
        )

    def _paint(self, band: NDArray[np.uint8], first: int, t: float) -> None:
        """Paint rows of a picture that is `SUPER` times finer, uint8 [rows, SUPER * W, 3], from the first one on."""
        finer = np.array([[SUPER, 0, (SUPER - 1) / 2], [0, SUPER, (SUPER - 1) / 2 - first], [0, 0, 1]])
        for number, surface in enumerate(self.surfaces):
            matrix = self._matrix(number, t)
            if matrix is None:
                continue
            matrix = finer @ matrix
            cover = cv2.warpPerspective(surface.alpha, matrix, band.shape[1::-1], flags=cv2.INTER_LINEAR)
            over = np.linalg.inv(matrix)[2]  # one over the depth, which is positive before the camera
            rows, cols = np.ogrid[: band.shape[0], : band.shape[1]]
            cover[over[0] * cols + (over[1] * rows + over[2]) <= 1e-9] = 0
            x, y, w, h = cv2.boundingRect(cover)
            if not w:
                continue
            moved = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]]) @ matrix
            found = cv2.warpPerspective(
                surface.picture, moved, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            )
            part, weight = band[y : y + h, x : x + w], cover[y : y + h, x : x + w, None] / np.float32(255)
            np.copyto(part, np.rint(part + weight * (found - part.astype(np.float32))), casting="unsafe")

    def _rendered(self, number: int) -> NDArray[np.float32]:
        """A frame before anything becomes of the light."""
        t = number / RATE
        times = t + (np.arange(SUBFRAMES) + 0.5 - SUBFRAMES / 2) / SUBFRAMES * EXPOSED / RATE if self.blurred else [t]
        return np.asarray(
            np.mean([_image_of(self.surfaces, self.camera, self.readout, time) for time in times], axis=0), np.float32
        )

    def _lit(self, number: int) -> NDArray[np.uint8]:
        image, look, t = self.shows(number)._rendered(number), self.look, number / RATE
        if look.deviation is not None:
            mean, deviation = _light(self)
            # what a dim room leaves: little contrast on a low level
            image = 3 * look.deviation + 20 + (image - mean) * look.deviation / deviation
        if look.shadow:
            y, x = np.mgrid[:HEIGHT, :WIDTH]
            middle = WIDTH * (0.1 + 0.8 * t / SECONDS), HEIGHT * 0.5
            image = (
                image * (1 - 0.45 * np.exp(-(((x - middle[0]) / 90) ** 2 + ((y - middle[1]) / 110) ** 2)))[..., None]
            )
        random = np.random.default_rng([_number(self.name), self.seed, number])
        image = look.gain(t) * image + look.noise * random.standard_normal(image.shape)
        return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


@functools.lru_cache(maxsize=2 * FRAMES * SUBFRAMES)
def _image_of(surfaces: tuple[Surface, ...], camera: Camera, readout: float, t: float) -> NDArray[np.float16]:
    """A room's picture; rooms that differ in their light alone share it."""
    return Room("", 0, surfaces, camera, readout=readout)._image(t).astype(np.float16)


def _light(room: Room) -> tuple[float, float]:
    """Mean and standard deviation of a room's first picture in gray."""
    gray = room._rendered(0).mean(-1)
    return float(gray.mean()), float(gray.std())


def _not_zero(depth: Floats) -> Floats:
    return np.where(np.abs(depth) < 1e-6, 1e-6, depth)


# Pictures and places


def _picture(random: Generator, height: int, width: int, contrast: float = 1.0) -> NDArray[np.uint8]:
    """[FINE * height, FINE * width, 3]."""
    return _texture(int(random.integers(2**31)), height, width, contrast)


def _wall(random: Generator, height: int, width: int) -> NDArray[np.uint8]:
    """As `_picture`; some walls are plain."""
    return _picture(random, height, width, random.uniform(0.15, 1))


def _bare(random: Generator, height: int, width: int) -> NDArray[np.uint8]:
    """One colour that gets a little brighter to one side: an encoder freezes the camera's noise on it."""
    y, x = np.mgrid[: FINE * height, : FINE * width] / np.float32(FINE * max(height, width))
    slope, colour = random.uniform(-25, 25, 2), random.uniform(90, 190) + random.normal(0, 12, 3)
    return np.asarray(np.rint(colour + (slope[0] * x + slope[1] * y)[..., None]).clip(0, 255), np.uint8)


def _repeating(random: Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Stripes or a board with a little of everything else on it."""
    y, x = np.mgrid[: FINE * height, : FINE * width].astype(np.float64)
    period, angle = random.uniform(40, 70), random.choice([0.0, 0.3, np.pi / 2])
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.sin(2 * np.pi * u / period)
    if random.random() < 0.6:
        wave = wave * np.sin(2 * np.pi * v / period)
    base = 128 + 60 * np.tanh(4 * wave)[..., None] + 0.04 * (_picture(random, height, width).astype(np.float64) - 128)
    return np.asarray(cv2.GaussianBlur(base, (0, 0), 0.8 * FINE).clip(0, 255), np.uint8)


def _whole(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.full(picture.shape[:2], 255, np.uint8)


def _fixed(corner: Floats, right: Floats, down: Floats) -> Placing:
    return lambda t: (corner, right, down)


def _walls(random: Generator, draw: Painter) -> list[Surface]:
    """Back wall, floor, ceiling and side walls of a room of 6 x 3 x 6 metres around the camera."""
    half, height, depth = 3.2, 1.6, random.uniform(4.5, 6)
    walls = []
    for corner, right, down in (
        ((-half, -height, depth), (2 * half, 0, 0), (0, 2 * height, 0)),
        ((-half, height, 0.4), (2 * half, 0, 0), (0, 0, depth - 0.4)),
        ((-half, -height, 0.4), (2 * half, 0, 0), (0, 0, depth - 0.4)),
        ((-half, -height, 0.4), (0, 0, depth - 0.4), (0, 2 * height, 0)),
        ((half, -height, 0.4), (0, 0, depth - 0.4), (0, 2 * height, 0)),
    ):
        sides = [np.array(side, np.float64) for side in (right, down)]
        width, tall = (int(np.linalg.norm(side) * 75) for side in sides)
        picture = draw(random, tall, width)
        # walls reach a little beyond each other: no gap in the corners
        walls.append(
            Surface(
                picture,
                _whole(picture),
                _fixed(np.array(corner, np.float64), sides[0] / picture.shape[1], sides[1] / picture.shape[0]),
            )
        )
    return walls


def _standing(random: Generator, count: int) -> list[Surface]:
    """Flat things that stand in the room, from back to front."""
    things = []
    for z in np.sort(random.uniform(2, 4, count))[::-1]:
        width, height = random.uniform(0.4, 1.0, 2)
        picture = _picture(random, int(height * 110), int(width * 110))
        corner = np.array([random.uniform(-1.2, 0.8), random.uniform(-0.6, 0.3), z])
        right, down = np.array([width, 0, 0]) / picture.shape[1], np.array([0, height, 0]) / picture.shape[0]
        things.append(Surface(picture, _whole(picture), _fixed(corner, right, down)))
    return things


def _flat(
    picture: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    size: float,
    x: Path,
    y: Path,
    z: float,
    angle: Path = lambda t: 0.0,
    stretch: Path = lambda t: 1.0,
) -> Surface:
    """Something flat that faces the camera's first direction and moves with its middle at (x, y, z)."""
    step = size / picture.shape[1]

    def placing(t: float) -> tuple[Floats, Floats, Floats]:
        c, s = np.cos(angle(t)), np.sin(angle(t))
        right, down = step * np.array([c, s, 0]), step * stretch(t) * np.array([-s, c, 0])
        middle = np.array([x(t), y(t), z])
        return middle - right * picture.shape[1] / 2 - down * picture.shape[0] / 2, right, down

    return Surface(picture, alpha, placing, moving=True)


def _hand_shape(size: int) -> NDArray[np.uint8]:
    """The alpha of a hand with a forearm, uint8 [FINE * size, FINE * size]."""
    side = FINE * size
    mask = np.zeros((side, side), np.uint8)
    cv2.ellipse(mask, (side // 2, int(0.5 * side)), (int(0.17 * side), int(0.2 * side)), 0, 0, 360, 255, -1)
    cv2.line(mask, (side // 2, int(0.6 * side)), (int(0.55 * side), side), 255, int(0.2 * side))
    for end in ((0.3, 0.2), (0.42, 0.1), (0.54, 0.09), (0.66, 0.16), (0.78, 0.45)):
        cv2.line(mask, (side // 2, side // 2), (int(end[0] * side), int(end[1] * side)), 255, int(0.075 * side))
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), FINE / 2), np.uint8)


def _ball_shape(size: int) -> NDArray[np.uint8]:
    mask = np.zeros((FINE * size, FINE * size), np.uint8)
    cv2.circle(mask, (FINE * size // 2, FINE * size // 2), int(0.45 * FINE * size), 255, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), FINE / 2), np.uint8)


def _ball(
    picture: NDArray[np.uint8], radius: float, turning: "Turning", centre: Callable[[float], Floats]
) -> list[Surface]:
    """A ball of flat facets, and a picture as its map: longitudes to the right, latitudes down."""
    facets = []
    for ring in range(RINGS):
        latitude, tall = np.pi * (ring + 0.5) / RINGS - np.pi / 2, np.pi / RINGS * (0.5 + OVER)
        count = max(10, round(2 * RINGS * np.cos(latitude)))
        wide = 2 * np.pi / count * (0.5 + OVER)
        for longitude in 2 * np.pi / count * np.arange(count):
            facets.append(_facet(picture, (longitude, latitude), (wide, tall), radius, turning, centre))
    return facets


def _facet(
    picture: NDArray[np.uint8],
    place: tuple[float, float],
    half: tuple[float, float],
    radius: float,
    turning: "Turning",
    centre: Callable[[float], Floats],
) -> Surface:
    """What is seen of a ball's map through a plane that touches it at a place, as far as half a facet reaches."""
    out, right, down = _directions(*place)
    ends = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = np.array([_directions(place[0] + x * half[0], place[1] + y * half[1])[0] for x, y in ends])
    # in radii, on the plane
    flat = np.stack([corners @ right, corners @ down], axis=-1) / (corners @ out)[:, None]
    low, size = flat.min(0), np.ptp(flat, axis=0)
    shape = np.ceil(size * radius * FINE * DETAIL).astype(np.int64)
    u, v = (low[i] + (np.arange(shape[i]) + 0.5) / shape[i] * size[i] for i in range(2))
    points = out + u[:, None] * right + v[:, None, None] * down
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    height, width = picture.shape[:2]
    to_x = (np.arctan2(points[..., 0], points[..., 2]) / (2 * np.pi) % 1) * width
    to_y = (np.arcsin(points[..., 1]) / np.pi + 0.5) * height
    part = cv2.remap(
        picture, to_x.astype(np.float32), to_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    alpha = np.zeros(shape[::-1], np.uint8)
    cv2.fillConvexPoly(alpha, np.rint((flat - low) / size * shape - 0.5).astype(np.int32), 255)

    def placing(t: float) -> tuple[Floats, Floats, Floats]:
        turned = radius * turning.at(t)
        to_right, to_down = turned @ right * size[0] / shape[0], turned @ down * size[1] / shape[1]
        corner = centre(t) + turned @ (out + low[0] * right + low[1] * down)
        return corner + (to_right + to_down) / 2, to_right, to_down

    return Surface(np.asarray(part, np.uint8), alpha, placing, moving=True, one_sided=True)


def _directions(longitude: float, latitude: float) -> tuple[Floats, Floats, Floats]:
    """Out of a ball, and along it to the right and down, seen from outside."""
    c, s, a, b = np.cos(longitude), np.sin(longitude), np.cos(latitude), np.sin(latitude)
    return np.array([s * a, b, c * a]), np.array([-c, 0, s]), np.array([-s * b, a, -c * b])


def _cloth(picture: NDArray[np.uint8], at: Callable[[Floats, float], Floats]) -> list[Surface]:
    """A picture on cloth: triangles between points of it, [2] from 0 to 1 to the right and down, that are at a place
    at a time."""
    size = np.array(picture.shape[1::-1]) // CELLS
    tall, wide = size[::-1]
    hem = cv2.copyMakeBorder(picture, HEM, HEM, HEM, HEM, cv2.BORDER_REFLECT_101)
    triangles = []
    for row, col in np.ndindex(CELLS, CELLS):
        part = hem[row * tall : (row + 1) * tall + 2 * HEM, col * wide : (col + 1) * wide + 2 * HEM]
        # a triangle has a corner that is a corner of the cell's picture, one beside it and one above or below it
        for corner in (np.array([0, 0]), np.array([1, 1])):
            ends = np.array([corner, [1 - corner[0], corner[1]], [corner[0], 1 - corner[1]]])
            alpha = np.zeros(part.shape[:2], np.uint8)
            cv2.fillConvexPoly(alpha, (HEM + ends * (size - 1)).astype(np.int32), 255)
            alpha = np.asarray(cv2.dilate(alpha, np.ones((3, 3))), np.uint8)
            points = (ends + [col, row]) / CELLS

            def placing(t: float, points: Floats = points, corner: Floats = corner) -> tuple[Floats, Floats, Floats]:
                here, beside, below = (at(point, t) for point in points)
                right, down = (beside - here) * (1 - 2 * corner[0]) / wide, (below - here) * (1 - 2 * corner[1]) / tall
                first = here - right * (corner[0] * wide + HEM - 0.5) - down * (corner[1] * tall + HEM - 0.5)
                return first, right, down

            triangles.append(Surface(np.ascontiguousarray(part), alpha, placing, moving=True))
    return triangles


# Paths


def _swing(random: Generator, most: float, period: tuple[float, float] = (1.6, 4)) -> Path:
    """Back and forth by so much."""
    omega, phase = 2 * np.pi / random.uniform(*period), random.uniform(0, 2 * np.pi)
    return lambda t: float(most * np.sin(omega * t + phase))


def _shake(random: Generator, most: float) -> Path:
    hertz = np.array([0.6, 1.4, 3.0]) * random.uniform(0.8, 1.2, 3)
    phases, sizes = random.uniform(0, 2 * np.pi, 3), most * np.array([1, 0.4, 0.12])
    return lambda t: float((sizes * np.sin(2 * np.pi * hertz * t + phases)).sum())


def _held(
    random: Generator, shake: float, forward: float = 0.0, sideways: float = 0.0, turn: Path = lambda t: 0.0
) -> Camera:
    """A camera in a hand: `shake` in radians, speeds in metres per second, `turn` about the vertical."""
    yaw, pitch, roll = (_shake(random, shake * size) for size in (1, 1, 0.7))
    x, y = _shake(random, shake), _shake(random, shake)

    def camera(t: float) -> tuple[Floats, Floats]:
        a, b, c = turn(t) + yaw(t), pitch(t), roll(t)
        around_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
        around_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        around_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        when = t - SECONDS / 2
        return np.array([sideways * when + x(t), y(t), 0.2 + forward * when]), around_z @ around_x @ around_y

    return camera


# Scenes


def _walk(random: Generator) -> dict[str, object]:
    camera = _held(random, 0.015, random.uniform(0.15, 0.3), _signed(random, 0.05, 0.2))
    return {"surfaces": [*_walls(random, _wall), *_standing(random, 4)], "camera": camera}


def _pan(random: Generator, wall: Painter = _wall) -> dict[str, object]:
    camera = _held(random, 0.01, 0, _signed(random, 0, 0.1), _swing(random, random.uniform(0.22, 0.3), (3.5, 5)))
    return {"surfaces": [*_walls(random, wall), *_standing(random, 4)], "camera": camera}


def _hand(random: Generator, wall: Painter = _wall) -> dict[str, object]:
    """A hand that comes, pushes a thing, and goes, again and again; and another one that waves."""
    z = 1.1
    reach = _swing(random, random.uniform(0.3, 0.4), (3.2, 4.5))
    place = random.uniform(-0.1, 0.1)
    thing, skin = _picture(random, 70, 70), _picture(random, 170, 170, 0.3)
    skin = np.asarray((skin * np.array([1.2, 0.95, 0.8])).clip(0, 255), np.uint8)
    pushed = [_flat(thing, _ball_shape(70), 0.2, lambda t: place + max(0.0, reach(t)) * 0.8, lambda t: 0.12, z + 0.05)]
    turn = _swing(random, 0.15)
    pushing = _flat(skin, _hand_shape(170), 0.45, lambda t: place - 0.2 + reach(t), lambda t: 0.1, z, turn)
    surfaces = [*_walls(random, wall), *_standing(random, 3), *pushed, pushing]
    return {"surfaces": surfaces, "camera": _held(random, 0.008)}


def _cube(random: Generator) -> dict[str, object]:
    """A cube that spins quickly, and stops quickly."""
    side, centre = 0.5, np.array([random.uniform(-0.2, 0.2), 0.1, 1.8])
    speed, stops = _signed(random, 1.5, 2.2), random.uniform(2.6, 3.4)
    start = random.uniform(0, 6)

    def angle(t: float) -> float:
        # slows down within 0.4 s
        late = np.clip(t - stops, 0, 0.4)
        return float(start + speed * (min(t, stops) + late - late**2 / 0.8))

    faces = []
    for right, down in (
        ((1, 0, 0), (0, 1, 0)),
        ((-1, 0, 0), (0, 1, 0)),
        ((0, 0, 1), (0, 1, 0)),
        ((0, 0, -1), (0, 1, 0)),
    ):
        picture = _picture(random, 80, 80)
        r, d = np.array(right, np.float64), np.array(down, np.float64)

        def placing(
            t: float, r: Floats = r, d: Floats = d, n: int = picture.shape[0]
        ) -> tuple[Floats, Floats, Floats]:
            a = angle(t)
            spin = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
            out = spin @ np.cross(d, r) * side / 2
            return centre + out - spin @ (r + d) * side / 2, spin @ r * side / n, spin @ d * side / n

        faces.append(Surface(picture, _whole(picture), placing, moving=True, one_sided=True))
    return {"surfaces": [*_walls(random, _wall), *faces], "camera": _held(random, 0.006)}


def _globe(random: Generator) -> dict[str, object]:
    """A globe that turns before bare walls; the camera stands still."""
    turning = Turning(np.array([0.0, 0.98, 0.2]), random.uniform(0, 6), _signed(random, 0.15, 0.4))
    globe = _ball(_picture(random, 250, 500), 0.5, turning, lambda t: np.array([0.0, 0.0, 2.0]))
    return {"surfaces": [*_walls(random, _bare), *globe], "camera": _held(random, 0.0)}


def _balls(random: Generator) -> dict[str, object]:
    """Two balls that turn and move."""
    balls = []
    for radius, z in ((0.36, 1.9), (0.2, 1.3)):
        axis = random.standard_normal(3)
        turning = Turning(axis / np.linalg.norm(axis), random.uniform(0, 6), _signed(random, 0.3, 0.8))
        x, y, middle = _swing(random, 0.08), _swing(random, 0.04), random.uniform(-0.3, 0.3)

        def centre(t: float, x: Path = x, y: Path = y, middle: float = middle, z: float = z) -> Floats:
            return np.array([middle + x(t), y(t), z])

        balls += _ball(_picture(random, 180, 360), radius, turning, centre)
    return {"surfaces": [*_walls(random, _wall), *balls], "camera": _held(random, 0.006)}


def _waving(random: Generator) -> dict[str, object]:
    """Cloth that hangs in the room and waves."""
    sway, lift = _swing(random, 0.06), _swing(random, 0.03)
    waves, omega = 2 * np.pi * random.uniform(0.8, 1.5, 2), 2 * np.pi / random.uniform(1.5, 3)

    def at(point: Floats, t: float) -> Floats:
        deep = 0.08 * point[1] * np.sin(waves @ point - omega * t)
        return np.array([point[0] - 0.5 + point[1] * sway(t), 0.8 * point[1] - 0.45 + point[1] * lift(t), 1.7 + deep])

    cloth = _cloth(_picture(random, 200, 250), at)
    return {"surfaces": [*_walls(random, _wall), *_standing(random, 2), *cloth], "camera": _held(random, 0.006)}


def _small_fast(random: Generator) -> dict[str, object]:
    balls = []
    for _ in range(6):
        size = random.uniform(0.08, 0.13)
        x, y = _swing(random, random.uniform(0.2, 0.6)), _swing(random, random.uniform(0.1, 0.4))
        balls.append(_flat(_picture(random, 40, 40), _ball_shape(40), size, x, y, 1.5))
    return {"surfaces": [*_walls(random, _wall), *_standing(random, 2), *balls], "camera": _held(random, 0.006)}


def _talking(random: Generator) -> dict[str, object]:
    """A tripod, and a head that nods and stretches."""
    x, y, angle = _swing(random, 0.04), _swing(random, 0.03), _swing(random, 0.08)
    stretch = _swing(random, 0.05)
    head = _flat(_picture(random, 150, 150, 0.6), _ball_shape(150), 0.55, x, y, 1.4, angle, lambda t: 1 + stretch(t))
    return {"surfaces": [*_walls(random, _wall), *_standing(random, 3), head], "camera": _held(random, 0.0)}


def _repeats(random: Generator) -> dict[str, object]:
    camera = _held(random, 0.01, 0, _signed(random, 0.2, 0.4), _swing(random, 0.05))
    return {"surfaces": [*_walls(random, _repeating), *_standing(random, 2)], "camera": camera}


def _still(random: Generator) -> dict[str, object]:
    return {"surfaces": [*_walls(random, _wall), *_standing(random, 3)], "camera": _held(random, 0.0006)}


def _photo(clip: str, still: bool) -> Callable[[Generator], dict[str, object]]:
    """Before a wall that is a picture of a real clip, a piece of another picture of it and a hand move; the camera is
    held in a hand, or stands still."""

    def scene(random: Generator) -> dict[str, object]:
        frames = read_clip(str(ROOT / "clips" / clip), fps=2.0, max_frames=12).frames
        wall, other = (frames[i] for i in random.choice(len(frames), 2, replace=False))
        depth, view = 4.0, 4.0 * WIDTH / FOCAL
        step = 1.1 * max(view / wall.shape[1], view * HEIGHT / WIDTH / wall.shape[0])
        beyond = int(0.5 * view / step)  # what the camera sees when it turns away
        wide = np.asarray(cv2.copyMakeBorder(wall, beyond, beyond, beyond, beyond, cv2.BORDER_REFLECT_101), np.uint8)
        corner = np.array([-wide.shape[1] / 2 * step, -wide.shape[0] / 2 * step, depth])
        back = Surface(wide, _whole(wide), _fixed(corner, np.array([step, 0, 0]), np.array([0, step, 0])))
        side = min(other.shape[:2])
        piece = np.asarray(cv2.resize(other[:side, :side], (FINE * 100, FINE * 100)), np.uint8)
        pale = (other[-side:, -side:] // 2 + np.array([90, 60, 45])).astype(np.uint8)
        skin = np.asarray(cv2.resize(pale, (FINE * 170, FINE * 170)), np.uint8)
        x, y, angle = _swing(random, 0.35), _swing(random, 0.1), _swing(random, 0.2)
        reach = _swing(random, random.uniform(0.25, 0.4), (3, 4.5))
        surfaces = [
            back,
            _flat(piece, _ball_shape(100), 0.4, lambda t: 0.3 + x(t), lambda t: y(t) - 0.1, 1.6, angle),
            _flat(skin, _hand_shape(170), 0.45, lambda t: reach(t) - 0.2, lambda t: 0.12, 1.2, angle),
        ]
        held = _held(random, 0.01, random.uniform(0, 0.2), _signed(random, 0, 0.3))
        return {"surfaces": surfaces, "camera": _held(random, 0.0) if still else held}

    return scene


def _drift(share: float) -> Path:
    """A gain that grows and falls by a share each half second, three times in a row each."""
    return lambda t: float((1 + share) ** (abs((t / 0.5 + 1.5) % 6 - 3) - 1.5))


def _fade(t: float) -> float:
    return float(np.clip(1 - (t - 1.5) / 3, 0, 1))


SCENES: dict[str, Callable[[Generator], dict[str, object]]] = {
    "walk": _walk,
    "pan": _pan,
    "hand": _hand,
    "cube": _cube,
    "globe": _globe,
    "balls": _balls,
    "cloth": _waving,
    "small fast": _small_fast,
    "talking": _talking,
    "repeats": _repeats,
    "still": _still,
    "bare pan": functools.partial(_pan, wall=_bare),
    "bare hand": functools.partial(_hand, wall=_bare),
    **{f"photo {clip}": _photo(clip, False) for clip in (*TUNED, *SCORED)},
    **{f"tripod {clip}": _photo(clip, True) for clip in (*TUNED, *SCORED)},
}
LOOKS: dict[str, Look] = {
    "": Look(),
    **{f"dim {deviation}": Look(deviation, noise=0.8) for deviation in (2, 4, 6, 11)},
    **{f"exposure {100 * share:g} %": Look(gain=_drift(share)) for share in (0.037, 0.07, 0.15)},
    "fade": Look(gain=_fade),
    "shadow": Look(shadow=True),
    "noise": Look(noise=8),
    "clean": Look(noise=0),
}
# Looks with a flow of their own; the others change the light of the first one
FLOWS = ("", "cut", "rolling")


@functools.lru_cache(maxsize=8)
def _drawn(scene: str, seed: int) -> Room:
    drawn = SCENES[scene](np.random.default_rng([_number(scene), seed]))
    return Room(scene, seed, tuple(drawn["surfaces"]), drawn["camera"])  # type: ignore[arg-type]


def room(scene: str, seed: int, look: str = "") -> Room:
    """Draw a scene of `SCENES` from its seed in a light of `LOOKS`; "blur" blurs it, "rolling" is a rolling shutter,
    and "cut" cuts to another room."""
    drawn = replace(_drawn(scene, seed), look=LOOKS.get(look, Look()), blurred=look == "blur")
    if look == "cut":
        return replace(drawn, cut=_drawn(scene, seed + 50))
    return replace(drawn, readout=READOUT) if look == "rolling" else drawn
