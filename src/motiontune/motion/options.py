"""How motion is to be made: the choices that training, inspection and extraction share."""

from dataclasses import dataclass
from typing import Literal, get_args

from motiontune.motion.field import Direction


Quality = Literal["fast", "balanced", "best"]
QUALITIES: tuple[str, ...] = get_args(Quality)


@dataclass(frozen=True)
class MotionOptions:
    """What the user chooses.

    Args:
        source: "auto", or another name in `motiontune.motion.sources.SOURCES`.
        direction: "past" or "future".
        quality: how much time refinement by flow may take; see `docs/motion.md` for what it buys.
        min_confidence: vectors whose confidence is not above this are invalid. From 0 (all that there are) to 1.
        motion_dir: where "file" looks for motion files; None is beside the clip.
        raft_weights: the file with the weights of "raft"; None is torchvision's own download.
    """

    source: str = "auto"
    direction: Direction = "past"
    quality: Quality = "balanced"
    min_confidence: float = 0.3
    motion_dir: str | None = None
    raft_weights: str | None = None
