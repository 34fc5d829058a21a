"""What users get wrong: clips, data sets, motion files, heads, models and keys. One line says it, and what to do."""

import contextlib
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from commands import refused_run, trained
from make_clips import encode, encode_silence, remuxed
from motiontune.errors import ClipError, ConfigError
from training import (
    BOTH,
    MOTION,
    PROMPT,
    clips,
    dataset,
    distance,
    fresh_folder,
    keys_for,
    losses,
    results,
    run,
    sample,
    session_folder,
    start,
    tiny,
    toy,
    weights,
    write_clip,
)


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()  # before any test captures the streams that LLaMA-Factory's logger keeps


def data(*videos):
    return dataset([sample(PROMPT, "It stops.", videos=[video]) for video in videos])


# ---- clips ----

REASONS = {
    "missing": "does not exist",
    "empty": "is empty (0 bytes)",
    "text": "cannot be read as a video (Invalid data found when processing input)",
    "cut": "cannot be read as a video (Invalid data found when processing input)",
    "audio": "has no video stream (only audio)",
    "no_frame": "has no frame",
    "folder": "is a folder, not a file",
}


@pytest.fixture(scope="module")
def bad():
    folder = session_folder() / "bad"
    paths = {kind: folder / f"{kind}.{'avi' if kind == 'no_frame' else 'mp4'}" for kind in REASONS}
    whole = write_clip(folder / "whole.mp4", 16)
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("This is no video.\n" * 50)
    paths["cut"].write_bytes(whole.read_bytes()[:1500])
    paths["folder"].mkdir()
    encode_silence(paths["audio"])
    encode(paths["no_frame"], "mpeg4", [])
    return paths


@pytest.fixture(scope="module")
def torn(bad):
    """A clip whose header promises 16 frames, and whose body ends in the middle."""
    whole, header_first, torn = (bad["empty"].with_name(f"{name}.mp4") for name in ("whole", "header_first", "torn"))
    data = remuxed(whole, header_first, movflags="faststart").read_bytes()
    torn.write_bytes(data[: len(data) // 2])
    return torn


@pytest.mark.parametrize("kind", REASONS)
def test_a_clip_that_cannot_be_opened_stops_the_run_before_training(kind, bad, capfd):
    output = fresh_folder()
    message = refused_run(capfd, **BOTH, **data(clips()[0], bad[kind], clips()[1]), output_dir=str(output))
    assert message == f"{bad[kind]}: {REASONS[kind]} (`motion_on_error: skip` leaves such samples out)"
    assert not output.exists()


def test_a_pipe_or_folder_in_the_place_of_a_clip_is_named(tmp_path):
    """LLaMA-Factory joins paths of files alone with `media_dir`."""
    from motiontune.llamafactory.samples import check_sample

    os.mkfifo(tmp_path / "pipe.mp4")
    for name, what in (("pipe.mp4", "is a pipe"), ("", "is a folder"), ("none.mp4", "")):
        sample = {"prompt": [], "response": [], "videos": [name or tmp_path.name]}
        with pytest.raises(ClipError, match=what) if what else contextlib.nullcontext():
            check_sample(sample, str(tmp_path if name else tmp_path.parent))


@pytest.mark.parametrize("keys", [{"motion_on_error": "raise"}, {"preprocessing_num_workers": 2}])
def test_it_does_so_with_raise_and_from_several_processes(keys, bad, capfd):
    message = refused_run(capfd, **BOTH, **data(clips()[0], bad["missing"], clips()[1], clips()[3]), **keys)
    assert message.startswith(f"{bad['missing']}: does not exist")


@pytest.mark.parametrize("workers", [1, 2])
def test_skip_leaves_such_clips_out_and_says_how_many(workers, bad, capfd):
    keys = data(clips()[0], bad["missing"], bad["audio"], bad["text"], clips()[3])
    keys |= {"motion_on_error": "skip", "preprocessing_num_workers": workers, "output_dir": str(fresh_folder())}
    keys |= {"max_steps": None, "num_train_epochs": 1, "per_device_train_batch_size": 1}
    said = trained(capfd, **MOTION, **keys)
    assert "3 of 5 samples were left out before training" in said
    if workers == 1:  # what other processes say is not collected here
        assert f"Left out 3 samples: {bad['missing']}: does not exist; {bad['audio']}: has no video stream" in said
    folder = Path(keys["output_dir"])
    assert len(losses(folder)) == 2
    assert results(folder, "train")["samples_left_out"] == 3 and results(folder, "train")["clips_left_out"] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_prediction_counts_what_several_processes_left_out(workers, bad):
    keys = data(clips()[0], bad["missing"], clips()[1], bad["audio"], clips()[3]) | {"dataset": None}
    keys |= {"eval_dataset": "toy", "train_on_video_tokens": True, "motion_on_error": "skip"}
    keys |= {"do_eval": True, "do_predict": True, "predict_with_generate": True, "max_new_tokens": 2}
    model = str(run(**BOTH, max_steps=1))
    folder = run(**keys, model_name_or_path=model, preprocessing_num_workers=workers)
    assert results(folder, "predict")["predict_samples_left_out"] == 2
    assert results(folder, "eval")["eval_samples_left_out"] == 2
    assert len((folder / "generated_predictions.jsonl").read_text().splitlines()) == 3
    whole = run(**{**keys, **data(clips()[0]), "dataset": None}, model_name_or_path=model)
    assert results(whole, "predict")["predict_samples_left_out"] == 0


def test_skip_with_no_clip_left_is_refused(bad, capfd):
    message = refused_run(capfd, **BOTH, **data(bad["missing"], bad["empty"]), motion_on_error="skip")
    assert message.startswith("the data sets cannot be loaded: Cannot find valid samples")


def test_a_clip_of_one_frame_trains_text_and_no_motion():
    one = write_clip(session_folder() / "one.mp4", 1)
    folder = run(**BOTH, **data(one, one))
    assert losses(folder, "motion_valid") == [0, 0]
    assert all(0 < loss < 20 for loss in losses(folder))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_error", ["auto", "skip"])
def test_a_torn_clip_is_left_out_while_training(on_error, workers, torn, capfd):
    output = fresh_folder()
    said = trained(
        capfd, **BOTH, **data(torn, clips()[0], clips()[1], torn), motion_on_error=on_error,
        dataloader_num_workers=workers, output_dir=str(output),
    )  # fmt: skip
    problem = f"{torn}: ends after 4 of 16 frames (damaged: Invalid data found when processing input)"
    assert said.count(f"Left out of a batch: {problem}") == 1
    assert f"Left out 2 clips during the run, 1 different: {problem}" in said and "(2x)" in said
    assert results(output, "train")["clips_left_out"] == 2
    assert all(0 < loss < 20 for loss in losses(output))
    assert all(tensor.isfinite().all() for tensor in weights(output).values())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torn_clip_stops_the_run_with_raise(workers, torn, capfd):
    keys = data(clips()[0], clips()[1], torn, clips()[3])
    message = refused_run(capfd, **BOTH, **keys, motion_on_error="raise", dataloader_num_workers=workers)
    assert message.startswith(f"{torn}: ends after 4 of 16 frames")
    keys = {"do_train": None, "do_eval": True, "eval_dataset": "toy", "dataset_dir": keys["dataset_dir"]}
    keys |= {"model_name_or_path": str(run(**BOTH)), "dataloader_num_workers": workers}
    message = refused_run(capfd, **BOTH, **keys, motion_on_error="raise")
    assert message.startswith(f"{torn}: ends after 4 of 16 frames")


@pytest.mark.parametrize("objective", [BOTH, MOTION], ids=["both", "motion"])
def test_a_batch_of_torn_clips_changes_nothing_and_the_run_goes_on(objective, torn):
    keys = {"optim": "sgd", "max_grad_norm": 0.0, "save_strategy": "steps", "save_steps": 1, **objective}
    folder = run(**data(torn, torn, clips()[0], clips()[1]), **keys)
    before = weights(tiny())
    after = weights(folder / "checkpoint-1")
    assert distance(before, {name: after[name] for name in before}) == 0
    assert len(losses(folder)) == 1 and losses(folder)[0] > 0


def test_a_torn_clip_in_a_packed_row_leaves_the_row_out(torn):
    keys = {"packing": True, "neat_packing": True, "cutoff_len": 128, "flash_attn": "disabled", "max_steps": 3}
    folder = run(**BOTH, **data(torn, clips()[0], clips()[1], clips()[3]), **keys, per_device_train_batch_size=1)
    assert all(math.isfinite(loss) for loss in losses(folder))
    assert results(folder, "train")["clips_left_out"] > 0


def test_prediction_keeps_the_place_of_a_torn_clip(torn, capfd):
    keys = data(clips()[0], torn, clips()[1]) | {"dataset": None, "eval_dataset": "toy", "train_on_video_tokens": True}
    keys |= {"do_predict": True, "predict_with_generate": True, "max_new_tokens": 4}
    folder = run(**keys, model_name_or_path=str(run(**BOTH)))
    assert len((folder / "generated_predictions.jsonl").read_text().splitlines()) == 3
    assert sorted(file.name for file in (folder / "motion_predictions").glob("*.npz")) == ["000000.npz", "000002.npz"]


def test_video_tokens_that_cutoff_len_cuts_are_refused(capfd):
    message = refused_run(capfd, **BOTH, **data(clips()[0]), cutoff_len=30)
    assert message.startswith(
        f"{clips()[0]}: cutoff_len 30 leaves 10 of the sample's 32 video tokens: raise cutoff_len"
    )
    message = refused_run(capfd, **BOTH, **data(clips()[0]), cutoff_len=31, neat_packing=True)
    assert message.startswith(f"{clips()[0]}: cutoff_len 31, less 1 for packing, leaves 10 of the sample's 32 video")


# ---- motion files ----


def motion_files(*arrays):
    """A folder with a file for each of the first and the fourth clip."""
    folder = fresh_folder("motion")
    folder.mkdir()
    for clip, array in zip((clips()[0], clips()[3]), arrays, strict=False):
        np.save(folder / f"{clip.stem}.npy", array)
    return str(folder)


def field(frames, rows=4, cols=4):
    return np.ones((frames, rows, cols, 2), np.float32)


WRONG_FILES = {
    "shape": (field(16, 3, 2), ["[16, 3, 2, 2]", "[16 or 15, 4, 4, 2]"]),
    "length": (field(3), ["[3, 4, 4, 2]", "[16 or 15, 4, 4, 2]"]),
    "dtype": (field(16).astype(np.int64), ["floats", "int64"]),
    "infinite": (field(16) * np.inf, ["not finite"]),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_motion_file_that_does_not_fit_is_refused_before_training(kind, capfd):
    array, said = WRONG_FILES[kind]
    folder = motion_files(array, field(5))
    keys = data(clips()[0], clips()[3]) | {"motion_source": "file", "motion_dir": folder}
    message = refused_run(capfd, **BOTH, **keys)
    assert message.startswith(f"{folder}/0.npy: ") and all(part in message for part in said)
    said = trained(capfd, **BOTH, **keys, motion_on_error="skip")
    assert f"Without motion were 2 clips during the run, 1 different: {folder}/0.npy" in said


def test_motion_files_that_are_missing(capfd):
    keys = data(clips()[0], clips()[3]) | {"motion_source": "file"}
    folder = motion_files()
    message = refused_run(capfd, **BOTH, **keys, motion_dir=folder)
    assert message.startswith(
        f"motion_source: file gives no motion for data set toy.json: {clips()[0]}: no motion file"
    )
    message = refused_run(capfd, **BOTH, **keys, motion_dir=f"{folder}-of-nobody")
    assert message == f"motion_dir: {folder}-of-nobody is no folder"
    said = trained(capfd, **BOTH, **keys, motion_dir=motion_files(field(16)))
    assert "file for 1" in said and "none for 1" in said


def test_two_clips_that_take_one_motion_file_are_refused(capfd):
    folder = motion_files(field(16))
    other = fresh_folder("other") / clips()[0].with_suffix(".mkv").name
    other.parent.mkdir()
    other.write_bytes(clips()[0].read_bytes())
    message = refused_run(capfd, **BOTH, **data(clips()[0], other), motion_source="file", motion_dir=folder)
    assert message.startswith(f"{folder}/0.npy would be the motion of both {clips()[0]} and {other}: ")


def test_an_output_folder_where_a_run_would_write_over_something(tmp_path, capfd):
    """Before the model is loaded, which there is none of."""
    (tmp_path / "file").write_text("mine")
    keys = BOTH | {"model_name_or_path": "/nowhere"}
    message = refused_run(capfd, **keys, output_dir=str(tmp_path / "file" / "run"))
    assert message == f"{tmp_path}/file is no folder: choose another output folder"
    for number, name in enumerate(("README.md", "motion_predictions/000000.npz", "motion_pictures/eval-000001.png")):
        file = tmp_path / str(number) / name
        file.parent.mkdir(parents=True)
        file.write_text("mine")
        message = refused_run(capfd, **keys, output_dir=str(tmp_path / str(number)))
        assert message.startswith(f"{file} ") and file.read_text() == "mine"
    message = refused_run(capfd, **BOTH, output_dir=str(tiny()), overwrite_output_dir=True)
    assert message == f"output_dir: {tiny()} is also model_name_or_path and would be written over: choose another"


def test_motion_files_train():
    folder = run(
        **MOTION, **data(clips()[0], clips()[3]), motion_source="file", motion_dir=motion_files(field(16), field(5))
    )
    # one pixel is 1/14 of a patch; the head says zero at first
    assert losses(folder, "motion_loss")[0] == pytest.approx((1 / 14) ** 2 / 2, rel=1e-3)


OWN = """
import numpy as np
from motiontune.errors import MotionUnavailable
from motiontune.motion.field import MotionField

def halves(clip, grid, direction):
    # one patch to the right in the left half, with less confidence than that the right half stands still
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    vectors[:, :, : grid.cols // 2, 0] = grid.patch
    confidence = np.ones(vectors.shape[:3], np.float32)
    confidence[:, :, : grid.cols // 2] = 0.4
    return MotionField.from_confidence(vectors, confidence, np.zeros(grid.frames), "halves", direction)

def fails(clip, grid, direction):
    return [][1]

def fails_once(clip, grid, direction):
    if clip.path.endswith("0.mp4"):
        raise MotionUnavailable(f"{clip.path}: no idea")
    return halves(clip, grid, direction)
"""


@pytest.fixture(scope="module")
def own():
    file = session_folder() / "own.py"
    file.write_text(OWN)
    return file


def test_a_function_of_the_users_that_fails_is_refused_before_training(own, capfd):
    keys = data(clips()[0], clips()[3])
    message = refused_run(capfd, **BOTH, **keys, motion_source=f"{own}:fails")
    assert message == f"{clips()[0]}: {own}:fails failed: IndexError: list index out of range"
    message = refused_run(capfd, **BOTH, **keys, motion_source=f"{own}:fails", motion_on_error="skip")
    assert message.startswith(f"motion_source: {own}:fails gives no motion for data set toy.json: {clips()[0]}: ")
    said = trained(capfd, **BOTH, **keys, motion_source=f"{own}:fails_once")
    assert "none for 1" in said and f"{own}:fails_once for 1" in said


@pytest.mark.parametrize(("weighting", "expected"), [(False, 0.5 / 4), (True, 0.4 * 0.5 / (2 * 0.4 + 2))])
def test_a_function_of_the_users_trains_with_and_without_weights(weighting, expected, own):
    keys = {"motion_source": f"{own}:halves", "dataloader_num_workers": 1, "motion_confidence_weighting": weighting}
    keys |= {"motion_min_confidence": 0.3}  # below that of half of its vectors
    folder = run(**MOTION, **data(clips()[0], clips()[3]), **keys)
    # half of the vectors are one patch long, which costs 0.5 for one of two numbers; the head says zero at first
    assert losses(folder, "motion_loss")[0] == pytest.approx(expected, rel=1e-5)
    assert losses(folder, "motion_valid")[0] == 1
    assert results(folder, "train")["clips_halves"] == 4


def test_a_source_that_gives_no_motion_is_refused(capfd):
    message = refused_run(capfd, **BOTH, **data(clips()[2]), motion_source="codec")
    assert message == "motion_source: codec gives no motion for data set toy.json: vp9 has no exported vectors"


# ---- heads ----


@pytest.fixture(scope="module")
def with_head():
    return run(**BOTH)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"motion_head_input": "layer:1"}, "has input last_hidden, this model and configuration have layer:1"),
        ({"motion_direction": "future"}, "has direction past, this model and configuration have future"),
        ({"motion_scale": 2.0}, "has scale 1.0, this model and configuration have 2.0"),
    ],
)
def test_a_head_for_other_keys_is_refused(keys, said, with_head, capfd):
    message = refused_run(capfd, **BOTH, model_name_or_path=str(with_head), **keys)
    assert f"the motion head in {with_head} {said}" in message


def copy_head(source, target):
    for name in ("motion_head.safetensors", "motion_head_config.json"):
        (target / name).write_bytes((source / name).read_bytes())


def test_a_head_of_another_model_or_processor_is_refused(with_head, capfd):
    wide = tiny(hidden_size=64, seed=1)
    copy_head(with_head, wide)
    message = refused_run(capfd, **BOTH, model_name_or_path=str(wide))
    assert f"the motion head in {wide} has hidden_size 32, this model and configuration have 64" in message

    other = tiny("qwen3_vl", seed=1)
    copy_head(with_head, other)
    message = refused_run(capfd, "qwen3_vl", **BOTH, model_name_or_path=str(other))
    assert f"the motion head in {other} has patch 14, this model and configuration have 16" in message


def test_a_head_that_cannot_be_read_is_refused(with_head, capfd):
    broken = tiny(seed=2)
    copy_head(with_head, broken)
    (broken / "motion_head.safetensors").write_bytes(b"no weights")
    assert "the motion head cannot be read" in refused_run(capfd, **BOTH, model_name_or_path=str(broken))
    (broken / "motion_head.safetensors").unlink()
    message = refused_run(capfd, **BOTH, model_name_or_path=str(broken))
    assert message.startswith(f"{broken}: found only one of motion_head_config.json and motion_head.safetensors")


def test_predicting_without_a_head_is_refused(capfd):
    keys = {"do_predict": True, "predict_with_generate": True, "eval_dataset": "toy", "train_on_video_tokens": True}
    plain = tiny(seed=3)
    message = refused_run(capfd, **keys, model_name_or_path=str(plain))
    assert message.startswith(f"{plain} has no motion head: train one, or leave train_on_video_tokens")


# ---- models and templates ----


@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
def test_a_model_without_video_tokens_is_refused(kind, capfd):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=444
    )
    folder = fresh_folder("text")
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny()).save_pretrained(folder)
    for template in ("qwen2_vl", "qwen"):
        message = refused_run(capfd, **BOTH, model_name_or_path=str(folder), template=template)
        assert message.startswith(f"model type {kind.lower()} has no video tokens: motion needs Qwen2-VL")


MODEL_MISTAKES = [
    ({"model_name_or_path": "/nowhere/model"}, "model_name_or_path: /nowhere/model is no folder"),
    (
        {"model_name_or_path": "nobody/nothing"},
        "nobody/nothing is no folder here, and not in the hub's cache",
    ),
    (
        {"adapter_name_or_path": "/nowhere", "finetuning_type": "lora"},
        "the model cannot be loaded: Can't find 'adapter",
    ),
    ({"finetuning_type": "lora", "lora_target": "nope"}, "the model cannot be loaded: "),
    ({"template": "qwen2_vll"}, "template: 'qwen2_vll' does not exist: did you mean 'qwen2_vl'?"),
    ({"template": None}, "template None has no video tokens that motiontune knows: use qwen2_vl"),
    ({"template": "llama3"}, "template llama3 has no video tokens that motiontune knows: use qwen2_vl"),
    ({"template": "qwen3_vl_nothink"}, "template: qwen3_vl_nothink is not for models of type qwen2_vl: use qwen2_vl"),
    (
        {"motion_head_input": "layer:9"},
        "motion_head_input: 'layer:9' is none of last_hidden, projector, encoder, layer:K with K",
    ),
    (
        {"motion_head_input": "first"},
        "motion_head_input: 'first' is none of last_hidden, projector, encoder, layer:K with K from",
    ),
    ({"report_to": "nothing"}, "nothing is not supported, only "),
]


@pytest.mark.parametrize(("keys", "said"), MODEL_MISTAKES, ids=[str(keys) for keys, _ in MODEL_MISTAKES])
def test_a_model_or_template_that_cannot_be_used(keys, said, capfd):
    assert refused_run(capfd, **BOTH, **keys).startswith(said)


def test_a_template_of_another_family_is_refused(capfd):
    message = refused_run(capfd, "qwen3_vl", **BOTH, template="qwen2_vl")
    assert message == "template: qwen2_vl is not for models of type qwen3_vl: use qwen3_vl or qwen3_vl_nothink"


# ---- data sets ----


def test_a_data_set_that_is_not_listed(capfd):
    info = f"{toy()['dataset_dir']}/dataset_info.json"
    message = refused_run(capfd, **BOTH, dataset="toyy")
    assert message == f"dataset: 'toyy' is not in {info}: did you mean 'toy'?"
    assert refused_run(capfd, dataset="toyy") == message  # without motion, too
    assert refused_run(capfd, **BOTH, eval_dataset="toys").startswith("dataset: 'toys' is not in ")
    message = refused_run(capfd, **BOTH, dataset_dir="/nowhere")
    assert message == "dataset_dir: /nowhere/dataset_info.json does not exist"


def edit(keys, old, new, file="dataset_info.json"):
    path = Path(keys["dataset_dir"]) / file
    path.write_text(path.read_text().replace(old, new))
    return keys


def test_a_data_set_that_cannot_be_loaded(capfd):
    def said(keys):
        return refused_run(capfd, **BOTH, **keys)

    assert "dataset_info.json cannot be read: " in said(edit(data(clips()[0]), "{", "", "dataset_info.json"))
    assert "JSON parse error" in said(edit(data(clips()[0]), "[", "[{", "toy.json"))
    assert "nope.json not found" in said(edit(data(clips()[0]), "toy.json", "nope.json"))
    assert said(edit(data(clips()[0]), '"videos": "videos"', '"videos": "video"')) == (
        "a data set lacks a column that dataset_info.json names: KeyError 'video'"
    )
    assert "Cannot find valid samples" in said(edit(data(clips()[0]), '"user_tag": "user"', '"user_tag": "human"'))
    assert said(data()).startswith("the data sets cannot be loaded: ")
    message = said(dataset([sample("<video><video>What moves?", "It stops.", videos=[clips()[0]])]))
    assert "The number of videos does not match the number of <video> tokens" in message


def test_training_data_without_any_video_is_refused(capfd):
    message = refused_run(capfd, **BOTH, **dataset([sample("Hello?", "It stops.") for _ in range(4)]))
    assert message.startswith("train_on_video_tokens: no sample of toy has a video, so there is no motion to learn: ")
    mixed = [sample("Hello?", "It stops."), sample(PROMPT, "It stops.", videos=[clips()[0]])]
    assert "Data set toy.json" not in trained(capfd, **BOTH, **dataset(mixed), max_steps=1)


# ---- keys ----

KEY_MISTAKES = [
    ({"motion_los_weight": 2}, "unknown key 'motion_los_weight': did you mean 'motion_loss_weight'?"),
    (
        {"finetuning_type": "lorra"},
        "finetuning_type: 'lorra' is none of lora, oft, freeze, full: did you mean 'lora'?",
    ),
    ({"stage": "pt"}, "use_motionvector_crossentropy_loss needs `stage: sft`, not pt"),
    ({"stage": "dpo"}, "use_motionvector_crossentropy_loss needs `stage: sft`, not dpo"),
    (
        {"use_only_motionvector_loss": True},
        "use_only_motionvector_loss and use_motionvector_crossentropy_loss are both ",
    ),
    ({"packing": True}, "packing lets samples see each other's motion: use `neat_packing: true` instead"),
    ({"train_on_prompt": True}, "train_on_prompt puts cross-entropy on every video token, which is no text: "),
    ({"use_dft_loss": True}, "use_motionvector_crossentropy_loss cannot be combined with use_dft_loss"),
    (
        {"streaming": True},
        "streaming needs `accelerator_config: {dispatch_batches: false}` and dataloader_num_workers",
    ),
    ({"dataset": None}, "Please specify dataset for training."),
    ({"model_name_or_path": None}, "Please provide `model_name_or_path`."),
    ({"motion_loss_weight": -1}, "motion_loss_weight: -1 must be 0 or more"),
    ({"motion_loss_weight": "two"}, "motion_loss_weight: 'two' is not a number"),
    (
        {"use_motionvector_crossentropy_loss": "false"},
        "use_motionvector_crossentropy_loss: 'false' is text, it must be ",
    ),
    ({"learning_rate": "fast"}, "learning_rate: 'fast' is not a number"),
    ({"max_steps": "2.5"}, "max_steps: '2.5' is not a whole number"),
    ({"do_train": "1"}, "do_train: '1' is text, it must be true or false (without quotes)"),
    ({"motion_scale": 0}, "motion_scale: 0 must be from 1e-06 to 1e+06"),
    ({"motion_head_learning_rate": -1.0}, "motion_head_learning_rate: -1.0 must be 0 or more"),
    ({"motion_loss_type": "huber"}, "motion_loss_type: 'huber' is none of smooth_l1, l1, l2, epe"),
    ({"motion_head": "deltadirct"}, "motion_head: 'deltadirct' is none of deltadirect: did you mean 'deltadirect'?"),
    ({"motion_head_features": "x"}, "motion_head_features: 'x' is none of token, delta"),
    ({"motion_head_form": "pool"}, "motion_head_form: 'pool' is none of dense, pooled"),
    ({"motion_head_output": "unit"}, "motion_head_output: 'unit' is none of displacement, direction"),
    ({"motion_gradient": "none"}, "motion_gradient: 'none' is none of all, head, projector"),
    (
        {"motion_gradient": "projector"},
        "motion_gradient: projector needs `motion_head_input: projector`, not last_hid",
    ),
    ({"motion_head_output": "direction", "motion_scale": 0.1}, "motion_scale is of displacements, "),
    ({"motion_source": "radar"}, "motion_source: 'radar' is none of auto, codec, codec+flow, blockmatch, "),
    ({"motion_source": "radar.py:waves"}, "motion_source: radar.py does not exist"),
    ({"motion_quality": "good"}, "motion_quality: 'good' is none of fast, balanced, best"),
    ({"motion_min_confidence": 1.0}, "motion_min_confidence: 1.0 must be 0 or more and below 1"),
    ({"motion_direction": "pasd"}, "motion_direction: 'pasd' is none of past, future: did you mean 'past'?"),
    ({"motion_on_error": "ignore"}, "motion_on_error: 'ignore' is none of auto, raise, skip"),
    ({"motion_raft_weights": "x.pth"}, "motion_raft_weights is only read with `motion_source: raft`, not auto"),
    ({"motion_source": "raft", "motion_raft_weights": "x.pth"}, "motion_raft_weights: x.pth cannot be read as "),
    ({"motion_dir": "."}, "motion_dir is only read with `motion_source: file`, not auto"),
    ({"video_fps": 0}, "video_fps: 0 must be positive and finite"),
    ({"video_fps": math.inf}, "video_fps: inf must be positive and finite"),
    ({"motion_scale": 1e-45}, "motion_scale: 1e-45 must be from 1e-06 to 1e+06"),
    ({"label_smoothing_factor": 2.0}, "label_smoothing_factor: 2.0 must be from 0 to 1"),
    ({"learning_rate": math.nan}, "learning_rate: NaN must be a number"),
    ({"output_dir": ""}, "output_dir: has no value: name a folder"),
    ({"video_maxlen": 1}, "video_maxlen: 1 leaves no motion: sample 2 frames or more"),
    ({"resume_from_checkpoint": "/nowhere"}, "resume_from_checkpoint: /nowhere is no folder"),
    ({"lr_scheduler_type": "cosinus"}, "cosinus is not a valid SchedulerType"),
    ({"do_train": None, "dataset": None}, "there is nothing to do: set do_train, do_eval or do_predict"),
    (
        {"train_on_video_tokens": True, "use_motionvector_crossentropy_loss": None},
        "train_on_video_tokens needs a loss: use_motionvector_crossentropy_loss (motion and text) or use_only_motion",
    ),
    (
        {"use_motionvector_crossentropy_loss": None, "use_only_motionvector_loss": True, "motion_loss_weight": 0},
        "use_only_motionvector_loss with `motion_loss_weight: 0` trains nothing",
    ),
]


@pytest.mark.parametrize(("keys", "said"), KEY_MISTAKES, ids=[str(keys) for keys, _ in KEY_MISTAKES])
def test_keys_that_cannot_be_run(keys, said, capfd):
    assert refused_run(capfd, **{**BOTH, **keys}).startswith(said)


DAMAGED = [
    ("config.json", b"[]", "it holds [], not an object in braces"),
    ("config.json", b"", "Expecting value: line 1 column 1 (char 0)"),
    ("generation_config.json", b"null", "it holds null, not an object in braces"),
    ("model.safetensors", b"", "Error while deserializing header"),
    ("processor_config.json", b'{"a":', "Expecting value"),
    ("tokenizer_config.json", b"\xff", "'utf-8' codec can't decode byte 0xff"),
    ("adapter_config.json", b"[]", "it holds [], not an object in braces"),
    ("adapter_config.json", b'{"a": 1}', "it has no peft_type"),
    ("adapter_model.safetensors", b"not tensors", "Error while deserializing header"),
]


@pytest.mark.parametrize(("name", "content", "why"), DAMAGED, ids=[f"{name} {text!r}" for name, text, _ in DAMAGED])
def test_a_damaged_file_of_a_model_is_named(name, content, why, tmp_path, capfd):
    shutil.copytree(tiny(), tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    keys = {"adapter_name_or_path": str(tmp_path), "finetuning_type": "lora"} if name.startswith("adapter") else {}
    keys = keys or {"model_name_or_path": str(tmp_path)}
    message = refused_run(capfd, **BOTH, **keys)
    assert message.startswith(f"{tmp_path / name} is damaged: {why}") and message.endswith("model or checkpoint")
    if not name.startswith(("processor", "tokenizer")):  # which text alone can do without
        assert refused_run(capfd, **keys) == message


TRAINS = {"do_train": True, "dataset": "toy"}
VALUES = [
    ({"learning_rate": math.inf}, "learning_rate: inf must be finite"),
    ({"learning_rate": "nan"}, "learning_rate: nan must be a number"),
    ({"learning_rate": [1e-4]}, "learning_rate: [0.0001] must be a number"),
    ({"max_grad_norm": math.nan}, "max_grad_norm: nan must be a number"),
    ({"num_train_epochs": math.inf}, "num_train_epochs: inf must be finite"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: 0 must be 1 or more"),
    ({"per_device_train_batch_size": "1.5"}, "per_device_train_batch_size: 1.5 must be a whole number"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: 0 must be 1 or more"),
    ({"eval_strategy": "epoch", "per_device_eval_batch_size": 0}, "per_device_eval_batch_size: 0 must be 1 or more"),
    ({"dataloader_num_workers": -1}, "dataloader_num_workers: -1 must be 0 or more"),
    ({"preprocessing_num_workers": 0}, "preprocessing_num_workers: 0 must be 1 or more"),
    ({"neftune_noise_alpha": -1.0}, "neftune_noise_alpha: -1.0 must be 0 or more"),
    ({"max_samples": 0}, "max_samples: 0 must be 1 or more"),
    ({"output_dir": ["a"]}, "output_dir: ['a'] must be text"),
    ({"output_dir": 5}, "output_dir: 5 must be text, in quotes"),
    ({"dataset": 5}, "dataset: 5 must be text, in quotes"),
]


@pytest.mark.parametrize(("keys", "said"), VALUES, ids=[str(keys) for keys, _ in VALUES])
def test_values_that_cannot_work_are_refused_before_anything_is_loaded(keys, said):
    from motiontune.llamafactory.config import clean_values
    from motiontune.llamafactory.names import train_argument_classes

    start()
    keys = {**TRAINS, **keys}
    with pytest.raises(ConfigError) as refusal:
        clean_values(keys, train_argument_classes())
    assert str(refusal.value) == said


WORKS = [
    {**TRAINS, "max_grad_norm": math.inf},
    {**TRAINS, "max_steps": 5, "num_train_epochs": math.inf},
    {**TRAINS, "streaming": True, "preprocessing_num_workers": 0},
    {**TRAINS, "dataset": ["toy", "other"], "per_device_eval_batch_size": 0},
    {"do_eval": True, "per_device_train_batch_size": 0, "gradient_accumulation_steps": 0, "run_name": "nan"},
    {**TRAINS, "label_smoothing_factor": 2.0, "video_fps": math.inf},  # LLaMA-Factory alone trains text with these
]


@pytest.mark.parametrize("keys", WORKS, ids=str)
def test_values_that_may_work_are_left_as_they_are(keys):
    from motiontune.llamafactory.config import clean_values
    from motiontune.llamafactory.names import train_argument_classes

    start()
    assert clean_values(keys, train_argument_classes()) == keys


def test_streaming_runs_with_what_it_needs():
    keys = {"streaming": True, "dataloader_num_workers": 1, "accelerator_config": {"dispatch_batches": False}}
    keys["buffer_size"] = 1  # else the order is another one
    streamed, plain = run(**BOTH, **keys), run(**BOTH)
    assert losses(streamed) == losses(plain) and distance(weights(streamed), weights(plain)) == 0


def test_a_bug_while_training_is_not_called_a_mistake(monkeypatch):
    from motiontune.llamafactory.trainer import MotionTrainer

    def broken(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr(MotionTrainer, "compute_loss", broken)
    with pytest.raises(ValueError, match="a bug"):
        run(**BOTH)


def test_a_key_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="motion_source: has no value"):
        start()({**keys_for(**BOTH), "motion_source": None})


def test_numbers_that_yaml_reads_as_text_are_numbers():
    text = {
        "learning_rate": "1e-3",
        "max_steps": "2",
        "motion_loss_weight": "5e-1",
        "motion_head_learning_rate": "1e-2",
    }
    number = {"learning_rate": 1e-3, "max_steps": 2, "motion_loss_weight": 0.5, "motion_head_learning_rate": 1e-2}
    assert losses(run(**BOTH, **text)) == losses(run(**BOTH, **number))


def test_no_is_no():
    folder = run(**BOTH, save_strategy=False, eval_strategy=False)  # as YAML 1.1 reads `save_strategy: no`
    assert losses(folder) == losses(run(**BOTH)) and not list(folder.glob("checkpoint-*"))


# ---- keys that were renamed ----


def test_the_old_name_of_a_key_still_works_and_is_logged_once(capfd):
    from motiontune.llamafactory.config import _renamed

    new = fresh_folder(), fresh_folder()
    for folder, name in zip(new, ("motion_target", "motion_direction"), strict=True):
        _renamed.cache_clear()
        said = trained(capfd, **BOTH, **{name: "future"}, max_steps=1, output_dir=str(folder))
        notice = "`motion_target` is called `motion_direction` now. The old name still works."
        assert said.count(notice) == (name == "motion_target")
    assert losses(new[0]) == losses(new[1]) != losses(run(**BOTH, max_steps=1))
    message = refused_run(capfd, **BOTH, motion_target="past", motion_direction="future")
    assert message == "motion_target is called motion_direction now, and both are given: leave motion_target out"


def test_the_old_name_of_an_option_still_works():
    from motiontune.llamafactory.config import with_new_names

    assert with_new_names(["--motion_target", "future", "--seed", "1"]) == [
        "--motion_direction",
        "future",
        "--seed",
        "1",
    ]
    assert with_new_names(["--motion-target=future"]) == ["--motion_direction=future"]
