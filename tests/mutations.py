"""Small clips whose motion is known, damages them, and compares the vectors that come out with that motion.

`python tests/mutations.py FOLDER SEED...` does so in a process of its own, where a crash or an endless loop of a
library ends nothing else; it writes a line before each file, and what became of it after. `test_mutations.py` starts
it.

Shapes: P pictures of the undamaged clip, F sampled frames, H x W pixels, R x C patches.
"""

import faulthandler
import functools
import json
import sys
import warnings
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from make_clips import encode, encode_packed, texture
from motiontune.errors import MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.motion.codec import codec_unusable
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.patches import gray_frames
from motiontune.motion.sources import motion_of
from motiontune.video.clip import Clip, read_clip


# (encoder, suffix)
CLIPS = (
    *[("h264", suffix) for suffix in (".mp4", ".mkv", ".ts", ".flv", ".avi", ".h264")],
    *[("h264_refs3_b", suffix) for suffix in (".mp4", ".ts")],
    *[("h264_open_gop", suffix) for suffix in (".mkv", ".ts")],
    ("h264_baseline", ".mp4"),
    ("mpeg4", ".mp4"),
    ("mpeg4_b", ".avi"),
    ("mpeg4_packed", ".avi"),
    ("mpeg2_b", ".ts"),
    ("mpeg2_b", ".mkv"),
    ("mpeg1", ".mpg"),
    ("h263", ".3gp"),
    ("flv1", ".flv"),
    ("msmpeg4v3", ".avi"),
    ("vp9", ".webm"),
    ("hevc", ".mp4"),
)
WITHOUT_VECTORS = ("vp9", "hevc")
KINDS = ("anywhere", "container", "headers", "payload", "cut", "lost")
SIZE, COUNT, PATCH = (128, 96), 32, 16
ROWS, COLS = SIZE[1] // PATCH, SIZE[0] // PATCH
SECONDS = 30  # that one file may take


def positions() -> NDArray[np.float64]:
    """Where the content lies in each picture, float64 [P, 2] pixels: it moves to the right and down, not evenly."""
    t = np.arange(COUNT)
    speed = np.stack([2 + 0.3 * np.sin(t / 8), 1 + 0.2 * np.cos(t / 8)], axis=-1)
    return np.asarray(np.cumsum(speed, axis=0) - speed[0], np.float64)


def pictures() -> list[NDArray[np.uint8]]:
    shifts = [np.array([[1, 0, x - 300], [0, 1, y - 220]], np.float32) for x, y in positions()]
    return [np.asarray(cv2.warpAffine(texture(1), shift, SIZE, flags=cv2.INTER_CUBIC), np.uint8) for shift in shifts]


@dataclass(frozen=True)
class Original:
    """An undamaged clip: its file, its pictures in gray as they are decoded, and where its packets lie in the file."""

    path: Path
    data: bytes
    gray: NDArray[np.float32]
    packets: list[tuple[int, int]]  # position, size


@functools.cache
def original(folder: Path, encoder: str, suffix: str) -> Original:
    path = folder / f"{encoder}{suffix}"
    if not path.exists():
        if encoder == "mpeg4_packed":
            encode_packed(path, pictures())
        else:
            encode(path, encoder, pictures())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    with av.open(str(path)) as container:
        gray = [cv2.cvtColor(f.to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY) for f in container.decode(video=0)]
    assert len(packets) == len(gray) == COUNT
    return Original(path, path.read_bytes(), np.stack(gray).astype(np.float32), packets)


def mutate(clip: Original, seed: int) -> tuple[bytes, str]:
    """A damaged copy, and what was done: bytes or bits changed anywhere, between the packets, at their beginnings or
    behind these; the end cut off; a few bytes or a TS packet lost."""
    random = np.random.default_rng([seed, zlib.crc32(clip.path.name.encode())])
    data = np.frombuffer(clip.data, np.uint8).copy()
    kind, count = str(random.choice(KINDS)), int(random.integers(1, 21))
    if kind == "cut":
        return data[: random.integers(1, len(data))].tobytes(), kind
    if kind == "lost":
        start = int(random.integers(0, len(data)))
        return np.delete(data, slice(start, start + int(random.choice([1, 4, 188, 1000])))).tobytes(), kind
    if kind == "anywhere":
        places = random.integers(0, len(data), count)
    elif kind == "container":
        outside = np.ones(len(data), np.bool_)
        for position, size in clip.packets:
            outside[position : position + size] = False
        places = random.choice(np.flatnonzero(outside) if outside.any() else np.arange(64), count)
    else:
        chosen = [clip.packets[number] for number in random.integers(0, COUNT, count)]
        limits = [(0, min(size, 24)) if kind == "headers" else (min(size - 1, 24), size) for _, size in chosen]
        places = np.array([chosen[i][0] + random.integers(*limits[i]) for i in range(count)])
    places = places[places < len(data)]
    if random.random() < 0.5:
        data[places] ^= (1 << random.integers(0, 8, len(places))).astype(np.uint8)
    else:
        data[places] = random.integers(0, 256, len(places))
    return data.tobytes(), kind


@dataclass
class Outcome:
    """What became of a file: an error of motiontune's, or a field, and how its vectors compare with the truth.

    Args:
        error: its class; empty where there is a field.
        said: the error's message, or the field's source.
        valid: how many vectors are valid, without those at the border (see `compare`).
        intact: those of them whose pixels are undamaged in both frames.
        far: those that are more than 3 pixels off.
        far_intact: those that are so without the excuse of damaged pixels.
        wrong: those that are far off and explain the pixels, such as they are, worse than the truth does.
        median: of the distances from the truth where pixels are undamaged.
    """

    clip: str = ""
    seed: int = 0
    kind: str = ""
    source: str = ""
    error: str = ""
    said: str = ""
    valid: int = 0
    intact: int = 0
    far: int = 0
    far_intact: int = 0
    wrong: int = 0
    median: float = 0.0


def grid_for(clip: Clip) -> VideoGrid:
    return VideoGrid(len(clip.frames) + len(clip.frames) % 2, ROWS, COLS, patch=PATCH)


def compare(whole: Original, clip: Clip, field: MotionField) -> Outcome:
    """Compare a field with the motion of the undamaged pictures that the frames resemble.

    A frame that resembles none is taken for the one in its place. The patches at the border are left out: content
    enters there that was nowhere before, and MPEG's vectors, which may not leave the picture, go astray.
    """
    gray = np.stack(gray_frames(clip, grid_for(clip))).astype(np.float32)
    # to resemble a picture is to differ little from it in most of 4 x 4 pixels
    small, known = (stack.reshape(len(stack), SIZE[1] // 4, 4, -1, 4).mean((2, 4)) for stack in (gray, whole.gray))
    distance = np.median(np.abs(small[:, None] - known), axis=(2, 3))
    alike = distance.min(1) < 6
    picture = np.where(alike, distance.argmin(1), np.minimum(clip.indices, COUNT - 1))
    damage = np.abs(gray - whole.gray[picture]).reshape(-1, ROWS, PATCH, COLS, PATCH).mean((2, 4)) > 3
    # a patch comes from at most one patch further off
    intact = [~cv2.dilate(part.astype(np.uint8), np.ones((3, 3))).astype(np.bool_) for part in damage]
    where = positions()
    sign, step = (1, -1) if field.direction == "past" else (-1, 1)
    outcome, errors = Outcome(said=field.source), []
    for i in np.flatnonzero(field.valid.any((1, 2))):
        j = i + step
        truth = sign * (where[picture[i]] - where[picture[j]])
        valid = field.valid[i].copy()
        valid[[0, -1]] = valid[:, [0, -1]] = False
        error = np.linalg.norm(field.vectors[i] - truth, axis=-1)
        far, both = valid & (error > 3), intact[i] & intact[j] & alike[i] & alike[j]
        worse = residual(gray[i], gray[j], -sign * field.vectors[i]) > residual(gray[i], gray[j], -sign * truth) + 1
        errors.append(error[valid & both])
        outcome.valid += int(valid.sum())
        outcome.intact += int((valid & both).sum())
        outcome.far += int(far.sum())
        outcome.far_intact += int((far & both).sum())
        outcome.wrong += int((far & worse).sum())
    outcome.median = float(np.median(np.concatenate(errors))) if outcome.intact else 0.0
    return outcome


def residual(here: NDArray[np.float32], there: NDArray[np.float32], flow: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much the patches of one frame differ from what lies in the other where their flow leads, [R, C]."""
    flow = np.broadcast_to(flow, (ROWS, COLS, 2)).repeat(PATCH, 0).repeat(PATCH, 1)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    place = (np.stack([x, y], axis=-1) + flow).astype(np.float32)
    found = cv2.remap(there, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.abs(here - found).reshape(ROWS, PATCH, COLS, PATCH).mean((1, 3)))


def read(whole: Original, path: Path, source: str, seed: int = 0) -> Outcome:
    """Read a file that may be damaged, at one of three rates and in one of two directions, and judge it."""
    try:
        codec_unusable(str(path))
        clip = read_clip(str(path), (6.3, 9.0, 25.0)[seed % 3], with_vectors=True)
        field = motion_of(clip, grid_for(clip), MotionOptions(source, ("past", "future")[seed // 3 % 2]))
    except MotiontuneError as error:
        text = str(error)
        assert text.startswith(f"{path}: ") and "\n" not in text
        return Outcome(error=type(error).__name__, said=text.removeprefix(f"{path}: "))
    return compare(whole, clip, field)


def damage_and_read(folder: Path, seed: int) -> Outcome:
    encoder, suffix = CLIPS[seed % len(CLIPS)]
    whole, number = original(folder, encoder, suffix), seed // len(CLIPS)
    data, kind = mutate(whole, number)
    path = folder / f"damaged_{seed}{suffix}"
    path.write_bytes(data)
    source = "auto" if encoder in WITHOUT_VECTORS or number % 4 == 0 else "codec"
    outcome = read(whole, path, source, number // 4)
    path.unlink()
    outcome.clip, outcome.seed, outcome.kind, outcome.source = f"{encoder}{suffix}", seed, kind, source
    return outcome


if __name__ == "__main__":
    warnings.simplefilter("error")
    faulthandler.enable()
    for argument in sys.argv[2:]:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        print("reading", argument, flush=True)
        print(json.dumps(asdict(damage_and_read(Path(sys.argv[1]), int(argument)))), flush=True)
