"""Motion from the pixels by a neural network: torchvision's RAFT between neighbouring sampled frames.

RAFT takes a second or more per pair on a CPU, and a data loader's worker cannot use the GPU. For training with
workers, extract the motion beforehand: `motiontune extract`, then `motion_source: file`.
"""

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ConfigError, in_one_line
from motiontune.grid import VideoGrid
from motiontune.motion.field import STEP, Direction, MotionField
from motiontune.motion.flow import consistent
from motiontune.motion.pairs import neighbours, padded_times
from motiontune.motion.patches import patch_median, resized
from motiontune.video.clip import Clip


STRIDE = 8
MIN_SIDE = 128
"""RAFT takes frames whose sides are multiples of `STRIDE` and no shorter than this, in pixels."""


def raft_motion(clip: Clip, grid: VideoGrid, direction: Direction = "past", weights: str | None = None) -> MotionField:
    """Estimate the displacement of each patch between neighbouring sampled frames with RAFT.

    A patch's confidence is the share of its pixels that flow to the other frame and back again, and stay inside.

    Args:
        clip: the sampled frames, at any size.
        grid: the patch grid; its frames may outnumber the clip's by a repeated last one, which is invalid.
        direction: "past" or "future".
        weights: a file with the weights of torchvision's `raft_large` or `raft_small`; None downloads `raft_large`'s.

    Raises:
        ConfigError: if torchvision is missing, the weights cannot be downloaded, or the file does not hold them.
        ValueError: if the grid and the clip do not have the same frames.
    """
    import torch
    from torch.utils.data import get_worker_info

    times = padded_times(clip, grid)
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    confidence = np.zeros(vectors.shape[:3], np.float32)
    # a forked process cannot use a GPU that its parent has used
    device = "cuda" if torch.cuda.is_available() and get_worker_info() is None else "cpu"
    model = _model(weights, device)
    frames = [torch.from_numpy(frame).to(device) for frame in _padded_frames(clip, grid)]
    step = np.float32(STEP[direction])
    for here, there in neighbours(clip, direction):
        with torch.inference_mode():
            pair = torch.stack([frames[here], frames[there]]).permute(0, 3, 1, 2) / 127.5 - 1
            flows = model(pair, pair.flip(0))[-1].permute(0, 2, 3, 1).float().cpu().numpy()
        to_there, back = flows[:, : grid.height, : grid.width]
        flow, confidence[here] = patch_median(to_there, consistent(to_there, back), grid)
        vectors[here] = step * flow
    return MotionField.from_confidence(vectors, confidence, times, "raft", direction)


def _padded_frames(clip: Clip, grid: VideoGrid) -> list[NDArray[np.uint8]]:
    """The clip's frames at the grid's size, their borders repeated to the right and below: uint8 [H, W, 3] RGB."""
    below, right = (max(MIN_SIDE, -(-side // STRIDE) * STRIDE) - side for side in (grid.height, grid.width))
    frames = resized(clip.frames, grid)
    padded = (cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REPLICATE) for frame in frames)
    return [np.asarray(frame, np.uint8) for frame in padded]


@functools.cache
def _model(weights: str | None, device: str) -> Any:
    """The network with its weights, once per process and device."""
    import torch

    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except ImportError as error:
        raise ConfigError("motion_source: raft needs torchvision: pip install torchvision") from error
    state = _downloaded() if weights is None else _read(weights)
    for build in (raft_large, raft_small):
        with torch.device("meta"):  # no random weights, which would move the random numbers of the training
            model = build()
        if {name: tensor.shape for name, tensor in model.state_dict().items()} == {
            name: getattr(value, "shape", None) for name, value in state.items()
        }:
            model.load_state_dict(state, assign=True)
            return model.float().eval().requires_grad_(False).to(device)
    raise ConfigError(
        f"motion_raft_weights: {weights} holds other weights than torchvision's raft_large or raft_small"
    )


def _downloaded() -> dict[str, Any]:
    from torchvision.models.optical_flow import Raft_Large_Weights

    weights = Raft_Large_Weights.DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"motion_source: raft cannot download {weights.url} ({in_one_line(error)}): "
            f"fetch that file where you can, and name it in motion_raft_weights"
        ) from error


def _read(path: str) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have errors of their own
        raise ConfigError(
            f"motion_raft_weights: {path} cannot be read as weights of torch: {in_one_line(error)}"
        ) from error
    return dict(state) if isinstance(state, dict) else {}
