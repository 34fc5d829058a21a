"""The file that torchrun starts in each process, and how it is started."""

import os
import sys
from collections.abc import MutableMapping

from motiontune.errors import ConfigError


def join_slurm(environment: MutableMapping[str, str]) -> None:
    """Tell the tasks of one `srun` of each other, so that they become one run; changed in place.

    Nothing happens where another launcher has done so, or is to be started in each task (`NNODES`).

    Raises:
        ConfigError: where they cannot find each other. Each would train for itself, all into one folder.
    """
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1 or "RANK" in environment or int(environment.get("NNODES", "1")) > 1:
        return
    if "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
        raise ConfigError(
            f"srun has started {tasks} tasks that cannot find each other: export MASTER_ADDR (the first node) and "
            f"MASTER_PORT before it, or start one task per node with NNODES and NODE_RANK; see docs/engines.md"
        )
    environment.update(
        RANK=environment["SLURM_PROCID"], LOCAL_RANK=environment["SLURM_LOCALID"], WORLD_SIZE=str(tasks)
    )


def launch(argv: list[str]) -> None:
    """Train as the arguments ask: in this process, or in several through torchrun where LLaMA-Factory would.

    `FORCE_TORCHRUN`, `NPROC_PER_NODE`, `NNODES`, `USE_RAY` and the like mean what they mean to `llamafactory-cli`. A
    process that torchrun, accelerate or `srun` has started is one of several already, and starts no others.

    Args:
        argv: the arguments after `motiontune train`.

    Raises:
        ConfigError: on a file or a key that no process could use, before any is started.
    """
    join_slurm(os.environ)
    from llamafactory import launcher

    from motiontune.llamafactory import names
    from motiontune.llamafactory.config import check_keys, clean_values, read_config, with_new_names
    from motiontune.llamafactory.install import install, run_exp

    install()
    args, classes = with_new_names(read_config(argv)), names.train_argument_classes()
    check_keys(args, classes)
    clean_values(args, classes)
    if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        sys.argv = ["motiontune", *argv]
        run_exp()
        return
    names.point_launcher_at(__file__)
    # torchrun lies beside the interpreter, which is not on the path where the environment is not activated
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    sys.argv = ["motiontune", "train", *argv]
    launcher.launch()  # which calls the tuner's `run_exp`, motiontune's own now, or torchrun on this file


if __name__ == "__main__":
    from motiontune.errors import exit_with_message
    from motiontune.terminal import run_terminal

    def train() -> None:
        """Train as one of torchrun's processes."""
        with run_terminal():
            from motiontune.llamafactory.install import run_exp

            run_exp()

    exit_with_message(train)
