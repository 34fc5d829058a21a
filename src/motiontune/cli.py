"""The command line: `motiontune train | inspect | extract | predict | evaluate | view | report | export | ...`."""

import argparse
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from motiontune.errors import MotiontuneError


TRAIN_HELP = """motiontune train cfg.yaml [key=value ...]      or      motiontune train --key value ...

Takes everything that `llamafactory-cli train` takes, and motiontune's own keys. After a file, key=value overrides.
"""


def exit_with_message(run: Callable[[], object]) -> None:
    """Run, and turn a user's mistake into one line on stderr and exit code 2."""
    try:
        run()
    except MotiontuneError as error:
        if os.environ.get("LLAMAFACTORY_VERBOSITY") == "DEBUG":
            traceback.print_exc()
        print(f"motiontune: {error}", file=sys.stderr)
        sys.exit(2)
    except subprocess.CalledProcessError as error:  # torchrun has printed what happened
        sys.exit(error.returncode)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("llamafactory", "gradio"):
            raise
        print(f"motiontune: {error}; install it with: pip install 'motiontune[llamafactory]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _asks_for_help(argv: list[str]) -> bool:
    return "-h" in argv or "--help" in argv


def _train(argv: list[str]) -> None:
    if not argv or _asks_for_help(argv):
        print(TRAIN_HELP)
        _print_own_keys()
        argv = ["--help"]
    from motiontune.llamafactory.launcher import launch

    launch(argv)


def _print_own_keys() -> None:
    from motiontune.llamafactory.arguments import OWN_KEYS, help_of

    print("motiontune's own keys:\n")
    for key, default in OWN_KEYS.items():
        print(f"  {key}: {'null' if default is None else str(default).lower()}")
        print(textwrap.fill(help_of(key), 100, initial_indent="      ", subsequent_indent="      "))
    print("\nAll keys:\n")


def _export(argv: list[str]) -> None:
    if not argv or _asks_for_help(argv):
        print("motiontune export cfg.yaml [key=value ...]\n\nTakes what `llamafactory-cli export` takes.\n")
        argv = ["--help"]
    from motiontune.commands.export import export
    from motiontune.llamafactory.install import read_config

    export(read_config(argv))


def _inspect(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "motiontune inspect", description="Show what training will see, without training."
    )
    parser.add_argument("config", help="the training YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of the YAML")
    parser.add_argument("--out", default="motiontune-inspect", help="folder of the pictures (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2, help="samples in the batch (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.samples < 1:
        parser.error("--samples must be 1 or more")
    from motiontune.commands.inspect import inspect
    from motiontune.llamafactory.install import read_config

    config = read_config([args.config, *args.overrides])
    assert isinstance(config, dict)  # as from every file
    inspect(config, args.out, args.samples)


def _extract(argv: list[str]) -> None:
    from motiontune.commands.extract import FORMATS, extract, table
    from motiontune.motion.options import QUALITIES, MotionOptions
    from motiontune.video.reader import FrameReader

    motion, frames = MotionOptions(), FrameReader()
    parser = argparse.ArgumentParser(
        "motiontune extract",
        description="Write the motion of clips to files that `motion_source: file` reads. Existing ones are replaced.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("clips", nargs="+", metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--preview", action="store_true", help="also write NAME.png and NAME.mp4 to look at")
    parser.add_argument(
        "--format", choices=FORMATS, default="npz", help="NAME.npz, .npy, or per pair NAME/*.flo, *.png"
    )
    parser.add_argument("--source", default=motion.source, help="as motion_source")
    parser.add_argument("--raft-weights", metavar="FILE", help="as motion_raft_weights")
    parser.add_argument("--quality", choices=QUALITIES, default=motion.quality, help="as motion_quality")
    parser.add_argument("--direction", choices=("past", "future"), default=motion.direction, help="as motion_target")
    parser.add_argument("--min-confidence", type=float, default=motion.min_confidence, help="as motion_min_confidence")
    parser.add_argument("--fps", type=float, default=frames.fps, help="as video_fps")
    parser.add_argument("--max-frames", type=int, default=frames.max_frames, help="as video_maxlen")
    parser.add_argument("--max-pixels", type=int, default=frames.max_pixels, help="as video_max_pixels")
    parser.add_argument("--model", metavar="DIR", help="take sizes, patch and merge from this model (folder or hub)")
    parser.add_argument("--patch", type=int, default=frames.patch, help="side of the model's patches in pixels")
    parser.add_argument("--merge", type=int, default=frames.merge, help="patches per video token along each side")
    args = parser.parse_args(argv)
    if args.fps <= 0 or min(args.max_frames, args.max_pixels, args.patch, args.merge) < 1:
        parser.error("--fps, --max-frames, --max-pixels, --patch and --merge must be positive")
    if not 0 <= args.min_confidence < 1:
        parser.error("--min-confidence must be 0 or more and below 1")
    motion = MotionOptions(
        args.source, args.direction, args.quality, args.min_confidence, raft_weights=args.raft_weights
    )
    frames = FrameReader(args.fps, args.max_frames, args.max_pixels, args.patch, args.merge)
    reader = None
    if args.model is not None:
        from motiontune.llamafactory.reader import ModelReader

        reader = ModelReader(args.model, args.fps, args.max_frames, args.max_pixels)
        processor = reader.processor.video_processor
        frames = replace(frames, patch=processor.patch_size, merge=processor.merge_size)
    rows = extract(args.clips, args.out, motion, frames, args.format, args.preview, reader)
    print(table(rows))
    failed = sum(bool(row.problem) for row in rows)
    if failed:
        raise MotiontuneError(f"{failed} of {len(rows)} clips gave no motion, see the table above")


def _add_reading(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The options of commands that load a model."""
    parser.add_argument("--model", required=required, metavar="DIR", help="a model or an adapter (folder or hub)")
    parser.add_argument("--base", metavar="DIR", help="an adapter's model, if not the one that it names")
    parser.add_argument("--template", help="LLaMA-Factory's, if not the family's own")
    parser.add_argument("--fps", type=float, default=2.0, help="as video_fps in training (default: %(default)s)")
    parser.add_argument("--max-frames", type=int, default=128, help="as video_maxlen (default: %(default)s)")
    parser.add_argument("--max-pixels", type=int, default=65536, help="as video_max_pixels (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of the text (default: %(default)s)")


def _check_reading(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.fps <= 0 or min(args.max_frames, args.max_pixels, args.max_new_tokens) < 1:
        parser.error("--fps, --max-frames, --max-pixels and --max-new-tokens must be positive")


def _load_model(args: argparse.Namespace) -> Any:
    """Load the model that the options of `_add_reading` name."""
    from motiontune.llamafactory.predictor import MotionModel

    return MotionModel.from_pretrained(
        args.model,
        base=args.base,
        template=args.template,
        fps=args.fps,
        max_frames=args.max_frames,
        max_pixels=args.max_pixels,
    )


def _predict(argv: list[str]) -> None:
    from motiontune.commands.extract import FORMATS, find_clips
    from motiontune.datasets.something_something import PROMPT
    from motiontune.motion.sources import check_source

    parser = argparse.ArgumentParser(
        "motiontune predict", description="What a model says of clips: the text, and the motion as files and films."
    )
    parser.add_argument("clips", nargs="+", metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument("--out", default="motiontune-predict", help="output folder (default: %(default)s)")
    parser.add_argument("--prompt", default=PROMPT, help="the question (default: %(default)r)")
    parser.add_argument(
        "--show", choices=("arrows", "colours", "none"), default="arrows", help="how the films show motion"
    )
    parser.add_argument(
        "--target", default="auto", help="a source to compare with, as motion_source, or none (default: %(default)s)"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="npz",
        help="of the motion, as in extract (default: %(default)s)",
    )
    _add_reading(parser)
    args = parser.parse_args(argv)
    _check_reading(parser, args)
    if args.target != "none":
        check_source(args.target)
    from motiontune.commands.predict import predict, table

    find_clips(args.clips, args.out)  # before the model, which takes long
    model = _load_model(args)
    if model.head is None:
        print(f"{args.model} has no motion head: text alone, no motion", file=sys.stderr)
    rows = predict(model, args.clips, args.out, args.prompt, args.target, args.show, args.max_new_tokens, args.format)
    print(table(rows))
    failed = sum(bool(row.problem) for row in rows)
    if failed:
        raise MotiontuneError(f"{failed} of {len(rows)} clips gave no prediction, see the table above")


def _evaluate(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "motiontune evaluate", description="How right a model's text and motion are over a data set."
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="its name in dataset_info.json")
    parser.add_argument("--dataset-dir", default="data", metavar="DIR", help="its folder (default: %(default)s)")
    parser.add_argument("--out", default="motiontune-evaluate", help="output folder (default: %(default)s)")
    parser.add_argument("--target", default="auto", help="the target's motion_source (default: %(default)s)")
    parser.add_argument("--motion-dir", metavar="DIR", help="as motion_dir, for --target file")
    parser.add_argument("--max-samples", type=int, metavar="N", help="the first samples alone")
    parser.add_argument("--batch-size", type=int, default=1, help="samples at a time (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read clips (default: %(default)s)")
    parser.add_argument("--templates", metavar="FILE", help="Something-Something's labels.json, with all templates")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument(
        "--save-plots", type=int, nargs="?", const=16, default=0, metavar="N", help="pictures of N clips (16)"
    )
    _add_reading(parser)
    args = parser.parse_args(argv)
    _check_reading(parser, args)
    if min(args.batch_size, args.bootstrap) < 1 or min(args.workers, args.save_plots) < 0:
        parser.error("--batch-size and --bootstrap must be 1 or more, --workers and --save-plots 0 or more")
    from motiontune.commands.evaluate import evaluate

    keys = {
        "video_fps": args.fps,
        "video_maxlen": args.max_frames,
        "video_max_pixels": args.max_pixels,
        "max_new_tokens": args.max_new_tokens,
        "max_samples": args.max_samples,
        "per_device_eval_batch_size": args.batch_size,
        "dataloader_num_workers": args.workers,
        "motion_source": args.target,
        "motion_dir": args.motion_dir,
    }
    result = evaluate(
        args.model,
        args.dataset,
        args.dataset_dir,
        args.out,
        base=args.base,
        template=args.template,
        keys={key: value for key, value in keys.items() if value is not None},
        templates=args.templates,
        rounds=args.bootstrap,
        plots=args.save_plots,
    )
    print(result.table())
    if result.left_out:
        known = result.clips + result.left_out
        raise MotiontuneError(f"{result.left_out} of {known} clips cannot be read and are left out of all numbers")


def _view(argv: list[str]) -> None:
    from motiontune.datasets.something_something import PROMPT
    from motiontune.motion.field import Direction
    from motiontune.motion.options import MotionOptions
    from motiontune.motion.sources import check_source
    from motiontune.video.reader import FrameReader

    parser = argparse.ArgumentParser(
        "motiontune view", description="Look through clips, their motion and what a model says of it, in the browser."
    )
    parser.add_argument("clips", nargs="*", metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument("--dataset-dir", metavar="DIR", help="the folder of dataset_info.json")
    parser.add_argument("--dataset", metavar="NAME", help="the data set that is open at first")
    parser.add_argument("--allow", action="append", default=[], metavar="DIR", help="a folder that clips may lie in")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, help="its port (default: the first free one from 7860)")
    parser.add_argument("--prompt", default=PROMPT, help="the first question (default: %(default)r)")
    parser.add_argument("--target", default="auto", help="the first source of motion (default: %(default)s)")
    parser.add_argument("--motion-dir", metavar="DIR", help="as motion_dir, for --target file")
    parser.add_argument("--raft-weights", metavar="FILE", help="as motion_raft_weights, for --target raft")
    parser.add_argument("--direction", choices=("past", "future"), help="as motion_target (default: the model's)")
    _add_reading(parser, required=False)
    args = parser.parse_args(argv)
    _check_reading(parser, args)
    if args.port is not None and not 0 <= args.port < 65536:
        parser.error("--port must be from 0 to 65535")
    if args.model is None and (args.base or args.template):
        parser.error("--base and --template are for --model")
    check_source(args.target)
    from motiontune.viewer.controls import Settings
    from motiontune.viewer.library import FILES, Library
    from motiontune.viewer.server import view

    library = Library(args.dataset_dir, args.clips, args.allow)
    first = args.dataset or (FILES if args.clips else next(iter(library.names), None))
    if first is not None:
        library.clips(first)
    model, reader = None, FrameReader(args.fps, args.max_frames, args.max_pixels)
    direction: Direction = args.direction or "past"
    if args.model is not None:
        print(f"motiontune view: loading LLaMA-Factory and {args.model}", flush=True)
        model = _load_model(args)
        if args.direction not in (None, model.direction) and model.head is not None:
            raise MotiontuneError(f"--direction {args.direction}: the head of {args.model} says the {model.direction}")
        reader, direction = model.reader, model.direction if model.head is not None else direction
    options = MotionOptions(args.target, direction, motion_dir=args.motion_dir, raft_weights=args.raft_weights)
    settings = Settings(options, first, args.prompt, args.max_new_tokens)
    view(library, reader, settings, model, args.host, args.port)


def _report(argv: list[str]) -> None:
    from motiontune.commands.report import CLIPS, report

    parser = argparse.ArgumentParser(
        "motiontune report", description="Write one page about a run: curves, metrics, clips, configuration."
    )
    parser.add_argument("run", metavar="RUN_DIR", help="the run's output folder")
    parser.add_argument("--out", metavar="FILE", help="the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--clips", type=int, default=CLIPS, metavar="N", help="best clips, and worst ones (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.clips < 0:
        parser.error("--clips must be 0 or more")
    print(report(args.run, args.out, args.clips))


def _prepare(argv: list[str]) -> None:
    from motiontune.datasets import something_something

    parser = argparse.ArgumentParser("motiontune prepare", description="Bring a data set into LLaMA-Factory's format.")
    names = parser.add_subparsers(dest="dataset", required=True)
    something_something.add_arguments(names.add_parser("something-something", help="Something-Something V2"))
    args = parser.parse_args(argv)
    sys.exit(something_something.run(args))


def _demo(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "motiontune demo", description="Train a tiny model on synthetic clips and show what it learned, in 3 minutes."
    )
    parser.add_argument("--out", default="motiontune-demo", help="output folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and model (default: %(default)s)")
    args = parser.parse_args(argv)
    from motiontune.commands.demo import run_demo

    run_demo(args.out, args.seed)


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (_train, "fine-tune a Qwen-VL model, as llamafactory-cli train, with motion at its video tokens"),
    "inspect": (_inspect, "show what training will see: every variable of a batch, and pictures of the targets"),
    "extract": (_extract, "write the motion of clips to files, with pictures to look at"),
    "predict": (_predict, "what a model says of clips: text, and motion as files and films"),
    "evaluate": (_evaluate, "how right a model's text and motion are over a data set, with intervals"),
    "view": (_view, "look through clips, their motion and a model's, in the browser"),
    "report": (_report, "write one page about a run: curves, metrics, best and worst clips, configuration"),
    "export": (_export, "merge an adapter into its model and carry the motion head along"),
    "prepare": (_prepare, "bring a data set (something-something) into LLaMA-Factory's format"),
    "demo": (_demo, "train a tiny model on synthetic clips and show what it learned, in 3 minutes"),
}


def main() -> None:
    """Entry point of the `motiontune` command."""
    parser = argparse.ArgumentParser(
        "motiontune",
        description="Teach video-language models to see motion.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="`motiontune command --help` lists them")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data loader workers fork after tokenizing
    if len(sys.argv) < 2:
        parser.print_help(sys.stderr)
        sys.exit(2)
    args = parser.parse_args()
    exit_with_message(lambda: COMMANDS[args.command][0](args.arguments))


if __name__ == "__main__":
    main()
