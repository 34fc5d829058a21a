"""Lets the n-th operation on files below a folder fail, or kills the process before it."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Faults:
    """Counts the operations on files below a folder, and lets one of them fail."""

    def __init__(self) -> None:
        self.folder, self.left, self.fail = "", 0, self.refuse
        sys.addaudithook(self.heard)  # for good: there is no way to take one away

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.truncate"):
            return
        path, changes = arguments[0], event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if changes and isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.folder):
            self.left -= 1
            if self.left == 0:
                self.fail()

    def refuse(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def at(self, number: int, folder: Path, fail: Callable[[], None] | None = None) -> Iterator[None]:
        self.folder, self.left, self.fail = str(folder), number, fail or self.refuse
        try:
            yield
        finally:
            self.folder = ""
