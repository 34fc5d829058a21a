"""`motiontune select`: a data set of the clips that move as is wanted."""

import argparse

from motiontune.datasets.dataset_info import PROMPT, names_in
from motiontune.datasets.selection import BALANCES, MEASURES, Wanted, select
from motiontune.errors import ConfigError
from motiontune.extraction.inputs import copy_below


DESCRIPTION = "Choose clips by their motion, out of a manifest that `motiontune extract` wrote, and write a data set."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", help="a manifest.parquet, or the folder that it is in")
    add("--out", required=True, metavar="DIR", help="folder to write: the dataset_dir of your YAML")
    add("--name", default="selected", help="of the data set (default: %(default)s)")
    add("--dataset", metavar="NAME", help="take the samples of this data set (default: a sample per clip, no answer)")
    add("--dataset-dir", default="data", metavar="DIR", help="of --dataset (default: %(default)s)")
    add("--copy", action="store_true", help="copy chosen clips that lie in a tar or at an address to DIR/clips")
    add("--prompt", default=PROMPT, help="the question, without --dataset (default: %(default)r)")
    for name, about in MEASURES.items():
        add(f"--min-{name}", type=float, metavar="X", help=f"at least this {about}")
        add(f"--max-{name}", type=float, metavar="X", help=f"at most this {about}")
    add("--codec", metavar="NAME,...", help="only clips of these codecs (h264, vp9, ...)")
    add("--draw", type=int, metavar="N", help="draw N of the clips that are left")
    add("--balance", choices=BALANCES, help="with --draw: as many from each part of its range, or of each value")
    add("--seed", type=int, default=0, help="of --draw (default: %(default)s)")


def _only(text: str) -> str:
    names = names_in(text)
    if len(names) != 1:
        raise ConfigError(f"--dataset {text!r} must name one data set: call select for each, with another --name")
    return names[0]


def run(arguments: argparse.Namespace) -> None:
    """Write the data set and print what was left out.

    Raises:
        MotiontuneError: if something cannot be read or written, or no clip is left.
    """
    given = {f"{end}_{name}": getattr(arguments, f"{end}_{name}") for end in ("min", "max") for name in MEASURES}
    least, most = (
        {name: given[f"{end}_{name}"] for name in MEASURES if given[f"{end}_{name}"] is not None}
        for end in ("min", "max")
    )
    codecs = names_in(arguments.codec or "")
    wanted = Wanted(least, most, codecs, arguments.draw, arguments.balance, arguments.seed)
    dataset = None if arguments.dataset is None else (arguments.dataset_dir, _only(arguments.dataset))
    if arguments.copy and dataset is not None:
        raise ConfigError("--copy is without --dataset, whose samples name files")
    copy = copy_below if arguments.copy else None
    selection = select(arguments.manifest, wanted, arguments.out, arguments.name, dataset, arguments.prompt, copy)
    print(selection.table())
    if wanted.draw is not None and not selection.left_out["not drawn"] and selection.chosen < wanted.draw:
        print(f"--draw {wanted.draw:,}: fewer were left, and all of them are taken")
    print(f"\nIn the YAML:\n\n{selection.yaml()}")
