"""Text in pictures."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray


def printable(text: str) -> str:
    """Put a space for each control character and line break: a model may write anything."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def text_width(text: str, size: int) -> float:
    """How wide a text is, in pixels."""
    return float(_font(size).getlength(text))


def shorten(text: str, size: int, width: float) -> str:
    """Cut the middle out of a text that is wider than `width` pixels: a path's end tells more than its middle."""
    text = " ".join(text.split())
    if text_width(text, size) <= width:
        return text
    fits, too_many = 0, len(text)
    while too_many - fits > 1:
        keep = (fits + too_many) // 2
        if text_width(_without_middle(text, keep), size) <= width:
            fits = keep
        else:
            too_many = keep
    return _without_middle(text, fits)


def write_texts(
    picture: NDArray[np.uint8], texts: list[tuple[float, float, str, int, tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    """Write texts, each (left, top, text, size, colour), into a copy of a picture uint8 [h, w, 3]."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for x, y, text, size, colour in texts:
        draw.text((x, y), text, fill=colour, font=_font(size))
    return np.array(image)


def _without_middle(text: str, keep: int) -> str:
    head = keep // 2
    return f"{text[:head]}…{text[len(text) - (keep - head) :]}"


@functools.cache
def _font(size: int) -> Any:  # Pillow has two classes of fonts, without a common base
    from PIL import ImageFont

    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)  # has more scripts than the font that Pillow brings
    except OSError:
        return ImageFont.load_default(size)
