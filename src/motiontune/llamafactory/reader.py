"""Reads clips as training does for one model, outside of training."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from motiontune.errors import ConfigError, in_one_line
from motiontune.grid import VideoGrid
from motiontune.llamafactory.install import get_infer_args, install
from motiontune.llamafactory.names import quiet_loggers
from motiontune.llamafactory.plugin import reading_settings
from motiontune.llamafactory.sampling import prompt_keys, sampling_keys
from motiontune.llamafactory.workflow import load_processor
from motiontune.model.damage import check_adapter_files, check_model, read_object
from motiontune.model.families import family_of
from motiontune.model.hub import use_cache_without_network
from motiontune.model.wrappers import fetch_file
from motiontune.motion.options import MotionOptions
from motiontune.terminal import is_verbose
from motiontune.video.clip import Clip, Sampling
from motiontune.video.vectors import Follower


class ModelReader:
    """Reads clips as LLaMA-Factory and a model's own processor resize them.

    Args:
        model: a folder or the name of a hub repository: a model, or an adapter.
        fps: sampled frames per second (`video_fps`); None for this and the next two is as the model was trained, or
            where that is not known as LLaMA-Factory's defaults have it.
        max_frames: at most so many of them (`video_maxlen`).
        max_pixels: a frame with more pixels is made smaller (`video_max_pixels`).
        base: the model that an adapter belongs to; None is the one that its adapter_config.json names.
        template: LLaMA-Factory's; None is as in `model_keys`.

    Raises:
        ConfigError: if there is no such model or template, or it has no video tokens.
    """

    def __init__(
        self,
        model: str,
        fps: float | None = None,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        *,
        base: str | None = None,
        template: str | None = None,
    ) -> None:
        install()
        keys = model_keys(model, base, template)
        given = {"video_fps": fps, "video_maxlen": max_frames, "video_max_pixels": max_pixels}
        keys |= sampling_keys(places_of(keys)) | {key: value for key, value in given.items() if value is not None}
        with nullcontext() if is_verbose() else quiet_loggers():
            self.model_args, self.data_args, self.finetuning_args, _ = get_infer_args(keys)
            self.config, self.tokenizer_module, self.template = load_processor(self.model_args, self.data_args)
        self.processor = self.tokenizer_module["processor"]

    @property
    def sampling(self) -> Sampling:
        """How clips are sampled."""
        return Sampling.from_keys(reading_settings(self.processor))

    def read(self, path: str, with_vectors: bool | Follower) -> Clip:
        """Decode a clip; see `read_clip`."""
        clip: Clip = self.template.mm_plugin.read(path, self.processor, with_vectors)
        return clip

    def grid_of(self, clip: Clip) -> VideoGrid:
        """Where the model's patches of a clip lie."""
        grid: VideoGrid = self.template.mm_plugin.grid_of(clip, self.processor)
        return grid

    def motion_key(self, path: str, options: MotionOptions) -> str | None:
        """The name under which training keeps a clip's motion; None where it does not."""
        key: str | None = self.template.mm_plugin.motion_key(path, self.processor, options)
        return key


def model_keys(model: str, base: str | None = None, template: str | None = None) -> dict[str, Any]:
    """The keys of a YAML that load a model or adapter, and make its prompts: `model_name_or_path`, `template` ...

    Args:
        model: a folder or the name of a hub repository: a model, or an adapter.
        base: the model that an adapter belongs to; None is the one that its adapter_config.json names.
        template: LLaMA-Factory's; None is that of the model's training, or where that is not known the family's own.

    Raises:
        ConfigError: if there is no such model, or it has no video tokens.
    """
    use_cache_without_network(model, base)
    where, adapter = _base_and_adapter(model, base)
    use_cache_without_network(where)
    check_model(where)
    try:
        config = AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        kind = "a folder" if Path(where).is_dir() else "a folder or the hub"
        whose = f" (the base of {adapter}; name another with --base)" if adapter else ""
        raise ConfigError(f"{where} cannot be loaded from {kind}{whose}: {in_one_line(error)}") from error
    if adapter:
        check_adapter_files(adapter)
    family = family_of(config)
    keys = {"model_name_or_path": where} | ({"adapter_name_or_path": adapter} if adapter else {})
    asked = {"template": family.templates[0], **prompt_keys(places_of(keys))}
    return keys | asked | ({"template": template} if template else {})


def places_of(keys: dict[str, Any]) -> list[str]:
    """Where the head may lie of the model that `model_keys` name, the likelier place first."""
    return [keys[key] for key in ("adapter_name_or_path", "model_name_or_path") if key in keys]


def _base_and_adapter(model: str, base: str | None) -> tuple[str, str | None]:
    """Tell a model from an adapter: (the model to load, the adapter to load on it or None).

    Raises:
        ConfigError: if the folder is neither, or nothing says what the adapter's model is.
    """
    file = fetch_file(model, "adapter_config.json")
    if file is not None:
        base = base or read_object(Path(file)).get("base_model_name_or_path")
        if not base:
            raise ConfigError(f"{file} does not name the adapter's model: name it with --base")
        return base, model
    if base is not None:
        raise ConfigError(f"{model} has no adapter_config.json: --base is for adapters")
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise ConfigError(f"{model} is no model: it has neither config.json nor adapter_config.json")
    return model, None
