"""From samples to a batch: LLaMA-Factory's collator, plus the motion targets of the batch's video tokens.

Each clip is decoded once, before LLaMA-Factory's collator runs: a clip that cannot be read is taken out of the batch
there, so that it neither ends the run nor poisons its neighbours.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from llamafactory.data import SFTDataCollatorWith4DAttentionMask
from llamafactory.extras.constants import IGNORE_INDEX
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from motiontune.cache import MotionCache
from motiontune.errors import ClipError, ConfigError, MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.model.head import MotionHeadConfig
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, needs_vectors
from motiontune.targets import MotionTargets, field_to_targets, field_to_weights
from motiontune.video.clip import Clip


@dataclass(frozen=True)
class MotionSettings:
    """Where the targets come from and what a bad clip does; see `MotionDataArguments`."""

    head: MotionHeadConfig
    options: MotionOptions = MotionOptions()
    raise_on_error: bool = False
    weighting: bool = False
    cache: MotionCache | None = None
    pictures: int = 0


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
class _Read:
    """A clip, the name that its motion is kept under, and its motion where that was kept."""

    clip: Clip
    key: str | None
    motion: MotionField | None


@dataclass
class MotionDataCollator(SFTDataCollatorWith4DAttentionMask):
    r"""LLaMA-Factory's SFT collator, and the motion targets.

    Beside LLaMA-Factory's keys a batch has

    * `motion_targets`: float32 [T, D], normalised; T counts the batch's video tokens, row by row.
    * `motion_mask`: bool [T, D].
    * `motion_weights`: float32 [T, D], the vectors' confidence; only in training with `motion_confidence_weighting`.
    * `motion_videos`: list of `VideoRecord`, in the order of the tokens.
    * `motion_skipped`: list of str, one line for each sample that was taken out.
    * `motion_samples`: list of int, in evaluation: the number of each row's sample in its data set.

    From a data loader's worker, an error that stops the run comes as a batch of one key, `motion_error`.

    Arguments:
        motion: the settings. None only because the parent's fields have defaults.
    """

    motion: MotionSettings = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        plugin = self.template.mm_plugin
        self.video_token_id = self.tokenizer.convert_tokens_to_ids(plugin.video_token)
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(plugin.image_token)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return self._batch(features)
        except MotiontuneError as error:
            if get_worker_info() is None:
                raise
            return {"motion_error": error}  # raised here, torch would make a RuntimeError of the traceback's text

    def _batch(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = [feature.pop("motion_sample", None) for feature in features]
        skipped: list[str] = []
        clips: list[tuple[int, _Read]] = []
        for row, feature in enumerate(features):
            try:
                read = self._read(feature)
            except ClipError as error:
                if self.motion.raise_on_error:
                    raise
                skipped.append(str(error))
                features[row] = self._blank(feature)
            else:
                feature["videos"] = [one.clip for one in read]
                clips += [(row, one) for one in read]

        if self.attn_implementation != "flash_attention_2" and not any(
            f.get("images") or f.get("videos") for f in features
        ):
            # LLaMA-Factory adds a dummy image, after which the attention mask of a packed row is longer than the row;
            # without these, the positions of its samples follow each other, which is all the same to each
            features = [dict(feature, packing_params=None) for feature in features]
        batch = super().__call__(features)
        batch.pop("video_metadata", None)  # Qwen3-VL's timestamps are in the text already
        if self.model is None:
            prepare_to_generate(batch, self.image_token_id, self.video_token_id)

        targets, weights, records = [], [], []
        for (row, one), thw in zip(clips, batch.get("video_grid_thw", ()), strict=True):
            video_processor = self.processor.video_processor
            grid = VideoGrid.from_thw(
                thw, video_processor.patch_size, video_processor.merge_size, video_processor.temporal_patch_size
            )
            target, weight, times, source, problem = self._targets(one, grid)
            number = numbers[row]
            frames = one.clip.frames if number is not None and number < self.motion.pictures else None
            targets.append(target)
            weights.append(weight)
            records.append(VideoRecord(number, row, one.clip.path, grid, times, source, problem, frames))
        width = self.motion.head.token_width
        empty = [np.zeros((0, width), np.float32)]
        batch["motion_targets"] = torch.from_numpy(np.concatenate(empty + [target.values for target in targets]))
        batch["motion_mask"] = torch.from_numpy(
            np.concatenate(empty + [target.mask for target in targets]).astype(bool)
        )
        if self.motion.weighting and None in numbers:
            batch["motion_weights"] = torch.from_numpy(np.concatenate(empty + weights))
        batch["motion_videos"] = records
        batch["motion_skipped"] = skipped
        if None not in numbers:
            batch["motion_samples"] = numbers
        return batch

    def _read(self, feature: dict[str, Any]) -> "list[_Read]":
        plugin = self.template.mm_plugin
        read = [self._read_one(video) for video in feature["videos"] or []]
        clips = [one.clip for one in read]
        needed = sum(plugin.grid_of(clip, self.processor).num_tokens for clip in clips)
        kept = list(feature["input_ids"]).count(self.video_token_id)
        if needed != kept:
            raise ClipError(
                clips[0].path if clips else "a sample without videos",
                f"the sample has {kept} video tokens, its clips need {needed}: cut by cutoff_len, or the file or the "
                f"video_* keys changed since the data set was tokenized",
            )
        return read

    def _read_one(self, video: Any) -> "_Read":
        plugin, options, key, field = self.template.mm_plugin, self.motion.options, None, None
        if self.motion.cache is not None:
            key = plugin.motion_key(video, self.processor, options)
            field = None if key is None else self.motion.cache.load(key)
        clip = plugin.read(video, self.processor, field is None and needs_vectors(options.source))
        if self.motion.cache is not None and key is not None and field is not None:
            if not self.motion.cache.fits(key, field, plugin.grid_of(clip, self.processor)):
                return _Read(plugin.read(video, self.processor, needs_vectors(options.source)), key, None)
        return _Read(clip, key, field)

    def _blank(self, feature: dict[str, Any]) -> dict[str, Any]:
        """Make a sample that trains nothing out of one that cannot be read: no media, no label, length unchanged."""
        media = (self.video_token_id, self.image_token_id)
        pad = self.tokenizer.pad_token_id
        blank = dict(feature, images=None, videos=None, audios=None)
        blank["input_ids"] = [pad if token in media else token for token in feature["input_ids"]]
        blank["labels"] = [IGNORE_INDEX] * len(feature["labels"])
        if blank.get("packing_params"):
            blank["packing_params"] = dict(
                blank["packing_params"], image_subseq_ids=[], video_subseq_ids=[], audio_subseq_ids=[]
            )
        return blank

    def _targets(
        self, read: "_Read", grid: VideoGrid
    ) -> tuple[MotionTargets, NDArray[np.float32], tuple[float, ...], str, str]:
        self.motion.head.check_grid(grid)
        clip, field = read.clip, read.motion
        try:
            if field is None:
                field = motion_of(clip, grid, self.motion.options)
                if self.motion.cache is not None and read.key is not None:
                    self.motion.cache.save(read.key, field)
        except MotiontuneError as error:
            if self.motion.raise_on_error or isinstance(error, ConfigError):
                raise  # what is wrong with a key is wrong for every clip
            shape = (grid.num_tokens, grid.token_width)
            times = (*clip.times, *clip.times[-1:])[: grid.frames]
            nothing = np.zeros(shape, np.float32)
            return MotionTargets(nothing, nothing.astype(bool)), nothing, times, "none", str(error)
        targets = field_to_targets(field, grid, self.motion.head.scale)
        return targets, field_to_weights(field, grid), tuple(field.times), field.source, ""


def prepare_to_generate(batch: dict[str, Any], image_token_id: int, video_token_id: int) -> None:
    """Change what `generate()` does not take of LLaMA-Factory's batch, in place."""
    batch.pop("video_metadata", None)  # Qwen3-VL's timestamps are in the text already; generate() refuses it
    types = torch.zeros_like(batch["input_ids"])  # from these it works out 3-D positions
    types[batch["input_ids"] == image_token_id] = 1
    types[batch["input_ids"] == video_token_id] = 2
    batch["mm_token_type_ids"] = types
    if "second_per_grid_ts" in batch:  # a list, which beam search cannot split
        batch["second_per_grid_ts"] = torch.tensor(batch["second_per_grid_ts"])
