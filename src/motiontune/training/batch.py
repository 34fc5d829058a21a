"""From read clips to what a batch holds beside the model's own inputs.

| key | what it is |
|---|---|
| `motion_targets` | float32 [T, D], normalised; T counts the batch's video tokens, row by row, or temporal steps |
| `motion_mask` | bool [T, D], where `motion_targets` is a target |
| `motion_weights` | float32 [T, D], the vectors' confidence; only in training with `TargetSettings.weighting` |
| `motion_videos` | list of `VideoRecord`, in the order of the tokens |
| `motion_skipped` | dict, the row of each sample that was left out, and why in one line |
| `motion_samples` | list of int, in evaluation: the number of each row's sample in its data set |

From a data loader's worker, an error that stops the run comes as a batch of one key, `motion_error`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from motiontune.errors import ConfigError, MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.model.losses import IGNORE_INDEX
from motiontune.motion.field import MotionField
from motiontune.motion.pairs import padded_times
from motiontune.motion.sources import motion_of
from motiontune.targets import MotionTargets, field_to_targets, field_to_weights
from motiontune.training.settings import TargetSettings
from motiontune.video.clip import Clip


MOTION_TENSORS = ("motion_targets", "motion_mask", "motion_weights")
NOT_TENSORS = ("motion_videos", "motion_skipped", "motion_samples")


@dataclass(frozen=True)
class VideoRecord:
    """What belongs to one video of a batch and is no tensor.

    Args:
        sample: number of the sample in its data set, or None in training.
        row: row of the batch.
        path: the clip.
        grid: its patch grid.
        times: seconds of each frame of the grid.
        source: the source that the motion came from; "none" where there is none.
        problem: why there is no motion, or "".
        frames: uint8 [f, H, W, 3], RGB, the sampled frames, of samples that are to be drawn; else None.
    """

    sample: int | None
    row: int
    path: str
    grid: VideoGrid
    times: tuple[float, ...]
    source: str
    problem: str = ""
    frames: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ReadClip:
    """A clip of a batch.

    Args:
        row: row of the batch.
        clip: the sampled frames.
        key: the name that its motion is kept under; None where it is not kept.
        motion: its motion, where that was kept; else None.
    """

    row: int
    clip: Clip
    key: str | None = None
    motion: MotionField | None = None


def add_motion(
    batch: dict[str, Any],
    clips: Sequence[ReadClip],
    grids: Sequence[VideoGrid],
    settings: TargetSettings,
    numbers: Sequence[int | None],
    skipped: Mapping[int, str] | None = None,
) -> None:
    """Put the motion of its clips into a batch, under the keys above.

    Args:
        batch: the model's inputs, changed in place.
        clips: in the order of the batch's video tokens.
        grids: the patch grid of each clip.
        settings: what the targets are.
        numbers: of each row, the number of its sample in the data set, or None in training.
        skipped: the row of each sample that was left out, and why.

    Raises:
        HeadError: if a grid is of another geometry than the head.
        ConfigError: if the source lacks what it needs for any clip.
        MotiontuneError: if a clip has no motion, with `settings.raise_on_error`.
    """
    targets, weights, records = [], [], []
    for one, grid in zip(clips, grids, strict=True):
        target, weight, times, source, problem = _targets(one, grid, settings)
        number = numbers[one.row]
        frames = one.clip.frames if number is not None and number < settings.pictures else None
        targets.append(target)
        weights.append(weight)
        records.append(VideoRecord(number, one.row, one.clip.path, grid, times, source, problem, frames))
    empty = [np.zeros((0, settings.head.token_width), np.float32)]
    batch["motion_targets"] = torch.from_numpy(np.concatenate(empty + [target.values for target in targets]))
    batch["motion_mask"] = torch.from_numpy(np.concatenate(empty + [target.mask for target in targets]).astype(bool))
    if settings.weighting and None in numbers:
        batch["motion_weights"] = torch.from_numpy(np.concatenate(empty + weights))
    batch["motion_videos"] = records
    batch["motion_skipped"] = dict(skipped or {})
    if None not in numbers:
        batch["motion_samples"] = list(numbers)


def _targets(
    read: ReadClip, grid: VideoGrid, settings: TargetSettings
) -> tuple[MotionTargets, NDArray[np.float32], tuple[float, ...], str, str]:
    """Targets and weights of one clip, the times of its frames, the source, and why there is no motion, or ""."""
    settings.head.check_grid(grid)
    clip, field = read.clip, read.motion
    try:
        if field is None:
            field = motion_of(clip, grid, settings.options)
            if settings.cache is not None and read.key is not None:
                settings.cache.save(read.key, field)
    except MotiontuneError as error:
        if settings.raise_on_error or isinstance(error, ConfigError):
            raise  # what is wrong with a key is wrong for every clip
        times = tuple(padded_times(clip, grid))
        nothing = np.zeros((settings.head.rows(grid), settings.head.width(grid)), np.float32)
        return MotionTargets(nothing, nothing.astype(bool)), nothing, times, "none", str(error)
    targets = field_to_targets(field, grid, settings.head.scale, settings.head)
    source = field.source if len(clip.frames) > 1 else "none"
    return targets, field_to_weights(field, grid, settings.head), tuple(field.times), source, ""


def blank(feature: dict[str, Any], media: Collection[int], pad: int) -> dict[str, Any]:
    """Make a sample that trains nothing out of one that cannot be read: no media, no label, length unchanged.

    Args:
        feature: with `input_ids` and `labels`.
        media: ids of the tokens that stand for videos and images.
        pad: the id that takes their place.
    """
    return feature | {
        "images": None,
        "videos": None,
        "audios": None,
        "input_ids": [pad if token in media else token for token in feature["input_ids"]],
        "labels": [IGNORE_INDEX] * len(feature["labels"]),
    }


def batch_or_error(make: Callable[[Any], dict[str, Any]], features: Any) -> dict[str, Any]:
    """Make a batch; in a worker, pass an error on as a batch: raised there, torch would make a RuntimeError of it.

    Raises:
        MotiontuneError: outside of a worker.
    """
    try:
        return make(features)
    except MotiontuneError as error:
        if get_worker_info() is None:
            raise
        return {"motion_error": error}


def raise_error_of_worker(*batches: dict[str, Any]) -> None:
    """Raise the error that a worker passed on in place of a batch.

    Raises:
        MotiontuneError: as the worker met it.
    """
    for batch in batches:
        if "motion_error" in batch:
            raise batch["motion_error"]


def counts(batch: dict[str, Any]) -> Tensor:
    """Count labelled tokens and valid motion numbers: int64 [2]. With weights, the sum of these: float64 [2]."""
    labels, weights = _count_labels(batch), batch.get("motion_weights")
    if weights is None:
        return torch.stack([labels, batch["motion_mask"].sum().to(labels.device)])
    return torch.stack([labels.double(), weights.double().sum().to(labels.device)])


def _count_labels(batch: dict[str, Any]) -> Tensor:
    labels = batch.get("labels")
    return torch.zeros((), dtype=torch.int64) if labels is None else (labels[:, 1:] != IGNORE_INDEX).sum()
