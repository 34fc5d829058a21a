"""What a long command shows: a page that one reads, while everything that libraries print goes to a file.

    with Terminal(quiet=True) as terminal:
        terminal.show("loading the model ...")
        terminal.keep(folder)

Within, what Python prints and logs goes to the file; an error that leaves it is seen in full where it always was,
since the streams are back by then. What the system or C code writes stays on the terminal.
"""

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from motiontune.errors import MotiontuneError, OutputError, in_want_of_room


FIRST_LINE = "# What motiontune's libraries printed. Runs into this folder follow each other.\n"
"""By which a file is known as one that may be appended to."""

ON_PAGE: dict[str, Any] = {"extra": {"on_page": True}}
"""For a logger's call: the message is shown on the page, too."""

LAST_LINES = 40
"""How many lines of the log are shown where an error that is no user's mistake ends a run."""

VERBOSE = "MOTIONTUNE_VERBOSE"
"""The variable that `--verbose` sets, for processes that are started, too."""


def take_verbose(words: list[str]) -> list[str]:
    """Take `--verbose` out of a command's words, for this process and those that it starts."""
    if "--verbose" in words:
        os.environ[VERBOSE] = "1"
    return [word for word in words if word != "--verbose"]


def is_verbose() -> bool:
    """Whether all that libraries print is wanted: by `--verbose`, or LLaMA-Factory's own variable."""
    return bool(os.environ.get(VERBOSE) or os.environ.get("LLAMAFACTORY_VERBOSITY"))


class Terminal:
    """The terminal of a command, in a process of the run.

    Args:
        name: of the log, in the folder that `keep` names.
        quiet: what libraries print goes to a file; otherwise nothing changes, and nothing is shown.
        shows: this process writes the page. Of several, one does.
        with_result: a run ends the page with its result. Otherwise the command does.
    """

    def __init__(self, name: str, quiet: bool = True, shows: bool = True, with_result: bool = True) -> None:
        self.name, self.quiet, self.with_result, self._shows = name, quiet, with_result, shows
        self.log: Path | None = None
        self._file: IO[str] | None = None

    @property
    def is_live(self) -> bool:
        """Whether somebody looks at the page as it is written, so that a line may change."""
        return self._shows and self.quiet and self._out.isatty()

    def __enter__(self) -> Self:
        global _current
        self._out, self._err = sys.stdout, sys.stderr
        if self.quiet:
            _current = self
            self._file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
            # line by line, so that what a killed run has printed is there
            self._stream = _WholeLines(self)
            sys.stdout = sys.stderr = self._stream
            self._handlers = list(_redirected(self._stream, (self._out, self._err)))
            self._page_handler = _PageHandler(self)
            logging.getLogger("llamafactory").addHandler(self._page_handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        global _current
        if not self.quiet:
            return
        _current = None
        sys.stdout, sys.stderr = self._out, self._err
        logging.getLogger("llamafactory").removeHandler(self._page_handler)
        for handler, stream in self._handlers:
            handler.setStream(stream)
        for handler, _ in _redirected(self._err, (self._stream,)):  # made meanwhile
            handler.setStream(self._err)
        ours = isinstance(error, Exception) and not isinstance(error, MotiontuneError)
        ours &= not in_want_of_room(error)
        # a parser of arguments has printed what is wrong, and exits
        ours |= isinstance(error, SystemExit) and error.code not in (None, 0)
        if ours and self._shows:
            self._err.write("".join(self._last_lines()))
        if self._file is not None:
            self._file.close()

    def check(self, folder: Path) -> None:
        """Refuse a folder in which the log would be appended to what others wrote.

        Raises:
            OutputError: naming the file.
        """
        path = folder / self.name
        with contextlib.suppress(OSError):
            if self.log is None and path.stat().st_size and not path.read_bytes().startswith(FIRST_LINE.encode()):
                raise OutputError(f"{path} is no log of motiontune's: move it, or use --verbose, which writes none")

    def keep(self, folder: Path) -> None:
        """Put what was printed so far, and all that follows, into the log; what stands in it already stays.

        Raises:
            OutputError: if it is another's.
        """
        if not self.quiet or self._file is None or self.log is not None:
            return
        self.check(folder)
        path = folder / self.name
        self._file.seek(0)
        before, began = self._file.read(), not path.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            log = path.open("a", encoding="utf-8", errors="replace")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
        self._file.close()
        self._file = log
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.write((FIRST_LINE if began else "") + f"\n# {now}, process {os.getpid()}\n" + before)
        self._file.flush()
        self.log = path

    def show(self, text: str = "") -> None:
        """Write a line, or several, to the page, and to the log."""
        if self.quiet and self._shows:
            print(text, file=self._out, flush=True)
            self.write(text + "\n")

    def live(self, text: str) -> None:
        """Write a line that the next one replaces, where somebody looks."""
        if self.is_live:
            self._out.write(f"\r\033[K{text}\r" if text else "\r\033[K")
            self._out.flush()

    def write(self, text: str) -> None:
        """Write to the log."""
        if self._file is not None and not self._file.closed:
            self._file.write(text)
            self._file.flush()

    def _last_lines(self) -> list[str]:
        if self.log is not None:
            lines = self.log.read_text("utf-8", errors="replace").splitlines(keepends=True)
            return [*lines[-LAST_LINES:], f"(the last lines of {self.log})\n"]
        assert self._file is not None
        self._file.seek(0)
        return self._file.readlines()[-LAST_LINES:]


def run_terminal(name: str = "train.log", with_result: bool = True) -> Terminal:
    """The terminal of a process that runs a training YAML: one of several writes the page, and all of them the log."""
    ray = os.environ.get("USE_RAY", "0").lower() in ("true", "y", "1")  # whose workers are on other machines
    return Terminal(name, not (ray or is_verbose()), int(os.environ.get("RANK", "0")) == 0, with_result)


_current: Terminal | None = None


def current() -> Terminal | None:
    """The terminal whose page is being written in this process, if there is one."""
    return _current


class _WholeLines:
    """Stands for `sys.stdout` and `sys.stderr`: lines go to the log, those that a progress bar takes back do not."""

    encoding, errors, closed = "utf-8", "replace", False

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def write(self, text: str) -> int:
        if "\r" not in text:
            self._terminal.write(text)
        elif text.endswith("\n"):
            self._terminal.write(text.rpartition("\r")[2])
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._terminal._err.fileno()  # of what writes below Python: to the terminal, as ever


NO_NEWS = "We recommend enable mixed precision training."
"""What LLaMA-Factory warns of wherever `bf16` is off, also on a CPU, which it makes no quicker."""


class _PageHandler(logging.Handler):
    """Shows warnings, and messages that were logged with `ON_PAGE`."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and not record.getMessage().startswith(NO_NEWS):
            self._terminal.show(f"{record.levelname.lower()}: {record.getMessage()}")
        elif getattr(record, "on_page", False):
            self._terminal.show(record.getMessage())


def _redirected(new: Any, old: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Let each handler that writes to one of the old streams write to the new one; yields both, to undo it."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            stream = getattr(handler, "stream", None)
            if isinstance(handler, logging.StreamHandler) and any(stream is one for one in old):
                handler.setStream(new)
                yield handler, stream
