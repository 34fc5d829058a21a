"""Draw docs/questions.jpg again: a clip and a question of each task of `motiontune prepare motion-questions`.

python docs/make_questions.py
"""

import textwrap
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from motiontune.datasets.questions.backgrounds import draw_patterns
from motiontune.datasets.questions.noise import make_noise
from motiontune.datasets.questions.stage import Stage
from motiontune.datasets.questions.tasks import TASKS, World, make_scripts
from motiontune.drawing.images import encode_image
from motiontune.drawing.text import write_texts


PICTURE = Path(__file__).parent / "questions.jpg"
SIDE, FRAMES, GAP = 112, 16, 6
SHOWN = (1, 6, 11)  # frames of each clip
COLUMNS = 3
SEEDS = {"which_way_4": 2, "stops": 3, "which_of_two": 1}  # of clips that are easy to read; others 0
CELL = (len(SHOWN) * (SIDE + GAP) + GAP, SIDE + 72)  # below the frames are three lines of a question, and its answer


@torch.inference_mode()
def cell(task: str, stage: Stage, world: World) -> NDArray[np.uint8]:
    """Three frames of a clip, and below them its question and answer."""
    seed = SEEDS.get(task, 0)
    if task == "noise_figure":
        frames, _, questions = make_noise(1, "train", world, seed, SIDE // 4)
        frames = frames.repeat_interleave(4, 2).repeat_interleave(4, 3)
    else:
        script, questions = make_scripts(task, 1, "train", world, seed)
        frames = stage.draw(script)
    width, height = CELL
    picture = np.full((height, width, 3), 255, np.uint8)
    for place, frame in enumerate(SHOWN):
        left = GAP + place * (SIDE + GAP)
        picture[GAP : GAP + SIDE, left : left + SIDE] = frames[0, frame].numpy()
    asked, answer = questions[0].text, questions[0].answer
    top, black, grey = SIDE + GAP + 3, (30, 30, 30), (110, 110, 110)
    lines = textwrap.wrap(asked, 56)
    texts = [(GAP, top + 14 * row, line, 11, black) for row, line in enumerate(lines)]
    texts.append((GAP, top + 14 * len(lines), f"{task}: {answer}", 11, grey))
    return write_texts(picture, texts)


def main() -> None:
    """Draw all tasks."""
    grounds = draw_patterns()
    world = World(FRAMES, len(grounds), speeds=(0.02, 0.05))
    stage = Stage(grounds, SIDE)
    cells = [cell(task, stage, world) for task in TASKS]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % COLUMNS)
    rows = [np.concatenate(cells[k : k + COLUMNS], 1) for k in range(0, len(cells), COLUMNS)]
    PICTURE.write_bytes(encode_image(np.concatenate(rows), ".jpg"))


if __name__ == "__main__":
    main()
