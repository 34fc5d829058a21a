"""Manifests: what is known of many clips and of their motion, one row for each, in Parquet.

`motiontune extract` writes them; `select`, `report` and training read them. A manifest is one file, or a folder whose
`manifest*.parquet` belong together, as shards of one run write them.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from motiontune.errors import ConfigError, in_one_line
from motiontune.files import write_whole
from motiontune.video.container import VideoInfo


NAME = "manifest.parquet"
ROWS_AT_ONCE = 8192

Failure = Literal["access", "clip", "motion", "output", "crash"]
FAILURES: tuple[Failure, ...] = get_args(Failure)
"""Kinds of failures: the file cannot be had, it is no clip that can be decoded, the source has no motion for it, its
motion cannot be written, it ended the process that decoded it."""
PASSING: tuple[Failure, ...] = ("access", "output")
"""Failures of the surroundings, not of the clip: the next run tries again."""


@dataclass(frozen=True)
class ClipRow:
    """What is known of one clip; None is what was not measured.

    Args:
        path: the clip, as it was named: a file, an address, or `ARCHIVE.tar::MEMBER`.
        digest: of its content, see `file_digest`.
        bytes: of its content.
        changed: time of the file's last change, nanoseconds; None for what is no local file.
        codec: FFmpeg's name of it.
        width: of a decoded frame, pixels.
        height: of a decoded frame, pixels.
        stream_frames: number of frames in the file.
        duration: seconds.
        fps: frames per second in the file.
        counted: whether the header has no number of frames, or a wrong one.
        source: where the motion came from.
        frames: number of sampled frames.
        valid_share: share of patches with a vector, of those of frames that have a neighbour.
        mean_px: mean displacement of the valid patches between sampled frames, pixels of the resized frame.
        median_px: its median.
        moving_share: share of the valid patches that move, by more than `MOVING_PIXELS`.
        camera_share: share of the moving patches that move as the camera does; None where none moves.
        camera_px: mean displacement by the camera, pixels.
        motion: the motion file, relative to the manifest's folder.
        motion_bytes: its size.
        seconds: what reading, motion and writing took.
        failure: kind of the failure; None where there is motion.
        error: what went wrong, in one line.
    """

    path: str
    digest: str | None = None
    bytes: int | None = None
    changed: int | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    stream_frames: int | None = None
    duration: float | None = None
    fps: float | None = None
    counted: bool | None = None
    source: str | None = None
    frames: int | None = None
    valid_share: float | None = None
    mean_px: float | None = None
    median_px: float | None = None
    moving_share: float | None = None
    camera_share: float | None = None
    camera_px: float | None = None
    motion: str | None = None
    motion_bytes: int | None = None
    seconds: float | None = None
    failure: Failure | None = None
    error: str | None = None

    @property
    def info(self) -> VideoInfo | None:
        """The file's header, or None where it could not be read."""
        known = (self.codec, self.width, self.height, self.stream_frames, self.duration, self.fps, self.counted)
        return None if None in known else VideoInfo(self.path, *known)  # type: ignore[arg-type]


COLUMNS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(ClipRow))


def arrow() -> Any:
    """The package pyarrow.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("manifests need pyarrow: pip install 'motiontune[scale]'") from error
    return pyarrow


def _schema() -> Any:
    pa = arrow()
    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    found: dict[str, Any] = {f.name: (*get_args(f.type), f.type)[0] for f in dataclasses.fields(ClipRow)}
    return pa.schema([pa.field(name, kinds.get(kind, pa.string()), name != "path") for name, kind in found.items()])


def write_manifest(path: Path, rows: Iterable[ClipRow], about: Mapping[str, str]) -> None:
    """Write a manifest, whole or not at all, and never more than some thousand rows in memory.

    Args:
        path: the file.
        rows: in their order.
        about: texts that are kept beside the rows.

    Raises:
        OutputError: if it cannot be written, or a file that was not written by this is in the way.
    """
    pa = arrow()
    schema = _schema().with_metadata({key: value.encode() for key, value in about.items()})
    with write_whole(path) as unfinished, pa.parquet.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        chunk: list[dict[str, Any]] = []
        for row in rows:
            chunk.append(dataclasses.asdict(row))
            if len(chunk) == ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(chunk, schema))
                chunk = []
        writer.write_table(pa.Table.from_pylist(chunk, schema))


def manifest_files(path: str | Path) -> list[Path]:
    """The files of a manifest: itself, or those of a folder.

    Raises:
        ConfigError: if there is none.
    """
    path = Path(path)
    files = sorted(path.glob("manifest*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigError(f"{path} is no manifest, and no folder with one: `motiontune extract --workers N` writes it")
    return files


def read_manifest(path: str | Path, columns: Iterable[str] = COLUMNS) -> Iterator[Mapping[str, Any]]:
    """The rows of a manifest, some columns of each.

    Raises:
        ConfigError: if there is none, or a file of it cannot be read or lacks a column.
    """
    pa, columns = arrow(), list(columns)
    for file in manifest_files(path):
        try:
            with pa.parquet.ParquetFile(file) as parquet:
                missing = set(columns) - set(parquet.schema_arrow.names)
                if missing:
                    raise ConfigError(f"{file} is no manifest: it has no column {', '.join(sorted(missing))}")
                for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read as a manifest: {in_one_line(error)}") from error


def read_rows(path: str | Path) -> Iterator[ClipRow]:
    """The rows of a manifest, see `read_manifest`."""
    return (ClipRow(**row) for row in read_manifest(path))
