"""The JSON Schema of a training YAML: it knows every key, passes every example, and finds mistakes."""

import json
from pathlib import Path

import pytest
import yaml

from commands import command
from training import start


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def schema():
    start()
    from motiontune.commands.schema import schema

    return schema()


def problems(schema, keys):
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(keys)]


def test_every_example_passes(schema):
    files = [file for file in EXAMPLES.glob("*.yaml") if "export" not in file.name]
    assert files
    for file in files:
        assert not problems(schema, yaml.safe_load(file.read_text())), file.name


def test_mistakes_are_found(schema):
    assert "motion_wieght" in problems(schema, {"motion_wieght": 1})[0]
    assert problems(schema, {"motion_direction": "sideways"})
    assert problems(schema, {"motion_pictures": "many"})
    assert not problems(schema, {"motion_dir": None, "learning_rate": 1.0e-4, "deepspeed": "zero3.json"})


def test_keys_have_their_texts_and_defaults(schema):
    from motiontune.llamafactory.arguments import OWN_KEYS

    for key, default in OWN_KEYS.items():
        found = schema["properties"][key]
        assert found["description"] and found["default"] == default
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_command_writes_it(schema, tmp_path, capfd):
    code, out, _ = command(capfd, "schema")
    assert code == 0 and json.loads(out) == schema
    (tmp_path / "mine.json").write_text("{}")
    assert command(capfd, "schema", "--out", tmp_path / "mine.json")[0] == 2
    assert command(capfd, "schema", "--out", tmp_path / "s.json")[0] == 0
    assert json.loads((tmp_path / "s.json").read_text()) == schema
