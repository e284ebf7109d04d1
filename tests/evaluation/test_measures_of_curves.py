"""Perturbation curves in a plan: the public functions' numbers, and what is better."""

import pytest
import torch

from captum_extract_aggregate import metrics
from captum_extract_aggregate.evaluation import comparisons, summarize
from captum_extract_aggregate.evaluation.explained import Column
from captum_extract_aggregate.evaluation.measures_of_curves import gain
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.runner import maps_of
from tests.evaluation.plans import evaluated

SETTINGS = {"fractions": [0, 0.1, 0.5, 1]}


def test_areas_and_gains(tmp_path):
    curves = [{"mode": "deletion"}, {"mode": "insertion", "imputer": "blur"}]
    measures = [{"measure": "perturbation_curve", "label": c["mode"], "arguments": c | SETTINGS} for c in curves] + [
        {"measure": "symmetric_relevance_gain", "arguments": SETTINGS}
    ]
    methods = [{"method": "linear-approximation"}, {"method": "normgrad"}]
    results = evaluated(tmp_path / "r", measures=measures, methods=methods)
    prepared = prepare(results.plan, torch.device("cpu"))
    for i in range(3):
        *_, columns, batch = maps_of(prepared, i, torch.device("cpu"))
        given = batch.model, batch.x, columns[0].maps[0], batch.best
        for c in curves:
            row = results.rows(c["mode"], method="linear-approximation")[i]
            expected = metrics.perturbation_curve(*given, **c, **SETTINGS).areas.item()
            assert row.value == pytest.approx(expected, abs=1e-4)
            assert row.detail == f"{c['mode']}_most_first"
        row = results.rows("symmetric_relevance_gain", "gain", method="linear-approximation")[i]
        assert row.value == pytest.approx(metrics.symmetric_relevance_gain(*given, **SETTINGS).gain.item(), abs=1e-4)
    tables = {(table.measure, table.detail): table.better for table in comparisons(results)}
    assert tables["deletion", "deletion_most_first"] == "lower"
    assert tables["insertion", "insertion_most_first"] == "higher"
    lines = {line.detail: line for line in summarize(results) if line.measure == "symmetric_relevance_gain"}
    assert lines["gain"].null == 0
    *_, columns, batch = maps_of(prepared, 0, torch.device("cpu"))
    undefined = Column("m", "l", [columns[0].maps[0] * torch.nan])
    found = gain(batch, undefined, None, [0, 0.5, 1], "constant", 0.0, "probability")
    assert all(value != value for *_, value in found)


def test_a_wrong_setting_is_said_before_any_work(tmp_path):
    measures = [{"measure": "perturbation_curve", "arguments": {"imputer": "roads"}}]
    with pytest.raises(ValueError, match=r"measure 'perturbation_curve': imputer is 'roads', .* did you mean 'road'"):
        evaluated(tmp_path / "r", measures=measures)
