"""What a run leaves on disk can be gone on from, and used without motiontune."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from motiontune.errors import ConfigError, HeadError, MotiontuneError
from motiontune.evaluation.comparison import load_predictions
from motiontune.model.checkpoint import check_adapter
from motiontune.model.head import load_head, save_head
from motiontune.training.checkpoints import FILES
from training import (
    ALL_FAMILIES,
    BOTH,
    FAMILIES,
    MOTION,
    TEMPLATES,
    distance,
    family_param,
    fresh_folder,
    logged,
    losses,
    results,
    run,
    run_command,
    tiny,
    weights,
)


# ---- resume ----

KINDS = [family_param(family, "full") for family in ALL_FAMILIES]
KINDS += [family_param(family, "lora") for family in ALL_FAMILIES if family != "qwen2_5_vl"]
KINDS += [("qwen2_vl", "freeze")]
LONG = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "disable_shuffling": False, "lora_dropout": 0.1}


@pytest.mark.parametrize(("family", "finetuning_type"), KINDS)
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(family, finetuning_type):
    keys = {**LONG, **BOTH, "finetuning_type": finetuning_type, "motion_loss_weight": 3.0}
    keys |= {"lr_scheduler_type": "cosine"}
    whole = run(family, **keys)
    # another head and other weights to start from, so that whatever is not restored shows
    resumed = run(family, **keys, resume_from_checkpoint=str(whole / "checkpoint-3"), seed=7, data_seed=42)
    for key in ("loss", "ce_loss", "motion_loss", "grad_norm", "learning_rate"):
        assert losses(resumed, key)[3:] == losses(whole, key)[3:]
    assert distance(weights(whole), weights(resumed)) == 0
    assert distance(weights(whole), weights(whole / "checkpoint-3")) > 1e-4
    assert weights(whole / "checkpoint-3")["motion_head.weight"].any()
    optimizer = torch.load(whole / "checkpoint-6" / "optimizer.pt")
    other = torch.load(resumed / "checkpoint-6" / "optimizer.pt")
    assert optimizer["state"].keys() == other["state"].keys()
    for number, state in optimizer["state"].items():
        assert all(torch.equal(state[name], other["state"][number][name]) for name in state)


@pytest.mark.parametrize(
    "length", [{"max_steps": 2}, {"max_steps": None, "num_train_epochs": 1}], ids=["steps", "epochs"]
)
def test_a_finished_run_that_is_started_again_trains_no_step(length):
    keys = {**BOTH, **length, "save_strategy": "steps", "save_steps": 2}
    whole = run(**keys)
    before, checkpoints = weights(whole), sorted(whole.glob("checkpoint-*"))
    numbers, state = results(whole, "train"), (whole / "trainer_state.json").read_text()
    with logged() as messages:
        run(**keys, output_dir=str(whole), resume_from_checkpoint=True)
    assert distance(weights(whole), before) == 0
    assert sorted(whole.glob("checkpoint-*")) == checkpoints != []
    assert results(whole, "train") == numbers and "train_loss" in numbers
    assert (whole / "trainer_state.json").read_text() == state
    assert length["max_steps"] is None or "Nothing is left to train: the checkpoint is of step 2" in messages


def test_a_run_into_the_folder_of_another_goes_on_and_says_with_which_other_keys():
    keys = {**BOTH, "max_steps": 2, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    folder = run(**keys)
    with logged() as messages:
        run(**{**keys, "learning_rate": 1e-4, "max_steps": 3}, output_dir=str(folder))
    (told,) = [message for message in messages if "the run goes on from there" in message]
    assert told.endswith("It had other keys: learning_rate 0.0001 (0.001 before), max_steps 3 (2 before).")


@pytest.fixture(scope="module", params=["full", "lora"])
def checkpoint(request):
    """A checkpoint that each test may damage a copy of, and the keys to resume it."""
    keys = {**LONG, **BOTH, "finetuning_type": request.param, "max_steps": 1, "save_steps": 1}
    return run(**keys) / "checkpoint-1", {**keys, "max_steps": 2}


def damaged(checkpoint):
    return Path(shutil.copytree(checkpoint, fresh_folder("checkpoint") / "checkpoint-1"))


def test_a_checkpoint_without_its_head_is_refused(checkpoint):
    folder, keys = checkpoint
    folder = damaged(folder)
    for name in ("motion_head.safetensors", "motion_head_config.json"):
        (folder / name).unlink()
        with pytest.raises(MotiontuneError, match="motion head|motion_head"):
            run(**keys, resume_from_checkpoint=str(folder))


def test_a_resume_without_the_motion_loss_is_refused(checkpoint):
    folder, keys = checkpoint
    with pytest.raises(ConfigError, match="the optimizer in .*checkpoint-1 is of other weights .resume with the keys"):
        run(**{**keys, "motion_loss_weight": 0.0}, resume_from_checkpoint=str(folder))
    plain = {**keys, "use_motionvector_crossentropy_loss": None, "train_on_video_tokens": None}
    for key in (str(folder), True):
        with pytest.raises(ConfigError, match="checkpoint-1 is of a run that trained motion: resume with that run's"):
            run(**plain, resume_from_checkpoint=key, output_dir=str(folder.parent))
    with pytest.raises(ConfigError, match="^resume_from_checkpoint: .* has no checkpoint: leave the key out"):
        run(**plain, resume_from_checkpoint=True)


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint):
    folder, keys = checkpoint
    folder = damaged(folder)
    file = next(file for file in folder.glob("*model.safetensors"))
    tensors = load_file(file)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, file, metadata={"format": "pt"})
    (folder / FILES).unlink()  # by which the change would be seen first
    with pytest.raises(MotiontuneError, match="cannot resume, 1 weights do not match"):
        run(**keys, resume_from_checkpoint=str(folder))


OTHER_KEYS = {
    "lora": [
        (
            {"lora_rank": 4},
            r"28 weights do not match, such as .*lora_A.weight \(\[8, 32\] there, \[4, 32\] here",
        ),
        (
            {"finetuning_type": "full"},
            "it holds an adapter, and this run trains the model's own weights: take",
        ),
        ({"hidden_size": 64}, r"weights do not match, such as .*\(\[8, 32\] there, \[8, 64\] here\)"),
    ],
    "full": [
        ({"finetuning_type": "lora"}, "it holds no adapter, and this run trains one: take another checkpoint"),
        ({"hidden_size": 64}, r"weights do not match, such as .*\[64, .*here\)"),
        ({"family": "qwen3_vl"}, "weights do not match, such as "),
        ({"optim": "sgd"}, "has no momentum, it is of another kind than `optim: sgd` .resume with the keys"),
        ({"optim": "adafactor"}, "is of another kind than `optim: adafactor` .resume with the keys"),
    ],
}


def test_a_resume_with_other_keys_is_refused(checkpoint):
    folder, keys = checkpoint
    for changed, why in OTHER_KEYS[keys["finetuning_type"]]:
        changed = {**keys, **changed}
        if size := changed.pop("hidden_size", None):
            changed["model_name_or_path"] = str(tiny(hidden_size=size))
        with pytest.raises(MotiontuneError, match=f"checkpoint-1.* {why}") as refusal:
            run(**changed, resume_from_checkpoint=str(folder))
        assert str(folder) in str(refusal.value)


def test_a_resume_of_llamafactorys_own_run_with_other_keys_is_refused():
    keys = {"finetuning_type": "lora", "max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    folder = run(**keys)
    for changed, why in (
        ({"lora_rank": 4}, "size mismatch for "),
        ({"loraplus_lr_ratio": 4.0}, "a different number of"),
    ):
        with pytest.raises(ConfigError, match=f"^resume_from_checkpoint: {folder}/checkpoint-1 is of another .*{why}"):
            run(**{**keys, **changed, "max_steps": 2}, output_dir=str(folder), resume_from_checkpoint=True)


def test_a_head_of_another_kind_is_refused(checkpoint):
    folder, keys = checkpoint
    with pytest.raises(HeadError, match="input last_hidden, .* projector"):
        run(**keys, resume_from_checkpoint=str(folder), motion_head_input="projector")


@pytest.mark.parametrize("finetuning_type", ["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_the_best_model_is_loaded_at_the_end(family, finetuning_type):
    largest = finetuning_type == "lora"  # one of them gets worse, the other better, and the best must not be the last
    evaluated = {"eval_dataset": "toy", "eval_strategy": "steps", "eval_steps": 1, "do_eval": True, "do_train": True}
    folder = run(
        family,
        **LONG | {"max_steps": 4, "save_steps": 1, "learning_rate": 0.05, "lora_dropout": 0.0},
        **BOTH,
        **evaluated,
        finetuning_type=finetuning_type,
        motion_head_learning_rate=0.5,
        load_best_model_at_end=True,
        metric_for_best_model="motion_loss",
        greater_is_better=largest,
    )
    scores = losses(folder, "eval_motion_loss")[:4]
    best = int((np.argmax if largest else np.argmin)(scores)) + 1
    assert best < 4
    assert distance(weights(folder), weights(folder / f"checkpoint-{best}")) == 0
    assert distance(weights(folder), weights(folder / "checkpoint-4")) > 1e-4
    assert results(folder)["eval_motion_loss"] == pytest.approx(scores[best - 1], rel=1e-5)


@pytest.mark.parametrize("finetuning_type", ["full", "lora"])
def test_a_second_stage_begins_with_the_head_of_the_first(finetuning_type):
    keys = {**BOTH, "finetuning_type": finetuning_type, "learning_rate": 0.02}
    first = run(**keys, max_steps=3)
    key = "adapter_name_or_path" if finetuning_type == "lora" else "model_name_or_path"
    second = run(**keys | {"learning_rate": 1e-9, "max_steps": 1, key: str(first)})
    head = weights(first)["motion_head.weight"]
    assert head.any()
    torch.testing.assert_close(weights(second)["motion_head.weight"], head, atol=1e-6, rtol=0)
    with pytest.raises(HeadError, match="scale 1.0, .* 2.0"):
        run(**keys | {"motion_scale": 2.0, key: str(first)})


# ---- what is saved loads without motiontune ----


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request):
    """A LoRA run whose adapter moves something, and the folder that it was merged into."""
    from training import start

    start()
    from motiontune.commands.export import export

    adapter = run(request.param, **BOTH, finetuning_type="lora", max_steps=4, learning_rate=0.02)
    folder = fresh_folder("exported")
    keys = {"model_name_or_path": str(tiny(request.param)), "adapter_name_or_path": str(adapter)}
    export({**keys, "template": TEMPLATES[request.param], "export_dir": str(folder), "infer_dtype": "float32"})
    return request.param, adapter, folder


def video_prompt(folder):
    """A random video and a prompt, made with the folder's own processor."""
    processor = AutoProcessor.from_pretrained(folder)
    video = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    content = [{"type": "video"}, {"type": "text", "text": "What happens?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], videos=[video], return_tensors="pt", do_sample_frames=False)


def test_the_exported_folder_is_a_plain_model(exported):
    family, adapter, folder = exported
    plain, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert plain.config.architectures == AutoModelForImageTextToText.from_pretrained(tiny(family)).config.architectures
    assert (folder / "motion_head.safetensors").read_bytes() == (adapter / "motion_head.safetensors").read_bytes()
    head = json.loads((folder / "motion_head_config.json").read_text())
    assert head == json.loads((adapter / "motion_head_config.json").read_text())

    base = AutoModelForImageTextToText.from_pretrained(tiny(family))
    batch = video_prompt(folder)
    with torch.no_grad():
        before = base(**batch).logits
        adapted = PeftModel.from_pretrained(base, adapter).eval()
        torch.testing.assert_close(plain.eval()(**batch).logits, adapted(**batch).logits, atol=1e-4, rtol=0)
        assert not torch.allclose(before, adapted(**batch).logits, atol=1e-2)
    greedy = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(plain.generate(**batch, **greedy), adapted.generate(**batch, **greedy))


PLAIN = """
import sys
sys.modules["motiontune"] = None  # whoever imports it fails
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, batch, out = sys.argv[1:]
model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
AutoProcessor.from_pretrained(folder)
batch = load_file(batch)
with torch.no_grad():
    logits = model.eval()(**batch).logits
save_file({"logits": logits, "generated": model.generate(**batch, max_new_tokens=12, do_sample=False)}, out)
"""
MOTION_FILES = {"motion_head.safetensors", "motion_head_config.json", "model.safetensors.index.json"}


def files_for_vllm(folder):
    """The weight files that vLLM's `DefaultModelLoader` takes: all, or where there is an index those that it names."""
    files = {file.name for file in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    return files & set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else files


def keys_of(folder):
    """The names of all weights that belong to the model."""
    names = []
    for file in files_for_vllm(folder):
        with safe_open(folder / file, "pt") as weights_of_file:
            names += weights_of_file.keys()
    return sorted(names)


def test_the_exported_folder_has_the_files_and_keys_of_a_plain_one(exported):
    family, _, folder = exported
    plain = fresh_folder("plain")
    AutoModelForImageTextToText.from_pretrained(tiny(family)).save_pretrained(plain)
    AutoProcessor.from_pretrained(tiny(family)).save_pretrained(plain)
    names, ours = ({file.name for file in one.iterdir()} for one in (plain, folder))
    assert ours - names == {*MOTION_FILES, "Modelfile"}  # the last is LLaMA-Factory's, for Ollama
    assert not names - ours
    assert files_for_vllm(folder) == files_for_vllm(plain) == {"model.safetensors"}
    assert keys_of(folder) == keys_of(plain)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == keys_of(plain)


def test_transformers_alone_says_what_the_adapter_says(exported):
    """In a process that cannot import motiontune."""
    family, adapter, folder = exported
    place = fresh_folder("said")
    place.mkdir()
    batch = video_prompt(folder)
    save_file({name: tensor.contiguous() for name, tensor in batch.items()}, place / "batch.safetensors")
    run_command("-c", PLAIN, str(folder), str(place / "batch.safetensors"), str(place / "out.safetensors"))
    said = load_file(place / "out.safetensors")
    adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(tiny(family)), adapter).eval()
    with torch.no_grad():
        torch.testing.assert_close(said["logits"], adapted(**batch).logits, atol=1e-4, rtol=0)
    assert torch.equal(said["generated"], adapted.generate(**batch, max_new_tokens=12, do_sample=False))


def predict(family, **keys):
    """Predict `toy()`; the texts and the motion."""
    folder = run(
        family,
        do_predict=True,
        eval_dataset="toy",
        train_on_video_tokens=True,
        predict_with_generate=True,
        do_sample=False,
        max_new_tokens=6,
        **keys,
    )
    lines = (folder / "generated_predictions.jsonl").read_text().splitlines()
    return [json.loads(line)["predict"] for line in lines], list(load_predictions(folder / "motion_predictions"))


def test_the_exported_folder_predicts_what_the_adapter_does(exported):
    family, adapter, folder = exported
    texts, motion = predict(family, adapter_name_or_path=str(adapter), finetuning_type="lora")
    merged_texts, merged_motion = predict(family, model_name_or_path=str(folder))
    assert len(texts) == len(motion) == 6
    assert merged_texts == texts
    for one, other in zip(motion, merged_motion, strict=True):
        assert np.abs(one.predicted).max() > 0.01
        # pixels: 1e-5 of a patch
        np.testing.assert_allclose(other.predicted, one.predicted, atol=1e-5 * one.grid.patch)
        np.testing.assert_array_equal(other.target, one.target)


@pytest.mark.parametrize("objective", [BOTH, MOTION], ids=["both", "motion"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fully_trained_folder_is_a_plain_model(family, objective):
    folder = run(family, **objective, freeze_vision_tower=False, freeze_multi_modal_projector=False)
    plain, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert plain.config.architectures == AutoModelForImageTextToText.from_pretrained(tiny(family)).config.architectures
    config = json.loads((folder / "config.json").read_text())
    assert "motion" not in json.dumps(config)
    assert files_for_vllm(folder) == {"model.safetensors"}
    assert not [name for name in keys_of(folder) if "motion" in name]


def test_an_index_of_an_earlier_export_does_not_stay():
    """A model that was saved in shards, and then in one file, into the same folder."""
    folder = run(**BOTH, max_steps=1)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    save_head(load_head(folder), folder)
    assert files_for_vllm(folder) == {"model.safetensors"}


def test_an_export_without_a_head_says_so():
    from training import start

    start()
    from motiontune.commands.export import export

    folder = fresh_folder("exported")
    with logged() as messages:
        export({"model_name_or_path": str(tiny()), "template": "qwen2_vl", "export_dir": str(folder)})
    assert [message for message in messages if "no motion head" in message]
    assert not list(folder.glob("motion_head*"))


def test_an_old_adapter_file_that_lacks_weights_is_refused(tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(target_modules=["0"]))
    weights = dict(get_peft_model_state_dict(model))
    torch.save(weights, tmp_path / "adapter_model.bin")
    check_adapter(model, str(tmp_path))
    del weights[sorted(weights)[0]]
    torch.save(weights, tmp_path / "adapter_model.bin")
    with pytest.raises(MotiontuneError, match="cannot resume, 1 weights do not match, .*: take another checkpoint"):
        check_adapter(model, str(tmp_path))
