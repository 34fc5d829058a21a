"""`motiontune extract`: the motion of clips as files, without a model."""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from motiontune.drawing.films import write_preview
from motiontune.drawing.images import save_png
from motiontune.drawing.sheets import SheetRow, contact_sheet
from motiontune.errors import ConfigError, MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField, frames_with_motion
from motiontune.motion.file import write_flo, write_kitti_png, write_npy, write_npz
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import check_source, motion_of, needs_vectors
from motiontune.video.clip import Clip
from motiontune.video.reader import FrameReader, Reader


VIDEO_SUFFIXES = frozenset(".3gp .avi .flv .h264 .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())
Format = Literal["npz", "npy", "flo", "png"]
FORMATS: tuple[str, ...] = get_args(Format)


@dataclass(frozen=True)
class Extracted:
    """What became of one clip.

    Args:
        clip: the file.
        codec: FFmpeg's name of the codec.
        references: how many pictures a block's vector may refer to, at most; 0 where vectors were not read.
        frames: number of sampled frames.
        valid: share of patches with a vector, of those of frames that have a neighbour to move from or to.
        mean_motion: mean length of the valid vectors in pixels of the resized frame.
        source: the source that made them.
        seconds: what it took, with decoding and writing.
        problem: why there is no motion; "" where there is.
    """

    clip: str
    codec: str = ""
    references: int = 0
    frames: int = 0
    valid: float = 0.0
    mean_motion: float = 0.0
    source: str = ""
    seconds: float = 0.0
    problem: str = ""


def list_clips(paths: Sequence[str]) -> list[tuple[Path, str]]:
    """The clips that files and folders stand for: (name, the file), where a folder stands for the videos below it.

    The name of a clip in a folder keeps the folder's structure.

    Raises:
        ConfigError: if there is no video in a folder.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append((Path(Path(path).name), path))
            continue
        below = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        if not below:
            raise ConfigError(f"{path}: has no video in it ({' '.join(sorted(VIDEO_SUFFIXES))})")
        found += [(clip.relative_to(path), str(clip)) for clip in below]
    return found


def find_clips(paths: Sequence[str], out: str) -> dict[Path, str]:
    """Name the clips that files and folders stand for: {where to write, without suffix: clip}.

    Raises:
        ConfigError: if there is none, or two would be written to the same place.
    """
    found: dict[Path, str] = {}
    for name, clip in list_clips(paths):
        target = Path(out) / name.with_suffix("")
        if target in found:
            raise ConfigError(f"{clip} and {found[target]} would both be written to {target}: give them apart")
        found[target] = clip
    return found


def extract(
    paths: Sequence[str],
    out: str,
    options: MotionOptions | None = None,
    frames: FrameReader | None = None,
    form: Format = "npz",
    preview: bool = False,
    reader: Reader | None = None,
) -> list[Extracted]:
    """Write the motion of clips, and `extract.json` about all of them. A bad clip does not stop the others.

    Args:
        paths: clips, and folders of clips.
        out: the output folder.
        options: source, direction, quality and so on.
        frames: how to sample and resize; also kept in `extract.json`.
        form: a `.npz` or `.npy` per clip, or a `.flo` or KITTI's `.png` per pair of frames.
        preview: also write pictures.
        reader: reads the clips instead of `frames`, as some model needs them.

    Raises:
        ConfigError: if there is no clip, two have one name, or there is no such source.
    """
    options, frames = options or MotionOptions(), frames or FrameReader()
    check_source(options.source)
    clips = find_clips(paths, out)
    rows = []
    with tqdm(clips.items(), unit="clip") as bar:
        for target, clip in bar:
            bar.set_postfix_str(shorten_middle(Path(clip).name, 30))
            try:
                rows.append(extract_clip(clip, target, options, reader or frames, form, preview))
            except MotiontuneError as error:
                rows.append(Extracted(clip, problem=str(error).removeprefix(f"{clip}: ")))
    about: dict[str, Any] = {
        "options": asdict(options) | asdict(frames),
        "versions": {"python": platform.python_version(), "av": av.__version__, "opencv": cv2.__version__},
        "clips": [asdict(row) for row in rows],
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, "extract.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    return rows


def extract_clip(
    path: str, target: Path, options: MotionOptions, reader: Reader, form: Format, preview: bool
) -> Extracted:
    """Write one clip's motion to `target` + ".npz", or to pairs in the folder `target`; overwrite what is there.

    Raises:
        ClipError: if the clip cannot be read.
        MotionUnavailable: if the source has no motion for it.
    """
    start = time.perf_counter()
    clip = reader.read(path, needs_vectors(options.source))
    grid = reader.grid_of(clip).unpadded(len(clip.frames))
    field = motion_of(clip, grid, options)
    write_motion(target, field, grid, form)
    if preview:
        _preview(target, clip, grid, field)
    pairs = max(len(clip.frames) - 1, 1)
    length = np.linalg.norm(field.vectors, axis=-1)[field.valid]
    return Extracted(
        path,
        clip.info.codec,
        clip.codec_motion.references if clip.codec_motion else 0,
        len(clip.frames),
        round(float(field.valid.sum() / (pairs * grid.rows * grid.cols)), 4),
        round(float(length.mean()), 3) if len(length) else 0.0,
        field.source,
        round(time.perf_counter() - start, 3),
    )


def write_motion(
    place: Path, field: MotionField, grid: VideoGrid, form: Format, /, **more: NDArray[np.generic]
) -> None:
    """Write a field to `place` + ".npz" or ".npy", or to pairs of frames in the folder `place`.

    Args:
        place: the place without a suffix; its folder is made.
        field: the motion of a clip's sampled frames.
        grid: its patches.
        form: `.flo` and KITTI's `.png` are dense, each patch's pixels alike.
        more: further arrays, which only a `.npz` can hold.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if form == "npz":
        write_npz(place.with_name(place.name + ".npz"), field, grid, **more)
    elif form == "npy":
        write_npy(place.with_name(place.name + ".npy"), field)
    else:
        _write_pairs(place, field, grid, form)


def _write_pairs(folder: Path, field: MotionField, grid: VideoGrid, form: Literal["flo", "png"]) -> None:
    write = write_flo if form == "flo" else write_kitti_png
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.flo"), *folder.glob("*.png")]:
        old.unlink()
    for number, i in enumerate(frames_with_motion(len(field.vectors), field.direction)):
        vectors, valid = field.vectors[i], field.valid[i]
        dense, known = (np.repeat(np.repeat(a, grid.patch, axis=0), grid.patch, axis=1) for a in (vectors, valid))
        write(str(folder / f"{number:05d}.{form}"), dense, known)


def _preview(target: Path, clip: Clip, grid: VideoGrid, field: MotionField) -> None:
    """Write a contact sheet, and the frames with arrows beside the colour wheel's colours as a film."""
    title = f"{Path(clip.path).name} · {field.source}, {field.direction}"
    row = SheetRow.of(title, clip.frames, field.vectors, field.valid, field.times, grid.patch)
    save_png(target.with_name(target.name + ".png"), contact_sheet([row]))
    film = target.with_name(target.name + ".mp4")
    write_preview(film, row.frames, field.vectors, field.valid, field.times, grid.patch)


def table(rows: Sequence[Extracted]) -> str:
    """What became of the clips, as text."""
    head = ("clip", "codec", "refs", "frames", "valid", "motion px", "source", "seconds")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        name = shorten_middle(row.clip, 48)
        if row.problem:
            lines.append((name, *(["-"] * 5), row.problem, "-"))
            continue
        numbers = (str(row.references or "-"), str(row.frames), f"{row.valid:.0%}", f"{row.mean_motion:.2f}")
        lines.append((name, row.codec, *numbers, row.source, f"{row.seconds:.2f}"))
    # a reason may be longer than its column
    good = [head, *(line for line, row in zip(lines[1:], rows, strict=True) if not row.problem)]
    widths = [max(len(line[column]) for line in good) for column in range(len(head))]
    widths[0] = max(len(line[0]) for line in lines)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 2 <= column <= 5 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shorten_middle(text: str, width: int) -> str:
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]}...{text[-half:]}"
