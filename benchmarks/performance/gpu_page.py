"""docs/performance_gpu.md: what `gpu.py` measured, a row for each network and batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.performance.timing import cell

STORED = Path(__file__).with_name("gpu.json")
_INTRODUCTION = "What is compared, and how, stands on the [page of the CPU](performance.md). Measured"
_PIVOTED = ("Maps over", "Over a plain")


def gpu_page(stored: Path = STORED) -> str:
    """Returns the tables: medians of ratios, and the milliseconds of the bare passes."""
    if not stored.exists():
        return ""
    found = json.loads(stored.read_text(encoding="utf-8"))
    lines = ["# Speed and memory on a GPU", "", f"{_INTRODUCTION} {found['machine']}.", ""]
    for section in dict.fromkeys(row["section"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["section"] == section]
        table = _pivoted(rows) if section.startswith(_PIVOTED) else _listed(rows)
        lines += [f"## {section}", "", *table, ""]
    return "\n".join(lines)


def _listed(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| | median (range) |", "|---|---|"]
    return lines + [f"| {row['case']}{'; ' * bool(row['note'])}{row['note']} | {cell(row)} |" for row in rows]


def _pivoted(rows: list[dict[str, Any]]) -> list[str]:
    """A row for each network and batch, a column for each method."""
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        method, network, batch = row["case"].rsplit(", ", 2)
        baseline, _, milliseconds = row["note"].removesuffix(" ms").rpartition(" ")
        columns = table.setdefault(f"{network}, {batch}", {f"{baseline}, ms": milliseconds})
        columns[method] = f"{row['median']:.2f}"
    names = list(dict.fromkeys(name for columns in table.values() for name in columns))
    lines = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    return lines + [
        f"| {case} | {' | '.join(columns.get(name, '') for name in names)} |" for case, columns in table.items()
    ]
