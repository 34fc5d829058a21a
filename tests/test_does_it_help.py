"""The benchmark of benefit: clips leave no way around motion, batches are the product's, the start is exact."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

from motiontune.datasets.questions.tasks import World, make_scripts
from motiontune.model import forward
from motiontune.model.losses import supervised_positions
from motiontune.model.tiny import build_tiny
from motiontune.model.tower import DinoTower, install_dino_tower
from motiontune.targets import tokens_to_vectors


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "does_it_help"))

import aggregate
import captions
import clips
import learning
import lessons
import many
import probes
import run
import seer
import start
import tiny
import whole


SIDE, FRAMES = 56, 4


@pytest.fixture(scope="module", autouse=True)
def put_back() -> Iterator[None]:
    """The benchmark's processes change torch and the model's code for themselves; here other tests follow."""
    before = torch.get_float32_matmul_precision(), forward.supervised_positions
    yield
    torch.set_float32_matmul_precision(before[0])
    forward.supervised_positions = before[1]


@pytest.fixture(scope="module")
def studio() -> clips.Studio:
    random = np.random.default_rng(0)
    small = random.integers(0, 255, (6, 14, 14, 3), dtype=np.uint8)
    photos = torch.from_numpy(small.repeat(4, 1).repeat(4, 2))
    return clips.Studio(photos, 2, SIDE, FRAMES, "cpu")


@pytest.fixture(scope="module")
def folder(studio: clips.Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = [q for task in ("mixed", "stills") for q in studio.render(256, "in_domain", task, 0).questions]
    texts = [f"{q.text} Answer: {q.options[q.answer]}" for q in asked]
    return build_tiny("qwen2_vl", tmp_path_factory.mktemp("tiny"), texts, hidden_size=32, layers=1, vision_layers=1)


@pytest.fixture(scope="module")
def collator(folder: Path) -> learning.Collator:
    setting = learning.Setting(SIDE, FRAMES, 8, (1e-3,), 48, half=False)
    return learning.Collator(folder, setting, "cpu")


def test_clips_are_a_function_of_their_seed(studio: clips.Studio) -> None:
    one, two = (studio.render(4, "in_domain", "mixed", 3) for _ in range(2))
    assert torch.equal(one.frames, two.frames) and one.questions == two.questions
    assert not torch.equal(one.frames, studio.render(4, "in_domain", "mixed", 4).frames)


def test_vectors_carry_each_frame_to_the_next(studio: clips.Studio) -> None:
    made = studio.render(64, "in_domain", "which_way", 0)
    frames = made.frames.float().mean(-1)
    at = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
    off, still = [], []
    for row, frame in (made.vectors.norm(dim=-1) > 0).any(-1).any(-1).nonzero().tolist():
        patches = (made.vectors[row, frame].norm(dim=-1) > 0).nonzero()
        velocity = made.vectors[row, frame][tuple(patches[0])]
        before = frames[row, frame - 1].roll((SIDE // 2,) * 2, (0, 1))  # around the edge, so that none is cut
        moved = torch.nn.functional.grid_sample(
            torch.cat([before.roll((-(SIDE // 2),) * 2, (0, 1))[None, None]] * 1),
            (grid - velocity / SIDE * 2)[None],
            align_corners=False,
            padding_mode="border",
        )[0, 0]
        for r, c in patches.tolist():
            if 0 < r < SIDE // 14 - 1 and 0 < c < SIDE // 14 - 1:
                area = (slice(r * 14, r * 14 + 14), slice(c * 14, c * 14 + 14))
                off.append((moved[area] - frames[row, frame][area]).abs().mean())
                still.append((frames[row, frame - 1][area] - frames[row, frame][area]).abs().mean())
    assert len(off) > 30
    assert torch.stack(off).mean() < 0.4 * torch.stack(still).mean()


def test_still_clips_stand_still_and_say_so(studio: clips.Studio) -> None:
    made = studio.render(64, "in_domain", "which_way", 1)
    still = made.ways == list(clips.WAYS).index("nowhere")
    assert 4 < still.sum() < 32
    assert torch.equal(made.frames[still], made.frames[still][:, :1].expand_as(made.frames[still]))
    assert made.vectors[still].abs().max() == 0 and made.valid[still][:, 1:].all() and not made.valid[:, 0].any()
    answers = [question.options[question.answer] for question in made.questions]
    assert answers == [list(clips.WAYS)[way] for way in made.ways.tolist()]


@pytest.mark.parametrize("frame", [0, FRAMES - 1])
def test_one_frame_does_not_tell_which_way(studio: clips.Studio, frame: int) -> None:
    """Nearest class mean and least squares on a small picture of one frame stay at chance."""
    made = studio.render(1600, "in_domain", "which_way", 2)
    moving = made.ways < 4
    pictures = made.frames[moving, frame].float().permute(0, 3, 1, 2)
    x = torch.nn.functional.adaptive_avg_pool2d(pictures, 7).flatten(1)
    x = torch.cat([(x - x.mean(0)) / x.std(0), torch.ones(len(x), 1)], 1)
    y, half = made.ways[moving], len(x) // 2
    wanted = torch.nn.functional.one_hot(y[:half], 4).float()
    ridge = torch.linalg.solve(x[:half].T @ x[:half] + 50 * torch.eye(x.shape[1]), x[:half].T @ wanted)
    centres = torch.stack([x[:half][y[:half] == way].mean(0) for way in range(4)])
    for guess in ((x[half:] @ ridge).argmax(1), torch.cdist(x[half:], centres).argmin(1)):
        assert abs((guess == y[half:]).float().mean() - 0.25) < 0.08  # 3.5 standard deviations... of 600 clips


def test_the_question_does_not_tell_the_answer(studio: clips.Studio) -> None:
    made = studio.render(1200, "in_domain", "which_way", 5)
    moving = [q for q, way in zip(made.questions, made.ways.tolist(), strict=True) if way < 4]
    places = np.bincount([q.answer for q in moving], minlength=5) / len(moving)
    words = np.bincount([list(clips.WAYS).index(q.options[q.answer]) for q in moving], minlength=4) / len(moving)
    assert np.abs(places - 0.2).max() < 0.06 and np.abs(words - 0.25).max() < 0.07


def test_batches_are_those_of_the_processor_and_the_model(studio: clips.Studio, collator: learning.Collator) -> None:
    made = studio.render(8, "in_domain", "mixed", 6)
    batch = collator(made)
    videos = [list(frames.permute(0, 3, 1, 2)) for frames in made.frames]
    theirs = collator.processor.video_processor(
        [torch.stack(video) for video in videos], do_sample_frames=False, return_tensors="pt"
    )
    assert torch.equal(theirs["video_grid_thw"], batch.inputs["video_grid_thw"])
    torch.testing.assert_close(
        batch.inputs["pixel_values_videos"], theirs["pixel_values_videos"], atol=1e-5, rtol=1e-5
    )

    ids, grid = batch.inputs["input_ids"], collator.grid(FRAMES)
    begin = ids[0].tolist().index(collator.video_id)
    video = [(t, r, c) for t in range(FRAMES // 2) for r in range(SIDE // 28) for c in range(SIDE // 28)]
    assert ids[0].tolist().count(collator.video_id) == grid.num_tokens == len(video)
    expected = [(k, k, k) for k in range(begin)] + [(begin + t, begin + r, begin + c) for t, r, c in video]
    after = ids.shape[1] - len(expected)
    expected += [(begin + FRAMES // 2 + k,) * 3 for k in range(after)]  # one behind the highest
    assert all(torch.equal(row, torch.tensor(expected).T) for row in batch.inputs["position_ids"].transpose(0, 1))

    for row, values in enumerate(batch.inputs["motion_targets"].unflatten(0, (8, -1))):
        vectors = tokens_to_vectors(values.numpy(), grid, collator.setting.scale)
        np.testing.assert_allclose(vectors, made.vectors[row].numpy(), atol=1e-5)
    for row, question in enumerate(made.questions):
        labels = batch.inputs["labels"][row]
        text = collator.tokenizer.decode(labels[labels != learning.IGNORE])
        assert text == f" {question.options[question.answer]}<|im_end|>"
        assert labels[batch.labelled[row]] == batch.options[row, batch.answers[row]]
        assert question.text in collator.tokenizer.decode(ids[row])


def test_shuffled_targets_are_those_of_other_clips(studio: clips.Studio, collator: learning.Collator) -> None:
    made = studio.render(8, "in_domain", "mixed", 7)
    plain, shuffled = (collator(made, shift).inputs["motion_targets"].unflatten(0, (8, -1)) for shift in (0, 3))
    assert torch.equal(shuffled, plain.roll(3, 0)) and not torch.equal(shuffled, plain)


def test_arms_differ_in_the_motion_loss_alone(studio: clips.Studio, collator: learning.Collator, folder: Path) -> None:
    base = learning.load_start(folder, "cpu")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    after = {}
    for name, arm in learning.ARMS.items():
        model = learning.make_arm(base, arm, collator.setting)
        groups = learning.arm_groups(model, 1e-3, collator.setting)
        learner = learning.Learner(model, arm, collator, studio, groups, 4, 1)
        for _ in range(2):
            learner.step()
        after[name] = model
        result = learning.test(model, collator, studio, "in_domain", "which_way", 8, -1)
        assert set(result["right"]) <= {"0", "1"} and result["epe_zero"] > 0
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert after["ce"].motion_head.weight.abs().sum() == 0  # nothing taught it
    for name in ("projector", "last_hidden", "shuffled"):
        assert after[name].motion_head.weight.abs().sum() > 0
    texts = [model.lm_head.weight for model in after.values()]
    assert all(not torch.equal(texts[0], other) for other in texts[1:])


def test_whole_batches_have_the_losses_and_gradients_of_the_model(
    studio: clips.Studio, collator: learning.Collator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole.forward, "supervised_positions", whole.forward.supervised_positions)  # put back after
    base = learning.load_start(folder, "cpu")
    inputs = collator(studio.render(8, "in_domain", "mixed", 8)).inputs
    for one, other in zip(*losses_and_gradients(base, collator, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def losses_and_gradients(base: Any, collator: learning.Collator, inputs: dict[str, Any]) -> list[list[Any]]:
    """Those of the model itself, then those of the one for whole batches."""
    found = []
    for known in (False, True):
        model = learning.make_arm(base, learning.ARMS["last_hidden"], collator.setting)
        torch.nn.init.normal_(model.motion_head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
        if known:
            whole.make_whole(model, collator.grid(FRAMES), inputs["input_ids"][0].tolist().index(collator.video_id))
        output = model(**inputs)
        (output.ce_sum + output.motion_sum).backward()
        found.append([output.ce_sum, output.motion_sum, *(p.grad for p in model.parameters())])
    return found


def test_answers_of_any_length_are_found_without_looking_for_each() -> None:
    labels = torch.full((3, 9), learning.IGNORE)
    for row, (begin, tokens) in enumerate([(4, 2), (3, 4), (5, 1)]):
        labels[row, begin : begin + tokens] = 7
    found = whole._answer_positions(labels, 4)
    counted = found[labels.flatten()[found + 1] != learning.IGNORE]
    assert counted.tolist() == supervised_positions(labels).tolist()


def test_an_encoder_may_have_its_own_rate(folder: Path, collator: learning.Collator) -> None:
    model = learning.make_arm(learning.load_start(folder, "cpu"), learning.ARMS["projector"], collator.setting)
    setting = replace(collator.setting, encoder_rate=5.0, head_rate=15.0)
    groups = learning.arm_groups(model, 2.0, setting)
    rates = {id(parameter): rate for some, rate in groups for parameter in some}
    assert len(rates) == sum(len(some) for some, _ in groups) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.model.visual.parameters()} == {10.0}
    assert {rates[id(p)] for p in model.motion_head.parameters()} == {30.0}
    assert {rates[id(p)] for p in model.model.language_model.parameters()} == {2.0}

    groups = learning.arm_groups(model, 2.0, replace(setting, encoder_rate=0.5, projector_rate=3.0))
    rates = {id(parameter): rate for some, rate in groups for parameter in some}
    assert len(rates) == sum(len(some) for some, _ in groups) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.model.visual.merger.mlp.parameters()} == {6.0}
    assert {rates[id(p)] for p in model.model.visual.blocks.parameters()} == {1.0}
    assert {rates[id(p)] for p in model.motion_head.parameters()} == {30.0}


def test_a_pretrained_encoders_first_layers_stand_before_a_tiny_decoder(
    studio: clips.Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `seer.py` writes sees stills as the encoder's first layers do, and whole batches have its losses."""
    monkeypatch.setattr(whole.forward, "supervised_positions", whole.forward.supervised_positions)  # put back after
    install_dino_tower()
    np.save(tmp_path / "photos.npy", studio.photos.permute(0, 2, 3, 1).repeat(start.UNSEEN_PHOTOS, 1, 1, 1).numpy())
    config = AutoConfig.from_pretrained(run.make_tiny(tmp_path, 3))
    sizes = {"embed_dim": 24, "num_heads": 2, "mlp_ratio": 2, "hidden_act": "gelu", "depth": 6, "hidden_size": 64}
    config.vision_config = type(config.vision_config)(**sizes, patch_size=14, dino_grid=4, dino_layer_scale=True)
    torch.manual_seed(0)
    base = Qwen2VLForConditionalGeneration(config)
    base.save_pretrained(tmp_path / "model")
    seer.make_seer(tmp_path, 3, learning.SETTINGS["seer"])
    made = learning.load_start(tmp_path / "seer-3", "cpu")
    encoder, kept = base.model.visual, made.model.visual
    assert len(kept.blocks) == seer.LAYERS < len(encoder.blocks)
    encoder.blocks = encoder.blocks[: seer.LAYERS]
    still = torch.randn(16, 3, 1, 196).expand(-1, -1, 2, -1).flatten(1)
    grid = torch.tensor([[1, 4, 4]])
    averaged = encoder.patch_embed.proj.weight.view(24, 3, 2, 196).mean(2, keepdim=True).expand(-1, -1, 2, -1)
    encoder.patch_embed.proj.weight.data = averaged.flatten(1)
    found, wanted = (each(still, grid_thw=grid).last_hidden_state for each in (kept, encoder))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)

    collator = learning.Collator(tmp_path / "seer-3", replace(learning.SETTINGS["seer"], half=False), "cpu")
    inputs = collator(studio.render(8, "in_domain", "mixed", 8)).inputs
    for one, other in zip(*losses_and_gradients(made, collator, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    with pytest.raises(SystemExit, match="no pretrained start here"):
        seer.make_seer(tmp_path / "nowhere", 3, learning.SETTINGS["seer"])

    AutoProcessor.from_pretrained(tmp_path / "tiny-3").save_pretrained(tmp_path / "model")
    with torch.no_grad():
        base.model.language_model.embed_tokens.weight.mul_(3)  # another decoder than that of `make_tiny`
    base.save_pretrained(tmp_path / "model")
    seer.make_seer(tmp_path, 4, learning.SETTINGS["pretrained"], reads=True)
    reads = learning.load_start(tmp_path / "pretrained-4", "cpu")
    decoder, own = base.model.language_model.state_dict(), reads.model.language_model.state_dict()
    assert decoder.keys() == own.keys() and all(torch.equal(own[name], value) for name, value in decoder.items())
    torch.testing.assert_close(
        reads.model.visual(still, grid_thw=grid).last_hidden_state, wanted, atol=1e-4, rtol=1e-3
    )


def test_starts_that_know_stills_begin_as_the_others_and_are_taught_for_longer(tmp_path: Path) -> None:
    tiny.KNOWN.make(tmp_path, 3)
    run.make_tiny(tmp_path, 3)
    known, plain = (tmp_path / f"{name}-3" / "model.safetensors" for name in ("known", "tiny"))
    assert known.read_bytes() == plain.read_bytes()
    assert tiny.KNOWN.setting == replace(tiny.SETTING, stills_steps=8 * tiny.SETTING.stills_steps)
    cells = tiny.known_plan(2000, 2)
    assert [cell.arm for cell in cells[:6]] == 2 * ["before", "ce", "projector"]
    assert {cell.arm for cell in cells} <= tiny.ARMS.keys() and len({cell.key for cell in cells}) == len(cells) == 12


def test_layer_scales_go_into_the_weights() -> None:
    sizes = {"embed_dim": 24, "num_heads": 2, "mlp_ratio": 2, "hidden_act": "gelu", "depth": 2, "hidden_size": 64}
    config = Qwen2VLVisionConfig(**sizes, patch_size=14, dino_grid=4, dino_layer_scale=True)
    torch.manual_seed(0)
    scaled = DinoTower(config)
    for block in scaled.blocks:
        block.scale1.data, block.scale2.data = torch.rand(2, 24)
    weights = {name: value.clone() for name, value in scaled.state_dict().items()}
    start.fold_scales(weights)
    del config.dino_layer_scale
    folded = DinoTower(config)
    folded.load_state_dict(weights)
    pixels, grid = torch.randn(32, 1176), torch.tensor([[2, 4, 4]])
    found, wanted = (each(pixels, grid_thw=grid).last_hidden_state for each in (folded, scaled))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_cells_are_trained_as_by_the_learner(
    studio: clips.Studio, collator: learning.Collator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded step makes the weights of `Learner.step` out of the same clips, motion of other clips included."""
    monkeypatch.setattr(whole.forward, "supervised_positions", whole.forward.supervised_positions)
    monkeypatch.setattr(many, "TEST", 8)
    photos = studio.photos.permute(0, 2, 3, 1)
    lab = many.Lab(folder, collator.setting, photos, 2, "cpu", 32, 8)
    lab.add_tests([("in_domain", task, 8, -1) for task in ("which_way", "appearance")] * 2)
    base = learning.load_start(folder, "cpu")
    arm = many.Trial(shuffled=True)
    slot, pool = many.Slot(lab, base, arm, False), many.Pool(lab, "mixed", 5, 0, 32)
    work = slot.work(learning.Cell("main", "shuffled", 1e-3, 5, 4), arm, base.state_dict(), pool, np.inf)
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    row = end.value.value
    assert [point["step"] for point in row["curve"]] == [0, 4] and len(
        row["final"]["in_domain"]["appearance"]["right"]
    ) == 8

    model = learning.make_arm(base, arm, collator.setting)
    learner = learning.Learner(model, arm, collator, studio, learning.arm_groups(model, 1e-3, collator.setting), 4, 5)

    def same_clips() -> clips.Clips:
        rows = torch.arange(8) + 8 * learner.done
        made = studio.render(8, "in_domain", "mixed", 1_000_003 * 5 + learner.done)
        asked = [lab.questions.listed[number] for number in lab.store.question[rows].tolist()]
        return clips.Clips(**(vars(made) | {"questions": asked}))

    monkeypatch.setattr(learner, "clips", same_clips)
    for _ in range(4):
        learner.step()
    for (name, mine), theirs in zip(slot.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3, msg=name)


def test_blocks_are_dequantised() -> None:
    half = np.array([0.5, -1.0], np.float16).view(np.uint8)
    q4 = np.concatenate([half, np.arange(16, dtype=np.uint8) | (15 - np.arange(16, dtype=np.uint8)) << 4])[None]
    expected = np.concatenate([np.arange(16), np.arange(15, -1, -1)]) * 0.5 - 1
    np.testing.assert_array_equal(start.DEQUANTISE["q4_1"](q4)[0], expected)
    q8 = np.concatenate([half[:2], np.arange(-16, 16, dtype=np.int8).view(np.uint8)])[None]
    np.testing.assert_array_equal(start.DEQUANTISE["q8_0"](q8)[0], np.arange(-16, 16) * 0.5)


def test_tables_compare_clip_by_clip(tmp_path: Path) -> None:
    def cell(arm: str, seed: int, right: str) -> dict[str, object]:
        ways = {"right": right, "still_right": "1" * 40, "still": "0" * 40}
        final = {"in_domain": {"which_way": ways, "appearance": {"right": "10" * 10}}}
        point = {"step": 8, "which_way_4": 0.5, "appearance": 0.5}
        return {"phase": "main", "arm": arm, "rate": 1e-4, "seed": seed, "steps": 8, "curve": [point], "final": final}

    cells = [cell("ce", seed, "10" * 20) for seed in (1, 2)] + [cell("projector", seed, "1" * 40) for seed in (1, 2)]
    (tmp_path / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cells))
    plan = {"job": {"start": "tiny"}, "environment": {"date": "2026-11-26", "machine": "cpu", "versions": {}}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    table, differences = aggregate.aggregate(tmp_path)
    found = {(row["arm"], row["task"]): row for row in table}
    assert found["projector", "which_way_4"]["accuracy"] == found["projector", "which_way_4"]["low"] == 1
    assert found["ce", "which_way_4"]["accuracy"] == 0.5 and found["ce", "which_way_4"]["seeds"] == [1, 2]
    gained = {row["task"]: row for row in differences}
    assert gained["which_way_4"]["difference"] == 0.5 and 0.3 < gained["which_way_4"]["low"] < 0.5
    assert gained["appearance"]["difference"] == gained["appearance"]["high"] == 0


def test_a_trial_lacks_what_it_is_to_lack(studio: clips.Studio, folder: Path, collator: learning.Collator) -> None:
    photos = studio.photos.permute(0, 2, 3, 1)
    lab = many.Lab(folder, collator.setting, photos, 2, "cpu", 32, 8)
    base = learning.load_start(folder, "cpu")
    slot, pool = many.Slot(lab, base, many.Trial(), False), many.Pool(lab, "mixed", 5, 0, 32, True)
    pool.reach(64)
    assert pool.done == 32  # the others are the same clips again
    seen: list[dict[str, torch.Tensor]] = []
    forward = slot.model.forward

    def look(**inputs: torch.Tensor) -> object:
        seen.append({name: inputs[name].clone() for name in ("labels", "motion_targets", "motion_mask")})
        return forward(**inputs)

    def steps(trial: many.Trial, count: int = 3) -> list[dict[str, torch.Tensor]]:
        seen.clear()
        slot.load(learning.Cell("few", "", 1e-3, 5, 4), trial, base.state_dict(), pool)
        slot.model.forward = look
        for _ in range(count):
            slot._train()
        return list(seen)

    plain = steps(many.Trial())
    assert all((step["labels"] >= 0).any(1).all() for step in plain)
    few = steps(many.Trial(answers=4))
    for number, step in enumerate(few):
        assert (step["labels"] >= 0).any(1).tolist() == [True] * 4 + [False] * 4
        assert torch.equal(step["labels"][:4], few[0]["labels"][:4])
        assert torch.equal(step["motion_targets"].view(8, -1)[4:], plain[number]["motion_targets"].view(8, -1)[4:])
    own = steps(many.Trial(answers=4, answered_only=True))[1]["motion_mask"].view(8, -1).any(1)
    assert own.tolist() == [True] * 4 + [False] * 4

    unit = collator.patch * collator.setting.scale

    def off(trial: many.Trial) -> torch.Tensor:
        some = steps(trial)
        pairs = zip(some, plain, strict=True)
        return torch.cat([(a["motion_targets"] - b["motion_targets"]).view(8, -1, 2) * unit for a, b in pairs])

    each, shared = off(many.Trial(noise=0.5)), off(many.Trial(clip_noise=1.0))
    assert abs(each.norm(dim=-1).mean() - 0.5) < 0.05 and each.std(1).min() > 0.1
    assert shared.std(1).max() < 1e-5 and 0.5 < shared.norm(dim=-1).mean() < 1.5
    whole, holed = (torch.cat([step["motion_mask"] for step in some]) for some in (plain, steps(many.Trial(gaps=0.3))))
    assert not (holed & ~whole).any() and 0.6 < holed.sum() / whole.sum() < 0.8
    assert torch.equal(holed[:, ::2], holed[:, 1::2])
    with_motion = torch.cat([step["motion_mask"].view(8, -1).any(1) for step in steps(many.Trial(share=0.5))])
    assert 6 <= with_motion.sum() <= 18  # of 24 clips

    head = slot.model.motion_head
    steps(many.Trial(until=0.5), 2)
    learned = [parameter.clone() for parameter in head.parameters()]
    slot._train()
    assert slot.model.motion_head.weight.grad is None or slot.model.motion_head.weight.grad.abs().max() == 0
    assert any(parameter.abs().max() > 0 for parameter in learned)


def test_motion_ahead_is_that_of_the_next_frame(studio: clips.Studio, collator: learning.Collator) -> None:
    made = studio.render(16, "in_domain", "which_way", 8)
    assert not made.ahead_valid[:, -1].any() and made.ahead_valid[:, 0].any()
    inner = made.valid & made.ahead_valid
    assert torch.equal(made.ahead[inner], made.vectors[inner])  # at constant speed
    values, mask = collator.targets(made, collator.grid(FRAMES), direction="future")
    vectors = tokens_to_vectors(
        values.unflatten(0, (16, -1))[3].numpy(), collator.grid(FRAMES), collator.setting.scale
    )
    np.testing.assert_allclose(vectors, made.ahead[3].numpy(), atol=1e-5)
    assert mask.any()


def test_the_first_runs_clips_are_drawn_as_they_were(studio: clips.Studio) -> None:
    """Means of each patch, and all motion, of clips that were drawn before the outlines became the product's."""
    kept = json.loads((Path(__file__).parent / "data" / "first_clips.json").read_text())
    for split, wanted in kept.items():
        made = studio.render(4, split, "mixed", 3)
        means = made.frames.float().unflatten(2, (4, 14)).unflatten(4, (4, 14)).mean((3, 5, 6))
        np.testing.assert_allclose(means.flatten(), wanted["means"], atol=0.05)
        np.testing.assert_allclose(made.vectors.sum((1, 2, 3)).flatten(), wanted["motion"], atol=1e-3)
        assert made.valid.sum((1, 2, 3)).tolist() == wanted["valid"]
        assert [question.text for question in made.questions] == wanted["texts"]


@pytest.fixture(scope="module")
def lesson_lab(studio: clips.Studio, tmp_path_factory: pytest.TempPathFactory) -> lessons.LessonLab:
    texts = [f"{q.text} Answer: {word}" for q in lessons.texts() for word in q.options]
    folder = tmp_path_factory.mktemp("lessons")
    build_tiny("qwen2_vl", folder, texts, hidden_size=32, layers=2, vision_layers=1)
    setting = learning.Setting(SIDE, FRAMES, 8, (1e-3,), 60, half=False)
    return lessons.LessonLab(folder, setting, studio.photos.permute(0, 2, 3, 1), 2, "cpu", 48, 24)


def test_lessons_ask_each_text_with_each_of_its_answers(lesson_lab: lessons.LessonLab) -> None:
    table = lesson_lab.questions
    assert isinstance(table, lessons.Lessons)
    asked = lessons.texts()
    assert len(table.ids) == sum(len(question.options) for question in asked)
    assert {task for task, _ in table.range} == set(lessons.WORDS)
    for task, words in lessons.WORDS.items():
        counts = [table.range[task, word][1] for word in words]
        assert max(counts) == min(counts) or task in ("colour", "shape")


def test_lessons_have_the_answers_and_the_motion_of_their_clips(lesson_lab: lessons.LessonLab) -> None:
    store = lesson_lab.store
    which = lesson_lab.render(store, 0, 24, "train", "mixed", 3)
    assert torch.bincount(which).tolist() == [4] * len(lessons.TASKS)
    again = store.frames[:24].clone()
    lesson_lab.render(store, 24, 24, "train", "mixed", 3)
    assert torch.equal(store.frames[24:], again) and torch.equal(store.question[24:], store.question[:24])
    tokenizer = lesson_lab.collator.tokenizer
    directions = {word: np.array(way) for word, way in (lessons.WAYS | lessons.COMPASS).items()}
    grid = lesson_lab.collator.grid(FRAMES)
    for row, task in enumerate(which.tolist()):
        labels = lesson_lab.questions.labels[store.question[row]]
        answer = tokenizer.decode(labels[labels >= 0]).removesuffix("<|im_end|>").strip()
        assert answer in [word for name, words in lessons.WORDS.items() for word in words]
        vectors = tokens_to_vectors(store.targets[row].numpy(), grid, lesson_lab.setting.scale)
        moving = vectors[np.linalg.norm(vectors, axis=-1) > 0.5]
        if lessons.TASKS[task] in ("which_way_4", "which_way_8") and len(moving):
            way = moving.mean(0) / np.linalg.norm(moving.mean(0))
            assert way @ directions[answer] > 0.99


def test_probes_read_what_is_there(lesson_lab: lessons.LessonLab, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    features, answers = torch.randn(400, 50, generator=random), torch.randint(4, (400,), generator=random)
    assert abs(probes.linear_probe(features, answers, 300) - 0.25) < 0.15
    features[torch.arange(400), answers] += 3
    assert probes.linear_probe(features, answers, 300) > 0.8

    tests = [("in_domain", task, 8, -1) for task in lessons.TASKS]
    lesson_lab.add_tests([*tests, ("in_domain", "speed", 8, -2), (many.PROBES, "speed", 24, -3)])
    base = learning.load_start(lesson_lab.collator.folder, "cpu")
    slot, pool = many.Slot(lesson_lab, base, many.Trial(), False), many.Pool(lesson_lab, "mixed", 5, 0, 48, True)
    work = slot.work(
        learning.Cell("main", "projector", 1e-3, 5, 3), many.Trial(), base.state_dict(), pool, float("inf")
    )
    try:
        while True:
            next(work)
    except StopIteration as end:
        row = end.value
    assert list(row["probes"]["speed"]) == ["encoder", "projector", "layer_1", "last_hidden", "answer"]
    assert set(row["final"]) == {"in_domain"} and len(row["final"]["in_domain"]["speed"]["right"]) == 8
    assert set(lessons.TASKS) < set(row["curve"][-1]) and row["curve"][-1]["step"] == 3
    assert aggregate.tasks_of(row) == {"speed": ("speed", "right")}


def test_captions_are_read_as_they_are_made() -> None:
    world = World(FRAMES, 4, 2, 4, cameras=("still",), plain=False)
    _, made = make_scripts("caption", 140, "ood_objects", world, 3)
    every = {(question.text, question.answer) for question in captions.every_caption()}
    for question in made:
        assert (question.text, question.answer) in every
        thing, motion = captions.read(question.answer)
        assert thing and motion and motion[0] == question.action
        assert question.template == question.answer.replace(thing, "[Something]")
        assert all(captions.score(question.answer, question.answer).values())
    assert {question.action for question in made} == set(captions.CAPTIONS)
    right = "A red circle gliding left until it rests"
    for written, scores in {
        "A red circle moving left and then halting": [True] * 4,  # in other words
        "A red circle gliding right until it rests": [False, True, True, False],
        "A red circle drifting left": [False, True, False, True],
        "A blue circle gliding left until it rests": [False, False, True, True],
        "A red circle going up, after that left": [False, True, False, False],
        "A red circle": [False, True, False, False],
        "": [False] * 4,
    }.items():
        assert captions.score(written, right) == dict(zip(captions.SCORES, scores, strict=True)), written
    assert "caption_way" not in captions.score(right, "A red circle spinning clockwise")


def test_captions_are_written_as_transformers_generates_them(studio: clips.Studio, tmp_path: Path) -> None:
    texts = [f"{q.text} Answer: {word}" for q in lessons.texts(captions.ASKED) for word in q.options]
    texts += [f"{q.text} Answer: {q.answer}" for q in captions.every_caption()[::50]]
    build_tiny("qwen2_vl", tmp_path, texts, hidden_size=32, layers=2, vision_layers=1)
    tests = [("in_domain", task, 8, -1) for task in captions.TASKS] + [("ood_speeds", "caption", 8, -2)]
    setting = learning.Setting(SIDE, FRAMES, 8, (1e-2,), 60, warmup=1, half=False)
    lab = captions.CaptionLab(tmp_path, setting, studio.photos.permute(0, 2, 3, 1), 2, "cpu", 48, 24)
    lab.add_tests(tests)
    base = learning.load_start(tmp_path, "cpu")
    slot, pool = many.Slot(lab, base, many.Trial(), False), many.Pool(lab, "mixed", 5, 0, 48, True)
    work = slot.work(learning.Cell("main", "projector", 1e-2, 5, 12), many.Trial(), base.state_dict(), pool, math.inf)
    try:
        while True:
            next(work)
    except StopIteration as end:
        row = end.value
    assert set(captions.SCORES) | {"which_way_4", "appearance"} < set(row["curve"][-1])
    assert {*row["final"]["ood_speeds"]} == {*captions.SCORES}
    assert len(row["final"]["ood_speeds"]["caption_thing"]["right"]) == 8
    written = slot.write(lab.tests[0])
    assert any(written), "nothing was written, so nothing is compared"
    trained = {name: value for name, value in slot.model.state_dict().items() if "motion_head" not in name}
    base.load_state_dict(trained)
    rows = torch.arange(8)
    inputs = lab.inputs(lab.exams, rows, rows, learning.PLAIN, slot.exact)
    tokenizer, begins = lab.collator.tokenizer, lab.questions.begins[lab.exams.question[rows]].tolist()
    patches = inputs["pixel_values_videos"].unflatten(0, (8, -1))
    for row, begin in enumerate(begins):
        ids = inputs["input_ids"][row : row + 1, :begin]
        video = {"pixel_values_videos": patches[row], "video_grid_thw": inputs["video_grid_thw"][row : row + 1]}
        video["mm_token_type_ids"] = 2 * (ids == lab.collator.video_id).int()
        found = base.generate(ids, **video, max_new_tokens=lab.questions.labelled, do_sample=False)
        text = tokenizer.decode(found[0, begin:]).partition("<|im_end|>")[0].strip()
        assert written[row] == text


def test_targets_that_are_no_motion_tell_nothing_of_the_way(studio: clips.Studio, collator: learning.Collator) -> None:
    """Mirrored, and so moving the other way, a clip has the same targets in the mirrored places."""
    grid = collator.grid(FRAMES)
    some = studio.render(8, "in_domain", "which_way", 3)
    mirrored = replace(some, frames=some.frames.flip(3))
    for name in ("looks", "change", "order"):
        one, other = (many.measured(these, grid, many.SOURCES[name]) for these in (some, mirrored))
        torch.testing.assert_close(other.vectors, one.vectors.flip(3), atol=1e-5, rtol=0)
        assert one.valid[:, 1:].all() and not one.valid[:, 0].any()
        assert 0.1 < one.vectors[:, 1:].square().mean().sqrt() < 1
    still = studio.render(8, "in_domain", "stills", 3)
    assert many.measured(still, grid, many.SOURCES["change"]).vectors.abs().max() == 0


@pytest.mark.slow
def test_arms_of_a_run_are_trained_in_the_order_in_which_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run with measured targets, by its command: a few steps of two arms on two seeds."""
    random = np.random.default_rng(0)
    photos = random.integers(0, 255, (tiny.UNSEEN_PHOTOS + 4, 28, 28, 3), dtype=np.uint8)
    np.save(tmp_path / "photos.npy", photos.repeat(4, 1).repeat(4, 2))
    for seed in (1, 2):  # as if stills had been taught
        tiny.WHICH_WAY.make(tmp_path, seed)
        taught = learning.load_start(tmp_path / f"tiny-{seed}", "cpu").state_dict()
        torch.save(taught, tmp_path / f"tiny-{seed}" / "taught.pt")
    arms = ["ce", "projector, auto"]
    command = [
        sys.executable,
        tiny.__file__,
        "--measured",
        "--device",
        "cpu",
        "--folder",
        tmp_path,
        "--processes",
        "1",
    ]
    command += ["--seconds", "600", "--steps", "3", "--seeds", "2", "--final-clips", "16", "--out", tmp_path / "out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, "--arms", *arguments], capture_output=True, text=True, env=environment)

    done = run(*arms)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "cells.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["arm"]) for row in rows] == [(seed, arm) for seed in (1, 2) for arm in arms]
    assert all(row["done"] == 3 and row["final"] for row in rows)
    targets = json.loads((tmp_path / "out" / "plan.json").read_text())["targets"]
    assert 0 < targets["epe"] < targets["length"]

    cells = tmp_path / "out" / "cells.jsonl"
    assert run("ce", "--steps", "4", "--seeds", "1").returncode == 0  # longer ones come beside
    assert [row["steps"] for row in map(json.loads, cells.read_text().splitlines())] == [3, 3, 3, 3, 4]

    def refused(*arguments: Any) -> str:
        monkeypatch.setattr(sys, "argv", [*map(str, command[1:]), *arguments])
        with pytest.raises(SystemExit) as end:
            tiny.main()
        return capsys.readouterr().err if end.value.code == 2 else str(end.value)

    assert "not in this run: shuffled" in refused("--arms", "shuffled")
    assert "--steps must be at least 1, not 0" in refused("--steps", "0")
    command.remove("--measured")
    assert "holds another run (measured): choose another --out" in refused()
    command.append("--measured")
    cells.write_text(cells.read_text() + '{"phase": ')
    assert f"{cells}, line 6: the row is not whole" in refused()
    (tmp_path / "photos.npy").unlink()
    assert "photos.npy does not exist: `start.py photos`" in refused()
