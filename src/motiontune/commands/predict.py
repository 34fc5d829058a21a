"""`motiontune predict`: a model's text and motion of clips, as files and films."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from motiontune.commands.options import (
    add_compare_with,
    add_reading,
    check_reading,
    claim_outputs,
    find_clips,
    load_model,
    show_line,
)
from motiontune.compiled import compile_all
from motiontune.datasets.dataset_info import NEW_TOKENS, PROMPT
from motiontune.drawing.films import FILM, frame_size, motion_between, write_overlay
from motiontune.drawing.panels import Show
from motiontune.drawing.text import printable
from motiontune.errors import MotiontuneError, OutputError, escaped
from motiontune.evaluation.prediction import MotionPrediction
from motiontune.files import alone_in, write_text
from motiontune.motion.file import FORMATS, Format, check_unshared, motion_files, write_motion
from motiontune.motion.sources import NO_SOURCE, check_source
from motiontune.tables import shorten_middle, text_table
from motiontune.video.frames import all_frames


if TYPE_CHECKING:
    from motiontune.llamafactory.predictor import MotionModel


DESCRIPTION = "Predict text and motion of clips with a model, and write them as files and films."
ABOUT = "predictions.json"


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("clips", nargs="+", metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument("--out", default="motiontune-predict", help="output folder (default: %(default)s)")
    parser.add_argument("--prompt", default=PROMPT, help="the question (default: %(default)r)")
    parser.add_argument(
        "--show",
        choices=("arrows", "colours", "none"),
        default="arrows",
        help="how the films show motion; none writes no films (default: %(default)s)",
    )
    add_compare_with(parser, "a source of motion to compare with, as motion_source, or none")
    parser.add_argument(
        "--format", choices=FORMATS, default="npz", help="of the motion, as in extract (default: %(default)s)"
    )
    add_reading(parser)


def run(arguments: argparse.Namespace) -> None:
    """Predict clips and print a table about them.

    Raises:
        MotiontuneError: on a mistake in the options, or if some clip gave no prediction.
    """
    check_reading(arguments)
    if arguments.compare_with != NO_SOURCE:
        check_source(arguments.compare_with)
    _clips_to_predict(  # before the model, which takes long
        arguments.clips, arguments.out, arguments.compare_with, arguments.show, arguments.format
    )
    model = load_model(arguments)
    if model.no_motion:
        print(f"{arguments.model} has {model.no_motion}: text alone, no motion", file=sys.stderr)
    rows = predict(
        model,
        arguments.clips,
        arguments.out,
        arguments.prompt,
        arguments.compare_with,
        arguments.show,
        arguments.max_new_tokens,
        arguments.format,
    )
    print(table(rows))
    failed = sum(bool(row.problem) for row in rows)
    if failed:
        raise MotiontuneError(f"{failed} of {len(rows)} clips gave no prediction, see the table above")


def predict(
    model: "MotionModel",
    paths: Sequence[str],
    out: str,
    prompt: str,
    compare_with: str = "auto",
    show: Show = "arrows",
    max_new_tokens: int = NEW_TOKENS,
    form: Format = "npz",
) -> list[Predicted]:
    """Write the text and motion of clips, and `predictions.json` about all of them; a bad clip stops no other.

    Args:
        model: the model.
        paths: clips, and folders of clips.
        out: the output folder: `NAME.npz` or as `form` asks for, as `motion_source: file` reads it, and the film
            `NAME.motion.mp4`.
        prompt: the question.
        compare_with: the source to compare with, as `motion_source`; "none" for no comparison.
        show: how the film shows motion; "none" for no film.
        max_new_tokens: at most so many tokens of text.
        form: how the motion is written, as `motiontune extract` writes it; text and target go into a `.npz` alone.

    Raises:
        ConfigError: if there is no clip, two have one name, or there is no such source.
        OutputError: if a file is in the way of one that is to be written, one cannot be written, or another process
            is writing into the folder.
    """
    with alone_in(out, key="--out"):
        clips, unnamed = _clips_to_predict(paths, out, compare_with, show, form)
        if compare_with not in (NO_SOURCE, "file"):
            compile_all(show_line)
        rows = []
        with tqdm(clips.items(), unit="clip") as bar:
            for place, path in bar:
                bar.set_postfix_str(shorten_middle(escaped(Path(path).name), 30))
                if place in unnamed:
                    rows.append(Predicted(path, problem=unnamed[place]))
                    continue
                start = time.perf_counter()
                try:
                    prediction = model.predict(path, prompt, compare_with=compare_with, max_new_tokens=max_new_tokens)
                    _write(prediction, place, show, form)
                except OutputError:  # a full disk is full for every clip
                    raise
                except (MotiontuneError, OSError) as error:
                    rows.append(Predicted(path, problem=escaped(str(error)).removeprefix(f"{escaped(path)}: ")))
                else:
                    rows.append(_row(path, prediction, time.perf_counter() - start))
        about = {"prompt": prompt, "compare_with": compare_with, "clips": [asdict(row) for row in rows]}
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        write_text(Path(out, ABOUT), text, "backslashreplace")  # of a name that is no UTF-8: JSON's own escapes
        return rows


def _clips_to_predict(
    paths: Sequence[str], out: str, compare_with: str, show: Show, form: Format
) -> tuple[dict[Path, str], dict[Path, str]]:
    """The clips by the places of what will be made of them, once nothing is in its way, and what has no such place."""
    clips = find_clips(paths, out)
    films = () if show == "none" else (FILM,)
    unnamed = claim_outputs(out, clips, lambda place: motion_files(place, form), films, ABOUT)
    if compare_with == "file":
        check_unshared(clips.values(), None, {})
    return clips, unnamed


def _write(prediction: MotionPrediction, place: Path, show: Show, form: Format) -> None:
    if prediction.field is None:
        return
    more = {"text": np.array(prediction.text)}
    if prediction.target is not None:
        more |= {"target": prediction.target.vectors, "target_valid": prediction.target.valid}
        more |= {"target_source": np.array(prediction.target.source)}
    write_motion(place, prediction.clip, prediction.field, prediction.grid, form, **more)
    if show != "none":
        _write_film(prediction, place.with_name(place.name + FILM), show)


def _write_film(prediction: MotionPrediction, path: Path, show: Show) -> None:
    """Write every frame of the clip with the predicted motion, and the target's beside it where there is one."""
    assert prediction.field is not None
    panels, clip = prediction.panels(show)[::-1], prediction.clip
    size = frame_size(clip.info.width, clip.info.height, len(panels))
    frames = motion_between(all_frames(clip.path, *size), clip.indices, prediction.field.direction)
    write_overlay(path, frames, clip.info.average_rate, panels, prediction.grid.patch, text=prediction.text)


def _row(path: str, prediction: MotionPrediction, seconds: float) -> Predicted:
    motion, source, numbers = None, "", prediction.sums().metrics()
    if prediction.field is not None and prediction.field.valid.any():
        motion = round(float(np.linalg.norm(prediction.field.vectors[prediction.field.valid], axis=-1).mean()), 3)
    if prediction.target is not None:
        source = prediction.target.source
    epe, zero = (round(numbers[key], 3) if key in numbers else None for key in ("epe", "epe_zero_motion"))
    frames = len(prediction.clip.frames)
    note = escaped(prediction.problem).removeprefix(f"{escaped(path)}: ")
    return Predicted(path, prediction.text, frames, motion, source, epe, zero, round(seconds, 3), note)


def table(rows: Sequence[Predicted]) -> str:
    """What became of the clips, as text: lengths in pixels of the resized frame."""
    lines: list[tuple[str, ...]] = [("clip", "frames", "motion px", "EPE px", "(no motion)", "seconds", "answer")]
    for row in rows:
        numbers = ("-" if n is None else f"{n:.2f}" for n in (row.mean_motion, row.epe, row.epe_zero_motion))
        answer = f"no prediction: {row.problem}" if row.problem else row.text + (row.note and f"  [{row.note}]")
        name, frames = shorten_middle(escaped(row.clip), 40), str(row.frames or "-")
        lines.append((name, frames, *numbers, f"{row.seconds:.2f}", printable(answer)))
    return text_table(lines, "<>>>>>")
