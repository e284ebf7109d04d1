"""A leaderboard of numbers made by hand: what to take first, its table, and its files."""

import json

import numpy as np
import pytest

from captum_extract_aggregate.evaluation import Board, Line
from captum_extract_aggregate.evaluation.choice.board import boards_in
from captum_extract_aggregate.evaluation.explained import MethodAtLayer

RISING = np.linspace(0, 0.1, 16)
LINES = (
    Line("good", "late", shares={"early": 0.3, "late": 0.5, "none": None}),
    Line("blind", "early"),
    Line("poor", "input"),
    Line("edges", "input", is_null=True),
)
GRIDS = {"good": 0.6 + RISING, "blind": 0.7 + RISING, "poor": 0.1 + RISING, "edges": 0.25 + RISING * 0}
ALIKE = {"good": 0.1 + RISING, "blind": 0.9 + RISING / 2, "poor": 0.2 + RISING, "edges": 1 + RISING * 0}


def board(**values):
    return Board("a network", LINES, values, {"legrad": "no attention"}, {"hirescam": "good"}, ("cat",), 12)


def test_what_to_take_first_passes_the_most_and_fails_nothing():
    both = board(grid_pointing_game=GRIDS, class_sensitivity=ALIKE)
    assert both.first() == ["good"]
    told = "Take good at late first: it passes 2 of 2 questions, the most, and certainly fails none."
    assert both.sentence == told
    assert board(grid_pointing_game=GRIDS).first() == ["blind", "good"]  # the best mean rank first
    assert board(grid_pointing_game=GRIDS).sentence == (
        "Take one of blind at early, good at late: each passes 1 of 1 questions, the most, and certainly fails none "
        "(in the order of their mean ranks)."
    )
    assert board(sparseness=GRIDS).first() == []
    assert board(sparseness=GRIDS).sentence == "No question was asked of these maps."
    assert "Take none" in board(grid_pointing_game=dict.fromkeys(GRIDS, GRIDS["edges"])).sentence


def test_ranks_are_over_what_asks_and_undefined_is_last():
    grids = GRIDS | {"blind": GRIDS["blind"] * np.nan}
    ranks = board(grid_pointing_game=grids, sparseness=GRIDS, class_sensitivity=ALIKE).mean_ranks()
    assert ranks == {"good": 1.0, "blind": 3.0, "poor": 2.0}
    grids = GRIDS | {"blind": np.where(np.arange(16) < 7, 0.9, np.nan)}  # undefined on more than half
    assert board(grid_pointing_game=grids).mean_ranks() == {"good": 1.0, "blind": 3.0, "poor": 2.0}


def test_the_table_has_the_nulls_last_and_says_what_is_undefined():
    grids = GRIDS | {"blind": GRIDS["blind"] * np.nan}
    made = board(grid_pointing_game=grids, class_sensitivity=ALIKE)
    rows = made.table().rows
    assert [row[0] for row in rows] == ["good", "poor", "blind", "edges"]
    assert rows[0][2].endswith("] * yes")
    assert rows[2][2] == "undefined"
    assert rows[2][3].endswith("NO")
    assert "hirescam gives the maps of good." in str(made)
    assert "legrad is left out: no attention" in str(made)


def test_measured_values_come_under_their_methods():
    made = board().with_values({"sparseness": {MethodAtLayer("good", "late"): RISING}, "completeness_gap": {}})
    assert made.measures == ["sparseness"]
    assert made.values["sparseness"]["good"] is RISING


def test_files_hold_all_of_it(tmp_path):
    made = board(grid_pointing_game=GRIDS | {"poor": np.array([0.123456, np.nan] * 8)})
    paths = made.write(tmp_path / "out")
    assert [path.name for path in paths] == ["leaderboard.json", "leaderboard.txt", "leaderboard.html"]
    (again,) = boards_in(paths[:1])
    assert again.lines == made.lines
    assert again.shown == made.shown
    assert again.same == made.same
    np.testing.assert_allclose(again.values["grid_pointing_game"]["good"], GRIDS["good"], rtol=1e-4)
    assert json.loads(paths[0].read_text())["values"]["grid_pointing_game"]["poor"][:2] == [0.12346, None]
    assert paths[1].read_text() == f"{made}\n"


def test_a_file_of_something_else():
    with pytest.raises(ValueError, match="content is no leaderboard"):
        Board.from_dict({"lines": []})
