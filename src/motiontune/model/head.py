"""The motion head: a linear layer from the hidden states at a model's video tokens to motion."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from motiontune.errors import HeadError, in_one_line
from motiontune.files import write_bytes, write_text
from motiontune.grid import VideoGrid
from motiontune.limits import read_json
from motiontune.model.families import family_of, patching_of
from motiontune.model.wrappers import fetch_file
from motiontune.motion.field import Direction
from motiontune.targets import HeadForm
from motiontune.video.clip import Sampling


WEIGHTS_NAME = "motion_head.safetensors"
CONFIG_NAME = "motion_head_config.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MotionHeadConfig(HeadForm):
    """What a motion head needs to know to be read again, its form among it.

    Args:
        hidden_size: width of the hidden states it reads.
        patch: side of a patch in pixels of the resized frame.
        merge: patches per token along each side.
        temporal_patch: frames per token.
        input: which hidden states it reads: "last_hidden", "layer:K", "projector" or "encoder".
        direction: of the motion it predicts: since the previous frame ("past") or to the next one ("future").
        scale: a value of 1 stands for `patch * scale` pixels.
        sampling: how the clips were sampled that it was trained on; None where that is not known.
    """

    hidden_size: int
    patch: int
    merge: int
    temporal_patch: int
    input: str = "last_hidden"
    direction: Direction = "past"
    scale: float = 1.0
    sampling: Sampling | None = None

    @classmethod
    def for_model(
        cls,
        config: Any,
        processor: Any,
        input: str = "last_hidden",
        direction: Direction = "past",
        scale: float = 1.0,
        **form: Any,
    ) -> "MotionHeadConfig":
        """Describe the head that fits a model.

        Args:
            config: the model's configuration.
            processor: the model's processor.
            input: see above.
            direction: see above.
            scale: see above.
            form: `features`, `form` and `output`, as in `HeadForm`; `sampling`, see above.

        Raises:
            ConfigError: on an unknown form.
        """
        patching = patching_of(processor)
        width = config.text_config.hidden_size
        if input == "encoder":  # a token is merge x merge of the encoder's patches
            width = family_of(config).encoder_width_of(config) * patching.merge**2
        return cls(width, *patching, input, direction, scale, **form)

    @classmethod
    def from_saved(cls, saved: dict[str, Any], where: str) -> "MotionHeadConfig":
        """Read the configuration of a saved head; `direction` was called `target` until 0.1.

        Args:
            saved: what the file holds.
            where: the folder, for the log.
        """
        if "target" in saved:
            _logger.warning("%s: %s has `target`, which is called `direction` today", where, CONFIG_NAME)
            saved = {"direction" if key == "target" else key: value for key, value in saved.items()}
        if "sampling" in saved:
            saved = saved | {"sampling": Sampling(**saved["sampling"])}
        return cls(**saved)

    @property
    def as_saved(self) -> dict[str, Any]:
        """What `from_saved` reads; what is not known is absent."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def chosen(self) -> dict[str, Any]:
        """What a run chooses, where the model leaves a choice: arguments of `for_model`."""
        given = ("hidden_size", "patch", "merge", "temporal_patch", "sampling")
        return {name: value for name, value in asdict(self).items() if name not in given}

    @property
    def token_width(self) -> int:
        """D, the numbers that one token predicts, or in a pooled form one temporal step."""
        return 2 if self.form == "pooled" else 2 * self.merge**2 * self.temporal_patch

    def check_fits(self, other: "MotionHeadConfig", where: str) -> None:
        """Refuse a saved head (self) that does not fit the model and run (other).

        Args:
            other: what the model, the processor and the configuration ask for.
            where: the folder of the saved head, for the message.

        Raises:
            HeadError: naming the number that differs, with both values.
        """
        for field in sorted(fields(self), key=lambda field: field.name != "input"):  # others follow from it
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs and field.name != "sampling":  # which may change
                raise HeadError(
                    f"the motion head in {where} has {field.name} {mine}, this model and configuration have {theirs}: "
                    f"load the head with the model, processor and motion_* keys that it was trained with"
                )

    def check_grid(self, grid: VideoGrid) -> None:
        """Refuse a video grid of another geometry.

        Raises:
            HeadError: with both geometries.
        """
        mine = (self.patch, self.merge, self.temporal_patch)
        theirs = (grid.patch, grid.merge, grid.temporal_patch)
        if mine != theirs:
            raise HeadError(f"the motion head has patch, merge, temporal patch {mine}, the processor makes {theirs}")


class MotionHead(nn.Linear):
    """Linear layer [..., hidden_size] -> [..., D], computed in float32 whatever the precision around it.

    Starts from zero: the first prediction is no motion at all, and no random number is drawn.
    """

    def __init__(self, config: MotionHeadConfig) -> None:
        super().__init__(config.hidden_size, config.token_width, dtype=torch.float32)
        self.config = config

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor, steps: Sequence[tuple[int, int]] = ()) -> Tensor:
        """Predict normalised motion.

        Args:
            hidden: floating [tokens, hidden_size].
            steps: of each video the number of temporal steps and the tokens of each; only where `reads_steps`.

        Returns:
            float32 [rows, D], displacement in units of `patch * scale` pixels, or directions; one row per token, or in
            a pooled form per temporal step.
        """
        # A product in bf16, of an engine's or autocast's, would round a displacement to 3 digits; the layer is far too
        # small for that to pay.
        with torch.autocast(hidden.device.type, enabled=False):
            features = features_of(hidden, steps, self.config)
            return F.linear(features.float(), self.weight.float(), self.bias.float())


def features_of(hidden: Tensor, steps: Sequence[tuple[int, int]], form: HeadForm) -> Tensor:
    """Turn the hidden states of video tokens into the rows that a head of some form reads.

    Args:
        hidden: floating [tokens, H], video by video.
        steps: of each video the number of temporal steps and the tokens of each.
        form: the head's.

    Returns:
        [rows, H]: `hidden` itself, or float32.
    """
    if not form.reads_steps:
        return hidden
    rows, begin = [hidden[:0].float()], 0  # keeps the graph where there is no video
    for count, size in steps:
        video = hidden[begin : begin + count * size].float().unflatten(0, (count, size))
        begin += count * size
        if form.form == "pooled":  # first: the mean of differences is the difference of means
            video = video.mean(1, keepdim=True)
        if form.features == "delta":
            video = video - torch.cat([video[:1], video[:-1]])
        rows.append(video.flatten(0, 1))
    if begin != len(hidden):
        raise ValueError(f"the videos' grids have {begin} tokens, the batch {len(hidden)}")
    return torch.cat(rows)


def save_head(head: MotionHead, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Write `motion_head.safetensors` and `motion_head_config.json` into a folder.

    Beside a whole model in one file they come with an index that names that file alone: without one, vLLM and SGLang
    take every `*.safetensors` of the folder for the model's, and fail on the head's weights.

    Args:
        head: the head.
        folder: where the adapter or the model has been saved.
        state_dict: the whole model's gathered state where an engine shards the parameters (ZeRO-3, FSDP).

    Raises:
        HeadError: if what is there is no whole head. Nothing is written.
    """
    # where the whole head is given the module isn't asked: under FSDP1 that would be a collective in one process
    weights = {key.rsplit(".", 1)[-1]: tensor for key, tensor in head_of_state(state_dict).items()}
    weights = {name: tensor.detach() for name, tensor in (weights or head.state_dict()).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    whole = {"weight": (head.config.token_width, head.config.hidden_size), "bias": (head.config.token_width,)}
    if shapes != whole:
        raise HeadError(
            f"{folder}: the motion head was not saved, its shapes are {shapes} and not {whole}: an engine has split "
            f"it over the processes; save through motiontune's trainer, or give save_pretrained the whole state_dict"
        )
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in weights.items()}
    write_bytes(Path(folder) / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}), listed=False)
    write_text(Path(folder) / CONFIG_NAME, json.dumps(head.config.as_saved, indent=2) + "\n", listed=False)
    model = Path(folder) / SAFE_WEIGHTS_NAME
    if model.is_file():
        with safe_open(model, "pt") as file:
            names = dict.fromkeys(file.keys(), model.name)
        index = {"metadata": {"total_size": model.stat().st_size}, "weight_map": names}
        write_text(Path(folder) / SAFE_WEIGHTS_INDEX_NAME, json.dumps(index, indent=2) + "\n", listed=False)


def head_of_state(state_dict: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Pick the head's part of a model's state; nothing where there is none."""
    return {key: tensor for key, tensor in (state_dict or {}).items() if ".motion_head." in f".{key}"}


def find_head(places: Iterable[str], **hub_kwargs: Any) -> tuple[str, MotionHead] | None:
    """Read the first head that lies beside one of several adapters and models: where it was, and the head."""
    for where in places:
        head = load_head(where, **hub_kwargs)
        if head is not None:
            return where, head
    return None


def load_head(where: str | os.PathLike[str], **hub_kwargs: Any) -> MotionHead | None:
    """Read the head that lies beside a model or adapter.

    Args:
        where: a folder, or the id of a repository on the hub.
        hub_kwargs: `cache_dir`, `revision`, `token`, as for `from_pretrained`.

    Returns:
        The head, or None where there is none.

    Raises:
        HeadError: if the files are there but cannot be read or do not belong together.
    """
    config_file = fetch_file(str(where), CONFIG_NAME, **hub_kwargs)
    weights_file = fetch_file(str(where), WEIGHTS_NAME, **hub_kwargs)
    if config_file is None and weights_file is None:
        return None
    if config_file is None or weights_file is None:
        raise HeadError(f"{where}: found only one of {CONFIG_NAME} and {WEIGHTS_NAME}; copy the other one beside it")
    try:
        config = MotionHeadConfig.from_saved(read_json(config_file), str(where))
        weights = load_file(weights_file)  # before a head of the configuration's size, which may be any
        if (shape := list(weights["weight"].shape)) != [config.token_width, config.hidden_size]:
            raise ValueError(f"its weight is {shape}, its configuration {[config.token_width, config.hidden_size]}")
        head = MotionHead(config)
        head.load_state_dict(weights)
    except Exception as error:
        raise HeadError(f"{where}: the motion head cannot be read: {in_one_line(error)}") from error
    return head
