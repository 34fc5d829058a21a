"""Many kinds of questions for `many.py`: those of `motiontune prepare motion-questions`, drawn in batches.

Only questions whose answer is one word, so that all batches have one length. A question's text is one of a few dozen
of its task, each of which occurs with each of its answers.
"""

import dataclasses
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from learning import Collator, Setting
from many import Lab, QuestionTable, Store, Test
from torch import Tensor

from motiontune.datasets.questions.shapes import COLOURS, SHAPES
from motiontune.datasets.questions.stage import Script, Stage, patch_motion
from motiontune.datasets.questions.tasks import (
    COMPASS,
    SPEED,
    STOPS,
    TURNS,
    WAYS,
    Draw,
    Question,
    World,
    ask,
    make_scripts,
)


TASKS = ("which_way_4", "which_way_8", "speed", "stops", "turns", "appearance")
SPLITS = ("in_domain", "ood_photos", "ood_objects", "ood_speeds")
WORDS: dict[str, tuple[str, ...]] = {
    "which_way_4": tuple(WAYS),
    "which_way_8": tuple(COMPASS),
    "speed": SPEED,
    "stops": STOPS,
    "turns": TURNS,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}
TEXTS = 48  # of a task; colours and shapes have twice as many
AT_MOST = 4  # options of a colour or shape
RENDERED = {"cuda": 1024, "cpu": 96}  # clips that are drawn together


def texts(kinds: Iterable[str] = tuple(WORDS)) -> list[Question]:
    """The questions that are asked, without repetition; the answer is only one of the options."""
    draw, found = Draw(1, "train", World(4, 1), 0, "texts"), {}
    for task in kinds:
        words, looks = WORDS[task], task in ("colour", "shape")
        for _ in range(2 * TEXTS if looks else TEXTS):
            options = draw.shuffled(words)[:AT_MOST] if looks else words
            question = ask(draw, task, options, options[0])
            found[question.text] = question
    return list(found.values())


class Lessons(QuestionTable):
    """The questions as rows of tokens, each text with each of its answers.

    Args:
        collator: makes the tokens.
        frames: F.
        kinds: of WORDS.
        captions: those there are, each with its question.
    """

    def __init__(
        self,
        collator: Collator,
        frames: int,
        kinds: Iterable[str] = tuple(WORDS),
        captions: Iterable[Question] = (),
    ) -> None:
        rows = [(q.task, q.text, q.options, answer) for q in texts(kinds) for answer in q.options]
        rows.sort(key=lambda row: (list(WORDS).index(row[0]), WORDS[row[0]].index(row[3])))
        listed = [(text, options, options.index(answer)) for _, text, options, answer in rows]
        written = [(q.text, (q.answer,), 0) for q in captions]
        super().__init__(collator, frames, listed + written)
        self.row = {(text, answer): len(listed) + k for k, (text, (answer,), _) in enumerate(written)}
        self.range: dict[tuple[str, str], tuple[int, int]] = {}
        for number, (task, _, _, answer) in enumerate(rows):
            first, count = self.range.get((task, answer), (number, 0))
            self.range[task, answer] = first, count + 1

    def pick_for(self, questions: list[Question], random: torch.Generator) -> Tensor:
        """Choose the row of a question with each one's task and answer, or that of a caption, int64 [B]."""
        ranges = torch.tensor(
            [self.range.get((q.task, q.answer)) or (self.row[q.text, q.answer], 1) for q in questions]
        )
        return ranges[:, 0] + (torch.rand(len(ranges), generator=random) * ranges[:, 1]).long()


class LessonLab(Lab):
    """A lab for many kinds of questions; what it is made of is that of `Lab`."""

    at_once = len(TASKS)  # tests of a point of the curve
    # of "mixed", with the parts of the clips that are theirs
    tasks: ClassVar[dict[str, int]] = dict.fromkeys(TASKS, 1)

    def __init__(
        self, folder: Any, setting: Setting, photos: Tensor, unseen: int, device: str, clips: int, chunk: int
    ) -> None:
        self.stage = Stage(photos, setting.side, device)
        seen = len(photos) - unseen
        self.world = World(setting.frames, seen, unseen, seen, cameras=("still",), plain=False)
        super().__init__(folder, setting, photos, unseen, device, clips, chunk)

    def make_questions(self) -> Lessons:
        """The table of questions."""
        return Lessons(self.collator, self.setting.frames)

    def render(self, store: Store, at: int, count: int, split: str, task: str, seed: int) -> Tensor:
        """Draw clips into a store: of one task, or with "mixed" of all; return int64 [count], which of `tasks`."""
        with torch.cuda.stream(self.rendering):
            tasks = self.tasks if task == "mixed" else {task: 1}
            own = "train" if task in ("mixed", "stills") else split
            whole = sum(tasks.values())
            made = [
                make_scripts(name, count // whole * parts + (k < count % whole), own, self.world, seed)
                for k, (name, parts) in enumerate(tasks.items())
            ]
            random = torch.Generator().manual_seed(seed % 2**31)
            order = torch.randperm(count, generator=random)
            script = Script(
                *(
                    torch.cat([getattr(script, entry.name) for script, _ in made])[order]
                    for entry in dataclasses.fields(Script)
                )
            )
            questions = [question for _, some in made for question in some]
            questions = [questions[k] for k in order.tolist()]
            which = torch.tensor([list(self.tasks).index(self.task_of(question)) for question in questions])
            table: Any = self.questions
            store.question[at : at + count] = table.pick_for(questions, random).to(self.device)
            size = RENDERED[self.device]
            for begin in range(0, count, size):
                part = script.part(begin, begin + size)
                rows = slice(at + begin, at + begin + len(part))
                store.frames[rows] = self.stage.draw(part)
                vectors, valid = patch_motion(self.stage.motion(part), self.collator.patch)
                motion: Any = SimpleNamespace(vectors=vectors, valid=valid)
                targets, mask = self.collator.targets(motion, self.collator.grid(self.setting.frames))
                store.targets[rows] = targets.unflatten(0, (len(part), -1)).to(self.device)
                store.mask[rows] = mask.unflatten(0, (len(part), -1)).to(self.device)
        return which

    @staticmethod
    def task_of(question: Question) -> str:
        """The task of TASKS; colour and shape are one."""
        return "appearance" if question.task in ("colour", "shape") else question.task

    def point(self, table: Tensor) -> dict[str, float]:
        """A point of the learning curve: the share of right answers of each task, the error of the motion."""
        found = {}
        for test in self.tests[: self.at_once]:
            if test.task == self.written:
                continue
            rows = table[test.begin : test.begin + len(test.ways)].double()
            found[test.task] = rows[:, 0].mean().item()
            found[f"{test.task}_loss"] = rows[:, 2].mean().item()
        return {name: round(value, 4) for name, value in (found | errors(table)).items()}

    def in_full(self, table: Tensor, test: Test) -> dict[str, Any]:
        """The last test, clip by clip."""
        bits = "".join("01"[int(bit)] for bit in table[:, 0].tolist())
        return {"right": bits, "loss": round(table[:, 2].mean().item(), 4)} | {
            name: round(value, 4) for name, value in errors(table).items()
        }


def errors(table: Tensor) -> dict[str, float]:
    """Mean end-point error over what moves, pixels, and that of predicting no motion."""
    sums = table.double().sum(0)
    return {"epe": (sums[3] / sums[5]).item(), "epe_zero": (sums[4] / sums[5]).item()} if sums[5] else {}
