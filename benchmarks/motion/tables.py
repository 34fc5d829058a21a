"""Write the tables of README.md again from results/accuracy.json: `python benchmarks/motion/tables.py`."""

import json
from pathlib import Path
from typing import Any


FOLDER = Path(__file__).parent
BEGIN, END = "<!-- accuracy: begin -->\n", "<!-- accuracy: end -->\n"


def accuracy_table(results: dict[str, Any]) -> str:
    """EPE of the valid patches (and their share), a row for each encoding and a column for each source."""
    rows = results["summaries"]
    names = {(row["source"], row["quality"]): None for row in rows}
    lines = ["| 0.5 s apart | " + " | ".join(f"{source} {quality or ''}".strip() for source, quality in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for encoding in dict.fromkeys(row["encoding"] for row in rows):
        cells = []
        for name in names:
            found = [
                row
                for row in rows
                if (row["source"], row["quality"], row["encoding"], row["gap"]) == (*name, encoding, "0.5 s")
            ]
            cells.append(f"{found[0]['epe_valid']:.2f} ({found[0]['valid_share']:.0%})" if found else "-")
        lines.append(f"| {encoding} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_table(text: str, results: dict[str, Any]) -> str:
    """README.md's text with the table of these results."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + accuracy_table(results) + END + rest.split(END)[1]


if __name__ == "__main__":
    readme = FOLDER / "README.md"
    results = json.loads((FOLDER / "results/accuracy.json").read_text("utf-8"))
    readme.write_text(with_table(readme.read_text("utf-8"), results), "utf-8")
