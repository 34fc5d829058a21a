"""Fuzz what reads bytes from outside, guided by coverage: `make fuzz`, or of some parsers `make fuzz ARGS="tar npz"`.

    PYTHONPATH=$PWD/build/atheris python tests/fuzz/run.py [--minutes M] [PARSER ...]

Each parser runs in a process of its own for M CPU minutes. What breaks the contract of `parsers.py`, takes more than
SECONDS or more than MEGABYTES is kept in build/fuzz/PARSER, one file for each kind, and does not end the process; the
counts are written to results.json. A file that shows a fault which was repaired moves to tests/data/fuzz/PARSER-NAME,
where `make test` reads it again.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path


HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OUT = ROOT / "build" / "fuzz"
RESULTS = HERE / "results.json"
SECONDS, MEGABYTES = 5.0, 512
INSTRUMENTED = [
    "motiontune.datasets",
    "motiontune.extraction.inputs",
    "motiontune.limits",
    "motiontune.manifest",
    "motiontune.model.head",
    "motiontune.motion.file",
    "motiontune.runs.folder",
    "motiontune.video.container",
    "motiontune.video.h264",
    "numpy.lib._format_impl",
    "numpy.lib.format",
    "tarfile",
    "zipfile",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="PARSER", nargs="*", help="all where none is named")
    parser.add_argument("--minutes", type=float, default=10, help="CPU minutes for each (default: 10)")
    parser.add_argument("--one", metavar="PARSER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        fuzz(arguments.one, arguments.minutes)
        return
    sys.path[:0] = [str(HERE.parent)]
    from fuzz.parsers import PARSERS

    failed = False
    for name in arguments.names or PARSERS:
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--one", name, "--minutes", str(arguments.minutes)]
        done = subprocess.run(command, cwd=folder)
        written = folder / "result.json"
        result = json.loads(written.read_text()) if written.exists() else {}
        if done.returncode:  # a decoder's own end: libFuzzer has kept the bytes in this folder
            result["findings"] = [*result.get("findings", []), f"exit code {done.returncode}"]
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(dict(sorted((results | {name: result}).items())), indent=1) + "\n")
        part.replace(RESULTS)  # a run that is ended meanwhile leaves what was there
        print(f"{name}: {json.dumps(result)}", flush=True)
        failed |= bool(result["findings"])
    sys.exit(failed)


class Run:
    """Counts what a parser does with the bytes that it is given."""

    def __init__(self, name: str, minutes: float) -> None:
        from fuzz.parsers import parse

        self.name, self.parse, self.end = name, parse, 60 * minutes
        self.executions = self.values = 0
        self.slowest = 0.0
        self.findings: dict[str, str] = {}
        self.start, self.memory = time.process_time(), memory()

    def one(self, data: bytes) -> None:
        self.executions += 1
        begun = time.perf_counter(), time.process_time()
        try:
            self.values += not self.parse(self.name, data)
        except Exception as error:
            where = [f for f in traceback.extract_tb(error.__traceback__) if "motiontune" in f.filename]
            place = f"{Path(where[-1].filename).name}:{where[-1].name}" if where else "the harness"
            self.found(f"{type(error).__name__} in {place}", data)
        seconds = time.process_time() - begun[1]
        self.slowest = max(self.slowest, seconds)
        if seconds > SECONDS:
            self.found(f"more than {SECONDS:g} seconds", data)
        if memory() - self.memory > MEGABYTES:
            self.found(f"more than {MEGABYTES} MB", data)
        if self.executions % 256 == 0 or seconds > 1:
            self.write()
            if time.process_time() - self.start > self.end:
                os._exit(0)  # libFuzzer's own way out is counted by the clock

    def found(self, what: str, data: bytes) -> None:
        if what not in self.findings:
            self.findings[what] = hashlib.blake2b(data, digest_size=6).hexdigest()
            Path(self.findings[what]).write_bytes(data)
            self.write()

    def write(self) -> None:
        result = {
            "cpu_seconds": round(time.process_time() - self.start),
            "executions": self.executions,
            "values": self.values,
            "slowest_seconds": round(self.slowest, 3),
            "more_megabytes": round(memory() - self.memory),
            "findings": [f"{what} ({file})" for what, file in self.findings.items()],
            "python": platform.python_version(),
        }
        Path("result.json").write_text(json.dumps(result))


def memory() -> float:
    """The most that the process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(name: str, minutes: float) -> None:
    import atheris

    sys.path[:0] = [str(HERE.parent)]
    # a clip's way leads through numba's code, which cannot be instrumented, and FFmpeg's, which is not
    guided = atheris.instrument_imports(include=INSTRUMENTED) if name != "video" else contextlib.nullcontext()
    with guided:
        from fuzz.parsers import PARSERS, parse, seeds_of

    corpus = Path("corpus")
    corpus.mkdir(exist_ok=True)
    for data in seeds_of(name):
        Path(corpus, hashlib.blake2b(data, digest_size=6).hexdigest()).write_bytes(data)
        parse(name, data)  # what is imported when it is needed is there now
    Path("result.json").unlink(missing_ok=True)
    run = Run(name, minutes)
    options = [f"-max_len={PARSERS[name].largest}", "-rss_limit_mb=4096", "-timeout=60", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
