"""`motiontune extract` over many clips: inputs, rows, and what a run that was stopped leaves and goes on from."""

import dataclasses
import io
import os
import pickle
import resource
import shutil
import tarfile
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import numpy as np
import pytest

from html_page import Page
from make_clips import pan_clip
from motiontune.cli import run_command
from motiontune.commands.extract import extract
from motiontune.datasets.dataset_info import make_sample, read_clips, write_dataset
from motiontune.datasets.selection import Wanted, select
from motiontune.errors import ConfigError, MotiontuneError, OutputError
from motiontune.extraction.clip import Extractor, Settings
from motiontune.extraction.engines import Done, Job, on_this_machine
from motiontune.extraction.inputs import ClipSource, Inputs, as_file, copy_below, is_one_of_many
from motiontune.extraction.journal import Crash, open_journal
from motiontune.extraction.run import Summary
from motiontune.extraction.run import run as run_many
from motiontune.extraction.worker import Died, Worker
from motiontune.grid import VideoGrid
from motiontune.manifest import ClipFacts, ClipRow, read_manifest, read_rows, write_manifest
from motiontune.motion.field import MotionField
from motiontune.motion.file import find_motion
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.motion.statistics import MotionStatistics
from motiontune.runs.survey import survey
from motiontune.video.clip import read_clip, sample_indices
from motiontune.video.container import probe
from motiontune.video.reader import FrameReader


pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FRAMES = FrameReader(fps=8.0)
MEASURED = ("seconds",)
"""Columns of which two undisturbed runs differ, too."""


def here(
    jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[Crash], None]
) -> Generator[Done]:
    """An engine that starts no process."""
    extractor = Extractor(settings)
    for job in jobs:
        yield Done(extractor.row(job.source, job.ours), "here")


def extracted(*paths: object, out: Path, form: str = "npz", **more: object) -> Summary:
    inputs = Inputs(tuple(map(str, paths)), **more)  # type: ignore[arg-type]
    return run_many(inputs, Settings(str(out), form, frames=FRAMES), here, 1, 60.0)  # type: ignore[arg-type]


def rows(out: Path) -> dict[str, ClipRow]:
    return {row.path: row for row in read_rows(out)}


def unmeasured(out: Path) -> list[dict[str, object]]:
    return [{**row, **dict.fromkeys(MEASURED)} for row in read_manifest(out)]


def files(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.npz")}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips: two that are fine, one deeper, one that is none."""
    folder = tmp_path_factory.mktemp("many") / "clips"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(pan_clip("h264", ".mp4"), folder / "a.mp4")
    shutil.copy(pan_clip("vp9", ".webm"), folder / "deep" / "a.webm")
    (folder / "bad.mp4").write_bytes(b"nothing of the kind")
    return folder


@pytest.fixture(scope="module")
def undisturbed(clips: Path) -> Path:
    out = clips.parent / "out"
    extracted(clips, out=out)
    return out


def test_rows_and_files(clips: Path, undisturbed: Path) -> None:
    found = rows(undisturbed)
    assert [Path(path).name for path in found] == ["a.mp4", "bad.mp4", "a.webm"]
    one, bad = found[str(clips / "a.mp4")], found[str(clips / "bad.mp4")]
    assert (one.codec, one.source, one.frames, one.fps) == ("h264", "codec+flow", 13, 25.0)
    assert one.info is not None and one.info.frames == one.stream_frames == 41
    # the camera of a pan moves all that moves: by (3, -1.5) px a frame, of which mostly every third is sampled
    assert one.camera_share == pytest.approx(1, abs=0.02) and one.camera_px == pytest.approx(one.mean_px, abs=0.5)
    assert one.moving_share == 1 and one.median_px == pytest.approx(
        3 * np.hypot(3 * 168 / 160, 1.5 * 140 / 128), abs=0.05
    )
    assert bad.failure == "clip" and "cannot be read as a video" in str(bad.error) and bad.source is None
    assert one.motion == "a.mp4.npz" and one.motion_bytes == (undisturbed / "a.mp4.npz").stat().st_size
    # as of an extraction of one clip
    extract([str(clips / "a.mp4")], str(clips.parent / "one"), frames=FRAMES)
    with np.load(clips.parent / "one" / "a.npz") as single, np.load(undisturbed / "a.mp4.npz") as many:
        assert sorted(single) == sorted(many)
        for key in single:
            np.testing.assert_array_equal(single[key], many[key])


def test_training_finds_the_motion(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    listed = tmp_path / "listed.txt"
    listed.write_text(f"{clips / 'a.mp4'}\n\n")
    extracted(listed, out=tmp_path / "out")
    for out in (undisturbed, tmp_path / "out"):
        clip = read_clip(str(clips / "a.mp4"), fps=8.0)
        field = motion_of(clip, FRAMES.grid_of(clip), MotionOptions("file", motion_dir=str(out)))
        assert field.source == "file" and field.valid_share > 0.5


def test_inputs(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The same clips from lists, a data set, a tar and an address have the same content and motion."""
    fsspec = pytest.importorskip("fsspec")
    wanted = (clips / "a.mp4", clips / "deep" / "a.webm")
    (tmp_path / "list.txt").write_text(f"a.mp4\n{wanted[1]}\n")
    shutil.copy(wanted[0], tmp_path / "a.mp4")  # beside the list
    write_dataset(tmp_path / "data", "some", [make_sample(str(path), "?", "!") for path in (*wanted, wanted[0])])
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for number, path in enumerate(wanted):
            tar.add(path, f"{number:04d}{path.suffix}")
            text = tarfile.TarInfo(f"{number:04d}.json")
            tar.addfile(text, io.BytesIO())
    memory = fsspec.filesystem("memory")
    for path in wanted:
        memory.pipe(f"/bucket/{path.relative_to(clips)}", path.read_bytes())
    memory.pipe("/shards/s.tar", (tmp_path / "shard-0.tar").read_bytes())
    kinds = {
        "text": [tmp_path / "list.txt"],
        "manifest": [undisturbed / "manifest.parquet"],
        "tar": [tmp_path / "shard-0.tar"],
        "address": ["memory://bucket"],
        "addresses": ["memory://bucket/*.mp4", "memory://bucket/deep/a.webm"],
        "tar at an address": ["memory://shards/s.tar"],
    }
    assert all(is_one_of_many(str(paths[0])) for paths in kinds.values()) and not is_one_of_many(str(clips))
    expected = [(row.digest, row.mean_px) for row in rows(undisturbed).values() if row.source]
    for name, paths in kinds.items():
        extracted(*paths, out=tmp_path / name)
        found = rows(tmp_path / name)
        assert [(row.digest, row.mean_px) for row in found.values() if row.source] == expected, name
        assert all((tmp_path / name / str(row.motion)).is_file() for row in found.values() if row.source)
    extracted(out=tmp_path / "sets", datasets=("some",), dataset_dir=str(tmp_path / "data"))
    assert [row.digest for row in rows(tmp_path / "sets").values()] == [digest for digest, _ in expected]
    assert list(rows(tmp_path / "tar"))[0].endswith("shard-0.tar::0000.mp4")
    assert (tmp_path / "tar" / str(list(rows(tmp_path / "tar").values())[0].motion)).parent.name == "shard-0"


def test_shards_and_samples_share_a_folder(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in (1, 2):
        extracted(clips, out=out, shard=(i, 2))
    assert {row["path"]: row for row in unmeasured(out)} == {row["path"]: row for row in unmeasured(undisturbed)}
    drawn = [extracted(clips, out=tmp_path / f"s{k}", sample=2, seed=3).clips for k in range(2)]
    assert drawn == [2, 2] and list(rows(tmp_path / "s0")) == list(rows(tmp_path / "s1"))
    for wrong in ((0, 2), (3, 2)):
        with pytest.raises(ConfigError, match="must be i/n"):
            Inputs((str(clips),), shard=wrong)


@pytest.mark.parametrize("evil", ["../out.mp4", "/etc/out.mp4", "a/../../out.mp4"])
def test_no_member_of_a_tar_leads_out_of_the_folder(evil: str, clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        info = tarfile.TarInfo(evil)
        data = (clips / "a.mp4").read_bytes()
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, str(clips / "a.mp4")
        tar.addfile(link)
    extracted(tmp_path / "t.tar", out=tmp_path / "in" / "out")
    row, linked = rows(tmp_path / "in" / "out").values()
    assert row.failure == "access" and "leads out of the folder" in str(row.error)
    assert linked.failure == "access" and "is a link to " in str(linked.error)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_run_goes_on_from_what_is_whole(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extracted(clips, out=out)
    journal = out / "extract.jsonl"
    whole = journal.read_bytes()
    os.remove(out / "manifest.parquet")
    cuts = [*range(len(whole.splitlines()[0]) + 1, len(whole), 97), len(whole) - 1]
    for cut in cuts:
        journal.write_bytes(whole[:cut])
        # rows whose line, checksum and line break are there
        finished = sum(line.endswith(b"\n") and b'"row"' in line for line in whole[:cut].splitlines(keepends=True))
        assert extracted(clips, out=out).before == finished
        assert unmeasured(out) == unmeasured(undisturbed) and files(out) == files(undisturbed)
        os.remove(out / "manifest.parquet")
    # a damaged line counts as none, a lost motion file is made again, and nothing else is
    lines = whole.splitlines(keepends=True)
    damaged = [line.replace(b'"frames": 13', b'"frames": 99') for line in lines]
    assert damaged != lines
    journal.write_bytes(b"".join(damaged))
    assert extracted(clips, out=out).before == 1  # the bad one
    os.remove(out / "a.mp4.npz")
    assert extracted(clips, out=out).before == 2
    assert extracted(clips, out=out).before == 3
    assert unmeasured(out) == unmeasured(undisturbed) and files(out) == files(undisturbed)


def test_what_changes_is_done_again(clips: Path, tmp_path: Path) -> None:
    own = tmp_path / "clips"
    shutil.copytree(clips, own)
    extracted(own, own / "gone.mp4", out=tmp_path / "out")
    assert rows(tmp_path / "out")[str(own / "gone.mp4")].failure == "access"
    shutil.copy(clips / "a.mp4", own / "gone.mp4")
    shutil.copy(clips / "deep" / "a.webm", own / "a.mp4")
    summary = extracted(own, own / "gone.mp4", out=tmp_path / "out")
    found = rows(tmp_path / "out")
    assert summary.before == 2 and found[str(own / "gone.mp4")].failure is None
    assert found[str(own / "a.mp4")].codec == "vp9"
    with np.load(tmp_path / "out" / "a.mp4.npz") as saved:
        assert str(saved["clip"]) == found[str(own / "a.mp4")].digest


def test_other_settings_and_others_files_are_refused(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extracted(clips / "bad.mp4", out=out)
    with pytest.raises(ConfigError, match=r"was begun with other settings \(options\)"):
        run_many(
            Inputs((str(clips),)), Settings(str(out), options=MotionOptions("flow"), frames=FRAMES), here, 1, 60.0
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty, it holds notes.txt"):
        extracted(clips, out=tmp_path / "mine")
    (tmp_path / "mine" / "extract.json").write_text("{}")  # as `extract` of a few clips leaves it
    with pytest.raises(OutputError, match="is not empty, it holds the motion of clips without a manifest: remove it"):
        extracted(clips, out=tmp_path / "mine")
    (out / "a.mp4.npz").write_text("mine")
    extracted(clips, out=out)
    assert (out / "a.mp4.npz").read_text() == "mine"
    row = rows(out)[str(clips / "a.mp4")]
    assert row.failure == "output" and "is in the way" in str(row.error)
    os.remove(out / "a.mp4.npz")
    assert extracted(clips, out=out).before == 2  # what was in the way is tried again
    two = [tmp_path / name / "a.mp4" for name in ("x", "y")]
    for path in two:
        path.parent.mkdir()
        shutil.copy(clips / "a.mp4", path)
    with pytest.raises(ConfigError, match="would both be a.mp4.npz"):
        extracted(*(path.parent for path in two), out=tmp_path / "both")


KILLER = """
import os, signal
from motiontune.motion.sources import motion_of
from motiontune.motion.file import find_motion
from motiontune.motion.options import MotionOptions

def source(clip, grid, direction):
    if "kills" in clip.path:
        with open({log!r}, "a") as log:
            log.write(f"{{clip.path}}\\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    return motion_of(clip, grid, MotionOptions("blockmatch", direction))
"""


def test_a_clip_that_ends_the_decoder_ends_one_process_and_is_tried_twice(clips: Path, tmp_path: Path) -> None:
    own = tmp_path / "clips"
    own.mkdir()
    for name in ("a", "kills", "z"):
        shutil.copy(clips / "a.mp4", own / f"{name}.mp4")
    log = tmp_path / "log"
    (tmp_path / "killer.py").write_text(KILLER.format(log=str(log)))
    settings = Settings(str(tmp_path / "out"), options=MotionOptions(f"{tmp_path}/killer.py:source"), frames=FRAMES)
    summary = run_many(Inputs((str(own),)), settings, on_this_machine, 2, 60.0)
    assert summary.clips == 3 and dict(summary.failures) == {"crash": 1}
    row = rows(tmp_path / "out")[str(own / "kills.mp4")]
    assert row.failure == "crash" and row.error == "ended the process that decoded it (SIGSEGV), 2 times"
    assert log.read_text().count("kills") == 2
    again = run_many(Inputs((str(own),)), settings, on_this_machine, 1, 60.0)
    assert again.before == 3 and log.read_text().count("kills") == 2
    # one try was noted by a run that was killed before its row: one is left
    journal = tmp_path / "out" / "extract.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    crashes = [line for line in lines if b'"crash": "' in line and b'"row"' not in line]
    assert len(crashes) == 2
    journal.write_bytes(lines[0] + crashes[0])
    run_many(Inputs((str(own / "kills.mp4"),)), settings, on_this_machine, 1, 60.0)
    assert log.read_text().count("kills") == 3


def test_a_clip_that_takes_too_long_counts_as_one_that_ends_the_decoder(clips: Path, tmp_path: Path) -> None:
    worker = Worker(Settings(str(tmp_path), "none", frames=FRAMES), timeout=1e-6)
    try:
        assert worker.row(ClipSource(str(clips / "a.mp4"), "a"), ours=False) == Died(
            "took more than 1e-06 seconds", False, 1e-6
        )
    finally:
        worker.close()


def test_two_runs_do_not_write_one_journal(tmp_path: Path) -> None:
    with open_journal(tmp_path / "extract.jsonl", {}):
        with (
            pytest.raises(OutputError, match="another run is writing into it"),
            open_journal(tmp_path / "extract.jsonl", {}),
        ):
            pass


def test_a_limit_of_bytes_is_told_from_a_full_disk(tmp_path: Path) -> None:
    file, before = tmp_path / "extract.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_journal(file, {}) as journal:
        begun = file.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (begun + 10, before[1]))
        try:
            with pytest.raises(OutputError, match="extract.jsonl cannot be written: File too large;"):
                journal.add_crash(Crash("a.mp4"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        journal.add_crash(Crash("b.mp4"))  # what was torn ends before it
    with open_journal(file, {}) as journal:
        assert journal.crashes("b.mp4", 60.0) and not journal.crashes("a.mp4", 60.0)


def test_a_worker_that_cannot_start_ends_the_run_in_one_line(clips: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "motiontune").mkdir()
    (tmp_path / "motiontune" / "__init__.py").write_text("raise RuntimeError('no such luck')")
    with pytest.raises(Exception, match="no worker process can be started: RuntimeError: no such luck"):
        run_many(Inputs((str(clips),)), Settings(str(tmp_path / "out"), frames=FRAMES), on_this_machine, 1, 60.0)


def test_the_command(clips: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [str(clips), "--out", str(tmp_path / "out"), "--fps", "8"]
    run_command("extract", [*arguments, "--workers", "1", "--format", "none", "--shard", "1/1"])
    out = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["clips", "with", "failed:", "clips", "manifest"]
    assert {row.motion for row in rows(tmp_path / "out").values()} == {None}
    assert not list(tmp_path.rglob("*.npz"))
    for more, message in {
        ("--workers", "0"): "--workers must be at least 1, and at most 10,000, not 0",
        ("--workers", "1", "--format", "flo"): "--format flo is not for many clips",
        ("--format", "none"): "--format none is for many clips: add --workers N",
        ("--workers", "1", "--format", "cache"): "--format cache needs --model",
        ("--sample", "0"): "--sample must be at least 1",
        ("--workers", "1", "--timeout", "inf"): "--timeout inf: must be above 0 and at most 1,000,000 seconds",
        ("--workers", "1", "--timeout", "nan"): "--timeout nan: must be",
        ("--workers", "1", "--fps", "nan"): "--fps must be above 0, and at most 1,000,000, not nan",
        ("--workers", "1", "--patch", "5000"): "a token of 10000x10000 pixels is larger than a frame",
        ("--workers", "1", "--source", "radar"): "is none of",
        ("--workers", "1", "--preview"): "--preview is not for many clips",
    }.items():
        with pytest.raises(ConfigError, match=message):
            run_command("extract", [*arguments, *more])
    with pytest.raises(ConfigError, match="there is no clip"):
        run_command("extract", ["--out", str(tmp_path / "out")])
    with pytest.raises(MotiontuneError, match="none of 1 clips gave motion"):
        run_command("extract", [str(clips / "bad.mp4"), "--out", str(tmp_path / "none"), "--workers", "1"])


def test_a_shard_without_clips_is_none_to_fail(clips: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "out"
    for i in (1, 2):
        run_command("extract", [str(clips / "a.mp4"), "--out", str(out), "--fps", "8", "--shard", f"{i}/2"])
    assert len(rows(out)) == 1 and not list(read_rows(out / "manifest-00002-of-00002.parquet"))
    run_command("select", [str(out), "--out", str(tmp_path / "data")])
    run_command("report", [str(out / "manifest-00002-of-00002.parquet"), "--out", str(tmp_path / "page.html")])
    with pytest.raises(SystemExit):
        run_command("extract", [str(clips), "--out", str(out), "--shard", "x"])
    assert "argument --shard: 'x' must be I/N, as in 3/64" in capfd.readouterr().err


def tar_of(path: Path, **members: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, file in members.items():
            tar.add(file, f"{name}.mp4")
    return path


def test_a_tar_that_was_replaced_is_read_again(clips: Path, tmp_path: Path) -> None:
    out, shard = tmp_path / "out", tar_of(tmp_path / "s.tar", a=clips / "a.mp4", b=clips / "a.mp4")
    extracted(shard, out=out)
    assert extracted(shard, out=out).before == 2
    tar_of(shard, a=clips / "deep" / "a.webm", b=clips / "a.mp4")
    os.utime(shard, ns=(10**18, 10**18))
    assert extracted(shard, out=out).before == 0
    assert [row.codec for row in rows(out).values()] == ["vp9", "h264"]
    # of an earlier version's row nothing is known but its size
    journal = out / "extract.jsonl"
    with open_journal(journal, Settings(str(out), frames=FRAMES).fingerprint()) as opened:
        for path in list(opened):
            opened.add(dataclasses.replace(opened[path], changed=None))
    assert extracted(shard, out=out).before == 2


def test_what_is_replaced_at_an_address_is_read_again(clips: Path, tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for file in (clips / "a.mp4", clips / "deep" / "a.webm"):
        memory.pipe("/replaced/a.mp4", file.read_bytes())
        for paths in (["memory://replaced"], ["memory://replaced/*.mp4"], ["memory://replaced/a.mp4"]):
            out = tmp_path / str(len(paths[0]))
            assert [extracted(*paths, out=out).before for _ in range(2)] == [0, 1]


def test_a_failure_by_a_limit_is_tried_again(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIONTUNE_LIMIT_PIXELS", "1000")
    extracted(clips / "a.mp4", out=tmp_path / "out")
    (row,) = rows(tmp_path / "out").values()
    said = str(row.error).rpartition(" set ")[2]
    assert row.failure == "limit" and said == "MOTIONTUNE_LIMIT_PIXELS=20480"
    monkeypatch.setenv(*said.split("="))
    assert not extracted(clips / "a.mp4", out=tmp_path / "out").failures


def test_a_clip_that_took_too_long_is_tried_again_with_more_time(clips: Path, tmp_path: Path) -> None:
    own = tmp_path / "a.mp4"
    shutil.copy(clips / "a.mp4", own)
    settings = Settings(str(tmp_path / "out"), "none", frames=FRAMES)

    def again(timeout: float) -> tuple[int, str | None]:
        summary = run_many(Inputs((str(own),)), settings, on_this_machine, 1, timeout)
        return summary.before, rows(tmp_path / "out")[str(own)].failure

    assert again(1e-6) == (0, "crash") and again(1e-6) == (1, "crash") and again(1e-7) == (1, "crash")
    assert again(60.0) == (0, None)
    # as it is one that was replaced
    os.utime(own, ns=(10**18, 10**18))
    assert again(1e-6) == (0, "crash")
    os.utime(own, ns=(10**18, 2 * 10**18))
    assert again(1e-6) == (0, "crash")


def test_other_inputs_do_not_take_rows_away(clips: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "clips", tmp_path / "out"
    shutil.copytree(clips, own)
    shard = tar_of(tmp_path / "s.tar", c=clips / "a.mp4", d=clips / "a.mp4")
    extracted(own, shard, out=out)
    before = rows(out)
    summary = extracted(own, out=out, sample=1)
    assert (summary.clips, summary.before, summary.kept, summary.gone) == (1, 1, 4, 0) and rows(out) == before
    # what is gone or has changed is not told of any more
    (own / "deep" / "a.webm").unlink()
    os.utime(shard, ns=(10**18, 10**18))
    summary = extracted(own / "a.mp4", out=out)
    assert (summary.clips, summary.kept, summary.gone) == (1, 1, 3)
    assert [Path(path).name for path in rows(out)] == ["a.mp4", "bad.mp4"]
    # nor by one shard of what another one has
    parts = tmp_path / "parts"
    extracted(own, out=parts, shard=(1, 2))
    extracted(own / "bad.mp4", own / "a.mp4", out=parts, shard=(1, 2))
    extracted(own / "bad.mp4", own / "a.mp4", out=parts, shard=(2, 2))
    assert sorted(row["path"] for row in read_manifest(parts)) == [str(own / "a.mp4"), str(own / "bad.mp4")]


def test_one_bad_tar_or_folder_is_a_row(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "clips"
    shutil.copytree(clips, own)
    cut = tar_of(own / "cut.tar", a=clips / "a.mp4", b=clips / "a.mp4")
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    (own / "empty.tar").write_bytes(b"")
    walk = os.walk

    def walk_on(top: str, onerror: Callable[[OSError], None], **more: bool) -> Iterable[tuple]:
        for place, below, names in walk(top, onerror=onerror, **more):  # type: ignore[call-overload]
            if Path(place).name == "deep":
                onerror(PermissionError(13, "Permission denied", place))
            else:
                yield place, below, names

    monkeypatch.setattr(os, "walk", walk_on)
    out = tmp_path / "out"
    extracted(own, own / "gone.tar", out=out)
    found = {path.removeprefix(f"{own}/"): row for path, row in rows(out).items()}
    reasons = {name: row.error for name, row in found.items() if row.failure == "access"}
    assert reasons.pop("deep") == "cannot be read: Permission denied"
    assert "is cut: " in str(reasons.pop("cut.tar::b.mp4"))
    assert set(reasons) == {"cut.tar", "empty.tar", "gone.tar"}
    assert all("cannot be read as a tar: " in str(reason) for reason in reasons.values()), reasons
    assert found["a.mp4"].failure is found["cut.tar::a.mp4"].failure is None
    monkeypatch.undo()
    cut.write_bytes(whole)  # is no failure any more
    extracted(own, own / "gone.tar", out=out)
    assert {str(own / name) for name in ("deep", "cut.tar")}.isdisjoint(rows(out))
    with pytest.raises(ConfigError, match=r"empty.tar: cannot be read as a tar: .* \(and 1 more\)"):
        extracted(own / "empty.tar", own / "gone.tar", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_links_and_holes_in_a_tar(clips: Path, tmp_path: Path) -> None:
    data = (clips / "a.mp4").read_bytes()
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(clips / "a.mp4", "a.bin")
        for name, target in (("hard.mp4", "a.bin"), ("lost.mp4", "b.bin")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            tar.addfile(link)
        holes = tarfile.TarInfo("holes.mp4")
        holes.size, holes.pax_headers = len(data), {"GNU.sparse.map": f"0,{len(data)}", "GNU.sparse.size": "999999"}
        tar.addfile(holes, io.BytesIO(data))
    extracted(tmp_path / "s.tar", out=tmp_path / "out")
    found = {path.rpartition("::")[2]: row for path, row in rows(tmp_path / "out").items()}
    assert found["hard.mp4"].source and found["hard.mp4"].bytes == len(data)
    assert "is a hard link to b.bin, which is not before it" in str(found["lost.mp4"].error)
    assert "is stored with holes" in str(found["holes.mp4"].error)


def test_shards_know_of_places_that_meet(clips: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        tar_of(tmp_path / name / "s.tar", a=clips / "a.mp4")
    for i in (1, 2):
        with pytest.raises(ConfigError, match="would both be s/a.mp4.npz"):
            Inputs((str(tmp_path / "x"), str(tmp_path / "y")), shard=(i, 2)).listing()
    (tmp_path / "z" / "s").mkdir(parents=True)
    shutil.copy(clips / "a.mp4", tmp_path / "z" / "s")
    with pytest.raises(ConfigError, match="would both be s/a.mp4.npz"):
        Inputs((str(tmp_path / "x"), str(tmp_path / "z")), shard=(1, 2)).listing()
    tar_of(tmp_path / "y" / "s.tar", b=clips / "a.mp4")
    parts = [Inputs((str(tmp_path / "x"), str(tmp_path / "y")), shard=(i, 2)).listing().sources for i in (1, 2)]
    assert [[source.place for source in part] for part in parts] == [["s/a.mp4"], ["s/b.mp4"]]


def test_a_file_in_the_way_stays_in_a_second_run(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    extracted(clips / "bad.mp4", out=tmp_path / "out")
    (tmp_path / "out" / "a.mp4.npz").write_text("mine")
    for _ in range(2):
        extracted(clips, out=tmp_path / "out")
        assert (tmp_path / "out" / "a.mp4.npz").read_text() == "mine"


def test_lists(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    shard = tar_of(tmp_path / "s.tar", c=clips / "a.mp4")
    (tmp_path / "l.txt").write_bytes(f"\ufeff{clips / 'a.mp4'} \r\n \n{clips / 'deep'}\n{shard}::c.mp4\n".encode())
    found = Inputs((str(tmp_path / "l.txt"),)).listing().sources
    assert [source.path for source in found] == [
        str(clips / "a.mp4"),
        str(clips / "deep" / "a.webm"),
        f"{shard}::c.mp4",
    ]
    assert found[1].place == str(clips / "deep" / "a.webm").lstrip("/")
    assert found[2].size == (clips / "a.mp4").stat().st_size
    odd = tmp_path / "a\u2028b.mp4"
    shutil.copy(clips / "a.mp4", odd)
    (tmp_path / "l.txt").write_text(f"{odd}\n", "utf-8")
    assert [source.path for source in Inputs((str(tmp_path / "l.txt"),)).listing().sources] == [str(odd)]


def parquet_of(path: Path, *entries: str | None) -> Path:
    pq.write_table(pa.table({"path": pa.array(entries, pa.string())}), path)
    return path


def test_one_bad_entry_of_a_list_is_a_row(clips: Path, tmp_path: Path) -> None:
    good, out = str(clips / "a.mp4"), tmp_path / "out"
    bad = [f"{tmp_path}/b\0.mp4", f"zip://a.mp4::{tmp_path}/none.zip", "nosuch://x/a.mp4"]
    nothing = ["", " ", None]
    parquet_of(clips / "deep" / "l.parquet", good, *nothing, *bad)  # beside a clip that nobody names
    try:
        for _ in range(2):
            extracted(clips / "deep" / "l.parquet", out=out)
    finally:
        (clips / "deep" / "l.parquet").unlink()
    found = rows(out)
    assert {path: row.failure for path, row in found.items()} == {
        good: None,
        bad[0].replace("\0", "\\0"): "access",
        bad[1]: "access",
        bad[2]: "access",
    }
    assert found[bad[0].replace("\0", "\\0")].error == "a byte 0 is in its name, as in no file's"
    assert "Protocol not known: nosuch" in str(found[bad[2]].error)


def test_lists_that_name_nothing_are_named(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no clip in .*l.parquet: a list"):
        Inputs((str(parquet_of(tmp_path / "l.parquet", None, "")),)).listing()
    (tmp_path / "l.txt").write_text(f"{clips / 'a.mp4'}\n", "utf-16")
    with pytest.raises(ConfigError, match=r"l.txt cannot be read .*: is UTF-16: save it as UTF-8"):
        Inputs((str(tmp_path / "l.txt"),)).listing()
    with pytest.raises(ConfigError, match="--seed must be at least 0, not -1"):
        Inputs((str(clips),), sample=1, seed=-1)


def test_an_address_of_one_file_on_this_machine(clips: Path, tmp_path: Path) -> None:
    address = f"file://{clips / 'a.mp4'}"
    (tmp_path / "l.txt").write_text(f"{address}\n", "utf-8")
    for named in (address, tmp_path / "l.txt"):
        (found,) = Inputs((str(named),)).listing().sources
        assert (found.path, found.place, found.problem) == (address, str(clips / "a.mp4").lstrip("/"), "")
    extracted(address, out=tmp_path / "out")
    assert rows(tmp_path / "out")[address].source


def test_tars_whatever_their_suffix(clips: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    tar_of(own / "BIG.TAR", a=clips / "a.mp4")
    for name in ("s.tar.gz", "s.tgz"):
        (own / name).write_bytes(b"\x1f\x8b")
    extracted(own, out=tmp_path / "out")
    found = {path.removeprefix(f"{own}/"): row for path, row in rows(tmp_path / "out").items()}
    assert found["BIG.TAR::a.mp4"].motion == "BIG/a.mp4.npz"
    for name in ("s.tar.gz", "s.tgz"):
        assert "is compressed" in str(found[name].error)
    with as_file(f"{own}/BIG.TAR::a.mp4") as copy:
        assert Path(copy).read_bytes() == (clips / "a.mp4").read_bytes()


def test_what_is_no_motion_stays_in_the_place_of_motion(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extracted(clips / "a.mp4", out=out)
    (place,) = out.rglob("a.mp4.npz")
    whole = place.read_bytes()
    place.write_bytes(whole[:100])  # what a full disk leaves of it
    extracted(clips / "a.mp4", out=out)
    assert place.read_bytes() == whole
    place.write_text("my own notes")
    extracted(clips / "a.mp4", out=out)
    (row,) = rows(out).values()
    assert row.failure == "output" and place.read_text() == "my own notes"


def test_anothers_manifest_stops_a_run_before_its_first_clip(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extracted(clips / "a.mp4", out=out)
    (out / "manifest.parquet").write_text("mine")
    shutil.copy(clips / "a.mp4", tmp_path / "new.mp4")
    with pytest.raises(OutputError, match="manifest.parquet"):
        extracted(tmp_path / "new.mp4", out=out)
    assert (out / "manifest.parquet").read_text() == "mine" and not list(out.rglob("new.mp4.npz"))


def field_of(vectors: np.ndarray, grid: VideoGrid) -> MotionField:
    valid = np.ones(vectors.shape[:3], bool)
    valid[0] = False
    return MotionField(np.where(valid[..., None], vectors, 0).astype(np.float32), valid, np.arange(4.0), "made")


def test_the_camera_is_told_from_what_moves_by_itself() -> None:
    grid = VideoGrid(4, 12, 16, temporal_patch=1)
    still = np.zeros((4, 12, 16, 2))
    thing = still.copy()
    thing[:, 3:6, 4:8] = (5, 0)  # 12 of 192 patches
    share = 12 / 192
    found = MotionStatistics.of(field_of(thing, grid), grid)
    assert (found.moving_share, found.camera_share, found.camera_px) == (
        pytest.approx(share, abs=1e-6),
        0,
        pytest.approx(0, abs=1e-2),
    )
    pan = MotionStatistics.of(field_of(still + (4, -3), grid), grid)
    assert (pan.moving_share, pan.camera_share, pan.camera_px) == (1, 1, pytest.approx(5, abs=1e-3))
    both = MotionStatistics.of(field_of(thing + (4, -3), grid), grid)
    assert both.moving_share == 1 and both.camera_share == pytest.approx(1 - share, abs=1e-6)
    y, x = np.mgrid[:12, :16]
    zoom = np.stack([np.broadcast_to(x - 7.5, (4, 12, 16)), np.broadcast_to(y - 5.5, (4, 12, 16))], axis=-1) * 0.8
    assert MotionStatistics.of(field_of(zoom, grid), grid).camera_share == pytest.approx(1, abs=0.02)
    noise = np.random.default_rng(0).uniform(-20, 20, (4, 12, 16, 2))
    found = MotionStatistics.of(field_of(noise, grid), grid)
    assert (found.camera_share, found.camera_px) == (0, None)  # nothing that patches agree on
    nothing = MotionStatistics.of(field_of(still, grid), grid)
    assert nothing.moving_share == 0 and nothing.camera_share is None


@pytest.mark.parametrize("patches", [0, 1, 11, 12])
def test_of_a_few_patches_the_camera_cannot_be_told(patches: int) -> None:
    grid = VideoGrid(4, 12, 16, temporal_patch=1)
    field = field_of(np.zeros((4, 12, 16, 2)) + (4, -3), grid)
    field.valid[1:] = np.arange(12 * 16).reshape(12, 16) < patches
    found = MotionStatistics.of(field, grid)
    told = (1, pytest.approx(5, abs=1e-3)) if patches >= 12 else (None, None)
    assert found.moving_share == (1 if patches else None) and (found.camera_share, found.camera_px) == told
    # a frame that does not tell says nothing about the others'
    field.valid[1] = True
    found = MotionStatistics.of(field, grid)
    assert (found.moving_share, found.camera_share, found.camera_px) == (1, 1, pytest.approx(5, abs=1e-3))


def test_a_picture_has_the_frames_that_were_sampled(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Whatever a model's rate and limit were, which a manifest does not have."""
    draw = np.random.default_rng(0)
    info = probe(str(clips / "a.mp4"))
    for _ in range(200):
        frames, rate = int(draw.integers(2, 400)), float(draw.uniform(1, 60))
        one = dataclasses.replace(info, frames=frames, duration=frames / rate)
        sampled = sample_indices(one, float(draw.uniform(0.1, 30)), int(draw.integers(2, 128)))
        again = sample_indices(one, (len(sampled) + 1) / one.duration, len(sampled))
        np.testing.assert_array_equal(again, sampled)
    for limit in (4, 9):
        out = tmp_path / str(limit)
        frames = FrameReader(fps=12.0, max_frames=limit)
        run_many(Inputs((str(clips / "a.mp4"),)), Settings(str(out), frames=frames), here, 1, 60.0)
        done = list(read_rows(out))
        assert [row.frames for row in done] == [limit]
        write_manifest(out / "manifest.parquet", done, {"frames": {"fps": 2.0, "max_frames": 128}})
        page = survey(out).read_text("utf-8")
        assert "its frames cannot be read" not in page and "data:image/" in page


def test_a_page_has_no_figure_of_what_was_not_measured(tmp_path: Path) -> None:
    gone = [ClipRow(f"/gone/{k}.mp4", seconds=1e-5, failure="access", error="is gone") for k in range(300)]
    write_manifest(tmp_path / "m.parquet", gone, {})
    page = Page(survey(tmp_path / "m.parquet").read_text("utf-8"))
    assert "Clips300duration not known" in page.text and "per second" not in page.text and "minutes" not in page.text
    two = [ClipRow(f"/clips/{k}.mp4", duration=30.0, seconds=0.5, valid_share=0.5, frames=8) for k in range(2)]
    write_manifest(tmp_path / "m.parquet", [*gone, *two], {})
    page = Page(survey(tmp_path / "m.parquet", clips=0).read_text("utf-8"))
    assert "2.0 clips per second of one worker" in page.text
    assert "Clips3021.0 minutes, of the 2 whose duration is known" in page.text


def test_names_in_lists_end_at_line_breaks_alone(clips: Path, tmp_path: Path) -> None:
    names = ["a\u2028b.mp4", "a\x85b.mp4", "a\x0cb.mp4"]
    (tmp_path / "list.txt").write_bytes("\r\n".join(names).encode())
    found = Inputs((str(tmp_path / "list.txt"),)).listing().sources
    assert [Path(source.path).name for source in found] == names


def test_a_tar_in_a_folder_with_colons(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a::b"
    folder.mkdir()
    shutil.copy(clips / "a.mp4", folder / "x.mp4")
    with tarfile.open(folder / "s.tar", "w") as tar:
        tar.add(clips / "a.mp4", "deep::er/y.mp4")
    extracted(folder, out=tmp_path / "out")
    assert [row.failure for row in rows(tmp_path / "out").values()] == [None, None]
    found = select(tmp_path / "out", Wanted(), tmp_path / "data", copy=copy_below)
    assert found.samples == 2
    whole = (clips / "a.mp4").read_bytes()
    assert all(Path(one.path).read_bytes() == whole for one in read_clips(tmp_path / "data", "selected"))
    assert select(tmp_path / "out", Wanted(), tmp_path / "data").samples == 1


def test_a_page_about_a_manifest(clips: Path, undisturbed: Path, tmp_path: Path, capfd) -> None:
    run_command("report", [str(undisturbed), "--out", str(tmp_path / "page.html"), "--clips", "1"])
    assert capfd.readouterr().out.strip() == str(tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    for words in ("Clips3", "With motion266.7 %", "h264 · codec+flow1 50 %", "clip: 1", "bad.mp4", "fewest valid"):
        assert words in page.text, words
    pictures = [value for value in page.values("src") if value.startswith("data:image/")]
    assert len(pictures) == 1  # the clip with the fewest vectors is drawn
    worst = min(
        (row for row in rows(undisturbed).values() if row.valid_share is not None), key=lambda r: r.valid_share
    )
    assert page.text.rindex(worst.path) > page.text.index("fewest valid")
    # a single file works, too, and clips that are gone are said to be
    shutil.copy(undisturbed / "manifest.parquet", tmp_path / "m.parquet")
    run_command("report", [str(tmp_path / "m.parquet")])
    assert "its frames cannot be read" in (tmp_path / "report.html").read_text("utf-8")


def test_a_clip_in_a_tar_is_drawn_on_the_page(clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(clips / "a.mp4", "a.mp4")
    extracted(tmp_path / "shard.tar", out=tmp_path / "out")
    run_command("report", [str(tmp_path / "out")])
    page = Page((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert len([value for value in page.values("src") if value.startswith("data:image/")]) == 1
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(clips / "a.mp4", "b.mp4")
    run_command("report", [str(tmp_path / "out")])
    page = Page((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert f"its frames cannot be read: {tmp_path / 'shard.tar'}::a.mp4: is not in its tar any more" in page.text


def test_selected_clips_are_copied_out_of_tars(clips: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "shard.tar", "w") as tar:
        tar.add(clips / "a.mp4", "a.mp4")
        tar.add(clips / "a.mp4", "deep/b.mp4")
    out = tmp_path / "out"
    extracted(tmp_path / "in", out=out)
    with pytest.raises(ConfigError, match="none of 2 clips is left: in a tar or at an address, not a file .--copy. 2"):
        select(out, Wanted(), tmp_path / "data")
    run_command("select", [str(out), "--out", str(tmp_path / "data"), "--copy"])
    found = [clip.path for clip in read_clips(tmp_path / "data", "selected")]
    assert [Path(path).read_bytes() for path in found] == [(clips / "a.mp4").read_bytes()] * 2
    assert {os.path.commonpath([path, tmp_path / "data" / "clips"]) for path in found} == {
        str(tmp_path / "data" / "clips")
    }
    # and training finds their motion
    assert [find_motion(path, str(out)) for path in found] == [
        [out / "shard" / "a.mp4.npz"],
        [out / "shard" / "deep" / "b.mp4.npz"],
    ]
    with tarfile.open(tmp_path / "in" / "shard.tar", "w") as tar:
        tar.add(clips / "a.mp4", "a.mp4")
    run_command("select", [str(out), "--out", str(tmp_path / "data"), "--copy"])  # over its own files
    assert "cannot be copied" in capfd.readouterr().out
    assert len(read_clips(tmp_path / "data", "selected")) == 1


def test_facts_of_clips_are_those_of_the_clips_until_they_change(clips: Path, tmp_path: Path) -> None:
    own = tmp_path / "clips"
    shutil.copytree(clips, own)
    extracted(own, out=tmp_path / "out")
    facts = pickle.loads(pickle.dumps(ClipFacts(tmp_path / "out")))
    paths = [str(own / "a.mp4"), str(own / "deep" / "a.webm")]
    assert len(facts) == 2 and [facts.info(path) for path in paths] == [probe(path) for path in paths]
    (own / "link.mp4").symlink_to(own / "a.mp4")
    linked = facts.info(str(own / "link.mp4"))
    assert linked == dataclasses.replace(probe(paths[0]), path=str(own / "link.mp4"))
    os.utime(paths[0])
    assert [facts.info(path) is None for path in (*paths, str(own / "bad.mp4"), str(own / "none.mp4"))] == [
        True,
        False,
        True,
        True,
    ]


def test_tokenizing_takes_clips_from_the_manifest(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import start, tiny

    start()
    from motiontune.llamafactory import plugin as plugins
    from motiontune.llamafactory.reader import ModelReader

    own = tmp_path / "clips"
    shutil.copytree(clips, own)
    extracted(own, out=tmp_path / "out")
    reader = ModelReader(str(tiny("qwen2_vl")))
    plugin, videos = reader.template.mm_plugin, [str(own / "a.mp4"), str(own / "deep" / "a.webm")]
    messages = [{"role": "user", "content": "<video> and <video>?"}, {"role": "assistant", "content": "yes"}]
    opened: list[str] = []
    monkeypatch.setattr(plugins, "probe", lambda path: opened.append(path) or probe(path))

    def tokens() -> tuple[object, int]:
        plugins._probe_once.cache_clear()
        plugins._MADE.clear()
        opened.clear()
        made = plugin.process_messages(messages, [], videos, [], reader.processor)
        return made, plugin.count_video_tokens(videos, reader.processor)

    expected = tokens()
    assert opened == videos
    monkeypatch.setattr(plugin, "facts", ClipFacts(tmp_path / "out"), raising=False)
    assert tokens() == expected and opened == []
    os.utime(videos[0])
    assert tokens() == expected and opened == videos[:1]


def test_a_training_reads_the_cache_that_was_extracted_for_it(tmp_path: Path) -> None:
    from training import BOTH, run, start, tiny, toy
    from training import clips as training_clips

    start()
    settings = Settings(
        str(tmp_path / "cache"), "cache", model=str(tiny("qwen2_vl")), given=(("fps", 8.0), ("max_frames", 16))
    )
    summary = run_many(Inputs(tuple(map(str, training_clips()))), settings, here, 1, 60.0)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npz")}
    assert summary.clips == len(made) > 0 and not summary.failures
    run(**BOTH, **toy(), max_steps=3, motion_cache_dir=str(tmp_path / "cache"))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npz")} == made
