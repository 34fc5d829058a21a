"""Which of Something-Something's templates an answer follows."""

import pytest

from motiontune.errors import ConfigError
from motiontune.evaluation.templates import Templates, read_templates, without_brackets


NAMES = [
    "Pushing [something]",
    "Pushing [something] from left to right",
    "Pushing [something] so that it falls off the table",
    "Putting [something], [something] and [something] on the table",
    "Putting [something] on the table",
    "[Something] falling like a rock",
    "Spinning [something] that quickly stops spinning",
    "Trying but failing to attach [something] to [something] because it doesn't stick",
    "Taking [one of many similar things on the table]",
]
RULES = Templates(NAMES)


@pytest.mark.parametrize(
    ("answer", "template"),
    [
        ("spinning cube that quickly stops spinning", NAMES[6]),
        ("Spinning  a blue CUBE that quickly stops spinning.", NAMES[6]),
        ("pushing a cup", NAMES[0]),
        ("pushing a cup from left to right", NAMES[1]),
        ("pushing a cup from right to left", NAMES[0]),
        ("pushing a cup so that it falls off the table", NAMES[2]),
        ("putting pen, cup and book on the table", NAMES[3]),
        ("putting pen on the table", NAMES[4]),
        ("a feather falling like a rock", NAMES[5]),
        ("trying but failing to attach a to b because it doesn't stick", NAMES[7]),
        ("taking one apple of many", NAMES[8]),
        ("spinning cube that stops spinning", None),
        ("spinning that quickly stops spinning", None),
        ("pushing", None),
        ("falling like a rock", None),
        ("respinning cube that quickly stops spinning", None),
        ("", None),
    ],
)
def test_the_template_of_an_answer(answer, template):
    assert RULES.find(answer) == (None if template is None else without_brackets(template))


def test_labels_json_has_no_brackets(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text('{"Pushing something from left to right": "0", "Something falling like a rock": "1"}')
    rules = Templates([*NAMES[:1], *read_templates(str(file))])
    assert len(rules) == 3 and len(Templates([*NAMES, *read_templates(str(file))])) == len(NAMES)
    assert rules.find("pushing a cup from left to right") == "pushing something from left to right"
    assert rules.find("leaf falling like a rock") == "something falling like a rock"
    for content in ("[]", "{", "{}"):
        file.write_text(content)
        with pytest.raises(ConfigError, match="labels.json"):
            read_templates(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_templates(str(tmp_path / "none.json"))
