"""How many times the learning rate of a LoRA should a new motion head have?

A tiny Qwen2-VL learns captions and motion of synthetic clips by full fine-tuning, so that its features are worth
something (a large model's are without that). Its head is thrown away; then a LoRA with a new head learns the same,
once for each ratio of the head's learning rate to the adapter's. Written to results/ratios.json:

    python benchmarks/head_learning_rate/run.py
"""

import json
import os
import platform
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from motiontune.datasets.stories import write_synthetic
from motiontune.llamafactory.install import run_exp
from motiontune.model.head import CONFIG_NAME, WEIGHTS_NAME
from motiontune.model.tiny import build_tiny


RATIOS = (1, 3, 10, 30, 100)
LEARNING_RATES = (1e-4, 1e-3)
STEPS = 100
RESULTS = Path(__file__).parent / "results" / "ratios.json"


def main() -> None:
    """Run all ratios and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_synthetic(work / "data", clips=384, seed=0, name="train", fps=8)
        write_synthetic(work / "data", clips=96, seed=1, name="heldout", fps=8)
        captions = [sample["messages"][1]["content"] for sample in json.loads((work / "data/train.json").read_text())]
        build_tiny("qwen2_vl", work / "model", captions)
        full = {"finetuning_type": "full", "freeze_vision_tower": False, "freeze_multi_modal_projector": False}
        full |= {"motion_head_learning_rate": 2e-2, "motion_loss_weight": 10.0, "per_device_train_batch_size": 32}
        run_exp(_keys(work, "base", work / "model", learning_rate=3e-3, max_steps=250, **full))
        (work / "base" / WEIGHTS_NAME).unlink()
        (work / "base" / CONFIG_NAME).unlink()
        rows = []
        for rate in LEARNING_RATES:
            for ratio in RATIOS:
                name = f"lora_{rate}_{ratio}"
                lora = {"finetuning_type": "lora", "lora_rank": 8, "motion_head_learning_rate": ratio * rate}
                lora |= {"eval_dataset": "heldout", "do_eval": True, "per_device_eval_batch_size": 32}
                run_exp(_keys(work, name, work / "base", learning_rate=rate, max_steps=STEPS, **lora))
                found = json.loads((work / name / "eval_results.json").read_text())
                kept = ("eval_motion_loss", "eval_ce_loss", "eval_epe_moving", "eval_epe_moving_zero_motion")
                rows.append({"learning_rate": rate, "ratio": ratio, **{key: round(found[key], 4) for key in kept}})
    machine = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    versions = {name: version(name) for name in ("llamafactory", "transformers", "torch")}
    top = {"date": date.today().isoformat(), "machine": machine, "versions": versions, "steps": STEPS}
    RESULTS.write_text(json.dumps({**top, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


def _keys(work: Path, name: str, model: Path, **keys: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": str(model),
        "stage": "sft",
        "use_motionvector_crossentropy_loss": True,
        "motion_scale": 0.1,
        "template": "qwen2_vl",
        "dataset_dir": str(work / "data"),
        "dataset": "train",
        "do_train": True,
        "output_dir": str(work / name),
        "video_fps": 8.0,
        "cutoff_len": 256,
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.05,
        "save_strategy": "no",
        "logging_steps": 20,
        "report_to": "none",
        "use_cpu": True,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 1,
        "disable_gradient_checkpointing": True,
        **keys,
    }


if __name__ == "__main__":
    main()
