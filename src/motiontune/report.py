"""`motiontune report`: one page about a run, from what lies in its output folder."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.clip import read_clip
from motiontune.errors import ClipError, MotiontuneError
from motiontune.evaluation.predictions import MotionComparison
from motiontune.run_folder import (
    EVALUATION,
    PICTURES_FOLDER,
    PREDICTIONS_FOLDER,
    RESULTS,
    STATE,
    prediction_files,
    read_json,
    read_runs,
    read_texts,
)
from motiontune.viewing.report import ReportClip, write_report


CLIPS = 4
"""Best clips, and as many worst ones."""

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
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MotiontuneError(f"{folder}: no such folder")
    state, unfinished = _state(folder)
    history = state.get("log_history", [])
    metrics = _metrics(folder, history)
    files = prediction_files(folder)
    if not (state or metrics or files):
        raise MotiontuneError(
            f"{folder} is no run's output folder: it has no {STATE}, {RESULTS} or {PREDICTIONS_FOLDER}/"
        )
    runs = read_runs(folder)
    keys = runs[-1].configuration if runs else {}
    shown, order = _clips(folder, files, keys, clips)
    notes = [_about(state, metrics, unfinished, keys), order]
    if not runs:
        notes.append("How this run was started is not known: no motiontune has noted it in its folder.")
    earlier = {
        f"Earlier run into this folder, {run.started}": run.configuration | {"versions": run.versions}
        for run in reversed(runs[:-1])
    }
    return write_report(
        folder / "report.html" if out is None else out,
        title=f"Run {folder.resolve().name}",
        metrics=metrics,
        log_history=history,
        clips=shown,
        configuration=keys,
        versions=runs[-1].versions if runs else {},
        notes="\n\n".join(note for note in notes if note),
        pictures=_pictures(folder / PICTURES_FOLDER),
        folds=earlier,
    )


def _state(folder: Path) -> tuple[dict[str, Any], bool]:
    """The Trainer's state, or where the run has not ended that of its last checkpoint; and whether that is so."""
    path = folder / STATE
    found = [path] if path.is_file() else sorted(folder.glob(f"checkpoint-*/{STATE}"), key=_step)
    return (read_json(found[-1], {}), found[-1] != path) if found else ({}, False)


def _step(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _metrics(folder: Path, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of the run, or where it has not ended the last that was logged of an evaluation."""
    metrics = dict(read_json(folder / RESULTS, {}))
    if not metrics:
        for entry in history:
            metrics |= {key: value for key, value in entry.items() if key.startswith("eval_")}
    evaluation = read_json(folder / EVALUATION, {})
    for group in (evaluation.get("motion", {}).get("all", {}), evaluation.get("text", {})):
        for name, one in group.items():
            low, high = (number if number is not None else math.nan for number in one["ci95"])
            metrics[f"predict_{name}"] = one["value"]
            if math.isfinite(low):
                metrics[f"predict_{name}, 95 % interval"] = f"{low:.4f} to {high:.4f}"
    if "predict_exact_match" in metrics:
        metrics["predict_caption_exact_match"] = metrics.pop("predict_exact_match")
    return metrics


def _about(state: Mapping[str, Any], metrics: Mapping[str, Any], unfinished: bool, keys: Mapping[str, Any]) -> str:
    parts = []
    if keys.get("model_name_or_path"):
        parts.append(f"Of {keys['model_name_or_path']}")
    if state.get("global_step"):
        ended = "The run has not ended: this is its last checkpoint, after" if unfinished else "Trained for"
        parts.append(f"{ended} {state['global_step']:,} steps, {state.get('epoch') or 0:.2f} epochs")
    if metrics.get("train_runtime"):
        parts.append(f"{metrics['train_runtime']:,.0f} seconds")
    return ". ".join(parts) + "." if parts else ""


def _clips(
    folder: Path, files: Mapping[Key, Path], keys: Mapping[str, Any], count: int
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
    texts = read_texts(folder)
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
    frames = _frames(comparison, keys)
    said, label = texts[key[0]] if key[0] < len(texts) else (None, None)
    name = f"{key[0]}: {Path(comparison.path).name}"
    if frames is None:
        grid = comparison.grid
        frames = np.full((grid.frames, grid.height, grid.width, 3), _BLANK, np.uint8)
        name += " (its frames cannot be read)"
    return ReportClip(name, frames, comparison, label or None, said, section)


def _frames(comparison: MotionComparison, keys: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """The sampled frames at the grid's size, or None where the clip is gone or is not the one that was predicted."""
    grid = comparison.grid

    def resize(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(frame, (grid.width, grid.height), interpolation=cv2.INTER_AREA), np.uint8)

    try:
        fps, most = float(keys.get("video_fps", 2.0)), int(keys.get("video_maxlen", 128))
        clip = read_clip(comparison.path, fps, most, resize)
    except (ClipError, ValueError):
        return None
    count = len(clip.times)
    same = 0 <= grid.frames - count < grid.temporal_patch
    return clip.frames if same and np.allclose(clip.times, comparison.times[:count], atol=1e-3) else None


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
