"""What a run has done so far, line by line: the one thing that a run which was stopped goes on from.

Each line ends in a checksum, so that one that a kill, a full disk or a power cut has torn counts as not written. The
manifest is made of it at the end of a run.
"""

import contextlib
import dataclasses
import errno
import json
import os
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from motiontune.errors import ConfigError, OutputError
from motiontune.files import alone_in, write_bytes
from motiontune.manifest import ClipRow


@contextlib.contextmanager
def open_journal(path: Path, fingerprint: Mapping[str, Any]) -> Iterator["Journal"]:
    """Open a journal, or begin one, and keep other processes out of it meanwhile.

    Args:
        path: the file.
        fingerprint: of the run's settings; those of the file must be the same.

    Raises:
        ConfigError: if it was written with other settings.
        OutputError: if it cannot be read or written, or another process has it open.
    """
    if not path.exists():
        write_bytes(path, _line({"settings": fingerprint}), listed=False)
    begun = settings_of(path)
    if begun is None:
        raise OutputError(f"{path} was not made by motiontune: choose another --out")
    changed = [name for name in {**begun, **fingerprint} if begun.get(name) != fingerprint.get(name)]
    if changed:
        raise ConfigError(
            f"{path.parent} was begun with other settings ({', '.join(changed)}): go on with the same, or choose "
            f"another --out"
        )
    with alone_in(path, key="--out"), open(path, "r+b") as file:
        yield Journal(file)


class Journal:
    """Appends rows to a file, and finds the last one of each clip there. It keeps no row in memory.

    Rows are added and read by one thread, crashes by any.

    Args:
        file: of `open_journal`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.crashes: Counter[str] = Counter()
        self._file, self._lock = file, threading.Lock()
        self._places: dict[str, int] = {}
        self._end = 0
        for line in file:
            entry = _entry(line)
            if entry is not None and "row" in entry:
                self._places[entry["row"]["path"]] = self._end
            elif entry is not None and "crash" in entry:
                self.crashes[entry["crash"]] += 1
            self._end += len(line)

    def __contains__(self, path: str) -> bool:
        return path in self._places

    def __getitem__(self, path: str) -> ClipRow:
        """The last row of a clip."""
        self._file.seek(self._places[path])
        entry = _entry(self._file.readline())
        assert entry is not None  # it was read or written by this process
        return ClipRow(**entry["row"])

    def add(self, row: ClipRow) -> None:
        """Append a row.

        Raises:
            OutputError: if it cannot be written.
        """
        values = {name: value for name, value in dataclasses.asdict(row).items() if value is not None}
        self._places[row.path] = self._append({"row": values})

    def add_crash(self, path: str) -> None:
        """Note that a clip has ended the process that decoded it.

        Raises:
            OutputError: if it cannot be written.
        """
        self.crashes[path] += 1
        self._append({"crash": path})

    def _append(self, entry: Mapping[str, Any]) -> int:
        line = b"\n" + _line(entry)  # what was torn before ends here
        with self._lock:
            place = self._end + 1
            try:
                written = os.pwrite(self._file.fileno(), line, self._end)
                self._end += written
                if written < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise OutputError(
                    f"{self._file.name} cannot be written: {error.strerror}; the same command goes on from here"
                ) from error
        return place


def settings_of(path: Path) -> dict[str, Any] | None:
    """The settings that a journal was begun with, or None of a file that is none."""
    with open(path, "rb") as file:
        entry = _entry(file.readline())
    settings = None if entry is None else entry.get("settings")
    return settings if isinstance(settings, dict) else None


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry).encode()
    return text + b"\t%08x\n" % zlib.crc32(text)


def _entry(line: bytes) -> dict[str, Any] | None:
    text, tab, check = line.rpartition(b"\t")
    if not tab or check != b"%08x\n" % zlib.crc32(text):
        return None
    entry = json.loads(text)
    return entry if isinstance(entry, dict) else None
