"""Text and motion of a clip, out of one forward pass."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from motiontune.errors import HeadError, MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.model.forward import captured_motion
from motiontune.model.head import MotionHeadConfig
from motiontune.motion.field import MotionField, frames_with_motion
from motiontune.targets import tokens_to_vectors
from motiontune.video.clip import Clip


def generate_with_motion(
    model: Any, head: MotionHeadConfig, inputs: Mapping[str, Any], clip: Clip, grid: VideoGrid, **generation: Any
) -> tuple[Tensor, MotionField]:
    """Generate the answer about a clip; the motion comes out of the prefill.

    Args:
        model: with a motion head.
        head: what the head's numbers mean.
        inputs: of one sample with one clip, without labels.
        clip: the sampled frames.
        grid: where the patches of the padded frames lie.
        generation: more arguments of `generate()`.

    Returns:
        int64 [1, S], prompt and answer; and the motion, valid wherever a frame has a neighbour to move from or to.

    Raises:
        HeadError: if the grid is of another geometry than the head, or the head predicts no dense motion.
        MotiontuneError: if the motion is not a number.
    """
    if not head.has_field:
        raise HeadError(f"the model has {head.no_motion}")
    head.check_grid(grid)
    with captured_motion(model) as captured:
        tokens: Tensor = model.generate(**inputs, **generation)
    values = captured[0][: grid.num_tokens].float().cpu().numpy()  # of several beams, the first
    return tokens, predicted_field(values, clip, grid, head)


def predicted_field(values: NDArray[np.float32], clip: Clip, grid: VideoGrid, head: MotionHeadConfig) -> MotionField:
    """Turn the numbers of a head into motion in pixels of the resized frame.

    Args:
        values: float32 [T, D], one row per video token of the clip.
        clip: the sampled frames.
        grid: where the patches of the padded frames lie.
        head: what the numbers mean.

    Raises:
        MotiontuneError: if one is not a number.
    """
    vectors = tokens_to_vectors(values, grid, head.scale)[: len(clip.frames)]
    if not np.isfinite(vectors).all():
        raise MotiontuneError(f"{clip.path}: the model's motion is not a number: did its training diverge?")
    valid = np.zeros(vectors.shape[:3], np.bool_)
    has_neighbour = np.diff(clip.indices) > 0
    valid[frames_with_motion(len(valid), head.direction)] = has_neighbour[:, None, None]
    if head.features == "delta":
        valid[: grid.temporal_patch] = False  # there is no step before the first
    return MotionField(np.where(valid[..., None], vectors, np.float32(0)), valid, clip.times, "model", head.direction)
