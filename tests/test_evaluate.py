"""`motiontune evaluate`: its numbers are those of what it predicted, and of LLaMA-Factory's own text metrics."""

import gc
import json
import os
import shutil
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml

import training
from commands import command, refused
from faults import Faults
from motiontune import MotionModel
from motiontune.commands.evaluate import measure_motion
from motiontune.datasets.dataset_info import make_sample, write_dataset
from motiontune.evaluation.comparison import MotionComparison, load_predictions
from motiontune.evaluation.sums import MotionSums
from motiontune.grid import VideoGrid
from motiontune.runs.folder import read_texts


OPTIONS = ["--fps", "8", "--max-frames", "16", "--max-new-tokens", "8", "--bootstrap", "50"]
LABELS = ["pushing cup", "spinning cube that quickly stops spinning", "pushing pen", "spinning a pen", "pushing a"]
TEMPLATES = ["Pushing [something]", "Spinning [something] that quickly stops spinning"]


@pytest.fixture(scope="module", autouse=True)
def imported():
    training.start()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    names = [TEMPLATES[0], TEMPLATES[1], TEMPLATES[0], TEMPLATES[1], TEMPLATES[0]]
    rows = [
        make_sample(str(clip), training.PROMPT, label, template=name)
        for clip, label, name in zip(training.clips()[:5], LABELS, names, strict=True)
    ]
    write_dataset(folder, "held_out", rows)
    return folder


@pytest.fixture(scope="module")
def model():
    return training.run(**training.toy(4), **training.BOTH, learning_rate=1e-2, motion_scale=0.1)


def evaluate(capfd, model, data, out, *more):
    arguments = ["--model", model, "--dataset", "held_out", "--dataset-dir", data, "--out", out, *OPTIONS, *more]
    code, said, err = command(capfd, "evaluate", *arguments)
    assert code == 0, err[-3000:]
    return json.loads((out / "evaluation.json").read_text("utf-8")), said


def test_the_numbers_are_those_of_the_predictions(model, data, tmp_path, capfd):
    result, said = evaluate(capfd, model, data, tmp_path, "--save-plots", "2", "--batch-size", "2")
    written = list(load_predictions(tmp_path / "motion_predictions"))
    assert result["clips"] == result["motion_clips"] == len(written) == 5 and result["left_out"] == 0
    assert list(result["motion"]) == ["all", "blockmatch+flow", "codec+flow"]
    for group, values in result["motion"].items():
        chosen = [one.sums() for one in written if group in ("all", one.source)]
        expected = sum(chosen, MotionSums.zero()).metrics()
        for name in ("epe", "epe_moving", "epe_zero_motion", "direction_accuracy"):
            assert values[name]["value"] == pytest.approx(expected[name], abs=1e-5)
    epe = result["motion"]["all"]["epe"]
    assert epe["ci95"][0] < epe["value"] < epe["ci95"][1] and f"{epe['value']:.2f} px" in said
    assert result["motion"]["blockmatch+flow"]["epe"]["ci95"] == [None, None]  # one clip
    theirs = json.loads((tmp_path / "predict_results.json").read_text())
    for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l"):
        assert result["text"][name]["value"] == pytest.approx(theirs[f"predict_{name}"], abs=1e-4)
    assert len(list((tmp_path / "plots").glob("*.png"))) == 2
    # the label "spinning a pen" does not follow its template, and no answer could be right
    assert result["text"]["template_recognised"]["value"] == 0.8


def test_the_text_is_that_of_do_predict_with_the_examples_keys_and_of_predict(model, data, tmp_path, capfd):
    """Of a model that was trained with a system message of its own, which nobody names again."""
    quiet = ["--compare-with", "blockmatch"]
    asked = training.run(**training.toy(4), **training.BOTH, default_system="Look twice.")
    arguments = ["--model", asked, "--dataset", "held_out", "--dataset-dir", data, "--max-samples", "2", *quiet]
    code, _, err = command(capfd, "evaluate", *arguments, "--bootstrap", "1", "--out", tmp_path / "evaluate")
    assert code == 0, err[-3000:]
    keys = yaml.safe_load(Path(training.REPOSITORY, "examples/qwen2vl_predict.yaml").read_text())
    assert not {"bf16", "fp16"} & keys.keys()
    generation = {key: keys[key] for key in ("predict_with_generate", "do_sample", "max_new_tokens")}
    keys = generation | {"do_predict": True, "eval_dataset": "held_out", "dataset_dir": str(data), "max_samples": 2}
    keys |= {"model_name_or_path": str(asked), "default_system": "Look twice.", "train_on_video_tokens": True}
    with training.logged() as messages:
        out = training.run(**keys, motion_source="blockmatch", dataset=None)
    assert "Text: greedy, at most 128 tokens." in messages
    texts = [answer for answer, _ in read_texts(out)]
    assert texts == [answer for answer, _ in read_texts(tmp_path / "evaluate")] and all(texts)
    said = MotionModel.from_pretrained(asked)
    clips = map(str, training.clips()[:2])
    assert [said.predict(clip, training.PROMPT).text for clip in clips] == [text.strip() for text in texts]
    plain = MotionModel.from_pretrained(asked, template="qwen2_vl")
    assert plain.reader.template.default_system == "Look twice."


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("again", [False, True], ids=["fresh", "again"])
def test_any_operation_on_files_may_fail(again, model, data, tmp_path, capfd):
    """Of a whole run: it ends in one line, or all numbers are there; results are the old ones, new ones or none."""
    faults, start = Faults(), tmp_path / "start"
    options = ["--save-plots", "1", "--max-samples", "2"]
    before, _ = evaluate(capfd, model, data, start, *options)
    number, failed, refused_ones = 0, True, 0
    while failed:
        number += 1
        out = tmp_path / f"{number}"
        if again:
            shutil.copytree(start, out)
        arguments = [
            "--model",
            model,
            "--dataset",
            "held_out",
            "--dataset-dir",
            data,
            "--out",
            out,
            *OPTIONS,
            *options,
        ]
        with faults.at(number, out):
            code, _, err = command(capfd, "evaluate", *arguments)
        failed, result = faults.left <= 0, out / "evaluation.json"
        assert code == 0 or (code == 2 and "Traceback" not in err and "No space left" in err), (number, err[-3000:])
        refused_ones += code == 2
        if result.exists():
            found = json.loads(result.read_text())
            assert found["motion"] == before["motion"] and found["text"] == before["text"], number
        assert code == 2 or (result.exists() and (out / "plots").exists()), number
        for file in [*out.rglob("*.json"), *out.rglob("*.jsonl")]:
            [
                json.loads(line)
                for line in ([file.read_text()] if file.suffix == ".json" else file.open())
                if line.strip()
            ]
        shutil.rmtree(out, ignore_errors=True)
    print(f"{number - 1} operations, {refused_ones} of them ended the run")
    assert refused_ones > 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_may_be_killed_before_any_operation_on_files(model, data, tmp_path, capfd):
    """What is left can be read whole, and the same command then ends with the numbers of an undisturbed run."""
    faults, options = Faults(), ["--save-plots", "1", "--max-samples", "2"]
    before, _ = evaluate(capfd, model, data, tmp_path / "undisturbed", *options)
    number, status = 0, signal.SIGKILL
    while status:
        number += 1
        out = tmp_path / f"{number}"
        child = os.fork()
        if child == 0:
            signal.alarm(120)  # should a lock that another thread held have come along
            code = 1
            try:
                with faults.at(number, out, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                    evaluate(capfd, model, data, out, *options)
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), number
        for file in out.rglob("*.json"):
            json.loads(file.read_text())
        after, _ = evaluate(capfd, model, data, out, *options)
        assert after["motion"] == before["motion"] and after["text"] == before["text"], number
        assert len(list(out.glob("plots/*.png"))) == 1 and not list(out.rglob("*.part")), number
        shutil.rmtree(out)
    print(f"killed before {number - 1} operations")
    assert number > 20


def test_answers_and_templates_are_counted(data, tmp_path, capfd, monkeypatch):
    """What a model says is replaced; counting is left."""
    from motiontune.llamafactory import install as module

    answers = ["Pushing a large cup.", LABELS[1], "pulling pen", "spinning a pen", "pushing a"]

    def predicted(keys):
        lines = [json.dumps({"predict": a, "label": b}) for a, b in zip(answers, LABELS, strict=True)]
        (tmp_path / "generated_predictions.jsonl").write_text("\n".join(lines) + "\n", "utf-8")

    monkeypatch.setattr(module, "run_exp", predicted)
    result, said = evaluate(capfd, training.tiny(), data, tmp_path)
    assert result["motion"] == {} and "text, 5 clips" in said and "motion, " not in said
    assert result["text"]["exact_match"]["value"] == 0.6
    assert result["text"]["template_accuracy"]["value"] == 0.6
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"Pushing something large": 0, "Pushing a large something": 1}))
    result, _ = evaluate(capfd, training.tiny(), data, tmp_path, "--templates", labels)
    assert result["text"]["template_accuracy"]["value"] == 0.4  # "Pushing a large cup." follows another one now


def test_code_of_a_model_or_data_set_is_run_only_where_asked(data, tmp_path, capfd, monkeypatch):
    from motiontune.llamafactory import install

    seen = []

    def predicted(keys):
        seen.append(keys.get("trust_remote_code", False))
        (tmp_path / "generated_predictions.jsonl").write_text('{"predict": "a", "label": "b"}\n', "utf-8")

    monkeypatch.setattr(install, "run_exp", predicted)
    evaluate(capfd, training.tiny(), data, tmp_path)
    result, _ = evaluate(capfd, training.tiny(), data, tmp_path, "--trust-remote-code")
    assert seen == [False, True] and result["keys"]["trust_remote_code"] is True


def test_any_number_of_clips_takes_the_memory_of_one(tmp_path):
    """Each clip is read when its turn comes; no other is in memory then, nor anything as large."""
    grid = VideoGrid(4, 40, 40)
    rng = np.random.default_rng(0)
    shape = (4, 40, 40, 2)
    for number in range(20):
        MotionComparison(
            rng.normal(size=shape).astype(np.float32),
            rng.normal(size=shape).astype(np.float32),
            np.ones(shape[:3], np.bool_),
            np.arange(4.0),
            grid,
            f"{number}.mp4",
            "codec",
            "past",
        ).save(tmp_path / f"{number:06d}.npz")
    live = []

    class Files(dict):
        def items(self):
            for item in super().items():
                gc.collect()
                live.append(sum(type(one) is MotionComparison for one in gc.get_objects()))
                yield item

    def peak(count):
        files = Files({(number, 0): tmp_path / f"{number:06d}.npz" for number in range(count)})
        tracemalloc.start()
        try:
            meter = measure_motion(files, tmp_path / "plots", 0, {})
            return tracemalloc.get_traced_memory()[1], meter
        finally:
            tracemalloc.stop()

    few, _ = peak(5)
    many, meter = peak(20)
    assert max(live) <= 1 and many < 1.2 * few
    expected = sum((one.sums() for one in load_predictions(tmp_path)), MotionSums.zero()).metrics()
    assert meter.metrics(10)["all"]["epe"].value == pytest.approx(expected["epe"])


def test_a_model_without_a_head_is_measured_by_its_text(data, tmp_path, capfd):
    result, said = evaluate(capfd, training.tiny(), data, tmp_path)
    assert "the model has no motion head: text alone\n" in said
    assert result["motion"] == {} and result["clips"] == 5 and "bleu-4" in result["text"]


@pytest.mark.parametrize("damage", ["within", "header"])
def test_a_clip_that_cannot_be_decoded_is_left_out(model, data, tmp_path, capfd, damage):
    broken, content = tmp_path / "broken.mp4", bytearray(training.clips()[0].read_bytes())
    start = content.index(b"mdat") + 200
    content[start : len(content) * 3 // 4] = bytes(len(content) * 3 // 4 - start)
    broken.write_bytes(content if damage == "within" else b"no video")
    good = training.clips()[1]
    write_dataset(data, "broken", [make_sample(str(clip), training.PROMPT, "x") for clip in (broken, good)])
    arguments = ["--model", model, "--dataset", "broken", "--dataset-dir", data, "--out", tmp_path / "out", *OPTIONS]
    with training.logged() as messages:
        code, _, err = command(capfd, "evaluate", *arguments)
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert result["clips"] + result["left_out"] == 2
    assert result["clips"] == len(list(load_predictions(tmp_path / "out" / "motion_predictions")))
    assert np.isfinite(result["motion"]["all"]["epe"]["value"])
    assert code == (2 if result["left_out"] else 0) and "Traceback" not in err
    if damage == "header":
        assert result["left_out"] == 1 and f"{broken}: cannot be read as a video" in "".join(messages)
        assert "1 of 2 clips cannot be read and are left out of all numbers" in err
        message = refused(capfd, "evaluate", "--model", training.tiny(), *arguments[2:])  # LLaMA-Factory's own reading
        assert message.startswith("a clip of the data set cannot be read: ") and str(broken) in message


def test_what_cannot_be_evaluated(model, data, tmp_path, capfd):
    def say(*arguments):
        return refused(capfd, "evaluate", "--model", model, "--out", tmp_path, *arguments)

    assert "'held_ot' is not in" in (said := say("--dataset", "held_ot", "--dataset-dir", data)) and "held_out" in said
    assert "dataset_info.json does not exist" in say("--dataset", "x", "--dataset-dir", tmp_path)
    assert "'radar' is none of" in say("--dataset", "held_out", "--dataset-dir", data, "--compare-with", "radar")
    assert "cannot be read" in say("--dataset", "held_out", "--dataset-dir", data, "--templates", "nowhere.json")


def test_a_clip_that_has_changed_since_is_measured_and_not_drawn(tmp_path, capfd):
    grid, path = VideoGrid(2, 4, 4), str(training.clips()[0])
    vectors, valid = np.zeros((2, 4, 4, 2), np.float32), np.ones((2, 4, 4), np.bool_)
    file = MotionComparison(vectors, vectors, valid, np.array([0.0, 9.0]), grid, path, "flow", "past").save(
        tmp_path / "0.npz"
    )
    meter = measure_motion({(0, 0): file}, tmp_path / "plots", 1, {})
    assert meter.metrics(10)["all"]["epe"].value == 0 and not (tmp_path / "plots").exists()
    assert f"{path}: no picture" in capfd.readouterr().err
