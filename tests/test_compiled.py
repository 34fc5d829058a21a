"""Compiled loops: one signature each, compiled once for all processes, and working where nothing can be kept."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import motiontune.motion.sources  # noqa: F401  (all loops)
from motiontune import compiled as module
from motiontune.compiled import compile_all, compiled


LOOPS = {function.__name__: function for function in module._ALL}
CODE = """
import warnings
warnings.simplefilter("error")
import numpy as np
from motiontune import compiled
from motiontune.motion.consensus import agree
vectors, confidence = agree(np.full((3, 4, 2), 1.5, np.float32), np.ones((3, 4), np.float32))
assert (vectors == 1.5).all() and (confidence == 1).all()
dispatchers = [function._code for function in compiled._ALL if function._code is not None]
print(sum(sum(dispatcher.stats.cache_misses.values()) for dispatcher in dispatchers))
"""


def started(folder: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", CODE], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    processes = [started(tmp_path) for _ in range(3)]
    results = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), results
    assert sorted(out for out, _ in results) == ["0\n", "0\n", "1\n"]
    assert len(list(tmp_path.rglob("*.nbc"))) == 1
    process = started(tmp_path)
    assert process.communicate() == ("0\n", "") and process.returncode == 0


def without_a_file() -> Callable[[float], float]:
    """A function that numba has no place to keep: its source is nowhere."""
    names: dict[str, Any] = {}
    exec("def double(x): return 2.0 * x", names)
    double: Callable[[float], float] = names["double"]
    return double


def test_where_nothing_can_be_kept_it_is_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ALL", [])
    monkeypatch.setattr(module, "_warned", False)
    double = compiled("float64(float64)")(without_a_file())
    with pytest.warns(UserWarning, match="compiled code cannot be kept .*NUMBA_CACHE_DIR"):
        assert double(1.5) == 3.0
    assert double(2.5) == 5.0
    with pytest.raises(TypeError):  # one signature: nothing is compiled behind the caller's back
        double("text")  # type: ignore[arg-type]


def test_a_line_tells_of_what_is_compiled_and_not_of_what_is_loaded(tmp_path: Path) -> None:
    code = "import motiontune.motion.consensus\nfrom motiontune.compiled import compile_all\ncompile_all(print)"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert said == [f"{module._NOTICE}\n", ""]


def test_without_a_place_for_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: "/proc/none")
    with module._one_process():
        pass


def test_all_are_compiled_before_processes_are_forked() -> None:
    compile_all()
    assert len(LOOPS) >= 11 and all(len(loop._code.signatures) == 1 for loop in LOOPS.values())


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_uses_what_stands_in_its_own_file(name: str) -> None:
    """numba looks at that file alone to find out whether what it has kept is still true."""
    function = LOOPS[name].__wrapped__
    seen, waiting = set(), [function]
    while waiting:
        code = waiting.pop().__code__
        for used in set(code.co_names) - seen:
            seen.add(used)
            value = function.__globals__.get(used)
            inner = getattr(value, "py_func", None)  # of a compiled part
            if inner is not None:
                assert inner.__module__ == function.__module__
                waiting.append(inner)
    tree = ast.parse(Path(function.__code__.co_filename).read_text("utf-8"))
    targets = [node for line in tree.body if isinstance(line, ast.Assign) for node in ast.walk(line.targets[0])]
    assigned = {node.id for node in targets if isinstance(node, ast.Name)}
    constants = {used for used in seen if isinstance(function.__globals__.get(used), int | float | tuple)}
    assert constants - {"QUARTERS"} <= assigned
