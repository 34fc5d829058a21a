"""`motiontune prepare`: bring a data set into LLaMA-Factory's format."""

import argparse

from motiontune.datasets.dataset_info import PROMPT
from motiontune.datasets.something_something import prepare, skipped_file
from motiontune.errors import ConfigError


DESCRIPTION = "Bring a data set into LLaMA-Factory's format."


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


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data set and print what was done.

    Raises:
        ConfigError: if its files cannot be used, or on a number of workers below one.
    """
    workers = arguments.workers
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, not {workers}")
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
