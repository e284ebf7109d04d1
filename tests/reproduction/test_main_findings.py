"""The findings that must not turn around."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from captum_extract_aggregate import reproduction
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction import (
    EXPERIMENTS,
    Outcome,
    Request,
    carry_out,
    main_findings,
    reproduce,
    settings_of,
)
from captum_extract_aggregate.reproduction.main_findings import Check
from captum_extract_aggregate.reproduction.setting import QUICK
from tests.evaluation.hand_made import pointing_rows, value_rows, write
from tests.reproduction.outcomes import check_outcome, with_results


def test_a_finding_that_turns_around_fails(monkeypatch, tmp_path):
    request = Request(("k20-fig1",), output=tmp_path, quick=True, show_progress=False)
    monkeypatch.setattr(main_findings, "measure", lambda what, setting: 1000.0)
    monkeypatch.setattr(reproduction, "carry_out", lambda name, setting: Outcome())
    _, stands = reproduce(request)
    assert stands
    monkeypatch.setattr(main_findings, "measure", lambda what, setting: -1.0)
    text, stands = reproduce(request)
    assert not stands
    assert "HAS TURNED AROUND" in text


PAPERS = {"r20": {main_findings.CAM}, "k20": {main_findings.POS, main_findings.GUIDED}, "g20": {main_findings.BIAS}}


def test_every_main_finding_is_looked_at():
    assert set(EXPERIMENTS) == {name for paper in PAPERS for name in EXPERIMENTS if name.startswith(f"{paper}-")}
    assert set.union(*PAPERS.values()) == {what for limits in main_findings.THRESHOLDS.values() for what in limits}


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("network", main_findings.THRESHOLDS)
def test_they_stand_on_fresh_scenes(network, paper, monkeypatch, tmp_path):
    """`reproduce all --quick`, one network and paper at a time: the main findings as a quick run has them, everything
    else of fewer images."""
    outcomes, checks = {}, main_findings.checks

    def kept(name, setting):
        outcomes[name] = carry_out(name, setting)
        return outcomes[name]

    limits = {what: limit for what, limit in main_findings.THRESHOLDS[network].items() if what in PAPERS[paper]}
    monkeypatch.setitem(main_findings.THRESHOLDS, network, limits)
    monkeypatch.setattr(reproduction, "carry_out", kept)
    quick = lambda s: replace(s, sizes=QUICK, folder=tmp_path / "findings")  # noqa: E731
    monkeypatch.setattr(main_findings, "checks", lambda setting: checks(quick(setting)))
    few = {"maps": 12, "stages": 3, "removal": 6}
    settings = lambda asked: [replace(s, sizes=few) for s in settings_of(asked) if s.name == network]  # noqa: E731
    monkeypatch.setattr(reproduction, "settings_of", settings)
    names = [name for name in EXPERIMENTS if name.startswith(f"{paper}-")]
    result = CliRunner().invoke(app, ["reproduce", *names, "--quick", "--output", str(tmp_path)])
    print(result.output)
    assert result.exit_code == 0
    assert result.output.count("stands: ") == len(limits)
    assert list(outcomes) == names
    for name, outcome in outcomes.items():
        check_outcome(outcome)
        assert (tmp_path / f"{name}-{network}.md").stat().st_size > 100


def test_a_check_stands_at_its_threshold_or_above():
    assert Check("a", "b", 1.0, 1.0).stands
    assert str(Check("a", "b", 1.0, 0.5)) == "stands: a: b: 1.000 (at least 0.500)"
    assert not Check("a", "b", 0.9, 1.0).stands
    assert not Check("a", "b", float("nan"), 0.0).stands
    assert str(Check("a", "b", 0.9, 1.0)) == "HAS TURNED AROUND: a: b: 0.900 (at least 1.000)"


def test_what_is_measured_of_results(tmp_path):
    """Magnitudes by hand: of GradCAM 0.2, of GradCAM_Pos 0.7; undefined ones do not count."""
    values = {("GradCAM", "l1"): [0.1, -0.3, 0.2, float("nan")], ("GradCAM_Pos", "l1"): [0.7, 0.8, -0.6, 0.7]}
    measures = [MeasurePlan("class_sensitivity", "hog_sensitivity", {"similarity": "hog_spearman"})]
    rows = value_rows("hog_sensitivity", "", values)
    results = write(tmp_path, measures, rows, methods=("GradCAM", "GradCAM_Pos"), layers=("l1",))
    setting = with_results(results, tmp_path)
    assert main_findings.measure(main_findings.POS, setting) == pytest.approx(0.7 - 0.2)


def test_points_are_averaged_over_the_first_two_layers(tmp_path):
    """Of the mean over classes: 100 against 0 at one layer, 50 against 100 at the other."""
    hits = {
        ("GradCAM", "l1"): [0, 0, 0, 0, 0],
        ("GradCAM", "l2"): [1, 1, 1, 1, 1],
        ("linear approx.", "l1"): [1, 1, 1, 1, 1],
        ("linear approx.", "l2"): [1, 0, 1, 1, 1],
    }
    methods = ("GradCAM", "linear approx.")
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits), methods=methods)
    setting = with_results(results, tmp_path, spread_weights={}, probe_weights={})
    assert main_findings.measure(main_findings.CAM, setting) == pytest.approx((100 - 50) / 2)
