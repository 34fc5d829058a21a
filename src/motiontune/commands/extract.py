"""`motiontune extract`: the motion of clips as files, without a model."""

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from tqdm import tqdm

from motiontune.commands.options import (
    MOST_WORKERS,
    check_range,
    check_sampling,
    check_used,
    claim_outputs,
    find_clips,
    show_line,
)
from motiontune.compiled import compile_all
from motiontune.datasets.dataset_info import names_in
from motiontune.drawing.films import FILM, SHEET, write_preview
from motiontune.drawing.images import save_png
from motiontune.drawing.sheets import SheetRow, contact_sheet
from motiontune.errors import ConfigError, MotiontuneError, OutputError, escaped
from motiontune.extraction.clip import MANY_FORMS, Settings, clip_motion
from motiontune.extraction.engines import ENGINES, on_this_machine
from motiontune.extraction.inputs import Inputs, is_one_of_many
from motiontune.extraction.run import run as run_many
from motiontune.extraction.worker import TIMEOUT
from motiontune.files import alone_in, write_text
from motiontune.grid import VideoGrid
from motiontune.motion.field import DIRECTIONS, MotionField
from motiontune.motion.file import FORMATS, Format, check_unshared, motion_files, write_motion
from motiontune.motion.options import QUALITIES, MotionOptions
from motiontune.motion.sources import check_source, vectors_for
from motiontune.tables import shorten_middle, text_table
from motiontune.video.clip import Clip
from motiontune.video.reader import FrameReader, Reader


DESCRIPTION = (
    "Write the motion of clips to files that `motion_source: file` reads. What an earlier run wrote is replaced; any "
    "other file in the way stops it before it begins. Of many clips (--workers, --shard, --sample, --dataset, "
    "--engine, lists, tar shards, addresses) also write a manifest, and go on where an earlier run was stopped."
)

ABOUT = "extract.json"


@dataclass(frozen=True)
class Extracted:
    """What became of one clip.

    Args:
        clip: the file.
        codec: FFmpeg's name of the codec.
        references: how many pictures a block's vector may refer to, at most; 0 where vectors were not read.
        frames: number of sampled frames.
        valid: share of patches with a vector, of those of frames that have a neighbour to move from or to.
        mean_motion: mean length of the valid vectors in pixels of the resized frame; None where none is valid.
        source: the source that made them.
        seconds: what it took, with decoding and writing.
        problem: why there is no motion; "" where there is.
    """

    clip: str
    codec: str = ""
    references: int = 0
    frames: int = 0
    valid: float = 0.0
    mean_motion: float | None = None
    source: str = ""
    seconds: float = 0.0
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    motion, frames = MotionOptions(), FrameReader()
    add = parser.add_argument
    add(
        "clips",
        nargs="*",
        metavar="VIDEO",
        help="a video, or a folder of videos; of many clips also a .txt or .parquet list, a .tar shard, or an address "
        "of any of these",
    )
    add("--out", required=True, help="output folder")
    add("--preview", action="store_true", help="also write NAME.motion.png and NAME.motion.mp4 to look at")
    add(
        "--format",
        choices=[*FORMATS, *(form for form in MANY_FORMS if form not in FORMATS)],
        default="npz",
        help="NAME.npz, NAME.npy, or one file per pair of frames, NAME/*.flo or NAME/*.png; of many clips npz, cache "
        "(the motion_cache_dir of a training with --model) or none, the manifest alone (default: %(default)s)",
    )
    add("--source", default=motion.source, help="as motion_source (default: %(default)s)")
    add("--raft-weights", metavar="FILE", help="as motion_raft_weights")
    add("--quality", choices=QUALITIES, default=motion.quality, help="as motion_quality (default: %(default)s)")
    add(
        "--direction",
        choices=DIRECTIONS,
        default=motion.direction,
        help="as motion_direction (default: %(default)s)",
    )
    add(
        "--min-confidence",
        type=float,
        default=motion.min_confidence,
        help="as motion_min_confidence (default: %(default)s)",
    )
    add("--fps", type=float, help=f"as video_fps (default: the model's training, or {frames.fps})")
    add("--max-frames", type=int, help=f"as video_maxlen (default: the model's training, or {frames.max_frames})")
    add("--max-pixels", type=int, help=f"as video_max_pixels (default: the model's training, or {frames.max_pixels})")
    add("--model", metavar="DIR", help="take sampling, sizes, patch and merge from this model (folder or hub)")
    add("--patch", type=int, default=frames.patch, help="side of the model's patches in pixels (default: %(default)s)")
    add(
        "--merge",
        type=int,
        default=frames.merge,
        help="patches per video token along each side (default: %(default)s)",
    )
    many = parser.add_argument_group("many clips", "see docs/scale.md; each of these but --seed writes a manifest")
    add = many.add_argument
    add("--workers", type=int, metavar="N", help="processes that decode (default: one per CPU core)")
    add("--engine", choices=[*ENGINES], help="on this machine, or on a Ray cluster (default: local)")
    add("--dataset", metavar="NAME,...", help="as the training's dataset: its clips are taken, too")
    add("--dataset-dir", default="data", metavar="DIR", help="as dataset_dir (default: %(default)s)")
    add("--shard", type=_shard, metavar="I/N", help="the I-th of N parts of the clips, from 1: one for each machine")
    add("--sample", type=int, metavar="N", help="N of the clips, drawn at random")
    add("--seed", type=int, default=0, help="of --sample (default: %(default)s)")
    add("--timeout", type=float, default=TIMEOUT, help="seconds that one clip may take (default: %(default)s)")


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} must be I/N, as in 3/64")
    return int(i), int(n)


def _is_many(arguments: argparse.Namespace) -> bool:
    chosen = (arguments.workers, arguments.engine, arguments.dataset, arguments.shard, arguments.sample)
    return any(option is not None for option in chosen) or any(map(is_one_of_many, arguments.clips))


def run(arguments: argparse.Namespace) -> None:
    """Write the motion of clips and print a table about them.

    Raises:
        MotiontuneError: on a mistake in the options, or if some clip gave no motion.
    """
    sizes = {"fps": arguments.fps, "max_frames": arguments.max_frames, "max_pixels": arguments.max_pixels}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    check_sampling(arguments)
    if min(arguments.patch, arguments.merge) < 1:
        raise ConfigError("--patch and --merge must be positive")
    if not 0 <= arguments.min_confidence < 1:
        raise ConfigError("--min-confidence must be 0 or more and below 1")
    check_used("--raft-weights", arguments.raft_weights, arguments.source, "raft")
    motion = MotionOptions(
        arguments.source,
        arguments.direction,
        arguments.quality,
        arguments.min_confidence,
        raft_weights=arguments.raft_weights,
    )
    frames = FrameReader(**sizes, patch=arguments.patch, merge=arguments.merge)
    if arguments.model is None and (side := frames.patch * frames.merge) ** 2 > frames.max_pixels:
        raise ConfigError(
            f"--patch {frames.patch} with --merge {frames.merge}: a token of {side}x{side} pixels is larger than a "
            f"frame of --max-pixels {frames.max_pixels}"
        )
    if _is_many(arguments):
        _run_many(arguments, motion, frames, sizes)
        return
    if not arguments.clips:
        raise ConfigError("there is no clip: name files or folders, or --dataset")
    if arguments.format not in FORMATS:
        raise ConfigError(f"--format {arguments.format} is for many clips: add --workers N")
    reader = None
    if arguments.model is not None:
        from motiontune.llamafactory.reader import ModelReader

        reader = ModelReader(arguments.model, **sizes)
        sampling, processor = reader.sampling, reader.processor.video_processor
        frames = FrameReader(
            sampling.video_fps,
            sampling.video_maxlen,
            sampling.video_max_pixels or frames.max_pixels,
            processor.patch_size,
            processor.merge_size,
        )
    rows = extract(arguments.clips, arguments.out, motion, frames, arguments.format, arguments.preview, reader)
    print(table(rows))
    failed = sum(bool(row.problem) for row in rows)
    if failed:
        raise MotiontuneError(f"{failed} of {len(rows)} clips gave no motion, see the table above")


def _run_many(
    arguments: argparse.Namespace, motion: MotionOptions, frames: FrameReader, sizes: Mapping[str, float]
) -> None:
    """Extract many clips and print what became of them."""
    if arguments.preview:
        raise ConfigError("--preview is not for many clips: `motiontune report` draws some of them")
    if arguments.workers is not None:
        check_range("--workers", arguments.workers, 1, MOST_WORKERS)
    check_source(motion.source)
    settings = Settings(arguments.out, arguments.format, motion, frames, arguments.model, tuple(sizes.items()))
    names = names_in(arguments.dataset or "")
    drawn = (arguments.shard or (1, 1), arguments.sample, arguments.seed)
    inputs = Inputs(tuple(arguments.clips), names, arguments.dataset_dir, *drawn)
    engine = ENGINES[arguments.engine or "local"]
    begin = (lambda: compile_all(show_line)) if engine is on_this_machine else None  # for all workers
    summary = run_many(inputs, settings, engine, arguments.workers or 0, arguments.timeout, begin)
    print(summary.table())
    if summary.clips and summary.clips == summary.failures.total():
        raise MotiontuneError(f"none of {summary.clips} clips gave motion: {summary.manifest} tells why of each")


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
        OutputError: if a file is in the way of one that is to be written, one cannot be written, or another process
            is writing into the folder.
    """
    options, frames = options or MotionOptions(), frames or FrameReader()
    check_source(options.source)
    clips = find_clips(paths, out)
    with alone_in(out, key="--out"):
        pictures = (SHEET, FILM) if preview else ()
        unnamed = claim_outputs(out, clips, lambda place: motion_files(place, form), pictures, ABOUT)
        if options.source == "file":
            check_unshared(clips.values(), options.motion_dir, {})
        else:
            compile_all(show_line)  # which is no part of a clip's seconds
        rows = []
        with tqdm(clips.items(), unit="clip") as bar:
            for target, clip in bar:
                bar.set_postfix_str(shorten_middle(escaped(Path(clip).name), 30))
                if target in unnamed:
                    rows.append(Extracted(clip, problem=unnamed[target]))
                    continue
                try:
                    rows.append(extract_clip(clip, target, options, reader or frames, form, preview))
                except OutputError:  # a full disk is full for every clip
                    raise
                except (MotiontuneError, OSError) as error:
                    rows.append(Extracted(clip, problem=escaped(str(error)).removeprefix(f"{escaped(clip)}: ")))
        about: dict[str, Any] = {
            "options": asdict(options) | asdict(frames),
            "versions": {"python": platform.python_version(), "av": av.__version__, "opencv": cv2.__version__},
            "clips": [asdict(row) for row in rows],
        }
        write_text(Path(out, ABOUT), json.dumps(about, indent=1) + "\n")
        return rows


def extract_clip(
    path: str, target: Path, options: MotionOptions, reader: Reader, form: Format, preview: bool
) -> Extracted:
    """Write one clip's motion to `target` + ".npz", or to pairs in the folder `target`.

    Raises:
        ClipError: if the clip cannot be read.
        MotionUnavailable: if the source has no motion for it, or one frame is sampled of it.
    """
    start = time.perf_counter()
    clip = reader.read(path, vectors_for(options, reader.grid_of))
    grid = reader.grid_of(clip).unpadded(len(clip.frames))
    field = clip_motion(clip, grid, options)
    write_motion(target, clip, field, grid, form)
    if preview:
        _preview(target, clip, grid, field)
    pairs = len(clip.frames) - 1
    length = np.linalg.norm(field.vectors, axis=-1)[field.valid]
    return Extracted(
        path,
        clip.info.codec,
        clip.references,
        len(clip.frames),
        round(float(field.valid.sum() / (pairs * grid.rows * grid.cols)), 4),
        round(float(length.mean()), 3) if len(length) else None,
        field.source,
        round(time.perf_counter() - start, 3),
    )


def _preview(target: Path, clip: Clip, grid: VideoGrid, field: MotionField) -> None:
    """Write a contact sheet, and the frames with arrows beside the colour wheel's colours as a film."""
    title = f"{Path(clip.path).name} · {field.source}, {field.direction}"
    row = SheetRow.of(title, clip.frames, field.vectors, field.valid, field.times, grid.patch)
    save_png(target.with_name(target.name + SHEET), contact_sheet([row]))
    film = target.with_name(target.name + FILM)
    write_preview(film, row.frames, field.vectors, field.valid, field.times, grid.patch)


def table(rows: Sequence[Extracted]) -> str:
    """What became of the clips, as text."""
    lines: list[tuple[str, ...]] = [("clip", "codec", "refs", "frames", "valid", "motion px", "source", "seconds")]
    measured = lines[:1]
    for row in rows:
        name = shorten_middle(escaped(row.clip), 48)
        if row.problem:
            lines.append((name, *(["-"] * 5), row.problem, "-"))
            measured.append((name,))  # a reason may be longer than its column
            continue
        motion = "-" if row.mean_motion is None else f"{row.mean_motion:.2f}"
        numbers = (str(row.references or "-"), str(row.frames), f"{row.valid:.0%}", motion)
        lines.append((name, row.codec, *numbers, row.source, f"{row.seconds:.2f}"))
        measured.append(lines[-1])
    return text_table(lines, "<<>>>><<", measured=measured)
