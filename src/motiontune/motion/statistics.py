"""Numbers that sum up the motion of one clip: how far, how much of it, and how much of that is the camera's."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motiontune.grid import VideoGrid
from motiontune.motion.field import MOVING_PIXELS, MotionField
from motiontune.motion.follow.camera import MOST, STILL, fit_camera


LEAST_PATCHES = 12
"""The camera's motion is an affine map: of fewer patches it could be anything."""

NEAR_SHARE = 0.05
"""A patch moves as the camera does if it differs by no more than `MOVING_PIXELS` and this share of that motion."""


@dataclass(frozen=True)
class MotionStatistics:
    """The motion of a clip, summed up; None is what cannot be known of it.

    The camera's motion is the affine one that most of a frame's patches agree on. So an object that fills most of a
    frame counts as the camera. Of fewer than `LEAST_PATCHES` valid patches in a frame it cannot be told; where they
    agree on nothing, none moves as the camera does.

    Args:
        valid_share: share of patches with a vector, of those of frames that have a neighbour.
        mean_px: mean displacement of the valid patches, pixels of the resized frame.
        median_px: its median.
        moving_share: share of the valid patches that move, by more than `MOVING_PIXELS`.
        camera_share: share of the moving patches that move as the camera does, in the frames that tell; None where
            there are none, or nothing moves in them.
        camera_px: mean displacement by the camera at the valid patches of frames whose patches agree, pixels.
    """

    valid_share: float
    mean_px: float | None = None
    median_px: float | None = None
    moving_share: float | None = None
    camera_share: float | None = None
    camera_px: float | None = None

    @classmethod
    def of(cls, field: MotionField, grid: VideoGrid) -> "MotionStatistics":
        """Sum up a field.

        Args:
            field: of any source.
            grid: its patches.
        """
        valid_share = round(field.valid_share, 6)
        lengths = np.linalg.norm(field.vectors[field.valid], axis=-1).astype(np.float64)
        if not len(lengths):
            return cls(valid_share)
        moving, told, with_camera, shifts = 0, 0, 0, list[NDArray[np.float64]]()
        points = _centres(grid)
        for vectors, valid in zip(field.vectors, field.valid, strict=True):
            here, moved = points[valid], vectors[valid].astype(np.float64)
            length = np.linalg.norm(moved, axis=-1)
            moves = length > MOVING_PIXELS
            moving += int(moves.sum())
            if len(here) < LEAST_PATCHES:
                continue
            told += int(moves.sum())
            camera = camera_displacements(here, moved)
            if camera is None:
                continue
            off = np.linalg.norm(moved - camera, axis=-1)
            # what is slow is near a camera that stands still, but most of its motion is its own
            with_camera += int((moves & _near(off, camera) & (off < length / 2)).sum())
            shifts.append(np.linalg.norm(camera, axis=-1))
        return cls(
            valid_share,
            round(float(lengths.mean()), 4),
            round(float(np.median(lengths)), 4),
            round(moving / len(lengths), 6),
            round(with_camera / told, 6) if told else None,
            round(float(np.concatenate(shifts).mean()), 4) if shifts else None,
        )


def camera_displacements(points: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """How far the camera moved each of some points of a frame.

    Args:
        points: [N, 2], pixels from the middle of the frame; `LEAST_PATCHES` or more.
        vectors: [N, 2], how their content moved, pixels.

    Returns:
        [N, 2], or None where they agree on nothing.
    """
    camera = fit_camera(np.ascontiguousarray(points), np.ascontiguousarray(vectors), STILL[None].copy(), None)
    displacements = points @ camera[:, :2].T + camera[:, 2] - points
    near = _near(np.linalg.norm(vectors - displacements, axis=-1), displacements)
    return displacements if near.mean() >= MOST else None


def _near(off: NDArray[np.float64], camera: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(off <= MOVING_PIXELS + NEAR_SHARE * np.linalg.norm(camera, axis=-1), np.bool_)


def _centres(grid: VideoGrid) -> NDArray[np.float64]:
    """The middle of each patch, [rows, cols, 2], pixels from the middle of the frame."""
    y, x = np.mgrid[: grid.rows, : grid.cols] + 0.5
    return np.stack([x - grid.cols / 2, y - grid.rows / 2], axis=-1) * float(grid.patch)
