"""The page of leaderboard.py's numbers: docs/leaderboard.md; its sortable tables are made with the documentation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.leaderboard_lessons import first, lessons
from captum_extract_aggregate.evaluation import Board, Standing
from captum_extract_aggregate.evaluation.choice.board import boards_in
from captum_extract_aggregate.evaluation.choice.standing import COLUMNS
from captum_extract_aggregate.evaluation.reporting.leaderboard_page import PLACES, VERDICTS

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "leaderboard"
TEXT = Path(__file__).parent / "leaderboard_text.md"


def write(folder: Path, names: Sequence[str]) -> None:
    """Copies the results of a folder of runs beside the page, and writes it.

    What began again with more pictures waits until it has every measure that is there.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in names:
        new, kept = _content(folder / name / "leaderboard.json"), RESULTS / f"{name}.json"
        if new and set(new["values"]) >= set(_content(kept).get("values", ())):
            kept.write_text(json.dumps(new, separators=(",", ":")) + "\n", encoding="utf-8")
    (DOCS / "leaderboard.md").write_text(page(boards_in(sorted(RESULTS.glob("*.json"))), names), encoding="utf-8")


def _content(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def page(boards: Sequence[Board], names: Sequence[str]) -> str:
    """Returns the page, with the networks that are not run yet named."""
    numbered = "\n".join(f"{k}. {lesson}" for k, lesson in enumerate(lessons(boards), 1))
    missing = [name for name in names if name not in {board.title for board in boards}]
    parts = [_text("head"), numbered, _text("first"), first(boards), _text("tables")]
    parts += [f"## {board.title}\n\n{table(board)}" for board in boards]
    parts += [f"## {name}\n\nNot run yet." for name in missing]
    return "\n\n".join([*parts, _text("how")]) + "\n"


def _text(part: str) -> str:
    """Returns what stands below a heading `<!-- part -->` of the text."""
    return TEXT.read_text(encoding="utf-8").split(f"<!-- {part} -->\n")[1].split("<!-- ")[0].strip()


def table(board: Board) -> str:
    """Returns the means with their marks, the best mean rank first."""
    found, ranks = board.standings, board.mean_ranks()
    counts = {m: max(len(v) for v in board.values[m].values()) for m in board.measures}
    header = ["method", "layer", *(f"{COLUMNS[m].name} (n = {counts[m]})" for m in board.measures), "mean rank"]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for line in sorted(board.lines, key=lambda line: (line.is_null, ranks.get(line.method, math.inf))):
        cells = [_cell(found[m].get(line.method)) for m in board.measures]
        same = [name for name, other in board.same.items() if other == line.method]
        name = f"{line.method} = {', '.join(same)}" if same else line.method
        rank = f"{ranks[line.method]:.1f}" if line.method in ranks else ""
        rows.append(f"| {f'*{name}*' if line.is_null else name} | {line.layer} | {' | '.join(cells)} | {rank} |")
    missing = [column.name for measure, column in COLUMNS.items() if measure not in board.values]
    told = [f"Not run yet: {', '.join(missing)}."] if missing else []
    out = "; ".join(f"{name} ({why.split('; expected')[0]})" for name, why in board.left_out.items())
    return "\n\n".join([*told, "\n".join(rows), *([f"Left out: {out}."] if out else [])])


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return ""
    if not standing.n:
        return f"undefined ({standing.undefined})"
    marks = PLACES.get(standing.place, "") + VERDICTS.get(standing.verdict, "")
    undefined = f" ({standing.undefined} undefined)" if standing.undefined else ""
    return f"{standing.mean:.2f} {marks}{undefined}".strip()
