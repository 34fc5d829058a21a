"""`motiontune completion`: what a shell needs to complete commands, options and files."""

import argparse

from motiontune.commands import COMMANDS, parser_of


DESCRIPTION = """Print a script that lets a shell complete motiontune's commands, options and files.

bash:  mkdir -p ~/.local/share/bash-completion/completions
       motiontune completion bash > ~/.local/share/bash-completion/completions/motiontune
       (read by the package bash-completion; without it: `source` that file in ~/.bashrc)
zsh:   mkdir -p ~/.zfunc
       motiontune completion zsh > ~/.zfunc/_motiontune
       (with `fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit` in ~/.zshrc)
fish:  mkdir -p ~/.config/fish/completions
       motiontune completion fish > ~/.config/fish/completions/motiontune.fish
tcsh:  motiontune completion tcsh > ~/.motiontune.tcsh
       (with `source ~/.motiontune.tcsh` in ~/.tcshrc)

A new shell then has it.
"""


SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    print(script(arguments.shell))


def script(shell: str) -> str:
    """Make the script of a shell.

    Args:
        shell: of SHELLS.
    """
    import shtab

    whole = argparse.ArgumentParser("motiontune")
    whole.add_argument("--version", action="store_true", help="print the version")
    places = whole.add_subparsers()
    for name, text in COMMANDS.items():
        parser = parser_of(name)
        places.add_parser(name, help=text, parents=[parser], add_help=False, conflict_handler="resolve")
        _complete_files(parser)
    return str(shtab.complete(whole, shell))


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Complete files where an argument is neither a number nor one of some words."""
    import shtab

    for action in parser._actions:  # argparse has no public way to list them
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_files(inner)
        elif action.nargs != 0 and not action.choices and action.type not in (int, float):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
