"""What a run has done so far, line by line: the one thing that a run which was stopped goes on from.

Each line ends in a checksum, so that one that a kill, a full disk or a power cut has torn counts as not written. The
manifest is made of it at the end of a run.
"""

import contextlib
import dataclasses
import json
import os
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from motiontune.errors import ConfigError, OutputError
from motiontune.files import alone_in, write_bytes
from motiontune.manifest import ClipRow


@dataclass(frozen=True)
class Crash:
    """A clip that ended the process that decoded it.

    Args:
        path: the clip.
        bytes: of it then, and
        changed: the time of its change, as in its row; None where they are not known.
        seconds: that it was waited for in vain; None where the process ended by itself.
    """

    path: str
    bytes: int | None = None
    changed: int | None = None
    seconds: float | None = None


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
        self._crashes: dict[str, list[Crash]] = defaultdict(list)
        self._ours: set[str] = set()
        self._file, self._lock = file, threading.Lock()
        self._places: dict[str, int] = {}
        self._end = 0
        for line in file:
            entry = _entry(line)
            if entry is not None and "row" in entry:
                self._note(entry["row"], self._end)
            elif entry is not None and "crash" in entry:
                crash = Crash(entry["crash"], entry.get("bytes"), entry.get("changed"), entry.get("seconds"))
                self._crashes[crash.path].append(crash)
            self._end += len(line)

    def __contains__(self, path: str) -> bool:
        return path in self._places

    def __iter__(self) -> Iterator[str]:
        """The clips that have rows."""
        return iter(self._places)

    def __getitem__(self, path: str) -> ClipRow:
        """The last row of a clip."""
        self._file.seek(self._places[path])
        entry = _entry(self._file.readline())
        assert entry is not None  # it was read or written by this process
        return ClipRow(**entry["row"])

    def crashes(self, path: str, timeout: float) -> list[Crash]:
        """How a clip has ended its decoder before, but for those that came too late where they have longer now."""
        return [one for one in self._crashes.get(path, ()) if one.seconds is None or one.seconds >= timeout]

    def had_motion(self, path: str) -> bool:
        """Whether a motion file was written for a clip at any time: what lies in its place is ours."""
        return path in self._ours

    def _note(self, row: Mapping[str, Any], place: int) -> None:
        self._places[row["path"]] = place
        if "motion" in row:
            self._ours.add(row["path"])

    def add(self, row: ClipRow) -> None:
        """Append a row.

        Raises:
            OutputError: if it cannot be written.
        """
        values = {name: value for name, value in dataclasses.asdict(row).items() if value is not None}
        self._note(values, self._append({"row": values}))

    def add_crash(self, crash: Crash) -> None:
        """Note that a clip has ended the process that decoded it.

        Raises:
            OutputError: if it cannot be written.
        """
        self._crashes[crash.path].append(crash)
        about = {name: value for name, value in dataclasses.asdict(crash).items() if value is not None}
        self._append({"crash": about.pop("path"), **about})

    def _append(self, entry: Mapping[str, Any]) -> int:
        line = b"\n" + _line(entry)  # what was torn before ends here
        with self._lock:
            place = self._end + 1
            try:
                while line:  # a full disk takes a part, and only the next call says why
                    written = os.pwrite(self._file.fileno(), line, self._end)
                    self._end, line = self._end + written, line[written:]
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
