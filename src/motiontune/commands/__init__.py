"""The commands of `motiontune`, one file each."""

import argparse
import importlib


COMMANDS = {
    "init": "write example YAMLs to begin with",
    "train": "fine-tune a Qwen-VL model, as llamafactory-cli train, with motion at its video tokens",
    "inspect": "show what training will see: every variable of a batch, and pictures of the targets",
    "extract": "write the motion of clips to files, with pictures to look at",
    "select": "choose clips by their motion, and write a data set of them",
    "predict": "predict text and motion of clips, as files and films",
    "evaluate": "measure a model's text and motion over a data set, with intervals",
    "view": "look through clips, their motion and a model's, in the browser",
    "webui": "start LLaMA-Factory's page in the browser, to train there with motion",
    "report": "write one page about a run: curves, metrics, best and worst clips, configuration",
    "export": "merge an adapter into its model and carry the motion head along",
    "prepare": "bring a data set (something-something) into LLaMA-Factory's format, or make one (motion-questions)",
    "schema": "print a JSON Schema of a training YAML, for editors",
    "completion": "print a script with which a shell completes commands, options and files",
    "demo": "train a tiny model on synthetic clips and show what it learned, in 3 minutes",
}
"""Each is a module of its name in `motiontune.commands`, and is imported when it is called."""


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command's arguments."""
    command = importlib.import_module(f"motiontune.commands.{name}")
    takes_keys = getattr(command, "TAKES_KEYS", False)  # then `--help` is one more of them
    parser = argparse.ArgumentParser(f"motiontune {name}", description=command.DESCRIPTION, add_help=not takes_keys)
    command.add_arguments(parser)
    return parser
