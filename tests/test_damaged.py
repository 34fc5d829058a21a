"""Files that are cut, joined or damaged in one known way: a reason in one line, or vectors that are right."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from make_clips import encode, remuxed
from motiontune.errors import ClipError
from motiontune.video.clip import read_clip
from motiontune.video.container import packets_of, probe
from motiontune.video.h264 import PPS, SPS, split_nals
from mutations import COUNT, Outcome, mutate, original, pictures, read


SEEDS = (0, 2, 4)  # each rate, both directions
UNKNOWN = "the headers do not say which pictures"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def right(*outcomes: Outcome) -> None:
    """Vectors are as true as those of an undamaged clip; where one is not, the pixels are damaged and it tells how."""
    assert not any(outcome.error for outcome in outcomes), outcomes
    valid, intact, far, wrong = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in ("valid", "intact", "far_intact", "wrong")
    )
    assert valid > 0 and max(outcome.median for outcome in outcomes) < 0.5, outcomes
    # up to 2.5 % of undamaged MPEG-2: its encoder goes astray beside the border
    assert far <= 0.03 * intact and wrong <= 0.03 * valid, outcomes


def right_or_unknown(*outcomes: Outcome) -> None:
    assert all(UNKNOWN in outcome.said for outcome in outcomes if outcome.error), outcomes
    fields = [outcome for outcome in outcomes if outcome.valid]
    if fields:
        right(*fields)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def keys_of(path: Path) -> list[int]:
    """The numbers of a file's key packets."""
    with av.open(str(path)) as container:
        return [n for n, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]


# ---- headers ----


@pytest.mark.parametrize(
    ("encoder", "suffix", "start"),
    [("h264", ".mp4", 5), ("h264_refs3_b", ".ts", 11), ("h264_baseline", ".mp4", 5), ("mpeg2_b", ".mkv", 4)],
)
@pytest.mark.parametrize("broken", [4, 15])
def test_any_bit_of_a_slice_header(encoder: str, suffix: str, start: int, broken: int, folder: Path) -> None:
    whole = original(folder, encoder, suffix)
    outcomes = []
    for bit in range(40):

        def flipped(number: int, data: bytes, bit: int = bit) -> bytes:
            place = start + bit // 8
            flip = bytes([data[place] ^ 0x80 >> bit % 8])
            return data[:place] + flip + data[place + 1 :] if number == broken else data

        path = remuxed(whole.path, folder / f"slice{suffix}", flipped)
        outcomes.append(read(whole, path, "codec" if bit % 4 else "auto", bit))
        assert not outcomes[-1].error or "of 32 frames" in outcomes[-1].said or UNKNOWN in outcomes[-1].said
    fields = [outcome for outcome in outcomes if not outcome.error]
    assert len(fields) > 10
    right(*fields)


@pytest.mark.parametrize("kind", [SPS, PPS])
def test_parameter_sets_that_are_missing(kind: int, folder: Path) -> None:
    whole = original(folder, "h264_gops", ".h264")
    units = list(split_nals(whole.data, 0))
    sets = [n for n, unit in enumerate(units) if unit[0] & 31 == kind]
    assert len(sets) == 4  # in front of each key frame
    for missing in (sets, sets[:1]):
        kept = [b"\0\0\0\1" + unit for n, unit in enumerate(units) if n not in missing]
        path = written(folder / "missing.h264", b"".join(kept))
        outcomes = [read(whole, path, source) for source in ("codec", "auto")]
        if missing == sets or kind == PPS:  # FFmpeg finds the first sequence header wherever it is
            assert all(outcome.error == "ClipError" for outcome in outcomes), outcomes
        else:
            right(*outcomes)


@pytest.mark.parametrize("kind", [SPS, PPS])
def test_parameter_sets_that_are_damaged_in_the_file_header(kind: int, folder: Path) -> None:
    whole = original(folder, "h264_baseline", ".mp4")
    with av.open(str(whole.path)) as container:
        sets = container.streams.video[0].codec_context.extradata
    first, second = sets.index(b"\x67"), sets.index(b"\x68")
    outcomes = []
    for place in range(first, second - 3) if kind == SPS else range(second, len(sets)):
        for bit in (0x80, 0x20, 0x04):
            changed = sets[:place] + bytes([sets[place] ^ bit]) + sets[place + 1 :]
            path = written(folder / "sets.mp4", whole.data.replace(sets, changed))
            outcomes.append(read(whole, path, "codec"))
            assert not outcomes[-1].error or "of 32 frames" in outcomes[-1].said or UNKNOWN in outcomes[-1].said
    fields = [outcome for outcome in outcomes if not outcome.error]
    assert 5 < len(fields) < len(outcomes)
    right(*fields)


# ---- time ----


@pytest.mark.parametrize(
    ("encoder", "suffix"),
    [("mpeg4_packed", ".avi"), ("h264", ".h264"), ("h264_refs3_b", ".h264"), ("mpeg2_b", ".m2v"), ("mpeg4_b", ".m4v")],
)
def test_packets_without_times(encoder: str, suffix: str, folder: Path) -> None:
    whole = original(folder, encoder, suffix)
    assert read_clip(str(whole.path), 25.0).info.frames == COUNT
    right(*[read(whole, whole.path, source, seed) for source in ("codec", "auto") for seed in SEEDS])


@pytest.mark.parametrize("dropped", [4, 12])
@pytest.mark.parametrize("encoder", ["h264", "h264_gops", "h264_baseline", "mpeg4_b", "hevc"])
def test_an_edit_list_that_drops_the_first_frames(encoder: str, dropped: int, folder: Path) -> None:
    whole = original(folder, encoder, ".mp4")
    options = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
    path = remuxed(whole.path, folder / f"edited_{encoder}.mp4", earlier=dropped, **options)
    info = probe(str(path))
    assert info.frames == COUNT - dropped and info.duration == pytest.approx(info.frames / 25)
    clip = read_clip(str(path), 25.0, with_vectors=True)
    assert list(clip.indices) == list(range(info.frames))
    np.testing.assert_array_equal(clip.frames, read_clip(str(whole.path), 25.0).frames[dropped:])
    right(*[read(whole, path, "auto", seed) for seed in SEEDS])
    # the first picture shown may refer to any of several that are not
    right_or_unknown(*[read(whole, path, "codec", seed) for seed in SEEDS if encoder != "hevc"])


def test_an_edit_list_that_drops_the_last_frames(folder: Path) -> None:
    whole = original(folder, "h264_baseline", ".mp4")
    at = whole.data.index(b"elst") + 12  # after name, version, flags and number of entries
    half = (int.from_bytes(whole.data[at : at + 4], "big") // 2).to_bytes(4, "big")
    path = written(folder / "half.mp4", whole.data[:at] + half + whole.data[at + 4 :])
    assert probe(str(path)).frames == len(read_clip(str(path), 25.0).frames) == COUNT // 2
    right(*[read(whole, path, source, seed) for source in ("codec", "auto") for seed in SEEDS])


@pytest.mark.parametrize(("encoder", "suffix"), [("h264", ".ts"), ("mpeg2_b", ".ts"), ("mpeg2_b", ".mpg")])
def test_joined_files_whose_clock_is_set_back(encoder: str, suffix: str, folder: Path) -> None:
    whole = original(folder, encoder, suffix)
    path = written(folder / f"joined{suffix}", 3 * whole.data)
    info = probe(str(path))
    assert info.frames == 3 * COUNT and info.duration == pytest.approx(3 * COUNT / 25)
    clip = read_clip(str(path), 5.0, with_vectors=True)
    np.testing.assert_allclose(clip.times, clip.indices / 25)
    right(*[read(whole, path, source, seed) for source in ("codec", "auto") for seed in SEEDS])


@pytest.mark.parametrize("suffix", [".h264", ".ts", ".mpg"])
@pytest.mark.parametrize("grows", [False, True])
def test_a_size_that_changes(suffix: str, grows: bool, folder: Path) -> None:
    encoder = "mpeg1" if suffix == ".mpg" else "h264"
    whole = original(folder, encoder, suffix)
    small = folder / f"small{suffix}"
    encode(small, encoder, [picture[:64, :96] for picture in pictures()])
    parts = [small.read_bytes(), whole.data] if grows else [whole.data, small.read_bytes()]
    path = written(folder / f"sizes{suffix}", b"".join(parts))
    for source in ("codec", "auto"):
        outcome = read(whole, path, source)
        sizes = "from 96x64 to 128x96" if grows else "from 128x96 to 96x64"
        assert outcome.error == "ClipError" and f"changes its frame size {sizes}" in outcome.said


# ---- parts of files ----


@pytest.mark.parametrize("skipped", [0, -3])
@pytest.mark.parametrize(
    ("encoder", "suffix"),
    [
        *[("h264_open_gop", suffix) for suffix in (".mkv", ".ts", ".mp4", ".h264")],
        *[("h264_gops", suffix) for suffix in (".ts", ".h264")],
        *[("mpeg2_b", suffix) for suffix in (".ts", ".mpg", ".mkv")],
        *[("mpeg4_b", suffix) for suffix in (".mkv", ".mp4")],
    ],
)
def test_a_start_at_or_before_a_later_key_frame(encoder: str, suffix: str, skipped: int, folder: Path) -> None:
    """The first pictures lack what they refer to: of an open group, or before the key frame."""
    whole = original(folder, encoder, suffix)
    start = keys_of(whole.path)[1] + skipped
    path = remuxed(whole.path, folder / f"late{suffix}", lambda number, data: data if number >= start else None)
    by_pixels, of_codec = (
        # the header of MP4 counts the frames before the key frame, which cannot be decoded
        [outcome for outcome in outcomes if suffix != ".mp4" or "of 27 frames" not in outcome.said]
        for outcomes in ([read(whole, path, source, seed) for seed in SEEDS] for source in ("auto", "codec"))
    )
    right(*by_pixels)
    right_or_unknown(*of_codec)  # without an IDR picture nothing is known of H.264 for long


def test_an_avi_that_starts_without_a_key_frame(folder: Path) -> None:
    whole = original(folder, "mpeg4_b", ".avi")
    start = keys_of(whole.path)[1] - 3
    path = remuxed(whole.path, folder / "late.avi", lambda number, data: data if number >= start else None)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 32  # with the places before the first picture
    assert probe(str(path)).frames == len(read_clip(str(path), 25.0).frames) == 22
    right_or_unknown(*[read(whole, path, source, seed) for source in ("codec", "auto") for seed in SEEDS])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".flv", ".h264"])
@pytest.mark.parametrize("encoder", ["h264", "h264_baseline"])
def test_a_file_that_is_cut(encoder: str, suffix: str, folder: Path) -> None:
    whole = original(folder, encoder, suffix)
    data = whole.data
    if suffix == ".mp4":
        data = remuxed(whole.path, folder / "faststart.mp4", movflags="faststart").read_bytes()
    outcomes = []
    for part in range(5, 100, 5):
        path = written(folder / f"cut{suffix}", data[: len(data) * part // 100])
        outcomes.append(read(whole, path, "codec" if part % 2 else "auto", part // 5))
    fields = [outcome for outcome in outcomes if not outcome.error]
    if suffix == ".mp4":
        assert not fields  # the header counts the frames
    else:
        assert len(fields) >= {".avi": 1, ".flv": 7}.get(suffix, 12)
        right(*fields)


# ---- libraries ----


def test_damaged_pictures_are_the_same_each_time(folder: Path) -> None:
    whole = original(folder, "h264_baseline", ".ts")
    compared = 0
    for seed in range(20):
        path = written(folder / "again.ts", mutate(whole, seed)[0])
        with contextlib.suppress(ClipError):
            first = read_clip(str(path), 25.0, with_vectors=True)
            for _ in range(3):
                np.testing.assert_array_equal(read_clip(str(path), 25.0, with_vectors=True).frames, first.frames)
            compared += 1
    assert compared > 10


def test_a_stream_that_appears_while_reading() -> None:
    """PyAV raises IndexError after the last packet, as its issue 692 says."""

    packets = [SimpleNamespace(size=size) for size in (1, 2)]

    def demux(stream: object) -> Iterator[SimpleNamespace]:
        yield from packets
        raise IndexError("list index out of range")

    assert list(packets_of(SimpleNamespace(demux=demux), None)) == packets  # type: ignore[arg-type]


def test_a_stream_of_no_known_kind(folder: Path) -> None:
    whole = original(folder, "mpeg4_b", ".avi")
    path = written(folder / "kind.avi", whole.data.replace(b"strh8\0\0\0vids", b"strh8\0\0\0vxds"))
    code = "import sys; from motiontune.video.container import probe; probe(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "ClipError" in done.stderr and "has no video stream" in done.stderr, (done.returncode, done.stderr)
