"""`motiontune inspect`: what training will see, without training and without the model's weights."""

import argparse

from motiontune.errors import ConfigError
from motiontune.runs.configuration import read_config


DESCRIPTION = "Show what training will see, without training."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("config", help="the training YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of the YAML")
    parser.add_argument("--out", default="motiontune-inspect", help="folder of the pictures (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2, help="samples in the batch (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print the variables of one batch and save its pictures.

    Raises:
        MotiontuneError: on a mistake in the configuration or the data.
    """
    if arguments.samples < 1:
        raise ConfigError("--samples must be 1 or more")
    config = read_config([arguments.config, *arguments.overrides])  # a wrong path shows at once
    assert isinstance(config, dict)  # as from every file
    from motiontune.llamafactory.inspection import inspect

    inspect(config, arguments.out, arguments.samples)
