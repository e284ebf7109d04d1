"""Tables as text, for terminals and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def aligned(header: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Returns the lines of a table: the header, a line below it, and the rows, in columns as wide as they need."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
