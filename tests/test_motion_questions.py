"""Motion questions: exact motion, no way around it, and a data set that trains."""

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from motiontune.commands import prepare as prepare_command
from motiontune.datasets.encoding import encode
from motiontune.datasets.questions import tasks, writing
from motiontune.datasets.questions.noise import LEVELS, make_noise
from motiontune.datasets.questions.stage import Script, Stage, patch_motion
from motiontune.datasets.questions.tasks import TASKS, Question, World, make_scripts
from motiontune.errors import ConfigError, OutputError
from motiontune.grid import VideoGrid
from motiontune.motion.file import file_motion
from motiontune.video.clip import read_clip


SIDE, FRAMES, CLIPS = 28, 4, 480
WORLD = World(FRAMES, 6, 2, 6)
MOTION_TASKS = tuple(task for task in TASKS if task != "appearance")


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Eight photos of coarse and fine noise."""
    random = np.random.default_rng(0)
    small = random.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    return torch.from_numpy(small.repeat(4, 1).repeat(4, 2))


@pytest.fixture(scope="module")
def stage(photos: torch.Tensor) -> Stage:
    return Stage(photos, SIDE)


Drawn = tuple[torch.Tensor, list[Question], Script | None]


def drawn(stage: Stage, task: str, count: int) -> Drawn:
    if task == "noise_figure":
        frames, _, questions = make_noise(count, "train", WORLD, 0, stage.side)
        return frames, questions, None
    script, questions = make_scripts(task, count, "train", WORLD, 0)
    return stage.draw(script), questions, script


@pytest.fixture(scope="module")
def many(stage: Stage) -> dict[str, Drawn]:
    """Clips of each task, for the probes."""
    return {task: drawn(stage, task, CLIPS) for task in MOTION_TASKS}


# ---- motion ----


@pytest.mark.parametrize("task", TASKS)
def test_motion_carries_each_frame_to_its_neighbour(photos: torch.Tensor, task: str) -> None:
    """Each pixel that is seen in the other frame is found there, by its vector and not without it."""
    side, stage = 56, Stage(photos, 56)
    frames, _, script = drawn(stage, task, 6)
    if script is None:
        motions = make_noise(6, "train", WORLD, 0, side)[1]
    else:
        motions = stage.motion(script), stage.motion(script, 1)
    picture = frames.float().flatten(0, 1).permute(0, 3, 1, 2)
    at = torch.arange(side) + 0.5
    for motion, step in zip(motions, (-1, 1), strict=True):
        assert motion.seen[:, 1 if step < 0 else 0].float().mean() > 0.8
        assert not motion.seen[:, 0 if step < 0 else -1].any()
        x, y = at + step * motion.vectors[..., 0], at[:, None] + step * motion.vectors[..., 1]
        grid = torch.stack([x, y], -1).flatten(0, 1) / side * 2 - 1
        other = picture.unflatten(0, frames.shape[:2]).roll(-step, 1).flatten(0, 1)
        found = torch.nn.functional.grid_sample(other, grid, align_corners=False, padding_mode="border")
        off, still = ((some - picture).abs().mean(1).view(motion.seen.shape) for some in (found, other))
        moving = motion.seen & (motion.vectors.norm(dim=-1) > 0.5)
        assert moving.sum() > 200
        assert off[moving].mean() < 0.4 * still[moving].mean()


def test_what_is_covered_or_leaves_is_not_seen(stage: Stage) -> None:
    script, _ = make_scripts("which_way_4", 1, "train", dataclasses.replace(WORLD, cameras=("still",)), 0)
    path = torch.tensor([[0.3, 0.5], [0.5, 0.5], [0.7, 0.5], [0.9, 0.5]])
    script = dataclasses.replace(
        script, centres=path[None, None], radii=torch.tensor([[0.15]]), shapes=script.shapes * 0
    )
    past, ahead = stage.motion(script), stage.motion(script, 1)
    middle = SIDE // 2
    # frame 1: the circle is at 0.5; what it has just left, at 0.3, was covered in frame 0, and 0.7 will be in frame 2
    assert not past.seen[0, 1, middle, round(0.3 * SIDE)] and ahead.seen[0, 1, middle, round(0.3 * SIDE)]
    assert past.seen[0, 1, middle, round(0.7 * SIDE)] and not ahead.seen[0, 1, middle, round(0.7 * SIDE)]
    assert past.seen[0, 1, middle, middle] and past.vectors[0, 1, middle, middle].tolist() == pytest.approx(
        [5.6, 0], abs=1e-4
    )
    vectors, valid = patch_motion(past, 14)
    assert vectors.shape == (1, 4, 2, 2, 2) and valid.shape == (1, 4, 2, 2)


def test_a_camera_moves_the_background_against_the_object(stage: Stage) -> None:
    world = dataclasses.replace(WORLD, cameras=("pan",))
    script, _ = make_scripts("which_way_4", 16, "train", world, 1)
    motion = stage.motion(script)
    own = torch.diff(script.centres[:, 0], dim=1) * SIDE
    pan = torch.diff(script.camera, dim=1) * SIDE
    for clip in range(16):
        for frame in range(1, FRAMES):
            for surface, expected in ((-1, -pan), (0, own - pan)):
                here = motion.seen[clip, frame] & (motion.shown[clip, frame] == surface)
                if here.any():
                    vectors = motion.vectors[clip, frame][here]
                    torch.testing.assert_close(
                        vectors, expected[clip, frame - 1].expand_as(vectors), atol=1e-4, rtol=0
                    )


# ---- no way around motion ----


def probes(features: NDArray[np.float64], answers: NDArray[np.int64]) -> list[float]:
    """Right answers of ridge regression, class means and five neighbours, on the second half of the clips."""
    x = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    half, classes = len(x) // 2, np.arange(answers.max() + 1)
    wanted = (answers[:half, None] == classes).astype(np.float64)
    seen, new = x[:half], x[half:]
    weights = np.linalg.solve(seen.T @ seen + 100 * np.eye(x.shape[1]), seen.T @ wanted)
    means = np.stack([seen[answers[:half] == k].mean(0) for k in classes])
    far = ((new**2).sum(1)[:, None] + (seen**2).sum(1) - 2 * new @ seen.T).argpartition(5, 1)[:, :5]
    guesses = [
        (new @ weights).argmax(1),
        (new @ means.T - 0.5 * (means**2).sum(1)).argmax(1),
        wanted[far].sum(1).argmax(1),
    ]
    return [float((guess == answers[half:]).mean()) for guess in guesses]


def answers_of(task: str, questions: list[Question]) -> NDArray[np.int64]:
    """Numbers of the answers; of two options that change, which one of them in the order of words."""
    if task in ("which_of_two", "order"):
        return np.array([sorted(question.options).index(question.answer) for question in questions])
    answers = [question.action or question.answer for question in questions]
    words = sorted(set(answers))
    return np.array([words.index(answer) for answer in answers])


def looks(frames: torch.Tensor, frame: int) -> NDArray[np.float64]:
    """A small picture of one frame, float [clips, 147]."""
    picture = frames[:, frame].float().permute(0, 3, 1, 2)
    return torch.nn.functional.adaptive_avg_pool2d(picture, 7).flatten(1).numpy().astype(np.float64)


def places(script: Script, frame: int) -> NDArray[np.float64]:
    """Where objects are in one frame, their size, angle and looks, and the camera: all that could be read off it."""
    view = (script.centres[:, :, frame] - script.camera[:, None, frame]).remainder(1)
    around = torch.cat([torch.sin(2 * torch.pi * view), torch.cos(2 * torch.pi * view), view], -1).flatten(1)
    turn = torch.stack([script.angles[:, :, frame].sin(), script.angles[:, :, frame].cos()], -1).flatten(1)
    depth = 2 * torch.pi * script.depths[:, :, frame]
    more = [script.radii, script.contrast, script.shading, script.colours, script.shapes, depth.sin(), depth.cos()]
    background = [script.tone, script.crop, script.grounds[:, None], script.zoom[:, frame, None]]
    return torch.cat([around, turn, *more, *background], 1).numpy().astype(np.float64)


LEAST = 5.0  # standard deviations of a guess: some 200 comparisons


def bound(classes: int) -> float:
    chance = 1 / classes
    return chance + LEAST * float(np.sqrt(chance * (1 - chance) / (CLIPS // 2)))


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_a_single_frame_does_not_tell(many: dict[str, Drawn], task: str) -> None:
    frames, questions, script = many[task]
    answers = answers_of(task, questions)
    classes = int(answers.max()) + 1
    for frame in (0, FRAMES // 2, FRAMES - 1):
        features = [looks(frames, frame)] + ([places(script, frame)] if script else [])
        if task == "which_of_two":  # the answer is a colour's: which one of the two, in their order of words
            features = [np.concatenate([f, f * np.sign(answers_sign(script))[:, None]], 1) for f in features]
        for some in features:
            assert max(probes(some, answers)) < bound(classes)


def answers_sign(script: Script | None) -> NDArray[np.float64]:
    """1 where the first object's colour comes first by its word, else -1."""
    assert script is not None
    names = np.array(list(tasks.COLOURS))[script.colours.numpy()]
    return np.where(names[:, 0] < names[:, 1], 1.0, -1.0)


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_the_text_does_not_tell(many: dict[str, Drawn], task: str) -> None:
    """Words of the question, the place of each option, and which answers there are."""
    questions = many[task][1]
    answers = answers_of(task, questions)
    counts = np.bincount(answers)
    assert counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()
    if questions[0].options:
        at = np.bincount([question.options.index(question.answer) for question in questions])
        assert at.min() > 0.8 * at.mean() and at.max() < 1.2 * at.mean()
    words = sorted({word for question in questions for word in question.text.split()})
    options = sorted({option for question in questions for option in question.options})
    rows = []
    for question in questions:
        order = [question.options.index(o) if o in question.options else -1 for o in options]
        text = question.text.split()
        rows.append([*(word in text for word in words), *order, *(o == question.options[0] for o in options)])
    assert max(probes(np.array(rows, np.float64), answers)) < bound(int(answers.max()) + 1)


@pytest.mark.parametrize("task", ["which_way_4", "which_way_8", "speed", "turns", "towards_away"])
def test_motion_tells(many: dict[str, Drawn], stage: Stage, task: str) -> None:
    """The same probes, given the motion that the frames do not show, are right: what they do not find is not there."""
    _, questions, script = many[task]
    assert script is not None
    past = stage.motion(script)
    on = past.shown >= 0
    moved = past.vectors + torch.diff(script.camera, dim=1, prepend=script.camera[:, :1])[:, :, None, None] * SIDE
    count = on.sum((2, 3)).clamp(min=1)
    mean = (moved * on[..., None]).sum((2, 3)) / count[..., None]
    own = (script.centres[:, 0] - script.camera).remainder(1) * SIDE
    at = torch.arange(SIDE) + 0.5
    x, y = (
        (at - own[..., :1, None] + SIDE / 2) % SIDE - SIDE / 2,
        (at[:, None] - own[..., 1:, None] + SIDE / 2) % SIDE - SIDE / 2,
    )
    spin = ((x * moved[..., 1] - y * moved[..., 0]) * on).sum((2, 3)) / count
    grow = ((x * moved[..., 0] + y * moved[..., 1]) * on).sum((2, 3)) / count
    length = mean.norm(dim=-1)
    features = torch.cat(
        [mean[:, 1:].flatten(1), spin[:, 1:], grow[:, 1:], length[:, 1:], torch.diff(length[:, 1:])], 1
    )
    classes = len({question.answer for question in questions})
    assert max(probes(features.numpy().astype(np.float64), answers_of(task, questions))) > 1 / classes + 0.25


def test_the_probes_find_a_leak(many: dict[str, Drawn], stage: Stage) -> None:
    """Where every object starts so that its way fits into the frame, as is usual, its first frame gives it away."""
    _, questions, script = many["which_way_4"]
    assert script is not None
    way = torch.diff(script.centres[:, 0], dim=1).sum(1)
    inside = 0.5 + (script.centres[:, :, :1].remainder(1) - 0.5) * 0.3 - 2 * way[:, None, None]
    leaky = dataclasses.replace(script, centres=script.centres - script.centres[:, :, :1] + inside)
    answers = answers_of("which_way_4", questions)
    assert max(probes(places(leaky, 0), answers)) > bound(4) and max(
        probes(looks(stage.draw(leaky), 0), answers)
    ) > bound(4)


def test_a_figure_of_noise_is_not_in_any_frame(tmp_path: Path) -> None:
    """Neighbouring cells are alike half of the time, also across the figure's edge."""
    frames, (past, _), _ = make_noise(24, "train", WORLD, 0, 56)
    cells = frames[..., 0].numpy() > 100
    mask = past.shown.numpy() >= 0
    edge = mask[..., 1:] != mask[..., :-1]
    alike = cells[..., 1:] == cells[..., :-1]
    assert edge.sum() > 4000 and abs(alike[edge].mean() - 0.5) < 0.03 and abs(alike[~edge].mean() - 0.5) < 0.01
    assert 0.1 < mask.mean() < 0.3
    # and the encoder leaves no trace of it
    off = []
    for clip in range(3):
        path = tmp_path / f"{clip}.mp4"
        encode(path, frames[clip].numpy().repeat(4, 1).repeat(4, 2), 8, "libx264")
        grey = read_clip(str(path), 8.0, FRAMES).frames.mean(-1).reshape(FRAMES, 56, 4, 56, 4)
        mean, spread = grey.mean((2, 4)), grey.std((2, 4))
        away = np.minimum(abs(mean - LEVELS[0]), abs(mean - LEVELS[1]))
        off += [some[mask[clip]].mean() - some[~mask[clip]].mean() for some in (away, spread)]
    assert np.abs(off).max() < 0.1


# ---- splits and captions ----


def test_splits_keep_apart_what_they_are_to() -> None:
    def script(split: str) -> Script:
        return make_scripts("which_way_4", 200, split, WORLD, 0)[0]

    train, photos, objects, speeds = (script(s) for s in ("train", "ood_photos", "ood_objects", "ood_speeds"))
    assert not {*train.grounds.tolist()} & {*photos.grounds.tolist()} and train.grounds.max() < WORLD.grounds
    assert not {*train.shapes.flatten().tolist()} & {*objects.shapes.flatten().tolist()}
    own, other = (torch.diff(s.centres[:, 0], dim=1).norm(dim=-1) for s in (train, speeds))
    low, high = WORLD.speeds
    assert own.min() >= low - 1e-5 and own.max() <= high + 1e-5
    assert ((other < low) | (other > high)).all() and (other < low).any() and (other > high).any()
    questions = make_scripts("appearance", 60, "ood_objects", WORLD, 0)[1]
    assert {question.task for question in questions} == {"colour"}


def test_captions_tell_what_happens() -> None:
    script, questions = make_scripts("caption", 140, "in_domain", dataclasses.replace(WORLD, cameras=("still",)), 3)
    steps = torch.diff(script.centres[:, 0], dim=1)
    turns = torch.diff(script.angles[:, 0], dim=1)
    found = Counter()
    for row, question in enumerate(questions):
        kind = question.action
        found[kind] += 1
        text, length = question.answer, steps[row].norm(dim=-1)
        assert question.answer.endswith(question.template.removeprefix("[Something]")) and not question.options
        if kind in ("turns", "rests"):
            assert ("counterclockwise" in text) == bool(turns[row, 0] < 0) and length.max() == 0
            assert (turns[row, -1] == 0) == (kind == "rests")
            continue
        assert turns[row].abs().max() == 0
        named = [word for word in text.replace(",", "").split() if word in tasks.WAYS]
        wanted = steps[row, 0] / length[0]
        assert wanted.tolist() == pytest.approx(tasks.WAYS[named[0]], abs=1e-4)
        if kind == "order":
            assert (steps[row, -1] / length[-1]).tolist() == pytest.approx(tasks.WAYS[named[1]], abs=1e-4)
        elif kind == "halts":
            assert length[-1] == 0
        else:
            assert {"faster": length[-1] > 2 * length[0], "slower": length[0] > 2 * length[-1]}.get(kind, True)
    assert min(found.values()) == max(found.values()) == 20


# ---- the data set ----


def wanted(out: Path, **more: object) -> writing.Wanted:
    given = {"count": 4, "splits": ("train",), "tasks": ("which_way_4", "noise_figure"), "size": 56, "frames": 4}
    return writing.Wanted(out, **(given | more))  # type: ignore[arg-type]


def test_the_data_set_has_clips_with_their_motion(tmp_path: Path) -> None:
    task = wanted(tmp_path, seed=3)
    report = writing.prepare_questions(task, 1)
    rows = json.loads((tmp_path / "motion_questions_train.json").read_text())
    assert Counter(row["task"] for row in rows) == {"which_way_4": 2, "noise_figure": 2}
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["motion_questions_train"]["columns"] == {"messages": "messages", "videos": "videos"}
    about = json.loads((tmp_path / "motion_questions_train.about.json").read_text())
    assert about["digest"] == report.splits[0].digest and about["seed"] == 3
    stages, world = writing.stages_of(task)
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        assert (
            question.startswith("<video>") and answer in row["options"] and all(o in question for o in row["options"])
        )
        clip = read_clip(str(tmp_path / row["videos"][0]), 8.0, 4)
        assert clip.frames.shape == (4, 56, 56, 3)
        job = writing.Job(task, "train", row["task"], 0, ())
        frames, vectors, valid, _ = writing.make_clips(job, stages, world)
        number = int(row["id"][-5:])
        assert np.abs(clip.frames.astype(int) - frames[number].numpy()).mean() < 8
        grid = VideoGrid(4, 4, 4, 14, 2, 2)
        field = file_motion(clip, grid)
        assert field.valid[1:].mean() > 0.7 and not field.valid[0].any()
        moved = np.linalg.norm(field.vectors[field.valid], axis=-1)
        exact = np.linalg.norm(vectors[number][valid[number]], axis=-1) * writing.CELL
        assert moved.max() == pytest.approx(exact.max(), rel=0.15)


def test_a_seed_makes_the_same_clips_whatever_else_is_made(tmp_path: Path) -> None:
    one = writing.prepare_questions(wanted(tmp_path / "one"), 1).splits[0].digest
    assert writing.prepare_questions(wanted(tmp_path / "two"), 1).splits[0].digest == one
    assert writing.prepare_questions(wanted(tmp_path / "three", seed=1), 1).splits[0].digest != one
    clips = [(tmp_path / name / "motion_questions_train/which_way_4_00001.mp4") for name in ("one", "two", "more")]
    writing.prepare_questions(wanted(tmp_path / "more", count=9, tasks=("which_way_4",)), 1)
    assert len({clip.read_bytes() for clip in clips}) == 1


def test_real_backgrounds_have_no_motion_that_is_not_known(tmp_path: Path) -> None:
    writing.prepare_questions(wanted(tmp_path / "films", tasks=("which_way_4",)), 1)
    more = {"splits": ("real_backgrounds",), "backgrounds": tmp_path / "films/motion_questions_train"}
    writing.prepare_questions(wanted(tmp_path / "out", tasks=("which_way_4",), **more), 1)
    for file in (tmp_path / "out/motion_questions_real_backgrounds").glob("*.npz"):
        made = np.load(file)
        assert 0 < made["valid"][1:].mean() < 0.3  # the object alone


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    for given, named in (
        ({"splits": ("test",)}, "--splits: test"),
        ({"tasks": ("which_way",)}, "--tasks: which_way:"),
        ({"size": 57}, "--size"),
        ({"frames": 5}, "--frames"),
        ({"splits": ("real_backgrounds",)}, "--backgrounds"),
        ({"backgrounds": tmp_path}, "--backgrounds is for the split real_backgrounds"),
        ({"count": 10**12}, "--count"),
        ({"splits": ("ood_objects",), "tasks": ("noise_figure",)}, "noise_figure"),
        ({"codec": "h263"}, "--codec"),
        ({"codec": "mpeg4", "tasks": ("noise_figure",)}, "mpeg4"),
    ):
        with pytest.raises(ConfigError, match=named) as error:
            wanted(tmp_path, **given)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="has no photo"):
        writing.prepare_questions(wanted(tmp_path, photos=tmp_path), 1)


def test_questions_of_other_settings_are_not_written_over(tmp_path: Path) -> None:
    more: dict[str, Any] = {"tasks": ("which_way_4",), "splits": ("train",)}
    writing.prepare_questions(wanted(tmp_path, **more), 1)
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for other in ({"seed": 9}, {"count": 1}, {"tasks": ("stops",)}):
        with pytest.raises(OutputError, match="of other settings"):
            writing.prepare_questions(wanted(tmp_path, **more | other), 1)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == files
    writing.prepare_questions(wanted(tmp_path, **more), 1)
    writing.prepare_questions(wanted(tmp_path, **more | {"splits": ("in_domain",), "count": 1}), 1)
    assert {file: file.read_bytes() for file in files if file.name.endswith(".mp4")}.items() <= files.items()


def test_the_command_tells_the_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    prepare_command.add_arguments(parser)
    words = ["motion-questions", "--out", str(tmp_path), "--count", "2", "--tasks", "stops,caption", "--size", "56"]
    words += ["--splits", "train", "ood_speeds", "--frames", "4", "--workers", "1"]
    prepare_command.run(parser.parse_args(words))
    printed = capsys.readouterr().out
    first = f"Making 4 clips (56x56 px, 4 frames) in {tmp_path}: 2 of each split, train, ood_speeds ("
    assert printed.startswith(first)
    assert "dataset: motion_questions_train\neval_dataset: motion_questions_ood_speeds\n" in printed
    assert (
        "train_on_video_tokens: true" in printed and "motion_source: file" in printed and "video_fps: 8.0" in printed
    )
