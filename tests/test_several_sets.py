"""Several evaluation sets in one run: each is evaluated and predicted by itself."""

import json
from pathlib import Path

import pytest

from training import BOTH, PROMPT, clips, dataset, history, results, run, sample, start


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()


@pytest.fixture(scope="module")
def model():
    return str(run(**BOTH, max_steps=1))


@pytest.fixture(scope="module")
def sets():
    """Keys with three samples in one data set, `toy`; and its first two in `a` and its last one in `b`."""
    rows = [sample(PROMPT, "It stops.", videos=[clips()[number]]) for number in (0, 1, 3)]
    keys = dataset(rows)
    folder = Path(keys["dataset_dir"])
    info = json.loads((folder / "dataset_info.json").read_text())
    for name, part in (("a", rows[:2]), ("b", rows[2:])):
        (folder / f"{name}.json").write_text(json.dumps(part))
        info[name] = {**info["toy"], "file_name": f"{name}.json"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return {"dataset_dir": keys["dataset_dir"]}


GENERATE = {"predict_with_generate": True, "max_new_tokens": 4, "do_sample": False}


def test_each_set_is_predicted_into_a_folder_of_its_own(model, sets):
    keys = {**BOTH, **sets, **GENERATE, "do_predict": True, "model_name_or_path": model}
    together = run(**keys, eval_dataset="a,b", eval_on_each_dataset=True)
    everything = results(together, "predict")
    for name, count in (("a", 2), ("b", 1)):
        alone = run(**keys, eval_dataset=name)
        folder = together / f"predict_{name}"
        measured = results(alone, "predict")
        assert measured["predict_samples_left_out"] == everything["predict_samples_left_out"] == 0
        assert results(folder, "predict") == measured
        assert {f"predict_{name}_{key[8:]}" for key in measured} <= set(everything)
        texts = [(where / "generated_predictions.jsonl").read_text() for where in (folder, alone)]
        assert texts[0] == texts[1] and len(texts[0].splitlines()) == count
        assert len(list((folder / "motion_predictions").glob("*.npz"))) == count
    assert not (together / "generated_predictions.jsonl").exists()


def test_evaluations_while_training_generate_as_the_keys_ask(sets):
    keys = {**BOTH, **sets, **GENERATE, "dataset": "toy", "learning_rate": 0.0, "do_train": True, "do_eval": True}
    keys |= {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "per_device_eval_batch_size": 3}
    for more in ({"eval_dataset": "toy"}, {"eval_dataset": "a,b", "eval_on_each_dataset": True}):
        folder = run(**keys, **more)
        while_training = {k: v for entry in history(folder)[:-1] for k, v in entry.items() if k.startswith("eval_")}
        after = results(folder)
        scores = {key for key in after if "bleu" in key or "rouge" in key}
        assert scores and {key: while_training[key] for key in scores} == {key: after[key] for key in scores}
