"""Pictures as files, as bytes and inside of a page."""

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.files import write_bytes


_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


def save_png(path: str | Path, image: NDArray[np.uint8]) -> Path:
    """Write uint8 [h, w, 3] RGB as PNG, whole or not at all, and return where it is. Its folder is made."""
    path = Path(path)
    write_bytes(path, encode_image(image, ".png"))
    return path


def encode_image(image: NDArray[np.uint8], suffix: str, options: Sequence[int] = ()) -> bytes:
    """Encode uint8 [h, w, 3] RGB as ".png" or ".jpg"; `options` as cv2.imencode takes them.

    Raises:
        ValueError: if the picture cannot be encoded.
    """
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(options))
    if not done:
        raise ValueError(f"an image {image.shape} cannot be encoded as {suffix}")
    return bytes(data)


def data_uri(image: NDArray[np.uint8]) -> str:
    """The picture, uint8 [h, w, 3] RGB, as PNG, or as JPEG where PNG would be more than half as large again."""
    png, jpeg = encode_image(image, ".png"), encode_image(image, ".jpg", _JPEG)
    kind, data = ("png", png) if len(png) <= 1.5 * len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
