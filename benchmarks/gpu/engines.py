"""Engines on one GPU: DeepSpeed's ZeRO-2 and ZeRO-3, FSDP2, and torch.compile, each held against no engine.

Each engine trains in processes of its own, started as torchrun would start them: one on a GPU. In a
rehearsal on the CPU FSDP2 has two, where `tests/engines_on_cpu.py` makes it shard. A last process without an engine
compares what they saved, and predicts from it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from internals import PREDICTIONS_FOLDER, base_of
from rows import Rows

import engines_on_cpu
import training


HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples/engines"
ENGINES: dict[str, dict[str, Any]] = {
    "none": {},
    "zero2": {"deepspeed": str(EXAMPLES / "zero2.json")},
    "zero3": {"deepspeed": str(EXAMPLES / "zero3.json")},
    "fsdp2": {"fsdp": "full_shard auto_wrap", "fsdp_config": str(EXAMPLES / "fsdp2.json")},
    "compile": {"torch_compile": True},
}
ALONE = ("none", "compile")
METHODS = ("lora", "full")
PRECISIONS = ("float32", "bfloat16")
STEPS = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "motion_loss_weight": 3.0}
FLOAT32_BOUND = 1e-4
"""Of the weights after three steps in float32, absolute, and of the losses, relative: sums come in another order."""
BFLOAT16_BOUND = 2e-2
"""Of the losses in bf16, relative: DeepSpeed computes with weights in bf16, LLaMA-Factory alone with float32 ones."""
SAMPLES = 8
FOLDER = "MOTIONTUNE_ENGINES"
"""The environment variable that names the folder in which all processes work."""
HIDDEN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def check_engines(rows: Rows, device: str, deadline: float, names: list[str]) -> None:
    """Check engines: all at once on a GPU, one after the other on the CPU.

    Args:
        rows: results.
        device: "cuda" or "cpu".
        deadline: seconds since 1970, at which what still trains is ended.
        names: of `ENGINES`; "none" comes first.
    """
    out = rows.path.parent
    os.environ[FOLDER] = tempfile.mkdtemp()  # what is trained is no result
    _write_data(Path(os.environ[FOLDER]))
    running = {}
    for name in ["none", *(name for name in names if name != "none")]:
        running[name] = _start(name, device, out)
        if device == "cpu":
            _wait(rows, {name: running[name]}, deadline)
    _wait(rows, running, deadline)
    (last,) = _start("compare", device, out)
    try:
        last.wait(max(1.0, deadline + 45 - time.time()))
    finally:
        last.kill()
        shutil.rmtree(os.environ[FOLDER], ignore_errors=True)


def _start(name: str, device: str, out: Path) -> "list[subprocess.Popen[Any]]":
    number = 2 if device == "cpu" and name == "fsdp2" else 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(HERE / "run.py"), "--part", "engine", "--engine", name, "--device", device]
    command += ["--out", str(out)]
    processes = []
    for rank in range(number):
        environment = {key: value for key, value in os.environ.items() if key not in HIDDEN}
        if name in ENGINES and name not in ALONE:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
            environment |= {"LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            environment["DS_ACCELERATOR"] = device
        if name.startswith("zero"):
            path = [environment.get("DEEPSPEED_SITE", ""), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(each for each in path if each)
            if device == "cuda" and not _has_toolkit():
                environment["CUDA_HOME"] = str(_stand_in(Path(os.environ[FOLDER], "cuda")))
        with (out / f"engine-{name}-{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return processes


def _has_toolkit() -> bool:
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return any(place and Path(place, "bin/nvcc").exists() for place in places) or shutil.which("nvcc") is not None


def _stand_in(folder: Path) -> Path:
    """Stand in for the CUDA toolkit: importing DeepSpeed asks `nvcc` for its version, though nothing is compiled."""
    import torch

    nvcc = folder / "bin/nvcc"
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    nvcc.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {torch.version.cuda}, V{torch.version.cuda}"\n')
    nvcc.chmod(0o755)
    return folder


def _wait(rows: Rows, running: "dict[str, list[subprocess.Popen[Any]]]", deadline: float) -> None:
    for name, processes in running.items():
        for rank, process in enumerate(processes):
            try:
                if process.wait(max(1.0, deadline - time.time())):
                    log = (rows.path.parent / f"engine-{name}-{rank}.log").read_text("utf-8", "replace")
                    rows.add(
                        "error", f"engine {name}", error=f"ended with {process.returncode}", traceback=log[-4000:]
                    )
            except subprocess.TimeoutExpired:
                process.kill()
                rows.add("not run", f"engine {name}", reason="took too long and was ended: its rows are those it had")


def _write_data(folder: Path) -> None:
    """Make the model and the data set that all processes share."""
    training.session_folder = lambda: folder
    training.fresh_folder = lambda name="run": folder / name
    data = {"model_name_or_path": str(training.tiny()), **training.toy(SAMPLES)}
    (folder / "data.json").write_text(json.dumps(data))


def run_engine(out: Path, name: str, device: str) -> None:
    """Train with one engine, in this process, and write what came of it beside the data."""
    if name == "compare":
        compare(Rows(out), device)
        return
    if device == "cpu":
        engines_on_cpu.prepare(name)
    import torch

    training.start()
    torch.distributed.destroy_process_group = lambda *args: None  # DeepSpeed keeps groups of the first run
    folder, main = Path(os.environ[FOLDER]), os.environ.get("RANK", "0") == "0"
    data = json.loads((folder / "data.json").read_text())
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for precision in PRECISIONS:
        for method in METHODS:
            run = folder / f"{name}-{method}-{precision}"
            keys: dict[str, Any] = {
                **training.BOTH,
                **STEPS,
                **data,
                "finetuning_type": method,
                "output_dir": str(run),
            }
            keys |= {"bf16": precision == "bfloat16", "per_device_train_batch_size": 4 // processes}
            keys |= {"do_train": True, "do_eval": True, "eval_dataset": data["dataset"], "ddp_timeout": 120}
            keys |= {"save_strategy": "steps", "save_steps": 2, "use_cpu": device == "cpu" and name in ALONE}
            seen: dict[str, Any] = {}
            started = time.perf_counter()
            try:
                training.run(callbacks=[_look(seen)], **keys, **ENGINES[name])
            except Exception as error:
                seen |= {
                    "error": f"{type(error).__name__}: {error}"[:1000],
                    "traceback": traceback.format_exc()[-6000:],
                }
            seen["training_seconds"] = round(time.perf_counter() - started, 2)
            if main:
                run.with_suffix(".json").write_text(json.dumps(seen))
            elif "error" in seen:
                print(seen["traceback"], flush=True)


def _look(seen: dict[str, Any]) -> Any:
    """A callback that finds out what the engine has really done to the model, once training begins."""
    from transformers import TrainerCallback

    class Look(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            parameters = list(model.parameters())
            seen["dtensors"] = sum(hasattr(each, "device_mesh") for each in parameters)
            seen["zero3"] = sum(hasattr(each, "ds_id") for each in parameters)
            seen["optimizer"] = type(kwargs.get("optimizer")).__name__
            seen["head_dtype"] = str(next(base_of(model).motion_head.parameters()).dtype)

    return Look()


def compare(rows: Rows, device: str) -> None:
    """Hold what each engine logged and saved against no engine, and predict from it, without an engine."""
    folder = Path(os.environ[FOLDER])
    data = json.loads((folder / "data.json").read_text())
    training.start()
    for name in ENGINES:
        for precision in PRECISIONS:
            for method in METHODS:
                run, plain = (folder / f"{one}-{method}-{precision}" for one in (name, "none"))
                if not run.with_suffix(".json").exists():
                    continue
                with rows.checking(
                    f"engine {name} {method} {precision}: trained, evaluated, saved, predicted"
                ) as found:
                    found |= json.loads(run.with_suffix(".json").read_text())
                    assert "error" not in found, found.pop("error")
                    _against(name, run, plain, precision, found)
                    _predict(run, method, precision, device, data, found)


def _against(name: str, run: Path, plain: Path, precision: str, found: dict[str, Any]) -> None:
    if name == "zero3":
        assert found["zero3"] > 0, "ZeRO-3 has split nothing"
    if name == "fsdp2":
        assert found["dtensors"] > 0, "FSDP2 has split nothing"
    bound = FLOAT32_BOUND if precision == "float32" else BFLOAT16_BOUND
    mine, other = training.weights(run), training.weights(plain)
    numbers = [
        [*training.losses(folder), training.results(folder)["eval_loss"], training.results(folder)["eval_epe"]]
        for folder in (run, plain)
    ]
    off = [abs(here / there - 1) for here, there in zip(*numbers, strict=True)]
    found |= {"losses": numbers[0][:3], "eval_loss": numbers[0][3], "eval_epe": numbers[0][4], "bound": bound}
    found |= {"relative_difference": off, "weights_apart": training.distance(mine, other)}
    found["head"] = list(mine["motion_head.weight"].shape)
    assert len(off) == 5 and mine["motion_head.weight"].any()
    assert training.weights(run / "checkpoint-2")["motion_head.weight"].any()
    assert max(off) <= bound, off
    assert precision != "float32" or found["weights_apart"] <= bound


def _predict(run: Path, method: str, precision: str, device: str, data: dict[str, Any], found: dict[str, Any]) -> None:
    where = {"adapter_name_or_path" if method == "lora" else "model_name_or_path": str(run)}
    keys = {"model_name_or_path": data["model_name_or_path"], "dataset_dir": data["dataset_dir"], **where}
    keys |= {"finetuning_type": method, "use_cpu": device == "cpu", "bf16": precision == "bfloat16"}
    keys |= {"do_predict": True, "train_on_video_tokens": True, "predict_with_generate": True, "do_sample": False}
    keys |= {"max_new_tokens": 8, "output_dir": f"{run}-predicted", "eval_dataset": data["dataset"]}
    out = training.run(**keys)
    found["predict_epe"] = training.results(out, "predict")["predict_epe"]
    found["predict_bound"] = 1e-3 if precision == "float32" else BFLOAT16_BOUND * max(1.0, found["eval_epe"])
    assert len(list((out / PREDICTIONS_FOLDER).glob("*.npz"))) == SAMPLES
    assert abs(found["predict_epe"] - found["eval_epe"]) < found["predict_bound"], found["predict_epe"]
