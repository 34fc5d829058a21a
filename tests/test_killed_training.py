"""A training that is killed, wherever it is, goes on to the weights of one that was left alone."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults import Faults
from motiontune.errors import MotiontuneError
from training import BOTH, distance, fresh_folder, keys_for, losses, run, start, toy, weights


KILLS, STEPS = 16, 4
"""Each kill takes a training up to it and another one to the end."""

pytestmark = pytest.mark.slow


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """Checkpoints, evaluations and pictures at each step, and older checkpoints are deleted."""
    often = {
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    evaluations = {"eval_dataset": toy()["dataset"], "eval_strategy": "steps", "eval_steps": 1}
    return {**BOTH, **often, **evaluations, "max_steps": STEPS}


class Undisturbed:
    """A run from its start to its end: how long it takes, and how often it changes files."""

    def __init__(self, keys: dict[str, Any]) -> None:
        self.keys, self.faults, folder = keys, Faults(), fresh_folder()
        run(**keys)  # what the first run in a process does once
        most = 1_000_000
        with self.faults.at(most, folder):
            run(**keys, output_dir=str(folder))
        self.operations = most - self.faults.left
        self.weights, self.losses = weights(folder), losses(folder)

    def check(self, folder: Path) -> bool:
        """Go on with a run in a folder, as its user would; whether there was a checkpoint to go on from."""
        resumed = True
        try:
            start()(keys_for(**self.keys, output_dir=str(folder), resume_from_checkpoint=True))
        except MotiontuneError as error:
            assert "checkpoint" in str(error) and "\n" not in str(error)
            resumed = False
            start()(keys_for(**self.keys, output_dir=str(folder), overwrite_output_dir=True))
        assert distance(weights(folder), self.weights) == 0 and losses(folder) == self.losses
        shutil.rmtree(folder)
        return resumed


@pytest.fixture(scope="module")
def undisturbed(keys: dict[str, Any]) -> Undisturbed:
    return Undisturbed(keys)


def killed_run(keys: dict[str, Any], folder: Path, watch: Callable[[int], None], fault: Any = None) -> bool:
    """Train in a child process, which `fault` or `watch` kills; whether it was killed."""
    child = os.fork()
    if child == 0:
        with fault or contextlib.nullcontext():
            run(**keys, output_dir=str(folder))
        os._exit(0)
    watch(child)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.timeout(3000)
def test_a_training_killed_before_an_operation_on_files_goes_on(undisturbed: Undisturbed) -> None:
    """Operations are those of Python: what torch and safetensors write in C++ and Rust is met below."""
    resumed = killed = 0
    for share in np.linspace(0.02, 0.98, KILLS):
        folder = fresh_folder()
        fault = undisturbed.faults.at(max(1, round(share * undisturbed.operations)), folder, kill)
        killed += killed_run(undisturbed.keys, folder, lambda child: None, fault)
        resumed += undisturbed.check(folder)
    print(f"{killed} of {KILLS} killed, {resumed} went on from a checkpoint")
    assert killed == KILLS and resumed > KILLS // 2


@pytest.mark.timeout(3000)
def test_a_training_killed_while_it_saves_goes_on(undisturbed: Undisturbed) -> None:
    resumed = killed = 0
    for step in range(1, STEPS + 1):
        for wait in (0.0, 0.01, 0.03, 0.1):
            folder = fresh_folder()

            def watch(child: int, checkpoint: Path = folder / f"checkpoint-{step}", wait: float = wait) -> None:
                while not checkpoint.exists() and Path(f"/proc/{child}").exists():
                    time.sleep(0.001)
                time.sleep(wait)
                os.kill(child, signal.SIGKILL)

            killed += killed_run(undisturbed.keys, folder, watch)
            resumed += undisturbed.check(folder)
    print(f"{killed} of {4 * STEPS} killed, {resumed} went on from a checkpoint")
    assert killed == 4 * STEPS and resumed >= 4 * (STEPS - 1)
