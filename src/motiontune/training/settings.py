"""The settings of a run with motion, in two parts: what a batch holds, and what is done with it."""

from dataclasses import dataclass

from motiontune.cache import MotionCache
from motiontune.model.forward import MotionGradient
from motiontune.model.head import MotionHeadConfig
from motiontune.model.losses import MotionLossType
from motiontune.motion.options import MotionOptions


@dataclass(frozen=True)
class TargetSettings:
    """What the targets of a batch are, and what a bad clip does."""

    head: MotionHeadConfig
    """The head that is trained: token layout, direction and scale of the targets."""

    options: MotionOptions = MotionOptions()
    """Where motion comes from. Its direction must be the head's."""

    raise_on_error: bool = False
    """A clip that cannot be used stops the run. Otherwise it is left out of its batch and counted."""

    weighting: bool = False
    """Batches carry `motion_weights`, the confidence of each vector, while training."""

    cache: MotionCache | None = None
    """Keeps the motion of clips between epochs and runs. None computes it each time."""

    pictures: int = 0
    """The batches of an evaluation keep the frames of so many samples, the first ones, so that they can be drawn."""


def head_rate(wanted: float | None, learning_rate: float) -> float:
    """The learning rate of the motion head: what is wanted, or 10 times the trainer's."""
    return 10 * learning_rate if wanted is None else wanted


@dataclass(frozen=True)
class MotionSettings:
    """What a trainer does with the targets."""

    loss_weight: float = 1.0
    """Weight of the motion loss beside the cross-entropy."""

    loss_type: MotionLossType = "smooth_l1"
    """The motion loss; see `motion_loss_sum`."""

    gradient: MotionGradient = "all"
    """Which weights the motion loss trains, as in `MotionObjective`; `attach_motion` passes it on."""

    with_text: bool = True
    """Train the answer's text, too. Otherwise no row of `lm_head` is computed."""

    head_learning_rate: float | None = None
    """Learning rate of the motion head; None as in `head_rate`."""

    control: bool = False
    """Leave the loss to the trainer below, which then trains the text as it does without motion. The head is read in
    evaluations, and stays as it is."""
