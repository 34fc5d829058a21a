"""What a good run and two bad ones log: the curves of docs/training.md.

    python benchmarks/training_curves/run.py FOLDER

A tiny Qwen2-VL with random weights learns rendered clips, as `motiontune demo` does; it takes 15 minutes on one core.
`python benchmarks/figures.py` draws the plot from `results/runs.json`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from motiontune.commands.demo import BATCH, MODEL, TRAINING
from motiontune.datasets.stories import write_synthetic
from motiontune.model.tiny import build_tiny
from motiontune.runs.folder import read_state


RESULTS = Path(__file__).parent / "results" / "runs.json"
STEPS, CLIPS, FEW, HELD_OUT = 240, 512, 16, 64
KEYS = ("epe_moving", "epe_moving_zero_motion", "eval_epe_moving", "eval_epe_moving_zero_motion", "ce_loss")
RUNS: dict[str, dict[str, Any]] = {
    "a good run": {"dataset": "many"},
    "the head does not learn": {"dataset": "many", "motion_loss_weight": 0.001, "motion_head_learning_rate": 1e-6},
    "learned by heart": {"dataset": "few"},
}


def main(folder: Path) -> None:
    """Train all runs and write what they logged."""
    for name, clips, seed in (("many", CLIPS, 0), ("few", FEW, 0), ("heldout", HELD_OUT, 1)):
        write_synthetic(folder, clips=clips, seed=seed, name=name, fps=8)
    captions = [row["messages"][1]["content"] for row in json.loads((folder / "many.json").read_text())]
    build_tiny("qwen2_vl", folder / "model", captions, **MODEL)
    found = {}
    for number, (name, changes) in enumerate(RUNS.items()):
        out = folder / f"run{number}"
        keys = TRAINING | {"stage": "sft", "do_train": True, "finetuning_type": "full", "template": "qwen2_vl"}
        keys |= {"model_name_or_path": str(folder / "model"), "dataset_dir": str(folder), "output_dir": str(out)}
        keys |= {"video_fps": 8.0, "max_steps": STEPS, "report_to": "none", "dataloader_num_workers": 0}
        keys |= {"eval_dataset": "heldout", "eval_strategy": "steps", "eval_steps": 20, "motion_pictures": 0}
        keys |= {"per_device_eval_batch_size": BATCH, "logging_steps": 10, "use_cpu": True, "plot_loss": False}
        file = folder / f"run{number}.yaml"
        file.write_text(yaml.safe_dump(keys | changes))
        subprocess.run([sys.executable, "-m", "motiontune", "train", str(file)], check=True)
        found[name] = [
            {key: round(entry[key], 4) for key in ("step", *KEYS) if key in entry}
            for entry in read_state(out).history
            if entry.keys() & set(KEYS)
        ]
    about = {"steps": STEPS, "clips": CLIPS, "few": FEW, "held_out": HELD_OUT, "changes": RUNS}
    RESULTS.write_text(json.dumps(about | {"runs": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
