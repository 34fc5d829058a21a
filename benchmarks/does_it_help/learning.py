"""One arm's model: how it is made, what a batch of it is, a step, and how it is tested.

The model, the targets in token order and the losses are motiontune's own; this file is the only one that imports them.

Shapes: B clips, S sequence, T video tokens of the batch, D numbers per token.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from clips import WAYS, Clips, Studio
from torch import Tensor
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from motiontune.grid import VideoGrid
from motiontune.model.forward import MotionGradient, MotionObjective, attach_head
from motiontune.model.head import MotionHead, MotionHeadConfig
from motiontune.model.losses import MotionLossType
from motiontune.model.tower import install_dino_tower
from motiontune.motion.field import Direction, MotionField
from motiontune.targets import PLAIN, HeadForm, field_to_targets


IGNORE = -100


@dataclass(frozen=True)
class Arm:
    """What is trained beside the answers.

    Args:
        weight: of the motion loss; 0 for none.
        tap: where the motion head reads.
        shuffled: each clip gets the motion of another clip of its batch.
        form: of the motion head.
        loss: of the motion.
        gradient: which weights the motion loss trains.
    """

    weight: float = 10.0
    tap: str = "projector"
    shuffled: bool = False
    form: HeadForm = PLAIN
    loss: MotionLossType = "smooth_l1"
    gradient: MotionGradient = "all"


ARMS = {
    "ce": Arm(weight=0.0),
    "projector": Arm(),
    "last_hidden": Arm(tap="last_hidden"),
    "shuffled": Arm(shuffled=True),
}


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        phase: "stills", "tune", "main" and others: what it is for.
        arm: name of the arm.
        rate: learning rate.
        seed: of the clips, and of the start's weights where these are random.
        steps: of training.
    """

    phase: str
    arm: str
    rate: float
    seed: int
    steps: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        return tuple(asdict(self).values())

    @property
    def name(self) -> str:
        """A name for logs."""
        return f"{self.phase} {self.arm} {self.rate:g} seed {self.seed}"


@dataclass(frozen=True)
class Setting:
    """What all arms of a comparison share.

    Args:
        side: of a frame, pixels.
        frames: of a clip.
        batch: clips of a step.
        rates: learning rates that are tried for an arm.
        length: positions of a sequence; shorter ones are filled up.
        head_rate: of the motion head, in learning rates of the model.
        encoder_rate: of the encoder and the projector, likewise.
        projector_rate: of the projector, likewise, where it is not the encoder's.
        scale: of the motion targets, in patches.
        warmup: steps until the full learning rate.
        decay: share of the steps at the end in which it falls to 0.
        stills_steps: steps that teach the start to see stills.
        stills_batch: clips of each.
        stills_rate: their learning rate.
        stills_projector_rate: of the projector, which starts from nothing there.
        half: compute in bfloat16; weights and their updates stay float32.
        memory: AdamW's second beta.
    """

    side: int
    frames: int
    batch: int
    rates: tuple[float, ...]
    length: int
    head_rate: float = 10.0
    encoder_rate: float = 1.0
    projector_rate: float | None = None
    scale: float = 0.1
    warmup: int = 20
    decay: float = 0.2
    stills_steps: int = 250
    stills_batch: int = 32
    stills_rate: float = 1e-4
    stills_projector_rate: float = 1e-3
    half: bool = True
    memory: float = 0.99


SETTINGS = {
    "smollm2": Setting(
        side=56, frames=8, batch=64, rates=(3e-5, 1e-4, 3e-4), length=56, stills_steps=400, stills_batch=128
    ),
    "tiny": Setting(
        side=56,
        frames=4,
        batch=32,
        rates=(1e-4, 2e-4, 5e-4, 1e-3, 2e-3),
        length=48,
        head_rate=3.0,
        stills_rate=3e-4,
        stills_projector_rate=3e-4,
        half=False,
        memory=0.999,
    ),
}
SETTINGS["questions"] = replace(SETTINGS["tiny"], length=60)
SETTINGS["captions"] = replace(SETTINGS["tiny"], length=60)
SETTINGS["known"] = replace(SETTINGS["tiny"], stills_steps=2000)
# a pretrained encoder, which learns at a fiftieth of the new decoder's rate
SETTINGS["seer"] = replace(
    SETTINGS["tiny"], rates=(2e-4, 5e-4, 1e-3), head_rate=1.8, encoder_rate=0.02, projector_rate=0.6, half=True
)
# that encoder before a decoder that can read, which gets the rate that it had behind a new one
SETTINGS["pretrained"] = replace(
    SETTINGS["seer"],
    batch=16,
    rates=(1e-4,),
    head_rate=9.0,
    encoder_rate=0.1,
    projector_rate=3.0,
    stills_rate=1e-4,
)
# the encoder learns at the rate of the tiny model, the decoder, which can read, at a fifth of it
SETTINGS["reader"] = replace(
    SETTINGS["tiny"],
    rates=(3e-5, 1e-4, 3e-4),
    head_rate=15.0,
    encoder_rate=5.0,
    stills_rate=1e-4,
    half=True,
)


class Batch(NamedTuple):
    """A batch on the model's device.

    Args:
        inputs: what the model's forward takes, labels and motion targets among it.
        options: int64 [B, K], the first token of each option; -1 beyond a question's own.
        answers: int64 [B], number of the right option.
        labelled: int64 [B], position of the answer's first token.
        clips: what it was made of.
    """

    inputs: dict[str, Any]
    options: Tensor
    answers: Tensor
    labelled: Tensor
    clips: Clips


@dataclass
class Collator:
    """Turns clips into batches of a model's own tokens.

    Args:
        folder: the checkpoint, with its processor.
        setting: sizes.
        device: of the batches.
    """

    folder: Path
    setting: Setting
    device: str | torch.device
    _tokens: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.processor = AutoProcessor.from_pretrained(self.folder)
        self.tokenizer = self.processor.tokenizer
        video = self.processor.video_processor
        self.patch, self.merge, self.pair = video.patch_size, video.merge_size, video.temporal_patch_size
        self.mean, self.std = (torch.tensor(x, device=self.device) * 255 for x in (video.image_mean, video.image_std))
        self.video_id = self.tokenizer.convert_tokens_to_ids("<|video_pad|>")

    def grid(self, frames: int) -> VideoGrid:
        """The grid of one clip."""
        patches = self.setting.side // self.patch
        return VideoGrid(frames, patches, patches, self.patch, self.merge, self.pair)

    def __call__(self, clips: Clips, shuffle_by: int = 0) -> Batch:
        """Make a batch.

        Args:
            clips: B of them.
            shuffle_by: each clip gets the motion targets of the clip so many rows away.
        """
        count, frames = clips.frames.shape[:2]
        grid = self.grid(frames)
        rows = [self.encode(q.text, q.options[q.answer], grid.num_tokens) for q in clips.questions]
        length = self.setting.length
        longest = max(len(ids) for ids, _ in rows)
        if longest > length:
            raise ValueError(f"a sequence has {longest} tokens, the setting {length}")
        input_ids = torch.full((count, length), self.tokenizer.pad_token_id)
        labels = torch.full((count, length), IGNORE)
        for row, (ids, begin) in enumerate(rows):  # filled up on the right, which a causal model cannot see
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, begin : len(ids)] = input_ids[row, begin : len(ids)]
        options = torch.full((count, max(len(q.options) for q in clips.questions)), -1)
        for row, question in enumerate(clips.questions):
            first = [self.first_token(word) for word in question.options]
            if len(set(first)) < len(first):
                raise ValueError(f"two of {question.options} begin with the same token")
            options[row, : len(first)] = torch.tensor(first)
        targets, mask = self.targets(clips, grid)
        if shuffle_by:
            targets, mask = (x.unflatten(0, (count, -1)).roll(shuffle_by, 0).flatten(0, 1) for x in (targets, mask))
        inputs = {
            "input_ids": input_ids,
            "labels": labels,
            "position_ids": self.positions(input_ids, grid),
            "motion_targets": targets,
            "motion_mask": mask,
        }
        inputs = {key: value.to(self.device, non_blocking=True) for key, value in inputs.items()}
        thw = (frames // self.pair, grid.rows, grid.cols)
        inputs["use_cache"] = False  # nothing is generated
        inputs["pixel_values_videos"] = self.patches(clips.frames)
        inputs["video_grid_thw"] = torch.tensor([thw] * count)  # read on the CPU, so it stays there
        labelled = torch.tensor([begin for _, begin in rows])
        answers = torch.tensor([question.answer for question in clips.questions])
        moved = [value.to(self.device, non_blocking=True) for value in (options, answers, labelled)]
        return Batch(inputs, *moved, clips)

    def patches(self, frames: Tensor) -> Tensor:
        """Do the processor's work on the device: uint8 [B, F, S, S, 3] -> float32 [B * patches, 3 * p * 14 * 14]."""
        b, f, side = frames.shape[:3]
        n, m = side // self.patch // self.merge, self.merge
        pixels = ((frames - self.mean) / self.std).view(
            b, f // self.pair, self.pair, n, m, self.patch, n, m, self.patch, 3
        )
        return pixels.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(b * (f // self.pair) * (n * m) ** 2, -1)

    def encode(self, question: str, answer: str, tokens: int) -> tuple[list[int], int]:
        """Encode a conversation: its tokens, and where the answer begins."""
        ask = f"<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>{question}<|im_end|>\n"
        asked = self._tokens_of(ask + "<|im_start|>assistant\nAnswer:")
        answered = self._tokens_of(f" {answer}<|im_end|>")  # the space belongs to the word, as in the question
        at = asked.index(self.video_id)
        ids = asked[:at] + [self.video_id] * tokens + asked[at + 1 :]
        return ids + answered, len(ids)

    def _tokens_of(self, text: str) -> list[int]:
        if text not in self._tokens:
            self._tokens[text] = self.tokenizer(text).input_ids
        return self._tokens[text]

    def first_token(self, word: str) -> int:
        first: int = self.tokenizer(f" {word}").input_ids[0]
        return first

    def positions(self, input_ids: Tensor, grid: VideoGrid) -> Tensor:
        """Count positions by time, row and column as Qwen2-VL defines them, int64 [3, B, S].

        transformers 5.3 to 5.5 give all frames of a video the same time, and wrong rows
        (huggingface/transformers#45381, mended in #45400).
        """
        begin = int((input_ids[0] == self.video_id).nonzero()[0])
        pairs, rows, cols = grid.frames // self.pair, grid.rows // self.merge, grid.cols // self.merge
        video = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (pairs, rows, cols)), indexing="ij")).flatten(1)
        after = torch.arange(input_ids.shape[1] - begin - video.shape[1]) + begin + max(pairs, rows, cols)
        positions = [torch.arange(begin).expand(3, -1), video + begin, after.expand(3, -1)]
        return torch.cat(positions, 1)[:, None].expand(-1, len(input_ids), -1)

    def targets(
        self, clips: Clips, grid: VideoGrid, form: HeadForm = PLAIN, direction: Direction = "past"
    ) -> tuple[Tensor, Tensor]:
        """Make targets of the exact motion; the tokens of one clip after another are those of one long clip."""
        fields = (clips.vectors, clips.valid) if direction == "past" else (clips.ahead, clips.ahead_valid)
        vectors, valid = (values.flatten(0, 1).cpu().numpy() for values in fields)
        long = VideoGrid(len(vectors), grid.rows, grid.cols, grid.patch, grid.merge, grid.temporal_patch)
        motion = MotionField(vectors, valid, np.arange(len(vectors), dtype=np.float64), "rendered", direction)
        targets = field_to_targets(motion, long, self.setting.scale, form)
        return torch.from_numpy(targets.values), torch.from_numpy(targets.mask)


def load_start(folder: Path, device: str | torch.device) -> Any:
    """Load a checkpoint in float32."""
    install_dino_tower()
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return model.to(device)


def make_arm(start: Any, arm: Arm, setting: Setting) -> Any:
    """Copy the start and give it a motion head; all its weights are trained."""
    model = copy.deepcopy(start)
    vision = model.config.vision_config
    head = MotionHeadConfig(
        hidden_size=model.config.text_config.hidden_size,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        temporal_patch=vision.temporal_patch_size,
        input=arm.tap,
        scale=setting.scale,
        **asdict(arm.form),
    )
    return attach_head(model, MotionHead(head), MotionObjective(arm.loss, gradient=arm.gradient))


def compile_layers(model: Any) -> None:
    """Compile the decoder's layers, all of them with the code of one."""
    for layer in model.model.language_model.layers:
        layer.compile()


def make_optimizer(groups: list[tuple[list[Any], float]], memory: float) -> torch.optim.Optimizer:
    """AdamW without weight decay; `groups` are parameters with their learning rates."""
    listed = [{"params": [p for p in some if p.requires_grad], "lr": rate} for some, rate in groups]
    cuda = any(p.is_cuda for group in listed for p in group["params"])
    return torch.optim.AdamW(listed, weight_decay=0.0, betas=(0.9, memory), fused=cuda)


def share_of_rate(step: int, steps: int, setting: Setting) -> float:
    """Share of the learning rate at a step: up, constant, down to 0 at the end."""
    return min(1.0, (step + 1) / setting.warmup, (steps - step) / max(setting.decay * steps, 1.0))


class Learner:
    """Trains a model on clips.

    Args:
        model: with a motion head, or a plain one (`arm` None) that learns the answers alone.
        arm: its arm.
        collator: makes its batches.
        studio: renders its clips.
        groups: parameters with their learning rates.
        steps: how many are planned.
        seed: of the clips.
        task: as for `Studio.render`.
        batch: clips of a step, where not the setting's.
    """

    def __init__(
        self,
        model: Any,
        arm: Arm,
        collator: Collator,
        studio: Studio,
        groups: list[tuple[list[Any], float]],
        steps: int,
        seed: int,
        task: str = "mixed",
        batch: int | None = None,
    ) -> None:
        self.model, self.arm, self.collator, self.studio = model, arm, collator, studio
        self.optimizer = make_optimizer(groups, collator.setting.memory)
        self.rates = [rate for _, rate in groups]
        self.steps, self.seed, self.task = steps, seed, task
        self.batch = batch or collator.setting.batch
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.done = 0
        self.last = torch.zeros(2)  # mean loss of the answers and of the motion, of the last step

    def clips(self) -> Clips:
        """Render the clips of the next step."""
        number = 1_000_003 * self.seed + self.done
        return self.studio.render(self.batch, "in_domain", self.task, number)

    def step(self) -> None:
        """Train on one batch; the loss is the trainer's: each mean is over what counts in the batch."""
        setting = self.collator.setting
        shift = 1 + (self.seed + self.done) % (self.batch - 1) if self.arm.shuffled else 0
        inputs = self.collator(self.clips(), shift).inputs
        share = share_of_rate(self.done, self.steps, setting)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.model.train()
        with autocast(inputs["input_ids"].device, setting):
            output = self.model(**inputs)
        text = output.ce_sum / (inputs["labels"] != IGNORE).sum().clamp(min=1)
        motion = output.motion_sum / inputs["motion_mask"].sum().clamp(min=1)
        (text + self.arm.weight * motion).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last = torch.stack([text.detach(), motion.detach()])
        self.done += 1


def autocast(device: torch.device, setting: Setting) -> Any:
    """Compute in bfloat16 where the setting has it so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=setting.half)


def arm_groups(model: Any, rate: float, setting: Setting) -> list[tuple[list[Any], float]]:
    """All weights at one rate; the motion head, and where the setting says so encoder and projector, at their own."""
    visual = model.model.visual
    groups = [(list(model.motion_head.parameters()), setting.head_rate * rate)]
    if setting.projector_rate:
        projector = list(visual.merger.mlp.parameters())
        groups.append((projector, setting.projector_rate * rate))
        among = {id(parameter) for parameter in projector}
        groups.append(([p for p in visual.parameters() if id(p) not in among], setting.encoder_rate * rate))
    elif setting.encoder_rate != 1:
        groups.append((list(visual.parameters()), setting.encoder_rate * rate))
    own = {id(parameter) for some, _ in groups for parameter in some}
    return [([p for p in model.parameters() if id(p) not in own], rate), *groups]


@torch.no_grad()
def test(
    model: Any, collator: Collator, studio: Studio, split: str, task: str, count: int, seed: int
) -> dict[str, Any]:
    """Test a model on clips of its own.

    Args:
        model: with a motion head.
        collator: makes the batches.
        studio: renders the clips.
        split: one of `SPLITS`.
        task: "which_way", "appearance" or "stills".
        count: of clips.
        seed: of the clips; not one of training's.

    Returns:
        `right`: for each clip that counts 1 or 0 as a string: of which_way, the moving clips, among the four
        directions. `loss`: mean -log of the right option's probability among the question's. For which_way also
        `still_right` ("nowhere" or not, each clip) and `still` (which ones do stand still), `epe` and `epe_zero`
        (pixels, over valid vectors of what moves; of the head, and of predicting no motion).
    """
    model.eval()
    right, loss, still_right, still, errors, lengths = [], [], [], [], [], []
    size = collator.setting.batch
    for number in range(math.ceil(count / size)):
        batch = collator(studio.render(size, split, task, 1_000_003 * seed + number))
        inputs = dict(batch.inputs)
        targets, mask = inputs.pop("motion_targets"), inputs.pop("motion_mask")
        inputs.pop("labels")
        with autocast(inputs["input_ids"].device, collator.setting):
            hidden = model.model(**inputs)[0]
            at = torch.arange(len(hidden), device=hidden.device)
            logits = model.lm_head(hidden[at, batch.labelled - 1]).float()
            motion = model.motion_at(model.video_positions(inputs["input_ids"]))
        scores = logits.gather(1, batch.options.clamp(min=0)).masked_fill(batch.options < 0, -torch.inf)
        loss.append(torch.nn.functional.cross_entropy(scores, batch.answers, reduction="none").cpu())
        if task != "which_way":
            right.append((scores.argmax(1) == batch.answers).cpu())
            continue
        nowhere = torch.tensor([q.options.index("nowhere") for q in batch.clips.questions], device=scores.device)
        still.append(batch.clips.ways == list(WAYS).index("nowhere"))
        still_right.append((scores.argmax(1) == nowhere).cpu() == still[-1])
        scores[at, nowhere] = -torch.inf
        right.append((scores.argmax(1) == batch.answers).cpu()[~still[-1]])
        moving = (targets.unflatten(-1, (-1, 2)).norm(dim=-1) > 0) & mask[:, ::2]
        off = (motion - targets).unflatten(-1, (-1, 2)).norm(dim=-1)[moving]
        unit = collator.patch * collator.setting.scale
        errors.append(off.sum().cpu() * unit)
        lengths.append(
            torch.stack([targets.unflatten(-1, (-1, 2)).norm(dim=-1)[moving].sum() * unit, moving.sum()]).cpu()
        )
    result: dict[str, Any] = {"right": _bits(right), "loss": torch.cat(loss).mean().item()}
    if task == "which_way":
        total, vectors = torch.stack(lengths).sum(0).tolist()
        result |= {"still_right": _bits(still_right), "still": _bits(still)}
        result |= {"epe": torch.stack(errors).sum().item() / vectors, "epe_zero": total / vectors}
    return result


def _bits(parts: list[Tensor]) -> str:
    return "".join("01"[int(bit)] for bit in torch.cat(parts).tolist())


def accuracy(bits: str) -> float:
    """Share of ones."""
    return bits.count("1") / len(bits)


def teach_stills(
    start: Any,
    collator: Collator,
    studio: Studio,
    steps: int,
    seed: int,
    each_step: Callable[[Learner], bool],
) -> None:
    """Teach a start to answer what stands in clips that stand still, in place.

    Args:
        start: the plain model.
        collator: makes the batches.
        studio: renders the clips.
        steps: of training.
        seed: of the clips.
        each_step: called after each step; false ends the teaching.
    """
    setting = collator.setting
    model = make_arm(start, ARMS["ce"], setting)
    projector = list(model.model.visual.merger.mlp.parameters())
    own = {id(parameter) for parameter in projector}
    others = [parameter for parameter in model.parameters() if id(parameter) not in own]
    groups = [(projector, setting.stills_projector_rate), (others, setting.stills_rate)]
    learner = Learner(model, ARMS["ce"], collator, studio, groups, steps, seed, "stills", setting.stills_batch)
    while learner.done < steps:
        learner.step()
        if not each_step(learner):
            break
    learned = {name: value for name, value in model.state_dict().items() if not name.startswith("motion_head.")}
    start.load_state_dict(learned)
