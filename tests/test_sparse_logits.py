"""`lm_head` at the labelled tokens alone trains what LLaMA-Factory trains, whatever the model and the data."""

import sys
import types

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from commands import refused_run
from motiontune.model import losses as losses_module
from motiontune.model.families import FAMILIES as ENTRIES
from motiontune.model.wrappers import base_of
from training import (
    BOTH,
    FAMILIES,
    MOTION,
    PROMPT,
    clips,
    dataset,
    distance,
    fresh_folder,
    losses,
    results,
    run,
    sample,
    session_folder,
    start,
    tiny,
    weights,
)


SPARSE = {"sparse_logits": True}
SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "max_steps": 3}
LORA = {"finetuning_type": "lora", "learning_rate": 1.0}
EVAL = {"do_train": True, "do_eval": True, "eval_dataset": "toy", "compute_accuracy": True}


@pytest.fixture(scope="module")
def mixed():
    """Text alone, an image, one video and two turns; short and long answers."""
    start()
    picture = session_folder() / "picture.png"
    assert cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (56, 56, 3), np.uint8))
    long = "The circle moves slowly to the right and turns up."
    chosen = [clip for clip in clips() if clip.suffix != ".webm"]  # which LLaMA-Factory samples otherwise
    return dataset(
        [
            sample(PROMPT, "It stops.", videos=[chosen[0]]),
            sample(PROMPT, long, videos=[chosen[1]]),
            sample("What happens?", "It stops."),
            sample("<image>Describe.", long, "And then?", "Spinning.", images=[picture]),
            sample(PROMPT, long, "And then?", "It stops.", videos=[chosen[2]]),
            sample(PROMPT, "Spinning.", videos=[chosen[3]]),
        ]
    )


class Rows(TrainerCallback):
    """Counts the rows that `lm_head` sees in training, its calls, and the labelled tokens."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.rows = self.calls = self.labels = 0
        self.hooks = [
            model.register_forward_pre_hook(self.count_labels, with_kwargs=True),
            base_of(model).lm_head.register_forward_hook(self.count_rows),
        ]

    def count_labels(self, module, args, kwargs):
        self.labels += int((kwargs["labels"][:, 1:] != -100).sum())

    def count_rows(self, module, args, output):
        self.rows += output[..., 0].numel()
        self.calls += 1

    def on_train_end(self, args, state, control, **kwargs):
        for hook in self.hooks:
            hook.remove()


def same_run(family, mixed, **keys):
    """Train with and without `sparse_logits`; losses, weights and evaluation must be equal.

    Returns how many rows of `lm_head` each computed in training.
    """
    keys = {**SGD, **mixed, **EVAL, **keys}
    counted = Rows(), Rows()
    plain = run(family, callbacks=[counted[0]], **keys)
    sparse = run(family, callbacks=[counted[1]], **SPARSE, **keys)
    assert len(losses(plain)) == keys["max_steps"]
    assert losses(sparse) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(sparse, "grad_norm") == pytest.approx(losses(plain, "grad_norm"), rel=1e-4)
    assert distance(weights(sparse), weights(plain)) < 1e-5
    assert results(plain).keys() == results(sparse).keys() >= {"eval_loss", "eval_accuracy"}
    for key, value in results(plain).items():
        assert results(sparse)[key] == pytest.approx(value, abs=1e-5), key
    assert keys["learning_rate"] * min(losses(plain, "grad_norm")) > 1e-2  # so far did each step go
    assert counted[1].rows == counted[1].labels
    return counted[0].rows, counted[1].rows


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keys", [{}, LORA], ids=["full", "lora"])
def test_sparse_logits_train_as_llamafactory_does(family, keys, mixed):
    if keys and ENTRIES[family].linear_attention:
        keys = {**keys, "learning_rate": 0.1}  # steps of 1 diverge there, and rounding with them
    every, rows = same_run(family, mixed, **keys)
    assert rows < every / 4


OTHERS = {
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    "accumulated": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
    "prompt": {"train_on_prompt": True},
    "no checkpointing": {**LORA, "disable_gradient_checkpointing": True},
    "vision": {**LORA, "freeze_vision_tower": False, "freeze_multi_modal_projector": False},
    "projector": {"freeze_multi_modal_projector": False},
    "output layer": {**LORA, "additional_target": "embed_tokens,lm_head"},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_runs_with_sparse_logits_do_too(kind, mixed):
    every, rows = same_run("qwen2_vl", mixed, **OTHERS[kind])
    assert 0 < rows < every


def test_tied_embeddings_train_as_by_llamafactory(mixed):
    same_run("qwen2_vl", mixed, model_name_or_path=str(tiny(tie_word_embeddings=True)))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_train_as_by_llamafactory(family):
    videos = [sample(PROMPT, "It stops.", videos=[clip]) for clip in clips() if clip.suffix != ".webm"]
    keys = {**SGD, **dataset(videos), "neat_packing": True, "cutoff_len": 1024, "per_device_train_batch_size": 1}
    keys["max_steps"] = 1
    plain, sparse = run(family, **keys), run(family, **SPARSE, **keys)
    assert losses(sparse) == pytest.approx(losses(plain), rel=1e-5)
    assert distance(weights(sparse), weights(plain)) < 1e-6


@pytest.mark.parametrize("objective", [SPARSE, BOTH], ids=["text", "both"])
def test_long_answers_in_pieces_are_one_piece(objective, mixed, monkeypatch):
    """With and without a trainable `lm_head`, which every piece then adds its gradient to."""
    for more in ({}, LORA):
        keys = {**SGD, **mixed, **EVAL, **objective, **more, "motion_head_learning_rate": 0.1}
        whole = run(**keys)
        with monkeypatch.context() as patch:
            patch.setattr(losses_module, "ROWS_AT_ONCE", 4)
            counted = Rows()
            pieces = run(callbacks=[counted], **keys)
        assert counted.calls > 2 * keys["max_steps"]
        assert distance(weights(whole), weights(pieces)) < 1e-6
        assert losses(pieces) == pytest.approx(losses(whole), rel=1e-5)
        for key, value in results(whole).items():
            assert results(pieces)[key] == pytest.approx(value, abs=1e-5), key


# ---- what a step computes ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", [SPARSE, BOTH, MOTION], ids=["text", "both", "motion"])
@pytest.mark.parametrize(
    "keys",
    [{}, LORA, {"finetuning_type": "freeze", "freeze_trainable_layers": 1}],
    ids=["full", "lora", "freeze"],
)
def test_the_output_layer_sees_the_labelled_rows_only(family, objective, keys):
    data = dataset([sample(PROMPT, "It stops.", videos=[clips()[i]]) for i in (0, 1)])
    counted = Rows()
    run(family, callbacks=[counted], **objective, **data, **{**keys, "max_steps": 1})
    assert counted.rows == (0 if objective is MOTION else counted.labels)
    assert 2 * 4 <= counted.labels <= 2 * 8  # of two short answers, in more than 100 positions


class Waits(TorchDispatchMode):
    """Remembers what would make the host wait for a GPU: reading a number, and counting true elements."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        masks = args[1] if name in ("aten::index.Tensor", "aten::index_put_") else ()
        masked = any(index is not None and index.dtype == torch.bool for index in masks)
        if masked or name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", [SPARSE, BOTH, MOTION], ids=["text", "both", "motion"])
def test_nothing_waits_for_the_device_once_the_layers_run(objective, monkeypatch):
    start()
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

    from motiontune.llamafactory.trainer import MotionTrainer

    trainer = CustomSeq2SeqTrainer if objective is SPARSE else MotionTrainer
    original, seen = trainer.compute_loss, []

    def compute_loss(self, model, inputs, **kwargs):
        with Waits() as waits:
            hook = model.model.language_model.layers[0].register_forward_pre_hook(
                lambda *_: seen.append([*waits.names])
            )
            loss = original(self, model, inputs, **kwargs)
            loss.backward(retain_graph=True)
        hook.remove()
        before = seen.pop()
        assert "aten::nonzero" in before  # what is counted, is counted before
        assert waits.names == before
        seen.append(loss)
        return loss

    monkeypatch.setattr(trainer, "compute_loss", compute_loss)
    run(**objective, max_steps=2, disable_gradient_checkpointing=True)
    assert len(seen) == 2


@pytest.mark.parametrize("objective", [SPARSE, BOTH], ids=["text", "both"])
def test_no_hidden_state_is_kept_but_the_last(objective):
    class Outputs(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.kept = []
            model.model.register_forward_hook(lambda module, args, output: self.kept.append(output.hidden_states))

    outputs = Outputs()
    run(callbacks=[outputs], **objective)
    assert outputs.kept == [None, None]


class Vision(TrainerCallback):
    """Notes whether the last layer of the vision encoder keeps a graph for the backward pass."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.graphs = set()
        last = base_of(model).model.visual.blocks[-1]
        last.register_forward_hook(lambda module, args, output: self.graphs.add(output.requires_grad))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", [SPARSE, BOTH], ids=["text", "both"])
def test_a_frozen_vision_encoder_keeps_nothing_for_the_backward_pass(family, objective):
    for frozen in (True, False):
        seen = Vision()
        run(family, callbacks=[seen], **objective, **LORA, max_steps=1, freeze_vision_tower=frozen)
        assert (True in seen.graphs) == (not frozen)  # reentrant checkpointing runs it without, then with one


@pytest.mark.parametrize("objective", [SPARSE, BOTH], ids=["text", "both"])
def test_ligers_layers_run_but_not_its_loss(objective, monkeypatch):
    """With `enable_liger_kernel`. The real kernels need a GPU; these only note that they were called."""
    from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen

    called = []

    def apply():
        norm = qwen.Qwen2VLRMSNorm.forward
        for cls, forward in (
            (qwen.Qwen2VLRMSNorm, lambda self, hidden: called.append("norm") or norm(self, hidden)),
            (qwen.Qwen2VLForConditionalGeneration, lambda *_, **__: called.append("loss") or 1 / 0),
        ):
            monkeypatch.setattr(cls, "forward", forward)

    liger = types.ModuleType("liger_kernel.transformers")
    liger.apply_liger_kernel_to_qwen2_vl = apply
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", liger)
    monkeypatch.setattr("llamafactory.hparams.parser.check_version", lambda *_, **__: None)  # it is not installed
    without = run(**objective)
    with_liger = run(**objective, enable_liger_kernel=True)
    assert set(called) == {"norm"}
    assert distance(weights(without), weights(with_liger)) == 0
    with pytest.raises(ZeroDivisionError):  # LLaMA-Factory itself takes Liger's loss
        run(enable_liger_kernel=True)


# ---- together with motion, and refused ----


def test_a_control_run_may_have_sparse_logits(mixed):
    keys = {**SGD, **mixed, **EVAL, **BOTH, "motion_loss_weight": 0}
    counted = Rows(), Rows()
    control, sparse = (run(callbacks=[rows], **keys, **more) for rows, more in zip(counted, ({}, SPARSE), strict=True))
    assert counted[1].rows == counted[1].labels < counted[0].rows / 4
    assert losses(sparse) == pytest.approx(losses(control), rel=1e-5)
    assert distance(weights(sparse), weights(control)) < 1e-6
    for key, value in results(control).items():
        assert results(sparse)[key] == pytest.approx(value, abs=1e-5), key


def test_sparse_logits_change_nothing_beside_motion():
    assert distance(weights(run(**BOTH)), weights(run(**BOTH, **SPARSE))) == 0


def test_a_batch_without_a_label_trains_nothing():
    """LLaMA-Factory's mean of nothing is not a number, and neither are the weights after it."""
    start()
    from transformers import AutoModelForImageTextToText

    from motiontune.model.sparse_logits import use_sparse_logits

    model = AutoModelForImageTextToText.from_pretrained(tiny())
    use_sparse_logits(model)
    ids = torch.randint(5, 99, (2, 8), generator=torch.Generator().manual_seed(0))
    output = model(input_ids=ids, labels=torch.full_like(ids, -100))
    assert output.loss == 0
    output.loss.backward()
    assert torch.equal(model.lm_head.weight.grad, torch.zeros_like(model.lm_head.weight))


REFUSED = [
    ({"use_dft_loss": True}, "sparse_logits cannot be combined with use_dft_loss"),
    ({"use_asft_loss": True}, "sparse_logits cannot be combined with use_asft_loss"),
    ({"use_eaft_loss": True}, "sparse_logits cannot be combined with use_eaft_loss"),
    ({"stage": "pt"}, "sparse_logits needs `stage: sft`, not pt"),
    ({"label_smoothing_factor": 0.1}, "label_smoothing_factor needs the logits of all positions: leave it or sparse_"),
    ({"use_liger_kernel": True}, "use_liger_kernel replaces the model's forward, which sparse_logits needs: use `ena"),
    ({"model_name_or_path": "/nowhere"}, "model_name_or_path: /nowhere"),
]


@pytest.mark.parametrize(("keys", "said"), REFUSED, ids=[str(keys) for keys, _ in REFUSED])
def test_what_sparse_logits_are_refused_with(keys, said, capfd):
    assert refused_run(capfd, **{**SPARSE, **keys}).startswith(said)


def test_another_family_is_refused(capfd):
    import transformers

    folder = fresh_folder("text")
    config = transformers.Qwen2Config(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=444
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny()).save_pretrained(folder)
    message = refused_run(capfd, **SPARSE, model_name_or_path=str(folder), template="qwen")
    names = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3-VL-MoE, Qwen3.5 or Qwen3.5-MoE"
    assert message == f"model type qwen2 has no video tokens: sparse_logits needs {names}"
