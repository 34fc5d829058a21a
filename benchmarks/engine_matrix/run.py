"""Run the tests of all engines, and write down what passed and how long it took.

    python benchmarks/engine_matrix/run.py --output benchmarks/engine_matrix/results/cpu.json

With `--select` (pytest's -k) a part of the tests is run, and takes the place of its rows in the output. All run in two
processes on the CPU, also where there is a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree


ROOT = Path(__file__).resolve().parents[2]
MATRIX = "test_an_engine_does_what_one_process_does"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "deepspeed", "llamafactory", "ray")


def versions() -> dict[str, str]:
    """The versions of what is installed of `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def rows_of(report: Path) -> Iterator[dict[str, Any]]:
    """One row per test of a JUnit report: outcome and seconds; of the matrix with its engine and kinds."""
    for case in ElementTree.parse(report).iter("testcase"):
        name, _, parameters = case.get("name", "").partition("[")
        bad = [kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None]
        row: dict[str, Any] = {"test": name, "parameters": parameters.rstrip("]")}
        if name == MATRIX:
            row["engine"], _, row["kinds"] = row["parameters"].partition("-")
        yield {**row, "outcome": bad[0] if bad else "passed", "seconds": round(float(case.get("time", 0)), 1)}


def main() -> None:
    """Run pytest, then write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--select", default="", help="pytest's -k")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pytest = [sys.executable, "-m", "pytest", "-m", "engines or not slow", "tests/test_engines.py"]
        pytest += ["-k", arguments.select] if arguments.select else []
        pytest += ["--timeout=1500", f"--junitxml={report}"]
        code = subprocess.run(pytest, cwd=ROOT, env=environment)
        rows = list(rows_of(report))
    ran = {(row["test"], row["parameters"]) for row in rows}
    before = json.loads(arguments.output.read_text())["rows"] if arguments.select and arguments.output.exists() else []
    rows = [row for row in before if (row["test"], row["parameters"]) not in ran] + rows
    result = {"cores": os.cpu_count(), "load": round(os.getloadavg()[2], 1), "versions": versions(), "rows": rows}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(code.returncode)


if __name__ == "__main__":
    main()
