"""Writes tests/data/ptlflow_metrics.json: what ptlflow's own metrics say of a few made-up fields.

ptlflow needs other versions of torch and OpenCV than motiontune pins, so it is not installed with the tests. Run this
in an environment of its own with `pip install ptlflow`; the committed file was made with ptlflow 0.4.2.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch


HERE = Path(__file__).parent


def fields(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and target [1, 12, 20, 2] in pixels, with errors and speeds of all sizes, and valid [1, 12, 20]."""
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 1, (1, 12, 20, 2)) * 10 ** rng.uniform(-1, 2, (1, 12, 20, 1))
    predicted = target + rng.normal(0, 1, target.shape) * 10 ** rng.uniform(-1, 1, (1, 12, 20, 1))
    return predicted.astype(np.float32), target.astype(np.float32), rng.random((1, 12, 20)) < 0.8


def main() -> None:
    """Measure three clips by themselves."""
    package = importlib.util.find_spec("ptlflow")
    assert package is not None and package.origin is not None
    file = Path(package.origin).parent / "utils" / "flow_metrics.py"  # by itself: the package imports all its models
    spec = importlib.util.spec_from_file_location("flow_metrics", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = []
    for seed in range(3):
        predicted, target, valid = (torch.from_numpy(array) for array in fields(seed))
        metrics = module.FlowMetrics()
        targets = {"flows": target.permute(0, 3, 1, 2), "valids": valid[:, None].float()}
        metrics.update({"flows": predicted.permute(0, 3, 1, 2)}, targets)
        values = {key: float(value) for key, value in metrics.compute().items()}
        rows.append({"seed": seed, **{key: values[key] for key in ("epe", "px1", "px3", "px5", "flall")}})
    (HERE / "data").mkdir(exist_ok=True)
    (HERE / "data" / "ptlflow_metrics.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
