"""The forms of a motion head: what it reads, what it predicts, and which weights its loss trains."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import training
from fuzz.examples import IMPORT_TRANSFORMERS, kept_files, run_examples
from fuzz.parsers import HEAD, parse, seeds_of, weights
from motiontune.errors import ConfigError, HeadError
from motiontune.grid import VideoGrid
from motiontune.model.families import family_of
from motiontune.model.forward import freeze_unused
from motiontune.model.head import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    MotionHead,
    MotionHeadConfig,
    features_of,
    load_head,
    save_head,
)
from motiontune.motion.field import MotionField
from motiontune.targets import PLAIN, HeadForm, field_to_targets, field_to_weights
from motiontune.training import MotionCollator, MotionSettings, attach_motion, predict
from test_motion_model import family, with_head  # noqa: F401 (a fixture)


FORMS = [
    HeadForm(features=features, form=form, output=output)
    for features in ("token", "delta")
    for form in ("dense", "pooled")
    for output in ("displacement", "direction")
]
DELTADIRECT = HeadForm(features="delta", form="pooled", output="direction")
GRID = VideoGrid(frames=6, rows=4, cols=6)


@pytest.fixture
def field():
    """Still patches, moving ones and invalid ones; the last temporal step stands still."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 4, (6, 4, 6, 2)).astype(np.float32)
    vectors[rng.random((6, 4, 6)) < 0.4] = 0.25
    vectors[4:] = 0
    valid = rng.random((6, 4, 6)) < 0.7
    valid[0] = False
    confidence = np.where(valid, rng.uniform(0.3, 1, valid.shape), 0).astype(np.float32)
    vectors[~valid] = 0
    return MotionField(vectors, valid, np.arange(6.0), "made", confidence=confidence)


# ---- targets ----


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_targets_have_the_shape_of_the_head(field, form):
    targets, weights = field_to_targets(field, GRID, 1.0, form), field_to_weights(field, GRID, form)
    head = MotionHeadConfig(8, GRID.patch, GRID.merge, GRID.temporal_patch, **asdict(form))
    assert targets.values.shape == weights.shape == (form.rows(GRID), form.width(GRID))
    assert head.token_width == form.width(GRID)
    assert weights.dtype == np.float32 and (weights[targets.mask] > 0).all()
    assert targets.mask.any() and not targets.values[~targets.mask].any()


@pytest.mark.parametrize("form", [form for form in FORMS if form.output == "direction"], ids=str)
def test_directions_have_length_1_and_what_stands_still_has_none(field, form):
    targets = field_to_targets(field, GRID, 0.1, form)
    vectors, mask = (x.reshape(len(x), -1, 2) for x in (targets.values, targets.mask))
    np.testing.assert_allclose(np.linalg.norm(vectors[mask[..., 0]], axis=-1), 1, rtol=1e-6)
    plain = field_to_targets(field, GRID, 1.0, HeadForm(features=form.features, form=form.form))
    pixels = GRID.patch * plain.values.reshape(vectors.shape)
    np.testing.assert_array_equal(mask[..., 0], np.linalg.norm(pixels, axis=-1) > 1)
    assert not mask[-len(mask) // 3 :].any() and mask.any()
    cosine = (vectors * pixels).sum(-1)[mask[..., 0]] / np.linalg.norm(pixels[mask[..., 0]], axis=-1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


def test_a_pooled_vector_is_the_mean_over_what_moves(field):
    targets = field_to_targets(field, GRID, 0.5, HeadForm(form="pooled"))
    weights = field_to_weights(field, GRID, HeadForm(form="pooled"))
    for step in range(2):
        pairs = zip(field.vectors[2 * step : 2 * step + 2], field.confidence[2 * step : 2 * step + 2], strict=True)
        patches = [(v, c) for vs, cs in pairs for v, c in zip(vs.reshape(-1, 2), cs.flatten(), strict=True)]
        moving = [(v, c) for v, c in patches if c > 0 and np.hypot(*v) > 1]
        assert 0 < len(moving) < len(patches)
        np.testing.assert_allclose(targets.values[step], np.mean([v for v, _ in moving], 0) / 7, rtol=1e-5)
        np.testing.assert_allclose(weights[step], np.mean([c for _, c in moving]), rtol=1e-5)
    assert targets.mask.all() and not targets.values[2].any()  # standing still is a displacement of 0


@pytest.mark.parametrize("form", ["dense", "pooled"])
def test_the_first_step_has_no_difference_and_no_target(field, form):
    whole = field_to_targets(field, GRID, 1.0, HeadForm(form=form))
    rest = field_to_targets(field, GRID, 1.0, HeadForm(form=form, features="delta"))
    first = len(whole.mask) // 3
    assert whole.mask[:first].any() and not rest.mask[:first].any()
    np.testing.assert_array_equal(whole.mask[first:], rest.mask[first:])
    np.testing.assert_array_equal(whole.values[first:], rest.values[first:])


def test_an_unknown_form_is_refused_with_its_key():
    for key, choices in (
        ("features", "token, delta"),
        ("form", "dense, pooled"),
        ("output", "displacement, direction"),
    ):
        with pytest.raises(ConfigError, match=f"motion_head_{key}: 'round' is none of {choices}"):
            HeadForm(**{key: "round"})


# ---- features ----


@pytest.mark.parametrize("form", ["dense", "pooled"])
def test_the_difference_of_constant_features_is_zero(form):
    hidden = torch.randn(1, 5).expand(2 * 6 + 3 * 4, 5)
    assert not features_of(hidden, [(2, 6), (3, 4)], HeadForm(form=form, features="delta")).any()


@pytest.mark.parametrize("features", ["token", "delta"])
@pytest.mark.parametrize("form", ["dense", "pooled"])
def test_features_are_those_by_hand(features, form):
    videos = [torch.randn(steps, size, 5, dtype=torch.bfloat16) for steps, size in ((2, 6), (3, 4), (1, 2))]
    expected = []
    for video in videos:
        rows = video.float()
        if features == "delta":
            rows = torch.stack([rows[t] - rows[max(t - 1, 0)] for t in range(len(rows))])
        expected.append(rows.mean(1) if form == "pooled" else rows.flatten(0, 1))
    hidden = torch.cat([video.flatten(0, 1) for video in videos])
    found = features_of(hidden, [video.shape[:2] for video in videos], HeadForm(features=features, form=form))
    torch.testing.assert_close(found.float(), torch.cat(expected))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_batch_without_videos_has_no_rows_and_a_graph(form):
    hidden = torch.randn(0, 8, requires_grad=True)
    motion = MotionHead(MotionHeadConfig(8, 14, 2, 2, **asdict(form)))(hidden)
    assert motion.shape == (0, form.width(GRID))
    motion.sum().backward()
    assert hidden.grad is not None


def test_grids_of_other_tokens_are_no_silent_mistake():
    with pytest.raises(ValueError, match="grids have 12 tokens, the batch 13"):
        features_of(torch.randn(13, 5), [(2, 6)], HeadForm(form="pooled"))


# ---- in the model ----


def of_form(form, steps=2):
    """Targets of ones for the fixture's clip, without the first step where the form has none there."""
    shape = (steps, 2) if form.form == "pooled" else (8, 16)
    mask = torch.ones(shape, dtype=torch.bool)
    if form.features == "delta":
        mask[: shape[0] // steps] = False
    return {"motion_targets": torch.ones(shape), "motion_mask": mask}


def gradients(model, batch, weight=1.0):
    """Of each weight, None as zero, with the motion's and the text's sums."""
    output = model.train()(**batch)
    (weight * output.motion_sum + output.ce_sum).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def test_every_tap_reads_tokens_in_their_order(family):  # noqa: F811
    """In Qwen2.5-VL the projector reads them in the order of the encoder's windows, here more than one."""
    _, original, processor, batch, _ = family
    side, entry = 10 * processor.patch_size, family_of(original.config)
    video = torch.randint(0, 255, (4, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = processor(videos=[video], return_tensors="pt", do_sample_frames=False)
    taps = {}
    for tap, gradient in (("projector", "all"), ("projector", "projector"), ("encoder", "all")):
        model = with_head(family, tap, gradient=gradient)
        vision = entry.visual_of(model)(pixels["pixel_values_videos"], grid_thw=pixels["video_grid_thw"])
        if (tap, gradient) == ("projector", "all"):
            taps[tap, gradient] = vision.pooler_output
        else:
            taps[tap, gradient] = model._motion_tap.take(torch.arange(50))
    torch.testing.assert_close(taps["projector", "projector"], taps["projector", "all"])
    rows = taps["encoder", "all"]
    assert rows.shape == (50, model.motion_head.config.hidden_size)
    torch.testing.assert_close(entry.projector_of(original)(rows.view(200, -1)), taps["projector", "all"])


def test_deltadirects_head_is_the_one_by_hand(family):  # noqa: F811
    _, _, _, batch, _ = family
    form = asdict(DELTADIRECT)
    targets = of_form(DELTADIRECT)
    model = with_head(family, "projector", form, kind="l2", gradient="projector")
    output = model(**batch, **targets)
    visual = family_of(model.config).visual_of(model)
    tokens = visual(batch["pixel_values_videos"], grid_thw=batch["video_grid_thw"]).pooler_output
    head = model.motion_head
    expected = torch.stack([head.bias, head.weight @ (tokens[4:] - tokens[:4]).mean(0) + head.bias])
    torch.testing.assert_close(output.motion, expected.detach())
    torch.testing.assert_close(output.motion_sum / 2, torch.nn.functional.mse_loss(expected[1], torch.ones(2)))


@pytest.mark.parametrize("form", [PLAIN, DELTADIRECT], ids=str)
@pytest.mark.parametrize("gradient", ["all", "head", "projector"])
def test_the_motion_loss_trains_what_it_is_told_to(family, gradient, form):  # noqa: F811
    """Of all other weights the gradient is that of the text alone, to the bit."""
    _, _, _, batch, _ = family
    batch = batch | of_form(form)
    model = with_head(family, "projector", asdict(form), gradient=gradient)
    both = gradients(model, batch)
    text = gradients(with_head(family, "projector", asdict(form), gradient=gradient), batch, weight=0.0)
    projector = {
        f"model.visual.merger.{name}" for name, _ in family_of(model.config).projector_of(model).named_parameters()
    }
    encoder = {name for name in both if name.startswith("model.visual.")} - projector
    changed = {name for name in both if not torch.equal(both[name], text[name])}
    head = {"motion_head.weight", "motion_head.bias"}
    assert head <= changed
    if gradient == "head":
        assert changed == head
    elif gradient == "projector":
        assert head < changed <= head | projector
    else:
        assert changed & projector and changed & encoder and changed <= head | projector | encoder


@pytest.mark.parametrize(
    ("tap", "gradient"), [("last_hidden", "head"), ("encoder", "head"), ("projector", "projector")]
)
def test_motion_alone_trains_every_weight_that_is_left(family, tap, gradient):  # noqa: F811
    _, _, _, batch, targets = family
    model = with_head(family, tap, with_text=False, gradient=gradient)
    freeze_unused(model)
    model(**batch, **targets).motion_sum.backward()
    left = {name for name, p in model.named_parameters() if p.requires_grad}
    assert left == {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(name.startswith("motion_head.") or (gradient == "projector" and ".merger." in name) for name in left)


def test_the_projectors_gradient_does_not_depend_on_checkpointing(family):  # noqa: F811
    _, _, _, batch, _ = family
    found = []
    for checkpointing in (False, True):
        model = with_head(family, "projector", asdict(DELTADIRECT), gradient="projector")
        model.enable_input_require_grads()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        found.append(gradients(model, batch | of_form(DELTADIRECT)))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)


def test_text_alone_has_no_rows(family):  # noqa: F811
    _, _, _, batch, _ = family
    ids = torch.tensor([[5, 6, 7, 8]])
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    text["mm_token_type_ids"] = torch.zeros_like(ids)
    for tap, gradient in (("encoder", "all"), ("projector", "projector"), ("projector", "head")):
        model = with_head(family, tap, asdict(DELTADIRECT), gradient=gradient)
        nothing = {"motion_targets": torch.zeros(0, 2), "motion_mask": torch.zeros(0, 2, dtype=torch.bool)}
        output = model(**text, **nothing)
        assert output.motion.shape == (0, 2) and output.motion_sum == 0
        output.loss.backward()
        assert model.motion_head.weight.grad is not None


def test_a_gradient_is_not_stopped_where_the_head_does_not_read(family):  # noqa: F811
    for tap in ("last_hidden", "layer:1", "encoder"):
        with pytest.raises(
            ConfigError, match=f"motion_gradient: projector needs `motion_head_input: projector`, not {tap}"
        ):
            with_head(family, tap, gradient="projector")


def test_a_form_in_python_trains_and_has_no_dense_motion():
    model = AutoModelForImageTextToText.from_pretrained(training.tiny())
    processor = AutoProcessor.from_pretrained(training.tiny())
    settings = MotionSettings(loss_type="l2", gradient="projector")
    targets = attach_motion(model, processor, settings, input="projector", form=DELTADIRECT)
    collator = MotionCollator(processor, targets, fps=8.0)
    batch = collator([(str(clip), "What happens?", "It moves.") for clip in training.clips()[:2]])
    sizes = [record.grid.frames // record.grid.temporal_patch for record in batch["motion_videos"]]
    assert batch["motion_targets"].shape == (sum(sizes), 2) and not batch["motion_mask"][[0, sizes[0]]].any()
    output = model(**{key: value for key, value in batch.items() if torch.is_tensor(value)})
    valid = batch["motion_mask"].sum()
    assert valid and output.motion_sum.item() == pytest.approx(valid.item() / 2)  # of zero, against unit vectors
    with pytest.raises(HeadError, match="predicts one direction per temporal step from .*, no dense motion"):
        predict(model, collator, training.clips()[0], "What happens?", max_new_tokens=1)


# ---- saved ----


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_is_saved_and_another_one_refused(tmp_path, form):
    head = MotionHead(MotionHeadConfig(8, 14, 2, 2, input="projector", **asdict(form)))
    torch.nn.init.normal_(head.weight)
    save_head(head, tmp_path)
    loaded = load_head(tmp_path)
    assert loaded.config == head.config and torch.equal(loaded.weight, head.weight)
    for other in FORMS:
        wanted = MotionHeadConfig(8, 14, 2, 2, input="projector", **asdict(other))
        if other == form:
            loaded.config.check_fits(wanted, "folder")
            continue
        with pytest.raises(HeadError, match="has (features|form|output) .*, this model and configuration have"):
            loaded.config.check_fits(wanted, "folder")


def test_a_head_of_before_forms_loads(tmp_path):
    save_head(MotionHead(MotionHeadConfig(8, 14, 2, 2, input="layer:1")), tmp_path)
    file = tmp_path / "motion_head_config.json"
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in saved.items() if key not in asdict(PLAIN)}))
    assert load_head(tmp_path).config == MotionHeadConfig(8, 14, 2, 2, input="layer:1")


@pytest.mark.parametrize("name", IMPORT_TRANSFORMERS)
def test_any_bytes_in_the_place_of_a_head_give_a_head_or_one_line(name):
    run_examples(name, 60)
    for file in kept_files(name):
        parse(name, file.read_bytes())
    assert [parse(name, seed) for seed in seeds_of(name)] == [""] * len(seeds_of(name))


def test_a_head_is_as_large_as_its_weights_whatever_its_configuration(tmp_path):
    (tmp_path / WEIGHTS_NAME).write_bytes(weights())
    (tmp_path / CONFIG_NAME).write_text(json.dumps(HEAD))
    assert load_head(tmp_path).config.hidden_size == 4
    (tmp_path / CONFIG_NAME).write_text(json.dumps(HEAD | {"hidden_size": 10**12}))
    with pytest.raises(HeadError, match=r"its weight is \[16, 4\], its configuration \[16, 1000000000000\]"):
        load_head(tmp_path)
