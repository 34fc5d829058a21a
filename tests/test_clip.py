"""Frames, times and counts of clips, and what is said about those that cannot be read."""

import math
import os
import pickle
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from make_clips import FOLDER, encode, encode_silence, pan, pan_clip, recoded, remuxed
from motiontune.errors import ClipError
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import vectors_for
from motiontune.video.clip import clip_from_frames, read_clip, sample_indices
from motiontune.video.container import VideoInfo, content_of, info_of, is_whole, probe
from motiontune.video.frames import all_frames
from motiontune.video.reader import FrameReader
from real_clips import real_clip


WITH_COUNT = [("mpeg4", ".avi"), ("mpeg4_b", ".mp4"), ("mpeg4_b", ".avi"), ("h264", ".mp4"), ("hevc", ".mp4")]
WITHOUT_COUNT = [
    ("vp9", ".webm"),
    ("vp9_altref", ".webm"),
    ("vp8", ".webm"),
    ("av1", ".webm"),
    ("h264", ".mkv"),
    ("h264", ".ts"),
    ("h264", ".flv"),
    ("h264", ".h264"),
    ("mpeg2_b", ".ts"),
    ("mpeg2_b", ".mpg"),
    ("mpeg1", ".mpg"),
    ("mpeg2_b", ".m2v"),
]


def llamafactory_frames(path: Path, fps: float, max_frames: int) -> list[np.ndarray]:
    """LLaMA-Factory's loop: what it samples and how it decodes, for files with a frame count."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == "video")
        number = max(1, math.floor(float(stream.duration * stream.time_base) * fps))
        number = min(stream.frames, max_frames, number)
        indices = np.linspace(0, stream.frames - 1, number).astype(np.int32)
        container.seek(0)
        return [np.asarray(f.to_image()) for i, f in enumerate(container.decode(stream)) if i in indices]


def decoded_count(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(("encoder", "suffix"), WITH_COUNT)
@pytest.mark.parametrize("fps", [2.0, 7.3, 100.0])
def test_pixels_are_those_of_llamafactory(encoder: str, suffix: str, fps: float) -> None:
    path = pan_clip(encoder, suffix)
    expected = llamafactory_frames(path, fps, 16)
    for with_vectors in (False, True):
        clip = read_clip(str(path), fps, 16, with_vectors=with_vectors)
        assert not clip.info.counted
        np.testing.assert_array_equal(clip.frames, np.stack(expected))


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4", "b.avi", "b.mp4", "a.mp4"])
def test_pixels_of_real_clips_are_those_of_llamafactory(name: str) -> None:
    path = real_clip(name)
    clip = read_clip(str(path), 2.0, 6, with_vectors=True)
    expected = llamafactory_frames(path, 2.0, 6)
    if name == "b.avi":  # its header counts one frame more than there are: LLaMA-Factory pads to an even number
        expected.append(expected[-1])
    np.testing.assert_array_equal(clip.frames, np.stack(expected))
    assert (np.diff(clip.times)[: len(expected) - 2] > 0).all() and clip.times[0] == 0


@pytest.mark.parametrize(("encoder", "suffix"), WITHOUT_COUNT)
def test_frames_are_counted_where_the_header_has_no_count(encoder: str, suffix: str) -> None:
    path = pan_clip(encoder, suffix)
    info = probe(str(path))
    assert info.counted
    assert info.frames == decoded_count(path) == 41
    assert info.duration == pytest.approx(41 / 25, abs=0.002)
    assert info.average_rate == pytest.approx(25, rel=0.01)
    clip = read_clip(str(path), 4.0, 128)
    np.testing.assert_array_equal(clip.indices, [0, 8, 16, 24, 32, 40])
    np.testing.assert_allclose(clip.times, clip.indices / 25, atol=0.0015)


@pytest.mark.parametrize(("encoder", "suffix"), [("vp9", ".webm"), ("mpeg2_b", ".ts"), ("mpeg2_b", ".mpg")])
def test_real_content_without_count(encoder: str, suffix: str) -> None:
    path = recoded(real_clip("b.mp4"), encoder, suffix)
    assert probe(str(path)).frames == decoded_count(path) == 24
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = read_clip(str(path), 8.0)
    np.testing.assert_array_equal(clip.frames, np.stack([every[i] for i in clip.indices]))


@pytest.mark.parametrize(("frames", "duration", "fps", "most"), [(33, 2.75, 2, 128), (300, 10, 2, 16), (5, 0.1, 2, 8)])
def test_indices_follow_the_linspace(frames: int, duration: float, fps: float, most: int) -> None:
    info = VideoInfo("x", "h264", 8, 8, frames, duration, 12.0)
    number = min(frames, most, max(1, math.floor(duration * fps)))
    np.testing.assert_array_equal(sample_indices(info, fps, most), np.linspace(0, frames - 1, number).astype(np.int32))


def test_times_follow_a_variable_frame_rate(tmp_path: Path) -> None:
    pts = [0, 1, 2, 10, 11, 12, 13, 25, 26, 40]
    path = encode(tmp_path / "vfr.mkv", "h264", pan(10, 1, 0), pts=pts)
    clip = read_clip(str(path), 100.0)
    np.testing.assert_allclose(clip.times, np.array(pts) / 25, atol=0.0015)


def test_resize_is_applied_to_each_frame() -> None:
    clip = read_clip(str(pan_clip("mpeg4", ".avi")), 4.0, resize=lambda frame: frame[::2, ::4])
    assert clip.frames.shape[1:] == (64, 40, 3)
    assert (clip.info.width, clip.info.height) == (160, 128)


def test_an_error_of_the_resize_is_not_blamed_on_the_file() -> None:
    def broken(frame: np.ndarray) -> np.ndarray:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        read_clip(str(pan_clip("mpeg4", ".avi")), resize=broken)


@pytest.mark.parametrize(("encoder", "suffix"), [("vp9", ".webm"), ("mpeg4", ".avi"), ("h264", ".mp4")])
def test_one_frame(encoder: str, suffix: str) -> None:
    path = pan_clip(encoder, suffix, count=1)
    clip = read_clip(str(path), with_vectors=True)
    assert clip.frames.shape == (1, 128, 160, 3)
    np.testing.assert_array_equal(clip.times, [0.0])


def test_a_clip_of_images() -> None:
    clip = clip_from_frames(pan(5, 1, 0), fps=4)
    assert clip.info.frames == 5 and clip.info.duration == 1.25
    np.testing.assert_allclose(clip.times, [0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(clip.indices, range(5))


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)],
    ],
)
def test_images_that_make_no_clip(frames: list[np.ndarray]) -> None:
    with pytest.raises(ClipError, match="<frames>: "):
        clip_from_frames(frames, 2.0)


@pytest.mark.parametrize(("fps", "max_frames"), [(0.0, 8), (math.nan, 8), (math.inf, 8), (2.0, 0)])
def test_numbers_with_which_nothing_can_be_sampled(fps: float, max_frames: int) -> None:
    with pytest.raises(ClipError, match="needs a positive number of frames"):
        read_clip(str(pan_clip("mpeg4", ".avi")), fps, max_frames)


def test_a_clip_checks_its_arrays() -> None:
    clip = clip_from_frames(pan(3, 1, 0), fps=4)
    for wrong in ({"frames": clip.frames[0]}, {"times": clip.times[1:]}, {"indices": clip.indices.astype(np.int32)}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            replace(clip, **wrong)


def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    empty, text, noise, subtitles = (tmp_path / name for name in ("e.mp4", "t.txt", "n.mp4", "s.srt"))
    empty.touch()
    text.write_text("no film here\n" * 99)
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    pipe, here, gone = tmp_path / "pipe.mp4", tmp_path / "socket.mp4", tmp_path / "link.mp4"
    os.mkfifo(pipe)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(here))
    server.close()
    gone.symlink_to("nowhere.mp4")
    subtitles.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    reasons = {
        tmp_path / "missing.mp4": "does not exist",
        tmp_path: "is a folder",
        pipe: "is a pipe, not a file",
        here: "is a socket, not a file",
        gone: "is a link to nowhere.mp4, which does not exist",
        text / "below.mp4": "cannot be read .Not a directory",
        Path("/dev/null"): "is a device, not a file",
        empty: "is empty",
        text: "text file",
        noise: "cannot be read as a video",
        subtitles: "no video stream",
        encode_silence(tmp_path / "a.wav"): "no video stream",
    }
    for path, reason in reasons.items():
        for read in (probe, read_clip, content_of) if path in (pipe, here, gone, empty) else (probe, read_clip):
            with pytest.raises(ClipError, match=reason) as caught:
                read(str(path))
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_frames_of_which_nobody_knows_when_they_are_shown() -> None:
    codec = SimpleNamespace(width=8, height=8, codec=SimpleNamespace(canonical_name="h264"))
    rates = dict.fromkeys(("average_rate", "base_rate", "duration", "time_base"))
    container: Any = SimpleNamespace(duration=None, format=SimpleNamespace(name="nut"))
    stream: Any = SimpleNamespace(codec_context=codec, frames=3, **rates)
    with pytest.raises(ClipError, match="neither times nor a frame rate"):
        info_of("a.nut", container, stream)
    stream.frames = 1
    assert info_of("a.nut", container, stream).frames == 1


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    data = bytearray(pan_clip("mpeg4", ".avi").read_bytes())

    def promise(frames: int) -> str:
        at = data.index(b"avih") + 8 + 16  # dwTotalFrames
        data[at : at + 4] = frames.to_bytes(4, "little")
        at = data.index(b"vids") + 32  # dwLength
        data[at : at + 4] = frames.to_bytes(4, "little")
        path = tmp_path / f"{frames}.avi"
        path.write_bytes(data)
        return str(path)

    one_more = read_clip(promise(42), 4.0)
    assert one_more.indices[-1] == one_more.indices[-2]
    np.testing.assert_array_equal(one_more.frames[-1], one_more.frames[-2])
    np.testing.assert_array_equal(one_more.frames[:-1], llamafactory_frames(Path(promise(42)), 4.0, 128))
    assert probe(promise(42)).frames == 42 and not probe(promise(42)).counted
    for wrong in (82, 20):
        assert probe(promise(wrong)) == replace(probe(promise(41)), path=promise(wrong), counted=True)
        np.testing.assert_array_equal(read_clip(promise(wrong), 4.0).frames, read_clip(promise(41), 4.0).frames)


VARYING = [0, 1, 2, 10, 11, 12, 13, 25, 26, 40]


@pytest.mark.parametrize("encoder", ["h264", "h264_1", "mpeg4", "mpeg4_b"])
@pytest.mark.parametrize(("count", "pts"), [(10, VARYING), (32, range(0, 64, 2))])
def test_an_avi_counts_times_at_which_there_is_no_frame(
    encoder: str, count: int, pts: Sequence[int], tmp_path: Path
) -> None:
    path = str(encode(tmp_path / "varying.avi", encoder, pan(count, 3.0, -1.5), rate=50, pts=pts))
    with av.open(path) as container:
        assert container.streams.video[0].frames > count + 10
    info = probe(path)
    assert info.counted and info.frames == count == decoded_count(Path(path))
    clip = read_clip(path, 100.0)
    np.testing.assert_array_equal(clip.indices, range(count))
    shown = np.array(pts) / 50
    assert (np.diff(clip.times) > 0).all()
    if encoder == "mpeg4":  # AVI says when packets are decoded, and of H.264 FFmpeg guesses when they are shown
        np.testing.assert_allclose(clip.times, shown - shown[0], atol=0.021)
    # as many frames as tokens are counted for
    for fps in (2.0, 8.0, 30.0):
        assert len(read_clip(path, fps).frames) == len(sample_indices(info, fps, 128))
    data = Path(path).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: 2 * len(data) // 3])
    with pytest.raises(ClipError, match="ends after"):
        read_clip(str(cut), 8.0)


@pytest.mark.parametrize("encoder", ["h264", "h264_1", "mpeg4_b"])
def test_a_clip_keeps_its_times_in_an_avi_without_pts(encoder: str, tmp_path: Path) -> None:
    """As `ffmpeg -c copy` writes it: a rate of 50 for 25 frames a second, and the time of decoding alone."""
    path = str(encode(tmp_path / "sparse.avi", encoder, pan(41, 3.0, -1.5), rate=50, pts=range(0, 82, 2)))
    info = probe(path)
    assert info.counted and (info.frames, info.duration, round(info.average_rate, 9)) == (41, 1.64, 25)
    for vectors in (False, True, vectors_for(MotionOptions("codec"), FrameReader().grid_of)):
        clip = read_clip(path, 100.0, with_vectors=vectors)
        np.testing.assert_array_equal(clip.indices, range(41))
        np.testing.assert_allclose(clip.times, np.arange(41) / 25, atol=1e-9)


def test_empty_packets_hold_no_frame(tmp_path: Path) -> None:
    """As in Theora, which PyAV cannot encode; NUT keeps them."""
    dropped = (7, 8, 20)
    path = remuxed(
        pan_clip("mpeg4", ".avi"), tmp_path / "empty.nut", lambda number, data: b"" if number in dropped else data
    )
    with av.open(str(path)) as container:
        assert [n for n, packet in enumerate(container.demux(video=0)) if not packet.size][:-1] == list(dropped)
    whole = read_clip(str(remuxed(pan_clip("mpeg4", ".avi"), tmp_path / "whole.nut")), 100.0)
    clip = read_clip(str(path), 100.0, with_vectors=True)
    assert len(clip.frames) == clip.info.frames == 38
    kept = [n for n in range(41) if n not in dropped]
    np.testing.assert_allclose(clip.times, whole.times[kept])
    np.testing.assert_array_equal(clip.frames[:7], whole.frames[:7])  # later ones refer to what was dropped
    assert len(list(all_frames(str(path), 160, 128))) == 38


def test_theora_repeats_frames_with_empty_packets() -> None:
    """FFmpeg 5.1 counts 15 frames in this file of libtheora's, which shows five pictures a second."""
    path = str(Path(__file__).parent / "data" / "theora.ogv")
    with av.open(path) as container:
        sizes = [packet.size for packet in container.demux(video=0)][:-1]
    assert sizes.count(0) == len(sizes) - 15 > 30
    clip = read_clip(path, 100.0)
    assert len(clip.frames) == clip.info.frames == 15
    assert len(read_clip(path, 4.0).frames) == len(sample_indices(clip.info, 4.0, 128))


def test_a_film_that_is_cut_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    whole = remuxed(pan_clip("h264", ".mp4"), tmp_path / "whole.mp4", movflags="faststart")
    data = whole.read_bytes()
    assert is_whole(str(whole)) and is_whole(str(pan_clip("mpeg4", ".avi")))
    assert not is_whole(str(pan_clip("vp9", ".webm")))  # its packets are counted
    for length in (len(data) - 1, len(data) // 2):
        cut = tmp_path / f"{length}.mp4"
        cut.write_bytes(data[:length])
        assert not is_whole(str(cut))
    with pytest.raises(ClipError, match="ends after"):
        read_clip(str(cut), 8.0)


def test_a_file_cut_in_the_middle(tmp_path: Path) -> None:
    for path in (pan_clip("vp9", ".webm"), pan_clip("h264", ".mkv"), pan_clip("mpeg2_b", ".ts")):
        data = path.read_bytes()
        cut = tmp_path / path.name
        cut.write_bytes(data[: len(data) // 2])
        clip = read_clip(str(cut), 8.0)
        assert 1 < clip.info.frames < 41
        assert clip.indices[-1] < clip.info.frames
    data = pan_clip("mpeg4", ".avi").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(ClipError, match=r"ends after \d+ of 41 frames"):
        read_clip(str(cut), 8.0)


def test_a_stream_that_changes_its_frame_size(tmp_path: Path) -> None:
    small = pan(12, 1, 0, size=(96, 64))
    pan_clip("h264", ".h264")
    encode(FOLDER / "small.h264", "h264", small)
    both = tmp_path / "both.h264"
    both.write_bytes(pan_clip("h264", ".h264").read_bytes() + (FOLDER / "small.h264").read_bytes())
    with pytest.raises(ClipError, match="changes its frame size from 160x128 to 96x64"):
        read_clip(str(both), 100.0)
