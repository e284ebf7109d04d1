"""The numbers of a measure side by side."""

import math

import numpy as np

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.evaluation.grouping import groups, methods_at_layers, shown_groups
from tests.evaluation.hand_made import pointing_rows, value_rows, write


def test_every_column_has_the_same_images_in_the_same_order(tmp_path):
    """In the plan's order of methods and layers; what is not there is NaN."""
    values = {("B", "l1"): [1.0, 2.0], ("A", "l2"): [5.0, 6.0, 7.0], ("A", "l1"): [8.0, 9.0, 10.0]}
    measure = MeasurePlan("class_sensitivity", "mine")
    results = write(tmp_path, [measure], value_rows("mine", "", values))
    (group,) = groups(results, measure)
    assert group.label == "mine"
    assert list(group.values) == [("A", "l1"), ("A", "l2"), ("B", "l1")]
    assert group.pairs.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert group.values["A", "l2"].tolist() == [5, 6, 7]
    assert np.array_equal(group.values["B", "l1"], [1, 2, math.nan], equal_nan=True)
    assert methods_at_layers(results) == [("A", "l1"), ("A", "l2"), ("B", "l1"), ("B", "l2")]


def test_hits_come_by_subset(tmp_path):
    measure = MeasurePlan("pointing_game")
    results = write(tmp_path, [measure], pointing_rows({("A", "l1"): [1, 0, 1, 1, 0]}))
    found = {group.detail: group for group in groups(results, measure)}
    assert list(found) == ["all", "difficult", "multi"]
    assert found["all"].pairs.tolist() == [[0, 0], [0, 1], [1, 0], [2, 0], [3, 0]]
    assert found["difficult"].pairs.tolist() == [[0, 1]]
    assert found["multi"].pairs.tolist() == [[0, 0], [0, 1]]
    assert found["multi"].values["A", "l1"].tolist() == [1, 0]
    assert found["all"].better == "higher"


def test_what_a_report_shows(tmp_path):
    """Of stages the first and the last; of details those by which methods are compared, the most telling first."""
    rows = [
        row
        for name in ("000 fc", "001 layer4", "002 conv1")
        for row in value_rows("parameter_randomization", name, {("A", "l1"): [0.5]})
    ]
    rows += [
        row
        for name in ("delta_plus", "flipped_minus", "delta", "delta_minus")
        for row in value_rows("removal_contrast", name, {("A", "l1"): [0.5]})
    ]
    stages, contrast = MeasurePlan("parameter_randomization"), MeasurePlan("removal_contrast")
    results = write(tmp_path, [stages, contrast], rows)
    assert [group.detail for group in shown_groups(groups(results, stages))] == ["000 fc", "002 conv1"]
    found = groups(results, contrast)
    assert "flipped_minus" in [group.detail for group in found]
    assert [group.detail for group in shown_groups(found)] == ["delta_minus", "delta_plus", "delta"]
    assert shown_groups([]) == []
