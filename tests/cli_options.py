"""The options of every command, as `tests/data/cli_options.json` has them.

A change there is a change of the interface: `python tests/cli_options.py` writes the file again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from motiontune import cli


FILE = Path(__file__).parent / "data" / "cli_options.json"


def options() -> dict[str, Any]:
    """{command: {option's names: default, choices, number of values, whether it is required}}."""
    return {name: _of(cli.parser_of(name)) for name in cli.COMMANDS}


def _of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for action in parser._actions:  # argparse has no public way to list them
        if isinstance(action, argparse._SubParsersAction):
            found |= {f"{{{name}}}": _of(one) for name, one in action.choices.items()}
        elif not isinstance(action, argparse._HelpAction):
            about: dict[str, Any] = {"default": None if action.default == argparse.SUPPRESS else action.default}
            about |= {"choices": list(action.choices)} if action.choices else {}
            about |= {"values": action.nargs} if action.nargs is not None else {}
            about |= {"type": action.type.__name__} if isinstance(action.type, type) else {}
            about |= {"required": True} if action.option_strings and action.required else {}
            found[" ".join(action.option_strings) or action.dest] = about
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(options(), indent=1) + "\n", "utf-8")
