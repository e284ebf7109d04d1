"""Lines of a table, against numbers computed by hand and by SciPy."""

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from captum_extract_aggregate.evaluation import statistics, summarize
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.reporting.report import write_report
from captum_extract_aggregate.metrics import holm, null_baseline
from tests.evaluation.hand_made import drawn, one, pointing_rows, value_rows, write


def test_pointing_is_a_mean_over_classes_and_not_over_pairs(tmp_path):
    hits = {("A", "l1"): [1, 0, 1, 1, 0], ("centre", "image"): [1, 1, 0, 0, 0]}
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits))
    lines = summarize(results)
    all_ = one(lines, method="A", detail="all")
    assert all_.mean == (3 / 4 + 0 / 1) / 2
    assert (all_.n, all_.undefined, all_.spread_kind) == (5, 0, "se")
    assert all_.null == (1 / 4 + 1 / 1) / 2
    assert one(lines, method="A", detail="difficult").mean == 0
    assert one(lines, method="A", detail="difficult").n == 1
    assert math.isnan(one(lines, method="A", detail="difficult").spread)  # of a single image
    multi = one(lines, method="A", detail="multi")
    assert (multi.mean, multi.n) == ((1 + 0) / 2, 2)
    assert all_.p == wilcoxon([0, -1, 1, 1, 0], zero_method="wilcox").pvalue
    centre = one(lines, method="centre", detail="all")
    assert centre.mean == all_.null
    assert centre.spread == all_.null_spread
    assert math.isnan(centre.null)
    assert math.isnan(centre.p)


def test_the_bootstrap_draws_images(tmp_path):
    hits = {("A", "l1"): [1, 0, 1, 1, 0]}
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits))
    generator, drawn_means = np.random.default_rng(0), []
    for _ in range(statistics.DRAWS):
        images = generator.integers(4, size=4)
        first = [[1, 1, 1, 0][i] for i in images]
        second = [0 for i in images if i == 0]
        drawn_means.append(np.mean([np.mean(c) for c in (first, second) if c]))
    assert one(summarize(results), detail="all").spread == pytest.approx(np.std(drawn_means, ddof=1), abs=1e-6)


def test_undefined_is_counted_and_never_zero(tmp_path):
    values = {("A", "l1"): [0.5, math.nan, 1.0, math.nan], ("B", "l1"): [math.nan] * 4, ("A", "l2"): [0.1, 0.2]}
    rows = value_rows("class_sensitivity", "", values)
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows)
    lines = summarize(results)
    half = one(lines, method="A", layer="l1")
    assert (half.mean, half.median, half.n, half.undefined) == (0.75, 0.75, 2, 2)
    assert half.spread == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert half.error == pytest.approx(half.spread / math.sqrt(2))
    none = one(lines, method="B")
    assert (none.n, none.undefined) == (0, 4)
    assert math.isnan(none.mean)
    assert math.isnan(none.p)
    assert one(lines, layer="l2").undefined == 2  # images where others have a value
    assert [line.place for line in lines] == [("A", "l1"), ("A", "l2"), ("B", "l1")]  # the plan's order
    write_report(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "undefined (n = 0, 4 undefined)" in text
    assert "0.750 ± 0.354 (n = 2, 2 undefined)" in text


@pytest.mark.parametrize("similarity", [None, "abs_spearman", "ssim"])
def test_similarities_stand_beside_their_null(tmp_path, similarity):
    measure = MeasurePlan("class_sensitivity", arguments={} if similarity is None else {"similarity": similarity})
    values = {("A", "l1"): drawn(12, 1, 0.4), ("A", "l2"): drawn(12, 2)}
    results = write(tmp_path, [measure], value_rows("class_sensitivity", "", values), images=12)
    lines = summarize(results)
    for layer, size in (("l1", (6, 6)), ("l2", (3, 3))):
        line, null = one(lines, layer=layer), null_baseline(similarity or "spearman", size, (24, 24))
        assert (line.null, line.null_spread) == (null.mean, null.std)
        assert line.p == wilcoxon(np.array(values["A", layer]) - null.mean).pvalue
    assert [line.p_holm for line in lines] == holm([line.p for line in lines])


def test_no_null_where_none_is_known(tmp_path):
    measures = [
        MeasurePlan("class_sensitivity", arguments={"similarity": "hog_spearman"}),  # images of 24 pixels are too small
        MeasurePlan("pixel_removal"),
        MeasurePlan("removal_contrast"),
    ]
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    rows += value_rows("pixel_removal", "e_minus", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    rows += value_rows("removal_contrast", "delta", {("A", "l1"): [0.1, 0.2, -0.3, 0.4]})
    rows += value_rows("removal_contrast", "e_minus", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    lines = summarize(write(tmp_path, measures, rows))
    assert math.isnan(one(lines, measure="class_sensitivity").null)
    assert math.isnan(one(lines, measure="pixel_removal").p)
    assert math.isnan(one(lines, measure="removal_contrast", detail="e_minus").null)
    delta = one(lines, detail="delta")
    assert delta.null == 0
    assert delta.p == wilcoxon([0.1, 0.2, -0.3, 0.4]).pvalue


def test_infinite_gaps_are_neither_hidden_nor_fatal(tmp_path):
    values = {("A", "l1"): [0.1, math.inf, 0.2, 0.3], ("B", "l1"): [0.2, math.inf, 0.3, 0.1]}
    rows = value_rows("completeness_gap", "", values)
    results = write(tmp_path, [MeasurePlan("completeness_gap")], rows, layers=("l1",))
    line = one(summarize(results), method="A")
    assert line.mean == math.inf
    assert line.median == pytest.approx(0.25)
    write_report(results, tmp_path / "out")
