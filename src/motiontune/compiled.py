"""Loops in compiled code (numba's): each is compiled once for a machine, before its first call, and kept.

What is compiled is kept in the first of these folders that can be written to: NUMBA_CACHE_DIR, `__pycache__` beside
the source, the user's cache (`~/.cache/numba`). Processes that start together wait for the first one instead of
compiling the same. Where no folder can be written to (a container that is read-only, say), each process compiles in
memory, with a warning; processes that are forked after `compile_all` have no need to.

numba compiles again when a function's own file has changed, and no other. So a compiled function uses the constants
and functions of its own file alone, and beyond them only what a file format fixes.
"""

import contextlib
import functools
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

from filelock import FileLock
from numba import njit
from numba.core import event

from motiontune.errors import in_one_line


P = ParamSpec("P")
R = TypeVar("R")

# A division by zero gives what IEEE 754 asks for: Python's error would need a branch
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_PATIENCE = 120.0  # seconds that a process waits for another one
_NOTICE = "Compiling the loops that search for motion, once for this machine: about 20 seconds ..."
_THREADS = threading.RLock()
_warned = False
_ALL: "list[_Compiled[Any, Any]]" = []


class _Compiled(Generic[P, R]):
    """A function that is compiled, for arguments of one signature, before its first call."""

    def __init__(self, function: Callable[P, R], signature: Any) -> None:
        functools.update_wrapper(self, function)
        self._function, self._signature = function, signature
        self._code: Callable[P, R] | None = None
        _ALL.append(self)

    def __call__(self, *arguments: P.args, **names: P.kwargs) -> R:
        return (self._code or self.compile())(*arguments, **names)

    def compile(self) -> Callable[P, R]:
        """Compile the function, or load what is kept of it."""
        with _THREADS:
            if self._code is None:
                try:
                    with _one_process():
                        self._code = njit(self._signature, cache=True, **_OPTIONS)(self._function)
                except Exception as error:  # whatever keeping may end in; an error in the code itself comes again
                    _warn_once(error)
                    self._code = njit(self._signature, **_OPTIONS)(self._function)
            return cast(Callable[P, R], self._code)


def compiled(signature: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that Python calls.

    Args:
        signature: numba's, of the only types that its arguments can have: a call with others is a TypeError.
    """
    return lambda function: _Compiled(function, signature)


def part(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that compiled ones of the same file call."""
    return cast(Callable[P, R], njit(**_OPTIONS)(function))


def compile_all(announce: Callable[[str], object] | None = None) -> None:
    """Compile every function of the modules that have been imported, or load it.

    Before processes are forked, and before a clip is timed.

    Args:
        announce: called with a line where one is compiled, and not loaded, so that nobody wonders.
    """
    with event.install_listener("numba:compile", _Notice(announce)):
        for function in _ALL:
            function.compile()


class _Notice(event.Listener):  # type: ignore[misc]  # numba has no types
    """Says once that something is compiled."""

    def __init__(self, announce: Callable[[str], object] | None) -> None:
        self._announce = announce

    def on_start(self, event: Any) -> None:
        """numba begins to compile a function."""
        announce, self._announce = self._announce, None
        if announce is not None:
            announce(_NOTICE)

    def on_end(self, event: Any) -> None:
        """It has ended."""


def _warn_once(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled code cannot be kept ({in_one_line(error)}): each process compiles it again; set "
            f"NUMBA_CACHE_DIR to a folder that can be written to",
            stacklevel=4,
        )


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """Let the user's other processes on this machine wait."""
    lock = FileLock(Path(tempfile.gettempdir(), f"motiontune-{os.getuid()}.lock"), timeout=_PATIENCE)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # no place for a lock, or no end to the waiting
            held.enter_context(lock)
        yield
