"""`motiontune view`: look through clips, their motion and a model's, in the browser."""

import argparse
import sys

from motiontune.commands.options import (
    add_compare_with,
    add_reading,
    check_reading,
    check_used,
    load_beside,
    load_model,
)
from motiontune.datasets.dataset_info import PROMPT
from motiontune.errors import ConfigError, MotiontuneError
from motiontune.motion.field import DIRECTIONS, Direction
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import check_source


DESCRIPTION = "Look through clips, their motion and a model's text and motion, in the browser."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "clips", nargs="*", metavar="VIDEO", help="a video, a folder of videos, or of what evaluate wrote"
    )
    parser.add_argument("--dataset-dir", metavar="DIR", help="the folder of dataset_info.json")
    parser.add_argument("--dataset", metavar="NAME", help="the data set that is open at first")
    parser.add_argument("--allow", action="append", default=[], help=argparse.SUPPRESS)  # of earlier versions
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, help="its port (default: the first free one from 7860)")
    parser.add_argument("--prompt", default=PROMPT, help="the first question (default: %(default)r)")
    add_compare_with(parser, "the source of motion to begin with, as motion_source")
    parser.add_argument("--motion-dir", metavar="DIR", help="as motion_dir, for --compare-with file")
    parser.add_argument(
        "--raft-weights", metavar="FILE", help="as motion_raft_weights, for raft, also among all sources"
    )
    parser.add_argument("--direction", choices=DIRECTIONS, help="as motion_direction (default: the model's)")
    add_reading(parser, required=False)
    parser.add_argument("--beside", metavar="DIR", help="a second model, beside that of --model")


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl+C.

    Raises:
        MotiontuneError: on a mistake in the options, a model or a data set that cannot be used.
    """
    check_reading(arguments)
    if arguments.port is not None and not 0 <= arguments.port < 65536:
        raise ConfigError("--port must be from 0 to 65535")
    if arguments.model is None and (arguments.base or arguments.template):
        raise ConfigError("--base and --template are for --model")
    if arguments.model is None and arguments.beside:
        raise ConfigError("--beside is for a second model: name the first one with --model")
    check_source(arguments.compare_with)
    check_used("--motion-dir", arguments.motion_dir, arguments.compare_with, "file")
    from motiontune.video.reader import FrameReader, Reader
    from motiontune.viewer.controls import Settings
    from motiontune.viewer.library import FILES, Library, short_names
    from motiontune.viewer.model import Model
    from motiontune.viewer.recorded import Recorded, is_recorded
    from motiontune.viewer.server import view

    if arguments.allow:
        print("--allow is not needed any more: a clip that a data set names may be opened", file=sys.stderr)
    folders = [path for path in arguments.clips if is_recorded(path)]
    if len(folders) + bool(arguments.model) + bool(arguments.beside) > 2:
        raise ConfigError("at most two stand side by side: folders of predictions, --model and --beside")
    recorded = [Recorded(folder) for folder in folders]
    files = [path for path in arguments.clips if path not in folders]
    lists = dict(zip(short_names(folders), (one.clips for one in recorded), strict=True))
    library = Library(arguments.dataset_dir, files, lists)
    first = arguments.dataset or (FILES if files else next(iter(library.names), None))
    if first is not None:
        library.check_there(first)
    models: list[Model | Recorded] = [*recorded]
    given = {"fps": arguments.fps, "max_frames": arguments.max_frames, "max_pixels": arguments.max_pixels}
    reader: Reader = FrameReader(**{name: value for name, value in given.items() if value is not None})
    direction: Direction = arguments.direction or "past"
    if arguments.model is not None:
        print(f"motiontune view: loading LLaMA-Factory and {arguments.model}", flush=True)
        model = load_model(arguments)
        reader = model.reader
        models.append(model)
        if model.head is not None:
            if arguments.direction not in (None, model.direction):
                raise MotiontuneError(
                    f"--direction {arguments.direction}: the head of {arguments.model} predicts the {model.direction}"
                )
            direction = model.direction
    if arguments.beside is not None:
        print(f"motiontune view: loading {arguments.beside}", flush=True)
        models.append(beside := load_beside(arguments.beside, arguments))
        if beside.head is not None and beside.direction != direction:
            raise MotiontuneError(
                f"--beside {arguments.beside}: its head predicts the {beside.direction}, not the {direction}"
            )
    options = MotionOptions(
        arguments.compare_with, direction, motion_dir=arguments.motion_dir, raft_weights=arguments.raft_weights
    )
    settings = Settings(options, first, arguments.prompt, arguments.max_new_tokens)
    view(library, reader, settings, models, arguments.host, arguments.port)
