"""`motiontune prepare`: bring a data set into LLaMA-Factory's format."""

import argparse

from motiontune.datasets import something_something


DESCRIPTION = "Bring a data set into LLaMA-Factory's format."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command of its own for each data set."""
    names = parser.add_subparsers(dest="dataset", required=True)
    something_something.add_arguments(names.add_parser("something-something", help="Something-Something V2"))


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data set and print what was done.

    Raises:
        ConfigError: if its files cannot be used.
    """
    something_something.run(arguments)
