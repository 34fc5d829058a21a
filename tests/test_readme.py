"""Figures in the documentation are those of the committed results."""

import importlib
import json
import re
from pathlib import Path

import pytest

from motiontune.commands.demo import format_table


ROOT = Path(__file__).parents[1]


def test_the_readmes_table_is_that_of_the_demos_result():
    metrics = json.loads((ROOT / "benchmarks/demo/results/metrics.json").read_text())
    assert format_table(metrics) in (ROOT / "README.md").read_text("utf-8")
    assert metrics["epe_moving"] < metrics["epe_moving_zero_motion"] / 2
    assert metrics["epe"] < metrics["epe_zero_motion"]
    if "truth_epe" in metrics:  # measured since the demo knows how its scenes move
        assert metrics["truth_epe_moving"] < metrics["truth_epe_moving_zero_motion"]
        assert 0 < metrics["target_epe_moving"] < metrics["truth_epe_moving_zero_motion"] / 2


def test_the_table_of_learning_rates_is_that_of_its_result():
    folder = ROOT / "benchmarks/head_learning_rate"
    rows = json.loads((folder / "results/ratios.json").read_text())["rows"]
    text = (folder / "README.md").read_text("utf-8")
    for ratio in {row["ratio"] for row in rows}:
        cells = [f"{row['eval_epe_moving']:.2f}" for row in rows if row["ratio"] == ratio]
        name = f"{ratio} (default)" if ratio == 10 else str(ratio)
        assert f"| {name} | {' | '.join(cells)} |" in text


def test_what_motion_adds_to_an_answer_is_as_measured():
    result = json.loads((ROOT / "benchmarks/overlay/results/overlay.json").read_text())
    median = result["prediction"]["time_ratio_quartiles"][1]
    assert f"begin -->{100 * (median - 1):.1f}<!--" in (ROOT / "docs/see.md").read_text("utf-8") and median <= 1.05
    assert all(row["frames_per_cpu_second"] >= 100 for row in result["films"])


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ("README.md", "LoRA"),
        ("benchmarks/train_step/README.md", "LoRA"),
        ("docs/does_it_help.md", "placebo"),
        ("docs/engines.md", "ZeRO-3"),
        ("docs/reliability.md", "tars"),
        ("docs/scale.md", "2 workers"),
    ],
)
def test_the_tables_are_those_of_the_results(document, word, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("figures")
    text = (ROOT / document).read_text("utf-8")
    assert figures.current(ROOT / document) == text and re.search(rf"^\|.*\b{word}\b.*\|$", text, re.M)


def test_motion_helps_a_small_model_to_answer():
    """The claim of docs/does_it_help.md, for each split and outside of all intervals; the placebo does not."""
    rows = json.loads((ROOT / "benchmarks/does_it_help/results/main.json").read_text())["rows"]
    rows = [row for row in rows if row["start"] == "tiny" and row["task"] == "which_way_4" and len(row["seeds"]) >= 5]
    for split in ("in_domain", "unseen_photos", "unseen_objects", "unseen_speeds"):
        here = [row for row in rows if row["split"] == split]
        alone = [row for row in here if row["arm"] in ("ce", "shuffled")]
        with_motion = [row for row in here if row["arm"] in ("projector", "last_hidden")]
        assert len(alone) == 6 and len(with_motion) == 2
        assert min(row["low"] for row in with_motion) > max(row["high"] for row in alone) + 0.2


def test_motion_helps_a_pretrained_decoder_to_answer():
    """The same of the decoder that can read, at the projector."""
    rows = json.loads((ROOT / "benchmarks/does_it_help/results/main.json").read_text())["rows"]
    rows = [row for row in rows if row["run"] == "reader" and row["task"] == "which_way_4" and row["steps"] == 1500]
    for split in ("in_domain", "unseen_photos", "unseen_objects", "unseen_speeds"):
        here = {(row["arm"], row["learning_rate"]): row for row in rows if row["split"] == split}
        helped = here.pop(("projector", 1e-4))
        assert len(helped["seeds"]) == 3 and len(here) == 4
        assert helped["low"] > max(row["high"] for row in here.values()) + 0.2


def test_learning_motion_costs_less_than_llamafactorys_text():
    rows = json.loads((ROOT / "benchmarks/train_step/results/cpu-prototype.json").read_text())["rows"]
    row = next(row for row in rows if row["kind"] == "motion+CE" and row["method"] == "lora" and row["checkpointing"])
    assert row["time_to_llamafactory"] <= 0.5 and row["memory_to_llamafactory"] <= 0.35
    assert row["time_to_sparse_logits"] <= 1.03 and row["head_share"] < 0.01


def test_the_plot_of_costs_is_that_of_its_result(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("figures")
    figures.plot(figures.load("train_step/cpu-answers"), tmp_path / "cost.svg")
    assert (tmp_path / "cost.svg").read_bytes() == figures.PLOT.read_bytes()


def test_the_plot_of_answers_is_that_of_its_result(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("figures")
    for path, cells in figures.answers_to_plot().items():
        figures.plot_answers(cells, tmp_path / path.name)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    rows = [row for folder in figures.QUESTIONS_RUNS if folder.exists() for row in figures.cells_of(folder)]
    figures.plot_questions(rows, tmp_path / "questions.svg")
    assert (tmp_path / "questions.svg").read_bytes() == figures.QUESTIONS_PLOT.read_bytes()


def test_the_plot_of_the_soak_is_that_of_its_result(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("figures")
    figures.plot_soak(figures.soaked(), tmp_path / "soak.svg")
    assert (tmp_path / "soak.svg").read_bytes() == figures.SOAK_PLOT.read_bytes()


def test_the_gallery_shows_what_its_script_draws_and_only_clips_that_may_be_shown(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    gallery, page = importlib.import_module("make_gallery"), (ROOT / "docs" / "gallery.md").read_text()
    names = re.findall(r"\]\((gallery_\d+\.jpg)\)", page)
    assert names == [f"gallery_{number:02d}.jpg" for number in range(1, len(gallery.MOMENTS) + 1)]
    assert sum((ROOT / "docs" / name).stat().st_size for name in names) < 1_500_000
    licences = page[page.index("## The clips") : page.index("The other clips")]
    assert {name for name, _ in gallery.MOMENTS} == set(re.findall(r"`(\S+\.\w+)`", licences))


def test_the_plot_of_training_runs_is_that_of_its_result(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("figures")
    runs = json.loads(figures.TRAINING_RUNS.read_text())["runs"]
    figures.plot_training(runs, tmp_path / "runs.svg")
    assert (tmp_path / "runs.svg").read_bytes() == figures.TRAINING_PLOT.read_bytes()
    good, flat, heart = ([row for row in rows if "eval_epe_moving" in row][-1] for rows in runs.values())
    assert good["eval_epe_moving"] < 0.7 * good["eval_epe_moving_zero_motion"]
    assert flat["eval_epe_moving"] > 0.98 * flat["eval_epe_moving_zero_motion"]
    trained = [row for row in runs["learned by heart"] if "epe_moving" in row][-1]
    assert trained["epe_moving"] < 0.5 * heart["eval_epe_moving"]


def test_the_page_of_keys_is_that_of_their_help(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    make_keys = importlib.import_module("make_keys")
    assert make_keys.PAGE.read_text("utf-8") == make_keys.page()


def test_the_notebook_takes_as_long_as_it_states():
    measured = json.loads((ROOT / "benchmarks/demo/results/notebook.json").read_text())
    text = (ROOT / measured["notebook"]).read_text("utf-8")
    assert (
        f"{measured['processor_seconds']:.0f} s of processor time" in text
        and f"STEPS = {measured['steps']}\\n" in text
    )
    assert f"{measured['processor_seconds'] / 60:.1f} minutes of one core" in (ROOT / "examples/README.md").read_text()
