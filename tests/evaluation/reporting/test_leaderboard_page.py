"""The page of leaderboards: its rows, marks and words."""

import re

import numpy as np

from captum_extract_aggregate.evaluation import Board, Line
from captum_extract_aggregate.evaluation.reporting.leaderboard_page import write_leaderboard

RISING = np.linspace(0, 0.1, 16)
LINES = (
    Line("good <b>", "late", shares={"early": 0.25, "late": None}, maps="data:image/jpeg;base64,AAAA"),
    Line("poor", "input"),
    Line("edges", "input", is_null=True),
)
GRIDS = {"good <b>": np.append(0.6 + RISING, np.nan), "poor": np.append(0.1 + RISING, 0.1), "edges": np.full(17, 0.25)}


def test_every_number_stands_with_its_interval_and_marks(tmp_path):
    board = Board(
        "a network", LINES, {"grid_pointing_game": GRIDS}, {"legrad": "no attention"}, {"cam": "poor"}, ("cat",), 9
    )
    text = write_leaderboard(tmp_path / "page.html", [board, Board("another", LINES[1:])]).read_text(encoding="utf-8")
    rows = re.findall(r"<tr.*?</tr>", text.split("<h2")[1], re.DOTALL)
    assert len(rows) == 4
    head, good, poor, edges = rows
    assert "grid pointing ↑<br><small>n = 17</small>" in head
    assert "good &lt;b&gt;" in good
    assert 'title="early 0.250, late undefined"' in good
    assert 'class="best"' in good
    assert "★" in good
    assert "✓" in good
    assert "1 undefined" in good
    assert re.search(r'data-value="0.65\d*"', good)
    assert 'alt="Maps of good &lt;b&gt; at late: cat"' in good
    assert "✗" in poor
    assert "= cam" in poor
    assert 'class="null"' in edges
    assert "★" not in edges
    assert "Not run yet: mass on object, SRG" in text
    assert "legrad: no attention" in text
    assert "Layers were chosen by 9 grids" in text
    assert "http" not in text.replace("http-equiv", "")  # it needs nothing else
