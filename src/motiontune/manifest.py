"""Manifests: what is known of many clips and of their motion, one row for each, in Parquet.

`motiontune extract` writes them; `select`, `report` and training read them. A manifest is one file, or a folder with
one, or with those of the shards of one run.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from motiontune.errors import ConfigError, in_one_line
from motiontune.files import write_whole
from motiontune.limits import ROWS, parse_json
from motiontune.video.container import VideoInfo


NAME = "manifest.parquet"
SETTINGS = "motiontune"
"""Under this name a manifest keeps the settings that it was made with, as JSON."""
ROWS_AT_ONCE = 8192

Failure = Literal["access", "clip", "limit", "motion", "output", "crash"]
FAILURES: tuple[Failure, ...] = get_args(Failure)
"""Kinds of failures: the file cannot be had, it is no clip that can be decoded, it is above a limit, the source has no
motion for it, its motion cannot be written, it ended the process that decoded it."""
PASSING: tuple[Failure, ...] = ("access", "limit", "output")
"""Failures of the surroundings, not of the clip: the next run tries again."""


@dataclass(frozen=True)
class ClipRow:
    """What is known of one clip; None is what was not measured.

    Args:
        path: the clip, as it was named: a file, an address, or `ARCHIVE.tar::MEMBER`.
        digest: of its content, see `file_digest`.
        bytes: of its content.
        changed: time of the last change of the file, or of the tar that it is in, nanoseconds; None where nothing
            tells it.
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
        camera_share: share of the moving patches that move as the camera does; None where none moves, or the camera's
            motion cannot be told, see `MotionStatistics`.
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
        known = {name: getattr(self, column) for column, name in _INFO}
        return None if None in known.values() else VideoInfo(self.path, **known)


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


def write_manifest(path: Path, rows: Iterable[ClipRow], settings: Mapping[str, Any]) -> None:
    """Write a manifest, whole or not at all, and never more than some thousand rows in memory.

    Args:
        path: the file.
        rows: in their order.
        settings: what the rows depend on; kept beside them.

    Raises:
        OutputError: if it cannot be written, or a file that was not written by this is in the way.
    """
    pa = arrow()
    schema = _schema().with_metadata({SETTINGS: json.dumps(settings).encode()})
    with write_whole(path) as unfinished, pa.parquet.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        chunk: list[dict[str, Any]] = []
        for row in rows:
            chunk.append(dataclasses.asdict(row))
            if len(chunk) == ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(chunk, schema))
                chunk = []
        writer.write_table(pa.Table.from_pylist(chunk, schema))


_SHARD = re.compile(r"manifest-(\d+)-of-(\d+)\.parquet")


def is_manifest(path: str | Path) -> bool:
    """Whether a path is a manifest by its name, or a folder that holds one."""
    path = Path(path)
    return any(path.glob("manifest*.parquet")) if path.is_dir() else path.suffix == ".parquet"


def manifest_files(path: str | Path) -> list[Path]:
    """The files of a manifest: itself, or those of a folder.

    Raises:
        ConfigError: if there is none, or those of a folder are of several runs by their names.
    """
    path = Path(path)
    files = sorted(path.glob("manifest*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigError(f"{path} is no manifest, and no folder with one: `motiontune extract --workers N` writes it")
    runs = {(match[2] if (match := _SHARD.fullmatch(file.name)) else file.name): file.name for file in files}
    if len(runs) > 1:
        raise ConfigError(
            f"{path} has manifests of several runs ({', '.join(list(runs.values())[:4])}), whose clips would count "
            f"twice: name one file, or move what is of other runs away"
        )
    return files


def missing_shards(path: str | Path) -> str:
    """Which shards of a folder's manifest are not there, as a sentence; "" where all are, or a file is named.

    Raises:
        ConfigError: as `manifest_files`.
    """
    files = manifest_files(path)
    match = _SHARD.fullmatch(files[0].name)
    if match is None or not Path(path).is_dir():
        return ""
    count, there = int(match[2]), {int(found[1]) for file in files if (found := _SHARD.fullmatch(file.name))}
    missing = count - sum(1 <= i <= count for i in there)
    if not missing:
        return ""
    first = itertools.islice((i for i in range(1, count + 1) if i not in there), 4)  # of as many as a name may state
    names = [f"manifest-{i:05d}-of-{count:05d}.parquet" for i in first]
    return f"{missing:,} of {count:,} shards are missing: {', '.join(names)}{', ...' if missing > 4 else ''}"


def tar_of(path: str) -> str:
    """The tar that a clip of a manifest lies in, by its name there; "" where it is a file or object of its own."""
    found = re.match(r".*?\.tar(?=::)", path, re.DOTALL | re.IGNORECASE)
    return found[0] if found else ""


def read_manifest(path: str | Path, columns: Iterable[str] = COLUMNS) -> Iterator[Mapping[str, Any]]:
    """The rows of a manifest, some columns of each, and each clip once.

    A clip may be in two shards where the list of clips grew between two runs.

    Raises:
        ConfigError: if there is none, a file of it cannot be read or lacks a column, or shards were made with
            different settings or of different contents of a clip.
    """
    columns, files = list(columns), manifest_files(path)
    if len(files) == 1:
        for table in _tables(files, columns):
            yield from table.to_pylist()
        return
    _check_settings(files)
    digests: dict[np.uint64, str | None] = {}
    for table in _tables(files, list(dict.fromkeys((*columns, "path", "digest")))):
        for row in table.to_pylist():
            key = _hash(row["path"])
            if key not in digests:
                digests[key] = row["digest"]
                yield {name: row[name] for name in columns}
            elif digests[key] != row["digest"]:
                raise ConfigError(
                    f"{path}: {row['path']} is in two shards with different contents: extract all shards again into "
                    f"another --out"
                )


def _check_settings(files: list[Path]) -> None:
    first, *others = map(about_manifest, files)
    for file, other in zip(files[1:], others, strict=True):
        if changed := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
            raise ConfigError(
                f"{file} was made with other settings than {files[0].name} ({', '.join(changed)}): extract all shards "
                f"with the same, or name one file"
            )


def _tables(files: list[Path], columns: list[str]) -> Iterator[Any]:
    """Some columns of a manifest's files, some thousand rows at once, in the types that they are written in.

    Raises:
        ConfigError: as `read_manifest`.
    """
    pa, whole = arrow(), _schema()
    schema, rows = pa.schema([whole.field(name) for name in columns]), 0
    for file in files:
        try:
            with pa.parquet.ParquetFile(file) as parquet:
                missing = set(columns) - set(parquet.schema_arrow.names)
                if missing:
                    raise ConfigError(f"{file} is no manifest: it has no column {', '.join(sorted(missing))}")
                rows += parquet.metadata.num_rows
                ROWS.check(file, rows)
                for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns):
                    table = pa.Table.from_batches([batch]).select(columns).cast(schema)
                    table.validate(full=True)  # also that text is UTF-8
                    yield table
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ConfigError(f"{file} cannot be read as a manifest: {in_one_line(error)}") from error


class ClipFacts:
    """The headers of clips by path, out of a manifest, so that clips which have not changed since need not be opened.

    It is kept in columns, about 150 bytes for each clip.

    Args:
        path: the manifest.

    Raises:
        ConfigError: if there is none, or it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        pa, self._path = arrow(), path
        names = ["path", "bytes", "changed", *(column for column, _ in _INFO)]
        files = manifest_files(path)
        tables = [table.drop_null() for table in _tables(files, names)]  # what could be opened, and is a local file
        empty = pa.schema([_schema().field(name) for name in names]).empty_table()
        table = pa.concat_tables([empty, *tables]).combine_chunks()
        self._paths = table["path"]
        codecs = table["codec"].combine_chunks().dictionary_encode()
        self._codecs = codecs.dictionary.to_pylist()
        self._columns = {name: table[name].to_numpy() for name in names if name not in ("path", "codec")}
        self._columns["codec"] = codecs.indices.to_numpy()
        digests = np.fromiter((_hash(one.as_py()) for one in self._paths), np.uint64, len(table))
        self._order = np.argsort(digests, kind="stable")
        self._digests = digests[self._order]

    def __len__(self) -> int:
        return len(self._digests)

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipFacts, (self._path,)  # each process reads it again: less than sending it

    def info(self, path: str) -> VideoInfo | None:
        """The header of a clip; None where it is not in the manifest, or has changed since."""
        row = self._row(os.path.abspath(path))
        if row is None:
            row = self._row(os.path.realpath(path))
        if row is None:
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        if (status.st_size, status.st_mtime_ns) != (self._columns["bytes"][row], self._columns["changed"][row]):
            return None
        known = {name: self._columns[column][row].item() for column, name in _INFO}
        return VideoInfo(path, **known | {"codec": self._codecs[known["codec"]]})

    def _row(self, path: str) -> int | None:
        digest = _hash(path)
        place = int(np.searchsorted(self._digests, digest))
        while place < len(self._digests) and self._digests[place] == digest:
            row = int(self._order[place])
            if self._paths[row].as_py() == path:
                return row
            place += 1
        return None


_INFO = (
    ("codec", "codec"),
    ("width", "width"),
    ("height", "height"),
    ("stream_frames", "frames"),
    ("duration", "duration"),
    ("fps", "average_rate"),
    ("counted", "counted"),
)
"""Columns, and what a `VideoInfo` calls them."""


def _hash(path: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()))


def about_manifest(path: str | Path) -> dict[str, Any]:
    """The settings that a manifest was made with; empty where it has none.

    Raises:
        ConfigError: if there is no manifest.
    """
    pa, file = arrow(), manifest_files(path)[0]
    try:
        kept = pa.parquet.read_schema(file).metadata or {}
        settings = parse_json(kept.get(SETTINGS.encode(), b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"{file} cannot be read as a manifest: {in_one_line(error)}") from error
    return settings if isinstance(settings, dict) else {}


def read_rows(path: str | Path) -> Iterator[ClipRow]:
    """The rows of a manifest, see `read_manifest`."""
    return (ClipRow(**row) for row in read_manifest(path))
