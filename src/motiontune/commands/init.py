"""`motiontune init`: write the examples of training YAMLs, to begin with."""

import argparse
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from motiontune.files import claim, write_text
from motiontune.tables import text_table


DESCRIPTION = "Write example YAMLs: training, prediction and export, with motion."
FIRST = "qwen2vl_lora_motion.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", nargs="?", default="examples", help="where to (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write the examples and print what each is.

    Raises:
        OutputError: if another file is in the way.
    """
    out, source = Path(arguments.folder), examples()
    found = sorted(_files(source))
    if not (out.is_dir() and os.path.samefile(out, source)):  # in the repository they are there already
        claim(out, [out / name for name in found])
        for name in found:
            write_text(out / name, (source / name).read_text("utf-8"))
    rows = [(str(out / name), _comment(source / name)) for name in found if name.endswith(".yaml") and "/" not in name]
    print(text_table(rows))
    print("\nPut your model and data set in, look at what training will see, and train:\n")
    print(f"  motiontune inspect {out / FIRST}\n  motiontune train {out / FIRST}")


def examples() -> Path:
    """The folder of the examples: in the package, or in the repository that this is run from."""
    package = Path(str(files("motiontune")))
    inside = package / "examples"
    return inside if inside.is_dir() else package.parents[1] / "examples"


def _files(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name != "__pycache__":
            yield file.relative_to(folder).as_posix()


def _comment(file: Path) -> str:
    """What a YAML is for, from its first line."""
    first = file.read_text("utf-8").partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""
