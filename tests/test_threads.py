"""A worker of many clips reads and makes motion in one thread, and makes the same."""

import threading
from pathlib import Path

import numpy as np
import pytest

from make_clips import encode, pan
from motiontune import threads
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, vectors_for
from motiontune.video.reader import FrameReader


def motion(path: Path) -> MotionField:
    reader, options = FrameReader(fps=5.0), MotionOptions()
    clip = reader.read(str(path), vectors_for(options, reader.grid_of))
    return motion_of(clip, reader.grid_of(clip), options)


@pytest.mark.parametrize(("encoder", "suffix"), [("vp9", "webm"), ("h264", "mp4"), ("hevc", "mp4")])
def test_one_thread_makes_the_same_motion(
    encoder: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / f"clip.{suffix}", encoder, pan(10, 3, 1), threads=1)
    several = motion(path)

    def start(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(AssertionError, match="was started"):
        motion(path)
    monkeypatch.setattr(threads, "_alone", True)
    alone = motion(path)
    assert alone.valid.any()
    np.testing.assert_array_equal(alone.vectors, several.vectors)
    np.testing.assert_array_equal(alone.confidence, several.confidence)


def test_an_error_in_the_only_thread_comes_with_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_alone", True)
    with threads.threads(4) as pool:
        failed = pool.submit(int, "x")
        assert list(pool.map(int, ["1", "2"])) == [1, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result()
