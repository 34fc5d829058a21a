"""`motiontune schema`: the keys of a training YAML as JSON Schema, for editors that complete and check them."""

import argparse
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from motiontune.errors import in_one_line
from motiontune.files import claim, write_text


DESCRIPTION = """Print a JSON Schema of all keys of a training YAML, LLaMA-Factory's and motiontune's.

An editor with YAML's language server reads it where the first line of a YAML is
# yaml-language-server: $schema=motiontune.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--out", metavar="FILE", help="write it to a file instead")


def run(arguments: argparse.Namespace) -> None:
    """Print or write the schema.

    Raises:
        OutputError: if the file cannot be written.
    """
    text = json.dumps(schema(), indent=1) + "\n"
    if arguments.out is None:
        print(text, end="")
        return
    out = Path(arguments.out)
    claim(out.parent, [out])
    write_text(out, text)


def schema() -> dict[str, Any]:
    """The schema, from the argument classes that a training YAML is read into."""
    from motiontune.llamafactory import names
    from motiontune.llamafactory.install import install

    install()
    keys: dict[str, Any] = {}
    for each in names.train_argument_classes():
        hints = get_type_hints(each)
        keys |= {field.name: _key(field, hints[field.name]) for field in fields(each) if field.init}
    shared: dict[str, Any] = {}
    for key in keys.values():
        shared |= key.pop("$defs", {})  # references are read from the top
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "motiontune train",
        "type": "object",
        "properties": dict(sorted(keys.items())),
        "additionalProperties": False,
        "$defs": shared,
    }


def _key(field: Any, hint: Any) -> dict[str, Any]:
    """One key: its type where JSON has one, its default and its help text."""
    from pydantic import PydanticUserError, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        found = TypeAdapter(hint).json_schema()
    except (PydanticUserError, PydanticSchemaGenerationError):
        found = {}  # a type of a library's own, such as torch's: anything goes
    help_text = field.metadata.get("help")
    if help_text:
        found["description"] = in_one_line(ValueError(help_text))
    if field.default is not MISSING and isinstance(field.default, str | int | float | bool | None):
        found["default"] = getattr(field.default, "value", field.default)
    return found
