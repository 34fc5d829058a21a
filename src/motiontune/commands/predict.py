"""`motiontune predict`: what a model says of clips, in text and motion, as files and films."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from motiontune.commands.extract import Format, find_clips, shorten_middle, write_motion
from motiontune.drawing.films import frame_size, motion_between, write_overlay
from motiontune.drawing.panels import Show
from motiontune.drawing.text import printable
from motiontune.errors import MotiontuneError
from motiontune.llamafactory.predictor import MotionModel, MotionPrediction
from motiontune.video.frames import all_frames


@dataclass(frozen=True)
class Predicted:
    """What became of one clip.

    Args:
        clip: the file.
        text: the answer.
        frames: number of sampled frames.
        mean_motion: mean length of the predicted vectors in pixels of the resized frame; None without a motion head.
        target: the source of the motion to compare with; "" without.
        epe: mean end-point error against it, pixels; None without.
        epe_zero_motion: what predicting no motion would have cost, pixels; None without.
        seconds: what it took, with decoding and writing.
        note: why there is no target; "" where there is one or none was asked for.
        problem: why there is no prediction; "" where there is.
    """

    clip: str
    text: str = ""
    frames: int = 0
    mean_motion: float | None = None
    target: str = ""
    epe: float | None = None
    epe_zero_motion: float | None = None
    seconds: float = 0.0
    note: str = ""
    problem: str = ""


def predict(
    model: MotionModel,
    paths: Sequence[str],
    out: str,
    prompt: str,
    target: str = "auto",
    show: Show = "arrows",
    max_new_tokens: int = 128,
    form: Format = "npz",
) -> list[Predicted]:
    """Write what a model says of clips, and `predictions.json` about all of them. A bad clip does not stop the others.

    Args:
        model: the model.
        paths: clips, and folders of clips.
        out: the output folder: `NAME.npz` or what `form` says, as `motion_source: file` reads it, and `NAME.mp4`.
        prompt: the question.
        target: the source to compare with, as `motion_source`; "none" for no comparison.
        show: how the film shows motion; "none" for no film.
        max_new_tokens: at most so many tokens of text.
        form: how the motion is written, as `motiontune.commands.extract` does; text and target go into a `.npz` alone.

    Raises:
        ConfigError: if there is no clip, two have one name, or there is no such source.
    """
    clips = find_clips(paths, out)
    rows = []
    with tqdm(clips.items(), unit="clip") as bar:
        for place, path in bar:
            bar.set_postfix_str(shorten_middle(Path(path).name, 30))
            start = time.perf_counter()
            try:
                said = model.predict(path, prompt, target=target, max_new_tokens=max_new_tokens)
                _write(said, place, show, form)
            except MotiontuneError as error:
                rows.append(Predicted(path, problem=str(error).removeprefix(f"{path}: ")))
            else:
                rows.append(_row(path, said, time.perf_counter() - start))
    about = {"prompt": prompt, "target": target, "clips": [asdict(row) for row in rows]}
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, "predictions.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return rows


def _write(said: MotionPrediction, place: Path, show: Show, form: Format) -> None:
    if said.field is None:
        return
    more = {"text": np.array(said.text)}
    if said.target is not None:
        more |= {"target": said.target.vectors, "target_valid": said.target.valid}
        more |= {"target_source": np.array(said.target.source)}
    write_motion(place, said.field, said.grid, form, **more)
    if show != "none":
        _write_film(said, place.with_name(f"{place.name}.mp4"), show)


def _write_film(said: MotionPrediction, path: Path, show: Show) -> None:
    """Write every frame of the clip with the predicted motion, and the target's beside it where there is one."""
    assert said.field is not None
    panels, clip = said.panels(show)[::-1], said.clip
    size = frame_size(clip.info.width, clip.info.height, len(panels))
    frames = motion_between(all_frames(clip.path, *size), clip.indices, said.field.direction)
    write_overlay(path, frames, clip.info.average_rate, panels, said.grid.patch, text=said.text)


def _row(path: str, said: MotionPrediction, seconds: float) -> Predicted:
    motion, source, numbers = None, "", said.sums().metrics()
    if said.field is not None and said.field.valid.any():
        motion = round(float(np.linalg.norm(said.field.vectors[said.field.valid], axis=-1).mean()), 3)
    if said.target is not None:
        source = said.target.source
    epe, zero = (round(numbers[key], 3) if key in numbers else None for key in ("epe", "epe_zero_motion"))
    frames = len(said.clip.frames)
    note = said.problem.removeprefix(f"{path}: ")
    return Predicted(path, said.text, frames, motion, source, epe, zero, round(seconds, 3), note)


def table(rows: Sequence[Predicted]) -> str:
    """What became of the clips, as text: lengths in pixels of the resized frame."""
    lines: list[tuple[str, ...]] = [("clip", "frames", "motion px", "EPE px", "(no motion)", "seconds", "answer")]
    for row in rows:
        numbers = ("-" if n is None else f"{n:.2f}" for n in (row.mean_motion, row.epe, row.epe_zero_motion))
        said = f"no prediction: {row.problem}" if row.problem else row.text + (row.note and f"  [{row.note}]")
        name = shorten_middle(row.clip, 40)
        lines.append(
            (
                name,
                str(row.frames or "-"),
                *numbers,
                f"{row.seconds:.2f}",
                printable(said),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:6], widths[1:]), line[6]]) for line in lines
    )
