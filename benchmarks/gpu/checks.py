"""Whole runs of tiny models: what holds on a CPU must hold on the GPU. One family per process.

The runs are made as the tests make them (`tests/training.py`): `run_exp` with the keys of a YAML.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from internals import PREDICTIONS_FOLDER, export
from rows import Rows

import training


FLOAT32_BOUND, BFLOAT16_BOUND = 1e-4, 3e-2  # of the first step's losses and gradient norm, relative, to the CPU's
SECOND_STEP = 3  # times these: the head starts from zero, so the motion loss says something from the second step on
NUMBERS = ("loss", "ce_loss", "motion_loss", "grad_norm")
LONG = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "disable_shuffling": False, "bf16": False}
METHODS = ("lora", "full", "freeze")


def numbers_of(folder: Path) -> dict[str, list[float]]:
    """What a run logged at each step."""
    return {key: training.losses(folder, key) for key in NUMBERS}


def reference(family: str) -> None:
    """Print the numbers of a float32 run on the CPU; runs in a process that sees no GPU."""
    print(json.dumps(numbers_of(training.run(family, **training.BOTH, max_steps=2))))


def check_family(rows: Rows, family: str, device: str) -> None:
    """Check all of a family."""
    command = [sys.executable, Path(__file__).with_name("run.py"), "--part", "reference", "--family", family]
    printed = tempfile.TemporaryFile("w+")  # no pipe: nobody reads it until the run is over
    on_cpu = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, stdout=printed)
    training.start()
    where = {"use_cpu": device == "cpu", "bf16": True}
    folders = {}

    for method in METHODS:
        with rows.checking(f"{family} {method}: three steps in bf16") as found:
            folder = training.run(
                family, **where, **training.BOTH, finetuning_type=method, max_steps=3, freeze_trainable_layers=1
            )
            folders[method] = folder
            numbers, trained = numbers_of(folder), training.weights(folder)
            found |= numbers
            assert all(math.isfinite(value) for values in numbers.values() for value in values)
            assert all(len(values) == 3 for values in numbers.values())
            assert all(tensor.isfinite().all() for tensor in trained.values())
            assert trained["motion_head.weight"].any() and trained["motion_head.bias"].any()
            if method == "lora":
                changed = max(float(one.float().abs().max()) for name, one in trained.items() if "lora_B" in name)
            else:
                before = training.weights(training.tiny(family))
                changed = training.distance(before, {name: trained[name] for name in before})
            found["largest_change"] = changed
            assert changed > 1e-4

    with rows.checking(f"{family} motion only: three steps in bf16") as found:
        folder = training.run(family, **where, **training.MOTION, finetuning_type="lora", max_steps=3)
        found["motion_loss"] = training.losses(folder, "motion_loss")
        assert all(math.isfinite(value) for value in found["motion_loss"]) and len(found["motion_loss"]) == 3

    with rows.checking(f"{family} saved LoRA: evaluated, predicted") as found:
        saved = {"adapter_name_or_path": str(folders["lora"]), "finetuning_type": "lora"}
        _predict(family, {**where, **saved}, found)

    with rows.checking(f"{family} saved whole model: evaluated, predicted") as found:
        _predict(family, {**where, "model_name_or_path": str(folders["full"])}, found)

    with rows.checking(f"{family} LoRA exported") as found:
        folder = training.fresh_folder("exported")
        template = training.TEMPLATES[family]
        keys = {"model_name_or_path": str(training.tiny(family)), "adapter_name_or_path": str(folders["lora"])}
        export({**keys, "template": template, "export_dir": str(folder), "infer_dtype": "float32"})
        found["files"] = sorted(path.name for path in folder.iterdir())
        assert {"model.safetensors", "motion_head.safetensors"} <= set(found["files"])
        found["change"] = training.distance(
            training.weights(training.tiny(family)), training.weights(folder, head=False)
        )
        assert found["change"] > 0

    expected: dict[str, list[float]] = {}
    for precision, bound in (("float32", FLOAT32_BOUND), ("bfloat16", BFLOAT16_BOUND)):
        with rows.checking(f"{family} two steps in {precision} as on the CPU in float32") as found:
            keys = {**where, "bf16": precision == "bfloat16", "max_steps": 2}
            found["here"] = numbers_of(training.run(family, **keys, **training.BOTH))
            if precision == "float32":
                on_cpu.wait(timeout=90)
                printed.seek(0)
                expected = json.loads(printed.read().splitlines()[-1])
            assert expected, "there is no reference: the row before this one has the reason"
            found |= {"cpu": expected, "bound": bound}
            off = {
                key: [abs(here / there - 1) for here, there in zip(found["here"][key], expected[key], strict=True)]
                for key in NUMBERS
            }
            found["relative_difference"] = off
            assert all(first <= bound and second <= SECOND_STEP * bound for first, second in off.values()), off

    for method in ("lora", "full"):
        with rows.checking(f"{family} {method}: resumed as uninterrupted") as found:
            _resume(family, {**where, **LONG, "finetuning_type": method}, found)

    with rows.checking(f"{family} neat_packing: a packed step is the step of its samples") as found:
        # in bf16: LLaMA-Factory's mask of packed rows is in half precision on a GPU, float32 attention refuses it
        keys = {**where, "max_steps": 1, **training.BOTH}
        packed = training.run(family, **keys, neat_packing=True, per_device_train_batch_size=1)
        apart = training.run(family, **keys, per_device_train_batch_size=6)
        for key in ("loss", "motion_loss"):
            found[key] = training.losses(packed, key)[0], training.losses(apart, key)[0]
            assert abs(found[key][0] / found[key][1] - 1) < BFLOAT16_BOUND


def _predict(family: str, keys: dict[str, Any], found: dict[str, Any]) -> None:
    toy = training.toy(4)
    data = {"dataset_dir": toy["dataset_dir"], "eval_dataset": toy["dataset"], "train_on_video_tokens": True}
    evaluated = training.run(family, **keys, **data, **training.BOTH, do_eval=True, do_train=None)
    found["eval"] = training.results(evaluated)
    assert math.isfinite(found["eval"]["eval_loss"]) and math.isfinite(found["eval"]["eval_epe"])
    asked = {"do_predict": True, "predict_with_generate": True, "do_sample": False, "max_new_tokens": 8}
    out = training.run(family, **keys, **data, **asked)
    lines = (out / "generated_predictions.jsonl").read_text("utf-8").splitlines()
    written = list((out / PREDICTIONS_FOLDER).glob("*.npz"))
    found |= {"answers": len(lines), "motion_predictions": len(written)}
    found["predict_epe"] = training.results(out, "predict")["predict_epe"]
    assert len(lines) == len(written) == 4
    bound = 0.05 * max(1.0, found["eval"]["eval_epe"])
    assert abs(found["predict_epe"] - found["eval"]["eval_epe"]) < bound


def _resume(family: str, keys: dict[str, Any], found: dict[str, Any]) -> None:
    """A GPU's sums may come in another order each time, so a run is also compared with itself."""
    keys = {**keys, **training.BOTH, "lora_dropout": 0.1}
    whole, again = (training.run(family, **keys) for _ in range(2))
    resumed = training.run(family, **keys, resume_from_checkpoint=str(whole / "checkpoint-2"), seed=7, data_seed=42)
    after = training.weights(whole)
    found["two_whole_runs"] = training.distance(after, training.weights(again))
    found["resumed"] = training.distance(after, training.weights(resumed))
    found["two_steps"] = training.distance(after, training.weights(whole / "checkpoint-2"))
    found["losses"] = training.losses(whole), training.losses(resumed)
    assert found["resumed"] <= max(3 * found["two_whole_runs"], 1e-6), found
    assert found["two_steps"] > 1e-4
