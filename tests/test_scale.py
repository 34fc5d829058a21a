"""Extraction that is killed at any moment; the long runs of it are `make test-scale`."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from make_clips import pan_clip
from motiontune.manifest import read_manifest


pytest.importorskip("pyarrow")

CLIPS = 24


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "clips"
    folder.mkdir()
    sources = [pan_clip("h264", ".mp4"), pan_clip("vp9", ".webm")]
    for number in range(CLIPS):
        source = sources[number % 2]
        shutil.copy(source, folder / f"{number:03d}{source.suffix}")
    (folder / "bad.mp4").write_bytes(b"nothing of the kind")
    return folder


def begin(clips: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "motiontune", "extract", str(clips), "--out", str(out), "--fps", "12", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(clips: Path, out: Path, *more: str) -> None:
    process = begin(clips, out, *more)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()[-2000:]


def result(out: Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """All that two undisturbed runs have in common: rows but for what was measured, and motion files."""
    rows = [{**row, "seconds": None} for row in read_manifest(out)]
    return rows, {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.npz")}


def kill_and_go_on(clips: Path, out: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill the run, or one of its workers, at random moments, and start it again; returns how many were killed."""
    draw, killed = random.Random(seed), {"run": 0, "worker": 0}
    process = begin(clips, out, "--workers", "2")
    while sum(killed.values()) < kills:
        patience = time.monotonic() + 60 if draw.random() < 0.9 else 0  # now and then while it starts
        while not _workers(process.pid) and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 4))
        kind = draw.choice(["run", "worker"])
        victims = [process.pid] if kind == "run" else _workers(process.pid)
        if victims and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(victims), signal.SIGKILL)
                killed[kind] += 1
        if kind == "run" or process.poll() is not None:
            process.communicate()
            there = sorted(out.rglob("*.npz"))
            for file in draw.sample(there, len(there) // 2):  # else there would soon be nothing left to kill
                file.unlink()
            process = begin(clips, out, "--workers", "2")
    process.communicate(timeout=600)
    finish(clips, out, "--workers", "2")
    return killed


def _workers(run: int) -> list[int]:
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in found if _parent(pid) == run]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def check_killed(clips: Path, tmp_path: Path, kills: int, seed: int) -> None:
    finish(clips, tmp_path / "undisturbed", "--workers", "1")
    killed = kill_and_go_on(clips, tmp_path / "killed", kills, seed)
    print(killed)
    assert min(killed.values()) >= kills // 4
    assert result(tmp_path / "killed") == result(tmp_path / "undisturbed")
    rows, files = result(tmp_path / "killed")
    assert len(rows) == CLIPS + 1 and len(files) == CLIPS
    left = [file.name for file in (tmp_path / "killed").rglob("*.part")]
    assert len(left) <= 1  # of the last kill: no reader takes it for a file, and the next run clears it away


def test_a_run_that_is_killed_ends_as_an_undisturbed_one(clips: Path, tmp_path: Path) -> None:
    check_killed(clips, tmp_path, kills=4, seed=2)


@pytest.mark.scale
def test_fifty_kills(clips: Path, tmp_path: Path) -> None:
    check_killed(clips, tmp_path, kills=50, seed=1)
