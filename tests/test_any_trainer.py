"""A model with a head trains in a Trainer that knows nothing of motion, and its checkpoints have the head."""

import json
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

from motiontune.errors import ConfigError, HeadError
from motiontune.model import MotionHead, MotionHeadConfig, MotionObjective, attach_head, load_head, save_head
from motiontune.model.losses import motion_loss_sum
from motiontune.model.tiny import build_tiny
from training import CAPTIONS, REPOSITORY, clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny("qwen2_vl", tmp_path_factory.mktemp("model"), hidden_size=32, initializer_range=0.1)


@pytest.fixture(scope="module")
def batches(folder):
    """Two batches of one clip each, with an answer and with targets of which some are not valid."""
    return [make_batch(folder, seed) for seed in (0, 1)]


def make_batch(folder, seed):
    processor = AutoProcessor.from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 255, (4, 3, 56, 56), dtype=torch.uint8, generator=generator)
    text = "<|vision_start|><|video_pad|><|vision_end|>What happens?<|im_end|>It stops.<|im_end|>"
    batch = processor(text=[text], videos=[video], return_tensors="pt", do_sample_frames=False)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -3 - seed :] = batch["input_ids"][:, -3 - seed :]
    targets = torch.randn(8, 16, generator=generator)
    mask = (torch.rand(8, 8, generator=generator) < 0.3 + 0.4 * seed).repeat_interleave(2, dim=1)
    return {**batch, "labels": labels, "motion_targets": targets, "motion_mask": mask}


def make_model(folder, lora, **objective):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    if lora:
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    head = MotionHeadConfig.for_model(model.config, AutoProcessor.from_pretrained(folder))
    attach_head(model, head, MotionObjective(**objective))
    return model


def train(model, batches, out, trainer=Trainer, **arguments):
    """Two steps of gradient descent over both batches; returns the trainer."""
    settings = {"max_steps": 2, "save_steps": 1, "learning_rate": 0.05, "logging_steps": 1, "report_to": "none"}
    settings |= {"per_device_train_batch_size": 1, "remove_unused_columns": False, "use_cpu": True, "optim": "sgd"}
    settings |= {"max_grad_norm": 0.0, "lr_scheduler_type": "constant", "disable_tqdm": True}
    made = trainer(
        model=model,
        args=arguments.pop("args", TrainingArguments)(output_dir=str(out), **settings | arguments),
        train_dataset=[{"number": number} for number in range(len(batches))],
        data_collator=lambda rows: {key: value.clone() for key, value in batches[rows[0]["number"]].items()},
    )
    made.train()
    return made


def expected_loss(model, batch, weight):
    """What the loss must be, from a forward pass without motion and the head by itself."""
    plain = {key: value for key, value in batch.items() if not key.startswith("motion_")}
    hidden = model(**plain, output_hidden_states=True)
    at_video = batch["input_ids"] == model.config.video_token_id
    motion = model.motion_head(hidden.hidden_states[-1][at_video])
    motion_sum = motion_loss_sum(motion, batch["motion_targets"], batch["motion_mask"], "smooth_l1")
    return hidden.loss + weight * motion_sum / batch["motion_mask"].sum()


def test_the_loss_is_the_mean_of_the_motion_and_the_mean_of_the_text(folder, batches):
    model = make_model(folder, lora=False, weight=3.0)
    torch.nn.init.normal_(model.motion_head.weight, generator=torch.Generator().manual_seed(0))
    for batch in batches:
        output = model(**batch)
        torch.testing.assert_close(output.loss, expected_loss(model, batch, 3.0))
        assert output["loss"] is output[0] is output.loss and output.loss.requires_grad
        assert output.logits is None
    alone = make_model(folder, lora=False, with_text=False)(**batches[0])
    torch.testing.assert_close(alone.loss, alone.motion_sum / batches[0]["motion_mask"].sum())
    nothing = {**batches[0], "motion_mask": torch.zeros(8, 16, dtype=torch.bool)}
    assert make_model(folder, lora=False, with_text=False)(**nothing).loss == 0


def test_weights_of_the_vectors_are_a_weighted_mean(folder, batches):
    weights = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) * batches[0]["motion_mask"]
    output = make_model(folder, lora=False, with_text=False)(**batches[0], motion_weights=weights)
    torch.testing.assert_close(output.loss, output.motion_sum / weights.sum())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_plain_trainer_trains_the_head_and_its_checkpoints_have_it(folder, batches, lora, tmp_path):
    model, by_hand = make_model(folder, lora), make_model(folder, lora)
    trainer = train(model, batches, tmp_path)
    optimizer = torch.optim.SGD([p for p in by_hand.parameters() if p.requires_grad], lr=0.05)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    losses = []
    for number in trained_order(logged, by_hand, batches):
        loss = by_hand(**batches[number]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert logged == pytest.approx(losses, rel=1e-4)
    head, wanted = load_head(tmp_path / "checkpoint-2"), by_hand.motion_head
    torch.testing.assert_close(head.weight, wanted.weight)
    torch.testing.assert_close(head.bias, wanted.bias)
    assert head.weight.any() and head.config == wanted.config
    first = load_head(tmp_path / "checkpoint-1")
    assert first.weight.any() and not torch.equal(first.weight, head.weight)

    # loaded again, it predicts the same
    base = AutoModelForImageTextToText.from_pretrained(folder if lora else tmp_path / "checkpoint-2")
    loaded = PeftModel.from_pretrained(base, tmp_path / "checkpoint-2") if lora else base
    attach_head(loaded, head)
    torch.testing.assert_close(loaded.eval()(**batches[0]).motion, model.eval()(**batches[0]).motion)


def trained_order(logged, model, batches):
    """Which batch came first, from its loss: the sampler shuffles."""
    with torch.no_grad():
        by_batch = [model(**batch).loss.item() for batch in batches]
    first = min((0, 1), key=lambda number: abs(by_batch[number] - logged[0]))
    return first, 1 - first


def test_accumulated_batches_are_their_mean(folder, batches, tmp_path):
    model = make_model(folder, lora=False)
    expected = torch.stack([model(**batch).loss.detach() for batch in batches]).mean()
    trainer = train(model, batches, tmp_path, max_steps=1, gradient_accumulation_steps=2)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_documentations_plain_trainer(folder, tmp_path):
    """The two programs of docs/trainers.md, one after the other; an unreadable clip is a warning."""
    page = (REPOSITORY / "docs" / "trainers.md").read_text("utf-8")
    train_it, load_it = re.findall(r"```python\n(.*?)```", page, re.S)
    arguments = {"max_steps": 2, "report_to": "none", "use_cpu": True, "per_device_train_batch_size": 2}
    arguments |= {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", "disable_tqdm": True}
    samples = [(str(clip), "What happens?", text) for clip, text in zip(clips()[:3], CAPTIONS, strict=False)]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    names = {"model_name": str(folder), "folder": str(tmp_path / "out"), "samples": samples, "arguments": arguments}
    names |= {"clip": samples[0][0]}
    train_it = train_it.replace("train_dataset=samples,", "train_dataset=samples, eval_dataset=samples,")
    exec(train_it, names)
    logs = names["trainer"].state.log_history
    assert [entry["eval_loss"] for entry in logs if "eval_loss" in entry]
    trained = names["model"]
    assert trained.motion_head.weight.any()
    before, _ = names["mt"].predict(trained, names["trainer"].data_collator, names["clip"], "What?", max_new_tokens=4)
    exec(load_it.replace('"What happens?", max_new_tokens=32', '"What?", max_new_tokens=4'), names)
    assert names["text"] == before and names["model"] is not trained
    torch.testing.assert_close(names["model"].motion_head.weight, trained.motion_head.weight)
    assert names["collator"].sampling.video_fps == 4.0

    rows = [{"video": str(broken), "question": "What?", "answer": "It stops."}, samples[0]]
    with pytest.warns(UserWarning, match="left out of a batch: .*broken.mp4"):
        batch = names["trainer"].data_collator(rows)
    assert all(isinstance(value, torch.Tensor) for value in batch.values()) and not (batch["labels"][0] != -100).any()


def test_a_forward_that_leaves_the_motion_out_is_refused(folder, batches):
    """As newer versions of TRL have one: transformers' models take any keyword without a word."""
    model = make_model(folder, lora=False)
    batch = {name: value for name, value in batches[0].items() if name != "labels"}
    with pytest.raises(ConfigError, match="learn no motion: put MotionTrainerMixin"):
        model.model(**batch)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_what_else_is_saved_has_no_trace_of_the_head(folder, lora, tmp_path):
    model = make_model(folder, lora)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(str(tmp_path / "b"), state_dict={name: 2 * tensor for name, tensor in before.items()})
    assert sorted(file.name for file in (tmp_path / "a").glob("motion*")) == [
        "motion_head.safetensors",
        "motion_head_config.json",
    ]
    names = [name for file in tmp_path.glob("a/*model.safetensors") for name in load_file(file)]
    assert names and not [name for name in names if "motion" in name]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    model.save_pretrained(tmp_path / "c", is_main_process=False)
    assert not list((tmp_path / "c").glob("motion*"))


def test_a_gathered_state_is_what_is_saved(folder, tmp_path):
    """An engine that shards the parameters gives the whole state to `save_pretrained`, which takes the head out."""
    for lora in (False, True):
        model = make_model(folder, lora)
        state = model.state_dict()
        key = next(name for name in state if name.endswith("motion_head.weight"))
        state[key] = torch.full_like(state[key], 7.0)
        model.save_pretrained(tmp_path / str(lora), state_dict=state)
        assert (load_head(tmp_path / str(lora)).weight == 7).all()
        assert not model.get_submodule(key.removesuffix(".weight")).weight.any()


def test_other_adapters_are_saved_as_ever(folder, tmp_path):
    """A model without a head, in a process that has attached one elsewhere."""
    make_model(folder, lora=True)
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    get_peft_model(plain, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").is_file() and load_head(tmp_path) is None


# ---- the saved head ----


def test_a_head_of_before_still_loads(tmp_path, caplog):
    """Until 0.1 the direction was called `target`."""
    head = MotionHead(MotionHeadConfig(8, 14, 2, 2, input="layer:1", direction="future", scale=2.0))
    torch.nn.init.normal_(head.weight)
    save_head(head, tmp_path)
    saved = json.loads((tmp_path / "motion_head_config.json").read_text())
    assert saved["direction"] == "future" and "target" not in saved
    saved["target"] = saved.pop("direction")
    (tmp_path / "motion_head_config.json").write_text(json.dumps(saved))
    loaded = load_head(tmp_path)
    assert loaded.config == head.config and torch.equal(loaded.weight, head.weight)
    [notice] = [record.getMessage() for record in caplog.records if record.name.startswith("motiontune")]
    assert "`target`" in notice and "`direction`" in notice and str(tmp_path) in notice
    save_head(loaded, tmp_path)
    assert json.loads((tmp_path / "motion_head_config.json").read_text())["direction"] == "future"


def test_a_head_with_an_unknown_key_is_refused(tmp_path):
    save_head(MotionHead(MotionHeadConfig(8, 14, 2, 2)), tmp_path)
    saved = json.loads((tmp_path / "motion_head_config.json").read_text())
    (tmp_path / "motion_head_config.json").write_text(json.dumps(saved | {"colour": "red"}))
    with pytest.raises(HeadError, match="cannot be read: .*colour"):
        load_head(tmp_path)
