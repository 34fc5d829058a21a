"""`motiontune evaluate`: a model's text and motion over a data set, in the numbers that each field knows.

The predictions are those of `motiontune train` with `do_predict` and `predict_with_generate`, in as many processes as
that takes; what is added is the measuring.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av

from motiontune.commands.options import MOST, MOST_WORKERS, add_compare_with, add_reading, check_range, check_reading
from motiontune.datasets.dataset_info import NEW_TOKENS, templates_of
from motiontune.drawing.images import save_png
from motiontune.drawing.sheets import contact_sheet
from motiontune.errors import MotiontuneError, mistakes
from motiontune.evaluation.comparison import MotionComparison, prediction_rows
from motiontune.evaluation.measure import Evaluation, MotionMeter, measure_text
from motiontune.evaluation.templates import read_templates
from motiontune.files import claim, write_text
from motiontune.runs.folder import EVALUATION, check_folders, prediction_files, read_json, read_texts
from motiontune.runs.report import sampled_frames
from motiontune.terminal import current, is_verbose, run_terminal


DESCRIPTION = "Measure a model's text and motion over a data set."
PLOT_COLUMNS, PLOT_WIDTH = 6, 240
MOST_ROUNDS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="its name in dataset_info.json")
    add("--dataset-dir", default="data", metavar="DIR", help="its folder (default: %(default)s)")
    add("--out", default="motiontune-evaluate", help="output folder (default: %(default)s)")
    add_compare_with(parser, "the source of the motion to compare with, as motion_source")
    add("--motion-dir", metavar="DIR", help="as motion_dir, for --compare-with file")
    add("--max-samples", type=int, metavar="N", help="use only the first N samples")
    add("--batch-size", type=int, default=1, help="samples at a time (default: %(default)s)")
    add("--workers", type=int, default=0, help="processes that read clips (default: %(default)s)")
    add("--templates", metavar="FILE", help="Something-Something's labels.json, with all templates")
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="how often clips are drawn again for the intervals (default: %(default)s)",
    )
    add(
        "--save-plots",
        type=int,
        nargs="?",
        const=16,
        default=0,
        metavar="N",
        help="draw the first N clips (16 where N is not given)",
    )
    add("--trust-remote-code", action="store_true", help="run code that comes with the model or the data set")
    add_reading(parser)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate and print a table.

    Raises:
        MotiontuneError: on a mistake in the options, or if some clip could not be read.
    """
    check_reading(arguments)
    check_range("--batch-size", arguments.batch_size, 1, MOST)
    check_range("--bootstrap", arguments.bootstrap, 1, MOST_ROUNDS)
    check_range("--workers", arguments.workers, 0, MOST_WORKERS)
    check_range("--save-plots", arguments.save_plots, 0, MOST)
    keys = {
        "video_fps": arguments.fps,
        "video_maxlen": arguments.max_frames,
        "video_max_pixels": arguments.max_pixels,
        "max_new_tokens": arguments.max_new_tokens,
        "max_samples": arguments.max_samples,
        "per_device_eval_batch_size": arguments.batch_size,
        "dataloader_num_workers": arguments.workers,
        "motion_source": arguments.compare_with,
        "motion_dir": arguments.motion_dir,
        "trust_remote_code": arguments.trust_remote_code or None,
    }
    with run_terminal("evaluate.log", with_result=False) as terminal:
        terminal.show(f"Reading {arguments.model} ...")
        result = evaluate(
            arguments.model,
            arguments.dataset,
            arguments.dataset_dir,
            arguments.out,
            base=arguments.base,
            template=arguments.template,
            keys={key: value for key, value in keys.items() if value is not None},
            templates=arguments.templates,
            rounds=arguments.bootstrap,
            plots=arguments.save_plots,
        )
        if terminal.quiet:
            from motiontune.llamafactory.page import show_files

            terminal.show("\n" + result.table())
            show_files(terminal, Path(arguments.out))
    if not terminal.quiet:
        print(result.table())
    if result.left_out:
        known = result.clips + result.left_out
        raise MotiontuneError(f"{result.left_out} of {known} clips cannot be read and are left out of all numbers")


def evaluate(
    model: str,
    dataset: str,
    dataset_dir: str = "data",
    out: str = "motiontune-evaluate",
    *,
    base: str | None = None,
    template: str | None = None,
    keys: Mapping[str, Any] | None = None,
    templates: str | None = None,
    rounds: int = 1000,
    plots: int = 0,
) -> Evaluation:
    """Predict a data set and measure text and motion; write `evaluation.json` and what prediction writes.

    Args:
        model: a folder or hub repository: a model or an adapter.
        dataset: its name in `dataset_info.json`.
        dataset_dir: the folder of `dataset_info.json`.
        out: the output folder.
        base: an adapter's model, where it is not the one that it names.
        template: LLaMA-Factory's, where it is not that of its training (if not known: the family's own).
        keys: more keys of a training YAML, such as `motion_source`, `max_samples`; `video_fps` and the like where they
            are to be others than in the model's training.
        templates: Something-Something's labels.json; None takes the templates that the data set's own file names.
        rounds: how often clips are drawn again for the intervals.
        plots: of how many clips to save a picture.

    Raises:
        MotiontuneError: on a model, data set or key that cannot be used.
    """
    from motiontune.llamafactory import install
    from motiontune.llamafactory.names import quiet_loggers
    from motiontune.llamafactory.reader import model_keys, places_of
    from motiontune.llamafactory.sampling import sampling_keys
    from motiontune.llamafactory.similarity import similarity
    from motiontune.llamafactory.workflow import SAMPLES_LEFT_OUT
    from motiontune.model.head import find_head

    known = read_templates(templates) if templates else []
    drawn = Path(out, "plots")
    claim(out, [Path(out, EVALUATION), *drawn.glob("[0-9]*-[0-9]*.png")], [templates] if templates else [])
    if plots:
        check_folders(drawn)
    with nullcontext() if current() or is_verbose() else quiet_loggers():
        own = model_keys(model, base, template)
        places = places_of(own)
        found = find_head(places)
        no_motion = "no motion head" if found is None else found[1].config.no_motion
        with_motion = not no_motion
        configuration = {
            "stage": "sft",
            "finetuning_type": "lora" if "adapter_name_or_path" in own else "full",
            "do_predict": True,
            "predict_with_generate": True,
            "eval_dataset": dataset,
            "dataset_dir": dataset_dir,
            "output_dir": out,
            "cutoff_len": 131072,  # prompts are never cut
            "do_sample": False,
            "max_new_tokens": NEW_TOKENS,
            "report_to": "none",
            "overwrite_cache": True,
            **({"train_on_video_tokens": True, "motion_on_error": "skip"} if with_motion else {}),
            **own,
            **sampling_keys(places),
            **(keys or {}),
        }
        with mistakes("a clip of the data set cannot be read", av.error.FFmpegError):  # LLaMA-Factory's own reading
            install.run_exp(configuration)
    texts = read_texts(Path(out))
    files = prediction_files(Path(out)) if with_motion else {}
    samples = {number for number, _ in files}
    readable = [text for number, text in enumerate(texts) if not with_motion or number in samples]
    labelled = [(answer, label) for answer, label in readable if label.strip()]
    template_of = templates_of(dataset_dir, dataset)
    measured = read_json(Path(out, "predict_results.json"), {})
    before = int(measured.get(f"predict_{SAMPLES_LEFT_OUT}", 0))
    result = Evaluation(
        clips=len(readable),
        motion_clips=len(files),
        left_out=len(texts) - len(readable) + before,
        no_motion=no_motion,
        motion=measure_motion(files, drawn, plots, configuration).metrics(rounds),
        text=measure_text(labelled, similarity(labelled), template_of, known, rounds) if labelled else {},
    )
    about = {"model": model, "dataset": dataset, "keys": configuration, "bootstrap_rounds": rounds}
    write_text(Path(out, EVALUATION), json.dumps(about | result.as_json(), indent=1) + "\n")
    return result


def measure_motion(
    files: Mapping[tuple[int, int], Path], folder: Path, plots: int, keys: Mapping[str, Any]
) -> MotionMeter:
    """Measure predicted clips, each read when its turn comes and forgotten after it, and draw the first ones.

    Args:
        files: by the numbers of the sample and of the clip in it.
        folder: of the pictures.
        plots: how many clips to draw.
        keys: the run's; `video_fps` and `video_maxlen` are needed to read a clip's frames again.
    """
    meter = MotionMeter()
    for number, (key, file) in enumerate(files.items()):
        clip = MotionComparison.load(file)
        meter.add(clip)
        if number < plots:
            _save_plot(folder / f"{key[0]:06d}-{key[1]}.png", clip, keys)
    return meter


def _save_plot(path: Path, clip: MotionComparison, keys: Mapping[str, Any]) -> None:
    frames = sampled_frames(clip, keys)
    if frames is None:
        print(f"{clip.path}: no picture, the clip cannot be read as it was when it was predicted", file=sys.stderr)
        return
    save_png(
        path, contact_sheet(prediction_rows(Path(clip.path).name, frames, clip, PLOT_WIDTH), PLOT_COLUMNS, PLOT_WIDTH)
    )
