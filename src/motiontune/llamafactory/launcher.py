"""The file that torchrun starts in each process, and how it is started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from motiontune.errors import ConfigError, MotiontuneError


MISTAKE = "MOTIONTUNE_MISTAKE"
"""The variable that names a file, for a process of torchrun to write the user's mistake to that ended it."""


def join_slurm(environment: MutableMapping[str, str]) -> None:
    """Tell the tasks of one `srun` of each other, so that they become one run; changed in place.

    Nothing happens where another launcher has done so, or is to be started in each task (`NNODES`).

    Raises:
        ConfigError: where they cannot find each other. Each would train for itself, all into one folder.
    """
    tasks, nodes = _count(environment, "SLURM_STEP_NUM_TASKS"), _count(environment, "NNODES")
    if tasks == 1 or "RANK" in environment or nodes > 1:
        return
    if "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
        raise ConfigError(
            f"srun has started {tasks} tasks that cannot find each other: export MASTER_ADDR (the first node) and "
            f"MASTER_PORT before it, or start one task per node with NNODES and NODE_RANK; see docs/engines.md"
        )
    one_device = environment.get("CUDA_VISIBLE_DEVICES", ",").isdecimal()  # srun --gpus-per-task=1
    local = "0" if one_device else environment["SLURM_LOCALID"]
    environment.update(RANK=environment["SLURM_PROCID"], LOCAL_RANK=local, WORLD_SIZE=str(tasks))


def _count(environment: MutableMapping[str, str], name: str) -> int:
    number = environment.get(name, "1")
    if not number.isdecimal() or not int(number):
        elastic = ": for a number that may change set RDZV_ID, MIN_NNODES and MAX_NNODES" if name == "NNODES" else ""
        raise ConfigError(f"{name} must be a number above 0, and is {number!r}{elastic}")
    return int(number)


def _devices() -> str:
    from llamafactory.extras.misc import get_device_count

    return str(max(get_device_count(), 1))


def launch(argv: list[str]) -> None:
    """Train as the arguments ask: in this process, or in several through torchrun where LLaMA-Factory would.

    `FORCE_TORCHRUN`, `NPROC_PER_NODE`, `NNODES`, `USE_RAY` and the like mean what they mean to `llamafactory-cli`. A
    process that torchrun, accelerate or `srun` has started is one of several already, and starts no others. Of several
    nodes each starts torchrun, with one GPU, too.

    Args:
        argv: the arguments after `motiontune train`.

    Raises:
        ConfigError: on a file or a key that no process could use, before any is started.
        MotiontuneError: if a user's mistake ended one of torchrun's processes.
        subprocess.CalledProcessError: if something else did.
    """
    join_slurm(os.environ)
    from llamafactory import launcher

    from motiontune.llamafactory import names
    from motiontune.llamafactory.config import check_keys, clean_values, with_new_names
    from motiontune.llamafactory.install import install, run_exp
    from motiontune.runs.configuration import read_config

    install()
    args, classes = with_new_names(read_config(argv)), names.train_argument_classes()
    check_keys(args, classes)
    clean_values(args, classes)
    # to a process that is to be the only one accelerate tells no rank
    if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys() or "ACCELERATE_USE_CPU" in os.environ:
        sys.argv = ["motiontune", *argv]
        run_exp()
        return
    if _count(os.environ, "NNODES") > 1 and "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            "NNODES: the nodes cannot find each other: set MASTER_ADDR (the first node) and MASTER_PORT on each, and "
            "NODE_RANK"
        )
    if _count(os.environ, "NNODES") > 1 or "RDZV_ID" in os.environ:
        # else a node with one GPU, or none, would train for itself
        os.environ |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": os.environ.get("NPROC_PER_NODE") or _devices()}
    # torchrun lies beside the interpreter, which is not on the path where the environment is not activated
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    sys.argv = ["motiontune", "train", *argv]
    with names.torchrun_by(lambda options, environment: _torchrun([*options, __file__, *argv], environment)):
        launcher.launch()  # which calls the tuner's `run_exp`, motiontune's own now, or torchrun


def _torchrun(words: list[str], environment: dict[str, str]) -> None:
    """Run torchrun until it ends. A signal to end this process goes to it, so that no process trains on alone."""
    with tempfile.TemporaryDirectory(prefix="motiontune-torchrun-") as folder:
        mistake = Path(folder) / "mistake.txt"
        process = subprocess.Popen(words, env={**environment, MISTAKE: str(mistake)}, preexec_fn=_end_with_parent)
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:  # which the terminal has sent to all of them
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        if code and mistake.exists():  # torchrun's own traceback has come after it
            raise MotiontuneError(mistake.read_text(encoding="utf-8"))
    if code:
        raise subprocess.CalledProcessError(code, words)


def _end_with_parent() -> None:
    """Let this process be told to end when its parent is killed, where the system can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def train() -> None:
    """Train as one of torchrun's processes.

    Raises:
        MotiontuneError: on a user's mistake, which is also left for the process that has started torchrun.
    """
    from motiontune.terminal import run_terminal

    try:
        with run_terminal():
            from motiontune.llamafactory.install import run_exp

            run_exp()
    except MotiontuneError as error:
        if MISTAKE in os.environ:
            part = Path(f"{os.environ[MISTAKE]}.{os.getpid()}")
            part.write_text(str(error), encoding="utf-8")
            part.replace(os.environ[MISTAKE])
        raise


if __name__ == "__main__":
    from motiontune.errors import exit_with_message

    exit_with_message(train)
