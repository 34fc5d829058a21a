"""What reads bytes from outside, each as a function of bytes, with some that are as they should be.

The contract that `parse` holds them to: any bytes give a value or a `MotiontuneError` in one line, and nothing else.
"""

import contextlib
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import av
import numpy as np

from motiontune.datasets.dataset_info import load_info, read_clips, templates_of
from motiontune.datasets.selection import Wanted
from motiontune.datasets.something_something import _read_split
from motiontune.errors import MotiontuneError, escaped
from motiontune.evaluation.templates import read_templates
from motiontune.extraction.inputs import Inputs, _listed
from motiontune.grid import VideoGrid
from motiontune.manifest import ClipFacts, ClipRow, about_manifest, read_rows, write_manifest
from motiontune.motion.field import MotionField
from motiontune.motion.file import (
    file_motion,
    npz_bytes,
    read_flo,
    read_kitti_png,
    write_flo,
    write_kitti_png,
    write_npy,
)
from motiontune.runs.folder import read_model_card, read_runs, read_state, read_texts
from motiontune.video.clip import Clip, clip_from_frames, read_clip
from motiontune.video.container import _is_hidden, is_whole
from motiontune.video.h264 import ReferenceTracker


DATA = Path(__file__).parent.parent / "data"
CLIPS = sorted((DATA / "golden").glob("*.[mw]*"))
LIMITS = {"PIXELS": 1 << 22, "ARRAY_BYTES": 1 << 26, "TEXT_BYTES": 1 << 22, "ROWS": 1 << 16}
"""Lower ones than the defaults, so that what goes past them is noticed."""


@dataclass(frozen=True)
class Parser:
    """What reads bytes.

    Args:
        read: takes them, and an empty folder.
        seeds: bytes that it reads without an error.
        largest: most bytes that fuzzing makes.
    """

    read: Callable[[bytes, Path], object]
    seeds: Callable[[Path], list[bytes]]
    largest: int = 4096


def parse(name: str, data: bytes) -> str:
    """Let a parser read: "" where it gave a value, else its one line. Any other error is raised."""
    with tempfile.TemporaryDirectory() as folder, lower_limits():
        try:
            PARSERS[name].read(data, Path(folder))
        except MotiontuneError as error:
            assert_one_line(error)
            return str(error)
    return ""


def assert_one_line(error: MotiontuneError) -> None:
    shown = escaped(str(error))  # as the commands show it
    assert shown and len(shown.splitlines()) == 1, shown


@contextlib.contextmanager
def lower_limits() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({f"MOTIONTUNE_LIMIT_{name}": str(value) for name, value in LIMITS.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@cache
def seeds_of(name: str) -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        return tuple(PARSERS[name].seeds(Path(folder)))


# ---- H.264 ----


def read_h264(data: bytes, folder: Path) -> None:
    """The extradata and then the packets, each after its length in two bytes."""
    parts, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        parts.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    tracker = ReferenceTracker(parts[0] if parts else None)
    for number, packet in enumerate(parts[1:]):
        refs = tracker.add(packet, number)
        assert refs is None or all(0 <= other < number for other in refs.candidates or ())
    assert max(tracker.crop) < 1 << 16


def h264_seeds(folder: Path) -> list[bytes]:
    found = []
    for path in CLIPS:
        if path.name.startswith("h264"):
            with av.open(str(path)) as container:
                parts = [container.streams.video[0].codec_context.extradata or b""]
                parts += [bytes(packet)[:120] for packet in container.demux(video=0)][:12]
            found.append(b"".join(len(part).to_bytes(2, "big") + part for part in parts))
    return found


# ---- motion files ----


@cache
def motion() -> tuple[Clip, VideoGrid, MotionField]:
    clip = clip_from_frames([np.zeros((56, 84, 3), np.uint8)] * 3, 2.0, "film.mp4")
    grid = VideoGrid.for_size(3, 56, 84, 14, 2)
    vectors = np.arange(3 * 4 * 6 * 2, dtype=np.float32).reshape(3, 4, 6, 2) / 8
    valid = np.arange(3 * 4 * 6).reshape(3, 4, 6) % 5 > 0
    valid[0] = False
    vectors[~valid] = 0
    return clip, grid, MotionField(vectors, valid, clip.times, "blockmatch", "past")


def motion_file(suffix: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        (folder / f"film{suffix}").write_bytes(data)
        clip, grid, _ = motion()
        return file_motion(clip, grid, "past", str(folder))

    return read


def npz_seeds(folder: Path) -> list[bytes]:
    _, grid, field = motion()
    plain = io.BytesIO()
    np.savez(plain, vectors=field.vectors, valid=field.valid, direction=np.array("past"), size=np.array([56, 84]))
    return [npz_bytes(field, grid, "0" * 32), plain.getvalue()]


def npy_seeds(folder: Path) -> list[bytes]:
    write_npy(folder / "a.npy", motion()[2])
    return [(folder / "a.npy").read_bytes()]


def flo_seeds(folder: Path) -> list[bytes]:
    _, _, field = motion()
    write_flo(str(folder / "a.flo"), field.vectors[1], field.valid[1])
    return [(folder / "a.flo").read_bytes()]


def png_seeds(folder: Path) -> list[bytes]:
    _, _, field = motion()
    write_kitti_png(str(folder / "a.png"), field.vectors[1], field.valid[1])
    return [(folder / "a.png").read_bytes()]


def with_checksums(data: bytes) -> bytes:
    """A .png whose chunks have the checksums that they should have, so that what is in them is read."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        size = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
        body = data[at + 4 : at + 8 + size]
        parts += [data[at : at + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        at += 12 + size
    return b"".join([*parts, data[at:]])


def read_png(data: bytes, folder: Path) -> object:
    (folder / "a.png").write_bytes(with_checksums(data))
    return read_kitti_png(str(folder / "a.png"))


def read_flow(data: bytes, folder: Path) -> object:
    (folder / "a.flo").write_bytes(data)
    return read_flo(str(folder / "a.flo"))


# ---- JSON ----

ENTRY = {
    "file_name": "set.json",
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "videos": "videos"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}
TURNS = [{"role": "user", "content": "<video>What moves?"}, {"role": "assistant", "content": "It."}]
ROWS = [{"messages": TURNS, "videos": ["a.mp4"], "template": "[Something] moves", "id": "1"}]


def every(*reads: Callable[[], object]) -> None:
    """Let each read; where all refuse, refuse as the first one does."""
    refused = []
    for read in reads:
        try:
            read()
        except MotiontuneError as error:
            refused.append(error)
            assert_one_line(error)
    if len(refused) == len(reads):
        raise refused[0]


def read_labels(data: bytes, folder: Path) -> None:
    """As the rows of a data set, as its `dataset_info.json`, as a split and as labels of Something-Something."""
    (folder / "dataset_info.json").write_text(json.dumps({"set": ENTRY, "lines": ENTRY | {"file_name": "set.jsonl"}}))
    (folder / "info").mkdir()
    for name in ("set.json", "set.jsonl", "info/dataset_info.json"):
        (folder / name).write_bytes(data)
    every(
        lambda: read_clips(folder, "set"),
        lambda: read_clips(folder, "lines"),
        lambda: templates_of(folder, "set"),
        lambda: [read_clips(folder / "info", name) for name in load_info(folder / "info")],
        lambda: _read_split(folder / "set.json"),
        lambda: read_templates(str(folder / "set.json")),
    )


def label_seeds(folder: Path) -> list[bytes]:
    alpaca = [{"instruction": "What moves?", "input": "", "output": "It.", "videos": "a.mp4"}]
    split = [{"id": "1", "label": "a thing moves", "template": "[Something] moves", "placeholders": ["a thing"]}]
    plain = {"file_name": "set.json", "columns": {"prompt": "instruction", "videos": "videos"}}
    kinds = [ROWS, alpaca, split, {"[Something] moves": "1"}, {"set": ENTRY, "plain": plain}]
    return [json.dumps(kind).encode() for kind in kinds]


def read_run(data: bytes, folder: Path) -> None:
    """As the files that a run leaves in its folder."""
    for name in ("generated_predictions.jsonl", "trainer_state.json", "motiontune_runs.json", "README.md"):
        (folder / name).write_bytes(data)
    every(
        lambda: read_texts(folder),
        lambda: read_runs(folder),
        lambda: read_state(folder),
        lambda: read_model_card(folder),
    )


def run_seeds(folder: Path) -> list[bytes]:
    state = {"global_step": 2, "log_history": [{"loss": 1.5, "step": 1, "motion_loss": 0.5}]}
    return [json.dumps({"predict": "It.", "label": "It."}).encode(), json.dumps(state).encode(), b"[]"]


# ---- heads ----

HEAD = {"hidden_size": 4, "patch": 14, "merge": 2, "temporal_patch": 2, "input": "last_hidden", "direction": "past"}


def read_head(data: bytes, folder: Path) -> object:
    from motiontune.model.head import CONFIG_NAME, WEIGHTS_NAME, load_head

    (folder / CONFIG_NAME).write_bytes(data)
    (folder / WEIGHTS_NAME).write_bytes(weights())
    return load_head(folder)


def read_weights(data: bytes, folder: Path) -> object:
    from motiontune.model.head import CONFIG_NAME, WEIGHTS_NAME, load_head

    (folder / CONFIG_NAME).write_text(json.dumps(HEAD))
    (folder / WEIGHTS_NAME).write_bytes(data)
    return load_head(folder)


@cache
def weights() -> bytes:
    import torch
    from safetensors.torch import save

    return save({"weight": torch.zeros(16, 4), "bias": torch.zeros(16)})


def head_seeds(folder: Path) -> list[bytes]:
    more = {"scale": 1.0, "features": "token", "form": "dense", "sampling": {"video_fps": 2.0, "video_maxlen": 8}}
    return [json.dumps(HEAD).encode(), json.dumps(HEAD | more).encode()]


# ---- many clips ----


def read_parquet(data: bytes, folder: Path) -> None:
    """As a manifest, and as a list of clips."""
    file = folder / "manifest.parquet"
    file.write_bytes(data)
    wanted = Wanted(least={"moving": 0.1}, most={"camera": 0.9}, codecs=("h264",))
    every(
        lambda: [(row.info, wanted.refusal(vars(row))) for row in read_rows(file)],
        lambda: about_manifest(file),
        lambda: ClipFacts(file).info("a.mp4"),
        lambda: _listed(str(file)),
    )


def parquet_seeds(folder: Path) -> list[bytes]:
    rows = [ClipRow("a.mp4", "0" * 32, 9, 9, "h264", 84, 56, 3, 1.5, 2.0, False, "codec", 3, 0.5, 1.0, 1.0, 0.5, 0.5)]
    rows.append(ClipRow("b.mp4", failure="clip", error="is empty (0 bytes)"))
    write_manifest(folder / "a.parquet", rows, {"frames": {"fps": 2.0}})
    return [(folder / "a.parquet").read_bytes()]


def read_tar(data: bytes, folder: Path) -> None:
    (folder / "...tar").write_bytes(data)
    (folder / "a.tar").write_bytes(data)
    for name in ("a.tar", "...tar", "."):
        for source in Inputs((str(folder / name),)).listing().sources:
            place = PurePosixPath(source.place)
            assert source.problem or source.place, source
            assert not place.is_absolute() and ".." not in place.parts and "\0" not in source.place, source
            assert source.start is None or source.start > 0 and source.size >= 0, source


def tar_seeds(folder: Path) -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=form) as tar:
            for name in ("a.mp4", "../b.mp4", "é/c.webm", f"{'long/' * 30}d.mp4"):
                with contextlib.suppress(ValueError):
                    member = tarfile.TarInfo(name)
                    member.size = 3
                    tar.addfile(member, io.BytesIO(b"abc"))
            link = tarfile.TarInfo("e.mp4")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        found.append(data.getvalue())
    return found


def read_list(data: bytes, folder: Path) -> object:
    (folder / "a.txt").write_bytes(data)
    return _listed(str(folder / "a.txt"))


# ---- videos ----


def read_boxes(data: bytes, folder: Path) -> None:
    """What is read of a file without FFmpeg: whether it is whole, and whether a packet's frame is shown."""
    (folder / "a.mp4").write_bytes(data)
    is_whole(str(folder / "a.mp4"))
    if data:
        _is_hidden("vp8", data), _is_hidden("vp9", data)  # type: ignore[arg-type]


def box_seeds(folder: Path) -> list[bytes]:
    packets = []
    with av.open(str(DATA / "golden" / "vp9.webm")) as container:
        packets = [bytes(packet)[:32] for packet in container.demux(video=0) if packet.size][:4]
    return [(DATA / "golden" / "h264.mp4").read_bytes()[:2048], *packets, b"RIFF\x20\0\0\0AVI LIST"]


def read_video(data: bytes, folder: Path) -> object:
    (folder / "a.mp4").write_bytes(data)
    return read_clip(str(folder / "a.mp4"), 4.0, 6, with_vectors=True)


def video_seeds(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in CLIPS]


PARSERS = {
    "h264": Parser(read_h264, h264_seeds, 2048),
    "tar": Parser(read_tar, tar_seeds, 10240),
    "npz": Parser(motion_file(".npz"), npz_seeds),
    "npy": Parser(motion_file(".npy"), npy_seeds),
    "labels": Parser(read_labels, label_seeds, 1024),
    "manifest": Parser(read_parquet, parquet_seeds, 16384),
    "head": Parser(read_head, head_seeds, 1024),
    "weights": Parser(read_weights, lambda folder: [weights()], 1024),
    "png": Parser(read_png, png_seeds),
    "flo": Parser(read_flow, flo_seeds),
    "run": Parser(read_run, run_seeds, 1024),
    "list": Parser(read_list, lambda folder: [b"a.mp4\nb.mp4\n"], 1024),
    "boxes": Parser(read_boxes, box_seeds),
    "video": Parser(read_video, video_seeds, 1 << 18),
}
