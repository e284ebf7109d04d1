"""G20's figures of removed pixels: what is made of results by hand."""

from types import SimpleNamespace

import pytest

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction import g20
from captum_extract_aggregate.reproduction.cuts import Cut
from captum_extract_aggregate.reproduction.g20_results import AND_INPUT, BY_CHANNEL, FULLGRAD, STAGES
from tests.evaluation.hand_made import value_rows, write
from tests.reproduction.outcomes import with_results

CUTS = (Cut("l1", "l1", (8, 8)), Cut("l2", "l2", (4, 4)), Cut("l3", "l3", (4, 4)))
METHODS = (
    "activity", "bias", "activity from l1 on", "activity from l2 on", AND_INPUT, STAGES, "GradCAM", FULLGRAD,
    BY_CHANNEL, "gradient",
)  # fmt: skip
DETAILS = ("delta_minus", "delta_plus", "delta", "e_minus", "e_plus", "e_delta")


@pytest.fixture
def by_hand(tmp_path, monkeypatch):
    """Eight images, of which every method has a value of its own in every detail; all layers the most."""
    layers = ("l1", "l2", "l3", "input", "all layers")
    values = {}
    for i, method in enumerate(METHODS):
        for j, layer in enumerate(layers):
            height = 5.0 if method == "activity from l1 on" else 0.1 + 0.1 * i + 0.01 * j
            values[method, layer] = [height + 0.001 * image for image in range(8)]
    rows = []
    for k, detail in enumerate(DETAILS):
        sign = -1 if detail == "delta_plus" else 1
        shown = {place: [sign * v * (k + 1) for v in own] for place, own in values.items()}
        rows += value_rows("removal_contrast", detail, shown)
    measures = [MeasurePlan("removal_contrast")]
    results = write(tmp_path / "results", measures, rows, images=8, methods=METHODS, layers=layers)
    monkeypatch.setattr(g20, "decompositions", lambda setting: results)
    for name in ("boxes", "curves"):
        monkeypatch.setattr(g20, name, lambda *given: None)
    return with_results(results, tmp_path, layers=("l1", "l3"), cuts=CUTS, shown_cuts=CUTS)


def test_aggregates_are_compared_with_fullgrad_the_top_two_and_the_input(by_hand):
    outcome = g20.fig6(by_hand)
    told = {finding.statement: finding.verdict for finding in outcome.findings}
    assert told["δe₋: all layers without the input above FullGrad (as VGG-16 in the paper)"] == "holds"
    assert told["δe₋: the top two above all layers (as ResNet-50 in the paper)"] == "does not hold"
    assert told["δe₋: all layers without the input above all with it (as VGG-16 in the paper)"] == "holds"
    assert [path.name for path in outcome.pictures] == [f"g20-fig6-{d}-hand.png" for d in ("delta_minus", "e_minus")]


def test_without_two_layers_of_one_resolution_there_is_no_top_two(by_hand):
    cuts = (*CUTS[:2], Cut("l3", "l3", (2, 2)))
    outcome = g20.fig6(SimpleNamespace(**{**vars(by_hand), "cuts": cuts}))
    assert outcome.findings[-1].holds is None


def test_the_three_metrics_and_what_noise_reaches(by_hand):
    mean = sum(5.0 + 0.001 * image for image in range(8)) / 8
    for run, factors in ((g20.fig_s14, (1, -2, 3)), (g20.fig_s15, (4, 5, 6)), (g20.fig_s16, (3, 7, 3))):
        rows = [row.strip("| ").split(" | ") for row in run(by_hand).tables[0].splitlines()]
        (shown,) = [row[2:] for row in rows if row[:2] == ["activity from l1 on", "all layers"]]
        assert [cell.split(" ±")[0] for cell in shown] == [f"{mean * factor:.2f}" for factor in factors]
    verdicts = [finding.verdict for finding in g20.fig_s14(by_hand).findings]
    assert verdicts == ["holds", "holds", "does not hold", "holds"]


def test_biases_stand_beside_activities(by_hand):
    over_all, *by_layer = g20.fig_s13(by_hand).findings
    assert over_all.verdict == "does not hold"
    assert len(by_layer) == 3
    assert {finding.verdict for finding in by_layer} == {"does not hold"}
    lower = g20.bias_delta_plus(by_hand).findings
    assert {finding.verdict for finding in lower} == {"does not hold"}
    assert {finding.verdict for finding in g20.others(by_hand).findings} == {"holds"}
