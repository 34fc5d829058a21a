"""What happens to samples before training: clips are checked, and the motion source of each data set is logged."""

import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.data.processor.processor_utils import DatasetProcessor

from motiontune.datasets.dataset_info import check_listed, load_info
from motiontune.errors import ClipError, ConfigError, MotiontuneError, MotionUnavailable, own_code
from motiontune.limits import json_lines, parse_json, read_text
from motiontune.llamafactory.names import (
    encode_sample,
    get_logger,
    loading_data,
    sample_of,
    take_encoded,
    videos_of,
)
from motiontune.llamafactory.overview import spread
from motiontune.model.families import patching_of
from motiontune.model.losses import IGNORE_INDEX
from motiontune.motion.file import check_unshared
from motiontune.motion.provider import is_provider
from motiontune.motion.sources import predict_source
from motiontune.video.container import check_file


logger = get_logger(__name__)

ONE_FRAME = "one frame is sampled of each clip (too short, or video_fps or video_maxlen too low)"
CLIPS_LOOKED_AT = 32
STATS = 20_000
"""Samples whose clips' times of change are compared with that of the tokenized data set."""


@dataclass
class CheckedDatasetProcessor(DatasetProcessor):
    """Tokenizes samples as LLaMA-Factory's own processor does, after a look at their clips.

    A sample with a clip that cannot be opened, or whose video tokens `cutoff_len` would cut, is refused by name, or
    left out with `motion_on_error: skip`. Who calls counts the rows: there may be several processes of this.

    Args:
        inner: LLaMA-Factory's processor for the stage.
        motion_without_answer: a sample with a video and no answer is trained on its motion alone. LLaMA-Factory would
            teach the model to answer nothing.
    """

    inner: DatasetProcessor = None
    motion_without_answer: bool = False
    announced: bool = field(default=False, init=False)

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
        take_encoded(self.inner, encoded)
        return self.inner.preprocess_dataset({key: [column[i] for i in good] for key, column in examples.items()})

    def _is_complete(self, examples: dict[str, list[Any]], index: int) -> bool:
        """Whether LLaMA-Factory will encode a sample: it drops one that lacks a turn or its answer."""
        sample = sample_of(examples, index)
        answered = len(sample["response"]) == 1 or not isinstance(self.inner, SupervisedDatasetProcessor)
        return len(sample["prompt"]) % 2 == 1 and answered

    def _encode(self, examples: dict[str, list[Any]], index: int) -> tuple[list[int], list[int]]:
        sample = sample_of(examples, index)
        with own_code():
            check_sample(sample, self.data_args.media_dir)
        input_ids, labels = encode_sample(self.inner, sample)
        learns = self.motion_without_answer and isinstance(self.inner, SupervisedDatasetProcessor)
        if learns and has_motion_alone(sample):
            labels = [IGNORE_INDEX] * len(labels)
            if not self.announced:
                self.announced = True
                logger.info_rank0(
                    f"{_question(sample['prompt'])} has no answer: such ones are trained on motion alone"
                )
        if sample["videos"]:
            plugin = self.template.mm_plugin
            with own_code():
                needed = plugin.count_video_tokens(sample["videos"], self.processor)
            kept = input_ids.count(self.tokenizer.convert_tokens_to_ids(plugin.video_token))
            if kept != needed:
                limit = str(self.data_args.cutoff_len)
                if self.data_args.packing:  # LLaMA-Factory has taken one token off
                    limit = f"{self.data_args.cutoff_len + 1}, less 1 for packing,"
                raise ClipError(
                    str(sample["videos"][0]),
                    f"cutoff_len {limit} leaves {kept} of the sample's {needed} video tokens: "
                    f"raise cutoff_len, or lower video_maxlen, video_fps or video_max_pixels",
                )
        return input_ids, labels

    def print_data_example(self, example: dict[str, Any]) -> None:
        self.inner.print_data_example(example)


def has_motion_alone(sample: dict[str, Any]) -> bool:
    """Whether a sample has a video, and no answer in any turn but white space."""
    turns = [*sample["prompt"][1::2], *sample["response"]]
    return bool(sample["videos"]) and not any(str(turn["content"]).strip() for turn in turns)


def _question(prompt: list[dict[str, Any]]) -> str:
    """Names a sample: it has no other name than its first question."""
    return f"the sample {textwrap.shorten(str(prompt[0]['content']) if prompt else '', 80)!r}"


def check_sample(sample: dict[str, Any], media_dir: str | None = None) -> None:
    """Refuse a sample whose turns are no text, or whose videos name no file.

    Args:
        sample: as of `sample_of`.
        media_dir: where paths begin that are no files as they stand. LLaMA-Factory puts it before files alone.

    Raises:
        ClipError: naming the sample, or what lies there.
    """
    for turn in [*sample["prompt"], *sample["response"]]:
        if not isinstance(turn["content"], str):
            raise ClipError(_question(sample["prompt"]), f"a turn is {turn['content']!r}, it must be text")
    check_videos(sample["videos"], _question(sample["prompt"]))
    for path in (path for path in sample["videos"] if isinstance(path, str) and not os.path.lexists(path)):
        place = os.path.join(media_dir or "", path)
        if os.path.lexists(place):
            check_file(place)


def check_videos(videos: list[Any], sample: str = "a sample") -> None:
    """Refuse what names no file.

    Args:
        videos: of one sample, paths or lists of paths.
        sample: names it, for the message.

    Raises:
        ClipError: naming the sample, or the address.
    """
    for file in (file for video in videos for file in (video if isinstance(video, list) else [video])):
        if not isinstance(file, (str, os.PathLike)) or not str(file).strip():
            raise ClipError(sample, f"videos: {file!r} names no file")
        if re.match(r"[a-z][a-z0-9+.-]+://", str(file), re.IGNORECASE):
            raise ClipError(str(file), "is an address: download the clip, and give its path in the data set")


def check_rows(dataset_attr: Any, dataset_dir: Any) -> None:
    """Name the row of a JSON file whose videos are no paths: where rows differ in type, `datasets` names none.

    Args:
        dataset_attr: LLaMA-Factory's description of a data set that could not be loaded.
        dataset_dir: where its file is.

    Raises:
        ClipError: naming the row.
    """
    if dataset_attr.load_from != "file" or not isinstance(dataset_dir, str):
        return
    file = Path(dataset_dir, dataset_attr.dataset_name)
    try:
        text = read_text(file)
        rows = json_lines(text) if file.suffix == ".jsonl" else parse_json(text)
    except (OSError, ValueError, MotiontuneError):
        return  # the error that there is tells why
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        videos = row.get(dataset_attr.videos) if isinstance(row, dict) else None
        if videos is not None and not isinstance(videos, list):
            raise ClipError(f"{file}: row {number}", f"{dataset_attr.videos}: {videos!r} must be a list of paths")
        check_videos(videos or [], f"{file}: row {number}")


def changed(path: str, kept: int, needed: int) -> ClipError:
    """What is wrong with a sample that has other video tokens than its clips need."""
    return ClipError(
        path,
        f"its sample was tokenized to {kept} video tokens, but needs {needed}: the clip, the template or the video_* "
        f"keys have changed since. Set them as they were, or tokenize again (`overwrite_cache: true`, or another "
        f"tokenized_path)",
    )


def check_tokenized(dataset: Any, count_tokens: Callable[[list[Any]], int], token: int, data_args: Any) -> None:
    """Compare the video tokens of tokenized samples with what their clips need now, by the clips' headers.

    Looks at samples here and there, and at those whose clip is newer than the tokens.

    Args:
        dataset: tokenized, maybe long ago.
        count_tokens: counts the video tokens of a sample's videos.
        token: id of the video token.
        data_args: with `motion_on_error`: with "skip", only a set of which no sample fits is refused.

    Raises:
        ConfigError: naming a clip.
        ClipError: if a clip cannot be opened any more.
    """
    fits, error = 0, None
    for row in _rows_to_check(dataset, data_args.streaming):
        videos = row.get("videos") or []
        try:
            needed = count_tokens(videos) if videos else 0
        except ClipError as gone:
            if data_args.motion_on_error != "skip":
                raise ClipError(*_with_hint(gone)) from gone
            continue
        kept = list(row["input_ids"]).count(token)
        fits += kept == needed
        if kept != needed:
            error = error or changed(str(videos[0]) if videos else "a sample without videos", kept, needed)
    if error is not None and (data_args.motion_on_error != "skip" or not fits):
        raise ConfigError(str(error))


def rows_to_look_at(dataset: Any, streaming: bool, number: int = CLIPS_LOOKED_AT) -> Iterable[Any]:
    """Rows of a data set here and there, or the first ones of a stream."""
    if not streaming:
        rows: Iterable[Any] = dataset.select(spread(len(dataset), number))
        return rows
    with loading_data():  # a stream is read, and found to be damaged, here
        return list(islice(dataset, number))


def _rows_to_check(dataset: Any, streaming: bool) -> Iterable[Any]:
    if streaming:
        return rows_to_look_at(dataset, streaming)
    here_and_there = spread(len(dataset), CLIPS_LOOKED_AT)
    files = [file["filename"] for file in dataset.cache_files]
    if not files or "videos" not in dataset.column_names:
        return dataset.select(here_and_there)
    tokenized = min(os.path.getmtime(file) for file in files)
    candidates = spread(len(dataset), STATS)
    videos = dataset.select_columns(["videos"]).select(candidates)
    newer = (n for n, row in zip(candidates, videos, strict=True) if _changed_after(row["videos"] or [], tokenized))
    return dataset.select(sorted({*here_and_there, *islice(newer, 8 * CLIPS_LOOKED_AT)}))


def _changed_after(videos: list[Any], when: float) -> bool:
    """Whether a file of a sample's videos is newer than a time, or gone."""
    files = (file for video in videos for file in (video if isinstance(video, list) else [video]))
    return any(not os.path.exists(file) or os.path.getmtime(file) > when for file in files if isinstance(file, str))


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


def log_enlarged(name: str, dataset: Any, plugin: Any, processor: Any, streaming: bool = False) -> None:
    """Log it when the processor undoes `video_max_pixels`: what is below its own minimum, it enlarges again."""
    for sample in rows_to_look_at(dataset, streaming):
        try:
            check_videos(videos_of(sample))
            rows, cols = plugin.patch_rows_and_cols(videos_of(sample), processor) or (0, 0)
        except MotiontuneError:  # the sample is named, or left out, when it is tokenized
            continue
        if not rows:
            continue
        patch = patching_of(processor).patch
        if rows * cols * patch**2 > 1.1 * processor.video_max_pixels:
            logger.warning_rank0(
                f"Data set {name}: the model's processor enlarges frames to {cols * patch}x{rows * patch}, past "
                f"video_max_pixels {processor.video_max_pixels}, because its own minimum is larger. Raise "
                f"video_max_pixels, or lower `size.shortest_edge` in the model's video_preprocessor_config.json."
            )
        return


def check_motion_files(dataset: Any, data_args: Any, taken: dict[Path, str]) -> None:
    """With `motion_source: file`, refuse two clips that take one motion file; of a stream, its first clips.

    Args:
        dataset: aligned.
        data_args: with `motion_source` and `motion_dir`.
        taken: the clip of each motion file that was found in earlier data sets; these are added.

    Raises:
        ConfigError: naming the file and two of its clips.
    """
    if data_args.motion_source != "file":
        return
    samples = rows_to_look_at(dataset, True, 4 * CLIPS_LOOKED_AT) if data_args.streaming else dataset
    videos = (video for sample in samples for video in videos_of(sample))
    paths = (os.fspath(video) for video in videos if isinstance(video, (str, os.PathLike)))
    check_unshared(paths, data_args.motion_dir, taken)


def log_source(
    name: str,
    dataset: Any,
    data_args: Any,
    read_motion: Callable[[str], None],
    count_frames: Callable[[Any], int],
    sampling: tuple[float, int],
    needs_motion: bool = False,
    find_videos: Callable[[Any], list[Any]] = videos_of,
) -> Counter[str]:
    """Log which source the motion of a data set will come from, after a look at clips here and there.

    Args:
        name: the data set.
        dataset: its rows.
        data_args: with `motion_source` and `motion_on_error`.
        read_motion: reads the motion of a clip for good. Called where headers do not tell: with `motion_source: file`,
            and with `raft` or a function of the user's until it has worked once.
        count_frames: counts the frames that are sampled of a video, by its header.
        sampling: `video_fps` and `video_maxlen`.
        needs_motion: nothing else is trained.
        find_videos: the videos of a row; those of an aligned data set where not given.

    Returns:
        How many of the clips have which source; `none` have no motion.

    Raises:
        ConfigError: if the chosen source can give motion for none of them.
        MotiontuneError: if a motion file does not fit its clip or the user's function fails, but with
            `motion_on_error: skip`.
    """
    source = data_args.motion_source
    tried_once = source == "raft" or is_provider(source)  # slow; what is wrong shows with any clip

    def look(video: Any) -> tuple[str, str]:
        check_videos([video])
        of_codec = source in ("codec", "codec+flow")
        if count_frames(video) < 2:
            return "none", ONE_FRAME
        if isinstance(video, list):  # of frames
            choice = "blockmatch+flow" if source == "auto" else "none" if of_codec else source
            return choice, "frames have no bitstream" if source == "auto" or of_codec else "chosen by motion_source"
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

    rows = rows_to_look_at(dataset, data_args.streaming, 4 * CLIPS_LOOKED_AT)
    videos = [video for sample in rows for video in find_videos(sample)]
    if not videos:
        logger.warning_rank0(f"Data set {name}: no sample looked at has a video, or motion to learn from.")
    taken: Counter[tuple[str, str]] = Counter()
    for video in (videos[number] for number in spread(len(videos), CLIPS_LOOKED_AT)):
        try:
            choice, reason = look(video)
        except ClipError:  # the sample is named, or left out, when it is tokenized
            continue
        taken[choice, reason] += 1
        if tried_once and choice != "none":
            break
    sources: Counter[str] = Counter()
    for (choice, _), count in taken.items():
        sources[choice] += count
    if not taken:
        return sources
    listed = ", ".join(f"{choice} for {count} ({reason})" for (choice, reason), count in taken.most_common(4))
    logger.info_rank0(f"Motion of data set {name}, {sum(taken.values())} clips looked at: {listed}")
    if all(choice == "none" for choice, _ in taken):
        (_, reason), _ = taken.most_common(1)[0]
        if all(reason == ONE_FRAME for _, reason in taken) and not needs_motion:
            logger.warning_rank0(f"Data set {name} has no motion: {ONE_FRAME}. Its text is trained.")
            return sources
        raise ConfigError(f"motion_source: {source} gives no motion for data set {name}: {reason}")
    return sources
