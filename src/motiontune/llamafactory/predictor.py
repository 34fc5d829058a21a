"""A trained model in a few lines of Python: `MotionModel.from_pretrained(folder).predict("clip.mp4")`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from llamafactory.extras.constants import IGNORE_INDEX, VIDEO_PLACEHOLDER
from llamafactory.hparams import GeneratingArguments
from llamafactory.model import load_model
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from motiontune.datasets.dataset_info import NEW_TOKENS, PROMPT
from motiontune.errors import ConfigError, MotiontuneError, mistakes
from motiontune.evaluation.prediction import MotionPrediction
from motiontune.grid import VideoGrid
from motiontune.llamafactory.collator import MotionDataCollator
from motiontune.llamafactory.names import quiet_loggers
from motiontune.llamafactory.reader import ModelReader
from motiontune.llamafactory.workflow import generation_arguments, saved_head
from motiontune.model.forward import MotionObjective, attach_head
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import NO_SOURCE, check_source, motion_of, vectors_for
from motiontune.training.prediction import generate_with_motion
from motiontune.video.clip import Clip


class _Stop(StoppingCriteria):
    """Ends generation once its event is set."""

    def __init__(self) -> None:
        self.event = Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


class MotionModel:
    """A Qwen-VL model with its motion head, ready to look at clips.

    Args:
        reader: how the model reads clips.

    Raises:
        ConfigError: if the weights cannot be loaded.
        HeadError: if the motion head does not fit the model.
    """

    def __init__(self, reader: ModelReader) -> None:
        self.reader = reader
        model_args, tokenizer = reader.model_args, reader.tokenizer_module["tokenizer"]
        # before the model, which takes long: a head that does not fit shows at once
        head = saved_head(reader.config, reader.processor, model_args, reader.data_args, reader.finetuning_args)
        with mistakes("the model cannot be loaded", OSError, ValueError, ImportError, NotImplementedError):
            self.model = load_model(tokenizer, model_args, reader.finetuning_args)
        self.head = head
        if head is not None:
            attach_head(self.model, head, MotionObjective())
        tokenizer.padding_side = "left"
        self._collator = MotionDataCollator(template=reader.template, **reader.tokenizer_module)

    def __repr__(self) -> str:
        head = "no motion head" if self.head is None else f"head: {self.head.config}"
        return f"MotionModel({self.reader.model_args.model_name_or_path}, {head})"

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        base: str | None = None,
        template: str | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        max_pixels: int | None = None,
    ) -> "MotionModel":
        """Load a folder or hub repository: a whole model, or an adapter on its base.

        Clips are sampled as in its training, which is kept with the motion head. `fps`, `max_frames` and `max_pixels`
        change that; they are LLaMA-Factory's `video_fps`, `video_maxlen` and `video_max_pixels`. What differs is
        logged in a line.

        Args:
            model: the folder or repository. Without a motion head the model gives text alone.
            base: the model of an adapter, where it is not the one that adapter_config.json names.
            template: LLaMA-Factory's, where it is not that of its training (if not known: the family's own).
            fps: sampled frames per second.
            max_frames: at most so many of them.
            max_pixels: frames with more pixels are made smaller.

        Raises:
            ConfigError: if there is no such model, or it is not of a supported family.
            HeadError: if the motion head does not fit the model.
        """
        with quiet_loggers():
            return cls(ModelReader(str(model), fps, max_frames, max_pixels, base=base, template=template))

    @property
    def name(self) -> str:
        """The folder or hub repository that it was loaded from."""
        args = self.reader.model_args
        return str((args.adapter_name_or_path or [args.model_name_or_path])[-1])

    @property
    def has_head(self) -> bool:
        """Whether there is a motion head that predicts dense motion; without one the model gives text alone."""
        return not self.no_motion

    @property
    def no_motion(self) -> str:
        """Why the model gives text alone, or ""."""
        return "no motion head" if self.head is None else self.head.config.no_motion

    @property
    def direction(self) -> Direction:
        """Which motion the head predicts: since the previous frame ("past") or to the next one ("future")."""
        return "past" if self.head is None else self.head.config.direction

    def predict(
        self,
        video: str | Path,
        prompt: str = PROMPT,
        *,
        compare_with: str | MotionOptions = NO_SOURCE,
        max_new_tokens: int = NEW_TOKENS,
        **generation: Any,
    ) -> MotionPrediction:
        """Answer a question about a clip, and predict its motion. Both come out of the same forward pass.

        Args:
            video: the clip.
            prompt: the question; the video stands in the place of `<video>`, else before the question.
            compare_with: a source of motion to compare with, as `motion_source`, or with its settings, whose direction
                the head decides; "none" for no comparison.
            max_new_tokens: at most so many tokens of text.
            generation: more arguments of `generate()`, such as `do_sample`; text is greedy where not given.

        Raises:
            ClipError: if the clip cannot be read.
            ConfigError: on a prompt with several places for the video, or an unknown source.
        """
        options = compare_with if isinstance(compare_with, MotionOptions) else MotionOptions(compare_with)
        options = replace(options, direction=self.direction)
        compares = options.source != NO_SOURCE and self.has_head
        clip = self.reader.read(str(video), compares and vectors_for(options, self.reader.grid_of))
        grid = self.reader.grid_of(clip)
        batch = self._batch(clip, prompt).to(self.model.device)
        arguments = self._generation_arguments(max_new_tokens) | generation
        if self.head is None or not self.has_head:
            tokens, field = self.model.generate(**batch, **arguments), None
        else:
            tokens, field = generate_with_motion(self.model, self.head.config, batch, clip, grid, **arguments)
        tokenizer = self.reader.tokenizer_module["tokenizer"]
        text = tokenizer.decode(tokens[0, batch["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        unpadded = grid.unpadded(len(clip.frames))
        wanted, problem = self._target(clip, unpadded, options)
        return MotionPrediction(text, field, wanted, clip, unpadded, problem)

    def stream(self, video: str | Path, prompt: str = PROMPT, **options: Any) -> "Iterator[str | MotionPrediction]":
        """Predict as `predict` does, and yield the text so far whenever it has grown, and at last the prediction.

        A stream that is closed before its end stops the model.

        Args:
            video: the clip.
            prompt: the question.
            options: the other arguments of `predict`.

        Raises:
            MotiontuneError: as `predict`.
        """
        streamer = TextIteratorStreamer(
            self.reader.tokenizer_module["tokenizer"], skip_prompt=True, skip_special_tokens=True
        )
        stopped = _Stop()
        options |= {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([stopped])}
        with ThreadPoolExecutor(1) as pool:
            prediction = pool.submit(self.predict, video, prompt, **options)
            prediction.add_done_callback(
                lambda _: streamer.end()
            )  # else an error would leave the loop below waiting for text
            try:
                text = ""
                for piece in streamer:
                    if piece:
                        yield (text := text + piece)
                yield prediction.result()
            finally:
                stopped.event.set()

    def _batch(self, clip: Clip, prompt: str) -> Any:
        """Make the batch of one clip that LLaMA-Factory's prediction makes, without labels."""
        plugin, processor = self.reader.template.mm_plugin, self.reader.processor
        tokenizer = self.reader.tokenizer_module["tokenizer"]
        if prompt.count(VIDEO_PLACEHOLDER) > 1:
            raise ConfigError(f"the prompt has {prompt.count(VIDEO_PLACEHOLDER)} times {VIDEO_PLACEHOLDER}: one clip")
        content = prompt if VIDEO_PLACEHOLDER in prompt else VIDEO_PLACEHOLDER + prompt
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": ""}]
        messages = plugin.process_messages(messages, [], [clip], [], processor)
        prompt_ids, _ = self.reader.template.encode_oneturn(tokenizer, messages)
        feature = {"input_ids": prompt_ids, "attention_mask": [1] * len(prompt_ids)}
        feature |= {"labels": [IGNORE_INDEX] * len(prompt_ids), "videos": [clip]}
        batch = self._collator.inputs([feature])
        del batch["labels"]
        return batch

    def _generation_arguments(self, max_new_tokens: int) -> dict[str, Any]:
        tokenizer = self.reader.tokenizer_module["tokenizer"]
        arguments = generation_arguments(GeneratingArguments(max_new_tokens=max_new_tokens), tokenizer)
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return arguments | greedy

    def _target(self, clip: Clip, grid: VideoGrid, options: MotionOptions) -> tuple[MotionField | None, str]:
        """The target and "", or None and why there is none."""
        if options.source == NO_SOURCE or not self.has_head:
            return None, ""
        check_source(options.source)  # what is wrong with the name is wrong for every clip
        try:
            return motion_of(clip, grid, options), ""
        except ConfigError:
            raise
        except MotiontuneError as error:
            return None, str(error)
