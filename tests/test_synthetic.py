"""The synthetic data set: its files are readable, its captions true, and its motion exact to a fraction of a pixel."""

import json
import math
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from numpy.typing import NDArray

from motiontune.datasets.dataset_info import PROMPT
from motiontune.datasets.real_clips import add_real_clips
from motiontune.datasets.scenes import Scene, Sprite, draw, true_flow, true_motion
from motiontune.datasets.stories import ACTIONS, make_scene, write_synthetic
from motiontune.errors import ConfigError
from motiontune.evaluation.comparison import MotionComparison
from motiontune.grid import VideoGrid
from motiontune.motion.sources import motion_of
from motiontune.video.clip import read_clip


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def decode(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def moving(dx: float, dy: float, *, turn: float = 0.0, shape: str = "square", at: float = 28.0) -> Sprite:
    """A shape of 24 pixels that moves by (dx, dy) and turns by `turn` within a second."""
    centres = np.array([[at, 28.0], [at + dx, 28.0 + dy]])
    return Sprite(shape, 24 / math.sqrt(math.pi), np.array([0.0, 1.0]), centres, np.array([0.0, turn]))


def scene_of(*sprites: Sprite, size: int = 56) -> Scene:
    return Scene(size, 16, 17, sprites)


def test_files(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path, clips=9, seed=0, name="train")
    samples = read(path)
    assert len(samples) == 9
    assert [sample["action"] for sample in samples[:7]] == list(ACTIONS)
    assert samples[0]["messages"][0] == {"role": "user", "content": f"<video>{PROMPT}"}
    assert samples[0]["messages"][1]["content"].startswith("The ")
    frames = decode(tmp_path / samples[8]["videos"][0])
    assert frames.shape == (16, 56, 56, 3)
    write_synthetic(tmp_path, clips=2, seed=1, name="test")
    assert set(read(tmp_path / "dataset_info.json")) == {"train", "test"}


def test_seed_and_number_decide_each_clip(tmp_path: Path) -> None:
    few = write_synthetic(tmp_path / "a", clips=2, seed=5, name="x")
    many = write_synthetic(tmp_path / "b", clips=4, seed=5, name="x")
    other = write_synthetic(tmp_path / "c", clips=2, seed=6, name="x")
    assert read(few) == read(many)[:2]
    for name in ("00000.mp4", "00001.mp4"):
        assert (tmp_path / "a/x" / name).read_bytes() == (tmp_path / "b/x" / name).read_bytes()
        assert (tmp_path / "a/x" / name).read_bytes() != (tmp_path / "c/x" / name).read_bytes()
    assert read(other)[0]["id"] == "x/00000"


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("mpeg4", "mpeg4"), ("libvpx-vp9", "vp9")])
def test_codecs_show_the_scene(tmp_path: Path, codec: str, name: str) -> None:
    sample = read(write_synthetic(tmp_path, clips=1, seed=0, name="x", codec=codec))[0]
    path = tmp_path / sample["videos"][0]
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == name
    rng = np.random.default_rng([0, 0])
    scene, _ = make_scene(rng, "move", size=56, fps=16, frames=16)
    error = np.abs(decode(path).astype(np.float32) - draw(scene, rng).astype(np.float32)).mean()
    assert error < 6  # chroma is halved, so the shape's edge is coloured wrongly


def test_h264_vectors_say_the_scene_s_motion_from_the_frame_before(tmp_path: Path) -> None:
    errors = []
    for sample in read(write_synthetic(tmp_path, clips=4, seed=2, name="x", actions=["move"], seconds=0.5)):
        scene = Scene.load(tmp_path / sample["videos"][0])
        with av.open(str(tmp_path / sample["videos"][0])) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"flags2": "+export_mvs"}
            for k, frame in enumerate(container.decode(stream)):
                assert frame.pict_type == (PictureType.I if k == 0 else PictureType.P)
                vectors = frame.side_data.get("MOTION_VECTORS")
                flow, seen, shown = true_flow(scene, k / 16, (k - 1) / 16, 56, 56)
                for vector in vectors.to_ndarray() if vectors else ():
                    assert vector["source"] == -1
                    x, y = int(vector["dst_x"]), int(vector["dst_y"])
                    area = np.s_[max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4]
                    if x < 56 and y < 56 and seen[area].all() and (shown[area] == 0).all():  # wholly within the shape
                        said = np.array([vector["motion_x"], vector["motion_y"]]) / vector["motion_scale"]
                        errors.append(np.hypot(*(said - flow[y, x])))
    assert len(errors) > 20
    assert np.median(errors) < 0.3


@pytest.mark.parametrize("direction", ["past", "future"])
def test_vectors_have_the_field_s_sign_and_units(direction: str) -> None:
    """A shape that moves right by 8 and up by 4 px per second, seen at half a second, in frames of twice the size."""
    grid = VideoGrid(frames=2, rows=8, cols=8)
    field = true_motion(scene_of(moving(8, -4)), np.array([0.0, 0.5]), grid, direction)
    at = 1 if direction == "past" else 0
    assert field.valid[at].any() and not field.valid[1 - at].any()
    np.testing.assert_allclose(field.vectors[at, 4, 4], [8, -4], atol=1e-5)  # half the way, twice the size
    assert field.valid[at, 0, 0] and not field.vectors[at, 0, 0].any()


def test_spinning() -> None:
    """A point right of the centre goes down when the shape turns right."""
    flow, seen, _ = true_flow(scene_of(moving(0, 0, turn=math.pi / 2)), 0, 1, 56, 56)
    np.testing.assert_allclose(flow[28, 35], [-8, 7], atol=0.01)  # own (7.5, 0.5) comes to (-0.5, 7.5)
    assert seen[28, 35]


def test_hidden_uncovered_and_left_out() -> None:
    front, back = moving(-20, 0, at=44.0), moving(20, 0, at=12.0, shape="circle")
    scene = scene_of(back, front)
    _, seen, shown = true_flow(scene, 0.0, 0.5, 56, 56)
    assert shown[28, 16] == 0 and not seen[28, 16]  # the back one's right half comes under the front one
    assert shown[28, 40] == 1 and seen[28, 40]
    assert shown[28, 28] == -1 and not seen[28, 28]  # this background will be covered
    assert shown[2, 2] == -1 and seen[2, 2]
    _, seen, _ = true_flow(scene_of(moving(60, 0)), 0.0, 1.0, 56, 56)
    assert not seen[28, 28]  # it leaves the frame
    field = true_motion(scene, np.array([0.0, 0.5]), VideoGrid(2, 4, 4))
    assert 0.5 < field.valid[1].mean() < 1


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_pixels_agree_with_the_motion(action: str, seed: int) -> None:
    """Fetching each pixel from where the scene says it was gives the frame again."""
    rng = np.random.default_rng(seed)
    scene, caption = make_scene(rng, action, size=112, fps=16, frames=16)
    frames = draw(scene, rng).astype(np.float32)
    for now, before in ((15, 13), (8, 6), (6, 8)):
        flow, seen, shown = true_flow(scene, now / 16, before / 16, 112, 112)
        y, x = np.mgrid[:112, :112].astype(np.float32)
        fetched = cv2.remap(
            frames[before], x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        # away from edges, where a pixel shows two things
        inner = seen & cv2.erode((shown == shown.max()).astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert inner.sum() > 100, caption
        assert np.abs(fetched - frames[now])[inner].mean() < 4, caption


def path_of(scene: Scene, sprite: int = 0) -> NDArray[np.float64]:
    """Pixels per 1/8 second [steps, 2]."""
    last = (scene.frames - 1) / scene.fps
    centres = [scene.sprites[sprite].pose(time)[0] for time in np.arange(0, last, 1 / 8)]
    return np.diff(centres, axis=0)


def facing(step: NDArray[np.float64]) -> str:
    vertical = {-1: "up", 1: "down"}.get(int(np.sign(round(step[1], 3))), "")
    horizontal = {-1: "left", 1: "right"}.get(int(np.sign(round(step[0], 3))), "")
    return " and ".join(filter(None, [vertical, horizontal]))


@pytest.mark.parametrize("seed", range(12))
def test_captions_are_true(seed: int) -> None:
    for action in ACTIONS:
        scene, caption = make_scene(np.random.default_rng([seed, 7]), action, size=56, fps=16, frames=16)
        steps = path_of(scene)
        lengths = np.hypot(*steps.T)
        names = {sprite.shape for sprite in scene.sprites}
        assert all(name in caption for name in names)
        assert lengths.max() <= 8.5, caption
        for sprite in scene.sprites:
            assert (sprite.centres > 8).all() and (sprite.centres < 48).all(), caption
        if action == "still":
            assert not lengths.any() and not np.ptp(scene.sprites[0].angles)
        elif action == "spin":
            assert not lengths.any() and abs(np.ptp(scene.sprites[0].angles)) > 0.5
            stops = scene.sprites[0].pose(0.9)[1] == scene.sprites[0].pose(0.8)[1]
            assert stops == ("then stops" in caption)
        elif action == "cross":
            (first, *_), (other, *_) = path_of(scene, 0), path_of(scene, 1)
            assert facing(first) != facing(other)
            shape = scene.sprites[0].shape
            verb = "moves" if caption.startswith(f"The {shape}") else f"{shape}, which moves"
            assert f"{verb} {facing(first)}" in caption
            gaps = [
                np.hypot(*(scene.sprites[0].pose(t)[0] - scene.sprites[1].pose(t)[0])) for t in np.arange(0, 1, 0.02)
            ]
            assert min(gaps) < 2 * scene.sprites[0].radius, "they do not meet"
        else:
            assert f"moves {facing(steps[0])}" in caption
            if "slowly" in caption:
                assert lengths[0] < 2.6
            else:
                assert lengths[0] > 3
            if action == "stop":
                assert not lengths[-1] and "then stops" in caption
            if action == "speed_up":
                assert lengths[-1] > 2 * lengths[0]
            if action == "turn":
                assert facing(steps[-1]) != facing(steps[0])
                assert caption.endswith(("turns back.", f"turns {facing(steps[-1])}."))


def test_all_moves_and_captions_come_up() -> None:
    captions = {
        make_scene(np.random.default_rng([i, 0]), ACTIONS[i % 7], size=56, fps=16, frames=16)[1] for i in range(700)
    }
    text = " ".join(captions)
    for word in ("circle", "triangle", "square", "up and left", "down and right", "turns back", "spins quickly, then"):
        assert word in text
    assert len(captions) > 120


def test_scene_survives_saving(tmp_path: Path) -> None:
    scene, _ = make_scene(np.random.default_rng(0), "cross", size=56, fps=16, frames=16)
    scene.save(tmp_path / "clip.scene.npz")
    for path in (tmp_path / "clip.scene.npz", tmp_path / "clip.mp4"):
        again = true_motion(path, np.arange(8) / 8, VideoGrid(8, 4, 4))
        field = true_motion(scene, np.arange(8) / 8, VideoGrid(8, 4, 4))
        np.testing.assert_array_equal(again.vectors, field.vectors)
        np.testing.assert_array_equal(again.valid, field.valid)
    with pytest.raises(ConfigError, match="no scene"):
        Scene.load(tmp_path / "other.mp4")


def test_padding_is_invalid() -> None:
    field = true_motion(scene_of(moving(8, 0)), np.array([0, 0.25, 0.5]), VideoGrid(4, 4, 4))
    assert field.valid.any((1, 2)).tolist() == [False, True, True, False]
    assert field.times.tolist() == [0, 0.25, 0.5, 0.5]
    with pytest.raises(ValueError, match="do not fit"):
        true_motion(scene_of(moving(8, 0)), np.arange(5) / 8, VideoGrid(4, 4, 4))


def test_a_patch_that_shows_two_things_equally_is_invalid() -> None:
    # a square of 40 pixels in the middle of four patches of 28: a quarter of it is 51 % of a patch
    half = Sprite("square", 40 / math.sqrt(math.pi), np.array([0.0, 1.0]), np.full((2, 2), 28.0), np.zeros(2))
    for share, valid in ((0.5, True), (0.6, False)):
        field = true_motion(scene_of(half), np.array([0.0, 1.0]), VideoGrid(2, 2, 2, patch=28), share=share)
        assert (field.valid[1] == valid).all()


def test_real_clips(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "elsewhere", clips=2, seed=0, name="x")
    clips = sorted((tmp_path / "elsewhere" / "x").glob("*.mp4"))
    out = tmp_path / "data"
    write_synthetic(out, clips=1, seed=0, name="train")
    linked = read(add_real_clips(out, clips, captions=["one", "two"]))
    assert [row["videos"] for row in linked] == [[str(clip)] for clip in clips]
    assert [row["messages"][1]["content"] for row in linked] == ["one", "two"]
    same = read(add_real_clips(out, clips, captions="same", name="all"))
    assert [row["messages"][1]["content"] for row in same] == ["same", "same"]
    assert set(read(out / "dataset_info.json")) == {"train", "real", "all"}
    with pytest.raises(ConfigError, match="2 clips with 1 captions"):
        add_real_clips(out, clips, captions=["one"])
    with pytest.raises(ConfigError, match="no such file: .*gone.mp4"):
        add_real_clips(out, [tmp_path / "gone.mp4"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "h264"}, "codec must be one of"),
        ({"actions": ["move", "fly"]}, "unknown actions fly"),
        ({"actions": []}, "at least one"),
        ({"size": 57}, "size must be even"),
        ({"seconds": 0.1}, "4 frames or more"),
    ],
)
def test_refuses(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_synthetic(tmp_path, **{"clips": 1, "seed": 0, "name": "x", **change})
    assert not any(tmp_path.iterdir())


def test_a_second_demo_leaves_the_first_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from motiontune.commands.demo import free_folder

    monkeypatch.chdir(tmp_path)
    assert free_folder() == Path("motiontune-demo")
    Path("motiontune-demo").mkdir()
    assert free_folder() == Path("motiontune-demo")
    Path("motiontune-demo", "report.html").touch()
    Path("motiontune-demo-2").write_text("a file")
    assert free_folder() == Path("motiontune-demo-3")


def test_the_demo_measures_against_the_truth(tmp_path: Path) -> None:
    """What is right has no error, what predicts nothing has that of no motion, and targets are near the truth."""
    from motiontune.commands.demo import against_truth, format_table

    grid, right, still = VideoGrid(8, 4, 4), [], []
    for sample in read(write_synthetic(tmp_path, clips=4, seed=3, name="x", fps=8, actions=["move"])):
        path = str(tmp_path / sample["videos"][0])
        clip = read_clip(path, 8.0, with_vectors=True)
        target, truth = motion_of(clip, grid), true_motion(path, clip.times, grid)
        parts = target.vectors, target.valid, target.times, grid, path, target.source, target.direction
        right.append(MotionComparison(truth.vectors, *parts))
        still.append(MotionComparison(np.zeros_like(truth.vectors), *parts))
    metrics = against_truth(right)
    assert metrics["truth_patches"] > 100 and metrics["truth_epe"] == metrics["truth_epe_moving"] == 0
    assert metrics["truth_direction_accuracy"] == 1 and metrics["truth_epe_moving_zero_motion"] > 1.5
    assert 0 < metrics["target_epe_moving"] < 0.2 and 0 < metrics["target_epe"] < 0.5
    nothing = against_truth(still)
    assert nothing["truth_epe"] == nothing["truth_epe_zero_motion"] == metrics["truth_epe_zero_motion"] > 0
    assert nothing["target_epe"] == metrics["target_epe"]
    assert against_truth([]) == {"truth_patches": 0}
    names = ("epe", "epe_zero_motion", "epe_mean_motion", "epe_moving", "epe_moving_zero_motion")
    known = dict.fromkeys((*names, "direction_accuracy", "caption_exact_match"), 1.0)
    assert "truth" not in format_table(known)
    lines = format_table(known | metrics).splitlines()
    assert lines[0].split()[-1] == "target"
    assert lines[3].split()[-2:] == [f"{metrics['target_epe_moving']:.2f}", "px"]
