"""`motiontune inspect`: what it prints and draws is what training gets."""

import json
import re

import cv2
import numpy as np
import pytest
import torch

from commands import command, refused, refused_run
from make_clips import recoded
from real_clips import real_clip
from training import (
    BOTH,
    FAMILIES,
    MOTION,
    PROMPT,
    clips,
    dataset,
    fresh_folder,
    keys_for,
    logged,
    sample,
    session_folder,
    start,
    write_config,
)


WIDTH = 160


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()


def inspect(capfd, family="qwen2_vl", samples=2, **keys):
    """Run the command; return the lines that it prints after the log, and the folder of the pictures."""
    out = fresh_folder("pictures")
    file = write_config(keys_for(family, **keys))
    code, said, err = command(capfd, "inspect", file, "--out", out, "--samples", samples)
    assert code == 0, err[-4000:]
    said = said[said.index("One batch of ") :]
    assert max(len(line) for line in said.splitlines() if not line.lstrip().startswith(("video ", "picture"))) <= WIDTH
    return said, out


def variables(said):
    """The table: name -> (shape, dtype, range, meaning)."""
    lines = said.split("\n\n")[1].splitlines()
    return {row[0]: row[1:] for row in (re.split(r"  +", line) for line in lines[2:])}


def runs(said, number):
    """The token runs of a sample: (position, tokens, learns, text)."""
    part = re.split(r"\nSample \d+: ", said)[number + 1]
    found = re.findall(r"^ +(\d+) +(\d+) tokens  learns (\S+) +(.*)$", part, re.M)
    return [(int(position), int(count), learns, text) for position, count, learns, text in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_variable_is_shown_with_its_meaning(family, capfd):
    from motiontune.llamafactory.inspection import MEANING

    said, out = inspect(capfd, family, **BOTH)
    table = variables(said)
    assert all(row[-1] == MEANING[name] for name, row in table.items())
    names = {"input_ids", "attention_mask", "labels", "position_ids", "pixel_values_videos", "video_grid_thw"}
    assert names | {"motion_targets", "motion_mask", "motion_videos"} <= set(table)
    # 16 and 9 frames of 4 x 4 patches: 8 and 5 times 2 x 2 tokens
    assert table["motion_targets"][0] == table["motion_mask"][0] == "[52, 16]"
    assert table["motion_targets"][1] == "float32" and table["motion_mask"][1] == "bool"
    for number, tokens in ((0, 32), (1, 20)):
        found = runs(said, number)
        assert sum(count for _, count, learns, _ in found if learns == "motion") == tokens
        assert [text for _, _, learns, text in found if learns == "text"] == [
            ["'The square moves left quickly, then stops.<|im_end|>\\n'", "'It stops.<|im_end|>\\n'"][number]
        ]
        lengths = [count for _, count, _, _ in found]
        assert [position for position, *_ in found] == [sum(lengths[:i]) for i in range(len(found))]
        assert str([2, sum(lengths)]) == table["input_ids"][0]
        picture = cv2.imread(str(out / f"sample_{number}.png"))
        assert picture is not None and picture.shape[1] > 8 * 100


def test_what_only_some_batches_have_has_a_meaning_too(capfd):
    from motiontune.llamafactory.inspection import MEANING

    image = session_folder() / "image.png"
    cv2.imwrite(str(image), np.full((56, 56, 3), 99, np.uint8))
    mixed = sample("<image>And <video>?", "It stops.", videos=[clips()[0]], images=[image])
    said, _ = inspect(capfd, "qwen2_5_vl", **BOTH, **dataset([mixed]), motion_confidence_weighting=True)
    table = variables(said)
    some = {"pixel_values", "image_grid_thw", "second_per_grid_ts", "rope_deltas", "motion_weights", "motion_skipped"}
    assert some <= set(table)
    assert all(table[name][-1] == MEANING[name] for name in table)


def test_the_motion_that_is_shown_is_the_clips(capfd):
    said, _ = inspect(capfd, **MOTION, **dataset([sample(PROMPT, "It stops.", videos=[clips()[0]])]))
    assert "grid   16 frames x 4 x 4 patches of 14 px = 56x56 px, 32 tokens of 16 numbers" in said
    assert "times  0.00, 0.12, 0.25" in said
    mean = re.search(r"motion codec\+flow, past: 9\d% of patches valid, mean (\S+) px", said)
    assert float(mean[1]) == pytest.approx(5**0.5, abs=0.1)  # (2, 1) per frame; the first of 16 has no vector
    assert "text" not in {learns for _, _, learns, _ in runs(said, 0)}


def test_a_real_webm(capfd):
    clip = recoded(real_clip("bikes.mp4"), "vp9", ".webm")
    keys = dataset([sample(PROMPT, "Spinning cube that quickly stops spinning. " * 8, videos=[clip])])
    said, out = inspect(capfd, **BOTH, **keys, video_fps=12.0, video_max_pixels=65536, cutoff_len=4096)
    assert "One batch of 1 sample\n" in said and "Sample 0: 1 video\n" in said
    assert "motion blockmatch+flow, past: " in said and f"video {clip}" in said
    assert re.search(
        r"Spinning cube that quickly stops spinning\. Spinning cub.*\.\.\..*quickly stops spinning\.", said
    )
    assert (out / "sample_0.png").stat().st_size > 10_000


def test_packed_samples(capfd):
    said, _ = inspect(capfd, **BOTH, packing=True, neat_packing=True, cutoff_len=256, flash_attn="disabled")
    table = variables(said)
    assert table["attention_mask"][0] == "[2, 1, 256, 256]" and "packed: " in table["attention_mask"][-1]
    assert table["video_grid_thw"][0] == "[6, 3]" and "Sample 0: 4 videos" in said
    assert sum(learns == "text" for _, _, learns, _ in runs(said, 0)) == 4


def test_videos_that_are_frames_and_samples_without(capfd):
    frames = []
    noise = np.random.default_rng(0).integers(0, 255, (56, 84, 3), np.uint8)
    for number in range(5):
        frames.append(session_folder() / f"frame{number}.png")
        cv2.imwrite(str(frames[-1]), np.roll(cv2.GaussianBlur(noise, (5, 5), 0), 2 * number, 1))
    samples = [sample(PROMPT, "It stops.", videos=[frames]), sample("Hello?", "It stops.")]
    for family in ("qwen2_vl", "qwen3_vl"):
        said, out = inspect(capfd, family, **BOTH, **dataset(samples))
        assert "Sample 0: 1 video\n" in said and "Sample 1: 0 videos\n" in said
        assert "motion blockmatch+flow, past: " in said
        assert [file.name for file in out.glob("*.png")] == ["sample_0.png"]


def test_two_videos_in_one_picture(capfd):
    samples = [sample("<video>And <video>?", "It stops.", videos=[clips()[2], clips()[0]])]
    said, out = inspect(capfd, "qwen3_vl", **BOTH, **dataset(samples))
    assert said.index("motion blockmatch+flow") < said.index("motion codec+flow")
    one, _ = inspect(capfd, "qwen3_vl", **BOTH, **dataset([sample(PROMPT, "It stops.", videos=[clips()[2]])]))
    assert cv2.imread(str(out / "sample_0.png")).shape[0] > 400 and "Sample 0: 1 video" in one


def test_no_weights_are_read(capfd, monkeypatch):
    from transformers import PreTrainedModel

    def read(*args, **kwargs):
        raise AssertionError("the model's weights are read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", read)
    inspect(capfd, **BOTH)


def test_only_the_first_samples_are_tokenized(capfd, monkeypatch):
    from motiontune.llamafactory.samples import CheckedDatasetProcessor

    seen = []
    original = CheckedDatasetProcessor._encode
    monkeypatch.setattr(CheckedDatasetProcessor, "_encode", lambda *args: seen.append(0) or original(*args))
    inspect(capfd, **BOTH, **dataset([sample(PROMPT, "It stops.", videos=[clips()[3]])] * 100))
    assert len(seen) == 64


def test_what_belongs_to_a_run_is_left_out(capfd):
    """An engine, a device and an output folder that are not here, and the keys of a prediction."""
    keys = {"deepspeed": "ds_z3.json", "resume_from_checkpoint": "nowhere", "bf16": True, "use_cpu": None}
    inspect(capfd, **BOTH, **keys)
    keys = {"do_predict": True, "predict_with_generate": True, "dataset": None, "eval_dataset": "toy"}
    said, _ = inspect(capfd, **keys, train_on_video_tokens=True)
    assert "learns text" in said


def test_what_a_training_would_refuse_here_is_said(capfd):
    said, _ = inspect(capfd, **BOTH, bf16=True, use_cpu=None)
    line = "bf16: there is no GPU here, and `motiontune train` stops; with `use_cpu: true` it trains."
    assert (line in said) != torch.accelerator.is_available()
    if line in said:
        message = refused_run(capfd, **BOTH, bf16=True, use_cpu=None)
        assert message.startswith("bf16: there is no GPU here. `use_cpu: true` trains on the CPU")
    said, _ = inspect(capfd, **BOTH, bf16=True, use_cpu=True)
    assert "there is no GPU" not in said


def test_the_source_of_each_data_set_is_said(capfd):
    with logged() as messages:
        inspect(capfd, **BOTH)
    assert any(
        message.startswith("Motion of data set toy.json, 6 clips looked at: codec+flow for 5") for message in messages
    )


def test_mistakes_end_in_one_line(capfd):
    keys = json.loads(json.dumps(keys_for(**BOTH)))
    missing = str(session_folder() / "missing.mp4")
    bad = dataset([sample(PROMPT, "It stops.", videos=[missing])])
    assert refused(capfd, "inspect", write_config(keys | bad)).startswith(f"{missing}: does not exist")
    message = refused(capfd, "inspect", write_config(keys | {"motion_head_input": "layer:9"}))
    assert message.startswith("motion_head_input: 'layer:9' is none of ")
    code, _, err = command(capfd, "inspect", write_config(keys), "--samples", 0)
    assert code == 2 and "--samples must be 1 or more" in err
