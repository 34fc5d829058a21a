"""Times training steps: LLaMA-Factory's own and motiontune's, on one model, in turns."""

import gc
import tempfile
import time
import traceback
import warnings
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import KINDS
from internals import (
    MOTION_TENSORS,
    CustomSeq2SeqTrainer,
    MotionHead,
    MotionHeadConfig,
    MotionObjective,
    MotionTrainer,
    attach_head,
    base_of,
    get_train_args,
    install,
    language_model_of,
    load_model,
    load_tokenizer,
    use_sparse_logits,
)
from rows import Rows
from subject import H100_FLOPS, count_flops, keys_of, make_batch, write_shape


ARMS = ("llamafactory", "sparse_logits", "motion+CE", "motion only")


@dataclass
class Arm:
    """One kind of training: the class, hooks and forward that its model has, and the trainer that makes its step."""

    trainer: Any
    model_class: type
    vision_hooks: Any
    decoder_hooks: Any
    forward: Any = None
    with_text: bool = True
    out_of_memory: list[int] = field(default_factory=list)


class Subject:
    """A model of a true shape, loaded by LLaMA-Factory, that can be trained in each of four ways.

    Loading, the trainers' `compute_loss`, autocast, gradient checkpointing, the optimizer and its groups are those of
    a run. What a run does between its steps (the data loader, logging) is left out.

    Args:
        name: "2B", "4B" or "7B".
        method: "lora" or "full".
        device: "cuda" or "cpu".
        tiny: the family's tiny model in its place.
        liger: with LLaMA-Factory's `enable_liger_kernel`, which stays in force for this process.
    """

    def __init__(self, name: str, method: str, device: str, tiny: bool, liger: bool = False) -> None:
        install()
        self.name, self.method, self.device, self.liger = name, method, device, liger
        self.work = tempfile.TemporaryDirectory()
        folder = Path(self.work.name)
        files = write_shape(folder / "model", name, "bfloat16", tiny)
        parsed = {}
        for arm, kind in zip(ARMS, ("plain", "sparse_logits", "motion+CE", "motion only"), strict=True):
            keys = keys_of(files, method, folder, device, **KINDS[kind], enable_liger_kernel=liger)
            parsed[arm] = get_train_args(keys)
        model_args, self.data_args, _, finetuning_args, _ = parsed["llamafactory"]
        self.dtype = model_args.compute_dtype
        self.tokenizer_module = dict(load_tokenizer(model_args))
        with torch.device(device):  # random weights are drawn there, in a moment
            model = load_model(self.tokenizer_module["tokenizer"], model_args, finetuning_args, is_trainable=True)
        self.model, self.base = model, base_of(model)
        self.patch_embed, self.decoder = self.base.model.visual.patch_embed, language_model_of(self.base)
        video = self.tokenizer_module["processor"].video_processor
        self.head_config = MotionHeadConfig(
            hidden_size=self.base.config.text_config.hidden_size,
            patch=video.patch_size,
            merge=video.merge_size,
            temporal_patch=video.temporal_patch_size,
        )
        self._make_arms(parsed)

    def _make_arms(self, parsed: dict[str, Any]) -> None:
        plain = type(self.base)
        hooks = OrderedDict(self.patch_embed._forward_hooks), OrderedDict(self.decoder._forward_hooks)
        states = {"llamafactory": (plain, *hooks)}
        use_sparse_logits(self.model)
        states["sparse_logits"] = type(self.base), OrderedDict(self.patch_embed._forward_hooks), hooks[1]
        self._become(plain, *hooks)
        attach_head(self.model, MotionHead(self.head_config), MotionObjective())
        motion = (
            type(self.base),
            OrderedDict(self.patch_embed._forward_hooks),
            OrderedDict(self.decoder._forward_hooks),
        )
        states["motion+CE"] = states["motion only"] = motion
        self.arms: dict[str, Arm] = {}
        for name, state in states.items():
            self._become(*state)
            _, _, training_args, finetuning_args, _ = parsed[name]
            trainer_class = MotionTrainer if name.startswith("motion") else CustomSeq2SeqTrainer
            trainer = trainer_class(
                model=self.model,
                args=training_args,
                finetuning_args=finetuning_args,
                data_collator=None,
                gen_kwargs={},
                **self.tokenizer_module,
            )
            trainer.current_gradient_accumulation_steps = 1
            self.model.__dict__.pop("forward", None)
            trainer.accelerator.prepare_model(self.model)  # autocast around the forward of this class
            forward = self.model.__dict__.get("forward")
            self.arms[name] = Arm(trainer, *state, forward=forward, with_text=name != "motion only")
        owner = self.arms["motion+CE"].trainer  # the head is a group of its own there, without gradients elsewhere
        self.optimizer = owner.accelerator.prepare_optimizer(owner.create_optimizer())

    def _become(self, model_class: type, vision_hooks: Any, decoder_hooks: Any) -> None:
        self.base.__class__ = model_class
        for module, hooks in ((self.patch_embed, vision_hooks), (self.decoder, decoder_hooks)):
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)

    def use(self, name: str) -> Arm:
        """Make the model that of an arm."""
        arm = self.arms[name]
        self._become(arm.model_class, arm.vision_hooks, arm.decoder_hooks)
        self.model.__dict__.pop("forward", None)
        if arm.forward is not None:
            self.model.__dict__["forward"] = arm.forward
        self.base.motion_objective = MotionObjective(with_text=arm.with_text)
        return arm

    def batch(self, tokens: int, padding: int = 0) -> dict[str, torch.Tensor]:
        """A batch of so many video tokens, on the device."""
        self.use("llamafactory")
        tokenizer = self.tokenizer_module["tokenizer"]
        batch = make_batch(self.model, tokenizer, None, self.head_config, tokens, self.dtype, padding)
        return {key: value.to(self.device) for key, value in batch.items()}

    def backward(self, name: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Forward, loss and backward, as the trainer's `training_step` does it; returns the loss."""
        arm = self.use(name)
        inputs, counts = dict(batch), None
        if name.startswith("motion"):
            counts = arm.trainer._get_num_items_in_batch([inputs], torch.device(self.device))
        else:
            inputs = {key: value for key, value in inputs.items() if key not in MOTION_TENSORS}
        loss: torch.Tensor = arm.trainer.training_step(self.model, inputs, counts)
        return loss

    def step(self, name: str, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """Make a whole step; return its loss, seconds and peak of allocated memory in MB."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = self._now()
        loss = self.backward(name, batch)
        self.arms[name].trainer.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        taken = {"seconds": self._now() - started, "loss": float(loss)}
        if self.device == "cuda":
            taken["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
        return taken

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def close(self) -> None:
        """Free the model's memory."""
        self.arms.clear()
        del self.model, self.base, self.optimizer, self.patch_embed, self.decoder
        self.work.cleanup()
        free(self.device)


def free(device: str) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def measure(
    rows: Rows,
    subject: Subject,
    tokens: int,
    arms: tuple[str, ...],
    limit: float,
    deadline: float,
    padding: int = 0,
    rounds: int = 7,
) -> None:
    """Time arms in turns, every second round in the other order, for about `limit` seconds: a row each.

    At least 3 rounds, unless the `deadline` (seconds since 1970) comes first. An arm that runs out of memory is left
    out from then on, and its row says so.
    """
    batch = subject.batch(tokens, padding)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    failed: dict[str, str] = {}
    started = time.perf_counter()
    for number in range(-1, rounds):  # round -1 warms up
        taken_so_far = time.perf_counter() - started
        one_more = taken_so_far / max(number + 1, 1)
        if number >= 3 and taken_so_far + one_more > limit or number >= 1 and time.time() + one_more > deadline:
            break
        for name in arms if number % 2 else reversed(arms):
            if name in failed:
                continue
            try:
                one = subject.step(name, batch)
            except torch.OutOfMemoryError as error:
                failed[name] = f"out of memory: {error}"[:300]
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"[:300]
                traceback.print_exc()
            else:
                if number >= 0:
                    taken[name].append(one)
                continue
            subject.optimizer.zero_grad()
            free(subject.device)
    about = {"model": subject.name, "method": subject.method, "video_tokens": tokens, "liger": subject.liger}
    about |= {"positions": batch["input_ids"].numel(), "labels": int((batch["labels"][:, 1:] != -100).sum())}
    about |= {"padding": padding}
    title = f"{subject.name} {subject.method} {tokens}{' padded' * bool(padding)}{' liger' * subject.liger}"
    plain = [one["seconds"] for one in taken.get("llamafactory", ())]
    for name in arms:
        steps = taken[name]
        row: dict[str, Any] = {**about, "arm": name, "rounds": len(steps)}
        if name in failed:
            row["error"] = failed[name]
        if steps:
            seconds = np.array([one["seconds"] for one in steps])
            flops = count_flops(subject.model, batch, subject.method, name)
            row |= spread("seconds", seconds)
            if len(plain) == len(seconds) and name != "llamafactory":
                row |= spread("time_to_llamafactory", seconds / np.array(plain))
            row["positions_per_second"] = round(about["positions"] / row["seconds"], 1)
            row["flops"] = {key: float(value) for key, value in flops.items()}
            row["mfu"] = round(flops["all"] / row["seconds"] / H100_FLOPS, 4)
            row["loss_first_last"] = [round(steps[0]["loss"], 4), round(steps[-1]["loss"], 4)]
            row["all_seconds"] = [round(float(one), 5) for one in seconds]
            if "peak_mb" in steps[0]:
                row["peak_mb"] = round(max(one["peak_mb"] for one in steps))
        rows.add("step", f"{title} {name}", **row)


def spread(name: str, values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = (round(float(one), 5) for one in np.percentile(values, (25, 50, 75)))
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def check_waits(subject: Subject, tokens: int) -> dict[str, Any]:
    """List what waits for the GPU in forward, loss and backward of each arm, on a batch that is there.

    A place is that of the innermost line outside torch, with how often it waited; those after the first decoder layer
    began are marked: there the queue runs dry, and motiontune must have none of its own.
    """
    batch = subject.batch(tokens)
    found: dict[str, dict[str, int]] = {}
    own = []
    for name in subject.arms:
        subject.step(name, batch)
        places: Counter[str] = Counter()
        begun: list[bool] = []

        def note(*_: Any, places: Counter[str] = places, begun: list[bool] = begun, **__: Any) -> None:
            frames = [one for one in traceback.extract_stack()[:-1] if "/torch/" not in one.filename]
            frames = [one for one in frames if not one.filename.endswith(("steps.py", "warnings.py"))] or [None]
            where = frames[-1]
            text = "?" if where is None else f"{'/'.join(Path(where.filename).parts[-3:])}:{where.lineno}"
            places[text + (" (layers running)" if begun else "")] += 1

        hook = subject.decoder.layers[0].register_forward_pre_hook(lambda *_, begun=begun: begun.append(True))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            if subject.device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                subject.backward(name, batch)
            finally:
                if subject.device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        hook.remove()
        subject.optimizer.zero_grad()
        found[name] = dict(places)
        own += [place for place in places if "motiontune/" in place and place.endswith("running)")]
    return {"ok": not own, "waits": found, "own_waits_while_layers_run": own}


def check_losses(subject: Subject, tokens: int) -> dict[str, Any]:
    """Compare the text loss of one batch, and the gradient that it leaves, with logits of all and of labelled rows."""
    batch = subject.batch(tokens)
    losses, gradients = {}, {}
    for name in ("llamafactory", "sparse_logits"):
        losses[name] = float(subject.backward(name, batch))
        squares = [one.grad.float().square().sum() for one in subject.model.parameters() if one.grad is not None]
        gradients[name] = float(torch.stack(squares).sum().sqrt())
        subject.optimizer.zero_grad()
    off = [abs(values["sparse_logits"] / values["llamafactory"] - 1) for values in (losses, gradients)]
    return {"losses": losses, "gradient_norms": gradients, "ok": max(off) < 1e-2}
