"""A table, and how its cells are written: in Markdown, where text stays text, and in CSV, where no digit is lost."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


class Markdown(str):
    """Is a cell that is Markdown already; whatever else a table holds is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Holds a header, and rows of cells; rows may be an iterator, which is gone through once."""

    header: Sequence[str]
    rows: Iterable[Sequence[object]]

    def markdown(self) -> list[str]:
        """Returns the lines of the table, between empty ones."""
        cells = [[_cell(cell) for cell in row] for row in [self.header, *self.rows]]
        lines = [cells[0], ["---"] * len(self.header), *cells[1:]]
        return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]

    def write_csv(self, path: Path) -> Path:
        """Writes text in quotes and numbers by their repr, so that nothing is lost; undefined is `nan`.

        Text never begins as a formula does: see `_plain_cell`.
        """
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(self.header)
            writer.writerows([_plain_cell(value) for value in row] for row in self.rows)
        return path


def _cell(value: object) -> str:
    return str(value) if isinstance(value, Markdown) else escaped(value)


def _plain_cell(value: object) -> object:
    """Returns text, with an apostrophe in front where a spreadsheet would take it for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def escaped(text: object, keep: str = "") -> str:
    """Returns text as one line of Markdown, whatever it holds: no table cell, tag, link or emphasis comes of it.

    Characters in `keep`, such as backticks around code, stay as they are.
    """
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"[\\`*\[\]|~#$!]", lambda found: found[0] if found[0] in keep else "\\" + found[0], line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)


def number(value: float) -> str:
    """Returns a number with four digits; NaN is "undefined"."""
    if math.isnan(value):
        return "undefined"
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.3g}"


def number_with_spread(value: float, spread: float) -> str:
    """Returns a number, and its spread where that is defined."""
    return number(value) + ("" if math.isnan(spread) else f" ± {number(spread)}")


def p_value(value: float) -> str:
    """Returns two digits; NaN is "undefined"."""
    return "undefined" if math.isnan(value) else f"{value:.2g}"
