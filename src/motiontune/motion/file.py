"""Motion that the user computed."""

from typing import TYPE_CHECKING

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction, MotionField


if TYPE_CHECKING:
    from motiontune.clip import Clip


def file_motion(clip: "Clip", grid: VideoGrid, direction: Direction, motion_dir: str | None) -> MotionField:
    raise MotionUnavailable(f"{clip.path}: no motion file")
