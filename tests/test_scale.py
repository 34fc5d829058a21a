"""Extraction that is killed at any moment; the long runs of it are `make test-scale`."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from machines import Machine, two_machines
from make_clips import pan_clip
from motiontune.extraction.clip import Settings
from motiontune.extraction.engines import _Hand
from motiontune.manifest import read_manifest
from training import REPOSITORY, run_command


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


def begin(clips: Path | str, out: Path, *more: str, on: Machine | None = None) -> "subprocess.Popen[bytes]":
    """Start an extraction, on one of two machines or here."""
    command = [sys.executable, "-m", "motiontune", "extract", str(clips), "--out", str(out), "--fps", "12", *more]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    if on:
        command, env["RAY_ADDRESS"] = [*on.within, *command], f"{on.address}:6379"
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: "subprocess.Popen[bytes]") -> str:
    """What an extraction printed that ended well."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode()


def finish(clips: Path | str, out: Path, *more: str) -> None:
    ended(begin(clips, out, *more))


def result(out: Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """All that two undisturbed runs have in common: rows but for what was measured, and motion files."""
    rows = [{**row, "seconds": None} for row in read_manifest(out)]
    return rows, {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.npz")}


def kill_and_go_on(clips: Path, out: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill the run and its workers by turns, at random moments, and go on; returns how many were killed."""
    draw, killed = random.Random(seed), {"run": 0, "worker": 0}
    process = begin(clips, out, "--workers", "2")
    while sum(killed.values()) < kills:
        patience = time.monotonic() + 60 if draw.random() < 0.9 else 0  # now and then while it starts
        while not _workers(process.pid) and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 4))
        kind = "worker" if killed["worker"] < killed["run"] else "run"
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


@pytest.fixture(scope="module")
def few(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven of the clips, the bad one among them."""
    folder = tmp_path_factory.mktemp("few") / "clips"
    folder.mkdir()
    for path in sorted(clips.iterdir())[-7:]:
        shutil.copy2(path, folder)
    return folder


def failing(clips: Path, out: Path, **env: str) -> str:
    """What an extraction with Ray says that ends with exit code 2."""
    command = ["-m", "motiontune", "extract", str(clips), "--out", str(out), "--engine", "ray"]
    process = run_command(*command, env=env, check=False)
    assert process.returncode == 2
    return process.stderr


def test_ray_does_what_this_machine_does(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    finish(few, tmp_path / "here", "--workers", "1")
    finish(few, tmp_path / "ray", "--engine", "ray", "--workers", "2")
    assert result(tmp_path / "ray") == result(tmp_path / "here")
    assert len(result(tmp_path / "ray")[0]) == 7


def test_a_cluster_that_is_not_there_is_one_line(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    said = failing(few, tmp_path / "out", RAY_ADDRESS="127.0.0.1:9")
    assert "no cluster can be had at RAY_ADDRESS=127.0.0.1:9: [Errno 111]" in said and "Traceback" not in said


def test_a_node_with_other_code_is_named(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path))
    here = settings.fingerprint()
    assert not _Hand(settings.to_json(), here, 1.0).begin()
    assert "install the same on every node" in _Hand(settings.to_json(), {**here, "code": "other"}, 1.0).begin()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, Machine]]:
    """Ray on two machines, with one core each."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # Ray's head has tokens by default, which those who join must have
    short = tempfile.TemporaryDirectory(prefix="ray")  # the names of Ray's sockets are long
    monkeypatch.setenv("RAY_TMPDIR", short.name)  # in /tmp/ray the next Ray would look for this one
    with short, two_machines() as both:
        first, second = both
        start = ["-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--disable-usage-stats"]
        try:
            head = ["--head", "--port=6379", "--include-dashboard=false", f"--node-ip-address={first.address}"]
            run_command(*start, *head, within=first.within)
            join = [f"--address={first.address}:6379", f"--node-ip-address={second.address}"]
            run_command(*start, *join, within=second.within)
            yield both
        finally:
            for machine in both:
                machine.kill()


@pytest.mark.scale
def test_two_machines_with_ray_do_what_this_one_does(
    few: Path, tmp_path: Path, cluster: tuple[Machine, Machine]
) -> None:
    """Both take part, and are told apart in the progress and in the summary."""
    finish(few, tmp_path / "here", "--workers", "1")
    out = ended(begin(few, tmp_path / "ray", "--engine", "ray", on=cluster[0]))
    assert result(tmp_path / "ray") == result(tmp_path / "here")
    for machine in cluster:
        assert f"on {machine.name} " in out


@pytest.mark.scale
def test_a_machine_that_is_lost_has_its_clips_done_elsewhere(
    clips: Path, tmp_path: Path, cluster: tuple[Machine, Machine]
) -> None:
    first, second = cluster
    finish(clips, tmp_path / "here", "--workers", "1")
    process = begin(clips, tmp_path / "ray", "--engine", "ray", on=first)
    while process.poll() is None and not list((tmp_path / "ray").rglob("*.npz")):
        time.sleep(0.05)
    second.kill()
    ended(process)
    assert result(tmp_path / "ray") == result(tmp_path / "here")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a real S3 server on this machine."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_clips_of_an_s3_server(clips: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    access = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**access, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(name, value)
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    names = ["000.mp4", "001.webm", "bad.mp4"]
    for name in names:
        system.pipe(f"bucket/clips/{name}", (clips / name).read_bytes())
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in names:
            tar.add(clips / name, name)
    system.pipe("bucket/shards/0.tar", (tmp_path / "shard.tar").read_bytes())
    listed = tmp_path / "listed.txt"
    listed.write_text("".join(f"s3://bucket/clips/{name}\n" for name in names) + "s3://bucket/gone.mp4\n")
    (tmp_path / "here").mkdir()
    for name in names:
        shutil.copy2(clips / name, tmp_path / "here")
    finish(tmp_path / "here", tmp_path / "out", "--workers", "1")
    kept = ("digest", "codec", "frames", "mean_px", "failure", "motion_bytes")
    expected = [[row[name] for name in kept] for row in read_manifest(tmp_path / "out")]
    for number, address in enumerate(["s3://bucket/clips", "s3://bucket/shards/*.tar", str(listed)]):
        out = tmp_path / f"out{number}"
        finish(address, out, "--workers", "1")
        rows = list(read_manifest(out))
        assert [[row[name] for name in kept] for row in rows[:3]] == expected
        assert [row["failure"] for row in rows[3:]] == (["access"] if number == 2 else [])
