"""RAFT with random weights: what goes in, what comes out, and files that hold no weights."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from make_clips import pan
from motiontune.errors import ConfigError
from motiontune.grid import VideoGrid
from motiontune.motion import raft
from motiontune.motion.field import Direction
from motiontune.motion.options import MotionOptions
from motiontune.motion.raft import raft_motion
from motiontune.motion.sources import motion_of, needs_vectors
from motiontune.video.clip import Clip, clip_from_frames


GRID = VideoGrid(4, 4, 10)  # 140 x 56 pixels: padded to 144 x 128


@functools.cache
def clip() -> Clip:
    return clip_from_frames(pan(3, 4.0, -2.0, (140, 56)), 4.0)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    file = tmp_path / "small.pth"
    torch.save(raft_small().state_dict(), file)
    return str(file)


def test_it_runs_twice_alike_and_leaves_the_random_numbers_alone(weights: str) -> None:
    before = torch.get_rng_state()
    one, other = raft_motion(clip(), GRID, "past", weights), raft_motion(clip(), GRID, "past", weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.vectors.shape == (4, 4, 10, 2) and one.source == "raft"
    assert one.vectors.any(axis=(1, 2, 3)).tolist() == [False, one.valid[1].any(), one.valid[2].any(), False]
    np.testing.assert_array_equal(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.confidence, other.confidence)
    assert motion_of(clip(), GRID, MotionOptions("raft", raft_weights=weights)).source == "raft"
    assert not needs_vectors("raft")


@pytest.mark.parametrize("direction", ["past", "future"])
def test_what_the_network_says_lands_on_the_grid(direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def network(here: torch.Tensor, there: torch.Tensor) -> list[torch.Tensor]:
        seen.append((here, there))
        flow = torch.tensor([[4.0, -2.0], [-4.0, 2.0]])  # from here to there, and back
        return [torch.zeros(()), flow[..., None, None].expand(2, 2, *here.shape[2:])]

    monkeypatch.setattr(raft, "_model", lambda *args: network)
    field = raft_motion(clip(), GRID, direction)
    pairs = {1: (1, 0), 2: (2, 1)} if direction == "past" else {0: (0, 1), 1: (1, 2)}
    for (i, pair), (here, there) in zip(pairs.items(), seen, strict=True):
        assert here.shape == (2, 3, 128, 144) and torch.equal(here.flip(0), there)
        for number, frame in zip(pair, here, strict=True):
            pixels = frame[:, :56, :140].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(pixels, clip().frames[number] / 127.5 - 1, atol=1e-6)
        expected = [-4, 2] if direction == "past" else [4, -2]
        assert (field.vectors[i][field.valid[i]] == expected).all()
        assert (field.confidence[i, 1:-1, 1:-1] == 1).all()
    assert sorted(set(np.nonzero(field.valid)[0])) == sorted(pairs)


def test_files_that_hold_no_weights(tmp_path: Path, weights: str) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    state = torch.load(weights)
    state[next(iter(state))] = torch.zeros(3)
    torch.save(state, tmp_path / "shape.pth")
    for name, reason in {
        "other": "holds other weights than torchvision's raft_large or raft_small",
        "list": "holds other weights",
        "shape": "holds other weights",
        "text": "cannot be read as weights of torch",
        "missing": "No such file",
    }.items():
        with pytest.raises(ConfigError, match=reason) as caught:
            raft_motion(clip(), GRID, "past", str(tmp_path / f"{name}.pth"))
        assert str(caught.value).startswith("motion_raft_weights: ") and "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConfigError, match=r"cannot download https://.*raft_large.* name it in motion_raft_weights"):
        raft_motion(clip(), GRID)
