"""R20's tables and figures: small ones run, and what is made of results by hand."""

import pytest

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction import carry_out, r20
from tests.evaluation.hand_made import pointing_rows, write
from tests.reproduction.outcomes import cells, check_outcome, names, with_results


@pytest.mark.parametrize("name", names(r20))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))


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


def test_a_probe_s_accuracy_rises_or_it_cannot_be_told():
    """Standard errors of .07 each: .9 against .4 is told, .5 against .4 is not, nor equal ones."""
    verdicts = [
        r20.rises("", before, after, 50).verdict for before, after in ((0.4, 0.9), (0.9, 0.4), (0.4, 0.5), (0.5, 0.5))
    ]
    assert verdicts == ["holds", "does not hold", "cannot be told", "cannot be told"]
