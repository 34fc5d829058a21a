"""`motiontune train`: fine-tune as LLaMA-Factory does, with motion at the video tokens."""

import argparse
import textwrap

from motiontune.commands.options import add_keys, asks_for_keys
from motiontune.terminal import run_terminal


DESCRIPTION = """motiontune train cfg.yaml [key=value ...]      or      motiontune train --key value ...

Takes everything that `llamafactory-cli train` takes, and motiontune's own keys. After a file, key=value overrides.
--verbose prints what all libraries print, which goes to train.log in output_dir otherwise.
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
    if asks_for_keys(words):
        print(DESCRIPTION)
        _print_own_keys()
        _launch(["--help"])
    with run_terminal() as terminal:
        terminal.show(f"Reading {words[0]} ..." if words[0].endswith(CONFIGURATIONS) else "Reading the arguments ...")
        _launch(words)


def _launch(words: list[str]) -> None:
    from motiontune.llamafactory.launcher import launch  # takes 20 s, before which something is shown

    launch(words)


def _print_own_keys() -> None:
    from motiontune.llamafactory.arguments import OWN_KEYS, help_of

    print("motiontune's own keys:\n")
    for key, default in OWN_KEYS.items():
        print(f"  {key}: {'null' if default is None else str(default).lower()}")
        print(textwrap.fill(help_of(key), 100, initial_indent="      ", subsequent_indent="      "))
    print("\nAll keys:\n")
