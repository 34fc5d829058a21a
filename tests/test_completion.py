"""`motiontune completion bash`, as bash uses it."""

import re
import subprocess
from pathlib import Path

import pytest

from motiontune.commands import COMMANDS
from motiontune.commands.completion import DESCRIPTION, SHELLS


COMPLETE = """
source {script}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_motiontune
echo "${{COMPREPLY[*]}}"
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """What bash offers for words, of which the last is being typed, in a folder of two files."""
    from motiontune.commands.completion import script

    folder = tmp_path_factory.mktemp("completion")
    (folder / "script").write_text(script("bash"))
    for name in ("run_a.yaml", "run_b.yaml"):
        (folder / name).touch()

    def offered(*words):
        command = ["bash", "-c", COMPLETE.format(script=folder / "script"), "bash", "motiontune", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return offered


def test_commands_options_words_and_files_are_completed(complete):
    assert complete("") == list(COMMANDS)
    assert complete("ex") == ["extract", "export"]
    assert complete("extract", "--mo") == ["--model"]
    assert sorted(complete("train", "run_")) == ["run_a.yaml", "run_b.yaml"]
    assert complete("extract", "--direction", "f") == ["future"]
    assert complete("prepare", "motion") == ["motion-questions"]
    assert complete("view", "--port", "") == []


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_get_a_script_of_all_commands(shell):
    from motiontune.commands.completion import script

    assert all(name in script(shell) for name in COMMANDS)


def test_the_header_and_the_docs_name_the_same_folders():
    docs = Path(__file__).resolve().parent.parent / "docs/install.md"
    told = [set(re.findall(r"motiontune completion (\w+) > (\S+)", text)) for text in (DESCRIPTION, docs.read_text())]
    assert told[0] == told[1] and sorted(shell for shell, _ in told[0]) == sorted(SHELLS)
