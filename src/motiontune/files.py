"""Files that are there whole or not at all, however a run ends."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Make a file in one step: write to the path that is given, and it takes the file's place at the end.

    Where writing fails, what was there before stays and nothing is left over. A process that is killed may leave
    `.<letters>.part` behind, which no reader takes for a finished file. Workers and machines can share a folder.

    Args:
        path: the file. Its folder is made.

    Yields:
        A path in the same folder. It does not keep the file's suffix: give the format to writers that go by it.

    Raises:
        OSError: if the folder cannot be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes, whole or not at all."""
    with write_whole(path) as unfinished:
        unfinished.write_bytes(data)


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Write text as UTF-8, whole or not at all.

    Args:
        path: the file.
        text: its content.
        errors: what becomes of a letter that has no UTF-8, as `str.encode` takes it.
    """
    write_bytes(path, text.encode("utf-8", errors))
