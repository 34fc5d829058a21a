"""Many small models trained at once on one device, with everything that a step needs in the device's memory.

A step is recorded once as a CUDA graph and then replayed: no launch of a single kernel, no waiting. Each model has a
stream of its own, so that the device works at many of them at a time. Without CUDA the same step runs as it is.

Shapes: B clips of a step, E of a test, Q questions, S sequence, T video tokens of a clip, D numbers per token.
"""

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from clips import COLOURS, PLACES, SHAPES, WAYS, Clips, Studio, every_question
from learning import IGNORE, Arm, Cell, Collator, Setting, arm_groups, autocast, make_arm
from probes import linear_probe, stages
from torch import Tensor
from whole import make_whole

from motiontune.grid import VideoGrid
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.targets import HeadForm
from motiontune.video.clip import clip_from_frames


TASKS = ("which_way", "colour", "shape", "place")
NOWHERE = list(WAYS).index("nowhere")
EVERY = 100  # steps between two tests
AT_ONCE = 25  # steps that are queued together
TEST = 256  # E
PROBES = "probes"  # the split of clips for probes; they look as in_domain
DIRECTIONS = HeadForm(form="pooled", output="direction")
ERRORS = 4096  # different errors of targets; clips take them in turn
OTHER_TARGETS = Path(__file__).with_name("other_targets.py")
NO_MOTION = ("looks", "change", "order")  # its functions
SOURCES = {"auto": "auto", **{name: f"{OTHER_TARGETS}:{name}" for name in NO_MOTION}}
TARGETS = ("past", "future", *SOURCES)
"""Exact motion since the previous frame and to the next one, and what motion sources find in the frames."""


@dataclass(frozen=True)
class Trial(Arm):
    """An arm whose clips or targets lack something.

    Args:
        answers: only the first so many clips of a seed have answers and come again and again, as half of each batch;
            the other half are new clips without answers. 0: all clips have answers.
        answered_only: clips without answers have no motion, either.
        noise: mean length of an error that is added to each patch's motion, pixels.
        clip_noise: the same of an error that all patches of a clip share.
        gaps: share of the patches without a target.
        share: of the clips that have motion.
        targets: one of `TARGETS`.
        until: share of the steps after which the motion loss ends.
    """

    answers: int = 0
    answered_only: bool = False
    noise: float = 0.0
    clip_noise: float = 0.0
    gaps: float = 0.0
    share: float = 1.0
    targets: str = "past"
    until: float = 1.0

    @property
    def graph(self) -> Arm:
        """What tells the recorded steps of two arms apart; all else are numbers on the device."""
        return Arm(0.0, self.tap, False, self.form, self.loss, self.gradient)

    @property
    def numbers(self) -> dict[str, float]:
        """What a step reads on the device, all of them numbers."""
        own = set(asdict(self)) - set(asdict(self.graph)) | {"weight", "shuffled"}
        values = asdict(self) | {"targets": TARGETS.index(self.targets)}
        return {name: float(value) for name, value in values.items() if name in own}


def measured(clips: Clips, grid: VideoGrid, source: str) -> Clips:
    """Clips whose vectors are those that a motion source finds in their frames, on the CPU."""
    options, frames = MotionOptions(source), clips.frames.cpu().numpy()
    fields = [motion_of(clip_from_frames(list(some), 2.0, path="rendered"), grid, options) for some in frames]
    vectors = torch.from_numpy(np.stack([field.vectors for field in fields]))
    return replace(clips, vectors=vectors, valid=torch.from_numpy(np.stack([field.valid for field in fields])))


def target_errors(clips: Clips, grid: VideoGrid) -> dict[str, float]:
    """How far measured vectors are from the exact ones, over patches that move, and which share of these has one."""
    found = measured(clips, grid, "auto")
    lengths = clips.vectors.norm(dim=-1)
    moving = clips.valid & (lengths > 0)
    both = moving & found.valid
    off = (found.vectors - clips.vectors).norm(dim=-1)[both]
    numbers = {"epe": off.mean(), "length": lengths[both].mean(), "within_1_px": (off < 1).double().mean()}
    numbers["valid"] = both.sum() / moving.sum()
    return {name: round(float(number), 3) for name, number in numbers.items()}


class QuestionTable:
    """Questions as rows of tokens, on the device.

    Args:
        collator: makes the tokens.
        frames: F.
        listed: for each row its text, its options, and the number of the right one.
    """

    def __init__(self, collator: Collator, frames: int, listed: list[tuple[str, tuple[str, ...], int]]) -> None:
        tokens = collator.grid(frames).num_tokens
        rows = [collator.encode(text, options[answer], tokens) for text, options, answer in listed]
        length, device = collator.setting.length, collator.device
        ids = torch.full((len(rows), length), collator.tokenizer.pad_token_id)
        options = torch.full((len(rows), max(len(some) for _, some, _ in listed)), -1)
        first = {word: collator.first_token(word) for _, some, _ in listed for word in some}
        for number, ((row, _), (_, some, _)) in enumerate(zip(rows, listed, strict=True)):
            ids[number, : len(row)] = torch.tensor(row)
            options[number, : len(some)] = torch.tensor([first[word] for word in some])
        begins, ends = torch.tensor([begin for _, begin in rows]), torch.tensor([len(ids) for ids, _ in rows])
        self.labelled = int((ends - begins).max())
        if (longest := int(begins.max()) + self.labelled) > length:  # every row has room for the longest answer
            raise ValueError(f"a sequence may have {longest} tokens, the setting {length}")
        at = torch.arange(length)
        answered = (at >= begins[:, None]) & (at < ends[:, None])
        self.ids = ids.to(device)
        self.labels = ids.masked_fill(~answered, IGNORE).to(device)
        self.begins, self.options = begins.to(device), options.to(device)
        self.answers = torch.tensor([answer for _, _, answer in listed], device=device)
        nowhere = [options.index("nowhere") if "nowhere" in options else 0 for _, options, _ in listed]
        self.nowhere = torch.tensor(nowhere).to(device)
        self.positions = collator.positions(ids[:1], collator.grid(frames)).to(device)  # of any row
        self.video_begin = ids[0].tolist().index(collator.video_id)


class Questions(QuestionTable):
    """All questions of `clips.py`.

    Args:
        collator: makes the tokens.
        frames: F.
    """

    def __init__(self, collator: Collator, frames: int) -> None:
        self.listed = listed = every_question()
        words = [list(WAYS), list(COLOURS), list(SHAPES), list(PLACES)]
        listed.sort(key=lambda q: (TASKS.index(q.task), words[TASKS.index(q.task)].index(q.options[q.answer])))
        super().__init__(collator, frames, [(q.text, q.options, q.answer) for q in listed])
        # the questions of one task with one answer stand together
        kinds = [(TASKS.index(q.task), words[TASKS.index(q.task)].index(q.options[q.answer])) for q in listed]
        self.first, self.number = torch.zeros(2, len(TASKS), max(len(some) for some in words), dtype=torch.long)
        for place, kind in enumerate(kinds):
            self.first[kind] = self.first[kind] if self.number[kind] else place
            self.number[kind] += 1

    def pick(self, clips: Clips, task: str, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Ask one question about each clip: number of the task and of the question, int64 [B] on the CPU."""
        at = torch.arange(len(clips.ways))
        about = torch.randint(1, 4 if task == "stills" else 3, at.shape, generator=random)
        about = about.where(clips.shapes < len(SHAPES), 1)  # no word for the unseen shapes
        way = torch.zeros_like(at)
        kind = {"which_way": way, "mixed": about.where(at % 4 == 3, way)}.get(task, about)
        word = torch.stack([clips.ways, clips.colours, clips.shapes, clips.places])[kind, at]
        which = torch.rand(at.shape, generator=random) * self.number[kind, word]
        return kind, self.first[kind, word] + which.long()


class Store:
    """Clips in the device's memory.

    Args:
        clips: how many it has room for.
        collator: tells the sizes.
    """

    def __init__(self, clips: int, collator: Collator) -> None:
        setting, device = collator.setting, collator.device
        grid = collator.grid(setting.frames)
        width = 2 * collator.merge**2 * collator.pair
        self.frames = torch.empty(
            clips, setting.frames, setting.side, setting.side, 3, dtype=torch.uint8, device=device
        )
        self.question = torch.zeros(clips, dtype=torch.long, device=device)
        self.targets = torch.zeros(clips, grid.num_tokens, width, device=device)
        self.mask = torch.zeros(clips, grid.num_tokens, width, dtype=torch.bool, device=device)
        self.dense = {"past": (self.targets, self.mask)}  # of the names in `TARGETS`, values and mask
        self.make_room("future")
        steps = setting.frames // collator.pair
        self.directions = torch.zeros(clips, steps, 2, device=device)  # of what moves in each temporal step
        self.moves = torch.zeros(clips, steps, 2, dtype=torch.bool, device=device)

    def make_room(self, name: str) -> None:
        """Have targets of this name, too."""
        self.dense[name] = torch.zeros_like(self.targets), torch.zeros_like(self.mask)

    def motion(self, rows: Tensor, form: HeadForm, which: Tensor) -> tuple[Tensor, Tensor]:
        """Targets and mask of some clips for heads of a form, each [B, rows of a clip, D].

        `which` is a number on the device, a place in `TARGETS`.
        """
        if form.form == "dense":
            targets, mask = self.targets[rows], self.mask[rows]
            for name, (others, other_mask) in self.dense.items():
                wanted = which == TARGETS.index(name)
                targets, mask = torch.where(wanted, others[rows], targets), torch.where(wanted, other_mask[rows], mask)
        else:
            targets, mask = self.directions[rows], self.moves[rows]
        if form.features == "delta":  # the first step of a clip has no step before
            mask = mask.clone()
            mask[:, : mask.shape[1] // self.directions.shape[1]] = False
        return targets, mask


class Errors:
    """What goes wrong in measured motion, made once: errors of length 1 on average, and a number from 0 to 1.

    Args:
        store: tells the shapes.
    """

    def __init__(self, store: Store) -> None:
        random = torch.Generator().manual_seed(0)
        shape, device = store.targets.shape[1:], store.targets.device
        mean = (torch.pi / 2) ** 0.5  # of the length of two normal numbers
        self.each = (torch.randn(ERRORS, *shape, generator=random) / mean).to(device)
        shared = torch.randn(ERRORS, 1, 1, 2, generator=random) / mean
        self.shared = shared.expand(-1, shape[0], shape[1] // 2, -1).flatten(2).to(device)
        gaps = torch.rand(ERRORS, shape[0], shape[1] // 2, 1, generator=random)
        self.gaps = gaps.expand(-1, -1, -1, 2).flatten(2).to(device)
        self.clips = torch.rand(ERRORS, generator=random).to(device)


class Test(NamedTuple):
    """Clips of a test in the store of tests.

    Args:
        split: one of `SPLITS`.
        task: "which_way" or "appearance".
        begin: where they begin.
        ways: int64 [clips].
    """

    split: str
    task: str
    begin: int
    ways: Tensor


class Lab:
    """What all models of a process share.

    `at_once` tests, the first ones, make a point of the learning curve. The answers of the task `written` are written
    and not chosen.

    Args:
        folder: a tiny start with its processor.
        setting: sizes.
        photos: uint8 [P, side, side, 3].
        unseen: photos kept for a split.
        device: "cuda" or "cpu".
        clips: room for so many clips of training.
        chunk: clips that are rendered together.
    """

    at_once, written = 2, ""

    def __init__(
        self, folder: Path, setting: Setting, photos: Tensor, unseen: int, device: str, clips: int, chunk: int
    ) -> None:
        self.setting, self.device, self.chunk = setting, device, chunk
        self.collator = Collator(folder, setting, device)
        self.questions = self.make_questions()
        self.studio = Studio(photos, unseen, setting.side, setting.frames, device)
        self.store = Store(clips, self.collator)
        self.errors = Errors(self.store)
        self.rendering = torch.cuda.Stream() if device == "cuda" else None
        self.tests: list[Test] = []
        if self.rendering:
            torch.cuda.synchronize()  # the store is filled with zeros before anything else writes there

    def make_questions(self) -> QuestionTable:
        """The table of questions."""
        return Questions(self.collator, self.setting.frames)

    def render(self, store: Store, at: int, count: int, split: str, task: str, seed: int) -> Tensor:
        """Render clips into a store; return where they move, int64 [count]."""
        with torch.cuda.stream(self.rendering):
            clips = self.studio.render(count, split, task, seed, asked=False)
            random = torch.Generator().manual_seed(zlib.crc32(f"questions {split} {task} {seed}".encode()))
            questions: Any = self.questions
            _, question = questions.pick(clips, task, random)
            grid = self.collator.grid(self.setting.frames)
            rows = slice(at, at + count)
            store.frames[rows] = clips.frames
            store.question[rows] = question.to(self.device)
            made = [
                (*store.dense["past"], self.collator.targets(clips, grid)),
                (*store.dense["future"], self.collator.targets(clips, grid, direction="future")),
                (store.directions, store.moves, self.collator.targets(clips, grid, DIRECTIONS)),
            ]
            if task == "mixed":
                for name in store.dense.keys() & SOURCES.keys():
                    found = self.collator.targets(measured(clips, grid, SOURCES[name]), grid)
                    made.append((*store.dense[name], found))
            for values, masks, (targets, mask) in made:
                values[rows] = targets.unflatten(0, (count, -1)).to(self.device)
                masks[rows] = mask.unflatten(0, (count, -1)).to(self.device)
        return clips.ways

    def add_tests(self, tests: list[tuple[str, str, int, int]]) -> None:
        """Render the tests: split, task, number of clips, seed."""
        self.exams = Store(sum(count for _, _, count, _ in tests), self.collator)
        begin = 0
        for split, task, count, seed in tests:
            looks = "in_domain" if split == PROBES else split
            ways = [
                self.render(
                    self.exams, begin + part, min(self.chunk, count - part), looks, task, 1_000_003 * seed + part
                )
                for part in range(0, count, self.chunk)
            ]
            self.tests.append(Test(split, task, begin, torch.cat(ways)))
            begin += count
        if self.rendering:
            self.rendering.synchronize()

    def point(self, table: Tensor) -> dict[str, float]:
        """A point of the learning curve, of the reports of its tests."""
        ways = self.tests[0]
        found = summary(table[: len(ways.ways)], ways)
        return found | {"appearance": round(table[len(ways.ways) :, 0].mean().item(), 4)}

    def in_full(self, table: Tensor, test: Test) -> dict[str, Any]:
        """The last test, clip by clip, as `learning.test` returns it."""
        return in_full(table, test)

    @staticmethod
    def score(written: str, right: str) -> dict[str, bool]:
        """Hold a written answer to the right one, by the names of what is right about it."""
        return {"written": written == right}

    def inputs(self, store: Store, rows: Tensor, partners: Tensor, form: HeadForm, which: Tensor) -> dict[str, Any]:
        """Make a batch of the product's inputs, [B]; the motion is that of the partners, `which` as in `motion`."""
        questions, grid = self.questions, self.collator.grid(self.setting.frames)
        asked = store.question[rows]
        targets, mask = store.motion(partners, form, which)
        thw = torch.tensor([[grid.frames // grid.temporal_patch, grid.rows, grid.cols]])
        return {
            "input_ids": questions.ids[asked],
            "labels": questions.labels[asked],
            "position_ids": questions.positions.expand(-1, len(rows), -1),
            "pixel_values_videos": self.collator.patches(store.frames[rows]),
            "motion_targets": targets.flatten(0, 1),
            "motion_mask": mask.flatten(0, 1),
            "video_grid_thw": thw.expand(len(rows), -1),  # on the CPU, so that a head may look at it
        }


class Pool:
    """The clips of one seed and task, in a part of the store; rendered a chunk at a time, before they are needed.

    Args:
        lab: renders them.
        task: as for `Studio.render`.
        seed: of them.
        begin: of the part.
        length: of the part, a multiple of the chunk. What is further on takes the place of what came before.
        keeps: what came before stays, and comes again instead of what is further on.
    """

    def __init__(self, lab: Lab, task: str, seed: int, begin: int, length: int, keeps: bool = False) -> None:
        self.lab, self.task, self.seed, self.begin, self.length, self.keeps = lab, task, seed, begin, length, keeps
        self.done, self.event = 0, torch.cuda.Event() if lab.device == "cuda" else None

    def reach(self, clips: int) -> None:
        """Render until there are so many; what they take the place of must have been used."""
        chunk = self.lab.chunk
        while self.done < (min(clips, self.length) if self.keeps else clips):
            at = self.begin + self.done % self.length
            self.lab.render(
                self.lab.store, at, chunk, "in_domain", self.task, 1_000_003 * self.seed + self.done // chunk
            )
            self.done += chunk
            if self.event:
                self.event.record(self.lab.rendering)


class Slot:
    """A model with its optimizer, which trains one cell after another.

    Args:
        lab: what it shares with others.
        start: a plain model of the same shape.
        arm: of the cells; what is in `Trial.numbers` may differ.
        graphs: record the step.
    """

    def __init__(self, lab: Lab, start: Any, arm: Arm, graphs: bool) -> None:
        self.lab, self.form = lab, arm.form
        setting, device = lab.setting, lab.device
        self.stream = torch.cuda.Stream() if device == "cuda" else None
        self.events: deque[Any] = deque()
        with torch.cuda.stream(self.stream):
            self.model = make_arm(start, arm, setting).train()
            begin, labelled = lab.questions.video_begin, lab.questions.labelled
            make_whole(self.model, lab.collator.grid(setting.frames), begin, labelled)
            listed = arm_groups(self.model, 1.0, setting)
            self.factors = [factor for _, factor in listed]
            groups = [{"params": some, "lr": torch.zeros((), device=device)} for some, _ in listed]
            cuda = device == "cuda"
            self.optimizer = torch.optim.AdamW(
                groups, weight_decay=0.0, betas=(0.9, setting.memory), fused=True, capturable=cuda
            )
            self.parameters = [p for group in groups for p in group["params"]]
            self.step, self.steps, self.begin, self.length, self.seed = torch.ones(5, dtype=torch.long, device=device)
            self.rate = torch.zeros((), device=device)
            self.arm = {name: torch.zeros((), device=device) for name in Trial().numbers}
            self.losses = torch.zeros(2, device=device)
            self.rows = torch.zeros(TEST, dtype=torch.long, device=device)
            self.report = torch.zeros(TEST, 6, device=device)
        self.train: Callable[[], None] = self._train
        self.test: Callable[[], None] = self._test
        if graphs:
            self.train, self.test = self._record(self._train), self._record(self._test)

    def _record(self, function: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.stream(self.stream):
            for _ in range(3):  # what is made at the first call must be there before
                function()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            function()
        return graph.replay

    def _train(self) -> None:
        setting, arm = self.lab.setting, self.arm
        batch, half = setting.batch, setting.batch // 2
        at = torch.arange(batch, device=self.step.device)
        again = (arm["answers"] > 0) & (at < half)
        answered = again | (arm["answers"] == 0)
        number = torch.where(again, (self.step * half + at) % arm["answers"].clamp(min=1), self.step * batch + at)
        rows = self.begin + number.long() % self.length
        shift = (arm["shuffled"] * (1 + (self.seed + self.step) % (batch - 1))).long()
        partners = rows[(at - shift) % batch]
        inputs = self.lab.inputs(self.lab.store, rows, partners, self.form, arm["targets"])
        inputs["labels"] = inputs["labels"].masked_fill(~answered[:, None], IGNORE)
        self._spoil(inputs, partners - self.begin, answered | (arm["answered_only"] == 0))
        # share_of_rate of learning.py, on the device
        up, down = (self.step + 1) / setting.warmup, (self.steps - self.step) / (setting.decay * self.steps)
        share = torch.minimum(up, down).clamp(max=1.0)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"].copy_(self.rate * factor * share)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.step.device, setting):
            output = self.model(**inputs)
        text = output.ce_sum / (inputs["labels"] != IGNORE).sum()
        motion = output.motion_sum / inputs["motion_mask"].sum().clamp(min=1)
        weight = arm["weight"] * (self.step < arm["until"] * self.steps)
        (text + weight * motion).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.losses += torch.stack([text.detach(), motion.detach()])
        self.step += 1

    def _spoil(self, inputs: dict[str, Any], clips: Tensor, counted: Tensor) -> None:
        """Add the arm's errors to the targets of clips, and take away those that do not count, in place."""
        arm, errors, which = self.arm, self.lab.errors, clips % ERRORS
        counted = counted & (errors.clips[which] < arm["share"])
        mask = inputs["motion_mask"].unflatten(0, (len(clips), -1)) & counted[:, None, None]
        if self.form.form == "dense":
            unit = self.lab.collator.patch * self.lab.setting.scale
            error = (arm["noise"] * errors.each[which] + arm["clip_noise"] * errors.shared[which]) / unit
            inputs["motion_targets"] = inputs["motion_targets"] + error.flatten(0, 1)
            mask = mask & (errors.gaps[which] >= arm["gaps"])
        inputs["motion_mask"] = mask.flatten(0, 1)

    @torch.no_grad()
    def _test(self) -> None:
        """Fill `report` for the clips `rows`: right, right about standing still, loss, error, length, vectors."""
        lab, questions = self.lab, self.lab.questions
        inputs = lab.inputs(lab.exams, self.rows, self.rows, self.form, self.exact)
        targets, mask = inputs.pop("motion_targets"), inputs.pop("motion_mask")
        asked = lab.exams.question[self.rows]
        with autocast(self.step.device, lab.setting):
            hidden = self.model.model(**inputs)[0]
            at = torch.arange(len(hidden), device=hidden.device)
            logits = self.model.lm_head(hidden[at, questions.begins[asked] - 1]).float()
            steps = self.model.motion_steps(inputs["video_grid_thw"])
            motion = self.model.motion_at(self.model.video_positions(inputs["input_ids"]), steps)
        options, answers, nowhere = questions.options[asked], questions.answers[asked], questions.nowhere[asked]
        scores = logits.gather(1, options.clamp(min=0)).masked_fill(options < 0, -torch.inf)
        loss = torch.nn.functional.cross_entropy(scores, answers, reduction="none")
        best = scores.argmax(1)
        still_right = (best == nowhere) == (answers == nowhere)
        ways = (options >= 0).sum(1) == len(WAYS)  # of what moves, "nowhere" is no option
        moves = ways & (answers != nowhere)
        fewer = scores.scatter(1, nowhere[:, None], -torch.inf)
        right = torch.where(moves, fewer.argmax(1), best) == answers
        lengths = targets.unflatten(-1, (-1, 2)).norm(dim=-1)
        moving = (lengths > 0) & mask[:, ::2] & self.form.has_field  # a direction's error is no length
        off = (motion - targets).unflatten(-1, (-1, 2)).norm(dim=-1)
        unit = lab.collator.patch * lab.setting.scale
        sums = [(x * moving).view(len(at), -1).sum(1) * u for x, u in ((off, unit), (lengths, unit), (moving, 1))]
        self.report.copy_(torch.stack([right, still_right, loss, *sums], 1))

    @property
    def exact(self) -> Tensor:
        """Place in `TARGETS` of the exact motion that an arm is tested on."""
        return self.arm["targets"] == TARGETS.index("future")  # as a number 1 or 0

    def _wait(self, left: int) -> Iterator[None]:
        """Give way to others until at most so many parts of what was queued are undone."""
        while len(self.events) > left:
            if self.events[0] is None or self.events[0].query():
                self.events.popleft()
            else:
                yield

    def _queued(self) -> None:
        self.events.append(self.stream.record_event() if self.stream else None)

    def answer(self, begin: int, count: int) -> Iterator[None]:
        """Test on clips of the store of tests; returns their reports [count, 6] and the losses since, on the CPU."""
        rows = torch.arange(begin, begin + -(-count // TEST) * TEST).clamp(max=begin + count - 1)
        host = torch.empty(len(rows), 6, pin_memory=self.stream is not None)
        losses = torch.empty(2, pin_memory=self.stream is not None)
        rows = rows.pin_memory() if self.stream else rows
        with torch.cuda.stream(self.stream):
            for part in range(0, len(rows), TEST):
                self.rows.copy_(rows[part : part + TEST], non_blocking=True)
                self.test()
                host[part : part + TEST].copy_(self.report, non_blocking=True)
            losses.copy_(self.losses, non_blocking=True)
            self.losses.zero_()
        self._queued()
        yield from self._wait(0)
        return host[:count], losses.tolist()

    def load(self, cell: Cell, arm: Trial, state: dict[str, Tensor], pool: Pool) -> None:
        """Take up a cell: the start's weights, no head, no memory of the optimizer."""
        with torch.cuda.stream(self.stream), torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(state[name]) if name in state else value.zero_()
            for memory in self.optimizer.state.values():
                for value in memory.values():
                    value.zero_()
            numbers = {"step": 0, "steps": cell.steps, "begin": pool.begin, "length": pool.length, "seed": cell.seed}
            for name, value in (numbers | {"rate": cell.rate}).items():
                getattr(self, name).fill_(value)
            for name, value in arm.numbers.items():
                self.arm[name].fill_(value)
            self.losses.zero_()

    def work(self, cell: Cell, arm: Trial, state: dict[str, Tensor], pool: Pool, until: float) -> Iterator[None]:
        """Train and test a cell; gives way where the device has enough to do, and returns the cell's row.

        Args:
            cell: what to train.
            arm: its arm.
            state: the start's weights.
            pool: its clips.
            until: a moment of `time.monotonic`; a cell that has not ended by then is cut and lacks its last test.
        """
        started, done, curve, final = time.monotonic(), 0, [], {}
        self.load(cell, arm, state, pool)
        at_once, tests = self.lab.at_once, self.lab.tests
        of_curve = sum(len(test.ways) for test in tests[:at_once])
        batch = self.lab.setting.batch
        while True:
            table, losses = yield from self.answer(0, of_curve)
            point = {"step": done} | self.lab.point(table)
            if done:
                passed = done - curve[-1]["step"]
                point |= {
                    "train_text_loss": round(losses[0] / passed, 4),
                    "train_motion_loss": round(losses[1] / passed, 5),
                }
            for test in tests[:at_once]:
                if test.task == self.lab.written:
                    bits = {name: score["right"] for name, score in self.scores(test).items()}
                    point |= {name: round(some.count("1") / len(some), 4) for name, some in bits.items()}
            curve.append(point)
            if done == cell.steps or time.monotonic() > until:
                break
            goal = min(done + EVERY, cell.steps)
            while done < goal:
                count = min(AT_ONCE, goal - done)
                pool.reach(max((done + count) * batch, arm.answers))
                if self.stream:
                    self.stream.wait_event(pool.event)
                with torch.cuda.stream(self.stream):
                    for _ in range(count):
                        self.train()
                done += count
                self._queued()
                yield from self._wait(1)
        probed = {}
        if done == cell.steps and cell.phase != "stills":
            for test in tests[at_once:]:
                if test.split == PROBES:
                    probed[test.task] = self.probe(test)
                    continue
                if test.task == self.lab.written:
                    final.setdefault(test.split, {}).update(self.scores(test))
                    continue
                table, _ = yield from self.answer(test.begin, len(test.ways))
                final.setdefault(test.split, {})[test.task] = self.lab.in_full(table, test)
        seconds = round(time.monotonic() - started, 1)
        row = asdict(cell) | {"done": done, "curve": curve, "final": final, "seconds": seconds}
        return row | ({"probes": probed} if probed else {})

    def scores(self, test: Test) -> dict[str, dict[str, str]]:
        """Score what is written to a test's questions: for each score the bits of its clips, as in `in_full`."""
        questions, tokenizer = self.lab.questions, self.lab.collator.tokenizer
        rows = self.lab.exams.question[test.begin : test.begin + len(test.ways)]
        right = [_text(tokenizer, ids[ids != IGNORE]) for ids in questions.labels[rows].cpu()]
        found = [self.lab.score(*pair) for pair in zip(self.write(test), right, strict=True)]
        names = dict.fromkeys(name for scores in found for name in scores)
        return {name: {"right": "".join("01"[each[name]] for each in found if name in each)} for name in names}

    @torch.no_grad()
    def write(self, test: Test) -> list[str]:
        """Write the answers to a test's questions, each the most likely token after another."""
        questions, tokenizer, found = self.lab.questions, self.lab.collator.tokenizer, []
        with torch.cuda.stream(self.stream):
            for rows, inputs in self._asked(test):
                begins, ids = questions.begins[self.lab.exams.question[rows]], inputs["input_ids"]
                at, place = torch.arange(len(rows), device=ids.device), torch.arange(ids.shape[1], device=ids.device)
                ids.masked_fill_(place >= begins[:, None], tokenizer.pad_token_id)
                for step in range(questions.labelled):
                    with autocast(self.step.device, self.lab.setting):
                        hidden = self.model.model(**inputs)[0]
                        ids[at, begins + step] = self.model.lm_head(hidden[at, begins + step - 1]).argmax(-1)
                answers = ids.gather(1, begins[:, None] + place[: questions.labelled])
                found += [_text(tokenizer, row) for row in answers.cpu()]
        return found

    def _asked(self, test: Test) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """The clips of a test in parts: places in the store, and the model's inputs without what is to be learned."""
        for begin in range(test.begin, test.begin + len(test.ways), TEST):
            rows = torch.arange(begin, min(begin + TEST, test.begin + len(test.ways)), device=self.lab.device)
            inputs = self.lab.inputs(self.lab.exams, rows, rows, self.form, self.exact)
            yield rows, {n: value for n, value in inputs.items() if not n.startswith(("motion", "labels"))}

    @torch.no_grad()
    def probe(self, test: Test) -> dict[str, float]:
        """What a linear probe answers right at each stage, of the last quarter of a test's clips."""
        lab, parts = self.lab, []
        with torch.cuda.stream(self.stream):
            for rows, inputs in self._asked(test):
                places = self.model.video_positions(inputs["input_ids"])
                at = lab.questions.begins[lab.exams.question[rows]] - 1
                parts.append(stages(self.model, inputs, places, at))
            rows = torch.arange(test.begin, test.begin + len(test.ways), device=lab.device)
            asked = lab.exams.question[rows]
            options, answers = lab.questions.options[asked], lab.questions.answers[asked]
            words = options.gather(1, answers[:, None])[:, 0]  # the answer's token, whatever the order of options
            numbers = (words[:, None] == words.unique()).long().argmax(1)
            fitted = len(rows) * 3 // 4
            return {
                name: linear_probe(torch.cat([part[name] for part in parts]), numbers, fitted) for name in parts[0]
            }


def _text(tokenizer: Any, ids: Tensor) -> str:
    """The text of an answer's tokens, up to its end."""
    return str(tokenizer.decode(ids.tolist())).partition("<|im_end|>")[0].strip()


def summary(table: Tensor, test: Test) -> dict[str, float]:
    """A point of the learning curve, of a which-way test."""
    moving = test.ways != NOWHERE
    sums = table.double().sum(0)
    numbers = {
        "which_way_4": table[moving, 0].mean(),
        "which_way_loss": table[:, 2].mean(),
        "moving_or_still": table[:, 1].mean(),
    }
    if sums[5]:
        numbers |= {"epe": sums[3] / sums[5], "epe_zero": sums[4] / sums[5]}
    return {name: round(value.item(), 4) for name, value in numbers.items()}


def in_full(table: Tensor, test: Test) -> dict[str, Any]:
    """The last test, clip by clip, as `learning.test` returns it."""
    moving = test.ways != NOWHERE
    if test.task != "which_way":
        return {"right": _bits(table[:, 0]), "loss": round(table[:, 2].mean().item(), 4)}
    found = summary(table, test)
    return {
        "right": _bits(table[moving, 0]),
        "loss": found["which_way_loss"],
        "still_right": _bits(table[:, 1]),
        "still": _bits(~moving),
        **{name: found[name] for name in ("epe", "epe_zero") if name in found},
    }


def _bits(values: Tensor) -> str:
    return "".join("01"[int(value)] for value in values.tolist())
