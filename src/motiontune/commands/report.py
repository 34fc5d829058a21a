"""`motiontune report`: one page about a run, from what lies in its output folder, or about the clips of a manifest."""

import argparse

from motiontune.commands.options import show_line
from motiontune.errors import ConfigError
from motiontune.extraction.inputs import as_file
from motiontune.manifest import is_manifest, missing_shards
from motiontune.runs.report import CLIPS, report
from motiontune.runs.survey import survey


DESCRIPTION = (
    "Write one page about a run: curves, metrics, clips, configuration. Or about a manifest of `motiontune extract`: "
    "how much the clips move, codecs, failures, worst clips."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", metavar="RUN_DIR", help="the run's output folder; or a manifest, or its folder")
    parser.add_argument("--out", metavar="FILE", help="the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--clips",
        type=int,
        default=CLIPS,
        metavar="N",
        help="how many of the best clips, and of the worst (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the page and print where it is.

    Raises:
        MotiontuneError: if the folder is no run's, or a file in it is damaged.
    """
    if arguments.clips < 0:
        raise ConfigError("--clips must be 0 or more")
    if is_manifest(arguments.run):
        if missing := missing_shards(arguments.run):
            show_line(f"{arguments.run}: {missing}")
        print(survey(arguments.run, arguments.out, arguments.clips, as_file))
    else:
        print(report(arguments.run, arguments.out, arguments.clips))
