"""report.html: whole in one file, safe against what texts hold, and right in its numbers."""

import base64
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from html_page import Page
from motiontune.evaluation.comparison import MotionComparison, prediction_rows
from motiontune.evaluation.sums import MotionSums
from motiontune.grid import VideoGrid
from motiontune.runs.page import ReportClip, write_report


GRID = VideoGrid(frames=8, rows=4, cols=6, patch=14)


def clip(name="74225", seed=0, offset=(2.0, 0.0), **changes):
    """A clip whose target is 5 px to the right everywhere, and whose prediction is off by `offset`."""
    rng = np.random.default_rng(seed)
    target = np.zeros((8, 4, 6, 2), np.float32)
    target[..., 0] = 5
    valid = np.ones((8, 4, 6), bool)
    valid[0] = False
    prediction = MotionComparison(
        predicted=target + np.float32(offset),
        target=target,
        valid=valid,
        times=np.arange(8) / 8,
        grid=GRID,
        path=f"clips/{name}.webm",
        source="flow",
        direction="past",
    )
    frames = rng.integers(0, 255, (7, 60, 90, 3), np.uint8)
    return replace(ReportClip(name, frames, prediction, "spinning cube", "spinning cube"), **changes)


def history():
    entries = [{"step": step, "loss": 9 / step, "motion_loss": 5 / step, "ce_loss": 4 / step} for step in range(1, 90)]
    return [*entries, {"step": 40, "eval_epe": 2.0}, {"step": 80, "eval_epe": 1.0}, {"step": 90, "train_loss": 1.0}]


def write(tmp_path, **changes):
    arguments = {
        "title": "Run",
        "metrics": {"predict_epe": 2.0, "predict_epe_zero_motion": 5.0, "predict_epe_mean_motion": 4.0},
        "log_history": history(),
        "clips": [clip()],
        "configuration": {"motion_loss_weight": 1.0},
        "versions": {"torch": "2.11.0"},
    }
    path = write_report(tmp_path / "out" / "report.html", **(arguments | changes))
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


def test_page_needs_nothing_from_outside(tmp_path):
    source, page = write(tmp_path)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"} == set()
    assert page.values("src") and all(value.startswith("data:image/") for value in page.values("src"))
    assert all(value.startswith("#") for value in page.values("href") + page.values("xlink:href"))
    assert set(re.findall(r"https?://[^\"\s<]+", source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # names, which are not fetched
    assert "@import" not in source and "url(http" not in source
    assert [item.name for item in (tmp_path / "out").glob("[!.]*")] == ["report.html"]


def test_each_metric_is_explained_in_a_line(tmp_path):
    counts = {"train_clips_codec+flow": 3, "train_clips_none": 1, "train_clips_left_out": 2, "eval_toy_epe": 2.0}
    source, _ = write(tmp_path, metrics=counts | {"train_runtime": 9.0})
    for name, meaning in (
        ("clips_codec+flow", "clips whose motion came from codec+flow, each as often as it was seen"),
        ("clips_none", "clips for which there is no motion: they trained, or were measured by, their text alone"),
        ("clips_left_out", "samples that took no part, since a clip of theirs could not be read"),
        ("epe", "mean end-point error over valid patches, pixels of the resized frame"),
    ):
        assert source.count(f"<dt><code>{name}</code></dt><dd>{meaning}</dd>") == 1
    assert "<code>runtime" not in source


def test_pictures_can_be_decoded(tmp_path):
    _, page = write(tmp_path)
    pictures = page.values("src")
    assert len(pictures) == 1 + 2 * 6  # wheel; target and prediction of six frames
    for picture in pictures:
        data = np.frombuffer(base64.b64decode(picture.split(",")[1]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None


def test_ids_in_the_page_are_unique(tmp_path):
    pytest.importorskip("matplotlib")
    _, page = write(tmp_path)
    assert page.values("id") and len(set(page.values("id"))) == len(page.values("id"))


def test_headline_compares_with_the_baselines(tmp_path):
    _, page = write(tmp_path, metrics={
        "predict_epe_moving": 1.5, "predict_epe_moving_zero_motion": 6.0, "predict_epe_moving_mean_motion": 5.5,
        "predict_direction_accuracy": 0.875, "predict_caption_exact_match": 1.0, "predict_valid_patches": 12345.0,
    })  # fmt: skip
    for text in ("1.50", "6.00", "5.50", "75 % below predicting no motion", "87.5 %", "100 %", "12,345"):
        assert text in page.text
    widths = [float(value) for style in page.values("style") for value in re.findall(r"width:([\d.]+)%", style)]
    assert widths == [25.0, 91.7, 100.0]


def test_worse_than_no_motion_is_said(tmp_path):
    _, page = write(tmp_path, metrics={"epe": 6.0, "epe_zero_motion": 5.0})
    assert "20 % above predicting no motion" in page.text


def test_diverged_run_is_said(tmp_path):
    _, page = write(tmp_path, metrics={"predict_epe": float("nan"), "predict_epe_zero_motion": 5.0})
    assert "Not a finite number: predict_epe" in page.text


def test_numbers_of_a_clip(tmp_path):
    _, page = write(tmp_path, clips=[clip(offset=(0.0, 2.0))])
    assert "moving patches 2.00 px (zero motion 5.00)" in page.text
    assert "direction right 100 %" in page.text
    assert MotionSums.from_fields([[5, 2]], [[5, 0]], np.array([True])).direction_hits == 1


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert('1')</script>&amp;\"><img src=x>"
    changed = clip(name=evil, expected_text=evil, predicted_text=evil)
    changed = replace(changed, prediction=replace(changed.prediction, path=evil, source=evil))
    source, page = write(
        tmp_path, title=evil, notes=evil, clips=[changed], configuration={evil: evil}, versions={evil: [evil]},
        metrics={evil: 1.0},
    )  # fmt: skip
    assert "<script" not in source and "<img src=x" not in source
    assert page.text.count("<script>alert('1')</script>&amp;") >= 9


def test_captions_are_judged(tmp_path):
    _, page = write(tmp_path, clips=[clip(predicted_text="spinning cube ")])
    assert "exact" in page.text and "differs" not in page.text
    _, page = write(tmp_path, clips=[clip(predicted_text="still cube")])
    assert "still cube" in page.text and "differs" in page.text
    _, page = write(tmp_path, clips=[clip(expected_text=None, predicted_text=None)])
    assert "differs" not in page.text and "expected" not in page.text


def test_clip_without_target(tmp_path):
    bare = clip()
    bare = replace(bare, prediction=replace(bare.prediction, target=None))
    _, page = write(tmp_path, clips=[bare])
    assert "no target to compare with" in page.text
    assert len(page.values("src")) == 1 + 6


def test_arrows_of_target_and_prediction_are_comparable():
    small = clip(offset=(-4.5, 0.0))
    true, said = prediction_rows("a", small.frames, small.prediction, 240)
    assert true.length == said.length is not None
    assert "target" in true.title and "predicted" in said.title


def test_frames_of_another_clip_are_refused(tmp_path):
    with pytest.raises(ValueError, match="74225.*do not fit"):
        write(tmp_path, clips=[clip(frames=np.zeros((3, 60, 90, 3), np.uint8))])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_curves(tmp_path):
    pytest.importorskip("matplotlib")
    source, page = write(tmp_path)
    assert [tag for tag, _ in page.tags].count("svg") == 4  # loss, motion and text in training; held-out motion
    for label in ("motion loss", "cross-entropy", "all patches", "smoothed"):
        assert label in page.text
    assert "currentColor" in source and "#0a0b0c" not in source
    assert not any("width" in attributes for tag, attributes in page.tags if tag == "svg")


def test_motion_has_a_plot_in_pixels_of_its_own(tmp_path):
    pytest.importorskip("matplotlib")
    pixels = [{"epe": 0.5, "epe_zero_motion": 0.9, "epe_moving": 2.5, "epe_moving_zero_motion": 3.25}] * 89
    both = [entry | more for entry, more in zip(history(), pixels, strict=False)]
    _, page = write(tmp_path, log_history=both)
    assert [tag for tag, _ in page.tags].count("svg") == 3
    assert "End-point error in training; dotted: predicting no motion" in page.text
    assert "moving patches" in page.text and "motion loss" not in page.text


def test_curves_survive_odd_histories(tmp_path):
    pytest.importorskip("matplotlib")
    odd = [{"step": 1, "loss": 0.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": "1.5"}, {"loss": 3}, {}]
    _, page = write(tmp_path, log_history=odd)
    assert [tag for tag, _ in page.tags].count("svg") == 1
    _, page = write(tmp_path, log_history=[])
    assert "Curves" not in page.text


def test_what_is_missing_leaves_no_hole(tmp_path):
    _, page = write(tmp_path, metrics={}, log_history=[], clips=[], configuration={}, versions={})
    assert page.text.split() == ["Run", "Run"]


def test_credentials_are_left_out(tmp_path):
    source, page = write(tmp_path, configuration={
        "hf_hub_token": "hf_abc", "swanlab_api_key": "key_abc", "deepspeed": {"password": "pw_abc"},
        "train_on_video_tokens": True, "max_new_tokens": 64, "ms_hub_token": None,
    })  # fmt: skip
    assert "_abc" not in source
    for line in (
        "train_on_video_tokens: true",
        "max_new_tokens: 64",
        "hf_hub_token: (left out)",
        "ms_hub_token: null",
    ):
        assert line in page.text


def test_a_dozen_clips_of_film_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    grid = VideoGrid(frames=8, rows=32, cols=18, patch=14)  # upright
    texture = cv2.resize(rng.integers(0, 255, (60, 40, 3), np.uint8), (252, 448), interpolation=cv2.INTER_CUBIC)
    frames = np.stack([np.roll(texture, 5 * index, axis=1) for index in range(8)])
    vectors = rng.normal(0, 6, (8, 32, 18, 2)).astype(np.float32)
    valid = np.ones((8, 32, 18), bool)
    prediction = MotionComparison(vectors, vectors, valid, np.arange(8) / 8, grid, "a.mp4", "flow", "past")
    source, _ = write(tmp_path, clips=[ReportClip(f"clip {index}", frames, prediction) for index in range(3)])
    assert len(source) * 4 < 6e6


def test_file_names_that_are_not_utf8(tmp_path):
    odd = clip()
    odd = replace(odd, prediction=replace(odd.prediction, path="clips/\udcff.webm"))
    _, page = write(tmp_path, clips=[odd])
    assert "clips/?.webm" in page.text
