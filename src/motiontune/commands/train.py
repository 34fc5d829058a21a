"""`motiontune train`: fine-tune as LLaMA-Factory does, with motion at the video tokens."""

import argparse
import contextlib
import textwrap

from motiontune.commands.options import add_keys, asks_for_keys
from motiontune.runs.configuration import read_config
from motiontune.terminal import run_terminal


DESCRIPTION = """motiontune train cfg.yaml [key=value ...]      or      motiontune train --key value ...

Takes everything that `llamafactory-cli train` takes, and motiontune's own keys. After a file, key=value overrides.
--verbose prints what all libraries print, which goes to train.log in output_dir otherwise.
motiontune's own keys, with their defaults:
"""
TAKES_KEYS = True
CONFIGURATIONS = (".yaml", ".yml", ".json")


add_arguments = add_keys


def run(arguments: argparse.Namespace) -> None:
    """Train, or list all keys.

    Raises:
        ConfigError: on a file or a key that cannot be used.
    """
    words = arguments.arguments
    if "--help-all" in words:
        with contextlib.suppress(SystemExit):  # by which LLaMA-Factory's parser ends
            _launch(["--help"])
        _print_own_keys()
        return
    if asks_for_keys(words):
        print(DESCRIPTION)
        _print_short_help()
        return
    with run_terminal() as terminal:
        terminal.show(f"Reading {words[0]} ..." if words[0].endswith(CONFIGURATIONS) else "Reading the arguments ...")
        read_config(words)  # a wrong path shows at once
        _launch(words)


def _launch(words: list[str]) -> None:
    from motiontune.llamafactory.launcher import launch  # takes 20 s, before which something is shown

    launch(words)


def _print_own_keys() -> None:
    from motiontune.llamafactory.arguments import OWN_KEYS, help_of

    print("\nmotiontune's own keys:\n")
    for key, default in OWN_KEYS.items():
        print(f"  {key}: {'null' if default is None else str(default).lower()}")
        print(textwrap.fill(help_of(key), 100, initial_indent="      ", subsequent_indent="      "))


def _print_short_help() -> None:
    from motiontune.llamafactory.arguments import OWN_KEYS, help_of

    width = max(map(len, OWN_KEYS)) + 2
    for key, default in OWN_KEYS.items():
        about = f"{'null' if default is None else str(default).lower()}. {help_of(key)}"
        print(f"{key:{width}}{textwrap.shorten(about, 119 - width, placeholder=' ...')}")
    print("\n--help-all prints LLaMA-Factory's keys, and these in full")
