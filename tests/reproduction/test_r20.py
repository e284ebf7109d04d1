"""R20's tables and figures: small ones run, and what is made of results by hand."""

import pytest
from scipy.stats import wilcoxon

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction import carry_out, r20
from tests.evaluation.hand_made import pointing_rows, value_rows, write
from tests.reproduction.outcomes import cells, check_outcome, names, with_results


@pytest.mark.parametrize("name", names("r20"))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))


def test_over_the_stages_the_last_decides(tmp_path):
    """A falls and B stays; the mean and spread of each stage are in the table, undefined values counted."""
    first = {("A", "l1"): [0.9, 0.7, float("nan"), 0.8], ("B", "l1"): [0.9] * 4}
    last = {("A", "l1"): [0.1, -0.2, 0.3, 0.15], ("B", "l1"): [0.9, 0.8, 0.7, 0.6]}
    rows = value_rows("parameter_randomization", "000 fc", first)
    rows += value_rows("parameter_randomization", "001 conv1", last)
    measures = [MeasurePlan("parameter_randomization")]
    results = write(tmp_path / "results", measures, rows, layers=("l1",))
    setting = with_results(results, tmp_path)
    outcome = r20.randomization_outcome(setting, results, "l1", "name", [("A", "B"), ("B", "A"), ("A", "C")])
    table = cells(outcome.tables[0])
    assert table["method"] == ["fc", "conv1"]
    assert table["A"] == ["0.80 ± 0.10 (1 undefined)", "0.09 ± 0.21"]
    down, up, unknown = outcome.findings
    assert down.statement == "A depends more on the parameters than B (all 2 blocks random)"
    assert down.p == up.p == wilcoxon([-0.8, -0.6, -0.4, -0.45]).pvalue  # magnitudes
    assert "rank-biserial -1.00" in down.effect
    assert "rank-biserial +1.00" in up.effect
    assert unknown.holds is None
    assert outcome.pictures == [tmp_path / "name-hand.png"]


def test_the_pointing_game_at_every_layer(tmp_path):
    """Of five pairs, four of class 0 and one of class 1: GradCAM hits two and none at l1, and all at l2."""
    hits = {
        ("GradCAM", "l1"): [1, 0, 1, 0, 0],
        ("GradCAM", "l2"): [1, 1, 1, 1, 1],
        ("linear approx.", "l1"): [1, 1, 1, 1, 0],
        ("linear approx.", "l2"): [1, 1, 1, 1, 1],
        ("NormGrad", "l1"): [1, 1, 1, 1, 1],
        ("NormGrad", "l2"): [0, 0, 0, 0, 0],
        ("gradient", "l1"): [0, 0, 0, 0, 0],
        ("gradient", "l2"): [1, 0, 0, 0, 0],
        ("centre", "image"): [1, 0, 0, 0, 0],
    }
    methods = ("GradCAM", "linear approx.", "NormGrad", "gradient")
    results = write(tmp_path / "results", [MeasurePlan("pointing_game")], pointing_rows(hits), methods=methods)
    outcome = r20.fig3(with_results(results, tmp_path, spread_weights={}, probe_weights={}))
    table = cells(outcome.tables[0])
    shares = {m: [float(cell.split(" ±")[0]) for cell in table[m][:2]] for m in methods}
    assert shares == {
        "GradCAM": [25.0, 100.0],  # the mean of 2 of 4 and 0 of 1
        "linear approx.": [87.5, 100.0],
        "NormGrad": [100.0, 0.0],
        "gradient": [0.0, 12.5],
    }
    told = [(finding.statement.partition(" ")[0], finding.effect) for finding in outcome.findings]
    assert told == [
        ("GradCAM", "87.5 against 25.0"),
        ("NormGrad", "100.0 against 0.0"),
        ("gradient", "0.0 against 12.5"),
    ]
    assert outcome.findings[2].holds is False
