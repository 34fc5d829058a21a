"""Questions of `motiontune prepare motion-questions` for lmms-eval: the texts of the training, word for word."""

import os
import re
from pathlib import Path


FOLDER = Path(os.environ.get("MOTION_QUESTIONS", "motion_questions"))  # the --out of `motiontune prepare`
TASKS = (
    "which_way_4",
    "which_way_8",
    "speed",
    "stops",
    "turns",
    "which_of_two",
    "towards_away",
    "order",
    "noise_figure",
    "appearance",
)


def doc_to_visual(doc):
    """The clip."""
    return [str(FOLDER / doc["videos"][0])]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The question, as in training."""
    return doc["messages"][0]["content"].replace("<video>", "")


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    """The same for lmms-eval's chat models: the clip, then the question."""
    content = [{"type": "video", "url": path} for path in doc_to_visual(doc)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": doc_to_text(doc)}]}]


def doc_to_target(doc):
    """The right answer."""
    return doc["messages"][1]["content"]


def process_docs(dataset):
    """Questions with options; captions are compared by `motiontune evaluate`."""
    return dataset.filter(lambda doc: bool(doc.get("options")))


def answer_of(text, options):
    """The option that an answer names first, or None."""
    found = [(match.start(), option) for option in options if (match := re.search(rf"\b{option}\b", text.lower()))]
    return min(found)[1] if found else None


def process_results(doc, results):
    """Right or not, under the names of the metrics."""
    right = float(answer_of(results[0], doc["options"]) == doc_to_target(doc))
    return {"accuracy": right, **{task: right if task == doc["task"] else None for task in TASKS}}


def mean(items):
    """The share of right answers, of the questions that count."""
    counted = [item for item in items if item is not None]
    return sum(counted) / len(counted) if counted else float("nan")
