"""What G20 measures: by hand, and which maps remove the pixels."""

from types import SimpleNamespace

import numpy as np
import pytest

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction import g20, g20_results
from captum_extract_aggregate.reproduction.cuts import Cut
from captum_extract_aggregate.reproduction.g20_results import GRADIENT, decompositions, over_layers, top_two, values
from tests.evaluation.hand_made import value_rows, write
from tests.reproduction.outcomes import with_results

CUTS = (Cut("l1", "l1", (8, 8)), Cut("l2", "l2", (4, 4)))
VALUES = {
    ("activity", "l1"): [1.0, 2.0, 3.0, 4.0],
    ("activity", "l2"): [3.0, 2.0, 5.0, 0.0],
    ("bias", "l1"): [0.0, 1.0, 0.5, 0.25],
    ("bias", "l2"): [1.0, 1.0, 0.5, 0.75],
}


@pytest.fixture
def by_hand(tmp_path):
    """A setting whose results are these values of delta e-, and e- twice as high."""
    rows = value_rows("removal_contrast", "delta_minus", VALUES)
    rows += value_rows("removal_contrast", "e_minus", {place: [2 * v for v in own] for place, own in VALUES.items()})
    measures = [MeasurePlan("removal_contrast")]
    results = write(tmp_path / "results", measures, rows, methods=("activity", "bias"))
    return with_results(results, tmp_path, shown_cuts=CUTS, cuts=CUTS), results


def test_means_over_the_layers_are_image_by_image(by_hand, monkeypatch):
    setting, results = by_hand
    activity, bias = over_layers(setting, results, "delta_minus")
    assert activity == {(0, 0): 2.0, (1, 0): 2.0, (2, 0): 4.0, (3, 0): 2.0}
    assert list(bias.values()) == [0.5, 1.0, 0.5, 0.5]
    monkeypatch.setattr(g20, "decompositions", lambda setting: results)
    over_all, *by_layer, inputs = g20.fig5(setting).findings
    assert f"{np.mean(list(activity.values())):.2f} against {np.mean(list(bias.values())):.2f}" in over_all.effect
    assert [finding.statement[-4:] for finding in by_layer] == ["(l1)", "(l2)"]
    assert inputs.holds is None


def test_what_noise_reaches_is_what_the_map_reaches_without_its_advantage(by_hand):
    _, results = by_hand
    assert values(results, "activity", "l2", "xi_minus") == {(0, 0): 3.0, (1, 0): 2.0, (2, 0): 5.0, (3, 0): 0.0}


def test_pixels_go_by_magnitudes_and_the_gradient_s_are_summed(setting, monkeypatch):
    asked = []
    monkeypatch.setattr(type(setting), "evaluate", lambda self, methods, *rest: asked.extend(methods))
    decompositions(setting)
    plans = {plan.label: plan for plan in asked}
    every = [cut.layer for cut in setting.cuts]
    assert plans["activity"].channels == plans["bias"].channels == "abs_sum"
    assert plans["activity"].layers[0] == "input"
    assert plans[f"activity from {every[0]} on"].layers == tuple(every)
    assert plans["ends of stages"].layers == setting.layers
    assert plans["FullGrad, channel by channel"].arguments == {"rescale": "channel"}
    x = setting.first.x[None].requires_grad_()
    target = setting.best(x)
    setting.network(x)[0, target].sum().backward()
    got = setting.method(GRADIENT)(x.detach(), target)
    assert got.allclose(x.grad.abs().sum(1, keepdim=True), rtol=1e-5)


def test_the_top_two_are_of_one_resolution():
    assert top_two(SimpleNamespace(cuts=CUTS)) == ""
    alike = (*CUTS, Cut("l3", "l3", (4, 4)))
    assert top_two(SimpleNamespace(cuts=alike)) == "activity from l2 on"
    assert g20_results.all_layers(SimpleNamespace(cuts=alike)) == "activity from l1 on"
