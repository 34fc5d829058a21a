"""Results: a line of JSON each, written at once, so that a run that is cut off leaves what it has."""

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


FILE = "gpu.jsonl"


class Rows:
    """Appends to `gpu.jsonl`; several processes may, since each line is one write.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE

    def add(self, part: str, name: str, **values: Any) -> None:
        """Write a row, and print it."""
        line = json.dumps({"part": part, "name": name, **values})
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, line.encode() + b"\n")
        os.close(file)
        print(line[:600], flush=True)

    @contextmanager
    def checking(self, name: str, part: str = "check") -> Iterator[dict[str, Any]]:
        """Write a row about what is done inside: the values put into the dictionary, and the traceback of an error."""
        values: dict[str, Any] = {}
        started = time.perf_counter()
        try:
            yield values
        except Exception as error:
            trace = traceback.format_exc()[-6000:]
            values |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:1000], "traceback": trace}
        else:
            values = {"ok": True, **values}
        self.add(part, name, **values, seconds=round(time.perf_counter() - started, 3))


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
