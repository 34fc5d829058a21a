"""Samples without an answer: their motion is learned, and not that the answer is nothing."""

import pytest

from training import BOTH, CONTROL, PROMPT, clips, dataset, history, run, sample, start


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()


def first_log(answers, keys=BOTH):
    """What the first step logs of a batch with these answers."""
    rows = [sample(PROMPT, answer, videos=[clips()[number]]) for number, answer in enumerate(answers)]
    one_batch = {"per_device_train_batch_size": len(rows), "logging_steps": 1, "learning_rate": 0.0, "max_steps": 1}
    return history(run(**keys, **dataset(rows), **one_batch))[0]


def test_text_is_learned_from_answers_alone_and_motion_from_all_clips():
    both, answered, none = first_log(["It stops.", " "]), first_log(["It stops."]), first_log(["", "  "])
    assert both["ce_loss"] == pytest.approx(answered["ce_loss"], abs=2e-5)
    assert both["epe"] != answered["epe"] and none["epe"] == both["epe"]
    assert "ce_loss" not in none and none["loss"] == pytest.approx(none["motion_loss"], abs=1e-6)


def test_the_table_before_training_counts_them():
    rows = [sample(PROMPT, answer, videos=[clips()[0]]) for answer in ("It stops.", "", " ")] + [sample("Hello?", "")]
    for keys, said in ((BOTH, True), (CONTROL, False)):
        table = (run(**keys, **dataset(rows), max_steps=1) / "motiontune_data.txt").read_text()
        line = "toy.json: 2 of the 4 samples that were looked at have no answer, and count for motion alone"
        assert (line in table) is said


def test_the_control_run_learns_what_llamafactory_does():
    assert first_log(["It stops.", ""], CONTROL)["loss"] != pytest.approx(
        first_log(["It stops."], CONTROL)["loss"], abs=1e-3
    )
