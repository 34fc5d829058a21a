"""LLaMA-Factory's collator, plus the motion targets of the batch's video tokens.

Each clip is decoded once, before LLaMA-Factory's collator runs: a clip that cannot be read is taken out of the batch
there, so that it neither ends the run nor poisons its neighbours.
"""

from dataclasses import dataclass
from typing import Any

from llamafactory.data import SFTDataCollatorWith4DAttentionMask

from motiontune.errors import ClipError, ConfigError
from motiontune.grid import VideoGrid
from motiontune.llamafactory.samples import changed
from motiontune.model.families import grids_of, prepare_to_generate
from motiontune.motion.sources import vectors_for
from motiontune.training.batch import ReadClip, add_motion, batch_or_error, blank
from motiontune.training.settings import TargetSettings
from motiontune.video.clip import Clip


@dataclass
class MotionDataCollator(SFTDataCollatorWith4DAttentionMask):
    r"""LLaMA-Factory's SFT collator, and the motion; see `motiontune.training.batch` for the keys that it adds.

    Arguments:
        motion: what the targets are. `inputs` alone does not need it.
        skip_changed: leave samples out that were tokenized for other clips or keys. Otherwise they stop the run.
    """

    motion: TargetSettings | None = None
    skip_changed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        plugin = self.template.mm_plugin
        self.video_token_id: int = self.tokenizer.convert_tokens_to_ids(plugin.video_token)
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids(plugin.image_token)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        # LLaMA-Factory's collator takes images and videos out of the features, and a stream repeats some to fill the
        # last batch of several processes
        return batch_or_error(self._with_motion, [dict(feature) for feature in features])

    def inputs(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Make the model's own inputs of features whose `videos` are clips."""
        if self.attn_implementation != "flash_attention_2" and not any(
            f.get("images") or f.get("videos") for f in features
        ):
            # LLaMA-Factory adds a dummy image, after which the attention mask of a packed row is longer than the row;
            # without these, the positions of its samples follow each other, which is all the same to each
            features = [dict(feature, packing_params=None) for feature in features]
        batch: dict[str, Any] = super().__call__(features)
        batch.pop("video_metadata", None)  # where there are timestamps they are in the text already
        if self.model is None:
            prepare_to_generate(batch, self.image_token_id, self.video_token_id)
        return batch

    def _with_motion(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        assert self.motion is not None
        numbers = [feature.pop("motion_sample", None) for feature in features]
        skipped: dict[int, str] = {}
        clips: list[ReadClip] = []
        for row, feature in enumerate(features):
            try:
                read = self._read(row, feature, self.motion)
            except ClipError as error:
                if self.motion.raise_on_error:
                    raise
                skipped[row] = str(error)
                features[row] = self._blank(feature)
            else:
                feature["videos"] = [one.clip for one in read]
                clips += read
        batch = self.inputs(features)
        add_motion(batch, clips, grids_of(batch, self.processor), self.motion, numbers, skipped)
        return batch

    def _read(self, row: int, feature: dict[str, Any], settings: TargetSettings) -> list[ReadClip]:
        plugin = self.template.mm_plugin
        videos = feature.get("videos") or []
        read = [self._read_one(row, video, settings) for video in videos]
        needed = sum(plugin.grid_of(one.clip, self.processor).num_tokens for one in read)
        kept = list(feature["input_ids"]).count(self.video_token_id)
        if needed != kept:
            name = read[0].clip.path if read else "a sample without videos"
            promised = plugin.count_video_tokens(videos, self.processor) if videos else 0
            if promised == kept:
                raise ClipError(name, f"decodes to {needed} video tokens, its header promises {kept}: re-encode it")
            error = changed(name, kept, promised)
            raise ClipError(*error.args) if self.skip_changed else ConfigError(str(error))
        return read

    def _read_one(self, row: int, video: Any, settings: TargetSettings) -> ReadClip:
        plugin, options, key, field = self.template.mm_plugin, settings.options, None, None
        if settings.cache is not None:
            key = plugin.motion_key(video, self.processor, options)
            field = None if key is None else settings.cache.load(key)

        def grid_of(clip: Clip) -> VideoGrid:
            grid: VideoGrid = plugin.grid_of(clip, self.processor)
            return grid

        clip = plugin.read(video, self.processor, field is None and vectors_for(options, grid_of))
        if settings.cache is not None and key is not None and field is not None:
            if not settings.cache.fits(key, field, grid_of(clip)):
                return ReadClip(row, plugin.read(video, self.processor, vectors_for(options, grid_of)), key, None)
        return ReadClip(row, clip, key, field)

    def _blank(self, feature: dict[str, Any]) -> dict[str, Any]:
        left = blank(feature, (self.video_token_id, self.image_token_id), self.tokenizer.pad_token_id)
        if left.get("packing_params"):
            nothing: dict[str, Any] = {"image_subseq_ids": [], "video_subseq_ids": [], "audio_subseq_ids": []}
            left["packing_params"] = left["packing_params"] | nothing
        return left
