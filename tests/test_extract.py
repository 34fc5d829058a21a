"""`motiontune extract`: files that can be read again, pictures, names, and clips that fail."""

import json
import os
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from commands import command, refused
from make_clips import encode, pan_clip
from motiontune.commands.extract import extract, table
from motiontune.commands.options import find_clips
from motiontune.commands.predict import predict
from motiontune.errors import ConfigError, MotiontuneError, OutputError
from motiontune.files import alone_in
from motiontune.grid import VideoGrid
from motiontune.motion.file import FORMATS, find_motion, read_flo
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.video.clip import read_clip
from motiontune.video.reader import FrameReader
from motiontune.viewer.library import measure
from training import start, tiny


CLIPS = [pan_clip("h264", ".mp4"), pan_clip("vp9", ".webm")]
NAMES = [clip.stem for clip in CLIPS]


@pytest.fixture(scope="module", autouse=True)
def started() -> None:
    """Import LLaMA-Factory before a test captures the stream that its loggers will keep."""
    start()


@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_file_source_reads_what_was_written(form: str, direction: str, tmp_path: Path) -> None:
    options = MotionOptions(direction=direction)
    rows = extract([str(clip) for clip in CLIPS], str(tmp_path), options, FrameReader(fps=7.0), form)
    assert [row.source for row in rows] == ["codec+flow", "blockmatch+flow"]
    assert [(row.codec, row.references, row.frames) for row in rows] == [("h264", 3, 11), ("vp9", 0, 11)]
    for path, row in zip(CLIPS, rows, strict=True):
        clip = read_clip(str(path), fps=7.0, with_vectors=True)
        grid = VideoGrid(11, 10, 12, temporal_patch=1)  # 168 x 140 for 160 x 128
        made = motion_of(clip, grid, options)
        read = motion_of(clip, grid, MotionOptions("file", direction, motion_dir=str(tmp_path)))
        np.testing.assert_array_equal(read.valid, made.valid)
        np.testing.assert_allclose(read.vectors, made.vectors, atol=1 / 64 if form == "png" else 1e-5)
        assert row.valid == pytest.approx(made.valid.sum() / (10 * 120), abs=1e-3) and row.valid > 0.8


def test_the_files(tmp_path: Path) -> None:
    extract([str(CLIPS[0])], str(tmp_path), frames=FrameReader(fps=7.0), preview=True)
    with np.load(tmp_path / f"{NAMES[0]}.npz") as saved:
        assert {key: saved[key].shape for key in saved} == {
            "vectors": (11, 10, 12, 2),
            "valid": (11, 10, 12),
            "confidence": (11, 10, 12),
            "times": (11,),
            "size": (2,),
            "source": (),
            "direction": (),
            "clip": (),
        }
        assert saved["size"].tolist() == [140, 168] and str(saved["direction"]) == "past"
    about = json.loads((tmp_path / "extract.json").read_text())
    assert about["options"]["fps"] == 7.0 and about["clips"][0]["source"] == "codec+flow" and "av" in about["versions"]
    assert (tmp_path / f"{NAMES[0]}.motion.png").read_bytes().startswith(b"\x89PNG")
    with av.open(str(tmp_path / f"{NAMES[0]}.motion.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 11 and frames[0].shape == (400, 960, 3)
    extract([str(CLIPS[0])], str(tmp_path), frames=FrameReader(fps=7.0), form="flo")
    vectors, valid = read_flo(str(tmp_path / NAMES[0] / "00000.flo"))
    assert vectors.shape == (140, 168, 2) and valid.mean() > 0.5


def test_of_a_clip_without_valid_motion_no_length_is_told(tmp_path: Path) -> None:
    """Noise, other noise in each frame: nothing in it has gone anywhere, which is not 0 pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 96, 128, 3), np.uint8)
    clip = encode(tmp_path / "noise.mp4", "h264", list(noise), 4)
    (row,) = extract([str(clip)], str(tmp_path / "out"))
    assert row.valid == 0 and row.mean_motion is None and not row.problem
    assert json.loads((tmp_path / "out" / "extract.json").read_text())["clips"][0]["mean_motion"] is None
    assert table([row]).splitlines()[1].split()[3:6] == ["4", "0%", "-"]
    reader = FrameReader()
    read = reader.read(str(clip), False)
    grid = reader.grid_of(read)
    measured = measure(read, grid, motion_of(read, grid, MotionOptions("flow")), "")
    assert measured.moving is None and measured.mean_motion is None and measured.invalid == 1


def test_motion_of_another_direction_or_size_is_refused(tmp_path: Path) -> None:
    extract([str(CLIPS[0])], str(tmp_path))
    clip = read_clip(str(CLIPS[0]))
    grid = VideoGrid(len(clip.frames), 10, 12, temporal_patch=1)
    with pytest.raises(
        MotiontuneError, match="168x140 px in 10 rows of patches, this run has 140x112 px in 8: extract"
    ):
        motion_of(
            clip, VideoGrid(len(clip.frames), 8, 10, temporal_patch=1), MotionOptions("file", motion_dir=str(tmp_path))
        )
    with pytest.raises(MotiontuneError, match="has motion of the past, motion_direction is future"):
        motion_of(clip, grid, MotionOptions("file", "future", motion_dir=str(tmp_path)))


def test_folders_keep_their_structure_and_names_do_not_clash(tmp_path: Path) -> None:
    for name in ("a.mp4", "below/a.mp4", "below/b.WEBM", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_clips([str(tmp_path)], "out")
    assert [str(target) for target in found] == ["out/a", "out/below/a", "out/below/b"]
    with pytest.raises(ConfigError, match="would both be written to out/a"):
        find_clips([str(tmp_path / "a.mp4"), str(tmp_path / "below/a.mp4")], "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no video in it"):
        find_clips([str(tmp_path / "empty")], "out")


def test_clips_and_foreign_files_are_never_written_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(CLIPS[0].read_bytes())
    for _ in range(2):  # motion beside its clip, where `motion_source: file` looks for it; the film is no clip
        (row,) = extract([str(tmp_path)], str(tmp_path), preview=True)
    assert row.problem == "" and clip.read_bytes() == CLIPS[0].read_bytes()
    made = {"a.motion.mp4", "a.motion.png", "a.mp4", "a.npz", "extract.json"}
    assert {path.name for path in tmp_path.glob("[!.]*")} == made
    (tmp_path / "a").mkdir()
    frame = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    (tmp_path / "a" / "00000.png").write_bytes(frame)
    with pytest.raises(OutputError, match=r"a/00000\.png was not made by motiontune"):
        extract([str(clip)], str(tmp_path), form="png")
    assert (tmp_path / "a" / "00000.png").read_bytes() == frame
    (tmp_path / "a" / "00000.png").unlink()
    for fps, form in ((7.0, "flo"), (2.0, "png")):  # the second has fewer pairs, and none of the first is left
        (row,) = extract([str(clip)], str(tmp_path), frames=FrameReader(fps=fps), form=form)
        names = sorted(path.name for path in (tmp_path / "a").glob("[!.]*"))
        assert row.problem == "" and names == [f"{i:05d}.{form}" for i in range(row.frames - 1)]


def test_a_clip_whose_disk_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("motiontune.commands.extract.extract_clip", fail)
    (row,) = extract([str(CLIPS[0])], str(tmp_path))
    assert "Input/output error" in row.problem
    assert json.loads((tmp_path / "extract.json").read_text())["clips"][0]["problem"] == row.problem


def test_options_of_another_source_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(capfd, "extract", str(CLIPS[0]), "--out", str(tmp_path), "--raft-weights", "raft.pth")
    assert message == "--raft-weights is only read with the source raft, not auto"


def test_less_than_a_frame_a_second_is_a_rate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command(capfd, "extract", CLIPS[0], "--out", tmp_path, "--fps", "0.9")  # one frame of so short a clip
    assert json.loads((tmp_path / "extract.json").read_text())["options"]["fps"] == 0.9
    for option, value, message in (
        ("--fps", "0", "--fps must be above 0, and at most 1,000,000, not 0.0"),
        ("--fps", "nan", "--fps must be above 0, and at most 1,000,000, not nan"),
        ("--fps", "inf", "--fps must be above 0, and at most 1,000,000, not inf"),
        ("--max-frames", "0", "--max-frames must be at least 1, and at most 2,147,483,647, not 0"),
        ("--max-pixels", "0", "--max-pixels must be at least 1, and at most 2,147,483,647, not 0"),
        ("--merge", "0", "--patch and --merge must be positive"),
    ):
        assert refused(capfd, "extract", CLIPS[0], "--out", tmp_path, option, value) == message


def test_a_bad_clip_does_not_stop_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    code, out, err = command(capfd, "extract", str(bad), "missing.mp4", str(CLIPS[0]), "--out", str(tmp_path / "out"))
    assert code == 2 and "2 of 3 clips gave no motion" in err and "Traceback" not in err
    assert "cannot be read as a video" in out and "does not exist" in out and "+flow" in out
    assert (tmp_path / "out" / f"{NAMES[0]}.npz").is_file() and not list((tmp_path / "out").glob("*part*"))
    code, out, _ = command(capfd, "extract", str(CLIPS[1]), "--source", "codec", "--out", str(tmp_path / "out"))
    assert code == 2 and "vp9 has no exported vectors" in out
    code, out, _ = command(capfd, "extract", str(CLIPS[1]), "--out", str(tmp_path / "out"), "--max-frames", "1")
    assert code == 2 and "one frame is sampled of it" in out and "0.00" not in out.splitlines()[-1]
    assert refused(capfd, "extract", "", "--out", str(tmp_path / "out")).startswith("'' names no clip: is a variable")
    code, out, _ = command(capfd, "extract", str(CLIPS[1]), "--out", str(tmp_path / "out"))
    assert code == 0 and "blockmatch+flow" in out
    code, _, err = command(capfd, "extract", str(CLIPS[1]), "--source", "radar", "--out", str(tmp_path / "out"))
    assert code == 2 and "'radar' is none of" in err


def test_what_cannot_be_read_in_a_folder_has_a_row(tmp_path: Path) -> None:
    """A link that leads nowhere, and pipes, which are not opened: nobody writes to them. Links in a circle end."""
    clips, more = tmp_path / "clips", tmp_path / "more"
    clips.mkdir(), more.mkdir()
    (clips / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (clips / "more").symlink_to(more)
    (more / "linked.mp4").symlink_to(CLIPS[0])
    (more / "back").symlink_to(clips)
    for name in ("pipe.mp4", "pipe.motion.mp4"):
        os.mkfifo(clips / name)
    rows = extract([str(clips)], str(tmp_path / "out"), frames=FrameReader(fps=2.0))
    assert {Path(row.clip).name: row.problem.partition("/")[0] for row in rows} == {
        "gone.mp4": "is a link to ",
        "linked.mp4": "",
        "pipe.mp4": "is a pipe, not a file",
        "pipe.motion.mp4": "is a pipe, not a file",
    }


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "clips" / "closed"
    below.mkdir(parents=True)
    scan = os.scandir

    def closed(place: Any) -> Any:
        if Path(place) == below:
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ConfigError, match=r"clips/closed: cannot be read: Permission denied"):
        extract([str(tmp_path / "clips")], str(tmp_path / "out"))


def test_two_at_once_into_one_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        for write in (extract, lambda *args: predict(None, *args, "What?")):  # type: ignore[arg-type]
            with pytest.raises(OutputError, match="another run is writing into it: .*choose another --out"):
                write([str(CLIPS[0])], str(tmp_path))


@pytest.mark.parametrize("form", ["npy", "flo"])
def test_what_is_extracted_again_in_another_form_is_what_is_read(form: Any, tmp_path: Path) -> None:
    clip, out = str(CLIPS[0]), str(tmp_path / "out")
    extract([clip], out, frames=FrameReader(fps=2.0))
    extract([clip], out, frames=FrameReader(fps=2.0), form=form)
    assert {file.suffix for file in find_motion(clip, out)} == {f".{form}"}
    (tmp_path / "out" / f"{NAMES[0]}.npz").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"\.npz was not made by motiontune"):  # it would be read instead
        extract([clip], out, frames=FrameReader(fps=2.0), form=form)


def test_an_earlier_file_of_the_whole_name_is_replaced_where_it_would_be_read(tmp_path: Path) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for name, clip in (("a.mp4", CLIPS[0]), ("a.webm", CLIPS[1])):
        (clips / name).write_bytes(clip.read_bytes())
    extract([str(clips)], str(out), frames=FrameReader(fps=2.0))
    before = (out / "a.mp4.npz").read_bytes()
    extract([str(clips / "a.mp4")], str(out), frames=FrameReader(fps=4.0))
    assert (out / "a.mp4.npz").read_bytes() != before and not (out / "a.npz").exists()


@pytest.mark.parametrize("name", ["..mp4", "...mp4"])
def test_names_of_dots_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / name).write_bytes(CLIPS[0].read_bytes())
    (row,) = extract([str(tmp_path / "clips")], str(tmp_path / "out"), frames=FrameReader(fps=2.0))
    assert not row.problem and find_motion(row.clip, str(tmp_path / "out")) == [tmp_path / "out" / f"{name}.npz"]
    assert {path.name for path in tmp_path.iterdir()} == {"clips", "out"}


def test_files_for_a_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What is extracted for a model fits its training, which enlarges small clips and pads odd numbers of frames."""
    from motiontune.llamafactory.reader import ModelReader

    model = tiny("qwen3_vl")
    out, arguments = tmp_path / "out", ["--model", str(model), "--fps", "7", "--source", "codec"]
    code, _, err = command(capfd, "extract", str(CLIPS[0]), "--out", str(out), *arguments)
    assert code == 0, err
    reader = ModelReader(str(model), fps=7.0)
    clip = reader.read(str(CLIPS[0]), with_vectors=True)
    grid = reader.grid_of(clip)
    assert len(clip.frames) == 11 and grid.frames == 12 and grid.patch == 16
    read = motion_of(clip, grid, MotionOptions("file", motion_dir=str(out)))
    made = motion_of(clip, grid, MotionOptions("codec"))
    np.testing.assert_array_equal(read.valid, made.valid)
    np.testing.assert_allclose(read.vectors, made.vectors, atol=1e-5)
    assert read.valid.mean() > 0.5
    message = refused(capfd, "extract", str(CLIPS[0]), "--out", str(out), "--model", str(tmp_path / "nothing"))
    assert "nothing cannot be loaded from a folder or the hub" in message


def test_a_video_of_the_users_is_not_written_over(tmp_path: Path) -> None:
    clip, out = CLIPS[0], tmp_path / "out"
    extract([str(clip)], str(out), preview=True)
    extract([str(clip)], str(out), preview=True)  # its own film is replaced
    other = out / f"{clip.stem}.motion.mp4"
    other.write_bytes(clip.read_bytes())
    with pytest.raises(ConfigError, match=r"was not made by motiontune, or was changed since, and would be"):
        extract([str(clip)], str(out), preview=True)
    assert other.read_bytes() == clip.read_bytes()


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"file is no folder: choose another output folder"):
        extract([str(CLIPS[0])], str(tmp_path / "file"))


FOREIGN = [("npz", "a.npz"), ("npy", "a.npy"), ("flo", "a/7.flo"), ("png", "a/cat.png"), ("npz", "a.motion.png")]
FOREIGN += [("npz", "a.motion.mp4"), ("npz", "extract.json"), ("flo", "a")]


@pytest.mark.parametrize(("form", "name"), FOREIGN)
def test_one_foreign_file_in_the_way_stops_before_any_work(form: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "b").mkdir(parents=True)
    for clip in ("a.mp4", "b/a.mp4"):
        (tmp_path / "in" / clip).write_bytes(CLIPS[0].read_bytes())
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(OutputError) as raised:
        extract([str(tmp_path / "in")], str(tmp_path / "out"), form=form, preview=True)
    assert str(foreign) in str(raised.value) and "\n" not in str(raised.value)
    assert foreign.read_bytes() == b"mine"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [foreign]


def test_clips_of_one_stem_are_all_written_and_found_again(tmp_path: Path) -> None:
    """As `extract FOLDER --out motion` and `motion_dir: motion` have it, whatever lies below the folder."""
    films = tmp_path / "films"
    for name, clip in {"a.mp4": 0, "a.webm": 1, "left/a.mp4": 1, "right/a.mp4": 0, "right/12:30:05.mp4": 0}.items():
        (films / name).parent.mkdir(parents=True, exist_ok=True)
        (films / name).write_bytes(CLIPS[clip].read_bytes())
    out = tmp_path / "motion"
    reader = FrameReader(fps=7.0)
    rows = extract([str(films)], str(out), frames=reader)
    assert not [row.problem for row in rows if row.problem]
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.npz"))
    assert written == ["a.mp4.npz", "a.webm.npz", "left/a.npz", "right/12:30:05.npz", "right/a.npz"]
    found = {Path(row.clip).relative_to(films).as_posix(): find_motion(row.clip, str(out)) for row in rows}
    assert {clip: [path.relative_to(out).as_posix() for path in paths] for clip, paths in found.items()} == {
        "a.mp4": ["a.mp4.npz"],
        "a.webm": ["a.webm.npz"],
        "left/a.mp4": ["left/a.npz"],
        "right/a.mp4": ["right/a.npz"],
        "right/12:30:05.mp4": ["right/12:30:05.npz"],
    }
    for row in rows:
        clip = reader.read(row.clip, False)
        grid = reader.grid_of(clip).unpadded(len(clip.frames))
        assert motion_of(clip, grid, MotionOptions("file", motion_dir=str(out))).valid.any()


def test_films_of_every_suffix_and_of_any_name_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = CLIPS[0].read_bytes()
    for name in "2019-05-06T12:30:05.mp4 file:a.mp4 http:b.mp4 50%d.mp4 c.gif d.VOB e.asf f.m2ts".split():
        Path(name).write_bytes(data)
    rows = extract(["."], "out:1", preview=True)
    assert len(rows) == 8 and not [row.problem for row in rows if row.problem]
    rows = extract(["2019-05-06T12:30:05.mp4", "http:b.mp4"], "motion")  # relative, where FFmpeg sees a protocol
    assert not [row.problem for row in rows if row.problem]


@pytest.mark.parametrize(("length", "preview"), [(253, False), (253, True), (255, False)])
def test_names_as_long_as_a_file_system_has_them(length: int, preview: bool, tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    for name in ("a.gif", "n" * (length - 4) + ".gif", "z.gif"):
        (folder / name).write_bytes(CLIPS[0].read_bytes())
    first, long, last = extract([str(folder)], str(out), preview=preview)
    assert not first.problem and not last.problem and len(list(out.glob("[az].npz"))) == 2
    said = long.problem.endswith("n.motion.png cannot be written: File name too long")
    assert said if preview else not long.problem
    assert len(list(out.glob("n*"))) == (not preview)
    assert [row["problem"] for row in json.loads((out / "extract.json").read_text())["clips"]] == [
        "",
        long.problem,
        "",
    ]
    model: Any = None
    if preview:  # predict's films have names as long
        (row,) = predict(model, [long.clip], str(tmp_path / "predicted"), "?")
        assert row.problem.endswith("n.motion.mp4 cannot be written: File name too long")


def test_names_with_line_breaks_stay_in_their_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip, bad = Path("a\nb\tc\x1b[1m\u2028.mp4"), os.fsdecode(b"\xff\n.mp4")
    clip.write_bytes(CLIPS[0].read_bytes())
    Path(bad).write_bytes(b"")
    rows = extract(["."], "out")
    assert sorted(row.problem for row in rows) == ["", "is empty (0 bytes)"]
    shown = table(rows).encode()  # no half of a pair is left, which UTF-8 has not
    assert len(shown.splitlines()) == 3 and rb"a\nb\tc\x1b[1m\u2028.mp4" in shown and rb"\udcff\n.mp4" in shown
    assert len(find_motion(str(clip), "out")) == 1
    capfd.readouterr()
    assert (
        refused(capfd, "extract", bad, "--out", tmp_path / "other")
        == "1 of 1 clips gave no motion, see the table above"
    )


def test_names_of_clips_with_two_suffixes_do_not_meet(tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    clips = ["a.mp4", "a.webm", "a.mp4.mp4", "a.mp4.mp4.avi", "b.mp4", "A.webm.mp4", "c.mp4", "c.mp4.mp4"]
    for name in clips:
        (folder / name).write_bytes(CLIPS[0].read_bytes() + name.encode())  # each its own digest
    rows = extract([str(folder)], str(out))
    assert len(rows) == 8 and not [row.problem for row in rows if row.problem]
    own = {Path(row.clip).name: [path.name for path in find_motion(row.clip, str(out))] for row in rows}
    assert own == {**{name: [f"{name}.npz"] for name in clips}, "b.mp4": ["b.npz"], "c.mp4": ["c.npz"]}
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"b.mp4 would both be written to .*/b.mp4: give them in two calls"):
        extract([str(folder), str(other)], str(out))
