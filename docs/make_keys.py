"""Write docs/keys.md again from the help texts of motiontune's keys.

python docs/make_keys.py
"""

from pathlib import Path

from motiontune.llamafactory.arguments import OWN_KEYS, help_of


PAGE = Path(__file__).parent / "keys.md"
HEAD = """\
# The keys

What motiontune adds to LLaMA-Factory's keys. `docs/make_keys.py` makes this page from the texts that
`motiontune train --help-all` prints. Everything that `llamafactory-cli train` takes is taken as well.
[motion.md](motion.md) explains the sources of motion, [design.md](design.md) what is refused with what.

| key | default | |
|---|---|---|
"""


def page() -> str:
    """The page, with a row for each key."""
    rows = []
    for key, default in OWN_KEYS.items():
        shown = "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        rows.append(f"| `{key}` | {shown} | {help_of(key).replace('|', '/')} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
