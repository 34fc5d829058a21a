"""What goes wrong for reasons that a user can change, and how it is shown: in one line, without a traceback."""

import difflib
import errno
import importlib.util
import os
import re
import select
import subprocess
import sys
import textwrap
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


def escaped(text: str) -> str:
    """Show a name in one line: `\\n` for a line break, and so on for what a terminal or UTF-8 does not take."""
    if text.isprintable():
        return text
    kinds = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in kinds else c for c in text)


class MotiontuneError(Exception):
    """A mistake in the configuration or the input. The message names the file, sample or key and what to do."""


class ConfigError(MotiontuneError):
    """A key, or a combination of keys, that cannot be run."""


class OutputError(ConfigError):
    """A file that cannot be written, or must not be because another's would be lost."""


class ClipError(MotiontuneError):
    """A clip that cannot be read: missing, empty, truncated, without video, or with fewer frames than in its header.

    Args:
        path: the file, as the user named it.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that the error survives pickling between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{escaped(self.path)}: {self.reason}"


class LimitError(ClipError):
    """A clip that asks for more than a limit lets it have, see `motiontune.limits`. The clip may be fine."""


class MotionUnavailable(MotiontuneError):
    """The chosen source has no motion for this clip (such as a codec without vectors). The clip's pixels are fine."""


class HeadError(MotiontuneError):
    """A saved motion head that does not fit the model or the processor; the message has both numbers."""


OF_THE_EXTRA = ("llamafactory", "datasets", "gradio", "matplotlib", "omegaconf", "peft", "trl")
INSTALL = "pip install 'motiontune[llamafactory]'"


def check_extra(command: str) -> None:
    """Refuse, at once, a command that needs LLaMA-Factory where that is not installed.

    Raises:
        ConfigError: with what to install.
    """
    missing = [name for name in ("torch", "llamafactory") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{command} needs {' and '.join(missing)}, which motiontune alone does not bring: {INSTALL}")


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """End a message about an unknown word: ": did you mean 'this'?", or nothing where nothing is near."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)
    return f": did you mean {near[0]!r}?" if near else ""


def in_one_line(error: BaseException) -> str:
    """An error's message in one line that is not too long; its kind where it has no message."""
    text = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
    return textwrap.shorten(text, 400, placeholder=" ...") or type(error).__name__


_OURS = "motiontune's own code failed, whatever the user wrote: please report this."


@contextmanager
def own_code() -> Iterator[None]:
    """Keep the traceback of what fails in here, although it lies within `mistakes` about other code."""
    try:
        yield
    except MotiontuneError:
        raise
    except Exception as error:
        error.add_note(_OURS)  # which an error takes along from one process to another
        raise


def error_number(error: BaseException | None) -> int | None:
    """The system's number of an error, or None. Libraries in Rust, and torch, have it in their message alone."""
    if isinstance(error, OSError):
        return error.errno
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return int(number[1])
    text = re.search(r"strerror: (.+)", str(error))
    return next((number for number in errno.errorcode if text and os.strerror(number) == text[1].strip()), None)


def in_want_of_room(error: BaseException | None, place: str = "a file") -> str:
    """What to say of a full or read-only disk, or a limit of bytes, whoever wrote to it; "" of other errors.

    Args:
        error: what was raised.
        place: what was written, where the error does not name it.
    """
    number = error_number(error)
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return ""
    return f"{getattr(error, 'filename', None) or place} cannot be written: {os.strerror(number)}"


@contextmanager
def mistakes(about: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of the libraries underneath, where they come of what the user wrote, into a `ConfigError`.

    Those of `own_code` stay as they are.

    Args:
        about: begins the message, such as "model_name_or_path: some/model".
        kinds: the errors that stand for a mistake in this place.
    """
    try:
        yield
    except MotiontuneError:
        raise
    except kinds as error:
        if _OURS in getattr(error, "__notes__", ()):
            raise
        cause = f" ({in_one_line(error.__cause__)})" if error.__cause__ else ""
        raise ConfigError((f"{about}: " if about else "") + in_one_line(error) + cause) from error


def _output_is_cut() -> bool:
    """Whether what reads the output has ended, such as `head`: no other pipe of this process is meant."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def exit_with_message(run: Callable[[], object]) -> None:
    """Run, and turn what ends it into an exit code: 2 and one line on stderr for a user's mistake.

    A process of torchrun that failed gives its own exit code, Ctrl+C gives 130. Errors that are ours keep their
    traceback; `LLAMAFACTORY_VERBOSITY=DEBUG` shows it for a user's mistake, too.
    """
    try:
        run()
    except MotiontuneError as error:
        if os.environ.get("LLAMAFACTORY_VERBOSITY") == "DEBUG":
            traceback.print_exc()
        print(f"motiontune: {escaped(str(error))}", file=sys.stderr)
        sys.exit(2)
    except subprocess.CalledProcessError as error:  # torchrun has printed what happened
        sys.exit(error.returncode)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in OF_THE_EXTRA:
            raise
        print(f"motiontune: {error}; install it with: {INSTALL}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        if not _output_is_cut():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if not (message := in_want_of_room(error)):
            raise
        print(f"motiontune: {escaped(message)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print("motiontune: stopped" + "".join(f"; {word}" for word in stop.args), file=sys.stderr)
        sys.exit(130)
