"""Motion as colour: hue is direction, saturation is length, white is still.

The colour wheel is the one that optical flow is usually shown with (Baker et al., "A Database and Evaluation
Methodology for Optical Flow", ICCV 2007), so that pictures can be laid beside those of other tools.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


INVALID_GREY = 190
"""No direction is grey on the wheel, and zero motion is white, so grey can only mean: no vector here."""

# The wheel goes round in 55 steps. The eye tells yellows from reds better than blues from greens, hence the uneven
# arcs between the six pure colours.
_ARCS = (15, 6, 4, 11, 13, 6)
_STOPS = np.cumsum((0, *_ARCS))
_PURE = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float64)

_TOO_LONG = 0.75  # brightness of what is longer than the longest vector that was asked for
_ROUNDING = 1e-6


def flow_to_rgb(
    vectors: ArrayLike, max_magnitude: float | None = None, valid: ArrayLike | None = None
) -> NDArray[np.uint8]:
    """Colour vectors by direction and length.

    Args:
        vectors: [..., 2], (dx, dy), positive dx to the right and positive dy down.
        max_magnitude: the length of full saturation, in the unit of the vectors; longer ones are darkened. None takes
            the longest valid vector. Give it where pictures are to be compared.
        valid: bool [...]; grey where false. Vectors that are not finite are grey as well.

    Returns:
        uint8 [..., 3], RGB.

    Raises:
        ValueError: if the shapes do not fit, or `max_magnitude` is not positive.
    """
    flow = np.asarray(vectors, np.float64)
    if flow.ndim < 1 or flow.shape[-1] != 2:
        raise ValueError(f"vectors must be [..., 2], not {flow.shape}")
    if max_magnitude is not None and not max_magnitude > 0:
        raise ValueError(f"max_magnitude must be positive, not {max_magnitude}")
    shown = np.asarray(np.isfinite(flow).all(axis=-1))
    if valid is not None:
        mask = np.asarray(valid, np.bool_)
        if mask.shape != shown.shape:
            raise ValueError(f"valid must be {shown.shape}, not {mask.shape}")
        shown &= mask
    flow = np.where(shown[..., None], flow, 0.0)
    length = np.linalg.norm(flow, axis=-1)
    longest = max_magnitude if max_magnitude is not None else float(length.max(initial=0.0))
    saturation = length / max(longest, np.finfo(np.float64).tiny)
    colour = 1 - np.minimum(saturation, 1)[..., None] * (1 - _hue(flow))
    colour = np.where(saturation[..., None] > 1 + _ROUNDING, _TOO_LONG * _hue(flow), colour)
    rgb = np.floor(255 * colour).astype(np.uint8)
    return np.where(shown[..., None], rgb, np.uint8(INVALID_GREY))


def direction_rgb(vectors: ArrayLike) -> NDArray[np.uint8]:
    """Colour vectors [..., 2] by direction alone, fully saturated: uint8 [..., 3]."""
    return np.floor(255 * _hue(np.asarray(vectors, np.float64))).astype(np.uint8)


def colour_wheel_legend(size: int = 96) -> NDArray[np.uint8]:
    """Draw the wheel itself: each pixel of the disc has the colour of the vector from the centre to it.

    Args:
        size: side of the picture in pixels.

    Returns:
        uint8 [size, size, 3], RGB, white outside the disc.
    """
    radius = size / 2
    offsets = (np.arange(size) + 0.5 - radius) / radius
    vectors = np.stack(np.meshgrid(offsets, offsets), axis=-1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    inside = vectors / np.maximum(length, 1)
    cover = np.clip((1 - length) * radius + 0.5, 0, 1)  # share of the pixel inside the disc, for a smooth rim
    disc = flow_to_rgb(inside, max_magnitude=1.0)
    return np.asarray(np.round(cover * disc + (1 - cover) * 255), np.uint8)


def _hue(flow: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pure colour of each direction, [..., 2] to [..., 3] in 0 to 1. Red is right, then round by way of down."""
    # Negated as the wheel's authors do, and over 54 steps although there are 55: this leaves a faint seam just above
    # the right, and is what everybody's pictures look like.
    turn = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2
    steps = turn * (_STOPS[-1] - 1)
    return np.stack([np.interp(steps, _STOPS, channel) for channel in _PURE.T], axis=-1)
