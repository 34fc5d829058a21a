"""Choose what the page about a run shows, from what lies in its output folder."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ClipError, MotiontuneError
from motiontune.evaluation.comparison import MotionComparison
from motiontune.files import claim
from motiontune.runs.folder import (
    EVALUATION,
    MODEL_CARD,
    PICTURES_FOLDER,
    PREDICTIONS_FOLDER,
    RESULTS,
    RUNS,
    STATE,
    TEXTS,
    State,
    prediction_files,
    read_model_card,
    read_results,
    read_runs,
    read_state,
    read_texts,
)
from motiontune.runs.page import ReportClip, write_report
from motiontune.video.clip import FPS, MAX_FRAMES, Clip, read_clip
from motiontune.video.decode import Resize


CLIPS = 4
"""Best clips, and as many worst ones."""

ANSWERS = 12
"""Answers of a run that predicted text alone."""

_BLANK = 232  # the grey that stands for frames that cannot be read

Key = tuple[int, int]


def report(folder: str | Path, out: str | Path | None = None, clips: int = CLIPS) -> Path:
    """Write `report.html` about a run: curves, metrics, pictures, best and worst clips, configuration and versions.

    Clips are ordered by the end-point error over their moving patches, divided by that of predicting no motion there.
    One where nothing moves is shown only where nothing moves in any.

    Args:
        folder: the output folder of a run, of LLaMA-Factory alone too; what it lacks is left out of the page.
        out: the file; None is `report.html` in the folder.
        clips: at most so many best clips, and so many worst ones.

    Returns:
        The file.

    Raises:
        MotiontuneError: if the folder is no run's, or a file in it is damaged.
        OutputError: if the page cannot be written, or another file is in its place.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MotiontuneError(f"{folder}: no such folder")
    page = Path(folder / "report.html" if out is None else out)
    claim(page.parent, [page], [folder / name for name in (STATE, RESULTS, EVALUATION, TEXTS, RUNS, MODEL_CARD)])
    state, texts, files = read_state(folder), read_texts(folder), prediction_files(folder)
    # the last evaluation that was logged is all that there is of a run that did not evaluate at its end
    metrics = {key: value for entry in state.history for key, value in entry.items() if key.startswith("eval_")}
    metrics |= read_results(folder)
    if not (state.history or state.steps or metrics or texts or files):
        looked_for = f"{STATE}, {RESULTS}, {EVALUATION}, {TEXTS} or {PREDICTIONS_FOLDER}/"
        raise MotiontuneError(f"{folder} is no run's output folder: it has no {looked_for}")
    runs = read_runs(folder)
    configuration, used = (runs[-1].configuration, runs[-1].versions) if runs else read_model_card(folder)
    shown, order = _clips(files, texts, configuration, clips)
    notes = [_about(state, metrics, configuration), order]
    if not runs:
        known = f"; configuration and versions are those in its {MODEL_CARD}" if configuration else ""
        notes.append(f"How this run was started is not known: it was not motiontune that started it{known}.")
    earlier = {
        f"Earlier run into this folder, {run.started}": run.configuration | {"versions": run.versions}
        for run in reversed(runs[:-1])
    }
    return write_report(
        page,
        title=f"Run {folder.resolve().name}",
        metrics=metrics,
        log_history=state.history,
        clips=shown,
        answers=[] if shown else texts[:ANSWERS],
        configuration=configuration,
        versions=used,
        notes="\n\n".join(note for note in notes if note),
        pictures=_pictures(folder / PICTURES_FOLDER),
        folds=earlier,
    )


def _about(state: State, metrics: Mapping[str, Any], keys: Mapping[str, Any]) -> str:
    parts = []
    if keys.get("model_name_or_path"):
        parts.append(f"From {keys['model_name_or_path']}")
    if state.steps:
        ended = "Trained for" if state.ended else "The run has not ended: this is its last checkpoint, after"
        parts.append(f"{ended} {state.steps:,} steps, {state.epochs:.2f} epochs")
    if isinstance(metrics.get("train_runtime"), int | float):
        parts.append(f"{metrics['train_runtime']:,.0f} seconds")
    return ". ".join(parts) + "." if parts else ""


def _clips(
    files: Mapping[Key, Path], texts: Sequence[tuple[str, str]], keys: Mapping[str, Any], count: int
) -> tuple[list[ReportClip], str]:
    """The best and the worst of the predicted clips, and in words how they were chosen."""
    moving, still = [], []
    for key, file in files.items():
        sums = MotionComparison.load(file).sums()
        if sums.moving:
            moving.append((sums.moving_epe / sums.moving_zero_epe, key))
        elif sums.patches:
            still.append((sums.epe / sums.patches, key))
    ranked = [key for _, key in sorted(moving or still)]
    best, rest = ranked[:count], ranked[count:]
    worst = rest[::-1][:count]
    chosen = [("Best clips", key) for key in best] + [("Worst clips", key) for key in worst]
    shown = [_clip(section, key, files[key], texts, keys) for section, key in chosen]
    if not shown:
        return [], ""
    measure = "end-point error over moving patches, against that of predicting no motion"
    words = f"{len(files):,} predicted clips, ordered by their {measure if moving else 'end-point error'}"
    left = len(files) - len(ranked)
    return shown, words + (f"; {left:,} without a moving patch are left out." if left else ".")


def _clip(section: str, key: Key, file: Path, texts: Sequence[tuple[str, str]], keys: Mapping[str, Any]) -> ReportClip:
    comparison = MotionComparison.load(file)
    grid = comparison.grid

    def resize(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(frame, (grid.width, grid.height), interpolation=cv2.INTER_AREA), np.uint8)

    frames = sampled_frames(comparison, keys, resize)
    answer, label = texts[key[0]] if key[0] < len(texts) else (None, None)
    name = f"{key[0]}: {Path(comparison.path).name}"
    if frames is None:
        frames = np.full((grid.frames, grid.height, grid.width, 3), _BLANK, np.uint8)
        name += " (its frames cannot be read)"
    return ReportClip(name, frames, comparison, label or None, answer, section)


def sampled_frames(
    comparison: MotionComparison, keys: Mapping[str, Any], resize: Resize | None = None
) -> NDArray[np.uint8] | None:
    """The frames of `sampled_clip`, or None as there."""
    clip = sampled_clip(comparison, keys, resize)
    return None if clip is None else clip.frames


def sampled_clip(comparison: MotionComparison, keys: Mapping[str, Any], resize: Resize | None = None) -> Clip | None:
    """A predicted clip, read as it was then, or None where it is gone or is not the one that was predicted.

    Args:
        comparison: the clip's.
        keys: the run's; `video_fps` and `video_maxlen` are needed to read the frames again.
        resize: of each frame, as `read_clip` takes it.
    """
    grid = comparison.grid
    try:
        fps, most = float(keys.get("video_fps", FPS)), int(keys.get("video_maxlen", MAX_FRAMES))
        clip = read_clip(comparison.path, fps, most, resize)
    except (ClipError, ValueError):
        return None
    count = len(clip.times)
    same = 0 <= grid.frames - count < grid.temporal_patch
    return clip if same and np.allclose(clip.times, comparison.times[:count], atol=1e-3) else None


def _pictures(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """The first and the last sheet that the evaluations of each data set drew, under what to say of them."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for file in folder.glob("*-*.png"):
        name = re.fullmatch(r"eval_?(.*)-(\d+)\.png", file.name)
        if name:
            found.setdefault(name[1], []).append((int(name[2]), file))
    pictures = {}
    for data, sheets in sorted(found.items()):
        for step, file in dict.fromkeys((min(sheets), max(sheets))):
            picture = cv2.imread(str(file))
            if picture is not None:
                label = f"{data}, step {step:,}" if data else f"Step {step:,}"
                pictures[label] = np.asarray(picture[..., ::-1], np.uint8)
    return pictures
