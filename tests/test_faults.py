"""Fault injection at every write: afterwards every file is the old one, the new one, or absent, and one line tells.

Every operation on files that Python makes passes by an audit hook, which can let the n-th one fail or kill the process
before it. What FFmpeg writes meets a limit on the size of files instead, as everything else does: a full disk.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults import Faults
from make_clips import pan_clip
from motiontune.cache import MotionCache
from motiontune.commands import evaluate, predict
from motiontune.commands.extract import extract
from motiontune.datasets.stories import write_synthetic
from motiontune.errors import MotiontuneError
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.prediction import MotionPrediction
from motiontune.grid import VideoGrid
from motiontune.model.head import MotionHead, MotionHeadConfig, load_head, save_head
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.runs.folder import note_run, read_runs
from motiontune.runs.report import report
from motiontune.video.reader import FrameReader


CLIP = str(pan_clip("h264", ".mp4"))
SMALL = FrameReader(fps=2.5, max_pixels=10_000)

State = dict[str, bytes]
Task = Callable[[Path, int], None]
"""Writes to a folder; the number tells one version of what it writes from another."""


def field_of(version: int) -> tuple[Any, VideoGrid, Any]:
    clip = SMALL.read(CLIP, False)
    grid = SMALL.grid_of(clip).unpadded(len(clip.frames))
    return clip, grid, motion_of(clip, grid, MotionOptions("blockmatch", min_confidence=0.45 * version))


def extracted(form: str, preview: bool = False) -> Task:
    def task(folder: Path, version: int) -> None:
        options = MotionOptions("blockmatch", min_confidence=0.45 * version)
        extract([CLIP], str(folder), options, SMALL, form, preview)  # type: ignore[arg-type]

    return task


def predicted(folder: Path, version: int) -> None:
    class Model:
        def predict(self, path: str, *_: Any, **__: Any) -> MotionPrediction:
            clip, grid, field = field_of(version)
            return MotionPrediction(str(version), field, None, clip, grid)

    predict.predict(Model(), [CLIP], str(folder), "?", "none")  # type: ignore[arg-type]


def comparison(version: int) -> MotionComparison:
    vectors = np.full((2, 4, 4, 2), version, np.float32)
    valid = np.ones((2, 4, 4), np.bool_)
    return MotionComparison(vectors, vectors, valid, np.arange(2.0), VideoGrid(2, 4, 4), CLIP, "flow", "past")


def run_files(folder: Path, version: int) -> None:
    """What a run leaves: how it was started, the head, predictions, and the page about it."""
    note_run(folder, {"a": version}, 1)
    config = MotionHeadConfig(hidden_size=8, patch=14, merge=2, temporal_patch=2)
    head = MotionHead(config)
    head.bias.data.fill_(version)
    save_head(head, folder)
    comparison(version).save(folder / "motion_predictions" / "000000.npz")
    report(folder)


def evaluated(folder: Path, version: int) -> None:
    """The files of `evaluate`, after a prediction."""
    file = folder / "predicted" / "000000.npz"
    _, grid, field = field_of(version)
    more = {"times": field.times, "grid": grid, "path": CLIP, "source": "flow", "direction": "past"}
    MotionComparison(predicted=field.vectors, target=field.vectors, valid=field.valid, **more).save(file)
    evaluate.measure_motion({(0, 0): file}, folder / "plots", 1, {"video_fps": SMALL.fps})


def cached(folder: Path, version: int) -> None:
    MotionCache(str(folder / "cache")).save(f"key{version}", field_of(version)[2])


def synthetic(folder: Path, version: int) -> None:
    write_synthetic(folder, clips=2, seed=version, name="made", size=28, fps=8)


TASKS: dict[str, Task] = {
    "extract npz": extracted("npz"),
    "extract flo": extracted("flo"),
    "extract previews": extracted("npy", preview=True),
    "predict": predicted,
    "evaluate": evaluated,
    "run": run_files,
    "cache": cached,
    "data set": synthetic,
}
DRAWING = (TASKS["extract previews"], predicted)
"""Those that take long."""


@pytest.fixture(scope="module")
def faults() -> Faults:
    return Faults()


def state_of(folder: Path) -> State:
    """All files that a reader may take for finished."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def without_times(name: str, content: bytes) -> Any:
    """A file's content without what differs from run to run: the seconds that it took, the time of its start."""
    if name in ("extract.json", "predictions.json"):
        about = json.loads(content)
        return {**about, "clips": [{**clip, "seconds": 0} for clip in about["clips"]]}
    if name == "motiontune_runs.json":
        return [{**run, "started": ""} for run in json.loads(content)]
    return None if name == "report.html" and content.rstrip().endswith(b"</html>") else content


def comparable(folder: Path) -> dict[str, Any]:
    return {name: without_times(name, content) for name, content in state_of(folder).items()}


class Versions:
    """Two versions of a task's files, and folders that begin with the first one, or with nothing."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder, self.count, self.number, self.failed = task, folder, 0, 0, False
        self.start = folder / "start"
        task(self.start, 1)
        second = shutil.copytree(self.start, folder / "second")
        for place in (second, folder / "alone"):
            task(place, 2)
        self.first, self.over_first, self.alone = map(comparable, (self.start, second, folder / "alone"))

    def fresh(self, empty: bool) -> Path:
        self.count += 1
        folder = self.folder / f"{self.count}"
        return folder if empty else shutil.copytree(self.start, folder)

    def until_nothing_fails(self) -> Iterator[Path]:
        """Folders in which the operation `number` is to fail, checked afterwards, until the task sets `failed` off."""
        for empty in (False,) if self.task in DRAWING else (False, True):
            self.number, self.failed = 0, True
            while self.failed:
                self.number += 1
                folder = self.fresh(empty)
                yield folder
                self.check(folder, self.alone if empty else self.over_first, again=self.number % 3 == 1)
            assert self.number > 4

    def check(self, folder: Path, new: dict[str, Any], again: bool) -> None:
        for name, content in comparable(folder).items():
            known = [one[name] for one in (self.first, new) if name in one]
            assert content in known, f"{name} is neither old nor new"
        if again:  # nothing stands in the way of the next run
            self.task(folder, 2)
            assert comparable(folder) == new


@pytest.fixture(scope="module", params=TASKS)
def versions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(TASKS[request.param], tmp_path_factory.mktemp("faults"))


@pytest.mark.filterwarnings("ignore:.*is not kept")  # what a cache cannot keep is computed again
def test_any_operation_on_files_may_fail(versions: Versions, faults: Faults) -> None:
    for folder in versions.until_nothing_fails():
        with faults.at(versions.number, folder):
            try:
                versions.task(folder, 2)
            except MotiontuneError as error:
                assert "\n" not in str(error) and "No space left on device" in str(error)
        versions.failed = faults.left <= 0


@pytest.mark.filterwarnings("ignore:.*is not kept")
@pytest.mark.parametrize("most", [0, 40, 700, 3000])
def test_a_disk_that_is_full(  # capsys: else the output meets the limit, too
    versions: Versions, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = versions.fresh(False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with contextlib.suppress(MotiontuneError):
            versions.task(folder, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    versions.check(folder, versions.over_first, again=True)


@pytest.mark.slow
def test_a_process_may_be_killed_before_any_operation(versions: Versions, faults: Faults) -> None:
    for folder in versions.until_nothing_fails():
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # should a lock that another thread held have come along
            with faults.at(versions.number, folder, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                versions.task(folder, 2)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        versions.failed = status != 0


def test_what_was_written_is_what_is_read(versions: Versions) -> None:
    if versions.task is run_files:
        assert len(read_runs(versions.folder / "second")) == 2 and load_head(versions.folder / "second") is not None
    assert versions.first != versions.over_first
