"""Runs in two processes with gloo on the CPU, which are forks of this one: no second import."""

import json
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import engines_on_cpu
from training import REPOSITORY, start


EXAMPLES = REPOSITORY / "examples/engines"
FSDP = {"fsdp": "full_shard auto_wrap"}
DEEPSPEED = {"use_cpu": False}  # with it ZeRO-2 is left out, and ZeRO-3 crashes
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero2": {**DEEPSPEED, "deepspeed": str(EXAMPLES / "zero2.json")},
    "zero3": {**DEEPSPEED, "deepspeed": str(EXAMPLES / "zero3.json")},
    "fsdp1": {**FSDP, "fsdp_config": str(EXAMPLES / "fsdp1.json")},
    "fsdp2": {**FSDP, "fsdp_config": str(EXAMPLES / "fsdp2.json")},
}
"""The keys that choose an engine, from the files that the examples name."""


def run_two(
    *experiments: dict[str, Any],
    engine: str = "ddp",
    fails: bool = False,
    before: "Callable[[int], None] | None" = None,
    processes: int = 2,
    **changed: Any,
) -> list[Any]:
    """Run experiments one after the other in two processes.

    Args:
        experiments: as `keys_for` makes them.
        engine: of `ENGINES`, whose keys are added to each experiment's.
        fails: return what went wrong instead of failing.
        before: called in each process, with its rank.
        processes: another number of them.
        changed: keys over those of the engine.

    Returns:
        Their output folders; with `fails` the tracebacks.
    """
    start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        problems = manager.list()
        more = (processes, port, experiments, {**ENGINES[engine], **changed}, engine, before, problems)
        workers = [context.Process(target=_work, args=(rank, *more)) for rank in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(300 + 60 * len(experiments))
            if worker.is_alive():
                worker.kill()
                problems.append("a process hangs")
        if fails:
            return list(problems)
        assert not list(problems), "\n".join(problems)
        assert all(worker.exitcode == 0 for worker in workers)
    return [Path(keys["output_dir"]) for keys in experiments]


def _work(
    rank: int,
    processes: int,
    port: int,
    experiments: list[dict[str, Any]],
    engine_keys: Any,
    engine: str,
    before: Any,
    problems: Any,
) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    try:
        engines_on_cpu.prepare(engine)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # LLaMA-Factory ends the process group with the run, and DeepSpeed keeps groups of the first one
        torch.distributed.destroy_process_group = lambda *args: None
        if before is not None:
            before(rank)
        for keys in experiments:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()
            start()({**keys, **engine_keys, "ddp_timeout": 120}, [_note_engine()])
    except BaseException:
        problems.append(traceback.format_exc())
        os._exit(1)


def _note_engine() -> Any:
    from transformers import TrainerCallback

    from motiontune.model.wrappers import base_of

    class NoteEngine(TrainerCallback):
        """Writes down what the engine has really done to the model."""

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            head = getattr(base_of(model), "motion_head", None)
            found = {
                "units": engines_on_cpu.units_of(model),
                "dtensors": sum(hasattr(each, "device_mesh") for each in model.parameters()),
                "zero3": sum(hasattr(each, "ds_id") for each in model.parameters()),
                "optimizer": type(kwargs.get("optimizer")).__name__,
                "head": head and str(next(iter(head.parameters())).dtype),
            }
            if state.is_world_process_zero:
                Path(args.output_dir).mkdir(exist_ok=True, parents=True)
                Path(args.output_dir, "engine.json").write_text(json.dumps(found))

    return NoteEngine()
