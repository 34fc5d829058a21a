"""Vectors that are followed while a clip is decoded: the same as of those that are kept, in memory that stays flat."""

import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from make_clips import pan_clip
from motiontune.errors import MotionUnavailable
from motiontune.motion.codec import FAR, Following, codec_motion
from motiontune.motion.field import Direction
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, predict_source, vectors_for
from motiontune.video.clip import read_clip
from motiontune.video.reader import FrameReader


BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "long_clips"


@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize("fps", [4.0, 25.0])
@pytest.mark.parametrize(
    ("encoder", "suffix"),
    [
        *[("h264", ".mp4"), ("h264_1b", ".mkv"), ("h264_open_gop", ".ts"), ("h264_half", ".mp4")],
        *[("mpeg2_b", ".ts"), ("mpeg4", ".avi"), ("mpeg4_b", ".avi"), ("h264", ".h264")],
    ],
)
def test_followed_is_what_kept_vectors_give(encoder: str, suffix: str, fps: float, direction: Direction) -> None:
    path, reader = str(pan_clip(encoder, suffix)), FrameReader(fps)
    kept = reader.read(path, with_vectors=True)
    clip = reader.read(path, vectors_for(MotionOptions("codec", direction), reader.grid_of))
    assert kept.codec_motion is not None and kept.followed is None
    assert clip.codec_motion is None and isinstance(clip.followed, Following)
    assert clip.references == kept.references > 0
    np.testing.assert_array_equal(clip.frames, kept.frames)
    grid = reader.grid_of(kept)
    one, other = codec_motion(clip, grid, direction), codec_motion(kept, grid, direction)
    assert one.valid.any()
    np.testing.assert_array_equal(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.confidence, other.confidence)


def test_a_clip_is_followed_on_one_grid_one_way() -> None:
    reader = FrameReader(8.0)
    clip = reader.read(str(pan_clip("h264", ".mp4")), vectors_for(MotionOptions("codec"), reader.grid_of))
    grid = reader.grid_of(clip)
    for other, direction in ((grid, "future"), (replace(grid, rows=grid.rows + 2), "past")):
        with pytest.raises(ValueError, match="was read for past"):
            motion_of(clip, other, MotionOptions("codec", direction))  # type: ignore[arg-type]


def repeated(path: Path, times: int) -> Path:
    """The packets of a clip of 41 frames, 25 per second, again and again."""
    with av.open(str(pan_clip("h264", ".mp4"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for turn in range(times):
            for packet in packets:
                copy, later = av.Packet(bytes(packet)), round(turn * 41 / 25 / packet.time_base)
                copy.pts, copy.dts, copy.duration = packet.pts + later, packet.dts + later, packet.duration
                copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
                target.mux(copy)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of 20 seconds, and of 80."""
    folder = tmp_path_factory.mktemp("long")
    return [repeated(folder / f"{times}.mp4", times) for times in (12, 48)]


def most_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many anchors' vectors were held at once while a clip was read, at most, and how many there were."""
    seen: list[weakref.ref[Any]] = []
    held = []
    take = Following.take

    def counted(self: Following, moments: Any, anchors: Any) -> None:
        seen.extend(weakref.ref(anchor.shifts) for anchor in anchors)
        held.append(sum(one() is not None for one in seen))
        take(self, moments, anchors)

    reader = FrameReader(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Following, "take", counted)
        clip = reader.read(str(path), vectors_for(MotionOptions("codec"), reader.grid_of))
    assert codec_motion(clip, reader.grid_of(clip)).valid[1:].any(axis=(1, 2)).all()
    return max(held), len(seen)


def test_only_the_vectors_of_one_run_are_held(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motiontune.video.decode.MAX_ANCHORS", 40)
    for path, pairs in zip(clips, (18, 77), strict=True):
        most, number = most_held(path, monkeypatch)
        assert number > 150 and most <= 40 + 3 * number / pairs


def test_samples_far_apart_are_left_to_the_pixels(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(clips[0])
    reader = FrameReader(max_frames=8)
    monkeypatch.setattr(Following, "take", None)  # nothing is collected
    clip = reader.read(path, vectors_for(MotionOptions(), reader.grid_of))
    assert clip.followed is None and clip.info.duration / len(clip.frames) > FAR
    assert motion_of(clip, reader.grid_of(clip)).source == "blockmatch+flow"
    for kept in (clip, reader.read(path, with_vectors=True)):
        with pytest.raises(MotionUnavailable, match=r"sampled frames lie 2\.5 s apart \(video_fps, video_maxlen\)"):
            codec_motion(kept, reader.grid_of(kept))
    source, reason = predict_source(path, "auto", max_frames=8)
    assert source == "blockmatch+flow" and "2.5 s apart" in reason
    assert predict_source(path, "auto", max_frames=16)[0] == "codec+flow"


def test_a_user_source_gets_all_vectors() -> None:
    assert vectors_for(MotionOptions("flow"), FrameReader().grid_of) is False
    clip = read_clip(str(pan_clip("h264", ".mp4")), 8.0, with_vectors=True)
    assert clip.codec_motion is not None and len(clip.codec_motion.times) > 10


@pytest.mark.slow
def test_the_benchmark_stays_flat(tmp_path: Path) -> None:
    """Ten minutes take as much as one, in processes of their own."""
    out = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARK / "run.py"), "--minutes", "1", "10", "--readings", "16 frames, auto"]
    subprocess.run([*command, "--out", str(out)], check=True)
    one, ten = json.loads(out.read_text())["rows"]
    assert abs(ten["peak_mb"] - one["peak_mb"]) < 100
