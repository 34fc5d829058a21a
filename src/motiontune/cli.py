"""The command line: which command, and how an error becomes one line and an exit code."""

import argparse
import importlib
import importlib.metadata
import os
import sys
from typing import Any

from motiontune.commands import COMMANDS, parser_of
from motiontune.errors import check_extra, exit_with_message
from motiontune.terminal import take_verbose


SLOW = ("train", "inspect", "predict", "evaluate", "view", "webui", "export", "schema", "demo")
"""Commands that load torch, and LLaMA-Factory."""

HELP = {"-h", "--help", "--help-all"}

LLAMAFACTORYS = ("api", "chat", "env", "version", "webchat")
"""Commands of `llamafactory-cli` that have nothing to do with motion."""


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        print(f"motiontune {importlib.metadata.version('motiontune')}")
        parser.exit()


def run_command(name: str, words: list[str]) -> None:
    """Run one command.

    Args:
        name: one of COMMANDS.
        words: what follows it on the command line.

    Raises:
        MotiontuneError: on a mistake of the user's.
    """
    words = take_verbose(words)
    if name in SLOW and not HELP & set(words):
        check_extra(name)
    waits = not HELP & set(words) and "torch" not in sys.modules
    if name == "view" and not any(word.startswith("--model") for word in words):
        waits = False  # a viewer without a model loads none of them
    if name in SLOW and words and waits and os.environ.get("RANK", "0") == "0":
        print(f"motiontune {name}: loading torch, transformers and LLaMA-Factory ...", file=sys.stderr, flush=True)
    command = importlib.import_module(f"motiontune.commands.{name}")
    if getattr(command, "TAKES_KEYS", False):
        words = ["--", *words]  # LLaMA-Factory's own parser reads what looks like options
    command.run(parser_of(name).parse_args(words))


def main() -> None:
    """Entry point of the `motiontune` command."""
    parser = argparse.ArgumentParser(
        "motiontune",
        description="Teach video-language models to see motion.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
        + "\n\n--verbose behind a command prints what all libraries print, which train and evaluate keep in a log.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="`motiontune command --help` lists them")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data loader workers fork after tokenizing
    if len(sys.argv) < 2:
        parser.print_help(sys.stderr)
        sys.exit(2)
    if sys.argv[1] in LLAMAFACTORYS:
        parser.exit(2, f"motiontune: {sys.argv[1]} is a command of LLaMA-Factory: llamafactory-cli {sys.argv[1]}\n")
    args = parser.parse_args()
    exit_with_message(lambda: run_command(args.command, args.arguments))


if __name__ == "__main__":
    main()
