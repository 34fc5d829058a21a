"""What the viewer knows of clips: which it may open, how they move, what stands side by side. No page, no browser."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import training
from make_clips import pan_clip
from motiontune.datasets.dataset_info import ClipOfSample, make_sample, read_clips, templates_of, write_dataset
from motiontune.drawing.panels import difference
from motiontune.errors import ClipError, ConfigError
from motiontune.evaluation.comparison import MotionComparison
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import SOURCES
from motiontune.video.clip import Clip
from motiontune.video.reader import FrameReader
from motiontune.viewer.controls import Films, Settings, Viewer
from motiontune.viewer.library import FILES, Library, Limits, Measured, choose, kinds_of, short_names
from motiontune.viewer.recorded import Recorded, is_recorded
from motiontune.viewer.views import clip_view, error_curve, sources_view


READER = FrameReader(fps=8.0)
OPTIONS = MotionOptions()
MOVING = training.clips()[0]
LIMITS = Limits()


@pytest.fixture
def still(tmp_path):
    return training.write_clip(tmp_path / "data" / "still.mp4", frames=8, dx=0, dy=0)


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "data" / "broken.mp4"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no video")
    return path


# ---- data sets ----


def write_info(folder: Path, **info: object) -> None:
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_an_entry_that_is_no_object_is_refused_where_it_is_asked_for(tmp_path):
    write_info(tmp_path, note="mine", toy={"file_name": "toy.json", "columns": "videos"})
    for name in ("note", "toy"):
        with pytest.raises(ConfigError, match=f"^dataset: '{name}.*it must be an object in braces$"):
            read_clips(tmp_path, name)
    assert Library(str(tmp_path)).names == [] and templates_of(tmp_path, "note,toy") == {}


def test_clips_of_every_layout_are_found_as_training_finds_them(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").touch()
    turns = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": " First. "}]
    turns += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "Second."}]
    (tmp_path / "share.json").write_text(json.dumps([{"conversations": turns, "films": ["films/a.mp4", "b.mp4"]}]))
    row = {"instruction": "<video>What?", "input": "In short.", "output": "A.", "videos": "films/a.mp4"}
    frames = {"instruction": "What?", "output": "B.", "videos": [["1.jpg", "2.jpg"]]}
    (tmp_path / "alpaca.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(frames)}\n")
    write_info(
        tmp_path,
        share={"file_name": "share.json", "formatting": "sharegpt", "columns": {"videos": "films"}},
        alpaca={"file_name": "alpaca.jsonl", "columns": {"videos": "videos"}},
    )
    here = str(tmp_path / "films" / "a.mp4")
    assert read_clips(tmp_path, "share") == [
        ClipOfSample(here, "What?", "Second."),
        ClipOfSample(str(tmp_path / "b.mp4"), "What?", "Second."),
    ]
    assert read_clips(tmp_path, "alpaca") == [ClipOfSample(here, "What?\nIn short.", "A.")]


def test_the_paths_are_those_of_llamafactory(tmp_path):
    """The demo's layout, read by both."""
    training.start()
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments

    (tmp_path / "a.mp4").touch()
    rows = [make_sample("a.mp4", "What?", "That."), make_sample("/nowhere/b.mp4", "<video>Why?", "So.")]
    write_dataset(tmp_path, "toy", rows)
    (attr,) = get_dataset_list(["toy"], str(tmp_path))
    keys = training.keys_for()
    from motiontune.llamafactory.install import get_train_args, install

    install()
    data_args = DataArguments(dataset_dir=str(tmp_path), media_dir=str(tmp_path))
    training_args = get_train_args(keys)[2]
    theirs = _load_single_dataset(attr, ModelArguments(model_name_or_path="x"), data_args, training_args)
    mine = read_clips(tmp_path, "toy")
    assert [clip.path for clip in mine] == [path for row in theirs for path in row["_videos"]]
    assert [clip.answer for clip in mine] == [row["_response"][0]["content"] for row in theirs]
    prompts = [row["_prompt"][0]["content"] for row in theirs]
    assert [clip.prompt for clip in mine] == [prompt.removeprefix("<video>") for prompt in prompts]
    write_dataset(tmp_path, "gone", [make_sample("gone.mp4", "What?", "That.")])  # named where it should be
    assert [clip.path for clip in read_clips(tmp_path, "gone")] == [str(tmp_path / "gone.mp4")]


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"toyy": {"file_name": "toy.json"}}, "'toy' is not in .*did you mean 'toyy'"),
        ({"toy": {"hf_hub_url": "some/where"}}, "no .json or .jsonl file"),
        ({"toy": {"file_name": "toy.json"}}, "no column `videos`"),
        ({"toy": {"file_name": "gone.json", "columns": {"videos": "videos"}}}, r"gone\.json cannot be read"),
        ({"toy": {"file_name": "toy.json", "columns": {"videos": "videos"}}}, r"toy\.json cannot be read"),
        ([], "holds a list, not an object"),
    ],
)
def test_data_sets_that_cannot_be_shown(info, said, tmp_path):
    (tmp_path / "toy.json").write_text('["no object"]')
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=said) as caught:
        read_clips(tmp_path, "toy")
    assert "\n" not in str(caught.value)


# ---- which clips may be opened ----


def test_clips_that_a_data_set_names_are_opened_wherever_they_lie(tmp_path, still):
    outside = training.write_clip(tmp_path / "elsewhere" / "secret.mp4")
    link = still.parent / "link.mp4"
    link.symlink_to(outside)
    up = still.parent / ".." / "elsewhere" / "secret.mp4"
    write_dataset(still.parent, "toy", [make_sample(str(one), "", "") for one in (still, outside, link, up)])
    library = Library(str(still.parent))
    with pytest.raises(ConfigError, match=r"^.*still\.mp4: is no clip of the open data sets"):
        library.check_allowed(str(still))
    assert not library.measure(str(outside), READER, OPTIONS).readable
    library.measured.clear()
    for clip in library.clips("toy"):
        library.check_allowed(clip.path)
        assert library.measure(clip.path, READER, OPTIONS).readable
    other = training.write_clip(outside.parent / "other.mp4")
    with pytest.raises(ConfigError, match="is no clip of the open data sets"):
        library.check_allowed(str(other))
    library.folders.append(still.parent.resolve())  # as that of dropped clips: no link leads out of it
    unnamed = still.parent / "unnamed.mp4"
    unnamed.symlink_to(other)
    with pytest.raises(ConfigError, match="is no clip of the open data sets"):
        library.check_allowed(str(unnamed))
    Library(None, [str(still.parent)]).check_allowed(str(unnamed))


def test_a_data_set_whose_clips_are_all_gone_is_refused(tmp_path, still):
    write_dataset(still.parent, "some", [make_sample(path, "", "") for path in ("gone.mp4", str(still))])
    write_dataset(still.parent, "none", [make_sample(path, "", "") for path in ("gone.mp4", "lost.mp4")])
    library = Library(str(still.parent))
    library.check_there("some")
    with pytest.raises(ConfigError, match=r"none of the 2 clips of 'none' is there, such as .*gone\.mp4: correct"):
        library.check_there("none")


def test_names_and_files(tmp_path, still, broken):
    write_info(still.parent, toy={"columns": {"videos": "videos"}}, text={"file_name": "text.json"})
    library = Library(str(still.parent), [str(still), str(still.parent)])
    assert library.names == [FILES, "toy"]
    assert [Path(clip.path).name for clip in library.clips(FILES)] == ["still.mp4", "broken.mp4", "still.mp4"]
    with pytest.raises(ConfigError, match="'toyy' is none of files, toy: did you mean 'toy'"):
        library.clips("toyy")
    with pytest.raises(ConfigError, match="does not exist"):
        Library(str(tmp_path))


# ---- how clips move ----


def test_measuring_tells_moving_still_and_broken_clips_apart(still, broken):
    library = Library(None, [str(MOVING), str(still), str(broken)])
    paths = [clip.path for clip in library.clips(FILES)]
    assert list(library.measure_all(paths, READER, OPTIONS, workers=2))[-1] == 3
    moving, stands, bad = (library.measured[path, OPTIONS] for path in paths)
    # 2 px right and 1 px down each frame
    assert moving.moving > 0.9 and moving.mean_motion == pytest.approx(5**0.5, abs=0.3) and moving.frames == 16
    assert stands.moving == 0 and stands.mean_motion < 0.1 and stands.source == "codec+flow"
    assert not bad.readable and "cannot be read as a video" in bad.problem and str(broken) not in bad.problem
    clips, known = library.clips(FILES), {path: library.measured[path, OPTIONS] for path in paths}
    found = {kind: choose(clips, known, kind, LIMITS) for kind in ("all", "moving", "still", "unreadable")}
    assert found == {"all": [0, 1, 2], "moving": [0], "still": [1], "unreadable": [2]}
    assert choose(clips, known, "all", LIMITS, "STILL mp4") == [1]
    assert choose(clips, {}, "moving", LIMITS) == []


def test_the_line_about_measured_clips_counts_those_with_motion(tmp_path, still, broken):
    def lines(*paths):
        page = Viewer(Library(None, [str(path) for path in paths]), READER, Settings(OPTIONS), Films(tmp_path))
        *_, done = page.measure(FILES, 9, "auto")
        return done, page.rows(FILES, "all", "", 1, 50, "auto")[1]

    done, line = lines(still, broken)
    for one in (done, line):
        assert "motion of 1 measured with auto · 1 without motion: cannot be read as a video" in one
    done, line = lines(broken)
    assert "motion of" not in done + line and "1 without motion: cannot be read" in line and "mt-error" in done


def test_a_clip_without_vectors_is_found_by_their_share():
    library = Library(None, [str(training.clips()[2])])  # VP9
    measured = library.measure(str(training.clips()[2]), READER, replace(OPTIONS, source="codec"))
    assert measured.readable and measured.invalid == 1 and "vp9" in measured.problem
    assert kinds_of(measured, LIMITS) == {"all", "few vectors"}
    assert kinds_of(Measured(8, moving=0.2, invalid=0.6), LIMITS) == {"all", "few vectors", "moving"}
    assert kinds_of(Measured(8, moving=0.2, invalid=0.5), Limits(0.2, 0.5)) == {"all", "still"}


def test_measuring_that_is_stopped_begins_no_other_clip(tmp_path):
    paths = [str(training.write_clip(tmp_path / f"{i}.mp4", frames=4)) for i in range(8)]
    library = Library(None, paths)
    begun = library.measure_all(paths, READER, OPTIONS, workers=1)
    assert next(begun) == 1
    begun.close()
    assert 1 <= len(library.measured) <= 2


# ---- views ----


def predictions(folder: Path, wrong: float, reader: FrameReader = READER) -> Path:
    """What evaluate leaves of two clips, the second of which is predicted worse; the error is the same everywhere."""
    paths = [str(training.clips()[i]) for i in (0, 2)]
    (folder / "motion_predictions").mkdir(parents=True)
    for number, path in enumerate(paths):
        clip = reader.read(path, False)
        grid = reader.grid_of(clip)
        target = np.full((grid.frames, grid.rows, grid.cols, 2), 3.0, np.float32)
        valid = np.ones(target.shape[:3], bool)
        valid[[0, *range(len(clip.frames), grid.frames)]] = False
        shift = np.array([wrong * (number + 1), 0], np.float32)
        times = np.append(clip.times, [clip.times[-1]] * (grid.frames - len(clip.times)))
        one = MotionComparison(target + shift, target, valid, times, grid, path, "codec", "past")
        one.save(folder / "motion_predictions" / f"{number:06d}.npz")
    rows = [json.dumps({"prompt": "What?", "predict": f"{wrong:g} {i}", "label": f"Label {i}."}) for i in (0, 1)]
    (folder / "generated_predictions.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "evaluation.json").write_text(json.dumps({"keys": {"video_fps": reader.fps}}))
    return folder


def test_two_folders_of_predictions_stand_side_by_side(tmp_path):
    folders = [predictions(tmp_path / name, wrong) for name, wrong in (("a/run", 1.0), ("b/run", 2.0))]
    models = [Recorded(str(folder)) for folder in folders]
    names = short_names([str(folder) for folder in folders])
    assert names == ["a/run", "b/run"] and is_recorded(str(folders[0])) and not is_recorded(str(tmp_path))
    (tmp_path / "films").mkdir()
    library = Library(None, (), {name: model.clips for name, model in zip(names, models, strict=True)})
    page = Viewer(library, READER, Settings(OPTIONS, names[0]), Films(tmp_path / "films"), models)
    assert not page.asks
    name, chosen, trouble = page.begin("")
    assert (name, chosen.number, trouble) == ("a/run", 0, "")
    assert page.begin(page.clip_of_row("b/run", 1).link)[1].clip == models[1].clips[1]
    assert "there is no clip x.mp4 in a/run" in page.begin("?dataset=a/run&clip=x.mp4")[2]
    *_, (view, line, facts, film, details, one, other) = page.open(chosen, "arrows", "auto")
    assert (
        (one, other, line) == ("1 0", "2 0", "") and "Label 0." in facts and chosen.link.replace("&", "&amp;") in facts
    )
    assert [panel.title for panel in view.panels] == [
        "target: codec",
        "a/run",
        "b/run",
        "clip",
        "a/run: error, 0 to 2.0 px",
        "b/run: error, 0 to 2.0 px",
    ]
    assert "a/run: end-point error <strong>1.00 px</strong> (no motion 4.24)" in details
    assert "b/run: end-point error <strong>2.00 px</strong>" in details and "download=" in film

    def order(by: str) -> list[str]:
        table, _ = page.rows("a/run", "all", "", 1, 50, "auto", by, chosen)
        assert "<tr data-row=0 aria-selected=true>" in table and ">2.00</td>" in table
        return re.findall(r"data-row=(\d)", table)

    assert order("the data set's order") == order("error, smallest first") == ["0", "1"]
    assert order("error, largest first") == order("error against no motion, largest first") == ["1", "0"]
    assert "nothing to sort by" in page.rows("a/run", "all", "", 1, 50, "auto", "motion, most first")[1]


def test_predictions_on_other_frames_do_not_stand_beside(tmp_path):
    folders = [predictions(tmp_path / "a", 1.0), predictions(tmp_path / "b", 2.0, FrameReader(fps=4.0))]
    models = [Recorded(str(folder)) for folder in folders]
    (tmp_path / "films").mkdir()
    library = Library(None, (), {"a": models[0].clips, "b": models[1].clips})
    page = Viewer(library, READER, Settings(OPTIONS, "a"), Films(tmp_path / "films"), models)
    *_, (view, line, _, _, details, _, _) = page.open(page.first("a"), "arrows", "auto")
    assert "b sees other frames or patches" in line and "b: end-point error <strong>2.00 px</strong>" in details
    assert [panel.title for panel in view.panels] == ["target: codec", "a", "a: error, 0 to 1.0 px"]
    gone = replace(models[0].clips[0], answer="other")
    with pytest.raises(ClipError, match="is not among the predictions of"):
        models[0].predict(gone)


def frames_of(path: Path) -> tuple[np.ndarray, list[float]]:
    """The pictures of a film, and when each is shown."""
    with av.open(str(path)) as film:
        frames = list(film.decode(video=0))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames]


@pytest.mark.parametrize("show", ["arrows", "colours", "none"])
def test_the_film_of_a_clip_has_the_models_frames(show, tmp_path):
    view, measured = clip_view(str(pan_clip("h264", ".mp4")), FrameReader(fps=4.0), OPTIONS)
    times = view.draw(tmp_path / "film.mp4", show)
    pictures, shown = frames_of(tmp_path / "film.mp4")
    assert len(pictures) == measured.frames == len(view.clip.frames)
    np.testing.assert_array_equal(times, view.clip.times)
    np.testing.assert_allclose(shown, times - times[0], atol=1e-4)  # at the clip's own speed
    view.draw(tmp_path / "plain.mp4", "none")
    plain, _ = frames_of(tmp_path / "plain.mp4")
    changed = np.abs(pictures.astype(int) - plain).mean((1, 2, 3))
    assert changed[0] < 8 and (changed[1:].min() > 2) == (show != "none")


def test_all_sources_stand_side_by_side(tmp_path):
    *working_on, (view, rows) = sources_view(str(training.clips()[2]), READER, OPTIONS)
    names = [name for name in SOURCES if name != "raft"]
    assert working_on == ["decoding", *names] and [row.source for row in rows] == names
    by_name = {row.source: row.measured for row in rows}
    assert "vp9" in by_name["codec"].problem and by_name["blockmatch"].source == "blockmatch"
    assert by_name["auto"].source == "blockmatch+flow" and by_name["flow"].mean_motion > 1
    view.draw(tmp_path / "film.mp4", "arrows")
    pictures, _ = frames_of(tmp_path / "film.mp4")
    assert pictures.shape[1:3] == (2 * (26 + 240), 3 * 240)


def test_sources_follow_vectors_instead_of_keeping_them():
    *_, (view, rows) = sources_view(str(training.clips()[0]), READER, OPTIONS)
    assert view.clip.codec_motion is None
    sources = {row.source: row.measured.source for row in rows}
    assert sources["codec"] == "codec" and sources["codec+flow"] == sources["auto"] == "codec+flow"


def test_a_clip_that_cannot_be_read_raises(broken):
    with pytest.raises(ClipError, match=r"broken\.mp4"):
        clip_view(str(broken), READER, OPTIONS)
    with pytest.raises(ClipError, match=r"broken\.mp4"):
        list(sources_view(str(broken), READER, OPTIONS))


def test_the_error_over_time():
    rng = np.random.default_rng(0)
    said, true = (rng.normal(0, 3, (4, 2, 3, 2)).astype(np.float32) for _ in range(2))
    valid = rng.random((2, 4, 2, 3)) < 0.7
    valid[:, 2] = False
    times = np.arange(4) / 4
    fields = [
        MotionField(np.where(v[..., None], x, np.float32(0)), v, times, "x")
        for x, v in zip((said, true), valid, strict=True)
    ]
    curve = error_curve(*fields)
    both = valid[0] & valid[1]
    assert curve.times.tolist() == [times[i] for i in (0, 1, 3)]
    for number, i in enumerate((0, 1, 3)):
        assert curve.error[number] == pytest.approx(np.linalg.norm(said[i] - true[i], axis=-1)[both[i]].mean())
        assert curve.no_motion[number] == pytest.approx(np.linalg.norm(true[i], axis=-1)[both[i]].mean())
    one, other = fields
    np.testing.assert_array_equal(difference(one.vectors, one.valid, other.vectors, other.valid)[1], both)


def test_the_library_is_light_to_import():
    code = "import sys, motiontune.viewer.server; assert not {'torch', 'llamafactory', 'gradio'} & set(sys.modules)"
    training.run_command("-c", code, env={"PATH": os.environ["PATH"]})
    assert isinstance(READER.read(str(MOVING), False), Clip)
