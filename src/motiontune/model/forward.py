"""A video-language model that also predicts the motion at its video tokens.

`attach_head` puts the head into the model as a submodule and lets the model's own `forward` call it, so that DDP, FSDP
and DeepSpeed see its parameters. Nothing else of the model changes: without motion targets, `forward` is the original.
Whatever saves the model saves the head beside it.

Shapes: B batch, S sequence, H hidden size, T video tokens of the whole batch (row by row), D numbers per token.
"""

import functools
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from motiontune.errors import ConfigError
from motiontune.model.families import Family, family_of
from motiontune.model.head import MotionHead, MotionHeadConfig, head_of_state, save_head
from motiontune.model.losses import MotionLossType, motion_loss_sum, supervised_positions, token_cross_entropy
from motiontune.model.sharding import gather
from motiontune.model.wrappers import (
    after_peft_saves,
    base_of,
    check_positions,
    mend_flash_attention,
    router_loss,
    run_frozen_vision_without_graph,
)


MotionGradient = Literal["all", "head", "projector"]
MOTION_GRADIENTS: tuple[str, ...] = get_args(MotionGradient)


@dataclass(frozen=True)
class MotionObjective:
    """What the model is trained for.

    Args:
        kind: the motion loss.
        with_text: also the answer's cross-entropy; otherwise no row of `lm_head` is computed.
        label_smoothing: of the cross-entropy.
        weight: of the motion in `MotionOutput.loss`.
        with_logits: also return the logits of all positions, for a trainer that reads them (TRL's). They take much
            more memory than the loss, which needs the labelled positions alone.
        gradient: which weights the motion loss trains. "all": the head and everything below its tap. "projector": the
            head, which reads there, and the projector. "head": the head alone, which makes it a linear probe.
    """

    kind: MotionLossType = "smooth_l1"
    with_text: bool = True
    label_smoothing: float = 0.0
    weight: float = 1.0
    with_logits: bool = False
    gradient: MotionGradient = "all"


@dataclass
class MotionOutput(ModelOutput):
    """The loss of one micro-batch, and its sums for a trainer that divides by the counts of the global batch.

    Args:
        loss: float32 scalar, the mean motion loss over this batch's valid numbers times the objective's weight, plus
            the mean cross-entropy over its labelled tokens, plus `router_loss`.
        motion_sum: float32 scalar, the motion loss over the valid numbers.
        motion: float32 [rows, D], the normalised prediction; T rows, or in a pooled form one per temporal step.
        ce_sum: float32 scalar, cross-entropy over the labelled tokens; None without text.
        ce_rows: float32 [B], the part of each sample in `ce_sum`; only in evaluation.
        token_ids: int64 [B, S], the most likely next token where one is labelled, else 0; only in evaluation.
        router_loss: float32 scalar, what a mixture of experts adds to the loss of its text where it is called with
            `output_router_logits=True`, its coefficient included; else None.
        logits: floating [B, S, V], without a graph; only where the objective asks for them.
    """

    loss: Tensor | None = None
    motion_sum: Tensor | None = None
    motion: Tensor | None = None
    ce_sum: Tensor | None = None
    ce_rows: Tensor | None = None
    token_ids: Tensor | None = None
    router_loss: Tensor | None = None
    logits: Tensor | None = None


def tap_depth(where: str, layers: int) -> int:
    """Count the decoder layers before the hidden states that the motion head reads.

    Args:
        where: "last_hidden", "layer:K", "projector" or "encoder".
        layers: how many decoder layers the model has.

    Raises:
        ConfigError: on another name, or a layer that the model does not have.
    """
    kind, _, number = where.partition(":")
    if where in ("last_hidden", "projector", "encoder"):
        return layers if where == "last_hidden" else 0
    if kind == "layer" and number.isdigit() and 1 <= int(number) <= layers:
        return int(number)
    raise ConfigError(
        f"motion_head_input: {where!r} is none of last_hidden, projector, encoder, layer:K with K from 1 to {layers}"
    )


def check_gradient(gradient: str, where: str) -> None:
    """Refuse to stop the motion gradient where the head does not read.

    Args:
        gradient: "all", "projector" or "head".
        where: the tap.

    Raises:
        ConfigError: naming both keys.
    """
    if gradient == "projector" and where != "projector":
        raise ConfigError(
            f"motion_gradient: projector needs `motion_head_input: projector`, not {where}: set "
            f"`motion_gradient: all` or head (it comes with `motion_head: deltadirect`, too)"
        )


class HiddenTap:
    """Remembers, for the time of one forward pass, the hidden states that the motion head reads.

    Args:
        base: the transformers model.
        head: its `input` is "last_hidden" (after the final norm), "layer:K" (output of decoder layer K, counted from
            1, before DeepStack features are added), "projector" (the vision encoder's output, entering the decoder) or
            "encoder" (what the projector reads: the patches of a token side by side).
        gradient: as in `MotionObjective`.

    Raises:
        ConfigError: on another name, or a layer that the model does not have.
    """

    def __init__(self, base: PreTrainedModel, head: MotionHeadConfig, gradient: MotionGradient) -> None:
        self.hidden: Tensor | None = None
        where, family = head.input, family_of(base.config)
        decoder = family.language_model_of(base)
        self.depth = tap_depth(where, len(decoder.layers))
        check_gradient(gradient, where)
        self._detached = gradient == "head"
        self._vision: VisionTap | None = None
        if where == "encoder" or gradient == "projector":
            self._vision = VisionTap(base, family, gradient == "projector", head.hidden_size)
        elif where == "last_hidden":
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

        # Not the layer's own name: FSDP and PEFT wrap the instances of the first class that bears a name, and this one
        # has a single instance. The layer's own class has them all.
        TappedLayer.__name__ = f"Tapped{type(layer).__name__}"
        layer.__class__ = TappedLayer

    def take(self, positions: Tensor) -> Tensor:
        """Return the hidden states of the video tokens, floating [T, H], and forget them.

        Args:
            positions: int64 [T], of the video tokens in the flattened [B * S].
        """
        if self._vision is not None:
            rows = self._vision.take(len(positions))
        elif self.hidden is not None:
            rows = self.hidden.flatten(0, 1).index_select(0, positions.to(self.hidden.device))
        else:
            raise RuntimeError("the tapped layer was not run in this forward pass")
        self.forget()
        return rows.detach() if self._detached else rows

    def forget(self) -> None:
        """Let go of what the last forward pass left."""
        self.hidden = None
        if self._vision is not None:
            self._vision.last = None


class VisionTap:
    """Remembers what the projector read in its last call.

    Args:
        base: the transformers model.
        family: its family.
        again: rows are those of the projector, run once more on its own, so that a loss trains it and nothing below;
            otherwise they are what it reads, the patches of a token side by side.
        width: of a row.
    """

    def __init__(self, base: PreTrainedModel, family: Family, again: bool, width: int) -> None:
        self.last: tuple[Tensor, Tensor] | None = None
        self._family, self._again, self._width = family, again, width
        self._visual, self._projector = family.visual_of(base), family.projector_of(base)
        self._thw = torch.zeros(0, 3)
        self._visual.register_forward_pre_hook(self._see_grids, with_kwargs=True)
        self._projector.register_forward_pre_hook(self._see_patches)

    def _see_grids(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._thw = kwargs["grid_thw"]

    def _see_patches(self, module: nn.Module, args: Any) -> None:
        self.last = args[0], self._thw

    def take(self, count: int) -> Tensor:
        """Return so many rows, floating [count, H]: those of the videos, which the encoder sees after images.

        In a batch without a video there are none, with the graph of the images' where there are images.
        """
        if self.last is None and count == 0:
            return torch.zeros(0, self._width, device=next(self._projector.parameters()).device)
        if self.last is None:
            raise RuntimeError("the vision encoder was not run in this forward pass")
        patches, thw = self.last
        if self._again:
            rows = self._projector(patches.detach())
        else:
            rows = patches.unflatten(0, (-1, self._visual.spatial_merge_size**2)).flatten(1)
        return self._family.in_token_order(rows, self._visual, thw)[:count]


class MotionForward:
    """Mixed into the model's class by `attach_head`: adds the motion to `forward`."""

    config: Any
    model: nn.Module
    training: bool
    motion_head: MotionHead
    motion_objective: MotionObjective
    _motion_tap: HiddenTap
    _motion_captured: "list[Tensor] | None" = None
    _motion_whole: "dict[str, Tensor] | None" = None

    def video_positions(self, input_ids: Tensor) -> Tensor:
        """Find the video tokens, int64 [T], into the flattened [B * S]."""
        return (input_ids == self.config.video_token_id).flatten().nonzero().squeeze(-1)

    def motion_steps(self, video_grid_thw: Tensor | None) -> list[tuple[int, int]]:
        """Count temporal steps and tokens of each video where the head needs them; waits for the device."""
        config = self.motion_head.config
        if video_grid_thw is None or not config.reads_steps:
            return []
        return [(steps, rows * cols // config.merge**2) for steps, rows, cols in video_grid_thw.tolist()]

    def motion_at(self, positions: Tensor, steps: Sequence[tuple[int, int]] = ()) -> Tensor:
        """Predict at the video tokens from the forward pass that has just run.

        Args:
            positions: int64 [T], `video_positions(input_ids)`.
            steps: `motion_steps(video_grid_thw)`.

        Returns:
            float32 [rows, D].
        """
        return self.motion_head(self._motion_tap.take(positions), steps)

    def motion_forward(
        self,
        input_ids: Tensor,
        motion_targets: Tensor,
        motion_mask: Tensor,
        motion_weights: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Run the model once and return its losses.

        Args:
            input_ids: int64 [B, S].
            motion_targets: float32 [rows, D], normalised; or its bits, see `as_bits`.
            motion_mask: bool [rows, D].
            motion_weights: float32 [rows, D] or its bits, how much each number counts in the loss; None for all alike.
            inputs: what the model's own forward takes; `labels` int64 [B, S] among them if there is text to learn.
        """
        labels = inputs.pop("labels", None)
        inputs.pop("rope_deltas", None)  # the original forward does not pass it on either
        objective, family = self.motion_objective, family_of(self.config)
        motion_targets = _from_bits(motion_targets)
        motion_weights = None if motion_weights is None else _from_bits(motion_weights)
        # what waits for the device stands before the layers, which are then queued without a pause
        at_video = self.video_positions(input_ids)
        steps = self.motion_steps(inputs.get("video_grid_thw"))
        positions = supervised_positions(labels) if objective.with_text and labels is not None else None
        outputs = self.model(input_ids=input_ids, **inputs)
        motion = self.motion_at(at_video, steps)
        motion_sum = motion_loss_sum(motion, motion_targets, motion_mask, objective.kind, motion_weights)
        numbers = motion_mask.sum() if motion_weights is None else motion_weights.sum()
        loss = objective.weight * motion_sum / _at_least_one(numbers)
        output = MotionOutput(loss=loss, motion_sum=motion_sum, motion=motion.detach())
        if positions is not None:
            lm_head, with_tokens = family.lm_head_of(self), not self.training
            losses, tokens = token_cross_entropy(
                outputs[0], labels, positions, lm_head, objective.label_smoothing, with_tokens
            )
            output.ce_sum = losses.sum()
            output.loss = loss + output.ce_sum / max(len(positions), 1)
            output.router_loss = router_loss(self, outputs, inputs)
            if output.router_loss is not None:
                output.loss = output.loss + output.router_loss
            if objective.with_logits:
                with torch.no_grad():
                    output.logits = lm_head(outputs[0])
            if tokens is not None:
                rows = (positions // labels.shape[1]).to(losses.device)
                output.ce_rows = losses.new_zeros(len(labels)).index_add(0, rows, losses)
                output.token_ids = torch.zeros_like(labels).put_(positions, tokens)
        return output


def as_bits(tensor: Tensor) -> Tensor:
    """View a float32 tensor as int32, for the way through an engine: FSDP rounds floating inputs to its own dtype."""
    return tensor.view(torch.int32)


def _from_bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.float32) if tensor.dtype == torch.int32 else tensor


def _at_least_one(count: Tensor) -> Tensor:
    return torch.where(count > 0, count, torch.ones_like(count))


@functools.cache
def _with_motion(original: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Make the subclass of a model class whose forward also predicts motion, and which saves its head."""

    names = list(inspect.signature(original.forward).parameters)[1:]

    @functools.wraps(original.forward)  # generate() reads the signature
    def forward(self: Any, *args: Any, motion_targets: Any = None, motion_mask: Any = None, **inputs: Any) -> Any:
        if motion_targets is not None:
            inputs |= dict(zip(names, args, strict=False))
            return self.motion_forward(motion_targets=motion_targets, motion_mask=motion_mask, **inputs)
        output = original.forward(self, *args, **inputs)
        if self._motion_captured is not None and inputs.get("pixel_values_videos") is not None:
            steps = self.motion_steps(inputs.get("video_grid_thw"))
            self._motion_captured.append(self.motion_at(self.video_positions(inputs["input_ids"]), steps))
        self._motion_tap.forget()
        return output

    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(original.save_pretrained).bind(self, save_directory, *args, **kwargs).arguments
        whole = self._motion_whole or head_of_state(given.get("state_dict"))  # which the call takes out of the state
        original.save_pretrained(self, save_directory, *args, **kwargs)
        if given.get("is_main_process", True):
            save_head(self.motion_head, save_directory, whole)

    members = {
        "forward": forward,
        "save_pretrained": save_pretrained,
        "accepts_loss_kwargs": False,  # a Trainer divides the loss by the number of its micro-batches
        "motion_original_class": original,
        "__module__": original.__module__,
    }
    # The name stays, so that config.json's `architectures` does.
    return type(original.__name__, (MotionForward, original), members)


def attach_head(
    model: nn.Module, head: MotionHead | MotionHeadConfig, objective: MotionObjective | None = None
) -> PreTrainedModel:
    """Put a motion head into a model, in place.

    From then on `forward` takes `motion_targets` and `motion_mask` and returns a `MotionOutput`, whose `loss` any
    Trainer can use. Whatever saves the model, `save_pretrained` of transformers or of PEFT, leaves the head beside it,
    for `load_head`. A PEFT adapter comes before the head: one that is added later freezes it.

    Args:
        model: of a supported family, for conditional generation, with or without a PEFT adapter.
        head: the head, fitting the model; or the configuration of a new one, which starts at zero.
        objective: what `forward` computes when it gets motion targets; motion and text where not given.

    Returns:
        The transformers model inside `model`, whose `motion_head` is the head.

    Raises:
        ConfigError: if the model has a motion head already, no video tokens, or not the layer that the head reads, or
            if the objective stops the gradient where the head does not read.
    """
    base = base_of(model)
    if isinstance(base, MotionForward):
        raise ConfigError("the model has a motion head already: set its `motion_objective`, or load the model again")
    family = family_of(base.config)
    head = MotionHead(head) if isinstance(head, MotionHeadConfig) else head
    check_positions()
    mend_flash_attention()
    original: Any = type(base)
    base.__class__ = _with_motion(original)
    run_frozen_vision_without_graph(base)
    base.motion_head = head.to(family.lm_head_of(base).weight.device)
    base.motion_objective = objective or MotionObjective()
    base._motion_tap = HiddenTap(base, head.config, base.motion_objective.gradient)
    base.model.register_forward_pre_hook(_refuse_motion, with_kwargs=True)
    base._keys_to_ignore_on_save = [*(base._keys_to_ignore_on_save or []), "motion_head.weight", "motion_head.bias"]
    after_peft_saves(_save_head_of)
    return base


def _refuse_motion(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """Stop a trainer whose own forward leaves the motion out, which transformers' models would not notice."""
    if "motion_targets" in kwargs:
        raise ConfigError(
            "this trainer goes past the model's own forward, and would learn no motion: put MotionTrainerMixin before "
            'it, and with TRL set loss_type="nll", as in examples/trl_trainer.py'
        )


def _save_head_of(base: Any, folder: str, state_dict: dict[str, Tensor] | None) -> None:
    """Save the head of a model that has one."""
    if isinstance(base, MotionForward):
        save_head(base.motion_head, folder, base._motion_whole or state_dict)


@contextmanager
def whole_head(model: nn.Module) -> Iterator[None]:
    """Let what saves the model within, in the main process, save the whole head. All processes must enter.

    Args:
        model: the model as the engine has wrapped it.
    """
    base: Any = base_of(model)
    base._motion_whole = {f"motion_head.{name}": tensor for name, tensor in gather(model, base.motion_head).items()}
    try:
        yield
    finally:
        base._motion_whole = None


@contextmanager
def captured_motion(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the motion that `generate()`'s own prefill predicts, so that text and motion cost one forward pass.

    Yields:
        A list that receives one float32 [rows, D] per forward pass with video pixels.
    """
    base: Any = base_of(model)
    base._motion_captured = []
    try:
        yield base._motion_captured
    finally:
        base._motion_captured = None


def trains_below(model: nn.Module) -> bool:
    """Whether the motion loss trains any weight but the head's."""
    base: Any = base_of(model)
    family, gradient = family_of(base.config), base.motion_objective.gradient
    visual, projector = family.visual_of(base).parameters(), set(family.projector_of(base).parameters())
    below: Iterable[nn.Parameter] = set(base.parameters()) - set(base.motion_head.parameters())
    if gradient == "projector":
        below = projector
    elif base.motion_head.config.input in ("projector", "encoder"):
        below = visual if base.motion_head.config.input == "projector" else set(visual) - projector
    return gradient != "head" and any(parameter.requires_grad for parameter in below)


def freeze_unused(model: nn.Module) -> list[str]:
    """Freeze what the motion loss alone never reaches: above its tap, and below where its gradient is stopped.

    DDP waits for the gradient of every trainable parameter, and weight decay would shrink these for nothing.

    Returns:
        Names of the parameters that were trainable before.
    """
    base: Any = base_of(model)
    family = family_of(base.config)
    decoder = family.language_model_of(base)
    where, depth = base.motion_head.config.input, base._motion_tap.depth
    gradient, projector = base.motion_objective.gradient, family.projector_of(base)
    unused: list[nn.Module] = [family.lm_head_of(base)]
    kept = set(base.motion_head.parameters())
    if gradient != "all":
        unused = [base]
        kept |= set(projector.parameters()) if gradient == "projector" else set()
    elif where != "last_hidden":
        # feature k is added after layer k + 1, which is after the tap
        unused += [*decoder.layers[depth:], decoder.norm, *family.deepstack_of(base)[max(depth - 1, 0) :]]
    if where in ("projector", "encoder"):
        unused += [decoder.embed_tokens] + [projector] * (where == "encoder")
    elif gradient == "all":
        kept |= set(base.get_input_embeddings().parameters())  # tied to lm_head, maybe
    frozen = []
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter in (parameter for module in unused for parameter in module.parameters()):
        if parameter.requires_grad and parameter not in kept:
            parameter.requires_grad_(False)
            frozen.append(names[parameter])
    return frozen
