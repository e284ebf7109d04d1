"""Similarity to the maps of a network that is randomised block by block: what is made of results by hand."""

from scipy.stats import wilcoxon

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction.randomization import randomization_outcome
from tests.evaluation.hand_made import value_rows, write
from tests.reproduction.outcomes import cells, with_results


def test_over_the_stages_the_last_decides(tmp_path):
    """A falls and B stays; the mean and spread of each stage are in the table, undefined values counted."""
    first = {("A", "l1"): [0.9, 0.7, float("nan"), 0.8], ("B", "l1"): [0.9] * 4}
    last = {("A", "l1"): [0.1, -0.2, 0.3, 0.15], ("B", "l1"): [0.9, 0.8, 0.7, 0.6]}
    rows = value_rows("parameter_randomization", "000 fc", first)
    rows += value_rows("parameter_randomization", "001 conv1", last)
    measures = [MeasurePlan("parameter_randomization")]
    results = write(tmp_path / "results", measures, rows, layers=("l1",))
    setting = with_results(results, tmp_path)
    outcome = randomization_outcome(setting, results, "l1", "name", [("A", "B"), ("B", "A"), ("A", "C")])
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
