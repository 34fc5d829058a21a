"""Motion fields to token targets and back."""

import numpy as np
import pytest

from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.targets import (
    MotionTargets,
    field_to_targets,
    field_to_weights,
    from_tokens,
    to_tokens,
    tokens_to_vectors,
)


def random_grid(rng: np.random.Generator) -> VideoGrid:
    merge, temporal = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    frames, rows, cols = (int(rng.integers(1, 5)) * k for k in (temporal, merge, merge))
    return VideoGrid(frames, rows, cols, int(rng.choice([14, 16])), merge, temporal)


def random_field(grid: VideoGrid, rng: np.random.Generator) -> MotionField:
    valid = rng.random((grid.frames, grid.rows, grid.cols)) < 0.7
    vectors = rng.normal(0, 9, (*valid.shape, 2)).astype(np.float32)
    return MotionField(np.where(valid[..., None], vectors, np.float32(0)), valid, np.arange(grid.frames) / 2.0, "test")


@pytest.mark.parametrize("seed", range(50))
def test_field_to_tokens_and_back_is_exact(seed):
    rng = np.random.default_rng(seed)
    grid = random_grid(rng)
    field = random_field(grid, rng)
    targets = field_to_targets(field, grid)
    assert targets.values.shape == (grid.num_tokens, grid.token_width)
    np.testing.assert_array_equal(from_tokens(to_tokens(field.vectors, grid), grid), field.vectors)
    np.testing.assert_array_equal(from_tokens(targets.mask, grid)[..., 0], field.valid)
    np.testing.assert_allclose(tokens_to_vectors(targets.values, grid), field.vectors, rtol=3e-7)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_normalisation_is_in_patches_times_scale(scale):
    grid = VideoGrid(2, 2, 2, patch=14)
    vectors = np.full((2, 2, 2, 2), 28, np.float32)
    field = MotionField(vectors, np.ones((2, 2, 2), bool), np.zeros(2), "test")
    assert np.allclose(field_to_targets(field, grid, scale).values, 2 / scale)


def test_token_order_is_that_of_the_vision_encoder():
    """Patches reach the encoder as the processor orders them; a token's patches must be those of its own features."""
    import torch
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    grid = VideoGrid(4, 4, 6)
    processor = Qwen2VLVideoProcessor(
        size={"shortest_edge": 28 * 28, "longest_edge": 10**6}, do_normalize=False, do_rescale=False
    )
    # the value of every pixel says which patch of which frame it is in
    marks = np.arange(grid.frames * grid.rows * grid.cols, dtype=np.float32).reshape(grid.frames, grid.rows, grid.cols)
    pixels = marks.repeat(14, 1).repeat(14, 2)[:, None].repeat(3, 1)
    out = processor(videos=[torch.from_numpy(pixels)], return_tensors="pt", do_sample_frames=False)
    assert out["video_grid_thw"].tolist() == [[2, 4, 6]]
    # a row per (time, row, column) patch in the encoder's order, four to a token; channels x 2 frames x 14 x 14
    seen = out["pixel_values_videos"].reshape(grid.num_tokens, 4, 3, 2, 14, 14)[:, :, 0, :, 0, 0]
    expected = to_tokens(marks[..., None], grid).reshape(grid.num_tokens, 2, 4).transpose(0, 2, 1)
    np.testing.assert_array_equal(seen.numpy(), expected)


def test_a_grid_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiples"):
        VideoGrid(3, 4, 4)
    with pytest.raises(ValueError, match="positive"):
        VideoGrid(2, 0, 4)


def test_bad_fields_and_targets_are_refused():
    vectors = np.zeros((2, 2, 2, 2), np.float32)
    valid, times = np.ones((2, 2, 2), bool), np.zeros(2)
    with pytest.raises(ValueError, match="float64"):
        MotionField(vectors.astype(np.float64), valid, times, "x")
    with pytest.raises(ValueError, match="not finite"):
        MotionField(np.full_like(vectors, np.nan), valid, times, "x")
    with pytest.raises(ValueError, match="direction"):
        MotionField(vectors, valid, times, "x", "sideways")
    with pytest.raises(ValueError, match="times must be float64"):
        MotionField(vectors, valid, times.astype(np.float32), "x")
    with pytest.raises(ValueError, match="not finite"):
        MotionTargets(np.full((1, 16), np.inf, np.float32), np.ones((1, 16), bool))
    with pytest.raises(ValueError, match="grid has"):
        to_tokens(vectors, VideoGrid(2, 4, 4))


def test_weights_lie_where_the_targets_do():
    grid = VideoGrid(2, 2, 4)
    vectors = np.random.default_rng(0).normal(size=(2, 2, 4, 2)).astype(np.float32)
    confidence = np.random.default_rng(1).uniform(0, 1, (2, 2, 4)).astype(np.float32)
    field = MotionField.from_confidence(vectors, confidence, np.zeros(2), "test").above(0.5)
    weights, targets = field_to_weights(field, grid), field_to_targets(field, grid)
    assert weights.shape == targets.mask.shape and ((weights > 0) == targets.mask).all()
    np.testing.assert_array_equal(np.sort(weights[weights > 0])[::2], np.sort(confidence[confidence > 0.5]))
