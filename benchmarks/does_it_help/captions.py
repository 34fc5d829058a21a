"""Captions in Something-Something's manner for `many.py`, with which way and looks asked beside them.

Half of the clips are captioned, a quarter each is asked which way of four and what colour or shape. A caption is
written word by word and then read: which thing it names, which action, whatever the wording, and which way.
"""

from itertools import permutations, product
from typing import ClassVar

from lessons import LessonLab, Lessons

from motiontune.datasets.questions.shapes import COLOURS, OUTLINES
from motiontune.datasets.questions.tasks import CAPTIONS, TURNS, WAYS, WORDINGS, Question, name_thing


TASKS = {"caption": 2, "which_way_4": 1, "appearance": 1}  # with their parts of the clips
ASKED = ("which_way_4", "colour", "shape")  # in one word
THINGS = tuple(name_thing(colour, shape) for colour, shape in product(COLOURS, OUTLINES))
SCORES = ("caption", "caption_thing", "caption_action", "caption_way")


def named_by(action: str) -> list[tuple[str, ...]]:
    """The words for ways that a caption of an action may name."""
    if action == "order":
        return list(permutations(WAYS, 2))
    return [(word,) for word in (TURNS if action in ("turns", "rests") else WAYS)]


def motions() -> dict[str, tuple[str, tuple[str, ...]]]:
    """What may follow the thing in a caption: its action and the ways it names."""
    return {
        form.format("", *named).strip(): (action, named)
        for action, forms in CAPTIONS.items()
        for form in forms
        for named in named_by(action)
    }


MOTIONS = motions()


def every_caption() -> list[Question]:
    """Every caption that may be written, with each wording of its question."""
    return [
        Question("caption", text, (), f"{thing} {motion}")
        for thing, motion, text in product(THINGS, MOTIONS, WORDINGS["caption"])
    ]


def read(caption: str) -> tuple[str, tuple[str, tuple[str, ...]] | None]:
    """Read a caption: the thing, and the action with its ways; what cannot be read is no thing and no action."""
    words = caption.split(" ")
    thing, motion = " ".join(words[:3]), " ".join(words[3:])
    return thing if thing in THINGS else "", MOTIONS.get(motion)


def score(written: str, right: str) -> dict[str, bool]:
    """Hold a written caption to the right one; `caption_way` is there where the right one names one of four ways."""
    thing, motion = read(written)
    right_thing, told = read(right)
    if told is None:
        raise ValueError(f"not a caption: {right!r}")
    action, named = motion or ("", ())
    found = {
        "caption": (thing, motion) == (right_thing, told),
        "caption_thing": thing == right_thing,
        "caption_action": action == told[0],
    }
    if len(told[1]) == 1 and told[1][0] in WAYS:
        found["caption_way"] = named == told[1]
    return found


class CaptionLab(LessonLab):
    """A lab for captions."""

    at_once, written = len(TASKS), "caption"
    tasks: ClassVar[dict[str, int]] = TASKS

    def make_questions(self) -> Lessons:
        """The table of questions and captions."""
        return Lessons(self.collator, self.setting.frames, ASKED, every_caption())

    score = staticmethod(score)
