"""`motiontune prepare`: bring a data set into LLaMA-Factory's format, or make one, or a model to begin with."""

import argparse
from pathlib import Path
from typing import Any

from motiontune.commands.options import MOST, MOST_WORKERS, check_range
from motiontune.datasets.dataset_info import PROMPT
from motiontune.datasets.something_something import prepare, skipped_file


DESCRIPTION = "Bring a data set into LLaMA-Factory's format, or make one, or a small model to begin with."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command of its own for each data set."""
    names = parser.add_subparsers(dest="dataset", required=True)
    add = names.add_parser("something-something", help="Something-Something V2").add_argument
    add("--labels", nargs="+", required=True, metavar="FILE", help="train.json, validation.json, test.json, or some")
    add("--videos", required=True, metavar="DIR", help="folder with the clips (74225.webm, ...)")
    add("--out", required=True, metavar="DIR", help="folder to write: the dataset_dir of your YAML")
    add("--prompt", default=PROMPT, metavar="TEXT", help="the question (default: %(default)r)")
    add("--no-check", action="store_true", help="do not open the clips; missing ones are still found")
    add("--workers", type=int, metavar="N", help="clips opened at a time (default: one per CPU core)")
    about = "clips with exact motion, made here, and questions that nothing but their motion answers"
    add = names.add_parser("motion-questions", help=about, description=f"Make {about}.").add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write: the dataset_dir of your YAML")
    add("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    add(
        "--count",
        type=int,
        default=1000,
        metavar="N",
        help="clips of EACH split, so five times as many where --splits is not given; a split's tasks share them "
        "(default: 1000)",
    )
    splits = "train in_domain ood_photos ood_objects ood_speeds; real_backgrounds needs --backgrounds"
    add("--splits", nargs="+", metavar="NAME", help=f"default: {splits}")
    add("--tasks", nargs="+", metavar="NAME", help="which_way_4, speed, ... (default: all)")
    add("--cameras", nargs="+", metavar="NAME", help="some of still, pan, zoom, shake (default: all)")
    add("--size", type=int, default=224, metavar="N", help="side of the frames in pixels (default: 224)")
    add("--frames", type=int, default=16, metavar="N", help="of a clip (default: 16)")
    add("--fps", type=int, default=8, metavar="N", help="frames per second (default: 8)")
    add("--codec", default="libx264", metavar="NAME", help="libx264, mpeg4 or libvpx-vp9 (default: libx264)")
    add("--direction", default="past", choices=["past", "future"], help="of the motion files (default: past)")
    add("--photos", type=Path, metavar="DIR", help="backgrounds (default: those of installed packages)")
    add("--backgrounds", type=Path, metavar="DIR", help="videos and photos for the split real_backgrounds")
    add("--workers", type=int, metavar="N", help="clips made at a time (default: one per CPU core)")
    about = "a small Qwen2-VL out of a language model and a vision encoder, for experiments"
    more = "Both keep what they compute; the projector between them is random, so the model must be trained."
    add = names.add_parser("start", help=about, description=f"Make {about}. {more}").add_argument
    models = "folder or hub name"
    add("--language", required=True, metavar="NAME", help=f"{models}, or a GGUF file: llama, mistral or qwen2")
    add("--vision", required=True, metavar="NAME", help=f"{models}: dinov2, or a Qwen2-VL whose encoder is taken")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write: the model_name_or_path of your YAML")
    about = "how far to tell the two frames of a token apart, of a dinov2; 0: it sees their mean alone (default: 2)"
    add("--frames-apart", type=float, metavar="X", help=about)
    add("--seed", type=int, default=0, metavar="N", help="of the projector's weights (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data set and print what was done.

    Raises:
        ConfigError: if its files cannot be used, or on a number of workers or a seed that cannot be.
    """
    if arguments.dataset != "something-something":
        check_range("--seed", arguments.seed, 0, MOST)
    if arguments.dataset == "start":
        _make_start(arguments)
        return
    workers = arguments.workers
    if workers is not None:
        check_range("--workers", workers, 1, MOST_WORKERS)
    if arguments.dataset == "motion-questions":
        _make_questions(arguments)
        return
    report = prepare(
        arguments.labels,
        arguments.videos,
        arguments.out,
        arguments.prompt,
        not arguments.no_check,
        workers,
        progress=True,
    )
    print(report.table())
    for split in report.splits:
        if split.missing or split.unreadable:
            print(f"Left out of {split.split}: see {report.out / skipped_file(split.split)}")
        if not split.dataset:
            print(f"No data set was written for {split.split}: none of its clips is there")
    print(f"\nIn the YAML:\n\n{report.yaml()}")


def _make_start(arguments: argparse.Namespace) -> None:
    from motiontune.model.start import write_start

    report = write_start(arguments.language, arguments.vision, arguments.out, arguments.seed, arguments.frames_apart)
    print(report.table())
    if not report.stock:
        print("\nmotiontune loads it (train, evaluate, predict, export); transformers alone refuses its encoder.")
    print(f"\nIn the YAML:\n\n{report.yaml()}")


def _make_questions(arguments: argparse.Namespace) -> None:
    # torch takes a second to import, which the other data sets need not wait for
    from motiontune.datasets.questions.writing import Wanted, names_of, prepare_questions

    given: dict[str, Any] = {name: getattr(arguments, name) for name in ("out", "seed", "count", "size", "frames")}
    given |= {name: getattr(arguments, name) for name in ("fps", "codec", "direction", "photos", "backgrounds")}
    lists = {name: names_of(getattr(arguments, name)) for name in ("splits", "tasks", "cameras")}
    given |= {name: names for name, names in lists.items() if names}
    wanted = Wanted(**given)
    print(wanted.plan(), flush=True)
    report = prepare_questions(wanted, arguments.workers, progress=True)
    print(report.table())
    print(f"\nIn the YAML:\n\n{report.yaml()}")
