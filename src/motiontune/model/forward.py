"""A Qwen-VL model that also says the motion at its video tokens.

`attach_head` puts the head into the model as a submodule and lets the model's own `forward` call it, so that DDP, FSDP
and DeepSpeed see its parameters. Nothing else of the model changes: without motion targets, `forward` is the original.

Shapes: B batch, S sequence, H hidden size, T video tokens of the whole batch (row by row), D numbers per token.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from motiontune.errors import ConfigError
from motiontune.model.head import MotionHead
from motiontune.model.losses import MotionLossType, motion_loss_sum, supervised_positions, token_cross_entropy
from motiontune.model.wrappers import base_of, language_model_of, run_frozen_vision_without_graph


@dataclass(frozen=True)
class MotionObjective:
    """What the model is trained for.

    Args:
        kind: the motion loss.
        with_text: also the answer's cross-entropy; otherwise no row of `lm_head` is computed.
        label_smoothing: of the cross-entropy.
    """

    kind: MotionLossType = "smooth_l1"
    with_text: bool = True
    label_smoothing: float = 0.0


@dataclass
class MotionOutput(ModelOutput):
    """Sums over one micro-batch; the trainer divides them by the counts of the global batch.

    Args:
        motion_sum: float32 scalar, the motion loss over the valid numbers.
        motion: float32 [T, D], the normalised prediction.
        ce_sum: float32 scalar, cross-entropy over the labelled tokens; None without text.
        ce_rows: float32 [B], the part of each sample in `ce_sum`; only in evaluation.
        token_ids: int64 [B, S], the most likely next token where one is labelled, else 0; only in evaluation.
    """

    motion_sum: Tensor | None = None
    motion: Tensor | None = None
    ce_sum: Tensor | None = None
    ce_rows: Tensor | None = None
    token_ids: Tensor | None = None


def tap_depth(where: str, layers: int) -> int:
    """Count the decoder layers before the hidden states that the motion head reads.

    Args:
        where: "last_hidden", "layer:K" or "projector".
        layers: how many decoder layers the model has.

    Raises:
        ConfigError: on another name, or a layer that the model does not have.
    """
    kind, _, number = where.partition(":")
    if where in ("last_hidden", "projector"):
        return layers if where == "last_hidden" else 0
    if kind == "layer" and number.isdigit() and 1 <= int(number) <= layers:
        return int(number)
    raise ConfigError(
        f"motion_head_input: {where!r} is none of last_hidden, projector, layer:K with K from 1 to {layers}"
    )


class HiddenTap:
    """Remembers, for the time of one forward pass, the hidden states that the motion head reads.

    Args:
        base: the transformers model.
        where: "last_hidden" (after the final norm), "layer:K" (output of decoder layer K, counted from 1, before
            Qwen3-VL adds its deepstack features) or "projector" (the vision encoder's output, entering the decoder).

    Raises:
        ConfigError: on another name, or a layer that the model does not have.
    """

    def __init__(self, base: PreTrainedModel, where: str) -> None:
        self.hidden: Tensor | None = None
        decoder = language_model_of(base)
        self.depth = tap_depth(where, len(decoder.layers))
        if where == "last_hidden":
            decoder.register_forward_hook(lambda module, args, output: self._keep(output[0]))
        elif where == "projector":
            decoder.register_forward_pre_hook(
                lambda module, args, kwargs: self._keep(kwargs["inputs_embeds"]), with_kwargs=True
            )
        else:
            self._wrap_layer(decoder.layers[self.depth - 1])

    def _keep(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def _wrap_layer(self, layer: nn.Module) -> None:
        # A hook would run inside gradient checkpointing, where the tensor has no graph. `__call__` is outside of it.
        tap = self

        class TappedLayer(type(layer)):  # type: ignore[misc]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                output = super().__call__(*args, **kwargs)
                tap._keep(output[0] if isinstance(output, tuple) else output)
                return output

        TappedLayer.__name__ = type(layer).__name__
        layer.__class__ = TappedLayer

    def take(self) -> Tensor:
        """Return the hidden states [B, S, H] and forget them."""
        hidden, self.hidden = self.hidden, None
        if hidden is None:
            raise RuntimeError("the tapped layer was not run in this forward pass")
        return hidden


class MotionForward:
    """Mixed into the model's class by `attach_head`: adds the motion to `forward`."""

    config: Any
    model: nn.Module
    lm_head: nn.Module
    training: bool
    motion_head: MotionHead
    motion_objective: MotionObjective
    _motion_tap: HiddenTap
    _motion_captured: "list[Tensor] | None" = None

    def video_positions(self, input_ids: Tensor) -> Tensor:
        """Find the video tokens, int64 [T], into the flattened [B * S]."""
        return (input_ids == self.config.video_token_id).flatten().nonzero().squeeze(-1)

    def motion_at(self, positions: Tensor) -> Tensor:
        """Predict at the video tokens, float32 [T, D], from the forward pass that has just run."""
        hidden = self._motion_tap.take().flatten(0, 1)
        return self.motion_head(hidden.index_select(0, positions.to(hidden.device)))

    def motion_forward(
        self,
        input_ids: Tensor,
        motion_targets: Tensor,
        motion_mask: Tensor,
        motion_weights: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Run the model once and return the sums of its losses.

        Args:
            input_ids: int64 [B, S].
            motion_targets: float32 [T, D], normalised.
            motion_mask: bool [T, D].
            motion_weights: float32 [T, D], how much each number counts in the loss; None for all alike.
            inputs: what the model's own forward takes; `labels` int64 [B, S] among them if there is text to learn.
        """
        labels = inputs.pop("labels", None)
        inputs.pop("rope_deltas", None)  # the original forward does not pass it on either
        objective = self.motion_objective
        # what waits for the device stands before the layers, which are then queued without a pause
        at_video = self.video_positions(input_ids)
        positions = supervised_positions(labels) if objective.with_text and labels is not None else None
        hidden = self.model(input_ids=input_ids, **inputs)[0]
        motion = self.motion_at(at_video)
        output = MotionOutput(
            motion_sum=motion_loss_sum(motion, motion_targets, motion_mask, objective.kind, motion_weights),
            motion=motion.detach(),
        )
        if positions is not None:
            losses, tokens = token_cross_entropy(
                hidden, labels, positions, self.lm_head, objective.label_smoothing, with_tokens=not self.training
            )
            output.ce_sum = losses.sum()
            if tokens is not None:
                rows = (positions // labels.shape[1]).to(losses.device)
                output.ce_rows = losses.new_zeros(len(labels)).index_add(0, rows, losses)
                output.token_ids = torch.zeros_like(labels).put_(positions, tokens)
        return output


@functools.cache
def _with_motion(original: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Make the subclass of a model class whose forward also says motion."""

    @functools.wraps(original.forward)  # generate() reads the signature
    def forward(self: Any, *args: Any, motion_targets: Any = None, motion_mask: Any = None, **inputs: Any) -> Any:
        if motion_targets is not None:
            return self.motion_forward(motion_targets=motion_targets, motion_mask=motion_mask, **inputs)
        output = original.forward(self, *args, **inputs)
        if self._motion_captured is not None and inputs.get("pixel_values_videos") is not None:
            self._motion_captured.append(self.motion_at(self.video_positions(inputs["input_ids"])))
        self._motion_tap.hidden = None
        return output

    # The name stays, so that config.json's `architectures` does.
    members = {"forward": forward, "__module__": original.__module__, "motion_original_class": original}
    return type(original.__name__, (MotionForward, original), members)


def attach_head(model: nn.Module, head: MotionHead, objective: MotionObjective) -> PreTrainedModel:
    """Put a motion head into a model, in place.

    Args:
        model: a Qwen2-VL, Qwen2.5-VL or Qwen3-VL for conditional generation, with or without a PEFT adapter.
        head: the head, fitting the model.
        objective: what `forward` computes when it gets motion targets.

    Returns:
        The transformers model inside `model`, whose `motion_head` is the head.

    Raises:
        ConfigError: if the model has no video tokens, or not the layer that the head reads.
    """
    base = base_of(model)
    check_video_model(base.config)
    original: Any = type(base)
    base.__class__ = _with_motion(original)
    run_frozen_vision_without_graph(base)
    base.motion_head = head.to(base.lm_head.weight.device)
    base.motion_objective = objective
    base._motion_tap = HiddenTap(base, head.config.input)
    base._keys_to_ignore_on_save = [*(base._keys_to_ignore_on_save or []), "motion_head.weight", "motion_head.bias"]
    return base


def check_video_model(config: Any, what: str = "motion") -> None:
    """Refuse a model that is none of the supported families.

    Args:
        config: the model's configuration.
        what: needs one of these families, for the message.

    Raises:
        ConfigError: naming the model's type.
    """
    if config.model_type not in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        has_video = getattr(config, "video_token_id", None) is not None
        raise ConfigError(
            f"model type {config.model_type} {'is not supported yet' if has_video else 'has no video tokens'}: "
            f"{what} needs Qwen2-VL, Qwen2.5-VL or Qwen3-VL"
        )


@contextmanager
def captured_motion(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the motion that `generate()`'s own prefill sees, so that text and motion cost one forward pass.

    Yields:
        A list that receives one float32 [T, D] per forward pass with video pixels.
    """
    base: Any = base_of(model)
    base._motion_captured = []
    try:
        yield base._motion_captured
    finally:
        base._motion_captured = None


def freeze_unused(model: nn.Module) -> list[str]:
    """Freeze what the motion loss alone never reaches: layers after the tap, and an output layer of its own.

    DDP waits for the gradient of every trainable parameter, and weight decay would shrink these for nothing.

    Returns:
        Names of the parameters that were trainable before.
    """
    base: Any = base_of(model)
    decoder = language_model_of(base)
    where, depth = base.motion_head.config.input, base._motion_tap.depth
    unused: list[nn.Module] = [base.lm_head]
    if where != "last_hidden":
        # Qwen3-VL adds deepstack feature k after layer k + 1, which is after the tap.
        deepstack = getattr(base.model.visual, "deepstack_merger_list", [])
        unused += [*decoder.layers[depth:], decoder.norm, *deepstack[max(depth - 1, 0) :]]
    if where == "projector":
        unused.append(decoder.embed_tokens)

    kept = set() if where == "projector" else set(base.get_input_embeddings().parameters())  # tied to lm_head, maybe
    frozen = []
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter in (parameter for module in unused for parameter in module.parameters()):
        if parameter.requires_grad and parameter not in kept:
            parameter.requires_grad_(False)
            frozen.append(names[parameter])
    return frozen
