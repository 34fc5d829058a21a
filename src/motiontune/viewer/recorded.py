"""A folder of predictions that `motiontune evaluate`, or a run with `do_predict`, wrote, in a model's place."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.datasets.dataset_info import ClipOfSample
from motiontune.errors import ClipError, ConfigError
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.prediction import MotionPrediction
from motiontune.evaluation.sums import MotionSums
from motiontune.motion.field import Direction, MotionField, frames_with_motion
from motiontune.runs.folder import EVALUATION, PREDICTIONS_FOLDER, prediction_files, read_json, read_runs, read_texts
from motiontune.runs.report import sampled_clip


def is_recorded(path: str) -> bool:
    """Whether a path is a folder with predicted motion in it."""
    return Path(path, PREDICTIONS_FOLDER).is_dir()


class Recorded:
    """What a model predicted of a data set, read from a folder.

    Attributes:
        clips: one for each file of predicted motion, with the label as answer.
        errors: the sums of each clip against its target.

    Args:
        folder: of `motiontune evaluate`, or another `output_dir` with `motion_predictions/`.

    Raises:
        MotiontuneError: if a file is damaged.
        ConfigError: if there is no prediction.
    """

    has_head = True

    def __init__(self, folder: str) -> None:
        self.name = folder
        place, self.clips = Path(folder), list[ClipOfSample]()
        self.errors: dict[ClipOfSample, MotionSums] = {}
        self._files: dict[ClipOfSample, tuple[Path, str]] = {}
        texts, runs = read_texts(place), read_runs(place)
        keys = read_json(place / EVALUATION, {}).get("keys") or (runs[-1].configuration if runs else {})
        self._keys = dict(keys)
        for (sample, _), file in prediction_files(place).items():
            text, label = texts[sample] if sample < len(texts) else ("", "")
            comparison = MotionComparison.load(file)
            clip = ClipOfSample(comparison.path, "", label.strip())
            self.clips.append(clip)
            self.errors[clip] = comparison.sums()
            self._files[clip] = file, text.strip()
        if not self.clips:
            raise ConfigError(f"{folder}: {PREDICTIONS_FOLDER} has no prediction in it")

    def predict(self, clip: ClipOfSample) -> MotionPrediction:
        """What was predicted of one of the clips, or of one of the same path and answer.

        Raises:
            ClipError: if it is none of them, or its frames cannot be read as they were then.
        """
        found = self._files.get(replace(clip, prompt=""))
        if found is None:
            raise ClipError(clip.path, f"is not among the predictions of {self.name}")
        comparison = MotionComparison.load(found[0])
        grid, direction = comparison.grid, cast(Direction, comparison.direction)

        def resize(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return np.asarray(cv2.resize(frame, (grid.width, grid.height), interpolation=cv2.INTER_AREA), np.uint8)

        read = sampled_clip(comparison, self._keys, resize)
        if read is None:
            raise ClipError(clip.path, "is gone, or is not the clip that was predicted")
        count = len(read.frames)

        def field(vectors: NDArray[np.float32], valid: NDArray[np.bool_], source: str) -> MotionField:
            kept = np.where(valid[..., None], vectors, np.float32(0))[:count]
            return MotionField(kept, valid[:count], read.times, source, direction)

        everywhere = np.zeros_like(comparison.valid)
        everywhere[list(frames_with_motion(count, direction))] = True
        predicted, target = field(comparison.predicted, everywhere, "predicted"), None
        if comparison.target is not None:
            target = field(comparison.target, comparison.valid, comparison.source)
        return MotionPrediction(found[1], predicted, target, read, grid.unpadded(count))
