"""A training that is killed, wherever it is, goes on to the weights of one that was left alone."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults import Faults
from motiontune.errors import MotiontuneError
from training import BOTH, distance, fresh_folder, keys_for, losses, run, start, toy, weights


KILLS = 16
"""So many of each kind; each takes a training to the kill and another one to the end."""

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
    return {**BOTH, **often, **evaluations, "max_steps": 4}


class Undisturbed:
    """A run from its start to its end: how long it takes, and how often it changes files."""

    def __init__(self, keys: dict[str, Any]) -> None:
        self.keys, self.faults, folder = keys, Faults(), fresh_folder()
        run(**keys)  # what the first run in a process does once
        began, most = time.monotonic(), 1_000_000
        with self.faults.at(most, folder):
            run(**keys, output_dir=str(folder))
        self.seconds, self.operations = time.monotonic() - began, most - self.faults.left
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


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("how", ["before an operation on files", "at any time"])
def test_a_killed_training_goes_on(how: str, undisturbed: Undisturbed) -> None:
    """Operations are those of Python; what torch and safetensors write in C++ and Rust is met by the time alone."""
    resumed = killed = 0
    for share in np.linspace(0.02, 0.98, KILLS):
        folder = fresh_folder()
        child = os.fork()
        if child == 0:
            if how == "at any time":
                threading.Timer(share * undisturbed.seconds, kill).start()
                run(**undisturbed.keys, output_dir=str(folder))
            else:
                with undisturbed.faults.at(max(1, round(share * undisturbed.operations)), folder, kill):
                    run(**undisturbed.keys, output_dir=str(folder))
            os._exit(0)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        resumed += undisturbed.check(folder)
    print(f"killed {how}: {killed} of {KILLS}, {resumed} went on from a checkpoint")
    assert killed >= KILLS - 2 and resumed > KILLS // 2
