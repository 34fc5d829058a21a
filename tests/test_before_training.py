"""Mistakes that end in one line before any step, and checkpoints that a run can go on from."""

import errno
import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import TrainingArguments

from commands import refused_run, trained
from motiontune.errors import MotiontuneError, OutputError, exit_with_message
from motiontune.llamafactory.install import run_exp
from motiontune.llamafactory.names import OUTPUT_DIR
from motiontune.runs.folder import claim_run
from motiontune.training.checkpoints import saving
from training import BOTH, PROMPT, clips, dataset, distance, fresh_folder, keys_for, run, sample, start, toy, weights


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()


def with_videos(*videos, answer="It stops."):
    return dataset([{**sample(PROMPT, answer), "videos": list(videos)}])


# ---- samples ----

SAMPLES = [
    ((None,), "'<video>Explain the action happening the video.': videos: None names no file"),
    ((123,), "'<video>Explain the action happening the video.': videos: 123 names no file"),
    (("",), "'<video>Explain the action happening the video.': videos: '' names no file"),
    ((" ",), "'<video>Explain the action happening the video.': videos: ' ' names no file"),
    (({"a": 1},), "'<video>Explain the action happening the video.': videos: {'a': 1} names no file"),
    (("https://a.example/b.mp4",), "https://a.example/b.mp4: is an address: download the clip, and give its path"),
]


@pytest.mark.parametrize(("videos", "reason"), SAMPLES, ids=[str(videos) for videos, _ in SAMPLES])
def test_what_names_no_file_is_refused_by_name(videos, reason, capfd):
    assert reason in refused_run(capfd, **BOTH, **with_videos(*videos))


@pytest.mark.parametrize(
    ("videos", "reason"),
    [([123], "videos: 123 names no file"), ("a.mp4", "videos: 'a.mp4' must be a list of paths")],
    ids=["number", "no list"],
)
def test_a_row_of_another_type_than_the_others_is_named(videos, reason, capfd):
    good = sample(PROMPT, "It stops.", videos=[clips()[0]])
    keys = dataset([good, {**good, "videos": videos}])
    file = Path(keys["dataset_dir"], "toy.json")
    assert refused_run(capfd, **BOTH, **keys) == f"{file}: row 1: {reason}"


def test_turns_that_are_no_text_are_refused_by_name(capfd):
    message = refused_run(capfd, **BOTH, **with_videos(str(clips()[0]), answer=None))
    assert message.startswith(f"the sample '{PROMPT}': a turn is None, it must be text")
    keys = with_videos(str(clips()[0]))
    file = Path(keys["dataset_dir"], "toy.json")
    file.write_text(json.dumps([{**json.loads(file.read_text())[0], "messages": None}]))
    assert refused_run(capfd, **BOTH, **keys).startswith("data set toy.json: a row is not as described: ")


# ---- keys ----

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
BEST = {**EVALUATED, "load_best_model_at_end": True, "eval_dataset": "toy"}
GENERATED = {"predict_with_generate": True, "max_new_tokens": 2}
PREDICTS = {"do_predict": True, "predict_with_generate": True, "eval_dataset": "toy"}
KEYS = [
    ({**BEST, "metric_for_best_model": "eval_los"}, "metric_for_best_model: eval_los is not measured, but eval_epe"),
    ({**BEST, "metric_for_best_model": "accuracy"}, "metric_for_best_model: accuracy is not measured, but eval_epe"),
    ({**BEST, **GENERATED}, "metric_for_best_model: loss is not measured, but eval_epe"),
    ({**BEST, "eval_on_each_dataset": True}, "metric_for_best_model: loss is not measured, but eval_toy_epe"),
    ({"early_stopping_steps": 2}, "early_stopping_steps needs metric_for_best_model, and an eval_strategy"),
    ({"resume_from_checkpoint": True}, "resume_from_checkpoint: "),
    ({"resume_from_checkpoint": "true"}, "resume_from_checkpoint: "),
    ({"optim": "adamw_8bit"}, "optim: You need to install `bitsandbytes`"),
    ({"report_to": "wandb"}, "WandbCallback requires wandb to be installed"),
    (
        {"use_unsloth": True},
        "use_unsloth replaces the model's forward, which use_motionvector_",
    ),
    ({"neat_packing": True, **PREDICTS}, "neat_packing does not go together with predict_with_g"),
    ({"group_by_length": True}, "group_by_length was a key of earlier versions of transformers: there is `train_sam"),
]


@pytest.mark.parametrize(("keys", "reason"), KEYS, ids=[str(keys) for keys, _ in KEYS])
def test_keys_that_cannot_work_are_refused(keys, reason, capfd):
    output = fresh_folder()
    message = refused_run(capfd, **{**BOTH, **keys, "output_dir": str(output)})
    assert message.startswith(reason) and not output.exists()


def test_a_hub_that_cannot_be_reached_is_refused(capfd, monkeypatch):
    def offline(*arguments):
        raise ConnectionError("no network")

    monkeypatch.setattr("motiontune.llamafactory.workflow.HfApi.whoami", offline)
    message = refused_run(capfd, **BOTH, push_to_hub=True)
    assert message == "push_to_hub: the hub cannot be reached, or does not know you: no network"


def test_the_best_end_point_error_is_the_smallest():
    folder = run(**BOTH, **BEST, metric_for_best_model="epe", learning_rate=0.01)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["best_metric"] == min(entry["eval_epe"] for entry in state["log_history"] if "eval_epe" in entry)


# ---- checkpoints ----


@pytest.fixture(scope="module")
def stopped():
    """A run of 3 steps with a checkpoint after each."""
    return run(**BOTH, save_strategy="steps", save_steps=1, max_steps=3)


def cut(name, length):
    def tear(checkpoint):
        (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:length])

    return tear


def without(*names):
    def tear(checkpoint):
        for name in names:
            (checkpoint / name).unlink()

    return tear


def zeros(name, begin, length):
    def tear(checkpoint):
        data = bytearray((checkpoint / name).read_bytes())
        data[begin : begin + length] = bytes(length)
        (checkpoint / name).write_bytes(data)

    return tear


LATE = ("scheduler.pt", "rng_state.pth", "trainer_state.json")
TORN = {
    "before the head": without("motion_head.safetensors", "motion_head_config.json", "optimizer.pt", *LATE),
    "before the optimizer": without("optimizer.pt", *LATE),
    "before the state": without("trainer_state.json"),
    "empty state": cut("trainer_state.json", 0),
    "empty weights": cut("model.safetensors", 0),
    "half the weights": cut("model.safetensors", 50_000),
    "half the optimizer": cut("optimizer.pt", 50_000),
    "zeros within the optimizer": zeros("optimizer.pt", 50_000, 10_000),
    "zeros within the weights": zeros("model.safetensors", 50_000, 10_000),
    "zeros within the head": zeros("motion_head.safetensors", 300, 100),
    "zeros within the head's configuration": zeros("motion_head_config.json", 20, 10),
    "no random state": without("rng_state.pth"),
    "half the random state": cut("rng_state.pth", 5_000),
    "zeros within the list": zeros("motiontune_checkpoint.json", 20, 10),
    "no optimizer": without("optimizer.pt"),
    "half the head": without("motion_head.safetensors"),
    "the other half": without("motion_head_config.json"),
    "another head's configuration": lambda checkpoint: (checkpoint / "motion_head_config.json").write_text('{"a": 1}'),
    "no list and no weights": without("motiontune_checkpoint.json", "model.safetensors"),
    "no list and a part of the weights": lambda checkpoint: (
        without("motiontune_checkpoint.json")(checkpoint),
        (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors"),
    ),
    "an adapter without its weights": lambda checkpoint: (
        without("motiontune_checkpoint.json")(checkpoint),
        (checkpoint / "adapter_config.json").write_text("{}"),
    ),
    "nothing": lambda checkpoint: [file.unlink() for file in checkpoint.iterdir()],
}


@pytest.mark.parametrize("how", TORN)
def test_torn_checkpoints_are_told_from_whole_ones(how, stopped, tmp_path):
    from motiontune.errors import ConfigError
    from motiontune.training.checkpoints import resumable, torn

    for number in (2, 3):
        shutil.copytree(stopped / f"checkpoint-{number}", tmp_path / f"checkpoint-{number}")
    last, before = tmp_path / "checkpoint-3", tmp_path / "checkpoint-2"
    assert not torn(last)
    TORN[how](last)
    assert torn(last)
    passed = []
    assert resumable(str(tmp_path), True, passed.append) == str(before)
    assert len(passed) == 1 and passed[0].startswith(f"{last} is passed over: ")
    with pytest.raises(ConfigError, match=f"^resume_from_checkpoint: {last}: .*: take {before}$"):
        resumable(str(tmp_path), str(last), passed.append)
    TORN[how](before)
    with pytest.raises(ConfigError, match="^resume_from_checkpoint: no checkpoint is whole: "):
        resumable(str(tmp_path), True, passed.append)


def test_the_list_of_a_checkpoint_is_of_what_a_resume_reads(stopped, tmp_path):
    from motiontune.training.checkpoints import FILES, list_files, torn

    checkpoint = shutil.copytree(stopped / "checkpoint-3", tmp_path / "checkpoint-3")
    listed = json.loads((checkpoint / FILES).read_text())["files"]
    assert {"model.safetensors", "motion_head.safetensors", "optimizer.pt", "rng_state.pth"} <= set(listed)
    assert {name for name, (_, checksum) in listed.items() if checksum} == {
        path.name for path in checkpoint.glob("*.s*s")
    }
    (checkpoint / "chat_template.jinja").write_text("again, by a callback")
    assert not torn(checkpoint)
    part = checkpoint / "pytorch_model_fsdp_0" / "__1_0.distcp"  # another process's: its size alone is kept
    part.parent.mkdir()
    part.write_bytes(b"12345")
    list_files(checkpoint)
    assert not torn(checkpoint)
    part.write_bytes(b"1234")
    assert torn(checkpoint).startswith("pytorch_model_fsdp_0/__1_0.distcp has 4 bytes, and had 5 (if that is meant")
    (checkpoint / FILES).unlink()  # as earlier versions and plain LLaMA-Factory leave it
    zeros("model.safetensors", 50_000, 10_000)(checkpoint)
    assert not torn(checkpoint)
    list_files(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-4").exists()


def test_a_second_training_into_one_folder_is_refused(capfd):
    from motiontune.files import alone_in

    output = fresh_folder()
    output.mkdir()
    with alone_in(output):
        message = refused_run(capfd, **BOTH, output_dir=str(output))
    assert message.startswith(f"{output}: another run is writing into it: wait for its end")
    assert not list(output.glob("*.safetensors"))
    with pytest.raises(ZeroDivisionError), alone_in(output):
        1 / 0  # noqa: B018
    with alone_in(output):
        pass


OF_NO_RUN = (
    "train_results.json trainer_state.json motion_head.safetensors training_loss.png trainer_log.jsonl "
    "generated_predictions.jsonl predict_results.json eval_results.json all_results.json model.safetensors "
    "adapter_config.json tokenizer.json checkpoint-5/model.safetensors predict_toy/predict_results.json"
).split()


@pytest.mark.parametrize("name", OF_NO_RUN)
def test_files_of_the_users_stay_as_they_are(name, tmp_path, capfd):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    refusal = "might be written over: a run writes such names, and none is noted in"
    with pytest.raises(OutputError, match=refusal):
        claim_run(tmp_path, {"do_train": True})
    if "result" in name or "predict" in name or name == "trainer_log.jsonl":
        with pytest.raises(OutputError, match=refusal):
            claim_run(tmp_path, {"do_predict": True})
    else:
        claim_run(tmp_path, {"do_predict": True})  # it writes no such file
    (tmp_path / "motiontune_runs.json").write_text("[]")
    claim_run(tmp_path, {"do_train": True})


def test_a_link_that_leads_nowhere_is_somebodys(tmp_path):
    (tmp_path / "generated_predictions.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="might be written over"):
        claim_run(tmp_path, {"do_predict": True})


def test_a_run_without_an_output_folder_is_held_to_the_same(tmp_path, monkeypatch):
    assert TrainingArguments().output_dir == OUTPUT_DIR
    monkeypatch.chdir(tmp_path)
    (tmp_path / OUTPUT_DIR).mkdir()
    (tmp_path / OUTPUT_DIR / "train_results.json").write_text("mine")
    with pytest.raises(OutputError, match="train_results.json might be written over"):
        run_exp({key: value for key, value in keys_for(**BOTH).items() if key != "output_dir"})


def test_folders_that_are_no_checkpoints_stay():
    """The Trainer would remove each `checkpoint-*` that is older."""
    output = fresh_folder()
    for name in ("checkpoint-best", "checkpoint-0_notes"):
        (output / name).mkdir(parents=True)
        (output / name / "mine.txt").write_text("mine")
    (output / "motiontune_runs.json").write_text("[]")
    run(**BOTH, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1, output_dir=str(output))
    assert sorted(path.name for path in output.glob("checkpoint-*")) == [
        "checkpoint-0_notes",
        "checkpoint-3",
        "checkpoint-best",
    ]


def test_an_evaluation_keeps_the_log_of_the_training(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "trainer_log.jsonl").read_text()
    keys = {**BOTH, **toy(2), "dataset": None, "eval_dataset": "toy", "do_eval": True, "overwrite_output_dir": True}
    run(**keys, model_name_or_path=str(tmp_path / "checkpoint-3"), output_dir=str(tmp_path))
    assert (tmp_path / "trainer_log.jsonl").read_text().startswith(before)


def test_a_file_in_a_folders_place_is_refused_before_the_model_is_loaded(tmp_path):
    predicts = {**BOTH, "do_predict": True}
    (tmp_path / "motion_predictions").write_text("mine")
    with pytest.raises(OutputError, match="motion_predictions is no folder, and would have to be one: move it away"):
        claim_run(tmp_path, predicts)
    claim_run(tmp_path, {**predicts, **dict.fromkeys(BOTH, False)})  # LLaMA-Factory's own run writes nothing there
    claim_run(tmp_path, {**BOTH, "do_train": True})
    assert (tmp_path / "motion_predictions").read_text() == "mine"


def test_a_run_refuses_what_it_could_not_end_with(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "train_results.json").write_text("mine")
    message = refused_run(capfd, **BOTH, output_dir=str(tmp_path))
    assert message.startswith(f"{tmp_path / 'train_results.json'} might be written over")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "train_results.json"]
    (tmp_path / "train_results.json").rename(tmp_path / "all_results.json")
    with pytest.raises(MotiontuneError, match=r"all_results.json: is damaged"):  # the Trainer would add to it
        claim_run(tmp_path, {"do_train": True})


def test_a_limit_while_a_checkpoint_is_saved(tmp_path):
    """A limit of bytes for a file stands for the full disk: torch writes both alike."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        for save, reason in ((torch.save, ", is the disk full"), (save_file, ": File too large")):
            with pytest.raises(OutputError, match=f"^{tmp_path} cannot be written{reason}"):
                with saving(str(tmp_path)):
                    save({"a": torch.zeros(100_000)}, str(tmp_path / "optimizer.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(RuntimeError, match="another"), saving(str(tmp_path)):
        raise RuntimeError("another")


FULL = "cannot be written: No space left on device"
WHILE_SAVING = [
    (Exception("No space left on device (os error 28)"), f"OUT {FULL}"),  # of tokenizers
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), f"OUT {FULL}"),
    (RuntimeError("basic_ios::clear: iostream error"), "OUT cannot be written, is the disk full? (basic_ios::clear: "),
    (OSError(errno.ENOSPC, "No space left on device"), f"OUT {FULL}"),
    (OSError(errno.ENOSPC, "No space left on device", "OUT/a.json"), f"OUT/a.json {FULL}"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "OUT/a.json"), "OUT/a.json is in the way of a file of that"),
    (Exception("Is a directory (os error 21)"), "a folder in OUT is in the way of a file of that name: move it away"),
    (RuntimeError("open file failed with strerror: Is a directory"), "a folder in OUT is in the way of a file of t"),
    (
        PermissionError(errno.EACCES, "Permission denied", "OUT/a"),
        "OUT/a cannot be written or read: Permission denied",
    ),
]


@pytest.mark.parametrize(("error", "message"), WHILE_SAVING, ids=str)
def test_what_libraries_raise_while_saving_ends_in_one_line(error, message):
    with pytest.raises(OutputError) as refusal, saving("OUT"):
        raise error
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), KeyError("a"), FileNotFoundError(2, "gone", "/else/a")],
    ids=str,
)
def test_other_errors_while_saving_stay_as_they_are(error):
    with pytest.raises(type(error)), saving("OUT"):
        raise error


def test_a_library_that_finds_the_disk_full_ends_the_program_in_one_line(capsys):
    def save():
        raise Exception("No space left on device (os error 28)")

    with pytest.raises(SystemExit) as stop:
        exit_with_message(save)
    assert stop.value.code == 2 and capsys.readouterr().err == f"motiontune: a file {FULL}\n"


def test_a_checkpoint_that_lost_its_head_is_passed_over(stopped, tmp_path):
    from motiontune.training.checkpoints import resumable

    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    lost = "motion_head.safetensors", "motion_head_config.json", "motiontune_checkpoint.json"
    without(*lost)(tmp_path / "checkpoint-3")
    passed = []
    assert resumable(str(tmp_path), True, passed.append) == str(tmp_path / "checkpoint-2")
    assert "its motion head is missing" in passed[0]


@pytest.mark.parametrize("asked", [{}, {"resume_from_checkpoint": True}], ids=["by itself", "asked"])
def test_a_run_goes_on_from_the_last_whole_checkpoint(asked, stopped, capfd):
    output = fresh_folder()
    shutil.copytree(stopped, output)
    TORN["before the optimizer"](output / "checkpoint-3")
    keys = {**BOTH, "save_strategy": "steps", "save_steps": 1, "max_steps": 3, "output_dir": str(output)}
    said = trained(capfd, **keys, **asked)
    assert f"{output}/checkpoint-3 is passed over: trainer_state.json is missing" in said
    assert distance(weights(output), weights(stopped)) == 0
    TORN["empty weights"](output / "checkpoint-2")
    message = refused_run(capfd, **keys, resume_from_checkpoint=str(output / "checkpoint-2"))
    assert message.startswith(f"resume_from_checkpoint: {output}/checkpoint-2: model.safetensors cannot be read")


def test_pissa_leaves_the_head_beside_the_converted_adapter():
    keys = {"finetuning_type": "lora", "pissa_init": True, "pissa_iter": 1, "pissa_convert": True}
    folder = run(**BOTH, **keys)
    head = weights(folder)["motion_head.weight"]
    assert (weights(folder / "pissa_converted")["motion_head.weight"] == head).all() and head.any()


# ---- the table ----


def test_one_table_before_training_has_what_the_run_reads(capfd):
    rows = [sample(PROMPT, "It stops.", videos=[clip]) for clip in clips()]
    rows += [sample(PROMPT, "It stops. " * 60, videos=[clips()[3]]), sample("Hello?", "It stops.")]
    output = fresh_folder()
    said = trained(capfd, **BOTH, **dataset(rows), cutoff_len=200, video_fps=4.0, output_dir=str(output))
    table = (output / "motiontune_data.txt").read_text()
    assert table.strip() in said
    titles, _, row, *rest = table.splitlines()
    cells = dict(zip(re.split("  +", titles), re.split("  +", row), strict=True))
    assert cells["data set"] == "toy.json" and cells["samples"] == "8" and cells["looked at"] == "8 (100%)"
    assert cells["clips"] == "7" and cells["frames"] == "4 (8)" and cells["fps"] == "3.69 (4)"
    assert cells["cutoff_len"] == "200" and cells["do not fit"] == "1"
    assert cells["motion"] == "codec+flow 6, blockmatch+flow 1"
    assert re.fullmatch(r"\d+(\.5)? \(\d+\)", cells["tokens"])
    assert f"toy.json: {clips()[3]} has {cells['tokens'].split('(')[1][:-1]} tokens, cutoff_len cuts it to 200" in rest


def test_the_table_of_tokenized_data(tmp_path, capfd):
    keys = {**BOTH, **toy(3), "tokenized_path": str(tmp_path / "tokens")}
    run(**keys)
    output = fresh_folder()
    said = trained(capfd, **keys, output_dir=str(output))
    assert "Motion of data set" in said and f"{tmp_path / 'tokens'} (train)  3        3 (100%)" in said
