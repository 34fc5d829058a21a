"""`motiontune report`: a page about any run, out of what the run left in its folder."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

import training
from commands import command, refused
from html_page import Page
from motiontune.evaluation.comparison import MotionComparison
from motiontune.runs.folder import claim_run, given_keys, note_run, read_runs, read_texts
from motiontune.runs.report import report
from training import BOTH, clips, run


@pytest.fixture(scope="module")
def trained():
    """A folder that a run trained, evaluated twice and predicted into."""
    training.start()
    keys = {"eval_strategy": "steps", "eval_steps": 1, "do_eval": True, "do_train": True, "eval_dataset": "toy"}
    return run(**BOTH, **keys, do_predict=False, hub_token="hf_secret", learning_rate=1e-2, motion_scale=0.1)


@pytest.fixture(scope="module")
def predicted(trained):
    keys = {"model_name_or_path": str(trained), "train_on_video_tokens": True, "motion_scale": 0.1}
    keys |= {"do_predict": True, "eval_dataset": "toy", "predict_with_generate": True, "max_new_tokens": 4}
    return run(**keys)


def page_of(capfd, folder, *more):
    code, out, err = command(capfd, "report", folder, *more)
    assert code == 0, err[-2000:]
    return Page(open(out.strip().splitlines()[-1], encoding="utf-8").read())


def test_a_trained_run_has_curves_metrics_pictures_configuration_and_versions(trained, capfd):
    page = page_of(capfd, trained)
    assert [tag for tag, _ in page.tags].count(
        "svg"
    ) == 6  # loss, motion and text, in training and on held-out samples
    results = json.loads((trained / "all_results.json").read_text())
    for key in ("eval_epe", "train_loss"):
        assert f"{key}: {json.dumps(results[key])}" in page.text
    assert f"{results['eval_epe_moving']:.2f}" in page.text and "Trained for 2 steps" in page.text
    assert "Step 1" in page.text and "Step 2" in page.text
    for line in ("use_motionvector_crossentropy_loss: true", "learning_rate: 0.01", "motion_scale: 0.1"):
        assert f"{line}\n" in page.text
    for name in ("motiontune", "llamafactory", "torch", "python"):
        assert re.search(rf"{name}: \d", page.text)
    assert "hub_token: (left out)" in page.text
    assert not [file for file in trained.iterdir() if file.suffix == ".json" and "hf_secret" in file.read_text()]


def test_best_and_worst_clips_are_those_of_the_predictions(predicted, capfd):
    page = page_of(capfd, predicted, "--clips", 2)
    files = sorted((predicted / "motion_predictions").glob("*.npz"))
    ratios = []
    for file in files:
        one = MotionComparison.load(file).sums().metrics()
        ratios.append(one["epe_moving"] / one["epe_moving_zero_motion"])
    order = np.argsort(ratios)
    names = [f"{number}: {clips()[number].name}" for number in (*order[:2], *order[::-1][:2])]
    places = [page.text.index(name) for name in ["Best clips", *names[:2], "Worst clips", *names[2:]]]
    assert places == sorted(places)
    assert page.text.count("expected") == 4 and "cannot be read" not in page.text
    text = json.loads((predicted / "generated_predictions.jsonl").read_text().splitlines()[order[0]])
    assert text["label"] in page.text and "6 predicted clips" in page.text
    assert "Trained for" not in page.text


def test_clips_that_are_gone_or_others_are_grey(predicted, tmp_path):
    folder = shutil.copytree(predicted, tmp_path / "copy")
    for number, path in ((0, "nowhere.mp4"), (1, str(clips()[4]))):
        file = folder / "motion_predictions" / f"{number:06d}.npz"
        with np.load(file) as loaded:
            np.savez(file, **{**loaded, "path": np.array(path)})
    page = Page(report(folder, clips=6).read_text("utf-8"))
    assert page.text.count("(its frames cannot be read)") == 2
    assert "0: nowhere.mp4 (its frames" in page.text and f"1: {clips()[4].name} (its frames" in page.text


def test_a_run_that_has_not_ended_is_reported_from_its_last_checkpoint(tmp_path):
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        entries = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": step, "eval_epe": 1.25}]
        state = {"global_step": step, "epoch": 0.5, "log_history": entries}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    page = Page(report(tmp_path).read_text("utf-8"))
    assert "has not ended" in page.text and "after 10 steps" in page.text and "eval_epe: 1.25" in page.text
    assert "not known" in page.text  # nothing has noted how it was started


def test_each_evaluation_data_set_has_its_numbers_and_curve(tmp_path):
    history = [{"step": step, f"eval_{name}_epe": step + add} for step in (1, 2) for name, add in (("a", 1), ("b", 5))]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (tmp_path / "all_results.json").write_text(json.dumps({"eval_a_epe": 3.0, "eval_b_epe": 7.0}))
    page = Page(report(tmp_path).read_text("utf-8"))
    assert "a: End-point error" in page.text and "b: End-point error" in page.text
    assert "3.00" in page.text and "7.00" in page.text
    assert [tag for tag, _ in page.tags].count("svg") == 2


def test_an_evaluations_intervals_are_shown(tmp_path):
    one = {"value": 1.5, "ci95": [1.25, 1.75]}
    result = {"motion": {"all": {"epe": one}}, "text": {"exact_match": {"value": 0.5, "ci95": [None, None]}}}
    (tmp_path / "evaluation.json").write_text(json.dumps(result))
    page = Page(report(tmp_path).read_text("utf-8"))
    assert "1.50" in page.text and "1.2500 to 1.7500" in page.text and "50 %" in page.text


def test_pictures_are_the_first_and_the_last_of_each_data_set(tmp_path):
    (tmp_path / "all_results.json").write_text('{"eval_epe": 1.0}')
    (tmp_path / "motion_pictures").mkdir()
    for name in ("eval-000100", "eval-000020", "eval-001000", "eval_b-000005"):
        cv2.imwrite(str(tmp_path / "motion_pictures" / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))
    page = Page(report(tmp_path).read_text("utf-8"))
    assert all(page.text.count(text) == 1 for text in ("Step 20", "Step 1,000", "b, step 5"))
    assert "100" not in page.text.replace("1,000", "")
    assert len(page.values("src")) == 3


def test_what_is_no_run_is_refused(tmp_path, capfd):
    assert refused(capfd, "report", tmp_path / "nowhere").endswith("nowhere: no such folder")
    assert refused(capfd, "report", tmp_path).startswith(f"{tmp_path} is no run's output folder: it has no ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trainer_state.json", "{"),
        ("trainer_state.json", "[]"),
        ("trainer_state.json", '{"log_history": [1]}'),
        ("trainer_state.json", '{"global_step": "many"}'),
        ("trainer_state.json", "\udcff"),
        ("all_results.json", "[1]"),
        ("evaluation.json", '{"motion": {"all": {"epe": 1.0}}}'),
        ("generated_predictions.jsonl", '{"predict": "a"}'),
        ("motiontune_runs.json", '[{"started": ""}]'),
        ("motiontune_runs.json", '[{"started": "", "configuration": 1, "versions": {}}]'),
        ("checkpoint-3/trainer_state.json", "nothing"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, capfd, name, text):
    (tmp_path / "all_results.json").write_text('{"eval_loss": 1.0}')
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert refused(capfd, "report", tmp_path).startswith(f"{tmp_path / name}: is damaged, and can be moved away: ")
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_prediction_and_a_page_that_cannot_be_written(predicted, tmp_path, capfd):
    folder = shutil.copytree(predicted, tmp_path / "copy")
    file = folder / "motion_predictions" / "000002.npz"
    file.write_bytes(file.read_bytes()[:200])
    assert refused(capfd, "report", folder).startswith(f"{file}: cannot be read as a prediction")
    assert "is a folder" in refused(capfd, "report", predicted, "--out", tmp_path)


def test_a_run_of_llamafactory_alone(capfd):
    """Without the note that motiontune leaves, the model card of the Trainer says how it was started."""
    keys = {"eval_strategy": "steps", "eval_steps": 1, "do_eval": True, "do_train": True, "eval_dataset": "toy"}
    folder = run(**keys, learning_rate=2e-3)
    (folder / "motiontune_runs.json").unlink()
    page = page_of(capfd, folder)
    assert "not known" in page.text and "are those in its README.md" in page.text
    assert "learning_rate: 0.002\n" in page.text and re.search(r"Transformers: \d", page.text)
    assert "Loss on held-out samples" in page.text and "Loss in training" in page.text
    assert "Trained for 2 steps" in page.text and "End-point" not in page.text


def test_answers_without_motion_are_listed(tmp_path):
    rows = [{"predict": f"said <{number}>", "label": "said <3>"} for number in range(20)]
    (tmp_path / "generated_predictions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = Page(report(tmp_path).read_text("utf-8"))
    assert "said <11>" in page.text and "said <12>" not in page.text
    assert page.text.count("exact") == 1 and page.text.count("differs") == 11


def test_a_damaged_history_stops_no_run_and_is_kept(tmp_path):
    file = tmp_path / "motiontune_runs.json"
    file.write_text("[{")
    claim_run(tmp_path, {"do_train": True})
    with pytest.warns(UserWarning, match="motiontune_runs.json: is damaged, .* called motiontune_runs.json.damaged-"):
        note_run(tmp_path, {"a": 1}, 1)
    assert [run.configuration for run in read_runs(tmp_path)] == [{"a": 1}]
    (kept,) = tmp_path.glob("motiontune_runs.json.damaged-*")
    assert kept.read_text() == "[{"


def test_runs_into_one_folder_are_noted_each_once(tmp_path):
    note_run(tmp_path, {"a": 1}, 1)
    note_run(tmp_path, {"a": 2, "swanlab_api_key": "x", "nested": {"hub_token": "y", "token": "z"}}, 2)
    note_run(tmp_path, {"a": 1}, 1)
    first, last = read_runs(tmp_path)
    secrets = {"hub_token": "(left out)", "token": "(left out)"}
    assert first.configuration == {"a": 2, "swanlab_api_key": "(left out)", "nested": secrets}
    assert last.configuration == {"a": 1} and last.versions["processes"] == "1"
    (tmp_path / "all_results.json").write_text('{"eval_epe": 1.0}')
    page = Page(report(tmp_path).read_text("utf-8"))
    assert page.text.index("a: 1") < page.text.index("Earlier run into this folder") < page.text.index("a: 2")


def test_keys_of_arguments():
    words = "--do_train --output-dir a b --learning_rate=1e-4 --lora_target q,v".split()
    assert given_keys(words) == {
        "do_train": True, "output_dir": "a b", "learning_rate": "1e-4", "lora_target": "q,v"
    }  # fmt: skip


def test_texts_end_at_line_breaks_alone(tmp_path):
    rows = [{"predict": "a\u2028b\x85c", "label": "d\x0ce"}, {"predict": "f", "label": "g"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "generated_predictions.jsonl").write_text(lines, "utf-8")
    assert read_texts(tmp_path) == [(row["predict"], row["label"]) for row in rows]
