"""Everything that leans on a private name of transformers or PEFT, one function each (transformers 5.6, PEFT 0.18)."""

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.utils import cached_file
from transformers.utils.import_utils import is_peft_available

from motiontune.errors import ConfigError
from motiontune.model.families import family_of


def base_of(model: Any) -> PreTrainedModel:
    """Return the transformers model inside PEFT's and the engine's wrappers."""
    while hasattr(model, "module"):  # DDP, DeepSpeed
        model = model.module
    if hasattr(model, "get_base_model"):  # PeftModel
        model = model.get_base_model()
    return model


def check_positions() -> None:
    """Refuse the versions of transformers that number video tokens wrongly.

    From 5.3 to 5.5 all frames of a video have one position in time, and rows are counted across frames
    (huggingface/transformers#45381, mended in 5.6.0 by #45400): Qwen2-VL and Qwen2.5-VL then cannot tell frames apart.

    Raises:
        ConfigError: naming the version to install.
    """
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    if (5, 3) <= (major, minor) < (5, 6):
        raise ConfigError(
            f"transformers {transformers.__version__} gives all frames of a video the same position in time: "
            f"pip install transformers==5.6.0"
        )


def build_encoders_by(stock: Any, choose: Callable[[Any], Any]) -> None:
    """Let models build another vision encoder than their own where its configuration asks for it.

    Args:
        stock: transformers' class of the encoder; its own models get another one likewise.
        choose: from the encoder's configuration to a subclass, or to None for the stock encoder.
    """
    original = stock._from_config.__func__
    if hasattr(original, "chooses"):
        return

    @functools.wraps(original)
    def from_config(cls: Any, config: Any, **kwargs: Any) -> Any:
        return original((choose(config) if cls is stock else None) or cls, config, **kwargs)

    made: Any = from_config
    made.chooses = choose
    stock._from_config = classmethod(made)


class _NoSinks:
    """Stands for the attention sinks that a model does not have: in any dtype they are None."""

    @staticmethod
    def to(dtype: Any) -> None:
        """Return None, whatever the dtype."""


def mend_flash_attention() -> None:
    """Let FlashAttention run in a model without attention sinks, at which transformers 5.6.0 stops.

    It converts the sinks' dtype where there are none (huggingface/transformers#45588). 5.6.1 is mended, but
    LLaMA-Factory 0.9.5 takes 5.6.0 at most, and earlier ones have the fault of `check_positions`. Other versions are
    left alone, and so is a second call.
    """
    if transformers.__version__ != "5.6.0":
        return

    @functools.wraps(flash_attention_forward)
    def mended(*args: Any, s_aux: Any = None, **kwargs: Any) -> Any:
        return flash_attention_forward(*args, s_aux=_NoSinks() if s_aux is None else s_aux, **kwargs)

    for name, function in [*ALL_ATTENTION_FUNCTIONS.items()]:
        if function is flash_attention_forward:
            AttentionInterface.register(name, mended)


def is_peft(model: nn.Module) -> bool:
    """Whether the model carries an adapter."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def whole_modules(model: Any) -> set[str]:
    """The modules of which the adapters train a whole copy (LLaMA-Factory's `additional_target`)."""
    configs = model.peft_config.values() if is_peft(model) else ()
    return {name for config in configs for name in config.modules_to_save or ()}


def is_frozen(lm_head: Any) -> bool:
    """Whether nothing of an output layer is trained."""
    # under FSDP the weight may be no parameter, but a view of one
    return not any(tensor.requires_grad for tensor in (lm_head.weight, *lm_head.parameters()))


def run_frozen_vision_without_graph(base: PreTrainedModel) -> None:
    """Keep the activations of a vision encoder that isn't trained out of the backward pass, which ends in nothing.

    For gradient checkpointing PEFT calls `enable_input_require_grads`, which marks the first layer of the vision
    encoder, too, since transformers 5 (huggingface/transformers#41993; modelscope/ms-swift#10214 met the same): all
    its layers are then kept, and gone through backwards, for no weight. The merger, behind them, may be trained.
    """
    family = family_of(base.config)
    visual = family.visual_of(base)
    trained = (name for name, parameter in visual.named_parameters() if parameter.requires_grad)
    if all(family.projector in name for name in trained):
        first = visual.get_submodule(family.patch_embed)
        first.register_forward_hook(lambda module, args, output: output.detach())


def attention_of(model: Any) -> str | None:
    """Which implementation of attention a model has chosen, such as "sdpa"."""
    chosen: str | None = model.config._attn_implementation
    return chosen


def router_loss(base: PreTrainedModel, outputs: Any, inputs: dict[str, Any]) -> Any:
    """Compute what a mixture of experts adds to the loss of its text, where it is called with `output_router_logits`.

    transformers 5.6 looks for this among the arguments of `forward`, not in the configuration.

    Args:
        base: the model.
        outputs: what `base.model` returned.
        inputs: what it was called with.

    Returns:
        float32 scalar, multiplied by the configuration's `router_aux_loss_coef`; None where nothing is added.
    """
    routed = getattr(outputs, "router_logits", None)
    if routed is None or not inputs.get("output_router_logits"):
        return None
    text: Any = base.config.text_config
    module: Any = importlib.import_module(type(base).__module__)  # each family's has a function of its own
    mask = inputs.get("attention_mask")
    balance = module.load_balancing_loss_func(routed, text.num_experts, text.num_experts_per_tok, mask)
    return text.router_aux_loss_coef * balance


def after_peft_saves(save: Callable[[Any, str, "dict[str, Any] | None"], None]) -> None:
    """Let every `PeftModel.save_pretrained` call a function when it is done; a second call changes nothing.

    It writes the adapter and never calls the `save_pretrained` of the model inside, so that whatever that would save
    besides is lost, whichever Trainer it is.

    Args:
        save: called in the main process, with the model inside, the folder, and the state that was given or None.
    """
    if not is_peft_available():
        return
    from peft import PeftModel

    original: Any = PeftModel.save_pretrained
    if hasattr(original, "motion_save"):
        return

    @functools.wraps(original)
    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, save_directory, *args, **kwargs)
        bound = inspect.signature(original).bind(self, save_directory, *args, **kwargs).arguments
        if bound.get("is_main_process", True):
            save(self.get_base_model(), str(save_directory), bound.get("kwargs", {}).get("state_dict"))
        return result

    save_pretrained.motion_save = save  # type: ignore[attr-defined]
    PeftModel.save_pretrained = save_pretrained


def load_with_adapter(
    loader: Any, where: str | os.PathLike[str], hub: dict[str, Any], options: dict[str, Any]
) -> PreTrainedModel:
    """Load a model; of an adapter's folder its model, and the adapter into it.

    transformers would do the latter by itself, but 5.6 does not with the PEFT that LLaMA-Factory takes (0.18).

    Args:
        loader: transformers' class, such as `AutoModelForImageTextToText`.
        where: a folder or hub repository.
        hub: arguments that choose a version of `where`.
        options: arguments of `from_pretrained`, those of `hub` among them.
    """
    if fetch_file(str(where), "adapter_config.json", **hub) is None:
        model: PreTrainedModel = loader.from_pretrained(where, **options)
        return model
    from peft import PeftConfig, PeftModel

    of_base = {key: value for key, value in options.items() if key != "revision"}
    base = loader.from_pretrained(PeftConfig.from_pretrained(str(where), **hub).base_model_name_or_path, **of_base)
    model = PeftModel.from_pretrained(base, str(where), **hub).get_base_model()
    return model


def fetch_file(where: str, name: str, **hub_kwargs: Any) -> str | None:
    """Return the local path of a file in a folder or hub repository, or None where it isn't there."""
    if os.path.isdir(where):
        path = os.path.join(where, name)
        return path if os.path.isfile(path) else None
    try:
        found: str | None = cached_file(
            where,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
            **hub_kwargs,
        )
    except OSError:  # not a repository at all: the model's own loading has the better message
        return None
    return found
