"""Methods compared in pairs, against SciPy on the same numbers."""

import math
import re

import numpy as np
import pytest
from scipy.stats import wilcoxon

from captum_extract_aggregate.evaluation import comparisons
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.reporting.report import write_report
from captum_extract_aggregate.metrics import holm
from tests.evaluation.hand_made import drawn, pointing_rows, value_rows, write


def test_methods_are_compared_at_their_best_layers_and_layer_by_layer(tmp_path):
    values = {
        ("A", "l1"): drawn(20, 0, 0.9),
        ("A", "l2"): [-v for v in drawn(20, 1, 0.3)],
        ("B", "l1"): drawn(20, 2, 0.5),
        ("B", "l2"): drawn(20, 3, 0.8),
    }
    rows = value_rows("class_sensitivity", "", values)
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows, images=20)
    best, first, second = comparisons(results)
    assert (best.layer, best.is_chosen, best.better, best.magnitude) == ("", True, "lower", True)
    assert (best.comparisons[0].first, best.comparisons[0].second) == ("A at l2", "B at l1")
    expected = wilcoxon(np.abs(values["A", "l2"]) - np.abs(values["B", "l1"]))
    assert best.comparisons[0].p == expected.pvalue
    assert (first.layer, second.layer, first.is_chosen) == ("l1", "l2", False)
    assert (first.comparisons[0].first, first.comparisons[0].second) == ("A", "B")
    text = write_report(results, tmp_path / "out")[0].read_text()
    assert "| A at l2 | B at l1 | 20 | 0 | 0 |" in text
    assert "Best layers were chosen on these same images" in text
    assert re.search(r"- l1: A &gt; B \(p = \S+, n = 20\) \(1 of 1 pairs\)", text)
    assert re.search(r"- l2: B &gt; A \(p = \S+, n = 20\) \(1 of 1 pairs\)", text)


def test_pointing_is_compared_hit_by_hit_without_the_centre(tmp_path):
    a, b = [1, 0, 1, 1, 0], [0, 1, 0, 0, 0]
    hits = {("A", "l1"): a, ("B", "l1"): b, ("centre", "image"): [1] * 5}
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits), layers=("l1",))
    found = comparisons(results)
    assert [t.detail for t in found] == ["all", "difficult", "multi"]
    (c,) = found[0].comparisons
    assert (c.first, c.second, c.n, c.ties) == ("A", "B", 5, 1)
    assert c.mean == pytest.approx(2 / 5)
    assert math.isnan(c.low)
    assert c.p == wilcoxon(np.subtract(a, b), zero_method="wilcox").pvalue


def test_holm_over_each_table_and_the_first_against_the_rest_when_there_are_many(tmp_path):
    methods = [f"m{i:02d}" for i in range(14)]
    values = {(m, "l1"): drawn(12, i, 0.05 * i) for i, m in enumerate(methods)}
    rows = value_rows("pixel_removal", "e_minus", values)
    results = write(tmp_path, [MeasurePlan("pixel_removal")], rows, images=12, methods=methods, layers=("l1",))
    (table,) = comparisons(results)
    assert table.to_first
    assert [(c.first, c.second) for c in table.comparisons] == [("m00", m) for m in methods[1:]]
    assert [c.p_holm for c in table.comparisons] == holm([c.p for c in table.comparisons])
    write_report(results, tmp_path / "out")
    assert "each is compared to the first" in (tmp_path / "out" / "report.md").read_text()


def test_methods_that_share_no_defined_image_are_named(tmp_path):
    nan = math.nan
    values = {("A", "l1"): [1.0, 2.0, nan, nan], ("B", "l1"): [nan, nan, 1.0, 2.0]}
    rows = value_rows("completeness_gap", "", values)
    results = write(tmp_path, [MeasurePlan("completeness_gap")], rows, layers=("l1",))
    (table,) = comparisons(results)
    assert (table.comparisons, table.left_out) == ((), (("A", "B"),))
    write_report(results, tmp_path / "out")
    assert "Never defined on the same image: A and B." in (tmp_path / "out" / "report.md").read_text()
