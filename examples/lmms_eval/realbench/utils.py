"""DeltaDirect's RealBench (data set KHUjongseo/Modirect-family on the hub) for lmms-eval.

Rows are taken to look as those of MoDirect-Inst, which its README documents: `video` and `conversations`, whose answer
is the letter of an option.
"""

import os
import re
from pathlib import Path


FOLDER = Path(os.environ.get("MODIRECT", "MoDirect"))  # where the data set was downloaded to


def doc_to_visual(doc):
    """The clip."""
    return [str(FOLDER / doc["video"])]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The question with its lettered options."""
    return re.sub(r"<(image|video)>\n?", "", doc["conversations"][0]["value"]).strip()


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    """The same for lmms-eval's chat models: the clip, then the question."""
    content = [{"type": "video", "url": path} for path in doc_to_visual(doc)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": doc_to_text(doc)}]}]


def doc_to_target(doc):
    """The letter of the right option."""
    return doc["conversations"][1]["value"].strip()[:1]


def process_results(doc, results):
    """Right or not: the answer's first letter that stands by itself."""
    found = re.search(r"\b([A-Z])\b", results[0])
    return {"accuracy": float(bool(found) and found[1] == doc_to_target(doc))}
