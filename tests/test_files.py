"""Files are written whole or not at all, whatever happens in between; tables keep their columns."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from motiontune.files import write_bytes, write_text, write_whole
from motiontune.tables import text_table


SOURCE = Path(__file__).parents[1] / "src"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_what_is_written_is_there(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "ünï\n")
    write_bytes(str(tmp_path / "b"), b"\0\1")
    write_text(tmp_path / "b", "\ud800", errors="replace")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ünï\n".encode() and (tmp_path / "b").read_bytes() == b"?"
    assert names(tmp_path) == ["b", "new"] and names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failure_in_between_keeps_the_old_file_and_leaves_no_other(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    for old in (None, b"old"):
        if old is not None:
            file.write_bytes(old)
        with pytest.raises(type(error)), write_whole(file) as unfinished:
            unfinished.write_bytes(b"half")
            assert not file.exists() or file.read_bytes() == b"old"
            raise error
        assert names(tmp_path) == ([] if old is None else ["a.npz"])
    assert file.read_bytes() == b"old"


def test_text_that_cannot_be_encoded_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_a_killed_process_leaves_no_file_under_the_name_or_its_suffix(tmp_path: Path) -> None:
    code = f"""
import time
from motiontune.files import write_whole
with write_whole({str(tmp_path / "000001.npz")!r}) as unfinished:
    unfinished.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SOURCE)}
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = names(tmp_path)
    assert left.startswith(".") and left.endswith(".part")


def test_threads_that_write_one_file_never_mix(tmp_path: Path) -> None:
    file, contents = tmp_path / "a", {bytes([65 + i]) * 50_000 for i in range(4)}
    seen, done = set(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            if file.exists():
                seen.add(file.read_bytes())

    def write(content: bytes) -> None:
        for _ in range(50):
            write_bytes(file, content)

    watcher, *writers = [threading.Thread(target=watch), *(threading.Thread(target=write, args=[c]) for c in contents)]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    watcher.join()
    assert seen and seen <= contents and names(tmp_path) == ["a"]


def test_columns() -> None:
    rows = [("name", "n", "what"), ("a", "100", "x"), ("longer", "-", "")]
    assert text_table(rows, "<>") == "name      n  what\na       100  x\nlonger    -"
    assert text_table(rows, "<>", rule=True).splitlines()[1] == "------  ---  ----"
    assert text_table(rows, "<>", least=(8, 5)).splitlines()[1] == "a           100  x"


def test_rows_of_other_lengths_and_cells_that_stand_out() -> None:
    rows = [("name", "what", "s"), ("a", "x", "1"), ("b", "too long a reason", "2"), (), ("a title",)]
    assert text_table(rows, measured=rows[:2]) == "name  what  s\na     x     1\nb     too long a reason  2\n\na title"
    assert text_table([]) == ""
