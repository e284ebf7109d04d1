"""Leaderboards as one page: tables that can be sorted, with maps; it needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captum_extract_aggregate.evaluation.choice.board import Board
from captum_extract_aggregate.evaluation.choice.choosing import LEVEL
from captum_extract_aggregate.evaluation.choice.standing import COLUMNS, Standing
from captum_extract_aggregate.visualization.page_templates import render

# What a cell is marked by, in words that need no colour.
PLACES = {"best": "★", "not told from the best": "≈"}
VERDICTS = {"passes": "✓", "fails": "✗", "cannot be told": "?"}


def write_leaderboard(path: Path, boards: Sequence[Board], title: str = "Leaderboard") -> Path:
    """Writes the leaderboards of one network or of several, and returns the path.

    Args:
        path: an .html file.
        boards: a table each.
        title: the page's heading.
    """
    text = render(
        __package__,
        "leaderboard.html",
        title=title,
        boards=[_board(board) for board in boards],
        columns=[(c.name, c.told, f"{c.better} is better") for c in COLUMNS.values()],
        places=PLACES,
        verdicts=VERDICTS,
        level=LEVEL,
    )
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _board(board: Board) -> dict[str, Any]:
    """Returns what the template shows of a network."""
    found, ranks = board.standings, board.mean_ranks()
    ordered = sorted(board.lines, key=lambda line: (line.is_null, ranks.get(line.method, np.inf)))
    rows = []
    for line in ordered:
        cells = [_cell(found[m].get(line.method)) for m in board.measures]
        rank = ranks.get(line.method, np.nan)
        rows.append(
            {
                "method": line.method,
                "layer": line.layer,
                "shares": _shares(line.shares),
                "is_null": line.is_null,
                "maps": line.maps,
                "alt": f"Maps of {line.method} at {line.layer}: {', '.join(board.shown)}",
                "same": [name for name, other in board.same.items() if other == line.method],
                "cells": cells,
                "rank": "" if np.isnan(rank) else f"{rank:.1f}",
            }
        )
    return {
        "title": board.title,
        "sentence": board.sentence,
        "shown": board.shown,
        "columns": [(COLUMNS[m].name, _direction(m), _n(board, m)) for m in board.measures],
        "rows": rows,
        "missing": [c.name for m, c in COLUMNS.items() if m not in board.values],
        "choosing": board.choosing,
        "left_out": sorted(board.left_out.items()),
    }


def _direction(measure: str) -> str:
    return "↑" if COLUMNS[measure].better == "higher" else "↓"


def _n(board: Board, measure: str) -> int:
    return max((len(v) for v in board.values[measure].values()), default=0)


def _shares(shares: Any) -> str:
    told = [f"{layer} {'undefined' if share is None else f'{share:.3f}'}" for layer, share in shares.items()]
    return ", ".join(told)


def _cell(standing: Standing | None) -> dict[str, Any] | None:
    if standing is None:
        return None
    return {
        "value": repr(standing.mean) if standing.n else "",
        "text": f"{standing.mean:.3g}" if standing.n else "undefined",
        "interval": f"{standing.low:.3g} to {standing.high:.3g}" if standing.n else "",
        "undefined": standing.undefined,
        "place": standing.place,
        "verdict": standing.verdict,
    }
