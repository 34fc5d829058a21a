"""What an evaluation draws: frames, target and prediction of its first samples on one sheet."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motiontune.drawing.sheets import contact_sheet
from motiontune.evaluation.comparison import MotionComparison, prediction_rows


COLUMNS, WIDTH = 6, 160  # frames of each clip, and about the width of each in pixels

Pictured = Mapping[tuple[int, int], tuple[NDArray[np.uint8], MotionComparison]]
"""(number of the sample, number of its clip): the sampled frames uint8 [f, H, W, 3], and what was predicted."""


def draw(pictured: Pictured) -> NDArray[np.uint8]:
    """Draw the clips of an evaluation in the order of their samples: uint8 [h, w, 3], RGB."""
    rows = []
    for (sample, _), (frames, comparison) in sorted(pictured.items(), key=lambda item: item[0]):
        rows += prediction_rows(f"{sample}: {Path(comparison.path).name}", frames, comparison, WIDTH)
    return contact_sheet(rows, COLUMNS, WIDTH)
