"""Any bytes give a value or an error in one line: examples of it; `make fuzz` looks for more."""

import json
import time
from pathlib import Path

import pytest

from fuzz.examples import IMPORT_TRANSFORMERS, kept_files, run_examples
from fuzz.parsers import PARSERS, Parser, parse, seeds_of


ONES = [name for name in PARSERS if name not in IMPORT_TRANSFORMERS]


@pytest.mark.parametrize("name", ONES)
def test_any_bytes_give_a_value_or_one_line(name: str) -> None:
    run_examples(name, 60)


@pytest.mark.parametrize("name", ONES)
def test_what_is_changed_was_right(name: str) -> None:
    assert [parse(name, seed) for seed in seeds_of(name)] == [""] * len(seeds_of(name))


@pytest.mark.parametrize("path", kept_files(*ONES), ids=lambda path: path.name)
def test_what_once_showed_a_fault_is_read_or_refused(path: Path) -> None:
    begun = time.process_time()
    parse(path.name.partition("-")[0], path.read_bytes())
    assert time.process_time() - begun < 5


def test_another_error_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes, folder: Path) -> int:
        return 1 // data[0]

    monkeypatch.setitem(PARSERS, "list", Parser(read, lambda folder: [b"\1"]))
    with pytest.raises((ZeroDivisionError, IndexError, ExceptionGroup)):
        run_examples("list", 200)


def test_the_results_are_of_all_parsers_and_have_no_finding() -> None:
    results = json.loads((Path(__file__).parent / "fuzz" / "results.json").read_text())
    assert set(results) == set(PARSERS)
    assert {name: result["findings"] for name, result in results.items() if result["findings"]} == {}
