"""Whether motion is being learned, in pixels, from what a training step has computed anyway."""

import torch
from torch import Tensor

from motiontune.motion.field import MOVING_PIXELS
from motiontune.targets import HeadForm


CHECKED_STEPS = 100
"""Steps over which the end-point error of the training is compared with that of predicting no motion."""

NO_BETTER = 0.98
"""The share of the end-point error of no motion from which on nothing counts as learned."""

SUMS = 6
"""How many numbers `end_point_sums` returns."""


def end_point_sums(predicted: Tensor, target: Tensor, mask: Tensor, unit: float) -> Tensor:
    """Sum end-point errors over the valid vectors; nothing waits for the device.

    Args:
        predicted: float32 [T, D], x and y alternating along D.
        target: float32 [T, D].
        mask: bool [T, D], x and y of a vector alike.
        unit: pixels of the resized frame that a value of 1 stands for.

    Returns:
        float64 [6]: the number of vectors, their end-point errors, those of predicting no motion; the same three of
        the vectors that move by more than `MOVING_PIXELS`.
    """
    p, t = (unit * values.detach().float().unflatten(-1, (-1, 2)) for values in (predicted, target))
    length, error = t.norm(dim=-1), (p - t).norm(dim=-1)
    valid = mask.unflatten(-1, (-1, 2))[..., 0]
    zero = error.new_zeros(())
    sums = []
    for chosen in (valid, valid & (length > MOVING_PIXELS)):
        sums.append(chosen.sum().double())
        sums += [torch.where(chosen, values, zero).sum(dtype=torch.float64) for values in (error, length)]
    return torch.stack(sums)


def names_of(form: HeadForm) -> tuple[tuple[str, str], tuple[str, str]]:
    """What the log calls the errors: (of the model, of no motion) over all vectors, and over those that move."""
    epe = "pooled_epe" if form.form == "pooled" else "epe"
    return (epe, f"{epe}_zero_motion"), (f"{epe}_moving", f"{epe}_moving_zero_motion")


class Progress:
    """Notices a training that predicts motion no better than no motion, once.

    Args:
        warmup: steps in which the learning rate still rises; they are not looked at, nor are the first
            `CHECKED_STEPS`.
    """

    def __init__(self, warmup: int) -> None:
        self._from = max(warmup, CHECKED_STEPS)
        self._steps = self._error = self._zero = 0.0
        self._noticed = False

    def notice(self, step: int, steps: float, error: float, zero: float) -> str:
        """Add what was logged; return the warning where there is reason for one, or "".

        Args:
            step: the step of the log.
            steps: how many it covers.
            error: sum of the end-point errors over moving vectors, pixels.
            zero: the same of predicting no motion.
        """
        if self._noticed or step - steps < self._from:
            return ""
        self._steps, self._error, self._zero = self._steps + steps, self._error + error, self._zero + zero
        if self._steps < CHECKED_STEPS:
            return ""
        share = self._error / self._zero if self._zero else 0.0
        self._steps = self._error = self._zero = 0.0
        # a run that diverges has no number here, and its loss shows it
        if not share >= NO_BETTER:
            return ""
        self._noticed = True
        return (
            f"At step {step} moving patches are predicted no better than by no motion at all ({share:.0%} of its "
            f"end-point error): motion is not being learned yet, see docs/training.md"
        )
