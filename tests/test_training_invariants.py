"""What must hold of every training run, whatever the model and the data."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, TrainerCallback

from training import (
    BOTH,
    FAMILIES,
    MOTION,
    PROMPT,
    clips,
    dataset,
    distance,
    fresh_folder,
    history,
    keys_for,
    logged,
    losses,
    results,
    run,
    run_plain,
    sample,
    tiny,
    toy,
    weights,
)


# ---- without motion, nothing changes ----


@pytest.fixture(scope="module")
def counted():
    """Clips whose header counts their frames: LLaMA-Factory reads others differently."""
    chosen = [clip for clip in clips() if clip.suffix != ".webm"]
    captions = ("It stops.", "The square moves left quickly, then stops.", "Spinning.")
    return dataset([sample(PROMPT, captions[i % 3], videos=[clip]) for i, clip in enumerate(chosen)])


@pytest.fixture(scope="module")
def plain_runs(counted):
    """Experiments, and what LLaMA-Factory makes of them in a process of its own."""
    common = {
        **counted,
        "eval_dataset": "toy",
        "do_eval": True,
        "do_train": True,
        "compute_accuracy": True,
        "disable_shuffling": False,
        "max_steps": 3,
    }
    experiments = {
        "full": keys_for("qwen2_vl", gradient_accumulation_steps=2, per_device_train_batch_size=1, **common),
        "lora": keys_for("qwen3_vl", finetuning_type="lora", lora_dropout=0.1, **common),
        "freeze": keys_for("qwen2_5_vl", finetuning_type="freeze", freeze_trainable_layers=1, **common),
        "experts": keys_for("qwen3_vl_moe", **common),
        "linear attention": keys_for("qwen3_5_moe", finetuning_type="lora", **common),
    }
    run_plain(*experiments.values())
    return experiments


def same_run(keys, **more):
    """Repeat a plain experiment with motiontune; losses and weights must be equal. Returns both output folders."""
    plain, ours = Path(keys["output_dir"]), run(**{**keys, "output_dir": str(fresh_folder()), **more})
    for key in ("loss", "grad_norm", "learning_rate", "epoch"):
        assert losses(ours, key) == losses(plain, key)
    theirs, mine = weights(plain), weights(ours, head=False)
    assert theirs.keys() == mine.keys()
    for name, tensor in theirs.items():
        assert torch.equal(tensor, mine[name]), name
    return plain, ours


@pytest.mark.parametrize("kind", ["full", "lora", "freeze", "experts", "linear attention"])
def test_without_a_flag_a_run_is_llamafactorys_own(plain_runs, kind):
    plain, ours = same_run(plain_runs[kind])
    assert results(ours) == results(plain)
    assert not list(ours.glob("motion_head*"))


@pytest.mark.parametrize("kind", ["full", "lora", "freeze", "experts", "linear attention"])
def test_with_weight_zero_text_is_trained_as_by_llamafactory(plain_runs, kind):
    plain, ours = same_run(plain_runs[kind], **BOTH, motion_loss_weight=0)
    for key, value in results(plain).items():
        assert results(ours)[key] == pytest.approx(value, abs=1e-5), key
    head = {name: tensor for name, tensor in weights(ours).items() if name.startswith("motion_head.")}
    assert len(head) == 2 and not any(tensor.any() for tensor in head.values())


# ---- how a batch is split makes no difference ----


@pytest.fixture(scope="module")
def varied():
    """12 samples whose number of labels and share of valid motion differ, so that means of means would differ."""
    chosen = [clips()[i] for i in (0, 3, 5, 1, 3, 4, 2, 5, 3, 0, 1, 5)]
    captions = ["It stops." if i % 3 else "The circle moves slowly to the right and turns up." for i in range(12)]
    return dataset([sample(PROMPT, caption, videos=[c]) for caption, c in zip(captions, chosen, strict=True)])


def split_runs(varied, **keys):
    """The weights after 3 steps of 4 samples, as 4 x 1, 2 x 2 and 1 x 4."""
    common = {**varied, "max_steps": 3, "optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, **keys}
    return [
        run(per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, **common) for size in (4, 2, 1)
    ]


WEIGHTED = {**MOTION, "motion_confidence_weighting": True}


@pytest.mark.parametrize("objective", [BOTH, MOTION, WEIGHTED], ids=["both", "motion", "weighted"])
def test_splitting_a_batch_changes_nothing(varied, objective):
    whole, *parts = split_runs(varied, **objective, motion_loss_weight=5.0)
    before = weights(tiny())
    assert distance(before, {name: weights(whole)[name] for name in before}) > 1e-3
    for part in parts:
        assert distance(weights(whole), weights(part)) < 1e-6
        for key in ("loss", "motion_loss", "motion_valid", *(["ce_loss"] if objective is BOTH else [])):
            assert losses(part, key) == pytest.approx(losses(whole, key), rel=1e-5)


def test_means_of_micro_batches_would_differ(varied, monkeypatch):
    """The test above can fail: LLaMA-Factory's own means, and the same for motion."""
    whole, _, parts = split_runs(varied, **BOTH, motion_loss_weight=0)
    assert distance(weights(whole), weights(parts)) > 1e-4

    from motiontune.llamafactory.trainer import MotionTrainer

    original = MotionTrainer.compute_loss

    def mean_of_means(self, model, inputs, **kwargs):
        labels, valid = (inputs["labels"][:, 1:] != -100).sum(), inputs["motion_mask"].sum()
        kwargs["num_items_in_batch"] = torch.stack([labels, valid]) * self.args.gradient_accumulation_steps
        return original(self, model, inputs, **kwargs)

    monkeypatch.setattr(MotionTrainer, "compute_loss", mean_of_means)
    whole, _, parts = split_runs(varied, **MOTION, motion_loss_weight=5.0)
    assert distance(weights(whole), weights(parts)) > 1e-4


# ---- every kind of run ----


@pytest.mark.parametrize("finetuning_type", ["full", "freeze", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_run_trains_the_head_and_logs_its_losses(family, finetuning_type):
    data = dataset([sample(PROMPT, "It stops.", videos=[clip]) for clip in clips()[:2]])
    keys = {"finetuning_type": finetuning_type, "freeze_trainable_layers": 1, "learning_rate": 0.02, "max_steps": 6}
    folder = run(family, **BOTH, **data, **keys, motion_head_learning_rate=2e-3)
    assert len(losses(folder)) == 6
    # at first every token is about as likely as any other, and the head predicts no motion; then both are learned
    vocabulary = len(AutoTokenizer.from_pretrained(tiny(family)))
    assert losses(folder, "ce_loss")[0] == pytest.approx(math.log(vocabulary), abs=0.5)
    for key in ("ce_loss", "motion_loss"):
        assert 0 < losses(folder, key)[-1] < 0.75 * losses(folder, key)[0], key
    for entry in history(folder)[:6]:
        assert entry["loss"] == pytest.approx(entry["ce_loss"] + entry["motion_loss"], rel=1e-5)
        assert 0 < entry["motion_valid"] < 1
    trained = weights(folder)
    assert trained["motion_head.weight"].any() and trained["motion_head.bias"].any()
    assert all(tensor.isfinite().all() for tensor in trained.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["last_hidden", "layer:1", "projector"])
def test_every_input_of_the_head_trains_what_lies_before_it(where, family):
    folder = run(family, **MOTION, motion_head_input=where, freeze_multi_modal_projector=False, max_steps=3)
    assert not losses(folder, "ce_loss")
    assert all(value > 0 for value in losses(folder, "motion_loss"))
    before, after = weights(tiny(family)), weights(folder)
    assert after["motion_head.weight"].any()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}

    def moved(part):
        return any(part in name for name in changed)

    assert moved("merger")
    assert moved("layers.0.") == (where != "projector")
    assert moved("layers.1.") == (where == "last_hidden")
    assert not moved("lm_head")


def test_every_motion_loss_trains():
    first = {kind: run(**MOTION, motion_loss_type=kind) for kind in ("smooth_l1", "l1", "l2", "epe")}
    by_kind = {kind: losses(folder, "motion_loss")[0] for kind, folder in first.items()}
    assert len(set(by_kind.values())) == 4
    # the head says zero at first: smooth_l1 is half the square below one patch, a length is max(|x|, |y|) or more
    assert by_kind["smooth_l1"] == pytest.approx(by_kind["l2"] / 2, rel=1e-4)
    assert by_kind["l1"] < by_kind["epe"] < 2 * by_kind["l1"]


def test_the_head_has_a_learning_rate_of_its_own():
    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
            head = {id(parameter) for parameter in model.motion_head.parameters()}
            groups = optimizer.param_groups
            self.rates = [group["lr"] for group in groups if any(id(p) in head for p in group["params"])]
            self.others = {group["lr"] for group in groups} - set(self.rates)
            numbers = [id(parameter) for group in groups for parameter in group["params"]]
            assert len(numbers) == len(set(numbers))

    for keys, rate in (({}, 1e-2), ({"motion_head_learning_rate": 3e-4}, 3e-4)):
        for more in ({}, {"finetuning_type": "lora", "loraplus_lr_ratio": 4.0}):
            seen = Rates()
            run(callbacks=[seen], max_steps=1, **BOTH, **keys, **more)
            assert seen.rates == [rate]
            assert seen.others >= ({1e-3} if not more else {1e-3, 4e-3})


def test_frozen_embedding_rows_are_said_once():
    lora = {"finetuning_type": "lora", "max_steps": 1}
    with logged() as messages:
        run(**BOTH, **lora)
    notices = [message for message in messages if "embedding rows" in message]
    assert len(notices) == 1
    assert all(token in notices[0] for token in ("<|im_start|>", "<|vision_start|>", "<|video_pad|>"))
    assert "additional_target: embed_tokens,lm_head" in notices[0]
    with logged() as messages:
        run(**BOTH, **lora, additional_target="embed_tokens,lm_head")
        run(**BOTH, max_steps=1)
    assert not [message for message in messages if "embedding rows" in message]


# ---- evaluation ----


def test_evaluation_measures_text_as_llamafactory_does():
    trained = str(run(**BOTH))
    common = {"do_eval": True, "do_train": None, "eval_dataset": "toy", "dataset_dir": toy()["dataset_dir"]}
    common |= {"compute_accuracy": True, "per_device_eval_batch_size": 8, "model_name_or_path": trained}
    control = results(run(**common, **BOTH, motion_loss_weight=0))
    both = results(run(**common, **BOTH))
    assert both["eval_accuracy"] == pytest.approx(control["eval_accuracy"], abs=1e-5)
    assert both["eval_ce_loss"] == pytest.approx(control["eval_loss"], abs=1e-5)  # one batch: both are its mean
    assert both["eval_loss"] == pytest.approx(both["eval_ce_loss"] + both["eval_motion_loss"], abs=1e-5)
    assert both["eval_epe"] == pytest.approx(control["eval_epe"], abs=1e-5)
    small = results(run(**common | {"per_device_eval_batch_size": 1}, **BOTH))
    for key, value in both.items():
        assert small[key] == pytest.approx(value, abs=1e-5), key
    only = results(run(**common | {"compute_accuracy": False}, **MOTION))
    assert "eval_ce_loss" not in only
    assert only["eval_loss"] == pytest.approx(both["eval_motion_loss"], abs=1e-6)
