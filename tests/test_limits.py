"""What a file from outside may ask for: headers that state any size are refused before memory is taken."""

import ast
import io
import pickle
import re
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fuzz.parsers import motion
from make_clips import remuxed
from motiontune.cache import MotionCache
from motiontune.errors import ClipError, ConfigError, LimitError, MotiontuneError
from motiontune.evaluation.comparison import MotionComparison
from motiontune.evaluation.templates import read_templates
from motiontune.extraction.inputs import ClipSource, Inputs, fetched
from motiontune.limits import COPY_BYTES, LIMITS, Limit, check_png
from motiontune.manifest import ClipFacts, ClipRow, read_rows, write_manifest
from motiontune.motion.file import file_motion, read_flo, read_kitti_png, write_kitti_png
from motiontune.video.clip import read_clip
from motiontune.video.container import probe
from motiontune.video.reader import FrameReader


GOLDEN = Path(__file__).parent / "data" / "golden"
ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def png_header(width: int, height: int) -> bytes:
    """A 16-bit picture of this size, of which nothing else is there."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zipfile.crc32(header))


def array_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": dtype, "fortran_order": False, "shape": shape})
    return data.getvalue()


def motion_of_file(path: Path) -> None:
    clip, grid, _ = motion()
    file_motion(clip, grid, "past", str(path.parent))


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- limits ----


def test_each_limit_is_documented_with_its_default() -> None:
    table = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    for limit in LIMITS:
        assert f"| `{limit.variable}` | {limit.default:,} {limit.unit} |" in table


def test_a_limit_is_raised_by_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit("THINGS", 10, "things", "a test")
    limit.check("a.mp4", 10)
    with pytest.raises(MotiontuneError) as refused:
        limit.check("a.mp4", 11)
    assert str(refused.value) == (
        "a.mp4: it has 11 things, the limit is 10: if that is meant, set MOTIONTUNE_LIMIT_THINGS=11"
    )
    monkeypatch.setenv("MOTIONTUNE_LIMIT_THINGS", "11")
    limit.check("a.mp4", 11)
    monkeypatch.setenv("MOTIONTUNE_LIMIT_THINGS", "many")
    with pytest.raises(ConfigError, match="MOTIONTUNE_LIMIT_THINGS=many is not a whole number"):
        limit.check("a.mp4", 1)


# ---- motion files ----


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("film.npy", array_header((3, 10**6, 10**6, 2)), "the array has 24,000,000,000,000 bytes"),
        ("film.npy", array_header((3, 1000, 1000, 2)) + b"\0" * 9, "should have 24,000,000 bytes, and 9 are there"),
        ("film.npy", array_header((2**33, 2**33)), "the array has 295,147,905,179,352,825,856 bytes"),
        ("film.npy", array_header((), "<U99999999"), "should have 399,999,996 bytes, and 0"),
        ("film.flo", b"PIEH" + struct.pack("<ii", 100_000, 100_000), "should hold 100000 x 100000 vectors"),
        ("film.png", png_header(100_000, 100_000), "it has 10,000,000,000 pixels, the limit is 67,108,864"),
        ("film_000.png", png_header(30_000, 30_000), "set MOTIONTUNE_LIMIT_PIXELS=900000000"),
    ],
)
def test_a_header_of_a_giant_is_refused_before_memory_is_taken(
    name: str, data: bytes, reason: str, tmp_path: Path
) -> None:
    readers: dict[str, Callable[[str], object]] = {".flo": read_flo, ".png": read_kitti_png}
    read = readers.get(Path(name).suffix, lambda path: motion_of_file(Path(path)))
    (tmp_path / name).write_bytes(data)
    before = megabytes()
    with pytest.raises(MotiontuneError, match=re.escape(reason)):
        read(str(tmp_path / name))
    assert megabytes() - before < 50


def bomb(path: Path, size: int) -> Path:
    """A small .npz with zeros without end."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as file:
            file.write(array_header((3, size // 24, 1, 2)))
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
    return path


def test_a_zip_bomb_is_refused_until_the_limit_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bomb(tmp_path / "film.npz", 96 << 20)
    assert path.stat().st_size < 200_000
    monkeypatch.setenv("MOTIONTUNE_LIMIT_ARRAY_BYTES", str(64 << 20))
    before = megabytes()
    for read in (motion_of_file, MotionComparison.load):
        with pytest.raises(MotiontuneError, match=f"{path}.* bytes, the limit is 67,108,864"):
            read(path)
    assert megabytes() - before < 50
    monkeypatch.setenv("MOTIONTUNE_LIMIT_ARRAY_BYTES", str(1 << 30))
    with pytest.raises(MotiontuneError, match="nor dense with the proportions"):  # it is read, and fits no clip
        motion_of_file(path)


@pytest.mark.parametrize("name", ["vectors.npy", "vectors"])
def test_what_an_archive_states_of_an_array_must_be_there(name: str, tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "film.npz", "w", compression) as archive:
            archive.writestr(name, array_header((3, 10_000, 10_000, 2)) + b"\0" * 8)
        what = "compressed in a way" if compression == zipfile.ZIP_LZMA else "should have 2,400,000,000 bytes"
        with pytest.raises(MotiontuneError, match=what):
            motion_of_file(tmp_path / "film.npz")


def test_many_pairs_are_refused_by_what_all_of_them_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_kitti_png(str(tmp_path / f"film_{number}.png"), np.zeros((56, 84, 2), np.float32))
    monkeypatch.setenv("MOTIONTUNE_LIMIT_ARRAY_BYTES", "100000")
    with pytest.raises(MotiontuneError, match="it with the files after it has 127,008 bytes, the limit is 100,000"):
        motion_of_file(tmp_path / "film_0.png")


# ---- nothing is unpickled ----


class Harm:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return pytest.fail, ("it was unpickled",)


def test_a_pickle_in_the_place_of_an_array_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "film.npy"
    plain.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(MotiontuneError, match="film.npy"):
        motion_of_file(plain)
    np.save(plain, np.array([Harm()], object), allow_pickle=True)
    with pytest.raises(MotiontuneError, match="allow_pickle=False"):
        motion_of_file(plain)
    plain.unlink()
    np.savez(tmp_path / "film.npz", vectors=np.array([Harm()], object), allow_pickle=True)
    for read in (motion_of_file, MotionComparison.load):
        with pytest.raises(MotiontuneError, match="film.npz"):
            read(tmp_path / "film.npz")
    cache = MotionCache(str(tmp_path / "cache"))
    cache.path_of("ab").parent.mkdir()
    (tmp_path / "film.npz").rename(cache.path_of("ab"))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        cache.get("ab")


def test_no_module_can_unpickle() -> None:
    """Arrays by way of `limits` alone, tensors as weights alone, and no pickle, shelve or unsafe YAML."""
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                called = next((name for name in names if re.match(r"(pickle|dill|joblib|shelve|marshal)\b", name)), "")
            elif isinstance(node, ast.Call):
                called, given = (
                    ast.unparse(node.func),
                    {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords},
                )
                allowed = {
                    "np.load": given.get("allow_pickle") == "False" and path.name == "limits.py",
                    "torch.load": given.get("weights_only") == "True",
                    "yaml.load": False,
                    "tarfile.extractall": False,
                    "eval": False,
                }  # fmt: skip
                called = "" if allowed.get(called, True) else called
            else:
                continue
            if called:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    assert not wrong


# ---- JSON ----


def test_json_that_is_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_templates(str(tmp_path / "labels.json"))


def test_a_large_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.json").write_text('{"[Something] moves": 1}' + " " * 1000)
    (tmp_path / "clips.txt").write_text("a.mp4\n" * 1000)
    assert read_templates(str(tmp_path / "labels.json")) == ["[Something] moves"]
    monkeypatch.setenv("MOTIONTUNE_LIMIT_TEXT_BYTES", "1000")
    with pytest.raises(MotiontuneError, match="labels.json: it has 1,024 bytes, the limit is 1,000"):
        read_templates(str(tmp_path / "labels.json"))
    with pytest.raises(MotiontuneError, match="clips.txt: it has 6,000 bytes, the limit is 1,000"):
        Inputs((str(tmp_path / "clips.txt"),)).listing()


def test_a_manifest_of_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path / "manifest.parquet", [ClipRow("a.mp4"), ClipRow("b.mp4")], {})
    monkeypatch.setenv("MOTIONTUNE_LIMIT_ROWS", "1")
    reads = (read_rows, ClipFacts, lambda path: Inputs((str(path),)).listing().sources)
    for read in reads:
        with pytest.raises(MotiontuneError, match="manifest.parquet: it has 2 rows, the limit is 1"):
            list(read(tmp_path / "manifest.parquet"))


# ---- clips ----


def patched(path: Path, box: bytes, number: int, at: int) -> Path:
    data = bytearray((GOLDEN / "mpeg4.mp4").read_bytes())
    place = data.index(box) + at
    data[place : place + 4] = number.to_bytes(4, "big")
    path.write_bytes(data)
    return path


def test_a_clip_that_states_a_billion_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray((GOLDEN / "mpeg4.mp4").read_bytes())
    sizes, chunks, times = (data.index(box) for box in (b"stsz", b"stsc", b"stts"))
    count = int.from_bytes(data[sizes + 12 : sizes + 16], "big")
    data[sizes + 8 : sizes + 16] = struct.pack(">II", 1, 10**9)  # of one byte each, with no table
    data[chunks + 16 : chunks + 20] = struct.pack(">I", 10**9)  # all in the first chunk
    data[times + 12 : times + 16] = struct.pack(">I", 10**9)
    (tmp_path / "a.mp4").write_bytes(data)
    assert count < 100
    before = megabytes()
    with pytest.raises(ClipError):
        read_clip(str(tmp_path / "a.mp4"), 1e9, 128)
    assert megabytes() - before < 200
    monkeypatch.setenv("MOTIONTUNE_LIMIT_FRAMES", str(count - 1))
    with pytest.raises(ClipError, match=f"it has {count} frames, the limit is {count - 1}: if that is meant, set"):
        probe(str(GOLDEN / "mpeg4.mp4"))


def test_a_frame_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W16000 H16000 F25:1 C420\nFRAME\n")
    with pytest.raises(ClipError, match="16000x16000 has 256,000,000 pixels, the limit is 67,108,864"):
        probe(str(tmp_path / "a.y4m"))
    (tmp_path / "b.y4m").write_bytes(b"YUV4MPEG2 W100000 H100000 F25:1 C420\nFRAME\n")
    with pytest.raises(ClipError):  # FFmpeg's own limit
        probe(str(tmp_path / "b.y4m"))
    assert FrameReader(max_pixels=1000).read(str(GOLDEN / "h264.mp4"), False).frames.shape[1] < 64
    monkeypatch.setenv("MOTIONTUNE_LIMIT_PIXELS", "6143")
    with pytest.raises(ClipError, match="a frame of 96x64 has 6,144 pixels, the limit is 6,143"):
        read_clip(str(GOLDEN / "h264.mp4"))


def test_a_frame_that_is_larger_than_its_header_has_it_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's decoder has the limit, too: a stream can change its size after a small header."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=4, width=64, height=48, pix_fmt="yuvj420p")
        for number, (width, height) in enumerate([(64, 48), (640, 480), (640, 480), (640, 480)]):
            done, picture = cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))
            packet = av.Packet(picture.tobytes())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 4)
            container.mux(packet)
    with pytest.raises(ClipError, match="changes its frame size from 64x48 to 640x480"):
        read_clip(str(path), 4, 8)
    monkeypatch.setenv("MOTIONTUNE_LIMIT_PIXELS", "5000")
    with pytest.raises(ClipError, match="ends after 1 of 4 frames .damaged"):
        read_clip(str(path), 4, 8)


def test_frames_in_full_size_are_refused_by_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(GOLDEN / "h264.mp4")
    monkeypatch.setenv("MOTIONTUNE_LIMIT_ARRAY_BYTES", "36863")
    with pytest.raises(ClipError, match="2 frames of 96x64 has 36,864 bytes"):
        read_clip(path, 5, 2)
    assert len(FrameReader(5, 2).read(path, False).frames) == 2  # these are resized, to what the user asks for


@pytest.mark.parametrize("width", [200_000, 1])
def test_a_frame_that_is_all_width_or_height_is_resized(width: int, tmp_path: Path) -> None:
    size = f"W{width} H{200_000 // width}".encode()
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 " + size + b" F1:1 Cmono\n" + (b"FRAME\n" + bytes(200_000)) * 2)
    clip = FrameReader(max_pixels=1000).read(str(tmp_path / "a.y4m"), False)
    assert 1 in clip.frames.shape[1:3]


def test_a_clip_that_names_other_files_is_none(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes((GOLDEN / "h264.mp4").read_bytes())
    remuxed(tmp_path / "other.mp4", tmp_path / "other.ts")
    lists = {
        "concat.mp4": "ffconcat version 1.0\nfile 'other.mp4'\n",
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n",
        "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ClipError, match="is a list of other files|cannot be read as a video"):
            probe(str(tmp_path / name))


@pytest.mark.parametrize(("codec", "name"), [("mjpeg", "a.avi"), ("libx264", "a.h264")])
def test_the_number_that_is_named_is_enough(
    codec: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg pads a frame of 100x100 to more."""
    encode(tmp_path / name, codec, 100)
    monkeypatch.setenv("MOTIONTUNE_LIMIT_PIXELS", "9999")
    with pytest.raises(LimitError) as refused:
        read_clip(str(tmp_path / name))
    monkeypatch.setenv(*str(refused.value).rpartition(" set ")[2].split("="))
    assert read_clip(str(tmp_path / name)).frames.shape[1:3] == (100, 100)


def test_a_frame_in_the_middle_that_is_too_large_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in (64, 640):
        encode(tmp_path / f"{side}.h264", "libx264", side)
    (tmp_path / "a.h264").write_bytes(b"".join((tmp_path / f"{side}.h264").read_bytes() for side in (64, 640)))
    monkeypatch.setenv("MOTIONTUNE_LIMIT_PIXELS", "200000")
    with pytest.raises(LimitError, match="a frame of 640x640 has 409,600 pixels, the limit is 200,000"):
        read_clip(str(tmp_path / "a.h264"), fps=10)


def encode(path: Path, codec: str, side: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for shade in range(0, 60, 10):
            frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# ---- tars ----


def tar(path: Path, *headers: bytes) -> Path:
    path.write_bytes(b"".join(headers) + bytes(1024))
    return path


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def negative(name: str) -> bytes:
    data = bytearray(header(name, 0))
    data[124:136] = b"\xff" + (-512).to_bytes(11, "big", signed=True)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([header("././@LongLink", 20 << 30, b"L")], "a header has 21,474,836,480 bytes, the limit is 1,048,576"),
        ([header("././@LongLink", 2, b"L"), b"a".ljust(512, b"\0")] * 3000, "recursion"),
        ([negative("a.mp4")], "leads backwards"),
    ],
)
def test_a_tar_whose_headers_have_no_end_is_refused(headers: list[bytes], reason: str, tmp_path: Path) -> None:
    with pytest.raises(MotiontuneError, match=reason):
        Inputs((str(tar(tmp_path / "a.tar", *headers)),)).listing()


def test_a_tar_that_states_more_than_there_is_is_refused_behind_that(tmp_path: Path) -> None:
    stated, refused = Inputs((str(tar(tmp_path / "a.tar", header("a.mp4", 10**12))),)).listing().sources
    with pytest.raises(LimitError, match="it has 1,000,000,000,000 bytes"), fetched(stated):
        pass
    assert refused.path == str(tmp_path / "a.tar") and "unexpected end of data" in refused.problem


def test_a_tar_that_is_called_as_the_folder_above_leads_nowhere(tmp_path: Path) -> None:
    """`...tar` without `.tar` is `..`."""
    tar(tmp_path / "...tar", header("a.mp4", 3), b"abc".ljust(512, b"\0"))
    (source,) = Inputs((str(tmp_path),)).listing().sources
    assert (source.place, source.problem) == ("", "its name leads out of the folder that it is in")


def test_a_member_is_copied_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", header("a.mp4", 1000), b"abc" * 512)
    (source,) = Inputs((str(path),)).listing().sources
    monkeypatch.setenv(COPY_BYTES.variable, "999")
    with pytest.raises(ClipError, match="it has 1,000 bytes, the limit is 999"), fetched(source):
        pass
    pytest.importorskip("fsspec")
    with pytest.raises(ClipError, match="what is there of it has 3,072 bytes, the limit is 999"):
        with fetched(ClipSource(f"file://{path}", "a")):  # at an address nobody states the size
            pass


@pytest.mark.parametrize("name", ["png-part-of-4-GB", "png-end-that-is-not-empty"])
def test_parts_of_a_png_lie_in_the_file(name: str) -> None:
    """OpenCV takes memory for what a part states, 2 to 4 GB here, behind an end that is not empty as well."""
    data = (Path(__file__).parent / "data" / "fuzz" / name).read_bytes()
    with pytest.raises(MotiontuneError, match="a.png: is cut or damaged: it is shorter than its parts"):
        check_png("a.png", data)
