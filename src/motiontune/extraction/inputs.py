"""The clips of an extraction: which there are, and how one is had as a file.

Clips come from files, folders, lists (`.txt`, `.parquet`), data sets of LLaMA-Factory and tar shards, on disk or
wherever fsspec opens addresses (`s3://`, `gs://`, `https://`, ...).
"""

import codecs
import contextlib
import dataclasses
import functools
import hashlib
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from random import Random
from typing import IO, Any

from motiontune.datasets.dataset_info import read_clips
from motiontune.drawing.films import is_film
from motiontune.errors import ClipError, ConfigError, LimitError, MotiontuneError, in_one_line
from motiontune.files import write_whole
from motiontune.limits import COPY_BYTES, ROWS, TAR_HEADER_BYTES, TEXT_BYTES
from motiontune.manifest import ClipRow, arrow, tar_of
from motiontune.video.container import check_file, content_of
from motiontune.video.find import VIDEO_SUFFIXES, files_below, no_video


LISTS = (".txt", ".parquet")
TAR, COMPRESSED = ".tar", (".tar.gz", ".tgz")
PATH_COLUMNS = ("path", "video", "videos", "file")
"""Columns of a Parquet list that may hold the clips; the first one that there is."""
CHUNK = 1 << 20
HEADER = 1 << 16
"""Bytes that one request for a tar member's header reads, of a tar that is not on disk."""
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
"""What fsspec's file systems call the time of a change."""
State = tuple[int | None, int | None]
"""Of a clip as it is now: its bytes, and the time of the last change of its file or tar, ns. None is not known."""


@dataclass(frozen=True)
class ClipSource:
    """A clip that is to be read.

    Args:
        path: its name in the manifest: a file's whole path, an address, or `ARCHIVE.tar::MEMBER`.
        place: of its motion file below the output folder, without `.npz`; never absolute, never leading upwards.
        start: of a member of a tar, where it begins there, bytes; None is the whole file.
        size: of a member of a tar, or at an address, bytes; 0 where it is not known.
        problem: why it is not to be read; "" where it is.
        changed: of the same, time of the last change of the tar or at the address, ns; None where nothing tells it.
    """

    path: str
    place: str
    start: int | None = None
    size: int = 0
    problem: str = ""
    changed: int | None = None

    def state(self) -> State:
        """What a file is like now; a member of a tar, or what is at an address, when it was listed.

        Raises:
            OSError: if there is no file.
        """
        if self.start is None and not _is_address(self.path):
            status = os.stat(self.path)
            return status.st_size, status.st_mtime_ns
        return self.size or None, self.changed


class _Unlisted(ClipSource):
    """A folder, tar or address of which it cannot be had which clips it has: `problem` is why."""


@dataclass(frozen=True)
class Listing:
    """What the inputs of a run stand for.

    Args:
        sources: the clips, each once, in the order of the inputs.
        others: files and tars that are of another shard.
        tars: those of which the clips are listed.
    """

    sources: list[ClipSource]
    others: frozenset[str] = frozenset()
    tars: frozenset[str] = frozenset()

    def leaves(self, row: ClipRow) -> bool:
        """Whether a row of an earlier run, of a clip that is not among these, is still true and of this shard.

        Of what is at an address nobody is asked.
        """
        tar = tar_of(row.path)
        if (tar or row.path) in self.others or row.path in self.tars:
            return False
        if _is_address(row.path):
            return True
        try:
            status = os.stat(tar or row.path)
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode):
            return False  # a folder that could not be read; the run that looks into it tells
        return not contradicts(row, (None if tar else status.st_size, status.st_mtime_ns))


def contradicts(row: ClipRow, state: State) -> bool:
    """Whether a clip is known to be another than when its row was made."""
    known = ((row.bytes, state[0]), (row.changed, state[1]))
    return any(None not in (then, now) and then != now for then, now in known)


@dataclass(frozen=True)
class Inputs:
    """What the user names.

    Args:
        paths: files, folders, lists, tar shards; on disk, or addresses. `*` in an address stands for all that match.
        datasets: names of data sets, see `read_clips`.
        dataset_dir: their folder.
        shard: (i, n), from 1: every n-th clip or tar, beginning with the i-th.
        sample: draw so many of the clips; None is all.
        seed: of the drawing.

    Raises:
        ConfigError: on numbers that cannot be.
    """

    paths: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    dataset_dir: str = "data"
    shard: tuple[int, int] = (1, 1)
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise ConfigError(f"--shard {self.shard[0]}/{self.shard[1]}: must be i/n with i from 1 to n")
        if self.sample is not None and self.sample < 1:
            raise ConfigError(f"--sample must be at least 1, not {self.sample}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be at least 0, not {self.seed}")

    def listing(self) -> Listing:
        """The clips, those of this shard alone.

        A folder, tar or address that cannot be read is one of them, with the reason, unless there is nothing else.

        Raises:
            ConfigError: if there are none, a list cannot be read, or two clips' motion would be one file, in whichever
                shards they are.
        """
        named = [place for path in self.paths for place in _expanded(path)]
        for name in self.datasets:
            paths = (os.path.abspath(clip.path) for clip in read_clips(self.dataset_dir, name))
            named += [_at(path, _whole_path(path)) for path in paths]
        if not named and (given := [*self.paths, *self.datasets]):
            raise ConfigError(f"there is no clip in {', '.join(given)}: a list, or a data set, names paths of clips")
        if not named:
            raise ConfigError("there is no clip: name files, folders, lists, tar shards, or --dataset")
        i, n = self.shard
        whole = list({source.path: source for source in named}.values())
        mine = {unit.path for unit in whole[i - 1 :: n]}
        meeting = _meeting(whole) if n > 1 else set()
        found: dict[str, ClipSource] = {}
        places: dict[str, str] = {}
        for unit in whole:
            of_this = unit.path in mine
            if not of_this and _is_tar(unit.path) and unit.path not in meeting:
                continue  # reading its headers tells nothing
            for source in _members(unit) if _is_tar(unit.path) else [unit]:
                other = places.setdefault(source.place, source.path)
                if source.place and other != source.path:
                    raise ConfigError(
                        f"the motion of {source.path} and of {other} would both be {source.place}.npz: give them in "
                        f"two calls, with another --out for each"
                    )
                if of_this:
                    found[source.path] = source
        sources = list(found.values())
        unlisted = [source for source in sources if isinstance(source, _Unlisted)]
        if n == 1 and len(unlisted) == len(sources):
            more = f" (and {len(unlisted) - 1} more)" if len(unlisted) > 1 else ""
            first = unlisted[0] if unlisted else _Unlisted(whole[0].path, "", problem="has no video in it")
            raise ConfigError(f"{first.path}: {first.problem}{more}")
        if self.sample is not None and self.sample < len(sources):
            sources = [sources[at] for at in sorted(Random(self.seed).sample(range(len(sources)), self.sample))]
        others = frozenset(unit.path for unit in whole if unit.path not in mine)
        return Listing(sources, others, frozenset(path for path in mine if _is_tar(path) and path not in found))


def _meeting(units: Iterable[ClipSource]) -> set[str]:
    """The tars whose clips' motion may lie where another unit's does: below one folder."""
    roots = {unit.path: PurePosixPath(unit.place) for unit in units if unit.place}
    tars: dict[PurePosixPath, list[str]] = defaultdict(list)
    for path in filter(_is_tar, roots):
        roots[path] = PurePosixPath(_below_tar(str(roots[path])))
        tars[roots[path]].append(path)
    found: set[str] = set()
    met: set[PurePosixPath] = set()
    for path, root in roots.items() if tars else ():
        others = [above for above in (root, *root.parents) if above in tars and tars[above] != [path]]
        if others:
            found.add(path)
            met.update(others)
    return found.union(*(tars[root] for root in met))


def is_one_of_many(path: str) -> bool:
    """Whether a path on the command line stands for more than `list_clips` knows: a list, a tar or an address."""
    return _is_address(path) or not os.path.isdir(path) and (path.endswith(LISTS) or _is_tar(path))


class _Headers:
    """A tar of which tarfile reads the headers alone, each into memory whatever size it states."""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise tarfile.ReadError("a header has no length")
        TAR_HEADER_BYTES.check(self._path, size, "a header")
        return self._file.read(size)


@contextlib.contextmanager
def fetched(source: ClipSource) -> Iterator[tuple[str, str, int, int | None]]:
    """Have a clip as a file: (path, digest of its content, bytes, time of its change or None).

    What is not a file of its own is copied to one without a name, in the folder for temporary files: a process that
    is killed leaves nothing there.

    Raises:
        ClipError: if it cannot be had.
    """
    if source.problem:
        raise ClipError(source.path, source.problem)
    if reason := COPY_BYTES.excess(source.size):
        raise LimitError(source.path, reason)
    if source.start is None and not _is_address(source.path):
        check_file(source.path)
        status = os.stat(source.path)  # before it is read: what changes meanwhile has another time
        yield source.path, content_of(source.path), status.st_size, status.st_mtime_ns
        return
    with tempfile.TemporaryFile() as copy:
        digest = hashlib.blake2b(digest_size=16)
        try:
            for data in _read(source):
                digest.update(data)
                copy.write(data)
                if reason := COPY_BYTES.excess(copy.tell(), "what is there of it"):
                    raise LimitError(source.path, reason)
            copy.flush()
        except ClipError:
            raise
        except Exception as error:  # of any file system
            raise ClipError(source.path, f"cannot be read ({in_one_line(error)})") from error
        size = copy.tell()
        if size < source.size or size == 0:
            raise ClipError(source.path, f"is cut: {size} of {source.size} bytes are there" if size else "is empty")
        yield f"/proc/self/fd/{copy.fileno()}", digest.hexdigest(), size, source.changed


@contextlib.contextmanager
def as_file(path: str) -> Iterator[str]:
    """Have a clip as a file by its name in a manifest: one in a tar or at an address is copied, as in `fetched`.

    Raises:
        ClipError: if it cannot be had, or is not in its tar any more.
    """
    with fetched(_named(path)) as (file, *_):
        yield file


def copy_below(folder: Path, path: str) -> Path:
    """Copy a clip, by its name in a manifest, to its place below a folder: where it is now.

    Raises:
        ClipError: as `as_file`.
        OutputError: if it cannot be written, or another's file is in the way.
    """
    source = _named(path)
    with fetched(source) as (file, *_), write_whole(folder / source.place) as unfinished:
        shutil.copyfile(file, unfinished)
    return folder / source.place


def _named(path: str) -> ClipSource:
    """A clip by its name in a manifest."""
    tar = tar_of(path)
    if not tar:
        return _at(path, _whole_path(path))
    changed = (0, 0)
    if not _is_address(tar) and os.path.isfile(tar):
        changed = os.stat(tar).st_size, os.stat(tar).st_mtime_ns
    members = _members_by_name(tar, changed)
    if path not in members:
        raise ClipError(path, members[tar].problem if tar in members else "is not in its tar any more")
    return members[path]


@functools.lru_cache(maxsize=2)  # a manifest has one tar after the other
def _members_by_name(tar: str, changed: tuple[int, int]) -> dict[str, ClipSource]:
    return {member.path: member for member in _members(_at(tar, _whole_path(tar)))}


def _read(source: ClipSource) -> Iterator[bytes]:
    with _opened(tar_of(source.path) if source.start is not None else source.path) as file:
        left = source.size if source.start is not None else None
        file.seek(source.start or 0)
        while data := file.read(CHUNK if left is None else min(CHUNK, left)):
            yield data
            left = None if left is None else left - len(data)


def _opened(path: str, block: int = CHUNK) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not _is_address(path):
        return open(path, "rb")
    system, name = _system_of(path)
    opened: contextlib.AbstractContextManager[IO[bytes]] = system.open(name, "rb", block_size=block)
    return opened


def _is_address(path: str) -> bool:
    return "://" in path


def _is_tar(path: str) -> bool:
    return path.lower().endswith((TAR, *COMPRESSED))


def _below_tar(place: str) -> str:
    """The folder of the clips of a tar: its place without the suffix."""
    return place[: -len(TAR)] if place.lower().endswith(TAR) else place


def _system_of(address: str) -> tuple[Any, str]:
    """The file system of an address, and the name there.

    Raises:
        ConfigError: if fsspec, or what it needs for this kind of address, is not installed.
        OSError: if there is no such kind of address, or what it leads through cannot be opened.
    """
    try:
        from fsspec.core import url_to_fs

        system, name = url_to_fs(address)
    except ImportError as error:
        hint = "pip install 'motiontune[scale]', and what fsspec asks for (s3fs for s3://)"
        raise ConfigError(f"{address} cannot be opened: {in_one_line(error)}; {hint}") from error
    except Exception as error:  # of any file system
        raise OSError(in_one_line(error)) from error
    return system, name


def _at(path: str, place: str) -> ClipSource:
    """A source at a place that stays below the output folder."""
    name = _in_utf8(path)
    if name != path:
        return ClipSource(name, "", problem="its name is not UTF-8, which a manifest cannot hold: rename it")
    if "\0" in path:
        return ClipSource(path.replace("\0", "\\0"), "", problem="a byte 0 is in its name, as in no file's")
    parts = [part for part in PurePosixPath(place).parts if part not in ("/", ".")]
    if not parts or ".." in parts or place.startswith("/"):
        return ClipSource(path, "", problem="its name leads out of the folder that it is in")
    return ClipSource(path, posixpath.join(*parts))


def _in_utf8(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def _whole_path(path: str) -> str:
    """A file's place: its whole path, where `motion_source: file` looks first."""
    return (path.partition("://")[2] if _is_address(path) else os.path.abspath(path)).lstrip("/")


def _expanded(path: str, nested: bool = False) -> list[ClipSource]:
    """The clips and tars that one input stands for, or, `nested`, one entry of a list."""
    if nested and tar_of(path) and not os.path.exists(path):
        try:
            return [_named(path)]
        except ClipError as error:
            return [ClipSource(path, "", problem=error.reason)]
    if _is_address(path) and not path.endswith(LISTS):
        return _remote(path, nested)
    if not _is_address(path) and path.strip():
        path = os.path.abspath(path)
    if path.endswith(LISTS) and not os.path.isdir(path):
        if nested:
            raise ConfigError(f"{path} is a list within a list: name its clips")
        folder = "" if _is_address(path) else os.path.dirname(path)
        return [source for entry in _listed(path) for source in _expanded(_beside(entry, folder), nested=True)]
    if not os.path.isdir(path):
        if not path.strip():
            raise ConfigError(f"{path!r} names no clip: is a variable of the shell empty?")
        return [_at(path, _whole_path(path))]
    refused: list[ClipSource] = []

    def refuse(error: OSError) -> None:
        refused.append(_Unlisted(_in_utf8(error.filename), "", problem=f"cannot be read: {error.strerror}"))

    below = files_below(path, refuse)
    wanted = [file for file in below if _is_tar(file.name)]
    wanted += [file for file in below if file.suffix.lower() in VIDEO_SUFFIXES and not is_film(file)]
    if not wanted and not refused:
        raise ConfigError(no_video(path))
    places = (_whole_path(str(file)) if nested else str(file.relative_to(path)) for file in wanted)
    return [*map(_at, map(str, wanted), places), *refused]


def _beside(entry: str, folder: str) -> str:
    """A list's entry: as it stands, or else beside the list."""
    if _is_address(entry) or os.path.exists(entry) or not os.path.exists(os.path.join(folder, entry)):
        return entry
    return os.path.join(folder, entry)


def _listed(path: str) -> list[str]:
    """The entries of a list.

    Raises:
        ConfigError: if it cannot be read, or has no column of clips.
    """
    try:
        with _opened(path) as file:
            if path.endswith(".txt"):
                size = getattr(file, "size", None) if _is_address(path) else os.path.getsize(path)
                TEXT_BYTES.check(path, size or 0)  # some addresses do not tell
                data = file.read()
                if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise ValueError("is UTF-16: save it as UTF-8")
                text = data.decode("utf-8-sig", "surrogateescape")
                lines = (line.strip(" \t\r") for line in text.split("\n"))  # names may have other line breaks
                return [line for line in lines if line]
            values = _column(path, file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a list of clips: {in_one_line(error)}") from error
    flat: Iterable[Any] = (one for value in values for one in (value if isinstance(value, list) else [value]))
    return [one for one in flat if isinstance(one, str) and one.strip()]


def _column(path: str, file: IO[bytes]) -> list[Any]:
    """The column of clips of a list in Parquet.

    Raises:
        ConfigError: if it has none.
        OSError, ValueError: if it cannot be read.
    """
    pa = arrow()
    try:
        parquet = pa.parquet.ParquetFile(file)
        ROWS.check(path, parquet.metadata.num_rows)
        column = next((name for name in PATH_COLUMNS if name in parquet.schema_arrow.names), None)
        if column is None:
            raise ConfigError(f"{path} has none of the columns {', '.join(PATH_COLUMNS)}")
        table = parquet.read([column])
        table.validate(full=True)  # also that text is UTF-8
        values: list[Any] = table[column].to_pylist()
    except pa.ArrowException as error:  # of which some are a ValueError, others not
        raise ValueError(in_one_line(error)) from error
    return values


def _remote(address: str, nested: bool) -> list[ClipSource]:
    """The clips and tars at an address: itself, what matches its `*`, or what lies below it.

    The store tells size and time with what it lists. Of an entry of a list, which may have millions, it is not asked.
    """
    suffixes = (*VIDEO_SUFFIXES, TAR)
    try:
        system, name = _system_of(address)
        if "*" in name:
            infos: Mapping[str, Any] = system.glob(name, detail=True)
            base = posixpath.dirname(name.partition("*")[0] + "x")
        elif posixpath.splitext(name)[1].lower() in suffixes or not system.isdir(name):
            one = _at(address, _whole_path(address))
            return [one if nested else _told(one, _info(system, name))]
        else:
            infos, base = system.find(name, detail=True), name.rstrip("/")
    except ConfigError:
        raise
    except Exception as error:  # of any file system
        return [_Unlisted(address, "", problem=f"cannot be listed: {in_one_line(error)}")]
    clips = [one for one in sorted(infos) if posixpath.splitext(one)[1].lower() in suffixes]
    if not clips:
        raise ConfigError(f"{address}: has no video and no .tar below it")
    return [_told(_at(system.unstrip_protocol(one), one.removeprefix(base).lstrip("/")), infos[one]) for one in clips]


def _info(system: Any, name: str) -> Mapping[str, Any]:
    """What a store tells of one thing; nothing where there is none."""
    try:
        info: Mapping[str, Any] = system.info(name)
    except Exception:  # of any file system: reading it will say what is wrong
        return {}
    return info


def _told(source: ClipSource, info: Mapping[str, Any]) -> ClipSource:
    """A source at an address with its size and time, as far as the store tells them."""
    size, changed = info.get("size"), None
    time = next((info[name] for name in TIMES if info.get(name)), None)
    if isinstance(time, datetime | int | float):
        changed = int((time.timestamp() if isinstance(time, datetime) else time) * 1e9)
    return dataclasses.replace(source, size=size if isinstance(size, int) else 0, changed=changed)


def _members(tar: ClipSource) -> Iterator[ClipSource]:
    """The clips of a tar shard, from its headers: nothing is unpacked. Where it cannot be read on, the tar itself."""
    if not tar.path.lower().endswith(TAR):
        problem = "is compressed, which has no places to read from: unpack it to a .tar"
        yield _Unlisted(tar.path, "", problem=problem)
        return
    if isinstance(tar, _Unlisted):
        yield tar
        return
    try:
        changed = _change_of(tar.path)
        with _opened(tar.path, HEADER) as file:
            headers: Any = _Headers(tar.path, file)
            opened, reached = tarfile.open(fileobj=headers, mode="r:"), 0
            files: dict[str, tuple[int, int]] = {}
            for member in opened:
                opened.members = []  # type: ignore[attr-defined]  # it would keep them all
                if member.size < 0 or member.offset_data <= reached:
                    raise tarfile.ReadError("a header leads backwards")  # and would for ever
                reached = member.offset_data
                problem = _no_file(member, files)
                if not problem and not member.islnk():
                    files[member.name] = member.offset_data, member.size
                if member.isdir() or posixpath.splitext(member.name)[1].lower() not in VIDEO_SUFFIXES:
                    continue
                name = f"{tar.path}::{member.name}"
                # as a whole, for the tar itself may be called `...tar`
                below = _at(name, posixpath.join(_below_tar(tar.place), member.name))
                if problem := tar.problem or below.problem or problem:
                    yield ClipSource(below.path, "", problem=problem)
                    continue
                start, size = files[member.linkname if member.islnk() else member.name]
                yield dataclasses.replace(below, start=start, size=size, changed=changed)
    except (OSError, ValueError, OverflowError, RecursionError, tarfile.TarError, MotiontuneError) as error:
        reason = in_one_line(error).removeprefix(f"{tar.path}: ")
        yield _Unlisted(tar.path, "", problem=tar.problem or f"cannot be read as a tar: {reason}")


def _no_file(member: tarfile.TarInfo, files: Mapping[str, tuple[int, int]]) -> str:
    """Why a member of a tar has no content that lies there in one piece; "" where it has."""
    if member.islnk():
        known = member.linkname in files
        return "" if known else f"is a hard link to {member.linkname}, which is not before it in the tar"
    if member.issym():
        return f"is a link to {member.linkname}: pack the tar with what it leads to (tar --dereference)"
    if not member.isreg():
        return "is no file"
    return "is stored with holes: pack the tar without --sparse" if member.sparse else ""


def _change_of(path: str) -> int | None:
    """The time of the last change of a tar, ns; None where nothing tells it.

    Raises:
        OSError: if it is gone.
    """
    if not _is_address(path):
        return os.stat(path).st_mtime_ns
    return _told(ClipSource(path, ""), _info(*_system_of(path))).changed
