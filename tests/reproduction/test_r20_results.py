"""Results that several of R20's tables and figures read."""

import math

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction.r20_results import correlations, defined_mean, hits_of, methods_of
from tests.evaluation.hand_made import pointing_rows, value_rows, write


def test_hits_and_methods(tmp_path):
    hits = {("A", "l1"): [1, 0, 1, 0, 0], ("B", "l1"): [0, 0, 0, 0, 1], ("centre", "image"): [1, 0, 0, 0, 0]}
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits), methods=("A", "B"), layers=("l1",))
    assert methods_of(results) == ["A", "B"]
    assert list(hits_of(results, "A", "l1").values()) == [1, 0, 1, 0, 0]
    assert list(hits_of(results, "B", "l1").values()) == [0, 0, 0, 0, 1]


def test_correlations_and_the_mean_of_those_that_are_defined(tmp_path):
    values = {("A", "l1"): [0.5, float("nan"), -0.25, 0.75]}
    rows = value_rows("class_sensitivity", "", values)
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows, methods=("A",), layers=("l1",))
    found = correlations(results, "A", "l1")
    assert sorted(v for v in found.values() if v == v) == [-0.25, 0.5, 0.75]
    assert math.isclose(defined_mean(found), 1 / 3)
