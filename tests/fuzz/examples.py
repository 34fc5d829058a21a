"""A small, seeded share of the fuzzing for `make test`, and the files that showed a fault."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.parsers import DATA, parse, seeds_of


IMPORT_TRANSFORMERS = ("head", "weights")
"""Parsers whose examples are run where transformers is imported anyway, in `test_head_forms.py`."""


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Bytes that are right, but for some that are replaced, taken out, put in or said twice."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        middle = draw(st.one_of(st.binary(max_size=8), st.just(data[start:end] * 2), st.just(b"\xff" * (end - start))))
        data = data[:start] + middle + data[end:]
    return data


def run_examples(name: str, count: int) -> None:
    """Hold a parser to the contract with so many examples, the same ones each time."""

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.one_of(damaged(seeds_of(name)), st.binary(max_size=64)))
    def check(data: bytes) -> None:
        parse(name, data)

    check()


def kept_files(*names: str) -> list[Path]:
    """Each file that showed a fault of one of these parsers which was repaired, PARSER-NAME."""
    return sorted(file for name in names for file in (DATA / "fuzz").glob(f"{name}-*"))
