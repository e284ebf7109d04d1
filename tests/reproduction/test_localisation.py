"""Shares of the maps on the object: what is made of results by hand."""

from dataclasses import replace

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction.localisation import MEASURES, grid_pointing, localisation
from tests.evaluation.hand_made import value_rows, write
from tests.reproduction.outcomes import cells, with_results


def test_means_by_layer_and_methods_compared_before_the_last(tmp_path):
    values = {
        ("selective", "l1"): [0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        ("NormGrad", "l1"): [0.1, 0.2, 0.2, 0.2, 0.1, 0.3],
        ("selective", "l2"): [0.0] * 6,
        ("NormGrad", "l2"): [0.25] * 6,
    }
    rows = [row for name in MEASURES for row in value_rows(name, "above_chance", values)]
    measures = [MeasurePlan(name) for name in MEASURES]
    results = write(tmp_path / "results", measures, rows, images=6, methods=("selective", "NormGrad"))
    outcome = localisation(with_results(results, tmp_path))
    assert cells(outcome.tables[0])["selective"] == ["0.65 ± 0.19", "0.00 ± 0.00"]
    assert [finding.verdict for finding in outcome.findings[:3]] == [
        "holds",
        "cannot be tested here",
        "cannot be tested here",
    ]
    assert outcome.findings[0].statement.endswith("selective has more than NormGrad (l1)")
    assert len(outcome.tables) == 2


def test_grids_of_a_network_s_pictures(setting):
    """GradCAM, whose weights are means over all four cells, marks the right one less before the last layer."""
    outcome = grid_pointing(replace(setting, wanted_layers=("layer3", "layer4"), sizes={"removal": 2}))
    assert len(cells(outcome.tables[0])) == 2 + 9  # heading, methods
    _, linear, contrastive = outcome.findings
    assert linear.statement.endswith("linear approx. has more than GradCAM (layer3)")
    assert linear.n == 2 * 4  # grids, cells
    assert linear.holds
    assert contrastive.holds
