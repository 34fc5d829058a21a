"""Tables of text, for terminals."""

from collections.abc import Sequence

from motiontune.errors import escaped


def text_table(
    rows: Sequence[Sequence[str]],
    align: str = "",
    *,
    least: Sequence[int] = (),
    rule: bool = False,
    measured: Sequence[Sequence[str]] | None = None,
) -> str:
    """Lay rows out in columns with two spaces between them, no space at the end of a line; a cell stays in its line.

    Args:
        rows: cells of each line; lines may have different numbers of them.
        align: "<" (left) or ">" (right) for each column; further columns are left-aligned.
        least: columns are at least so wide.
        rule: draw a line below the first row.
        measured: the rows whose cells make columns as wide as they are; cells of others may be longer. None is all.
    """
    rows = [[escaped(cell) for cell in row] for row in rows]
    measured = None if measured is None else [[escaped(cell) for cell in row] for row in measured]
    count = max((len(row) for row in rows), default=0)
    align, least = align.ljust(count, "<"), [*least, *[0] * count][:count]
    cells = rows if measured is None else measured
    widths = [max([low, *(len(row[i]) for row in cells if len(row) > i)]) for i, low in enumerate(least)]
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=False)).rstrip()
        for row in rows
    ]
    if rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def shorten_middle(text: str, width: int) -> str:
    """Cut the middle out of a text of more than `width` letters, 3 or more."""
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]}...{text[len(text) - half :]}"
