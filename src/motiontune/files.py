"""Files that are there whole or not at all, however a run ends, and never in the place of what others made.

Each folder that is written to has a list, `.motiontune.jsonl`: a line with name, bytes and digest for each file that
was written there. A file is replaced or removed only while it is as the list has it; any other stands in the way, and
`claim` finds it before the work begins. A file enters the list before it takes its place, so that a run which is
killed in between leaves nothing that a later one would take for another's.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from motiontune.errors import OutputError


LIST = ".motiontune.jsonl"
"""The list of what was written to a folder."""
_FIRST_LINE = re.compile(rb'"[0-9a-f]{0,32}"?\n?')  # a kill may have torn it


def claim_empty(folder: str | Path) -> None:
    """Refuse an output folder that holds anything, for what is written by others under names that are theirs.

    Raises:
        OutputError: naming it.
    """
    folder = Path(folder)
    claim(folder)
    with _refusing(folder, "read"):
        first = next(folder.iterdir(), None) if folder.exists() else None
    if first is not None:
        raise OutputError(f"{folder} is not empty, it holds {first.name}: remove it, or choose another folder")


def claim(folder: str | Path, files: Iterable[Path] = (), inputs: Iterable[str | Path] = ()) -> None:
    """Refuse outputs that cannot be written, or must not be, before any work is done.

    Args:
        folder: the output folder.
        files: what will be written, replaced or removed, in it or below it.
        inputs: what is read meanwhile. Through links and other spellings, too, an output is none of these.

    Raises:
        OutputError: naming the first file in the way, or the folder.
    """
    folder, files = Path(folder), list(files)
    read = {_identity(path) for path in inputs if os.path.exists(path)}
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise OutputError(f"{there} is no folder: choose another output folder")
    for place in {folder, *(file.parent for file in files)}:
        _check_list(place / LIST)
    for file in files:
        with _refusing(file):
            if os.path.exists(file) and _identity(file) in read:
                raise OutputError(f"{file} is an input and would be written over: choose another output folder")
        _check_own(file)
        if problem := name_problem([file]):
            raise OutputError(problem)
    with _refusing(folder, "written to"):
        with _unfinished(there) as probe:
            capitals_count = not os.path.exists(there / probe.name.upper())
    names: dict[str, Path] = {}
    for file in files:
        other = names.setdefault(str(file) if capitals_count else str(file).casefold(), file)
        if other is not file:
            raise OutputError(f"{other} and {file} would be one file: give their clips apart, or rename one")
    folders = {str(place) if capitals_count else str(place).casefold() for file in files for place in file.parents}
    for name, file in names.items():
        if name in folders:
            raise OutputError(f"{file} would be a file and the folder of another output: rename its clip")


def name_problem(files: Iterable[Path]) -> str:
    """Why some files cannot be written by their names, which are too long, or ""."""
    for file in files:
        there = next(place for place in file.absolute().parents if place.is_dir())
        for path in (file, there / file.name):  # its folder may not be made yet
            try:
                path.lstat()
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    return f"{file} cannot be written: {error.strerror}"
    return ""


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def write_whole(path: str | Path, *, listed: bool = True) -> Iterator[Path]:
    """Make a file in one step: write to the path that is given, and it takes the file's place at the end.

    Where writing fails, what was there before stays and nothing is left over. A process that is killed may leave
    `.<letters>.part` behind, which no reader takes for a finished file, and the next process on this machine that
    writes into the folder removes. Workers and machines can share a folder.

    Args:
        path: the file. Its folder is made.
        listed: false for names that nothing but this package gives (a digest, `motion_head.safetensors`), and for
            files of others that keep what they hold (`dataset_info.json`): these replace whatever is there.

    Yields:
        A path in the same folder. It does not keep the file's suffix: give the format to writers that go by it.

    Raises:
        OutputError: if the file cannot be written, or another's is in the way.
    """
    path = Path(path)
    with _writing(path, listed, empty=False) as unfinished:
        yield unfinished


@contextlib.contextmanager
def _writing(path: Path, listed: bool, empty: bool) -> Iterator[Path]:
    if listed:
        _check_own(path)
    with _refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(path.parent) as unfinished:
            yield unfinished
            if not empty and unfinished.stat().st_size == 0:
                raise OSError(errno.ENODATA, "nothing was written")
            if listed:
                _enter(path, unfinished)
            unfinished.replace(path)


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Make an empty file that is removed at the end, if it is there then, and locked until then.

    It must be written in place: what another file replaces is locked no more.

    Raises:
        OSError: if it cannot be made.
    """
    _clear(os.path.abspath(folder), os.getpid())
    while True:
        path = folder / f".{_machine()}-{uuid.uuid4().hex}.part"
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(place)
            if os.fstat(place).st_nlink:  # else `_clear` of another process came between
                yield path
                return
        finally:
            os.close(place)
            path.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


@functools.lru_cache(maxsize=4096)
def _clear(folder: str, process: int) -> None:
    """Remove the unfinished files that killed processes of this machine left in a folder; once in a process.

    A file that a process still writes is locked, wherever that process sees the folder.
    """
    name = re.compile(rf"\.{_machine()}-[0-9a-f]{{32}}\.part")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)]
        for path in left:
            with contextlib.suppress(OSError):  # removed by another process, or another user's
                place = os.open(path, os.O_WRONLY)  # NFS locks no others
                try:
                    if _lock(place):
                        os.unlink(path)
                finally:
                    os.close(place)


def _lock(place: int) -> bool:
    """Lock an open file until it is closed: False if another has it, or the file system knows no locks."""
    try:
        import fcntl  # which Windows has not

        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def write_bytes(path: str | Path, data: bytes, *, listed: bool = True) -> None:
    """Write bytes as `write_whole` does."""
    with _writing(Path(path), listed, empty=not data) as unfinished:
        unfinished.write_bytes(data)


def write_text(path: str | Path, text: str, errors: str = "strict", *, listed: bool = True) -> None:
    """Write text as UTF-8, as `write_whole` does.

    Args:
        path: the file.
        text: its content.
        errors: what becomes of a letter that has no UTF-8, as `str.encode` takes it.
        listed: as in `write_whole`.
    """
    write_bytes(path, text.encode("utf-8", errors), listed=listed)


def write_once(path: Path, data: bytes) -> None:
    """Write bytes where nothing lies, whole or not at all; where the same bytes lie already, that is as good.

    This needs no list of what was written: of what is computed alike in each run, a file shows by its content that it
    is ours. For folders that hold millions.

    Raises:
        OutputError: if the file cannot be written, or another lies there.
    """
    with _refusing(path):
        if os.path.lexists(path):
            if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
                return
            raise OutputError(f"{path} is in the way, and is not what would be written: move it away")
    write_bytes(path, data, listed=False)


@contextlib.contextmanager
def alone_in(
    folder: str | Path, doing: str = "another run is writing into it", key: str = "output_dir"
) -> Iterator[None]:
    """Keep a second process from doing the same in a folder meanwhile; a process that ends, however, lets it go.

    Args:
        folder: it is made where there is none, and may be a file. Where its file system or the platform knows no
            locks, nothing is kept away.
        doing: what the other process does, for the message.
        key: what names the folder.

    Raises:
        OutputError: if another process is in it, or it cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with _refusing(Path(folder), "written to"):
        if made := not os.path.exists(folder):
            os.makedirs(folder, exist_ok=True)
        place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{folder}: {doing}: wait for its end, or choose another {key}") from None
        except OSError:
            pass
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(place, fcntl.LOCK_UN)  # loaders' workers may have the folder open, too
    finally:
        os.close(place)
        if made:
            with contextlib.suppress(OSError):  # which it does of a folder with something in it
                os.rmdir(folder)


@contextlib.contextmanager
def in_turn(folder: str | Path) -> Iterator[None]:
    """Wait while another process is in here for a folder that has a list of what was written; for changes of a file.

    Where the file system or the platform knows no locks, nothing is waited for.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(Path(folder, LIST), "rb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove(files: Iterable[Path]) -> None:
    """Remove files that an earlier run wrote; where one of them is another's, none.

    Raises:
        OutputError: naming it.
    """
    files = list(files)
    for file in files:
        _check_own(file)
    for file in files:
        with _refusing(file, "removed"):
            file.unlink(missing_ok=True)


def file_digest(path: str | Path) -> str:
    """A digest of a file's content.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def known_digest(path: str | Path) -> str:
    """The `file_digest`, for which a file is read once per process while it stays as it is.

    Raises:
        OSError: if it cannot be read.
    """
    status = os.stat(path)
    return _digest_of_state(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest_of_state(path: str, size: int, changed: int) -> str:
    return file_digest(path)


def as_url(path: str | Path) -> str:
    """A file's path for FFmpeg, which takes a colon in a plain one for the end of a protocol's name."""
    return f"file:{path}"


def _check_list(path: Path) -> None:
    """Refuse something else in the place of a folder's list: a link, a folder, or a file that begins otherwise.

    Raises:
        OutputError: naming it.
    """
    with _refusing(path):
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        start = b""
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                start = file.readline(100)
    if not stat.S_ISREG(status.st_mode) or start and not _FIRST_LINE.fullmatch(start):
        raise OutputError(f"{path} is no list of motiontune's: move it away, or choose another output folder")


def _check_own(path: Path) -> None:
    """Refuse a path where something lies that is not as a list has it.

    Raises:
        OutputError: naming it.
    """
    with _refusing(path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            raise OutputError(f"{path} is a folder: choose another output folder")
        known = _list_of(os.path.abspath(path.parent)).read().get(path.name, set())
        if stat.S_ISREG(status.st_mode) and any(size == status.st_size for size, _ in tuple(known)):
            if (status.st_size, file_digest(path)) in known:
                return
    raise OutputError(
        f"{path} was not made by motiontune, or was changed since, and would be written over: "
        f"move it away, or choose another output folder"
    )


def _enter(path: Path, unfinished: Path) -> None:
    """Enter a file in its folder's list, before it gets its name."""
    entry = unfinished.stat().st_size, file_digest(unfinished)
    if entry in _list_of(os.path.abspath(path.parent)).read().get(path.name, set()):
        return
    file = path.with_name(LIST)
    # One call to the system for each line: those of several processes do not mix. A line that a kill or a full disk
    # has torn ends where the next one begins.
    lines = f"\n{json.dumps([path.name, *entry])}\n".encode()
    _check_list(file)
    place = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        if os.fstat(place).st_size == 0:
            lines = json.dumps(uuid.uuid4().hex).encode() + lines  # tells a new list from one that it replaced
        while lines:  # a full disk takes a part, and only the next call says why
            lines = lines[os.write(place, lines) :]
    finally:
        os.close(place)


class _List:
    """What a folder's list holds; each line is read once, however often it is asked for."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, LIST)
        # first line, bytes read, and what they held; one value, which threads exchange as a whole
        self._state = b"", 0, dict[str, set[tuple[int, str]]]()

    def read(self) -> dict[str, set[tuple[int, str]]]:
        """The bytes and digests that each name had."""
        start, begin, known = self._state
        try:
            with open(self.path, "rb") as file:
                first = file.readline()
                if first != start or os.fstat(file.fileno()).st_size < begin:  # another list than before
                    start, begin, known = first, 0, {}
                file.seek(begin)
                lines = file.read()
        except FileNotFoundError:
            return {}
        whole = lines.rfind(b"\n") + 1
        for line in lines[:whole].splitlines():
            try:
                name, size, digest = json.loads(line)
            except (ValueError, TypeError):  # an empty line, the first one, or one that is torn
                continue
            known.setdefault(name, set()).add((size, digest))
        self._state = start, begin + whole, known
        return known


_list_of = functools.lru_cache(maxsize=4096)(_List)


@contextlib.contextmanager
def _refusing(path: Path, action: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be {action}: {error.strerror or error}") from error
