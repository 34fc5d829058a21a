"""Something-Something's templates: which of them does an answer follow?

An answer follows a template if, in lower case, without punctuation and with single spaces, it is the template with any
words, at least one, in the place of each placeholder. Where it follows several, the one with the most words outside of
its placeholders counts, then the one with the fewest placeholders, then the first in the alphabet: for "pushing a cup
from left to right" it is "Pushing [something] from left to right" and not "Pushing [something]".
"""

import re
from collections.abc import Iterable

from motiontune.errors import ConfigError
from motiontune.limits import read_json


_PLACEHOLDER = re.compile(r"\[[^\]]*\]")
_ANY_WORDS = r"\S(?:.*?\S)?"
_PUNCTUATION = re.compile(r"[,.;:!?\"]")


def plain(text: str) -> str:
    """Lower case, single spaces, no punctuation."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def without_brackets(template: str) -> str:
    """The name of a template in labels.json, where placeholders have no brackets."""
    return plain(template.replace("[", "").replace("]", ""))


class Templates:
    """Finds the template that an answer follows.

    Args:
        templates: such as "Pushing [something] from left to right", as the annotations have them. Those of
            labels.json have no brackets: there each "something" is a placeholder.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        names = {without_brackets(one): one for one in sorted(templates, key=lambda one: "[" in one)}
        rules = []
        for name, template in names.items():
            text = template if "[" in template else re.sub(r"\bsomething\b", "[something]", plain(template))
            parts = [plain(part) for part in _PLACEHOLDER.split(text)]
            words = sum(len(part.split()) for part in parts)
            between = [piece for part in parts for piece in (re.escape(part), _ANY_WORDS) if piece][:-1]
            rules.append(((-words, len(parts), name), re.compile(" ".join(between))))
        self._rules = sorted(rules, key=lambda rule: rule[0])

    def __len__(self) -> int:
        return len(self._rules)

    def find(self, answer: str) -> str | None:
        """The name of the template that an answer follows, without brackets and in lower case; None without one."""
        text = plain(answer)
        return next((key[-1] for key, rule in self._rules if rule.fullmatch(text)), None)


def read_templates(file: str) -> list[str]:
    """The templates of a labels.json.

    Raises:
        ConfigError: if the file cannot be read or maps no templates to numbers.
    """
    try:
        labels = read_json(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--templates {file} cannot be read: {error}") from error
    if not isinstance(labels, dict) or not labels:
        raise ConfigError(f"--templates {file} is not a labels.json: it must map templates to class numbers")
    return list(labels)
