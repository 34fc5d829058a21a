"""Files are written whole or not at all, whatever happens in between; tables keep their columns."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from motiontune import files
from motiontune.datasets.dataset_info import make_sample, write_dataset
from motiontune.errors import OutputError
from motiontune.files import LIST, claim, claim_empty, remove, write_bytes, write_text, write_whole
from motiontune.tables import text_table


SOURCE = Path(__file__).parents[1] / "src"


def names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != LIST)


def test_what_is_written_is_there(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "ünï\n")
    write_bytes(str(tmp_path / "b"), b"\0\1")
    write_text(tmp_path / "b", "\ud800", errors="replace")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ünï\n".encode() and (tmp_path / "b").read_bytes() == b"?"
    assert names(tmp_path) == ["b", "new"] and names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(28, "disk full"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt), (SystemExit(1), SystemExit)],
)
def test_a_failure_in_between_keeps_the_old_file_and_leaves_no_other(
    error: BaseException, seen: type[BaseException], tmp_path: Path
) -> None:
    file = tmp_path / "a.npz"
    for old in (None, b"old"):
        if old is not None:
            write_bytes(file, old)
        with pytest.raises(seen) as raised, write_whole(file) as unfinished:
            unfinished.write_bytes(b"half")
            assert not file.exists() or file.read_bytes() == b"old"
            raise error
        assert seen is not OutputError or str(raised.value) == f"{file} cannot be written: disk full"
        assert names(tmp_path) == ([] if old is None else ["a.npz"])
    assert file.read_bytes() == b"old"


def test_text_that_cannot_be_encoded_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError), write_whole(tmp_path / "a"):
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
    others = {f".{'0' * 8}-{'1' * 32}.part", f".{'1' * 32}.part", f"{left}.txt", left.lstrip("."), "a.part"}
    for name in others:
        (tmp_path / name).write_text("of another machine, or another's")
    files._clear.cache_clear()
    with write_whole(tmp_path / "a") as alive:
        files._clear.cache_clear()  # as in another process: this one's file is locked
        write_text(tmp_path / "b", "b")
        alive.write_bytes(b"a")
    assert set(names(tmp_path)) == {*others, "a", "b"}


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


def test_an_output_that_is_the_folder_of_another_is_refused(tmp_path: Path) -> None:
    outputs = [tmp_path / "a.motion.png", tmp_path / "a.motion.png" / "x.npz"]
    for wanted in (outputs, outputs[::-1]):
        with pytest.raises(OutputError, match=r"a\.motion\.png would be a file and the folder of another output"):
            claim(tmp_path, wanted)
    claim(tmp_path, [tmp_path / "a.npz", tmp_path / "a" / "x.npz"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["link", "folder", "other"])
def test_a_list_that_is_none_of_ours_is_not_written_to(kind: str, tmp_path: Path) -> None:
    other, folder = tmp_path / "other.txt", tmp_path / "out"
    folder.mkdir()
    other.write_text("precious\n")
    place = folder / LIST
    if kind == "link":
        place.symlink_to(other)
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_text("precious\n")
    with pytest.raises(OutputError, match="is no list of motiontune's: move it away"):
        claim(folder, [folder / "a.npz"])
    with pytest.raises(OutputError):
        write_text(folder / "a.npz", "new")
    assert other.read_text() == "precious\n" and [path.name for path in folder.iterdir()] == [LIST]
    assert kind != "other" or place.read_text() == "precious\n"


def test_only_what_was_written_here_is_replaced_or_removed(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    write_text(own, "1")
    write_text(own, "2")
    foreign.write_text("1")  # the name and the folder do not make it ours, nor does a content that another file has
    changes = [lambda: write_text(foreign, "2"), lambda: remove([own, foreign]), lambda: claim(tmp_path, [foreign])]
    for change in changes:
        with pytest.raises(OutputError, match=f"{foreign} was not made by motiontune, or was changed since"):
            change()
    assert own.read_text() == "2" and foreign.read_text() == "1"
    own.write_text("3")  # changed by somebody
    with pytest.raises(OutputError, match="changed since"):
        write_text(own, "4")
    own.write_text("1")  # an earlier version, brought back
    remove([own])
    assert names(tmp_path) == ["foreign"]
    write_text(foreign, "mine", listed=False)


def test_a_folder_that_was_moved_copied_or_made_anew_is_known(tmp_path: Path) -> None:
    import shutil

    write_text(tmp_path / "a" / "x", "1")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "c")
    for folder in ("b", "c"):
        write_text(tmp_path / folder / "x", "2")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")  # no list: not known any more
    with pytest.raises(OutputError, match="not made by motiontune"):
        claim(tmp_path / "a", [tmp_path / "a" / "x"])
    (tmp_path / "a" / "x").unlink()
    write_text(tmp_path / "a" / "x", "3")
    write_text(tmp_path / "a" / "x", "4")


def test_a_torn_line_of_the_list_costs_no_other(tmp_path: Path) -> None:
    for torn in (b"", b'\n["a", 1, "', b"12", b"\0\xff{"):
        write_text(tmp_path / "a", "1")
        with open(tmp_path / LIST, "ab") as file:
            file.write(torn)
        write_text(tmp_path / "b", "2")
        claim(tmp_path, [tmp_path / "a", tmp_path / "b"])
        (tmp_path / LIST).unlink()
        (tmp_path / "a").unlink()
        (tmp_path / "b").unlink()


def test_an_output_is_no_input_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tmp_path / "in" / "clip"
    write_text(clip, "ours, and yet an input")
    (tmp_path / "link").symlink_to(clip.parent)
    (tmp_path / "hard").hardlink_to(clip)
    monkeypatch.chdir(tmp_path)
    for spelled in (clip, Path("in/clip"), Path("link/clip"), tmp_path / "link" / ".." / "in" / "clip", Path("hard")):
        with pytest.raises(OutputError, match="is an input and would be written over"):
            claim(tmp_path, [spelled], [clip])
        with pytest.raises(OutputError, match="is an input and would be written over"):
            claim(tmp_path, [clip], [str(spelled)])
    claim(tmp_path, [clip], ["gone"])


def test_links_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").write_text("far")
    for target in ("far", "nowhere"):
        (tmp_path / "a").symlink_to(target)
        with pytest.raises(OutputError, match="not made by motiontune"):
            write_text(tmp_path / "a", "1")
        (tmp_path / "a").unlink()
    assert (tmp_path / "far").read_text() == "far" and names(tmp_path) == ["far"]


def test_names_that_are_one_file_where_capitals_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [tmp_path / "A.npz", tmp_path / "a.npz"]
    claim(tmp_path, pair)
    exists = os.path.exists
    lower = lambda path: exists(path) or exists(Path(path).with_name(Path(path).name.lower()))  # noqa: E731
    monkeypatch.setattr(files.os.path, "exists", lower)
    with pytest.raises(OutputError, match=r"A\.npz and .*a\.npz would be one file"):
        claim(tmp_path, pair)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file is no folder: choose another output folder"):
        claim(tmp_path / "file", [tmp_path / "file" / "a"])
    with pytest.raises(OutputError, match=r"file is no folder: choose another output folder"):
        claim(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match=r"x cannot be written: File name too long"):
        claim(tmp_path, [tmp_path / ("x" * 256)])
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_text(tmp_path / "folder", "1")
    with pytest.raises(OutputError, match="is not empty, it holds "):
        claim_empty(tmp_path)
    claim_empty(tmp_path / "new")

    def refuse(*arguments: object, **keys: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)  # who runs the tests may be root
    with pytest.raises(OutputError, match=r"new cannot be written to: Permission denied"):
        claim(tmp_path / "new")


def test_columns() -> None:
    rows = [("name", "n", "what"), ("a", "100", "x"), ("longer", "-", "")]
    assert text_table(rows, "<>") == "name      n  what\na       100  x\nlonger    -"
    assert text_table(rows, "<>", rule=True).splitlines()[1] == "------  ---  ----"
    assert text_table(rows, "<>", least=(8, 5)).splitlines()[1] == "a           100  x"


def test_rows_of_other_lengths_and_cells_that_stand_out() -> None:
    rows = [("name", "what", "s"), ("a", "x", "1"), ("b", "too long a reason", "2"), (), ("a title",)]
    assert text_table(rows, measured=rows[:2]) == "name  what  s\na     x     1\nb     too long a reason  2\n\na title"
    assert text_table([]) == ""


def test_without_locks_nothing_is_kept_away(tmp_path, monkeypatch):
    """Windows has no `fcntl`."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with files.alone_in(tmp_path), files.alone_in(tmp_path):
        write_text(tmp_path / "a.txt", "one")
    assert (tmp_path / "a.txt").read_text() == "one"


def test_data_sets_that_are_entered_at_once_are_all_there(tmp_path: Path) -> None:
    """The file of all data sets is read and written again; through a link, too, which stays one."""
    shared = tmp_path / "shared.json"
    shared.write_text("{}")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset_info.json").symlink_to(shared)
    names = [f"set_{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: write_dataset(folder, name, [make_sample("a.mp4", "What?", "This.")]), names))
    assert sorted(json.loads(shared.read_text())) == names and (folder / "dataset_info.json").is_symlink()
