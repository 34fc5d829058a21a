"""The file that torchrun starts in each process, and how it is started."""

import sys
from typing import Any


def launch(argv: list[str]) -> None:
    """Train as the arguments ask: in this process, or in several through torchrun where LLaMA-Factory would.

    `FORCE_TORCHRUN`, `NPROC_PER_NODE`, `NNODES`, `USE_RAY` and the like mean what they mean to `llamafactory-cli`.

    Args:
        argv: the arguments after `motiontune train`.
    """
    from llamafactory import launcher
    from llamafactory.train import tuner

    from motiontune.llamafactory import compat
    from motiontune.llamafactory.install import install, run_exp

    install()
    compat.point_launcher_at(__file__)
    original = tuner.run_exp
    tuner.run_exp = lambda: run_exp(read(argv))  # what LLaMA-Factory's launcher calls in a single process
    sys.argv = ["motiontune", "train", *argv]
    try:
        launcher.launch()
    finally:
        tuner.run_exp = original


def read(argv: list[str]) -> Any:
    """Read a configuration file with overrides, or plain arguments."""
    from motiontune.llamafactory.install import read_config

    return read_config(argv)


if __name__ == "__main__":
    from motiontune.cli import exit_with_message
    from motiontune.llamafactory.install import run_exp

    exit_with_message(lambda: run_exp(read(sys.argv[1:])))
