"""What happens to samples before training: clips are checked, and each data set says where its motion will come from."""

import os
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llamafactory.data.processor.processor_utils import DatasetProcessor

from motiontune.errors import ClipError, ConfigError, MotiontuneError
from motiontune.llamafactory.compat import get_logger
from motiontune.motion.sources import predict_source


logger = get_logger(__name__)

CLIPS_LOOKED_AT = 32


@dataclass
class CheckedDatasetProcessor(DatasetProcessor):
    """Tokenizes samples as LLaMA-Factory's own processor does, after a look at their clips.

    A sample with a clip that cannot be opened, or whose video tokens `cutoff_len` would cut, is refused by name, or left
    out and counted with `motion_on_error: skip`.

    Args:
        inner: LLaMA-Factory's processor for the stage.
    """

    inner: DatasetProcessor = None  # type: ignore[assignment]

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded: dict[int, tuple[list[int], list[int]]] = {}
        good, reasons = [], []
        for index, prompt in enumerate(examples["_prompt"]):
            try:
                if prompt:  # LLaMA-Factory empties broken samples and drops them itself
                    encoded[id(prompt)] = self._encode(examples, index)
                good.append(index)
            except MotiontuneError as error:
                if self.data_args.motion_on_error != "skip":
                    raise type(error)(*_with_hint(error)) from error
                reasons.append(str(error))
        if reasons:
            more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
            logger.warning_rank0(f"Left out {len(reasons)} samples: {'; '.join(reasons[:5])}{more}")
        self.inner._encode_data_example = lambda prompt, **rest: encoded[id(prompt)]  # each sample is encoded once
        return self.inner.preprocess_dataset({key: [column[i] for i in good] for key, column in examples.items()})

    def _encode(self, examples: dict[str, list[Any]], index: int) -> tuple[list[int], list[int]]:
        names = ("prompt", "response", "system", "tools", "images", "videos", "audios")
        sample = {name: examples[f"_{name}"][index] for name in names}
        for name in ("images", "videos", "audios"):
            sample[name] = sample[name] or []
        encode = type(self.inner)._encode_data_example
        input_ids, labels = encode(self.inner, **sample)
        if sample["videos"]:
            plugin = self.template.mm_plugin
            needed = plugin.count_video_tokens(sample["videos"], self.processor)
            kept = input_ids.count(self.tokenizer.convert_tokens_to_ids(plugin.video_token))
            if kept != needed:
                raise ClipError(
                    str(sample["videos"][0]),
                    f"cutoff_len {self.data_args.cutoff_len} leaves {kept} of the sample's {needed} video tokens: raise "
                    f"cutoff_len, or lower video_maxlen, video_fps or video_max_pixels",
                )
        return input_ids, labels

    def print_data_example(self, example: dict[str, Any]) -> None:
        self.inner.print_data_example(example)


def _with_hint(error: MotiontuneError) -> tuple[str, ...]:
    *first, last = error.args
    return (*first, f"{last} (`motion_on_error: skip` leaves such samples out)")


def report_source(name: str, dataset: Any, source: str) -> None:
    """Say in the log which source the motion of a data set will come from, from a look at its first clips.

    Raises:
        ConfigError: if the chosen source can give motion for none of them.
    """
    videos = (video for sample in islice(dataset, 4 * CLIPS_LOOKED_AT) for video in sample["_videos"] or [])
    taken: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for video in islice((video for video in videos if isinstance(video, (str, os.PathLike))), CLIPS_LOOKED_AT):
        try:
            choice, reason = predict_source(os.fspath(video), "auto" if source == "codec" else source)
        except MotiontuneError:  # the sample is named, or left out, when it is tokenized
            continue
        if source == "codec" and choice != "codec":
            choice = "none"
        taken[choice] += 1
        reasons.setdefault(choice, reason)
    if not taken:
        return
    said = ", ".join(f"{choice} for {count} ({reasons[choice]})" for choice, count in taken.most_common())
    logger.info_rank0(f"Motion of data set {name}, first {sum(taken.values())} clips: {said}")
    if set(taken) == {"none"}:
        raise ConfigError(f"motion_source: {source} gives no motion for data set {name}: {reasons['none']}")
