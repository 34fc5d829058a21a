"""Runs the tests of other trainers than LLaMA-Factory's, each in an environment of its own.

    python tests/trainers.py [--uv PATH] [--work DIR] [--only NAME]        (`make test-trainers`)

A line per environment has the versions and how its tests ended; the exit code is 1 where any failed. Each needs torch,
which is some gigabytes, once: uv keeps what it has downloaded.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from versions import ROOT, TOOLS, dependencies


# torch and torchvision as in requirements.lock: others need not fit each other
TORCH = ["torch==2.11.0", "torchvision==0.26.0"]
ENVIRONMENTS = {
    "trl-1.0": (["trl==1.0.0", "peft"], ["plain_trainer", "any_trainer", "trl_trainer"]),
    "trl-1.14": (["trl==1.14.0", "peft"], ["trl_trainer"]),
    "trl-newest": (["trl", "peft"], ["any_trainer", "trl_trainer"]),
    "ms-swift-4": (["ms-swift>=4,<5", "qwen_vl_utils>=0.0.14"], ["ms_swift"]),
}
"""Requirements and tests. LLaMA-Factory's own TRL, 0.24, is in requirements.lock, and so tested by `make test`."""

SHOWN = ("transformers", "torch", "peft", "trl", "ms-swift")


def run(uv: list[str], python: str, name: str, work: Path) -> bool:
    """Make one environment and run its tests; returns whether they passed."""
    requirements, tests = ENVIRONMENTS[name]
    venv = work / name
    interpreter = venv / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, venv], check=True)
    into = [*uv, "pip", "install", "--quiet", "--python", interpreter]
    subprocess.run([*into, *dependencies(), *TORCH, *requirements, *TOOLS], check=True)
    subprocess.run([*into, "--no-deps", "--editable", ROOT], check=True)
    listed = subprocess.run([*uv, "pip", "list", "--python", interpreter], capture_output=True, text=True).stdout
    versions = dict(line.split()[:2] for line in listed.splitlines()[2:])
    used = ", ".join(f"{package} {versions[package]}" for package in SHOWN if package in versions)
    files = [str(ROOT / "tests" / f"test_{test}.py") for test in tests]
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if result.returncode:
        print(result.stdout[-6000:], result.stderr[-2000:], file=sys.stderr)
    last = (result.stdout.strip().splitlines() or ["no test ran"])[-1]
    print(f"{name}: {used}: {last}", flush=True)
    return result.returncode == 0


def main() -> None:
    """Run all environments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--uv", default="uv", help="the command (default: %(default)s)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter (default: this one)")
    parser.add_argument("--work", help="where environments are made and kept; a temporary folder otherwise")
    parser.add_argument("--only", choices=ENVIRONMENTS, help="one of them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        names = [name for name in ENVIRONMENTS if arguments.only in (None, name)]
        passed = [
            run(arguments.uv.split(), arguments.python, name, Path(arguments.work or temporary)) for name in names
        ]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
