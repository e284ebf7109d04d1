"""K20's tables and figures: small ones run, and what is made of results by hand."""

import pytest
from scipy.stats import wilcoxon

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.metrics import null_baseline
from captum_extract_aggregate.reproduction import carry_out, k20
from captum_extract_aggregate.reproduction.plans import INSIDE, RESTRICTED_INSIDE
from tests.evaluation.hand_made import pointing_rows, value_rows, write
from tests.reproduction.outcomes import cells, check_outcome, names, with_results


@pytest.mark.parametrize("name", names(k20))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))


def hand_made(folder, values):
    """Class sensitivities of methods at one layer, and hits of both games."""
    hits = {
        ("GradCAM", "l1"): [1, 1, 1, 1, 1],
        ("FullGrad", "l1"): [1, 1, 1, 1, 1],
        ("centre", "image"): [0, 1, 0, 0, 0],
    }
    restricted = {("GradCAM", "l1"): [0, 0, 1, 1, 1], ("FullGrad", "l1"): [0, 1, 1, 1, 1]}
    inside = {
        ("GradCAM", "l1"): [1, 0, 1, 1, 1],
        ("FullGrad", "l1"): [1, 1, 1, 1, 1],
        ("centre", "image"): [0, 0, 0, 0, 0],
    }
    rows = value_rows("hog_sensitivity", "", {(method, "l1"): own for method, own in values.items()})
    rows += pointing_rows(hits) + pointing_rows(restricted, "restricted_pointing_game")
    rows += pointing_rows(inside, INSIDE) + pointing_rows(restricted, RESTRICTED_INSIDE)
    measures = [
        MeasurePlan("class_sensitivity", "hog_sensitivity", {"similarity": "abs_spearman"}),
        MeasurePlan("pointing_game"),
        MeasurePlan("restricted_pointing_game"),
        MeasurePlan("pointing_game", INSIDE),
        MeasurePlan("restricted_pointing_game", RESTRICTED_INSIDE),
    ]
    return write(folder, measures, rows, methods=("GradCAM", "FullGrad"), layers=("l1",))


def test_class_sensitivity_stands_beside_unrelated_maps_and_the_paper(tmp_path, monkeypatch):
    asked = []
    null = null_baseline("abs_spearman", (6, 6), (24, 24), n=32)
    monkeypatch.setattr(k20, "null_baseline", lambda *given, n: asked.append((*given, n)) or null)
    values = {"GradCAM": [0.1, -0.2, 0.0, 0.3], "FullGrad": [0.5, 0.5, 0.5, 0.7]}
    outcome = k20.table2(with_results(hand_made(tmp_path / "results", values), tmp_path))
    assert asked == [("hog_spearman", (6, 6), (24, 24), 32)]  # once for each size of maps
    table = cells(outcome.tables[0])
    unrelated = f"{null.mean:.2f} ± {null.std:.2f}"
    assert table["GradCAM"] == ["0.05 ± 0.21", unrelated, ".03"]
    assert table["FullGrad"] == ["0.55 ± 0.10", unrelated, ".48"]
    against, *others = outcome.findings
    assert "than FullGrad" in against.statement
    assert against.p == wilcoxon([0.1 - 0.5, 0.2 - 0.5, 0 - 0.5, 0.3 - 0.7]).pvalue
    assert not others  # of methods that are not there nothing is said


def test_the_restricted_game_on_images_of_several_classes(tmp_path):
    """Image 0 alone holds two classes: both hit at first; of the restricted game neither, or one, is left."""
    values = {"GradCAM": [0.1] * 4, "FullGrad": [0.2] * 4}
    outcome = k20.table1(with_results(hand_made(tmp_path / "results", values), tmp_path))
    table = cells(outcome.tables[0])
    assert [cell.split(" ±")[0] for cell in table["GradCAM"]][3:] == ["100.0", "0.0", "100.0", "74.1/48.9"]
    assert [cell.split(" ±")[0] for cell in table["FullGrad"]][3:] == ["100.0", "50.0", "50.0", "58.4/50.5"]
    assert table["centre"][3] == "50.0"
    assert table["GradCAM"][:3] == ["50.0", "0.0", "50.0"]  # inside the mask, of all trials
    assert table["FullGrad"][:3] == ["100.0", "50.0", "50.0"]
    assert outcome.findings[0].effect == "50.0 against 50.0"
    assert outcome.findings[0].n == 2


def test_constant_maps_say_nothing_of_a_method(tmp_path):
    values = {"GradCAM": [0.1] * 4, "FullGrad": [float("nan")] * 4}
    outcome = k20.table1(with_results(hand_made(tmp_path / "results", values), tmp_path))
    assert outcome.findings[0].holds is None


def test_a_block_stands_beside_the_paper_s_as_far_from_the_end(tmp_path, monkeypatch):
    """The first of two layers is VGG-16's fourth of five blocks."""
    null = null_baseline("abs_spearman", (6, 6), (24, 24), n=32)
    monkeypatch.setattr(k20, "null_baseline", lambda *given, n: null)
    rows = value_rows("hog_sensitivity", "", {("GradCAM", "l2"): [0.1] * 4, ("GradCAM_Pos B1", "l1"): [0.95] * 4})
    measures = [MeasurePlan("class_sensitivity", "hog_sensitivity", {"similarity": "abs_spearman"})]
    methods = ("GradCAM", "GradCAM_Pos B1")
    results = write(tmp_path / "results", measures, rows, methods=methods)
    results.maps = lambda: [row for row in maps if (row.method == "GradCAM") == (row.layer == "l2")]
    maps = type(results).maps(results)
    outcome = k20.table2(with_results(results, tmp_path))
    assert cells(outcome.tables[0])["GradCAM_Pos B1"][2] == ".94 (B4)"
    less, alike = outcome.findings
    assert less.statement.endswith("than GradCAM_Pos B1's")
    assert alike.statement.startswith("GradCAM_Pos B1 hardly depends on the class")
    assert alike.verdict == "holds"
