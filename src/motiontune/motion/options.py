"""How motion is to be made: the choices that training, inspection and extraction share."""

from dataclasses import dataclass
from typing import Literal, get_args

from motiontune.errors import ConfigError
from motiontune.motion.field import STEP, Direction


Quality = Literal["fast", "balanced", "best"]
QUALITIES: tuple[str, ...] = get_args(Quality)


@dataclass(frozen=True)
class MotionOptions:
    """What the user chooses.

    Args:
        source: "auto", or another name in `motiontune.motion.sources.SOURCES`.
        direction: "past" or "future".
        quality: how much time block matching and optical flow may take; see `docs/motion.md` for what it buys.
        min_confidence: vectors whose confidence is not above this are invalid. From 0 (all that there are) to below 1.
        motion_dir: where "file" looks for motion files; None is beside the clip.
        raft_weights: the file with the weights of "raft"; None is torchvision's own download.

    Raises:
        ConfigError: on an unknown direction or quality, or a confidence outside of its range. A source is looked up
            where it is used: it may be a file of the user's.
    """

    source: str = "auto"
    direction: Direction = "past"
    quality: Quality = "balanced"
    min_confidence: float = 0.8
    motion_dir: str | None = None
    raft_weights: str | None = None

    def __post_init__(self) -> None:
        if self.direction not in STEP:
            raise ConfigError(f"motion_direction: {self.direction!r} is none of {', '.join(STEP)}")
        if self.quality not in QUALITIES:
            raise ConfigError(f"motion_quality: {self.quality!r} is none of {', '.join(QUALITIES)}")
        if not 0 <= self.min_confidence < 1:
            raise ConfigError(f"motion_min_confidence: {self.min_confidence} must be 0 or more and below 1")
