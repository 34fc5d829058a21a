"""Training with motion on a model's own processor, in transformers' Trainer or another: see docs/trainers.md."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText, PreTrainedModel

from motiontune.errors import ClipError, HeadError
from motiontune.grid import VideoGrid
from motiontune.model.families import grids_of
from motiontune.model.forward import MotionObjective, attach_head, freeze_unused, tap_depth
from motiontune.model.head import MotionHeadConfig, load_head
from motiontune.model.losses import IGNORE_INDEX
from motiontune.model.tower import install_dino_tower
from motiontune.model.wrappers import load_with_adapter
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import vectors_for
from motiontune.targets import PLAIN, HeadForm
from motiontune.training.batch import NOT_TENSORS, ReadClip, add_motion, batch_or_error
from motiontune.training.prediction import generate_with_motion
from motiontune.training.settings import MotionSettings, TargetSettings
from motiontune.video.clip import Clip, Sampling, read_clip


Sample = tuple[str, str, str] | tuple[str, str, str, int] | Mapping[str, Any]
"""A clip's file, a question, the answer; and in evaluation the number of the sample in its data set.

Or a mapping with these under `video`, `question`, `answer` and `number`, such as a row of a `datasets.Dataset`."""

_COLUMNS = ("video", "question", "answer", "number")

_PER_TOKEN = {"input_ids": 0, "attention_mask": 0, "mm_token_type_ids": 0}
"""What has one number per token, and with which number it is padded."""


def attach_motion(
    model: PreTrainedModel,
    processor: Any,
    settings: MotionSettings | None = None,
    *,
    input: str = "last_hidden",
    direction: Direction = "past",
    scale: float = 1.0,
    form: HeadForm = PLAIN,
    fps: float | None = None,
    max_frames: int | None = None,
) -> TargetSettings:
    """Put a new motion head into a model, in place.

    Args:
        model: a supported Qwen-VL for conditional generation.
        processor: the model's.
        settings: those of the trainer.
        input: hidden states that the head reads: "last_hidden", "layer:K", "projector" or "encoder".
        direction: of the motion, "past" or "future".
        scale: targets are pixels of the resized frame, divided by patch size * scale.
        form: how the head reads them and what it predicts.
        fps: sampled frames per second. With this or `max_frames` the sampling is kept with the head, whatever trains
            it, and is the collator's default.
        max_frames: at most so many of them.

    Returns:
        The settings of `MotionCollator` that fit the head.

    Raises:
        ConfigError: if the model is not supported, or has not the layer that the head is to read.
    """
    settings = settings or MotionSettings()
    tap_depth(input, model.config.text_config.num_hidden_layers)
    given = {"video_fps": fps, "video_maxlen": max_frames}
    given = {name: value for name, value in given.items() if value is not None}
    kept = {"sampling": Sampling.from_keys(given).by_processor} if given else {}
    head = MotionHeadConfig.for_model(model.config, processor, input, direction, scale, **asdict(form), **kept)
    objective = MotionObjective(
        settings.loss_type, settings.with_text, weight=settings.loss_weight, gradient=settings.gradient
    )
    attach_head(model, head, objective)
    if not settings.with_text:
        freeze_unused(model)
    return TargetSettings(head, MotionOptions(direction=direction))


def motion_inputs(
    clips: Sequence[Clip], inputs: Mapping[str, Any], processor: Any, settings: TargetSettings
) -> dict[str, Tensor]:
    """Make the motion of clips that another program has made the model's inputs of.

    Args:
        clips: in the order of the video tokens, with the frames that the processor got.
        inputs: what the processor returned, of which `video_grid_thw` is read.
        processor: the model's.
        settings: as `attach_motion` returns them.

    Returns:
        `motion_targets` and `motion_mask`, arguments of the model's `forward`; those of several samples are
        concatenated in the order of the batch.

    Raises:
        HeadError: if a grid is of another geometry than the head.
        MotiontuneError: if a clip has no motion, with `settings.raise_on_error`.
    """
    batch: dict[str, Any] = {}
    read = [ReadClip(0, clip) for clip in clips]
    add_motion(batch, read, grids_of(dict(inputs), processor), settings, [None])
    _warn(record.problem for record in batch["motion_videos"] if record.problem)
    return _tensors_of(batch)


def load_motion_model(where: str | Path, **options: Any) -> PreTrainedModel:
    """Load a model that was saved with its motion head, or the model of an adapter that was, and the adapter into it.

    Args:
        where: a folder or hub repository.
        options: more arguments of `from_pretrained`.

    Raises:
        HeadError: if there is no motion head, or it cannot be read.
    """
    install_dino_tower()
    hub: dict[str, Any] = {key: options[key] for key in ("cache_dir", "revision", "token") if key in options}
    head = load_head(where, **hub)
    if head is None:
        raise HeadError(f"{where} has no motion head: load it with transformers")
    model = load_with_adapter(AutoModelForImageTextToText, where, hub, options)
    attach_head(model, head)
    return model


@dataclass
class MotionCollator:
    """Makes batches of samples with a model's own processor, and puts the motion of their clips in.

    Frames are sampled here, and resized by the processor: its `video_processor.size` bounds them.

    Args:
        processor: the model's, with a chat template.
        settings: what the targets are; `attach_motion` returns those that fit.
        fps: sampled frames per second; None is as the head was trained, or where that is not known 2.
        max_frames: at most so many of them; None likewise, or 128.
        tensors_only: for a trainer without `MotionTrainerMixin`: batches hold what the model's `forward` takes, and
            a clip without motion, or one that is left out, is a warning.
    """

    processor: Any
    settings: TargetSettings
    fps: float | None = None
    max_frames: int | None = None
    tensors_only: bool = False
    _grids: dict[tuple[int, ...], VideoGrid] = field(default_factory=dict, init=False, repr=False)

    @property
    def sampling(self) -> Sampling:
        """How clips are sampled; the trainer keeps it with the head."""
        known = self.settings.head.sampling or Sampling()
        fps, most = known.video_fps if self.fps is None else float(self.fps), self.max_frames
        return Sampling(fps, known.video_maxlen if most is None else most).by_processor

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        if not self.tensors_only:
            return batch_or_error(self._batch, samples)
        batch = self._batch(samples)
        _warn(f"left out of a batch: {why}" for why in batch["motion_skipped"].values())
        _warn(record.problem for record in batch["motion_videos"] if record.problem)
        return _tensors_of(batch)

    def _batch(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows: list[dict[str, Tensor]] = []
        clips: list[ReadClip] = []
        numbers: list[int | None] = []
        skipped: dict[int, str] = {}
        for path, question, answer, *number in map(_in_order, samples):
            try:
                clip = self.read(path)
            except ClipError as error:
                if self.settings.raise_on_error:
                    raise
                skipped[len(rows)] = str(error)
                clip = None
            clips += [] if clip is None else [ReadClip(len(rows), clip)]
            rows.append(self._row(clip, question, "" if clip is None else answer))
            numbers.append(number[0] if number else None)
        batch = _stacked(rows, self.processor.tokenizer.pad_token_id)
        add_motion(batch, clips, grids_of(batch, self.processor), self.settings, numbers, skipped)
        return batch

    def read(self, path: str | Path) -> Clip:
        """Decode a clip, with what its motion needs.

        Raises:
            ClipError: if it cannot be read.
        """
        sampling, vectors = self.sampling, vectors_for(self.settings.options, self.grid_of)
        return read_clip(str(path), sampling.video_fps, sampling.video_maxlen, with_vectors=vectors)

    def grid_of(self, clip: Clip) -> VideoGrid:
        """The patch grid of a clip as the processor will resize and pad it."""
        size = clip.frames.shape
        if size not in self._grids:
            frames = np.zeros(size, np.uint8)
            inputs = self.processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
            (self._grids[size],) = grids_of(inputs, self.processor)
        return self._grids[size]

    def prompt(self, clip: Clip | None, question: str) -> dict[str, Tensor]:
        """Tokenize a question about a clip, ready for the answer: the inputs of `generate()`."""
        content: list[dict[str, str]] = [] if clip is None else [{"type": "video"}]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        options: dict[str, Any] = {"return_tensors": "pt", "return_mm_token_type_ids": True}
        if clip is None:
            return dict(self.processor(text=[text], **options))
        metadata = {
            "total_num_frames": clip.info.frames,
            "fps": clip.info.average_rate,
            "duration": clip.info.duration,
            "frames_indices": clip.indices.tolist(),
        }
        options |= {"videos": [clip.frames], "video_metadata": [metadata], "do_sample_frames": False}
        return dict(self.processor(text=[text], **options))

    def _row(self, clip: Clip | None, question: str, answer: str) -> dict[str, Tensor]:
        """The inputs and labels of one sample; no label without an answer."""
        tokenizer = self.processor.tokenizer
        row = self.prompt(clip, question)
        text = answer + tokenizer.eos_token if answer else ""
        ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64)
        row["labels"] = torch.cat([torch.full_like(row["input_ids"][0], IGNORE_INDEX), ids])[None]
        more = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": torch.zeros_like(ids)}
        return row | {name: torch.cat([row[name], value[None].to(row[name].dtype)], 1) for name, value in more.items()}


def _in_order(sample: Sample) -> Sequence[Any]:
    """The parts of a sample, the number where it has one."""
    return [sample[name] for name in _COLUMNS if name in sample] if isinstance(sample, Mapping) else sample


def _tensors_of(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name not in NOT_TENSORS}


def _warn(problems: Iterable[str]) -> None:
    for problem in problems:
        warnings.warn(problem, stacklevel=3)  # Python shows each text once


def _stacked(rows: list[dict[str, Tensor]], pad: int) -> dict[str, Any]:
    """Pad what has a number per token to one length, and put everything else one after the other."""
    batch: dict[str, Any] = {}
    paddings = _PER_TOKEN | {"input_ids": pad, "labels": IGNORE_INDEX}
    for name in dict.fromkeys(name for row in rows for name in row):
        parts = [row[name] for row in rows if name in row]
        if name in paddings:
            batch[name] = pad_sequence([part[0] for part in parts], batch_first=True, padding_value=paddings[name])
        else:
            batch[name] = torch.cat(parts)
    return batch


@torch.no_grad()
def predict(
    model: PreTrainedModel, collator: MotionCollator, video: str | Path, question: str, **generation: Any
) -> tuple[str, MotionField]:
    """Answer a question about a clip and predict its motion, out of one forward pass.

    Args:
        model: as `load_motion_model` returns it.
        collator: reads the clip as in training.
        video: the clip.
        question: about it.
        generation: more arguments of `generate()`.

    Raises:
        ClipError: if the clip cannot be read.
        HeadError: if the head is of another geometry than the processor, or of a form without dense motion.
    """
    head: Any = model.motion_head
    trained = head.config.sampling
    change = "" if trained is None else collator.sampling.change(trained, "The motion head")
    if change:
        warnings.warn(change, stacklevel=2)  # once, not for each clip
    clip = collator.read(video)
    inputs = {name: tensor.to(model.device) for name, tensor in collator.prompt(clip, question).items()}
    (grid,) = grids_of(inputs, collator.processor)
    training = model.training
    try:
        tokens, motion = generate_with_motion(model.eval(), head.config, inputs, clip, grid, **generation)
    finally:
        model.train(training)
    answer = tokens[0, inputs["input_ids"].shape[1] :]
    return collator.processor.tokenizer.decode(answer, skip_special_tokens=True).strip(), motion
