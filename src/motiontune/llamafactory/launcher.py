"""The file that torchrun starts in each process, and how it is started."""

import os
import sys


def launch(argv: list[str]) -> None:
    """Train as the arguments ask: in this process, or in several through torchrun where LLaMA-Factory would.

    `FORCE_TORCHRUN`, `NPROC_PER_NODE`, `NNODES`, `USE_RAY` and the like mean what they mean to `llamafactory-cli`.

    Args:
        argv: the arguments after `motiontune train`.

    Raises:
        ConfigError: on a file or a key that no process could use, before any is started.
    """
    from llamafactory import launcher

    from motiontune.llamafactory import names
    from motiontune.llamafactory.config import check_keys, clean_values, read_config, with_new_names
    from motiontune.llamafactory.install import install

    install()
    args, classes = with_new_names(read_config(argv)), names.train_argument_classes()
    check_keys(args, classes)
    clean_values(args, classes)
    names.point_launcher_at(__file__)
    # torchrun lies beside the interpreter, which is not on the path where the environment is not activated
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    sys.argv = ["motiontune", "train", *argv]
    launcher.launch()  # which calls the tuner's `run_exp`, motiontune's own now, or torchrun on this file


if __name__ == "__main__":
    from motiontune.errors import exit_with_message
    from motiontune.llamafactory.install import run_exp

    exit_with_message(run_exp)
