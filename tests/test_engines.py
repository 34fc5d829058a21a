"""Every engine trains, evaluates, saves, resumes and reloads as one process does: two processes, gloo, the CPU."""

import functools
import importlib.util
import inspect
import json
import os
import shutil
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from machines import CABLE, two_machines
from motiontune.errors import ConfigError, HeadError
from motiontune.llamafactory.engine_files import check_engine_files
from motiontune.llamafactory.launcher import join_slurm, launch
from motiontune.model.head import MotionHead, MotionHeadConfig, load_head, save_head
from motiontune.training.checkpoints import FILES, torn
from motiontune.training.engines import (
    REFUSED,
    Use,
    check_checkpoint,
    check_head_group,
    check_scheduler,
    engine_mistakes,
    fit_to_engine,
)
from processes import ENGINES, EXAMPLES, run_two
from training import (
    BOTH,
    MOTION,
    PROMPT,
    REPOSITORY,
    clips,
    dataset,
    distance,
    fresh_folder,
    keys_for,
    losses,
    results,
    run,
    run_command,
    sample,
    start,
    tiny,
    weights,
    write_config,
)


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed: pip install motiontune[deepspeed]",
)


LORA = {"finetuning_type": "lora"}
BF16 = {"bf16": True}
TRAINS_PROJECTOR = {"freeze_multi_modal_projector": False}
KINDS = {
    "full": BOTH,
    "lora": {**BOTH, **LORA},
    "full-bf16": {**BOTH, **BF16},
    "lora-bf16": {**BOTH, **LORA, **BF16},
    "tied": {**BOTH, "tied": True},
    "layer": {**MOTION, "motion_head_input": "layer:1"},
    "lora-layer": {**BOTH, **LORA, "motion_head_input": "layer:1"},
    "projector": {**MOTION, "motion_head_input": "projector", **TRAINS_PROJECTOR, "greater_is_better": False},
    "accumulated": {**BOTH, "gradient_accumulation_steps": 2},
    "weighted": {**BOTH, **LORA, "motion_confidence_weighting": True},
}
QUICK = {"zero3": ("full-bf16", "lora-layer"), "fsdp1": ("lora",), "fsdp2": ("full", "lora-layer")}
"""What `make test` has of them."""
# epsilon makes AdamW's step as smooth in the gradient as SGD's; with SGD, torch cannot load FSDP2's empty optimizer
STEPS = {"learning_rate": 0.01, "adam_epsilon": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0, "max_steps": 4}
SAVES = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
# the checkpoint that counts as best is the first, so that loading it shows
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
BOUNDS = {"weights": 1e-6, "loss": 1e-5, "epe": 1e-5}
BF16_BOUNDS = {"weights": 2e-2, "loss": 3e-2, "epe": 0.1}
"""In bf16 DeepSpeed's weights are bf16, and one process's are float32. Weights absolute, the others relative."""


def cell(engine, *kinds):
    """A parameter: one pair of processes that runs these kinds one after the other."""
    marks = [] if QUICK.get(engine) == kinds else [pytest.mark.engines]
    marks += [needs_deepspeed] if engine.startswith("zero") else []
    return pytest.param(engine, kinds, marks=marks, id="-".join([engine, *kinds]))


@functools.cache
def data():
    """12 samples of different length, among them text alone: one process may have motion where the other has none."""
    chosen = [clips()[i] for i in (0, 3, 5, 1, 3, 4, 2, 5, 3, 0)]
    captions = ["It stops." if i % 3 else "The circle moves slowly to the right and turns up." for i in range(10)]
    videos = [sample(PROMPT, caption, videos=[clip]) for caption, clip in zip(captions, chosen, strict=True)]
    text = sample("What happens in the video?", "It stops.")
    return dataset(videos[:4] + [text, text] + videos[4:])


def keys_of(kind, **more):
    keys = {**STEPS, **data(), "motion_loss_weight": 3.0, "do_train": True, "do_eval": True}
    keys |= {"eval_dataset": "toy", **SAVES, **BEST, **KINDS[kind], **more}
    if keys.pop("tied", False):
        keys["model_name_or_path"] = str(tiny(tie_word_embeddings=True))
    size = 4 // keys.get("gradient_accumulation_steps", 1)
    return keys, size


@functools.cache
def one_process(kind):
    """What the engines are held against."""
    keys, size = keys_of(kind)
    return run(per_device_train_batch_size=size, **keys)


def check_split(engine, folder):
    """The engine has really done its work: units, DTensors, split parameters. Otherwise the run was plain DDP."""
    found = json.loads((folder / "engine.json").read_text())
    if engine.startswith("fsdp"):
        layers = [name for name in found["units"] if "language_model.layers." in name]
        assert len([name for name in layers if name.rsplit(".", 1)[-1].isdigit()]) == 2, found["units"]
    if engine == "fsdp2":
        assert found["dtensors"] > 0
    if engine.startswith("zero"):
        assert found["optimizer"] == "DeepSpeedOptimizerWrapper"
    if engine == "zero3":
        assert found["zero3"] > 0


def check_engine(checkpoint, engine):
    """What an engine has saved is refused by the others, and by another number of processes of DeepSpeed's."""
    zero3, below = (accelerator(with_deepspeed(number)) for number in (3, 2))
    runs = {"zero3": zero3, "zero2": below, "fsdp": accelerator(fsdp=object()), "ddp": accelerator()}
    for name, other in runs.items():
        if not engine.startswith(name):
            with pytest.raises(ConfigError, match="was saved with .*, and this run has .*, which cannot go on with"):
                check_checkpoint(other, str(checkpoint))
        elif engine.startswith("zero"):
            with pytest.raises(
                ConfigError, match="was saved by 2 processes of DeepSpeed, and this run has 1: start 2"
            ):
                check_checkpoint(other, str(checkpoint))
        else:
            check_checkpoint(other, str(checkpoint))
    check_checkpoint(accelerator(with_deepspeed(checkpoint={"load_universal": True})), str(checkpoint))


def test_a_checkpoint_without_an_optimizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no optimizer to go on with"):
        check_checkpoint(accelerator(), str(tmp_path))


def check_list(checkpoint):
    """All files of both processes are on it."""
    listed = json.loads((checkpoint / FILES).read_text())["files"]
    saved = [path for path in checkpoint.rglob("*") if path.suffix in (".safetensors", ".pt", ".pth", ".bin")]
    assert saved and {path.relative_to(checkpoint).as_posix() for path in saved} <= set(listed)
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(listed) and not torn(checkpoint)


def check_same(one, two, bounds, steps=slice(None)):
    for key in ("loss", "motion_loss", "ce_loss", "motion_valid"):
        assert losses(two, key) == pytest.approx(losses(one, key)[steps], rel=bounds["loss"]), key
    found, expected = results(two), results(one)
    assert found["eval_epe_zero_motion"] == pytest.approx(
        expected["eval_epe_zero_motion"], rel=1e-6
    )  # the targets, unrounded
    assert found["eval_epe"] == pytest.approx(expected["eval_epe"], rel=bounds["epe"])
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=bounds["loss"])


def saved(folder, kind):
    """The weights that a run saved. FSDP saves tied embeddings under both of their names."""
    tensors = weights(folder)
    if kind == "tied" and "lm_head.weight" in tensors:
        assert torch.equal(tensors.pop("lm_head.weight"), tensors["model.embed_tokens.weight"])
    return tensors


def whole_head(folder):
    head = load_head(folder)
    assert head is not None and head.weight.shape == (16, 32) and head.bias.shape == (16,)
    assert head.weight.abs().max() > 1e-4 and head.bias.abs().max() > 1e-4
    return head


@pytest.mark.parametrize(
    ("engine", "kinds"),
    [
        *(cell(engine, *kinds) for engine, kinds in QUICK.items()),
        *(cell(engine, kind) for engine in ENGINES for kind in KINDS if kind not in QUICK.get(engine, ())),
    ],
)
def test_an_engine_does_what_one_process_does(engine, kinds):
    """Train, evaluate, save, load the best, resume: the weights, losses and metrics of one process."""
    first, second = [], []
    for kind in kinds:
        keys, size = keys_of(kind)
        first.append(keys_for(per_device_train_batch_size=size // 2, **keys))
        again = {**first[-1], "output_dir": str(fresh_folder()), "load_best_model_at_end": None}
        again["resume_from_checkpoint"] = f"{first[-1]['output_dir']}/checkpoint-2"
        second.append({key: value for key, value in again.items() if value is not None})
    folders = run_two(*first, *second, engine=engine)
    for kind, two, resumed in zip(kinds, folders[: len(kinds)], folders[len(kinds) :], strict=True):
        one = one_process(kind)
        bounds = BF16_BOUNDS if kind.endswith("bf16") else BOUNDS
        check_split(engine, two)
        check_same(one, two, bounds)
        check_list(two / "checkpoint-2")
        for name in (".", "checkpoint-2", "checkpoint-4"):
            assert distance(saved(one / name, kind), saved(two / name, kind)) < bounds["weights"], (kind, name)
            whole_head(two / name)
        check_engine(two / "checkpoint-2", engine)
        # the best is the first checkpoint, and the last one is another
        assert distance(weights(two), weights(two / "checkpoint-2")) < 1e-6
        assert distance(weights(two / "checkpoint-4"), weights(two / "checkpoint-2")) > 1e-4
        whole_head(resumed)
        for key in ("loss", "motion_loss"):  # of the first step after the checkpoint: adapter and head are there
            assert losses(resumed, key)[2] == pytest.approx(losses(two, key)[2], rel=bounds["loss"]), key
        assert losses(resumed) == pytest.approx(losses(two), rel=bounds["loss"])
        assert distance(weights(resumed), weights(two / "checkpoint-4")) < bounds["weights"]


def with_deepspeed(number=3, **changes):
    config = json.loads(Path(ENGINES[f"zero{number}"]["deepspeed"]).read_text())
    for key, value in changes.items():
        group, _, name = key.partition("__")
        (config[group] if name else config)[name or group] = value
    return config


def accelerator(deepspeed=None, fsdp=None, **parallelism):
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    plugin = None if deepspeed is None else SimpleNamespace(hf_ds_config=HfDeepSpeedConfig(deepspeed))
    state = SimpleNamespace(deepspeed_plugin=plugin, fsdp_plugin=fsdp)
    config = SimpleNamespace(**parallelism) if parallelism else None
    return SimpleNamespace(state=state, parallelism_config=config, num_processes=1)


def new_head():
    return MotionHead(MotionHeadConfig(hidden_size=8, patch=14, merge=2, temporal_patch=2))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: accelerator(sp_size=2), "sequence parallelism"),
        (lambda: accelerator(tp_size=2), "tensor parallelism"),
        (lambda: accelerator(with_deepspeed(tensor_parallel={"autotp_size": 2})), "tensor_parallel.autotp_size"),
        (lambda: accelerator(with_deepspeed(sequence_parallel_size=2)), "sequence_parallel_size"),
        (
            lambda: accelerator(
                with_deepspeed(zero_optimization__stage3_gather_16bit_weights_on_model_save=False, bf16={})
            ),
            "stage3_gather_16bit_weights_on_model_save must be true",
        ),
    ],
)
def test_what_would_lose_the_motion_is_refused_in_one_line(refused, message):
    with pytest.raises(ConfigError, match=message) as error:
        fit_to_engine(refused(), new_head())
    assert "\n" not in str(error.value)


def test_parts_of_a_model_are_not_saved(monkeypatch):
    """FSDP2's default is the state in parts, and then nothing at the end of a run: whole models, unless asked for."""
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    assert "SHARDED" in str(plugin.state_dict_type)
    assert "in place of its default" in fit_to_engine(accelerator(fsdp=plugin), new_head())
    assert fit_to_engine(accelerator(fsdp=plugin), new_head()) == ""  # nothing is left to change
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type) and plugin.optim_state_dict_config.rank0_only
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    with pytest.raises(ConfigError, match="use FULL_STATE_DICT"):
        fit_to_engine(accelerator(fsdp=plugin), new_head())


def test_an_adapter_that_could_not_be_saved_is_refused():
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=1)
    with pytest.raises(ConfigError, match="FSDP1 in one process"):
        fit_to_engine(accelerator(fsdp=plugin), new_head(), Use(has_adapter=True))
    fit_to_engine(accelerator(fsdp=plugin), new_head())
    for version in (1, 2):
        plugin = FullyShardedDataParallelPlugin(fsdp_version=version)
        with pytest.raises(ConfigError, match="additional_target: under FSDP"):
            fit_to_engine(accelerator(fsdp=plugin), new_head(), Use(has_adapter=True, whole_modules=["lm_head"]))
    with pytest.raises(ConfigError, match="additional_target: lm_head does not train under ZeRO-3"):
        fit_to_engine(accelerator(with_deepspeed(3)), new_head(), Use(has_adapter=True, whole_modules={"lm_head"}))


def test_texts_that_would_be_wrong_are_refused():
    from accelerate.utils import FullyShardedDataParallelPlugin

    with pytest.raises(ConfigError, match="predict_with_generate: under FSDP1"):
        plugin = FullyShardedDataParallelPlugin(fsdp_version=1)
        fit_to_engine(accelerator(fsdp=plugin), new_head(), Use(generates=True))
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    fit_to_engine(accelerator(fsdp=plugin), new_head(), Use(generates=True))


def test_an_optimizer_without_a_group_of_the_heads_own_is_refused():
    other, head = torch.nn.Linear(2, 2), new_head()
    mine = list(head.parameters())
    groups = [{"params": list(other.parameters())}, {"params": mine, "lr": 0.1}]
    check_head_group(torch.optim.SGD(groups, lr=0.01), mine, 0.1, 0.01)
    one_rate = torch.optim.SGD([*other.parameters(), *mine], lr=0.01)
    check_head_group(one_rate, mine, 0.01, 0.01)
    for optimizer, parameters in ((one_rate, mine), (SimpleNamespace(), mine), (one_rate, [])):
        with pytest.raises(ConfigError, match="motion_head_learning_rate: 0.01"):
            check_head_group(optimizer, parameters, 0.1, 0.01)


def test_a_scheduler_that_would_set_the_heads_rate_is_refused():
    with_scheduler = accelerator(with_deepspeed(2, scheduler={"type": "WarmupLR"}))
    with pytest.raises(ConfigError, match="scheduler gives the motion head the learning rate of everything else"):
        check_scheduler(with_scheduler, 0.1, 0.01)
    check_scheduler(with_scheduler, 0.01, 0.01)
    for other in (accelerator(with_deepspeed(2)), accelerator()):
        check_scheduler(other, 0.1, 0.01)


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("deepspeed", None, "FILE cannot be read .*No such file"),
        ("deepspeed", "{'stage': 2}", "FILE cannot be read .*double quotes"),
        ("deepspeed", "[]", "FILE must hold a JSON object"),
        (
            "deepspeed",
            '{"zero_optimization": {"stage": 4}}',
            "FILE: zero_optimization.stage must be 0, 1, 2 or 3, not 4",
        ),
        ("fsdp_config", "3", "FILE must hold a JSON object"),
        (
            "fsdp_config",
            '{"fsdp_offload_params": true}',
            "FILE: offload_params would do nothing: what is read are acti",
        ),
        (
            "fsdp_config",
            '{"state_dict_type": "SHARDED_STATE_DICT"}',
            "FILE: state_dict_type SHARDED_STATE_DICT saves no",
        ),
    ],
)
def test_an_engines_file_that_cannot_work_is_refused_before_anything_starts(key, content, message, tmp_path):
    file = tmp_path / "engine.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"{key}: {message.replace('FILE', str(file))}"):
        check_engine_files({key: str(file), "fsdp": "full_shard"})


def test_the_engines_files_of_the_examples_are_taken():
    for keys in ENGINES.values():
        check_engine_files(keys)
    check_engine_files({"deepspeed": with_deepspeed(3), "fsdp": None, "fsdp_config": None})


def test_what_is_refused_of_an_engines_keys_is_one_line():
    """What transformers and accelerate say is looked for in what is installed, so that other words are noticed."""
    from accelerate import accelerator
    from accelerate.utils import fsdp_utils
    from transformers import trainer
    from transformers.integrations import deepspeed

    sources = "".join(inspect.getsource(module) for module in (trainer, deepspeed, fsdp_utils, accelerator))
    for said in REFUSED:
        assert said in sources.replace('"\n                    "', "")
        with (
            pytest.raises(ConfigError, match="^fsdp: that is wrong: "),
            engine_mistakes(SimpleNamespace(deepspeed="")),
        ):
            raise ValueError(f"that is wrong: {said}")
    with pytest.raises(ValueError, match="another"), engine_mistakes(SimpleNamespace(deepspeed="")):
        raise ValueError("another")


def test_nodes_that_cannot_find_each_other_are_refused(monkeypatch):
    start()
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="set MASTER_ADDR"):
        launch([str(write_config(keys_for(**BOTH)))])


def test_a_head_that_is_not_whole_is_never_written(tmp_path):
    head = new_head()
    head.weight.data = torch.empty(0)
    with pytest.raises(HeadError, match=r"'weight': \(0,\)"):
        save_head(head, tmp_path)
    assert not list(tmp_path.iterdir())
    whole = {"motion_head.weight": torch.ones(16, 8), "motion_head.bias": torch.ones(16)}
    save_head(head, tmp_path, whole)
    assert load_head(tmp_path).weight.sum() == 128


def test_tasks_of_srun_become_one_run_or_stop():
    tasks = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    with pytest.raises(ConfigError, match="srun has started 4 tasks"):
        join_slurm(dict(tasks))
    joined = {**tasks, "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    join_slurm(joined)
    assert (joined["RANK"], joined["LOCAL_RANK"], joined["WORLD_SIZE"]) == ("3", "1", "4")
    own_gpu = {**tasks, "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "CUDA_VISIBLE_DEVICES": "1"}
    join_slurm(own_gpu)
    assert own_gpu["LOCAL_RANK"] == "0"  # the only one that the task sees
    for left in ({"SLURM_STEP_NUM_TASKS": "1"}, {**tasks, "NNODES": "4"}, {**tasks, "RANK": "0"}, {}):
        same = dict(left)
        join_slurm(same)
        assert same == left


@pytest.mark.parametrize(
    "launched", [{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, {"ACCELERATE_USE_CPU": "False"}], ids=len
)
def test_a_process_of_a_launcher_starts_no_others(launched, monkeypatch):
    """On two GPUs each of two workers would have started two more; accelerate's only one would have, too."""
    start()
    from llamafactory.extras import misc

    from motiontune.llamafactory import install, launcher

    called = []
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(misc, "get_device_count", lambda: 2)
    monkeypatch.setattr(install, "run_exp", lambda: called.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["motiontune"])
    config = str(write_config(keys_for()))
    launcher.launch([config, "max_steps=1"])
    assert called == [["motiontune", config, "max_steps=1"]]


def test_a_checkpoint_that_was_cut_off_is_named():
    folder = fresh_folder() / "checkpoint-2"
    folder.mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"checkpoint-2: trainer_state.json is missing. Its saving was stopped half-way"
    ):
        run(**BOTH, resume_from_checkpoint=str(folder))


@pytest.mark.engines
@pytest.mark.parametrize(
    ("engine", "keys"),
    [
        pytest.param("zero2", {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}}, marks=needs_deepspeed),
        ("fsdp1", {"version": 1, "use_orig_params": False}),
    ],
)
def test_an_engine_that_hides_the_heads_rate_is_refused(engine, keys):
    """Where the DeepSpeed file names the optimizer, and where FSDP1 flattens the head into other parameters."""
    changed = {"deepspeed": with_deepspeed(2, **keys)} if engine == "zero2" else {"fsdp_config": keys}
    # without `use_orig_params` FSDP1 takes no model of which a part is frozen
    trains = {**TRAINS_PROJECTOR, "freeze_vision_tower": False}
    problems = run_two(keys_for(**BOTH, **trains), engine=engine, fails=True, **changed)
    assert problems and all("and not at its own" in problem for problem in problems), problems


@pytest.mark.engines
@pytest.mark.parametrize("engine", [pytest.param("zero3", marks=needs_deepspeed), "fsdp1", "fsdp2"])
def test_what_an_engine_saved_is_predicted_and_merged_without_it(engine):
    """The motion that `predict` gets out of a saved model is the one that the engine evaluated."""
    from motiontune.commands.export import export

    kinds = ("full", "lora")
    folders = run_two(*(keys_for(per_device_train_batch_size=2, **keys_of(kind)[0]) for kind in kinds), engine=engine)
    common = {"dataset_dir": data()["dataset_dir"], "eval_dataset": "toy", "do_predict": True, "max_new_tokens": 4}
    common |= {"train_on_video_tokens": True, "predict_with_generate": True, "do_sample": False}
    for kind, folder in zip(kinds, folders, strict=True):
        saved = (
            {"model_name_or_path": str(folder)} if kind == "full" else {**LORA, "adapter_name_or_path": str(folder)}
        )
        predicted = results(run(**common, **saved), "predict")
        assert predicted["predict_epe"] == pytest.approx(results(folder)["eval_epe"], abs=1e-4)
    merged = fresh_folder("merged")
    keys = {"model_name_or_path": str(tiny()), "template": "qwen2_vl", "export_dir": str(merged)}
    export({**keys, "adapter_name_or_path": str(folders[1]), "infer_dtype": "float32"})
    assert torch.equal(whole_head(merged).weight, whole_head(folders[1]).weight)
    assert results(run(**common, model_name_or_path=str(merged)), "predict")["predict_epe"] == pytest.approx(
        results(folders[1])["eval_epe"], abs=1e-4
    )


@pytest.mark.engines
@pytest.mark.parametrize(
    ("engine", "processes", "kinds"),
    [  # with one process torch's FSDP1 cannot save an adapter, resumed or not
        ("fsdp1", 1, ("full",)),
        ("fsdp1", 4, ("full", "lora")),
        ("fsdp2", 1, ("full", "lora")),
        ("fsdp2", 4, ("full", "lora")),
    ],
)
def test_fsdp_goes_on_with_another_number_of_processes(engine, processes, kinds):
    """What FSDP saved is whole, so that it can be split anew: the run ends as one of one process."""
    for kind in kinds:
        keys, size = keys_of(kind)
        keys = {key: value for key, value in keys.items() if key not in BEST}
        (folder,) = run_two(keys_for(per_device_train_batch_size=size // 2, **keys), engine=engine)
        shutil.rmtree(folder / "checkpoint-4")
        again = {**keys, "output_dir": str(folder), "resume_from_checkpoint": str(folder / "checkpoint-2")}
        run_two(keys_for(per_device_train_batch_size=size // processes, **again), engine=engine, processes=processes)
        whole = one_process(kind)
        assert distance(weights(folder / "checkpoint-4"), weights(whole / "checkpoint-4")) < 1e-6
        assert losses(folder)[-2:] == pytest.approx(losses(whole)[-2:], rel=1e-5)


def die(rank, when):
    """Kill processes as `kill -9` does: of one rank or of all in the third step, or of the first within a save."""
    from transformers import Trainer

    def dying(original, ranks, step):
        def call(self, *args, **kwargs):
            if rank in ranks and self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *args, **kwargs)

        return call

    if when == "saving":
        Trainer._save_optimizer_and_scheduler = dying(Trainer._save_optimizer_and_scheduler, (0,), 4)
    else:
        Trainer.training_step = dying(Trainer.training_step, (1,) if when == "one" else (0, 1), 2)


@pytest.mark.engines
@pytest.mark.parametrize(
    ("when", "engine", "processes"),
    [
        ("one", "ddp", 1),
        ("all", "ddp", 2),
        ("saving", "ddp", 1),
        pytest.param("one", "zero2", 2, marks=needs_deepspeed),
        pytest.param("saving", "zero2", 2, marks=needs_deepspeed),
        pytest.param("saving", "zero3", 2, marks=needs_deepspeed),
        ("all", "fsdp1", 2),
        ("saving", "fsdp1", 2),
        ("saving", "fsdp2", 2),
    ],
)
def test_a_run_that_was_killed_goes_on(when, engine, processes):
    """With as many processes or, where the engine can, with one."""
    keys, size = keys_of("lora")
    keys = {key: value for key, value in keys.items() if key not in BEST}
    two = keys_for(per_device_train_batch_size=size // 2, **keys)
    run_two(two, engine=engine, fails=True, before=lambda rank: die(rank, when))
    folder = Path(two["output_dir"])
    assert not (folder / "train_results.json").exists()
    assert (folder / "checkpoint-2/trainer_state.json").exists()
    if when == "saving":
        with pytest.raises(ConfigError, match="checkpoint-4: .* Its saving was stopped half-way"):
            run(**two, resume_from_checkpoint=str(folder / "checkpoint-4"))
        shutil.rmtree(folder / "checkpoint-4")
    if processes == 2:
        run_two({**two, "resume_from_checkpoint": True}, engine=engine)
    else:
        run(**{**two, "per_device_train_batch_size": size, "resume_from_checkpoint": True})
    whole = one_process("lora")
    assert distance(weights(folder), weights(whole / "checkpoint-4")) < 1e-6
    assert losses(folder)[-2:] == pytest.approx(losses(whole)[-2:], rel=1e-5)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def keys_of_half(kind, **more):
    """The keys of one of two processes."""
    keys, size = keys_of(kind)
    return keys_for(per_device_train_batch_size=size // 2, **keys, **more)


def start_both(command, environments, within=((), ())):
    """Run a command twice at once, each within another one."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_command, *command, env=env, within=within[i]) for i, env in enumerate(environments)]
        return [each.result() for each in runs]


@pytest.mark.engines
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_a_launcher_makes_one_run(launcher):
    """Two processes, however they were started."""
    two = keys_of_half("lora")
    command, port = ["-m", "motiontune", "train", str(write_config(two))], free_port()
    if launcher == "torchrun":
        run_command("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, *command)
    else:
        common = {"SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        start_both(command, [{**common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")])
    assert distance(weights(Path(two["output_dir"])), weights(one_process("lora"))) < 1e-6


@pytest.mark.engines
def test_accelerate_starts_fsdp_as_its_example_has_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif 'RANK' in os.environ:\n    import engines_on_cpu\n    engines_on_cpu.prepare('fsdp2')\n"
    )
    two, path = keys_of_half("lora-bf16"), (tmp_path, REPOSITORY / "src", REPOSITORY / "tests")
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(EXAMPLES / "accelerate_fsdp2.yaml")]
    launch += ["--main_process_port", free_port(), "-m", "motiontune", "train", str(write_config(two))]
    run_command(*launch, env={"PYTHONPATH": os.pathsep.join(map(str, path))})
    folder = Path(two["output_dir"])
    assert (folder / "checkpoint-2/pytorch_model_fsdp.bin").exists()  # which FSDP alone writes, as FULL_STATE_DICT
    check_same(one_process("lora-bf16"), folder, BF16_BOUNDS)
    assert distance(weights(folder), weights(one_process("lora-bf16"))) < BF16_BOUNDS["weights"]
    whole_head(folder)


@pytest.fixture(params=["one machine", "two machines"])
def machines(request):
    """Where two launchers run, and the first one's address: two network namespaces that a cable joins, or here."""
    if request.param == "one machine":
        yield ((), ()), "127.0.0.1", {}
        return
    with two_machines() as both:
        yield [machine.within for machine in both], both[0].address, {"GLOO_SOCKET_IFNAME": CABLE}


@pytest.mark.engines
def test_two_launchers_make_one_run(machines):
    """NNODES=2."""
    within, address, env = machines
    two = keys_of_half("lora")
    env = {**env, "MASTER_ADDR": address, "MASTER_PORT": free_port(), "NNODES": "2", "NPROC_PER_NODE": "1"}
    command = ["-m", "motiontune", "train", str(write_config(two))]
    start_both(command, [{**env, "NODE_RANK": rank, "FORCE_TORCHRUN": "1"} for rank in ("0", "1")], within)
    assert distance(weights(Path(two["output_dir"])), weights(one_process("lora"))) < 1e-6


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "device", "expected"),
    [
        ([node(CPU=2.0)], "CPU", 1),
        ([node(CPU=128.0, GPU=8.0)], "GPU", 10),  # LLaMA-Factory's own
        ([node(CPU=128.0, GPU=8.0), node(CPU=30.0, GPU=8.0), node(CPU=4.0), node(False, CPU=1.0, GPU=8.0)], "GPU", 3),
        ([node(CPU=4.0, GPU=8.0)], "GPU", 0.5),
        ([node(GPU=8.0)], "GPU", 0),
    ],
)
def test_workers_of_ray_share_the_cpus_that_there_are(nodes, device, expected):
    start()
    from motiontune.llamafactory.cluster import cpus_per_worker

    assert cpus_per_worker(nodes, device) == expected


def test_ray_that_is_not_installed_is_named(monkeypatch):
    start()
    monkeypatch.setenv("USE_RAY", "1")
    for name in ("ray", "ray.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install ray"):
        run(**BOTH)


@pytest.mark.engines
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
def test_two_workers_of_ray_make_one_run():
    """On however few CPUs, without `ray[default]`; a worker's mistake arrives in one line."""
    two = keys_of_half("lora", ray_num_workers=2)
    command = ["-m", "motiontune", "train", str(write_config(two))]
    env = {"USE_RAY": "1"}
    run_command(*command, env=env)
    assert distance(weights(Path(two["output_dir"])), weights(one_process("lora"))) < 1e-6
    wrong = {**two, "model_name_or_path": "/no/such/model", "output_dir": str(fresh_folder())}
    failed = run_command("-m", "motiontune", "train", str(write_config(wrong)), env=env, check=False)
    assert failed.returncode == 2
    assert "motiontune: model_name_or_path: /no/such/model is no folder" in failed.stderr.splitlines()
