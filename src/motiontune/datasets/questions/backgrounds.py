"""What lies behind the objects: photos, drawn patterns, and the user's own videos."""

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from motiontune.errors import ConfigError, in_one_line
from motiontune.limits import PIXELS, PNG_MAGIC, check_png
from motiontune.video.clip import read_clip
from motiontune.video.find import VIDEO_SUFFIXES


PHOTO_SIDE = 256
PATTERNS = 24
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNSEEN_SHARE = 1 / 3
# Photos that packages bring along; those that are installed are taken.
PACKAGED = {
    "skimage": [f"data/{name}" for name in ("astronaut.png", "brick.png", "camera.png", "coffee.png", "grass.png")],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "gradio": [f"media_assets/images/{name}" for name in ("bus.png", "cheetah1.jpg", "groot.jpeg", "lion.jpg")]
    + ["media_assets/images/tower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
}


def find_photos(folder: str | Path | None = None) -> list[Path]:
    """The photos of a folder and those below it, or where none is given those of installed packages.

    Raises:
        ConfigError: if the folder has none.
    """
    if folder is not None:
        found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ConfigError(f"{folder}: has no photo in it ({' '.join(IMAGE_SUFFIXES)})")
        return found
    found = []
    for package, names in PACKAGED.items():
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            found += [path for name in names if (path := Path(spec.origin).parent / name).is_file()]
    return found


def read_photos(paths: Sequence[Path]) -> Tensor:
    """Read the middle square of each photo, uint8 [P, side, side, 3] RGB.

    Raises:
        ConfigError: naming one that cannot be read.
    """
    photos = [_square(_read(path), PHOTO_SIDE) for path in paths]
    return (
        torch.from_numpy(np.stack(photos)) if photos else torch.zeros(0, PHOTO_SIDE, PHOTO_SIDE, 3, dtype=torch.uint8)
    )


def _read(path: Path) -> NDArray[np.uint8]:
    with contextlib.suppress(OSError, ValueError, SyntaxError):  # OpenCV reads more formats, up to limits of its own
        try:
            with Image.open(path) as header:  # reads no more than that
                PIXELS.check(path, header.width * header.height)
        except Image.DecompressionBombError as error:
            raise ConfigError(f"{path}: {in_one_line(error)}: take it out of the folder") from error
    data, image = path.read_bytes(), None
    if data.startswith(PNG_MAGIC):
        check_png(path, data)
    with contextlib.suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigError(f"{path}: cannot be read as a photo: take it out of the folder")
    return np.asarray(image[..., ::-1], np.uint8)


def _square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle square of an image [height, width, 3], resized."""
    height, width = image.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = np.ascontiguousarray(image[top : top + least, left : left + least])
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def draw_patterns(count: int = PATTERNS) -> Tensor:
    """Draw backgrounds, uint8 [count, side, side, 3]: clouds of two colours, coarse or fine, some nearly plain."""
    random = torch.Generator().manual_seed(7)
    patterns = []
    for number in range(count):
        total = torch.zeros(1, 1, PHOTO_SIDE, PHOTO_SIDE)
        for octave in range(3):
            cells = (6, 14, 30)[number % 3] * 2**octave
            noise = torch.rand(1, 1, cells, cells, generator=random)
            total += F.interpolate(noise, size=(PHOTO_SIDE, PHOTO_SIDE), mode="bicubic") / 2**octave
        share = ((total - total.min()) / (total.max() - total.min()))[0, 0, :, :, None]
        one, other = torch.rand(2, 3, generator=random) * 200 + 25
        other = one + (other - one) * (0.25 if number % 4 == 0 else 1.0)
        patterns.append((one + (other - one) * share).clamp(0, 255).to(torch.uint8))
    return torch.stack(patterns)


def find_behind(folder: str | Path) -> list[Path]:
    """The videos and photos of a folder, and those below it.

    Raises:
        ConfigError: if there are none.
    """
    wanted = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in wanted and path.is_file())
    if not found:
        raise ConfigError(f"{folder}: has no video or photo in it")
    return found


def frames_behind(path: Path, side: int, frames: int, fps: float) -> tuple[NDArray[np.uint8], bool]:
    """Frames to draw on: uint8 [frames, side, side, 3], and whether they stand still.

    A video gives its first frames at that rate; a shorter one goes on backwards, and forwards again.

    Raises:
        ConfigError: if it cannot be read.
        ClipError: likewise, of a video.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return np.repeat(_square(_read(path), side)[None], frames, 0), True
    clip = read_clip(str(path), fps, frames, resize=lambda image: _square(image, side))
    own = len(clip.frames)
    order = np.abs((np.arange(frames) + own - 1) % max(2 * own - 2, 1) - own + 1)
    return np.asarray(clip.frames[order]), False
