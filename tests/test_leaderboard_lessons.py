"""What leaderboards teach, on numbers made by hand."""

import numpy as np
import pytest

from benchmarks.leaderboard_lessons import LESSONS, first, lessons
from captum_extract_aggregate.evaluation import Board, Line
from captum_extract_aggregate.evaluation.choice.standing import COLUMNS

RISING = np.linspace(0, 0.1, 16)
METHODS = {"good": 0.7, "blind": 0.6, "poor": 0.1}
NULLS = {"random map": 0.25, "centre": 0.3, "edges": 0.2}


def made(title, same=(), **changed):
    lines = [Line(name, "late", shares={"early": 0.2, "late": 0.3}) for name in METHODS]
    lines += [Line(name, "input", is_null=True) for name in NULLS]
    up = {name: level + RISING for name, level in (METHODS | NULLS).items()}
    down = {"good": 0.2 + RISING, "blind": 0.9 + RISING / 2, "poor": 0.3 + RISING, "random map": RISING}
    down |= {"centre": 1 + RISING * 0, "edges": 1 + RISING * 0}
    values = {m: up if column.better == "higher" else down for m, column in COLUMNS.items()}
    values["milliseconds"] = {"good": np.array([9.0]), "blind": np.array([5.0]), "poor": np.array([7.0])}
    values = {m: v for m, v in {**values, **changed}.items() if v is not None}
    return Board(title, tuple(lines), values, same=dict(same))


def test_every_sentence_is_made_from_the_numbers():
    told = lessons([made("A"), made("B")])
    assert len(told) == len(LESSONS) - 2  # three methods have no order to compare, and none are Captum's
    grids, objects, gain, contrast, classes, learned, chance, simple, layers, times = told
    best = (
        "good at late, 0.75 (0.73 to 0.76; 0 cannot be told from it); 2 of 3 are certainly better than every map that "
    )
    best += "knows nothing, 1 certainly worse than one"
    assert f"The best is, on A, {best}; on B, {best}." in grids
    assert f"{best}, and 1 have less than the centre's 0.35" in objects
    assert best in gain
    assert best in contrast
    assert "on A, 1 of 3, above all blind (0.93)" in classes
    assert "on A, 1 of 3 (blind)" in learned
    assert "on A, 0.05 (the best method 0.25) and 0.05 (the best method 0.25)" in chance
    assert "on A, 1 of 3; on B, 1 of 3 methods" in simple
    assert "on A, late 3; on B, late 3" in layers
    assert "on A, 5 ms (blind) to 9 ms (good)" in times


def test_where_captums_guided_backprop_is_the_gradient():
    same = {"captum:GuidedBackprop": "captum:Saliency"}
    (told,) = [lesson for lesson in lessons([made("A", same), made("B")]) if "GuidedBackprop" in lesson]
    assert "is Captum's Saliency on A**" in told


def test_what_is_not_run_yet_is_not_told():
    told = lessons([made("A", symmetric_relevance_gain=None)])
    assert not any("SRG" in lesson for lesson in told)
    text = first([made("A", symmetric_relevance_gain=None), made("B")])
    assert text.startswith(
        "Over all networks and questions it cannot be told yet: not all of them are run. So far good"
    )
    assert "\n- A: Take good at late first: it passes 5 of 5 questions, the most" in text
    assert "(Without SRG, which are not run yet.)" in text


@pytest.mark.parametrize(
    ("boards", "answer"),
    [
        ([made("A"), made("B")], "Yes, with the limits below: good, on each of the 2 networks."),
        ([made("A"), made("B", same={"good": "blind"})], "No: there is none"),
        ([made("A")], "Over all networks and questions it cannot be told yet"),
    ],
)
def test_which_to_take_first(boards, answer):
    assert first(boards).startswith(answer)
