"""Lay out the pages of the documentation's site in build/site_source: `make site` then builds it.

    python docs/make_site.py                   the notebooks are run, which takes some minutes
    python docs/make_site.py --no-notebooks    they are shown without output

The pages are the repository's, in their own places, so that each link in them holds. What is made here: the notebooks'
output, pages of the Python names, and one of the commands' help.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import motiontune
import motiontune.training
from motiontune.cli import COMMANDS, run_command


ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "build" / "site_source"
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "examples/**/*.md", "examples/*.ipynb"]
PAGES += ["benchmarks/**/*.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def main() -> None:
    """Write the folder anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--no-notebooks", action="store_true", help="show the notebooks without output")
    arguments = parser.parse_args()
    shutil.rmtree(SOURCE, ignore_errors=True)
    pages = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    for path in dict.fromkeys([*pages, *linked(pages)]):
        put(path.relative_to(ROOT), path.read_bytes())
    if not arguments.no_notebooks:
        for path in sorted(SOURCE.glob("examples/*.ipynb")):
            run_notebook(path)
    put("api/motiontune.md", names_page("motiontune", motiontune._PLACES).encode())
    put("api/training.md", names_page("motiontune.training", motiontune.training._PLACES).encode())
    put("api/commands.md", commands_page().encode())


def put(name: Path | str, content: bytes) -> None:
    """Write one file of the site's source."""
    path = SOURCE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def linked(pages: list[Path]) -> Iterator[Path]:
    """The files that pages link to and that are no pages: pictures, programs, configurations."""
    for page in pages:
        for link in LINK.findall(page.read_text("utf-8")):
            path = (page.parent / link).resolve()
            if "://" not in link and path.is_file() and path.suffix != ".md" and ROOT in path.parents:
                yield path


def run_notebook(path: Path) -> None:
    """Run a notebook in its place in the repository, and keep what it shows."""
    import nbformat
    from nbclient import NotebookClient

    print(f"{path.name} is being run ...", flush=True)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": ROOT / "examples"}}).execute()
    for cell in notebook.cells:  # without warnings of libraries, which name this machine's folders
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


def names_page(package: str, places: dict[str, str]) -> str:
    """A page of what users import from a package."""
    parts = [f"# {package}\n\nWhat `from {package} import ...` has.\n"]
    room = f"{package}." if package == "motiontune" else "motiontune.training."
    parts += [f"::: {room}{places[name]}.{name}\n" for name in sorted(places)]
    return "\n".join(parts)


def commands_page() -> str:
    """What each command's `--help` prints."""
    head = "# Commands\n\nWhat `motiontune COMMAND --help` prints; `train` has [keys](../docs/keys.md), too.\n"
    parts = [head]
    os.environ["COLUMNS"] = "100"  # of argparse's help
    for name, text in COMMANDS.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            run_command(name, ["--help"])
        parts.append(f"## {name}\n\n{text[0].upper()}{text[1:]}.\n\n```text\n{printed.getvalue().strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
