"""G20's figures: small ones run, and what is made of results by hand."""

import numpy as np
import pytest

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction import carry_out, g20
from tests.evaluation.hand_made import value_rows, write
from tests.reproduction.outcomes import check_outcome, names, with_results


@pytest.mark.parametrize("name", names(g20))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))


def test_a_bias_stands_beside_the_activity_of_its_layer(setting):
    """The last one up to the end of each stage, on no shortcut."""
    found = g20.bias_layers_of(setting)
    assert len(found) == len(setting.layers)
    for layer, end in zip(found, setting.layers):
        assert layer.startswith(f"{end}.")
        assert "downsample" not in layer
        assert "shortcut" not in layer


def test_means_over_the_layers_are_image_by_image(tmp_path, monkeypatch):
    values = {
        ("activity", "l1"): [1.0, 2.0, 3.0, 4.0],
        ("activity", "l2"): [3.0, 2.0, 5.0, 0.0],
        ("bias", "l1"): [0.0, 1.0, 0.5, 0.25],
        ("bias", "l2"): [1.0, 1.0, 0.5, 0.75],
    }
    rows = value_rows("removal_contrast", "delta_minus", values)
    methods = ("activity", "bias")
    results = write(tmp_path / "results", [MeasurePlan("removal_contrast")], rows, methods=methods)
    monkeypatch.setattr(g20, "bias_layers_of", lambda setting: ("l1", "l2"))
    setting = with_results(results, tmp_path)
    activity, bias = g20.over_layers(setting, results, "delta_minus")
    assert activity == {(0, 0): 2.0, (1, 0): 2.0, (2, 0): 4.0, (3, 0): 2.0}
    assert list(bias.values()) == [0.5, 1.0, 0.5, 0.5]
    monkeypatch.setattr(g20, "decompositions", lambda setting: results)
    over_all, *by_layer = g20.fig5(setting).findings
    assert f"{np.mean(list(activity.values())):.2f} against {np.mean(list(bias.values())):.2f}" in over_all.effect
    assert [finding.statement[-4:] for finding in by_layer] == ["(l1)", "(l2)"]
