"""Two processes do what one does: DDP with gloo on the CPU."""

import json
from pathlib import Path

import pytest
import torch

from motiontune.evaluation.comparison import load_predictions
from processes import run_two
from training import (
    BOTH,
    MOTION,
    PROMPT,
    REPOSITORY,
    clips,
    dataset,
    distance,
    fresh_folder,
    history,
    keys_for,
    losses,
    results,
    run,
    run_command,
    sample,
    tiny,
    weights,
    write_config,
)


TEXT = sample("What happens in the video?", "It stops.")
PREDICT = {"do_predict": True, "eval_dataset": "toy", "predict_with_generate": True, "do_sample": False}


@pytest.fixture(scope="module")
def data():
    """12 samples of different length, among them text alone: one process may have motion where the other has none."""
    chosen = [clips()[i] for i in (0, 3, 5, 1, 3, 4, 2, 5, 3, 0)]
    captions = ["It stops." if i % 3 else "The circle moves slowly to the right and turns up." for i in range(10)]
    videos = [sample(PROMPT, caption, videos=[clip]) for caption, clip in zip(captions, chosen, strict=True)]
    return dataset(videos[:4] + [TEXT, TEXT] + videos[4:])


SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "max_steps": 3}
VISION = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
EXPERIMENTS = {
    "lora": {**BOTH, "finetuning_type": "lora"},
    "full": BOTH,
    "motion": MOTION,
    "motion-lora": {**MOTION, "finetuning_type": "lora"},
    "motion-projector": {**MOTION, "motion_head_input": "projector", "freeze_multi_modal_projector": False},
    "motion-layer": {**MOTION, "motion_head_input": "layer:1"},
    "accumulated": {**BOTH, "gradient_accumulation_steps": 2},
    "qwen3_vl": {**MOTION, "family": "qwen3_vl", "motion_head_input": "layer:1"},
    "vision": {**BOTH, **VISION},
    "motion-vision": {**MOTION, **VISION, "family": "qwen3_vl"},
    "tied": {**MOTION, "tied": True},
    "tied-text": {**BOTH, "tied": True},
    "weighted": {**BOTH, "motion_confidence_weighting": True, "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_two_processes_train_as_one(kind, data):
    """Motion and text, or motion alone with an output layer of its own, whose gradient DDP would wait for."""
    keys = {**SGD, **data, "motion_loss_weight": 3.0, **EXPERIMENTS[kind]}
    if keys.pop("tied", False):
        keys["model_name_or_path"] = str(tiny(tie_word_embeddings=True))
    size = 4 // keys.get("gradient_accumulation_steps", 1)
    one = run(per_device_train_batch_size=size, **keys)
    (two,) = run_two(keys_for(per_device_train_batch_size=size // 2, **keys))
    assert distance(weights(one), weights(two)) < 1e-6
    assert weights(one)["motion_head.weight"].abs().max() > 1e-4
    for key in ("loss", "motion_loss", "motion_valid", "ce_loss"):
        assert losses(two, key) == pytest.approx(losses(one, key), rel=1e-5)
    counts = json.loads((one / "train_results.json").read_text()), json.loads((two / "train_results.json").read_text())
    for key in ("clips_codec+flow", "clips_blockmatch+flow", "clips_left_out"):
        assert counts[0][key] == counts[1][key]


def test_two_processes_train_text_as_llamafactory_does(data):
    """With logits at the labelled tokens: its mean of each process's own mean, however long the answers there."""
    keys = {**SGD, **data, "do_eval": True, "do_train": True, "eval_dataset": "toy", "compute_accuracy": True}
    common = [keys_for(**keys, **more) for more in ({}, {"finetuning_type": "lora"})]
    sparse = [{**keys, "sparse_logits": True, "output_dir": str(fresh_folder())} for keys in common]
    folders = run_two(*common, *sparse)
    for plain, ours in zip(folders[:2], folders[2:], strict=True):
        assert distance(weights(plain), weights(ours)) < 1e-6
        assert losses(ours) == pytest.approx(losses(plain), rel=1e-5)
        for key, value in results(plain).items():
            assert results(ours)[key] == pytest.approx(value, abs=1e-5), key


def test_two_processes_evaluate_and_predict_as_one():
    """5 samples, 2 per batch: the last batches are filled up with samples that were there before."""
    samples = [sample(PROMPT, "It stops." * (i + 1), videos=[clip]) for i, clip in enumerate(clips()[:4])]
    data = dataset([*samples[:3], TEXT, samples[3]])
    trained = str(run(**BOTH, max_steps=4, learning_rate=0.01))
    common = {"dataset_dir": data["dataset_dir"], "eval_dataset": "toy", "model_name_or_path": trained}
    evaluate = {**common, **BOTH, "do_eval": True, "compute_accuracy": True}
    predict = {**common, **PREDICT, "train_on_video_tokens": True, "max_new_tokens": 6}
    one = [run(**evaluate), run(**predict)]
    streamed = {**evaluate, "streaming": True, "dataloader_num_workers": 1, "max_steps": 1}
    streamed["accelerator_config"] = {"dispatch_batches": False}
    two = run_two(keys_for(**evaluate), keys_for(**predict), keys_for(**streamed))

    metrics = results(one[0])
    assert {"eval_loss", "eval_ce_loss", "eval_motion_loss", "eval_accuracy", "eval_epe"} <= metrics.keys()
    for key, value in metrics.items():
        assert results(two[0])[key] == pytest.approx(value, rel=1e-6), key
        if key not in ("eval_accuracy", "eval_samples_left_out"):  # which need the length that a stream has not
            assert results(two[2])[key] == pytest.approx(value, rel=1e-6), key

    texts = [(folder / "generated_predictions.jsonl").read_text() for folder in (one[1], two[1])]
    assert len(texts[0].splitlines()) == 5 and texts[0] == texts[1]
    motion = [list(load_predictions(folder / "motion_predictions")) for folder in (one[1], two[1])]
    assert [len(each) for each in motion] == [4, 4]
    for mine, other in zip(*motion, strict=True):
        assert mine.path == other.path
        torch.testing.assert_close(torch.tensor(mine.predicted), torch.tensor(other.predicted), atol=1e-4, rtol=0)
    for key, value in results(one[1], "predict").items():
        assert results(two[1], "predict")[key] == pytest.approx(value, rel=1e-5), key


def test_one_process_or_two_resume_what_two_began(data):
    keys = {**SGD, **data, **BOTH, "save_strategy": "steps", "save_steps": 1}
    (two,) = run_two(keys_for(per_device_train_batch_size=2, **keys))
    keys["resume_from_checkpoint"] = str(two / "checkpoint-1")
    one = run(per_device_train_batch_size=4, **keys)
    (again,) = run_two(keys_for(per_device_train_batch_size=2, **keys))
    assert distance(weights(one), weights(two)) < 1e-6
    assert distance(weights(again), weights(two)) < 1e-6
    assert distance(weights(two), weights(two / "checkpoint-1")) > 1e-4
    assert losses(one)[1:] == pytest.approx(losses(two)[1:], rel=1e-5)


def test_the_file_that_torchrun_starts_runs_as_a_script():
    """Python puts a script's own folder first on the path, where modules of ours could hide others."""
    config = write_config(keys_for(motion_loss_wieght=1.0))
    result = run_command(str(REPOSITORY / "src/motiontune/llamafactory/launcher.py"), str(config), check=False)
    assert result.returncode == 2
    assert "did you mean 'motion_loss_weight'?" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_command_starts_two_processes(data):
    """As a user does it: torchrun through `motiontune train`, in folders whose names have spaces."""
    keys = {**SGD, **data, **MOTION, "eval_dataset": "toy", "do_eval": True, "do_train": True}
    one = run(per_device_train_batch_size=4, **keys)
    two = keys_for(per_device_train_batch_size=2, **keys, output_dir=str(fresh_folder() / "a folder" / "of two"))
    environment = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    run_command("-m", "motiontune.cli", "train", str(write_config(two)), env=environment)
    two = Path(two["output_dir"])
    assert distance(weights(one), weights(two)) < 1e-6
    assert len(history(two)) == len(history(one))
    for key, value in results(one).items():
        assert results(two)[key] == pytest.approx(value, rel=1e-5), key
