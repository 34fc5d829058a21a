"""`motiontune predict` and `MotionModel`: text and motion of clips, as training's own prediction gives them."""

import json
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

import training
from commands import command, refused
from motiontune import MotionModel
from motiontune.drawing.text import printable
from motiontune.errors import ConfigError, HeadError, MotiontuneError
from motiontune.evaluation.comparison import MotionComparison, load_predictions
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.video.clip import read_clip


SIZES = {"fps": 8.0, "max_frames": 16}
OPTIONS = ["--fps", "8", "--max-frames", "16", "--max-new-tokens", "4"]


@pytest.fixture(scope="module", autouse=True)
def imported():
    training.start()


def trained(family="qwen2_vl", **keys):
    keys = {"learning_rate": 1e-2, "motion_scale": 0.1, **training.BOTH, **keys}
    return training.run(family, **training.toy(4), **keys)


@pytest.fixture(scope="module")
def model():
    return MotionModel.from_pretrained(trained(), **SIZES)


# ---- what is said ----


@pytest.mark.parametrize("family", training.FAMILIES)
def test_text_and_motion_are_those_of_predict_with_generate(family):
    folder, data = trained(family), training.toy(4)
    keys = {"model_name_or_path": str(folder), "dataset_dir": data["dataset_dir"], "eval_dataset": data["dataset"]}
    keys |= {"do_predict": True, "predict_with_generate": True, "do_sample": False, "max_new_tokens": 8}
    out = training.run(family, train_on_video_tokens=True, per_device_eval_batch_size=1, **keys)
    lines = (out / "generated_predictions.jsonl").read_text("utf-8").splitlines()
    model = MotionModel.from_pretrained(folder, **SIZES)
    for line, theirs in zip(lines, load_predictions(out / "motion_predictions"), strict=True):
        said = model.predict(theirs.path, training.PROMPT, compare_with="auto", max_new_tokens=8)
        frames = len(said.clip.frames)
        assert said.text == json.loads(line)["predict"].strip()
        assert said.field.source == "model" and said.target.source == theirs.source
        valid = said.field.valid
        assert valid.any() and not valid[0].any()
        np.testing.assert_allclose(said.field.vectors[valid], theirs.predicted[:frames][valid], atol=1e-4)
        np.testing.assert_allclose(said.target.vectors, theirs.target[:frames], atol=1e-4)
        assert said.sums().metrics() == pytest.approx(theirs.sums().metrics(), rel=1e-4)
        kept = MotionComparison.load(said.comparison().save(out / "again.npz"))
        assert kept.sums() == said.sums() and (kept.path, kept.source) == (theirs.path, theirs.source)


def test_text_and_motion_cost_one_pass_over_the_video(model, monkeypatch):
    passes = []
    original = model.model.model.visual.forward
    monkeypatch.setattr(
        model.model.model.visual, "forward", lambda *a, **k: passes.append("encoder") or original(*a, **k)
    )
    decoder = model.model.model.language_model
    handle = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    said = model.predict(training.clips()[0], max_new_tokens=4, min_new_tokens=4)
    handle.remove()
    encoder, prefill, *steps = passes
    assert encoder == "encoder" and prefill > said.grid.frames // 2 * 4 and steps == [1, 1, 1]
    assert said.field.vectors.any()


def test_an_adapter_is_loaded_on_its_base_and_a_merged_model_says_the_same(tmp_path):
    adapter = trained(finetuning_type="lora", lora_rank=4)
    clip = training.clips()[0]
    said = MotionModel.from_pretrained(adapter, **SIZES).predict(clip, max_new_tokens=8)
    copy = shutil.copytree(training.tiny(), tmp_path / "base")
    other = MotionModel.from_pretrained(adapter, base=str(copy), **SIZES).predict(clip, max_new_tokens=8)
    from motiontune.commands.export import export

    merged = tmp_path / "merged"
    keys = {"model_name_or_path": str(training.tiny()), "adapter_name_or_path": str(adapter)}
    export(keys | {"template": "qwen2_vl", "export_dir": str(merged), "trust_remote_code": True})
    whole = MotionModel.from_pretrained(merged, **SIZES).predict(clip, max_new_tokens=8)
    assert said.field.vectors.any()
    for one in (other, whole):
        assert one.text == said.text
        np.testing.assert_allclose(one.field.vectors, said.field.vectors, atol=1e-4)


def test_the_future_head_is_valid_up_to_the_last_frame():
    model = MotionModel.from_pretrained(trained(motion_direction="future"), **SIZES)
    said = model.predict(training.clips()[1], compare_with="auto", max_new_tokens=1)
    assert model.direction == said.field.direction == said.target.direction == "future"
    assert said.field.valid[:-1].all() and not said.field.valid[-1].any()


def test_settings_and_prompts(model):
    first, second = (model.predict(training.clips()[0], prompt, max_new_tokens=1) for prompt in ("Hi", "Hi <video>!"))
    assert first.target is None and first.problem == ""
    assert not np.allclose(first.field.vectors, second.field.vectors)
    with pytest.raises(ConfigError, match="2 times <video>"):
        model.predict(training.clips()[0], "<video><video>")
    with pytest.raises(ConfigError, match="'radar' is none of"):
        model.predict(training.clips()[0], compare_with="radar")
    coarse = MotionModel.from_pretrained(model.reader.model_args.model_name_or_path, fps=2.0, max_pixels=28 * 28)
    said = coarse.predict(training.clips()[0], max_new_tokens=1)
    assert len(said.clip.frames) == 4 and said.grid.height == 28


def test_pictures(model):
    said = model.predict(training.clips()[0], compare_with="auto", max_new_tokens=1)
    both, arrows, colours = said.plot(), said.field.plot(said.clip.frames), said.field.plot(columns=3)
    assert both.width == arrows.width > colours.width and both.height > arrows.height
    wheel = {pixel for _, pixel in colours.getcolors(1 << 24)}
    assert len(wheel) > 20
    assert repr(said).startswith(f"MotionPrediction({said.text!r}, 0.mp4, MotionField(") and len(repr(said)) < 500
    assert said._repr_html_().startswith("<p>") and said._repr_html_().count("<img") == 1
    silent = replace(said, text="<b>", field=None)
    assert silent._repr_html_() == "<p>&lt;b&gt;</p>" and [panel.title for panel in silent.panels()] == [
        f"target: {said.target.source}"
    ]


def test_a_diverged_head_is_named(model, monkeypatch):
    monkeypatch.setattr(model.head.bias, "data", torch.full_like(model.head.bias, torch.nan))
    with pytest.raises(MotiontuneError, match=r"0\.mp4: the model's motion is not a number"):
        model.predict(training.clips()[0], max_new_tokens=1)


# ---- what cannot be loaded ----


def test_folders_that_are_no_model(tmp_path, capfd):
    def say(*arguments):
        return refused(capfd, "predict", training.clips()[0], "--out", tmp_path / "out", "--model", *arguments)

    (tmp_path / "empty").mkdir()
    assert (
        say(tmp_path / "empty") == f"{tmp_path}/empty is no model: it has neither config.json nor adapter_config.json"
    )
    assert "nothing cannot be loaded from a folder or the hub" in say(tmp_path / "nothing")
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text('{"model_type": "qwen2"}')
    assert say(text).startswith("model type qwen2 has no video tokens")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "does not name the adapter's model: name it with --base" in say(adapter)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere"}')
    assert "/nowhere cannot be loaded" in say(adapter) and "name another with --base" in say(adapter)
    assert "--base is for adapters" in say(training.tiny(), "--base", training.tiny())
    assert not (tmp_path / "out").exists()


def test_a_head_of_another_model_is_refused(tmp_path):
    folder = shutil.copytree(training.tiny(hidden_size=64), tmp_path / "model")
    for file in trained().glob("motion_head*"):
        shutil.copy(file, folder)
    with pytest.raises(HeadError, match="hidden_size 32, this model and configuration have 64"):
        MotionModel.from_pretrained(folder)


# ---- the command ----


def test_the_files_of_the_command(model, tmp_path, capfd):
    folder, clips = model.reader.model_args.model_name_or_path, [training.clips()[i] for i in (0, 2)]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    out = tmp_path / "out"
    code, said, err = command(capfd, "predict", clips[0], bad, clips[1], "--model", folder, "--out", out, *OPTIONS)
    assert code == 2 and "1 of 3 clips gave no prediction" in err and "Traceback" not in err
    assert "cannot be read as a video" in said and not (out / "bad.npz").exists()
    rows = json.loads((out / "predictions.json").read_text("utf-8"))["clips"]
    assert [bool(row["problem"]) for row in rows] == [False, True, False]
    assert f"{rows[0]['epe']:.2f}" in said and rows[0]["target"] == "codec+flow" and rows[0]["frames"] == 16
    for path, row in zip(clips, (rows[0], rows[2]), strict=True):
        with np.load(out / f"{path.stem}.npz") as saved:
            assert str(saved["text"]) == row["text"] and str(saved["source"]) == "model"
            error = np.linalg.norm(saved["vectors"] - saved["target"], axis=-1)[saved["target_valid"]].mean()
            assert row["epe"] == pytest.approx(error, abs=1e-3)
        clip = model.reader.read(str(path), False)
        grid = model.reader.grid_of(clip)
        again = motion_of(clip, grid, MotionOptions("file", motion_dir=str(out)))
        np.testing.assert_allclose(
            again.vectors[: len(clip.frames)], model.predict(path, max_new_tokens=4).field.vectors, atol=1e-5
        )
        with av.open(str(out / f"{path.stem}.motion.mp4")) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
            assert float(film.streams.video[0].average_rate) == 8
        assert len(frames) == len(read_clip(str(path), fps=100).frames) and frames[0].shape[1] == 2 * 240


def test_no_target_and_no_film(model, tmp_path, capfd):
    folder = model.reader.model_args.model_name_or_path
    arguments = ["--model", folder, "--out", tmp_path, *OPTIONS, "--target", "codec"]  # the old name of --compare-with
    code, said, err = command(capfd, "predict", training.clips()[2], *arguments, "--show", "none")
    assert code == 0 and "vp9 has no exported vectors" in said
    assert "--target is called --compare-with now; the old name still works\n" in err
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["2.npz", "predictions.json"]
    message = refused(capfd, "predict", training.clips()[2], "--model", folder, "--compare-with", "radar")
    assert "'radar' is none of" in message


@pytest.mark.parametrize("form", ["npy", "flo", "png"])
def test_motion_in_other_formats(model, tmp_path, capfd, form):
    """What `motion_source: file` reads from them is what the model said."""
    folder, path = model.reader.model_args.model_name_or_path, training.clips()[0]
    arguments = ["--model", folder, "--out", tmp_path, *OPTIONS, "--compare-with", "none", "--show", "none"]
    code, _, err = command(capfd, "predict", path, *arguments, "--format", form)
    assert code == 0, err[-2000:]
    said = model.predict(path, max_new_tokens=4)
    again = motion_of(said.clip, said.grid, MotionOptions("file", motion_dir=str(tmp_path)))
    np.testing.assert_array_equal(again.valid, said.field.valid)
    np.testing.assert_allclose(again.vectors, said.field.vectors, atol=1 / 64 if form == "png" else 1e-5)


def test_a_model_without_a_head_says_text_alone(tmp_path, capfd):
    code, said, err = command(
        capfd, "predict", training.clips()[0], "--model", training.tiny(), "--out", tmp_path, *OPTIONS
    )
    assert code == 0 and "has no motion head: text alone" in err
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["predictions.json"]
    (row,) = json.loads((tmp_path / "predictions.json").read_text("utf-8"))["clips"]
    assert row["mean_motion"] is None and printable(row["text"]) in said
    plain = MotionModel.from_pretrained(training.tiny(), **SIZES).predict(training.clips()[0])
    with pytest.raises(MotiontuneError, match="no motion to draw"):
        plain.plot()


def test_importing_motiontune_loads_nothing_large():
    code = "import sys, motiontune; assert not {'torch', 'llamafactory', 'cv2'} & set(sys.modules)"
    training.run_command("-c", code)
    with pytest.raises(AttributeError, match="no attribute 'Motion'"):
        import motiontune

        motiontune.Motion  # noqa: B018
