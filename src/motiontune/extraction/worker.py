"""A process of its own in which clips are decoded, so that one which ends the decoder ends no more than that.

It reads a clip per line from stdin, as JSON, and writes a row per line to what was stdout: two pipes, nothing else. It
ends when stdin does, so that none is left over where the process that started it is killed.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from motiontune.compiled import compile_all
from motiontune.errors import MotiontuneError
from motiontune.extraction.clip import Extractor, Settings
from motiontune.extraction.inputs import ClipSource
from motiontune.manifest import ClipRow
from motiontune.threads import use_one_thread


TIMEOUT = 900.0
"""Seconds after which a clip counts as one that ends its decoder, where the user gives none."""
LONGEST = 1_000_000.0
"""The most that can be given: the system waits no longer than 24 days."""

STARTS = 3
"""A worker that ends so many times before it is ready will never be."""
START_SECONDS = 600.0

KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that come from outside: no fault of the clip's, or of too little memory."""


@dataclass(frozen=True)
class Died:
    """The end of a worker over a clip.

    Args:
        reason: in words.
        from_outside: whether it was killed, and not the decoder's fault.
        seconds: that it was waited for in vain; None where it ended by itself.
    """

    reason: str
    from_outside: bool
    seconds: float | None = None


class Worker:
    """Such a process, seen from the one that starts it. It is started when a clip comes, and again after its end.

    Args:
        settings: of the run.
        timeout: seconds after which a clip counts as one that ends the decoder.
    """

    def __init__(self, settings: Settings, timeout: float) -> None:
        self._settings, self._timeout = settings, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def row(self, source: ClipSource, ours: bool) -> ClipRow | Died:
        """Have a clip read there.

        Raises:
            MotiontuneError: if no process can be started, with what it wrote at last.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([dataclasses.asdict(source), ours]).encode() + b"\n")
            process.stdin.flush()
        line, late = self._line(process, self._timeout)
        if line is not None:
            return ClipRow(**json.loads(line))
        if late:
            process.kill()
        code = self._end(process)
        if late:
            return Died(f"took more than {self._timeout:g} seconds", from_outside=False, seconds=self._timeout)
        name = signal.Signals(-code).name if -code in {*signal.Signals} else f"exit code {code}"
        return Died(f"ended the process that decoded it ({name})", -code in KILLS)

    def close(self) -> None:
        """End the process at once; from another thread, too. What it was writing is not there."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
            process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        # one core each: libraries that take all of them slow each other down
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        code, last = 0, [""]
        for _ in range(STARTS if not self._closed else 0):
            with tempfile.TemporaryFile() as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", __name__, self._settings.to_json()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                )
                self._process = process
                line, _ = self._line(process, START_SECONDS)
                if line is not None:
                    return process
                code = self._end(process)
                errors.seek(0)
                last = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        raise MotiontuneError(f"no worker process can be started: {' '.join(last) or f'exit code {code}'}")

    @staticmethod
    def _line(process: "subprocess.Popen[bytes]", timeout: float) -> tuple[bytes | None, bool]:
        """A whole line that the process wrote, or None; and whether it was waited for too long."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                return None, True
        line = process.stdout.readline()
        return (line if line.endswith(b"\n") else None), False

    def _end(self, process: "subprocess.Popen[bytes]") -> int:
        self._process = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(5)
        process.kill()
        return process.wait()


def main() -> None:
    """Read clips from stdin, write rows to stdout, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for who started this
    rows = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries print
    use_one_thread()
    extractor = Extractor(Settings.from_json(sys.argv[1]))
    compile_all()  # which is no part of a clip's seconds
    rows.write(b"ready\n")
    for line in sys.stdin.buffer:
        source, ours = json.loads(line)
        row = extractor.row(ClipSource(**source), ours)
        rows.write(json.dumps(dataclasses.asdict(row)).encode() + b"\n")


if __name__ == "__main__":
    main()
