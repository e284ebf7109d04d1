"""Similarity to the maps of a network that is randomised block by block: what is made of results by hand."""

from scipy.stats import wilcoxon

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction.randomization import READINGS, randomization_measures, randomization_outcome
from tests.evaluation.hand_made import value_rows, write
from tests.reproduction.outcomes import cells, with_results


def test_each_way_to_draw_is_a_measure_of_its_own(tmp_path):
    setting = with_results(None, tmp_path, stages=("conv1", "fc"))
    measures = randomization_measures(setting, "hog_spearman", tuple(READINGS))
    assert [m.label for m in measures] == ["normal", "normal_variance"] == [m.arguments["init"] for m in measures]
    assert {m.measure for m in measures} == {"parameter_randomization"}
    rows = value_rows("normal_variance", "000 fc", {("A", "l1"): [0.9] * 4, ("B", "l1"): [0.5, 0.6, 0.4, 0.3]})
    results = write(tmp_path / "results", measures, rows, layers=("l1",))
    outcome = randomization_outcome(setting, results, "name", [("A", "B")], "normal_variance", less=True)
    (finding,) = outcome.findings
    assert finding.statement == "A stays more like its original than B (1 of 1 blocks random, to fc, variance 0.01)"
    assert "rank-biserial +1.00" in finding.effect


def test_methods_are_compared_at_every_stage(tmp_path):
    """A falls and B stays; the mean and spread of each stage are in the table, undefined values counted."""
    first = {("A", "l1"): [0.9, 0.7, float("nan"), 0.8], ("B", "l1"): [0.9] * 4}
    last = {("A", "l1"): [0.1, -0.2, 0.3, 0.15], ("B", "l1"): [0.9, 0.8, 0.7, 0.6]}
    rows = value_rows("parameter_randomization", "000 fc", first)
    rows += value_rows("parameter_randomization", "001 conv1", last)
    measures = [MeasurePlan("parameter_randomization")]
    results = write(tmp_path / "results", measures, rows, layers=("l1",))
    setting = with_results(results, tmp_path)
    outcome = randomization_outcome(setting, results, "name", [("A", "B"), ("B", "A"), ("A", "C")])
    table = cells(outcome.tables[0])
    assert table["method"] == ["fc", "conv1"]
    assert table["A"] == ["0.80 ± 0.10 (1 undefined)", "0.09 ± 0.21"]
    early, down, other, up, *unknown = outcome.findings
    assert early.statement == "A depends more on the parameters than B (1 of 2 blocks random, to fc)"
    assert early.p == other.p == wilcoxon([-0.2, -0.1]).pvalue  # of ties and undefined ones nothing
    assert (early.verdict, early.n) == ("cannot be told", 3)
    assert down.statement == "A depends more on the parameters than B (2 of 2 blocks random, to conv1)"
    assert down.p == up.p == wilcoxon([-0.8, -0.6, -0.4, -0.45]).pvalue  # magnitudes
    assert "rank-biserial -1.00" in down.effect
    assert "rank-biserial +1.00" in up.effect
    assert [finding.holds for finding in unknown] == [None, None]
    assert outcome.pictures == [tmp_path / "name-hand.png"]
