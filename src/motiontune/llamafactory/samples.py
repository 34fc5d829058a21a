"""What happens to samples before training: clips are checked, and the motion source of each data set is logged."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.data.processor.processor_utils import DatasetProcessor

from motiontune.datasets.dataset_info import check_listed, load_info
from motiontune.errors import ClipError, ConfigError, MotiontuneError, MotionUnavailable
from motiontune.llamafactory.names import get_logger, sample_of, videos_of
from motiontune.model.families import patching_of
from motiontune.motion.provider import is_provider
from motiontune.motion.sources import predict_source


logger = get_logger(__name__)

CLIPS_LOOKED_AT = 32


@dataclass
class CheckedDatasetProcessor(DatasetProcessor):
    """Tokenizes samples as LLaMA-Factory's own processor does, after a look at their clips.

    A sample with a clip that cannot be opened, or whose video tokens `cutoff_len` would cut, is refused by name, or
    left out with `motion_on_error: skip`. Who calls counts the rows: there may be several processes of this.

    Args:
        inner: LLaMA-Factory's processor for the stage.
    """

    inner: DatasetProcessor = None

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded: dict[int, tuple[list[int], list[int]]] = {}
        good, reasons = [], []
        for index, prompt in enumerate(examples["_prompt"]):
            try:
                if self._is_complete(examples, index):
                    encoded[id(prompt)] = self._encode(examples, index)
                good.append(index)
            except MotiontuneError as error:
                if self.data_args.motion_on_error != "skip":
                    raise type(error)(*_with_hint(error)) from error
                reasons.append(str(error))
        if reasons:
            more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
            noun = "sample" if len(reasons) == 1 else "samples"
            logger.warning_rank0(f"Left out {len(reasons)} {noun}: {'; '.join(reasons[:5])}{more}")
        self.inner._encode_data_example = lambda prompt, **rest: encoded[id(prompt)]  # each sample is encoded once
        return self.inner.preprocess_dataset({key: [column[i] for i in good] for key, column in examples.items()})

    def _is_complete(self, examples: dict[str, list[Any]], index: int) -> bool:
        """Whether LLaMA-Factory will encode a sample: it drops one that lacks a turn or its answer."""
        sample = sample_of(examples, index)
        answered = len(sample["response"]) == 1 or not isinstance(self.inner, SupervisedDatasetProcessor)
        return len(sample["prompt"]) % 2 == 1 and answered

    def _encode(self, examples: dict[str, list[Any]], index: int) -> tuple[list[int], list[int]]:
        sample = sample_of(examples, index)
        encode = type(self.inner)._encode_data_example
        input_ids, labels = encode(self.inner, **sample)
        if sample["videos"]:
            plugin = self.template.mm_plugin
            needed = plugin.count_video_tokens(sample["videos"], self.processor)
            kept = input_ids.count(self.tokenizer.convert_tokens_to_ids(plugin.video_token))
            if kept != needed:
                raise ClipError(
                    str(sample["videos"][0]),
                    f"cutoff_len {self.data_args.cutoff_len} leaves {kept} of the sample's {needed} video tokens: "
                    f"raise cutoff_len, or lower video_maxlen, video_fps or video_max_pixels",
                )
        return input_ids, labels

    def print_data_example(self, example: dict[str, Any]) -> None:
        self.inner.print_data_example(example)


def _with_hint(error: MotiontuneError) -> tuple[str, ...]:
    *first, last = error.args
    return (*first, f"{last} (`motion_on_error: skip` leaves such samples out)")


def check_names(data_args: Any) -> None:
    """Refuse data sets that `dataset_info.json` does not list, naming the nearest one.

    Raises:
        ConfigError: if the file is missing or cannot be read, or a name is not in it.
    """
    if not isinstance(data_args.dataset_dir, str) or data_args.dataset_dir.startswith(("ONLINE", "REMOTE:")):
        return
    names = [*(data_args.dataset or []), *(data_args.eval_dataset or [])]
    if not names or (data_args.tokenized_path and os.path.isdir(data_args.tokenized_path)):
        return
    known = load_info(data_args.dataset_dir)
    for name in names:
        check_listed(name, known, data_args.dataset_dir)


def log_enlarged(name: str, dataset: Any, plugin: Any, processor: Any) -> None:
    """Log it when the processor undoes `video_max_pixels`: what is below its own minimum, it enlarges again."""
    for sample in islice(dataset, CLIPS_LOOKED_AT):
        try:
            metadata = plugin._get_video_token_metadata(videos_of(sample), processor)
        except MotiontuneError:  # the sample is named, or left out, when it is tokenized
            continue
        if metadata is None or len(metadata["video_grid_thw"]) == 0:
            continue
        rows, cols = metadata["video_grid_thw"][0, 1:].tolist()
        patch = patching_of(processor).patch
        if rows * cols * patch**2 > 1.1 * processor.video_max_pixels:
            logger.warning_rank0(
                f"Data set {name}: the model's processor enlarges frames to {cols * patch}x{rows * patch}, past "
                f"video_max_pixels {processor.video_max_pixels}, because its own minimum is larger. Raise "
                f"video_max_pixels, or lower `size.shortest_edge` in the model's video_preprocessor_config.json."
            )
        return


def log_source(
    name: str, dataset: Any, data_args: Any, read_motion: Callable[[str], None], sampling: tuple[float, int]
) -> None:
    """Log which source the motion of a data set will come from, after a look at its first clips.

    Args:
        name: the data set.
        dataset: aligned.
        data_args: with `motion_source` and `motion_on_error`.
        read_motion: reads the motion of a clip for good. Called where headers do not tell: with `motion_source: file`,
            and with `raft` or a function of the user's until it has worked once.
        sampling: `video_fps` and `video_maxlen`.

    Raises:
        ConfigError: if the chosen source can give motion for none of them.
        MotiontuneError: if a motion file does not fit its clip or the user's function fails, but with
            `motion_on_error: skip`.
    """
    source = data_args.motion_source
    tried_once = source == "raft" or is_provider(source)  # slow; what is wrong shows with any clip

    def look(video: str) -> tuple[str, str]:
        of_codec = source in ("codec", "codec+flow")
        choice, reason = predict_source(video, "auto" if of_codec else source, *sampling)
        if source == "file" or tried_once:
            try:
                read_motion(video)
            except ClipError:
                raise
            except MotiontuneError as error:
                if not isinstance(error, MotionUnavailable) and data_args.motion_on_error != "skip":
                    raise
                return "none", str(error)
        if of_codec:
            return (source if choice.startswith("codec") else "none"), reason
        return choice, reason

    videos = [video for sample in islice(dataset, 4 * CLIPS_LOOKED_AT) for video in videos_of(sample)]
    if not videos:
        logger.warning_rank0(f"Data set {name}: the first samples have no video, and nothing to learn motion from.")
    taken: Counter[tuple[str, str]] = Counter()
    for video in islice((video for video in videos if isinstance(video, (str, os.PathLike))), CLIPS_LOOKED_AT):
        try:
            choice, reason = look(os.fspath(video))
        except ClipError:  # the sample is named, or left out, when it is tokenized
            continue
        taken[choice, reason] += 1
        if tried_once and choice != "none":
            break
    if not taken:
        return
    listed = ", ".join(f"{choice} for {count} ({reason})" for (choice, reason), count in taken.most_common(4))
    logger.info_rank0(f"Motion of data set {name}, first {sum(taken.values())} clips: {listed}")
    if all(choice == "none" for choice, _ in taken):
        (_, reason), _ = taken.most_common(1)[0]
        raise ConfigError(f"motion_source: {source} gives no motion for data set {name}: {reason}")
