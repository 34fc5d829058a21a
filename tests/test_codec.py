"""Codec vectors: known pans, both directions, what must come out invalid, and damaged files."""

import gc
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from make_clips import FOLDER, Encoder, encode, pan, pan_clip, recoded, texture
from motiontune.errors import MotiontuneError, MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.codec import codec_unusable
from motiontune.motion.field import Direction, MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of
from motiontune.video.clip import Clip, clip_from_frames, read_clip
from motiontune.video.h264 import BitReader, HeaderError, ReferenceTracker, split_extradata, split_nals
from real_clips import real_clip


USABLE = [
    ("mpeg4", ".avi"),
    ("mpeg4_b", ".mp4"),
    ("mpeg4_b", ".avi"),
    ("mpeg2", ".ts"),
    ("mpeg2_b", ".ts"),
    ("mpeg2_b", ".mpg"),
    ("mpeg1", ".mpg"),
    ("h264_1", ".mp4"),
    ("h264_1", ".h264"),
    ("h264_1", ".ts"),
    ("h264_1b", ".mkv"),
    ("h264_3", ".mkv"),
    ("h264", ".mp4"),
    ("h264", ".ts"),
    ("h264", ".h264"),
]
SIZE = (160, 128)


def codec_motion(clip: Clip, grid: VideoGrid, direction: Direction = "past") -> MotionField:
    return motion_of(clip, grid, MotionOptions("codec", direction))


def grid_of(clip: Clip, rows: int = 8, cols: int = 10) -> VideoGrid:
    frames = len(clip.frames)
    return VideoGrid(frames + frames % 2, rows, cols)


def without_border(field: MotionField) -> MotionField:
    """Without the patches near the edge: 12 px per pair enter that were not there before, and MPEG's vectors, which
    may not leave the picture, go astray in the blocks around them."""
    valid = field.valid.copy()
    valid[:, [0, -1]] = valid[:, :, [0, 1, -1]] = False
    return replace(field, valid=valid)


def errors_on_pan(
    clip: Clip, grid: VideoGrid, field: MotionField, dx: float, dy: float, size: tuple[int, int] = SIZE
) -> np.ndarray:
    """How far the valid vectors are from a pan of (dx, dy) decoded pixels per frame, in resized pixels."""
    steps = np.diff(clip.indices)
    steps = np.concatenate([[0], steps] if field.direction == "past" else [steps, [0]])
    steps = np.pad(steps, (0, grid.frames - len(steps)))
    expected = steps[:, None] * np.array([dx * grid.width / size[0], dy * grid.height / size[1]])
    return np.linalg.norm(field.vectors - expected[:, None, None], axis=-1)[field.valid]


@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize(("encoder", "suffix"), USABLE)
def test_a_known_pan(encoder: str, suffix: str, direction: Direction) -> None:
    path = pan_clip(encoder, suffix)
    assert codec_unusable(str(path)) is None
    clip = read_clip(str(path), fps=7.0, with_vectors=True)  # 11 frames, 4 apart
    grid = grid_of(clip)
    field = codec_motion(clip, grid, direction)
    assert (field.source, field.direction) == ("codec", direction)
    errors = errors_on_pan(clip, grid, without_border(field), 3.0, -1.5)
    assert np.median(errors) < 0.25
    assert np.percentile(errors, 90) < 1.0
    missing = [0, -1] if direction == "past" else [-2, -1]  # the pair's other end, and the padding
    assert not field.valid[missing].any()
    assert field.valid[1:-2].mean() > 0.45  # some of the content enters or leaves: 12 of 160 pixels per pair
    again = codec_motion(read_clip(str(path), fps=7.0, with_vectors=True), grid, direction)
    np.testing.assert_array_equal(again.vectors, field.vectors)
    np.testing.assert_array_equal(again.valid, field.valid)


@pytest.mark.parametrize(("encoder", "suffix"), [("mpeg4", ".avi"), ("mpeg4_b", ".mp4"), ("h264_1", ".mp4")])
@pytest.mark.parametrize("fps", [3.1, 11.0, 25.0])
def test_irregular_sampling(encoder: str, suffix: str, fps: float) -> None:
    clip = read_clip(str(pan_clip(encoder, suffix, 2.0, 1.0)), fps=fps, with_vectors=True)
    grid = grid_of(clip, 12, 8)
    errors = errors_on_pan(clip, grid, codec_motion(clip, grid), 2.0, 1.0)
    assert len(errors) > 100 and np.median(errors) < 0.25


def shaken(count: int = 81) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames of a camera that shakes once or twice a second, and where their content is, [count, 2]."""
    t = np.arange(count)
    at = np.stack([6 * np.sin(2 * np.pi * t / 17), 9 * np.cos(2 * np.pi * t / 23)], axis=-1)
    shift = np.array([[1, 0, -300], [0, 1, -220]], np.float32)
    still = [shift + np.array([[0, 0, x], [0, 0, y]], np.float32) for x, y in at]
    return [np.asarray(cv2.warpAffine(texture(1), s, SIZE, flags=cv2.INTER_CUBIC), np.uint8) for s in still], at


@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize(
    ("encoder", "suffix", "far", "share"),
    # vectors across h264_open's second key frame are off by 1.9 px, which is near
    [("h264_1b", ".mp4", 0.5, 0.9), ("h264_open", ".mkv", 2.0, 0.8), ("mpeg2_b", ".ts", 1.5, 0.55)],
)
def test_a_camera_that_shakes(encoder: str, suffix: str, far: float, share: float, direction: Direction) -> None:
    frames, at = shaken()
    clip = read_clip(
        str(encode(FOLDER / f"shaken_{encoder}_{direction}{suffix}", encoder, frames)), fps=3.0, with_vectors=True
    )
    grid = grid_of(clip)
    field = without_border(codec_motion(clip, grid, direction))
    expected = np.diff(at[clip.indices], axis=0) * [grid.width / SIZE[0], grid.height / SIZE[1]]
    pairs = slice(1, len(clip.frames)) if direction == "past" else slice(0, len(clip.frames) - 1)
    error = np.linalg.norm(field.vectors[pairs] - expected[:, None, None], axis=-1)
    valid = field.valid[pairs]
    assert valid[:, 1:-1, 2:-1].mean() > share
    assert max(np.median(e[v]) for e, v in zip(error, valid, strict=True) if v.any()) < far


def test_b_pictures_tell_of_key_frames_and_of_acceleration() -> None:
    frames, at = shaken()
    path = encode(FOLDER / "shaken_between.ts", "mpeg2_b", frames)
    motion = read_clip(str(path), fps=3.0, with_vectors=True).codec_motion
    assert motion is not None and len(motion.between_times) > 3
    number = np.rint(motion.between_times * 25).astype(int)
    anchors = np.rint(motion.times * 25).astype(int)
    after = np.searchsorted(anchors, number)
    for side, other in enumerate((anchors[after - 1], anchors[after])):
        for b, (shifts, inter) in enumerate(zip(motion.between_shifts, motion.between_inter, strict=True)):
            seen = np.median(shifts[side][inter[side]], axis=0) / 4
            np.testing.assert_allclose(seen, at[other[b]] - at[number[b]], atol=0.6)


@pytest.mark.parametrize(
    ("encoder", "suffix"),
    [
        ("msmpeg4v2", ".avi"),
        ("msmpeg4v3", ".avi"),
        ("h263", ".3gp"),
        ("flv1", ".flv"),
        ("wmv1", ".asf"),
        ("wmv2", ".asf"),
    ],
)
def test_older_codecs(encoder: str, suffix: str) -> None:
    size = (176, 144)  # one of the few that H.263 knows
    path = encode(FOLDER / f"older_{encoder}{suffix}", encoder, pan(41, 3.0, -1.5, size))
    clip = read_clip(str(path), fps=7.0, with_vectors=True)
    assert clip.info.codec == encoder and codec_unusable(str(path)) is None
    grid = VideoGrid(len(clip.frames) + len(clip.frames) % 2, 9, 11, patch=16, merge=1)
    field = without_border(codec_motion(clip, grid))
    errors = errors_on_pan(clip, grid, field, 3.0, -1.5, size)
    assert field.valid[1:-2].mean() > 0.5
    assert np.median(errors) < 0.03 and np.percentile(errors, 90) < 1.0


@pytest.mark.parametrize("crop", ["8,4,0,0", "6,2,10,6", "64,0,0,0", "0,0,6,10"])
def test_cropping_does_not_move_the_vectors(crop: str) -> None:
    cropped = Encoder("libx264", {"x264-params": f"bframes=0:ref=1:qp=18:crop-rect={crop}"})
    left, top, right, bottom = (int(number) for number in crop.split(","))
    frames = []
    for i in range(13):
        frame = texture(3)[:192, :256].copy()
        frame[64:128, 72 + 4 * i : 136 + 4 * i] = texture(4)[200:264, 300:364]
        frames.append(frame)
    path = encode(FOLDER / f"crop_{crop.replace(',', '_')}.mp4", cropped, frames)
    clip = read_clip(str(path), fps=25.0, with_vectors=True)
    height, width = clip.frames.shape[1:3]
    assert (width, height) == (256 - left - right, 192 - top - bottom)
    grid = VideoGrid(14, height // 8, width // 8, patch=8, merge=1)
    field = motion_of(clip, grid, MotionOptions("codec", min_confidence=0))
    x = (np.arange(grid.cols) + 0.5) * width / grid.cols + left
    y = (np.arange(grid.rows) + 0.5) * height / grid.rows + top
    for i in (4, 8, 12):
        inside = np.outer((y > 72) & (y < 120), (x > 80 + 4 * i) & (x < 128 + 4 * i))
        outside = ~np.outer((y > 44) & (y < 148), (x > 44 + 4 * i) & (x < 164 + 4 * i))
        assert np.abs(np.median(field.vectors[i][inside], axis=0) - [4 * grid.width / width, 0]).max() < 0.3
        assert np.abs(field.vectors[i][inside] - [4 * grid.width / width, 0]).mean() < 0.5
        assert np.abs(field.vectors[i][outside]).mean() < 0.1


class Counted:
    """A container whose video packets count how many of them are decoded, and in how many frames that ends."""

    def __init__(self, container: Any) -> None:
        self.container, self.packets, self.decoded, self.frames = container, 0, 0, 0

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        for packet in self.container.demux(stream):
            self.packets += packet.size > 0
            yield CountedPacket(packet, self)


class CountedPacket:
    def __init__(self, packet: Any, counts: Counted) -> None:
        self.__dict__.update(packet=packet, counts=counts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.packet, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.packet, name, value)

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self.packet)

    def __bytes__(self) -> bytes:
        return bytes(self.packet)

    def decode(self) -> Any:
        frames = self.packet.decode()
        self.counts.decoded += self.packet.size > 0
        self.counts.frames += len(frames)
        return frames


@pytest.mark.parametrize(("fps", "with_vectors"), [(2.0, True), (7.0, True), (2.0, False)])
@pytest.mark.parametrize(
    ("encoder", "suffix"),
    [("h264", ".mp4"), ("h264", ".mkv"), ("h264", ".ts"), ("h264", ".h264"), ("mpeg4_b", ".avi"), ("mpeg2_b", ".mpg")],
)
def test_pictures_that_nobody_needs_are_not_decoded(
    encoder: str, suffix: str, fps: float, with_vectors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened, whole = str(pan_clip(encoder, suffix)), [], av.open
    with whole(path) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    monkeypatch.setattr(av, "open", lambda *args, **keys: opened.append(Counted(whole(*args, **keys))) or opened[-1])
    clip = read_clip(path, fps=fps, with_vectors=with_vectors)
    assert (clip.codec_motion is not None) == with_vectors
    np.testing.assert_array_equal(clip.frames, np.stack([every[i] for i in clip.indices]))
    np.testing.assert_allclose(clip.times, clip.indices / 25, atol=0.0015)
    last = opened[-1]
    if suffix == ".h264":  # without pts nothing can be foretold
        assert last.frames == len(every)
    else:
        times = 2 if suffix == ".avi" else 1  # counted first
        assert last.packets == times * len(every) and last.decoded <= len(every) - 10


def test_frames_are_freed_as_soon_as_they_are_read() -> None:
    path = str(pan_clip("h264", ".mp4"))
    gc.collect()
    gc.disable()
    try:
        assert read_clip(path, fps=7.0, with_vectors=True).codec_motion is not None
        motion_of(clip_from_frames(pan(4, 1, 0), 2.0), VideoGrid(4, 8, 10), MotionOptions("blockmatch"))
        assert not any(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    finally:
        gc.enable()


def test_a_rotation_mark_turns_neither_frames_nor_vectors(tmp_path: Path) -> None:
    """LLaMA-Factory shows the model the frames as they were coded; so must the motion be."""
    plain = pan_clip("h264_1", ".mp4")
    data = bytearray(plain.read_bytes())
    matrix = data.index(b"tkhd") + 44  # after version, times, track, duration, layer and volume
    upright, quarter = (
        struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        for a, b, c, d in ((1 << 16, 0, 0, 1 << 16), (0, 1 << 16, -1 << 16, 0))
    )
    assert data[matrix : matrix + 36] == upright
    data[matrix : matrix + 36] = quarter
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    with av.open(str(turned)) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90
    one, other = (read_clip(str(path), fps=5.0, with_vectors=True) for path in (plain, turned))
    np.testing.assert_array_equal(one.frames, other.frames)
    grid = VideoGrid(len(one.frames), one.frames.shape[1] // 16, one.frames.shape[2] // 16, patch=16, merge=1)
    fields = [motion_of(clip, grid, MotionOptions("codec")) for clip in (one, other)]
    assert fields[0].valid.any()
    np.testing.assert_array_equal(fields[0].vectors, fields[1].vectors)


def test_quarter_pixels() -> None:
    clip = read_clip(str(pan_clip("h264_1", ".mp4", 2.25, 0.75)), fps=8.0, with_vectors=True)
    grid = grid_of(clip)
    errors = errors_on_pan(clip, grid, codec_motion(clip, grid), 2.25, 0.75)
    assert len(errors) > 100 and np.median(errors) < 0.25


def test_a_variable_frame_rate(tmp_path: Path) -> None:
    pts = [*range(0, 10), *range(12, 40, 3), *range(40, 60)]
    big = pan(60, 2.0, 1.0)
    path = encode(tmp_path / "vfr.mp4", "h264_1b", [big[time] for time in pts], pts=pts)
    clip = read_clip(str(path), fps=5.0, with_vectors=True)
    grid = grid_of(clip)
    field = codec_motion(clip, grid)
    elapsed = np.pad(np.diff(clip.times, prepend=0) * 25, (0, grid.frames - len(clip.times)))
    expected = elapsed[:, None] * np.array([2.0 * grid.width / 160, 1.0 * grid.height / 128])
    errors = np.linalg.norm(field.vectors - expected[:, None, None], axis=-1)[field.valid]
    assert len(errors) > 100 and np.median(errors) < 0.25


@pytest.mark.parametrize("encoder", ["mpeg4", "mpeg4_b", "h264_1"])
@pytest.mark.parametrize("direction", ["past", "future"])
def test_a_still_picture_is_valid_and_does_not_move(encoder: str, direction: Direction) -> None:
    clip = read_clip(str(pan_clip(encoder, ".mp4", 0.0, 0.0)), fps=4.0, with_vectors=True)
    field = codec_motion(clip, grid_of(clip), direction)
    inner = field.valid[1:-1] if direction == "past" else field.valid[:-2]
    assert inner.mean() > 0.9
    assert np.abs(field.vectors).max() < 0.25


@pytest.mark.parametrize(("encoder", "suffix"), [("mpeg4", ".avi"), ("mpeg2_b", ".ts"), ("h264_1", ".mp4")])
@pytest.mark.parametrize("direction", ["past", "future"])
@pytest.mark.parametrize("cut", [12, 17, 22])
def test_a_scene_cut_is_invalid(encoder: str, suffix: str, direction: Direction, cut: int, tmp_path: Path) -> None:
    frames = pan(cut, 2, 0) + pan(41 - cut, 2, 0, seed=7)
    path = encode(tmp_path / f"cut{suffix}", encoder, frames)
    clip = read_clip(str(path), fps=7.0, with_vectors=True)
    field = codec_motion(clip, grid_of(clip), direction)
    after = int(np.searchsorted(clip.indices, cut))
    across = after if direction == "past" else after - 1
    assert not field.valid[across].any()
    assert field.valid[1].any() and field.valid[-4].any()


def test_a_thing_that_moves_over_a_still_background(tmp_path: Path) -> None:
    frames = []
    for i in range(31):
        frame = texture(3)[:128, :160].copy()
        frame[40:88, 10 + 3 * i : 58 + 3 * i] = texture(4)[200:248, 300:348]
        frames.append(frame)
    clip = read_clip(str(encode(tmp_path / "thing.mp4", "h264_1", frames)), fps=8.0, with_vectors=True)
    grid = VideoGrid(len(clip.frames) + len(clip.frames) % 2, 8, 10, patch=16)
    field = codec_motion(clip, grid)
    i = 4
    left = 10 + 3 * int(clip.indices[i])
    moved = 3.0 * float(clip.indices[i] - clip.indices[i - 1])
    cols = range(-(-left // 16), (left + 48) // 16)
    inside = field.vectors[i, 3:5, cols][field.valid[i, 3:5, cols]]
    assert len(inside) and np.abs(np.median(inside, axis=0) - [moved, 0]).max() < 0.5
    still = field.vectors[i, :2][field.valid[i, :2]]
    assert len(still) > 10 and np.abs(still).max() < 0.5


@pytest.mark.parametrize(
    ("encoder", "suffix", "reason"),
    [
        ("vp9", ".webm", "vp9 has no exported vectors"),
        ("vp8", ".webm", "vp8 has no exported vectors"),
        ("hevc", ".mp4", "hevc has no exported vectors"),
        ("av1", ".webm", "av1 has no exported vectors"),
        ("h264_keys", ".mp4", "key frames only"),
    ],
)
def test_what_has_no_usable_vectors_is_refused(encoder: str, suffix: str, reason: str) -> None:
    path = str(pan_clip(encoder, suffix))
    clip = read_clip(path, fps=7.0, with_vectors=True)
    with pytest.raises(MotionUnavailable, match=reason) as caught:
        codec_motion(clip, grid_of(clip))
    assert str(caught.value).startswith(path) and "\n" not in str(caught.value)
    told = codec_unusable(path)
    assert told is not None and reason in told


def test_interlaced_vectors_are_not_trusted() -> None:
    path = str(pan_clip("h264_interlaced", ".mp4"))
    assert "interlaced" in str(codec_unusable(path))
    clip = read_clip(path, fps=7.0, with_vectors=True)
    assert not codec_motion(clip, grid_of(clip)).valid.any()


def test_clips_that_were_read_without_vectors() -> None:
    clip = read_clip(str(pan_clip("mpeg4", ".avi")), fps=7.0)
    with pytest.raises(MotionUnavailable, match="not asked"):
        codec_motion(clip, grid_of(clip))
    clip = clip_from_frames(pan(4, 1, 0), 2.0)
    with pytest.raises(MotionUnavailable, match="no exported vectors"):
        codec_motion(clip, grid_of(clip))


def test_one_frame_and_a_repeated_frame() -> None:
    clip = read_clip(str(pan_clip("mpeg4", ".avi", count=1)), with_vectors=True)
    field = codec_motion(clip, grid_of(clip))
    assert field.vectors.shape == (2, 8, 10, 2) and not field.valid.any()
    clip = read_clip(str(real_clip("b.avi")), fps=2.0, with_vectors=True)
    assert clip.indices[-1] == clip.indices[-2]
    field = codec_motion(clip, grid_of(clip))
    assert not field.valid[len(clip.frames) - 1].any() and field.valid[1 : len(clip.frames) - 1].any()


def test_a_grid_of_another_clip_is_refused() -> None:
    clip = read_clip(str(pan_clip("mpeg4", ".avi")), fps=7.0, with_vectors=True)
    for frames in (len(clip.frames) - 1, len(clip.frames) + 3):
        with pytest.raises(ValueError, match="the grid has"):
            codec_motion(clip, VideoGrid(frames, 8, 10, temporal_patch=1))


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "b.avi"])
def test_real_clips_agree_with_optical_flow(name: str) -> None:
    clip = read_clip(str(real_clip(name)), fps=4.0, max_frames=12, with_vectors=True)
    grid = grid_of(clip, 18, 32)
    codec, flow = codec_motion(clip, grid), motion_of(clip, grid, MotionOptions("flow"))
    both = codec.valid & flow.valid
    assert both.mean() > (0.2 if name == "b.avi" else 0.4)  # more than half of b.avi is plain, and tells nothing
    difference = np.linalg.norm(codec.vectors - flow.vectors, axis=-1)[both]
    assert np.median(difference) < 0.6 and np.mean(difference > 3) < 0.05


@pytest.mark.parametrize(("encoder", "suffix"), [("mpeg4_b", ".avi"), ("mpeg2_b", ".ts"), ("h264_1b", ".mp4")])
def test_recoded_real_content_agrees_with_optical_flow(encoder: str, suffix: str) -> None:
    clip = read_clip(str(recoded(real_clip("b.mp4"), encoder, suffix)), fps=8.0, with_vectors=True)
    grid = grid_of(clip, 14, 24)
    codec, flow = codec_motion(clip, grid), motion_of(clip, grid, MotionOptions("flow"))
    both = codec.valid & flow.valid
    assert both.mean() > 0.2  # more than half of it is plain, and tells nothing
    assert np.median(np.linalg.norm(codec.vectors - flow.vectors, axis=-1)[both]) < 0.6


@pytest.mark.parametrize(
    ("encoder", "suffix"), [("mpeg4", ".avi"), ("mpeg2_b", ".ts"), ("h264_1", ".h264"), ("h264", ".mkv")]
)
def test_damaged_files_give_a_clip_or_a_reason(encoder: str, suffix: str, tmp_path: Path) -> None:
    original = np.frombuffer(pan_clip(encoder, suffix).read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    path = tmp_path / f"damaged{suffix}"
    for trial in range(30):
        data = original.copy()
        if trial % 3:
            data[random.integers(0, len(data), 12)] = random.integers(0, 256, 12)
        else:
            data = data[: random.integers(1, len(data))]
        data.tofile(path)
        try:
            codec_unusable(str(path))
            clip = read_clip(str(path), fps=7.0, max_frames=8, with_vectors=True)
            field = codec_motion(clip, grid_of(clip), "past" if trial % 2 else "future")
        except MotiontuneError as error:
            assert "\n" not in str(error)
        else:
            assert np.isfinite(field.vectors).all()


def tracked(path: Path) -> list[tuple[str, tuple[int, ...] | None]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tracker = ReferenceTracker(stream.codec_context.extradata)
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    pictures = [tracker.add(packet, number) for number, packet in enumerate(packets)]
    assert all(picture is not None for picture in pictures)
    return [(picture.kind, picture.candidates) for picture in pictures if picture is not None]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".h264"])
def test_reference_lists_of_several_frames(suffix: str) -> None:
    pictures = tracked(pan_clip("h264_3", suffix))
    assert pictures[0] == ("I", ())
    for number, (kind, candidates) in enumerate(pictures[1:], start=1):
        assert kind == "P"
        assert candidates == tuple(range(number - 1, max(number - 4, -1), -1))


def test_weighted_prediction_lists_a_frame_twice() -> None:
    frames = [np.clip(frame * (0.3 + i / 60), 0, 255).astype(np.uint8) for i, frame in enumerate(pan(41, 1, 0))]
    pictures = tracked(encode(FOLDER / "fade.mp4", "h264_1", frames))
    assert all(len(candidates) == 1 for kind, candidates in pictures if kind == "P" and candidates is not None)
    assert sum(kind == "P" for kind, _ in pictures) > 30
    assert all(candidates is not None for _, candidates in pictures)


def test_a_lost_picture_makes_references_uncertain() -> None:
    with av.open(str(pan_clip("h264_1", ".mp4"))) as container:
        stream = container.streams.video[0]
        tracker = ReferenceTracker(stream.codec_context.extradata)
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    pictures = [tracker.add(packet, n) for n, packet in enumerate(packets) if n != 5]
    known = [picture is not None and picture.candidates is not None for picture in pictures]
    assert all(known[:5]) and not any(known[5:20]) and all(known[24:])
    assert tracker.add(b"", 99) is None and tracker.add(b"\0\0\0\2\x41\0", 99) is None


def test_a_unit_that_calls_itself_a_key_slice_but_is_no_reference_is_passed_over() -> None:
    """Files are around whose SEI lacks its first byte; the next one, the kind of SEI, passes for a unit's header."""
    found = []
    for before in (b"", b"\0\0\0\1\x05\xff\xff\xab\xdcE\xe9\xbd"):
        with av.open(str(pan_clip("h264_3", ".h264"))) as container:
            stream = container.streams.video[0]
            tracker = ReferenceTracker(stream.codec_context.extradata)
            packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
            found.append([tracker.add(before + packet, number) for number, packet in enumerate(packets)])
    assert found[0] == found[1] and None not in found[0]


def test_a_file_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [pan_clip(encoder, ".mp4") for encoder in ("h264_3", "h264", "mpeg4_b")]
    opened = []
    whole = av.open
    monkeypatch.setattr(av, "open", lambda *args, **keys: opened.append(args) or whole(*args, **keys))
    for path in paths:
        read_clip(str(path), 6, 99, with_vectors=True)
    assert len(opened) == 3


def test_bits() -> None:
    bits = BitReader(bytes([0b10100110, 0b01000010, 0b10000000]))
    assert [bits.ue() for _ in range(4)] == [0, 1, 2, 3]
    assert bits.se() == -2
    with pytest.raises(HeaderError):
        bits.u(12)
    with pytest.raises(HeaderError):
        BitReader(b"\0\0").ue()
    assert BitReader(b"\0\0\3\1").u(24) == 1  # emulation prevention


def test_units() -> None:
    assert list(split_nals(b"\0\0\0\1ab\0\0\1c", 0)) == [b"ab", b"c"]
    assert list(split_nals(b"\0\2ab\0\1c\0\0", 2)) == [b"ab", b"c"]
    assert list(split_nals(b"\0\0\0\x09ab", 4)) == [b"ab"]  # cut
    avcc = b"\x01\x64\0\x1e\xff\xe1\0\x03sps\x01\0\x02pp"
    assert split_extradata(avcc) == (4, [b"sps", b"pp"])
    assert split_extradata(None) == (0, [])
    assert split_extradata(avcc[:9])[0] == 4
