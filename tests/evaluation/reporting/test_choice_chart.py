"""The picture of a choice."""

import math

import pytest

from captum_extract_aggregate.evaluation.choice.choosing import Answer, Candidate, Choice
from captum_extract_aggregate.evaluation.reporting.choice_chart import choice_figure


def answer(median, n=9):
    return Answer(median, median - 0.1, median + 0.2, n, 0, 0.01, "yes")


def candidate(name, x, other, up, n=9):
    answers = {
        "class_sensitivity": answer(x, n),
        "parameter_randomization": answer(other, n),
        "removal_contrast": answer(up, n),
        "grid_pointing_game": answer(up / 2, n),
    }
    return Candidate(name, "layer", answers, False)


def test_medians_the_larger_similarity_and_the_front():
    candidates = (candidate("a", 0.2, 0.3, 0.5), candidate("b", 0.6, 0.1, 0.9), candidate("c", 0.7, 0.7, 0.6))
    figure = choice_figure(Choice(candidates, candidates[0], (), (), (), 9))
    left, right = figure.axes
    front = next(line for line in left.lines if line.get_label() == "Pareto front")
    assert front.get_xydata().tolist() == [[0.3, 0.5], [0.6, 0.9]]
    ring = next(line for line in right.lines if line.get_label() == "recommended")
    assert ring.get_xydata()[0].tolist() == pytest.approx([0.3, 0.25])
    assert "removal contrast" in left.get_ylabel()
    bars = left.containers[0][2][0].get_segments()[0]
    assert bars.flatten().tolist() == pytest.approx([0.2, 0.5, 0.5, 0.5])  # the interval of the larger similarity


def test_maps_without_values_are_no_points():
    nothing = candidate("a", math.nan, math.nan, math.nan, n=0)
    figure = choice_figure(Choice((nothing, candidate("b", 0.2, 0.2, 0.2)), None, (), (), (), 9))
    assert [len(ax.containers) for ax in figure.axes] == [1, 1]
