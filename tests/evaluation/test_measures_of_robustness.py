"""Stability, eMPRT and sMPRT in a plan: the public functions' numbers."""

import numpy as np
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from captum_extract_aggregate.evaluation import comparisons, summarize
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.runner import maps_of
from tests.evaluation.plans import evaluated

ARGUMENTS = {
    "stability": {"n_samples": 2, "radius": 0.02, "layer": "layer4"},
    "emprt": {"bins": 30},
    "smprt": {"n_samples": 2, "layers": ["fc"]},
}


def test_they_are_the_functions(tmp_path):
    measures = [{"measure": name, "arguments": given} for name, given in ARGUMENTS.items()]
    methods = [{"method": "linear-approximation"}, {"method": "normgrad"}]
    results = evaluated(tmp_path / "r", measures=measures, methods=methods, data={"n": 2})
    prepared = prepare(results.plan, torch.device("cpu"))
    samples = [maps_of(prepared, i, torch.device("cpu"))[3] for i in range(2)]
    model, x = samples[0].model, torch.cat([batch.x for batch in samples])
    target = torch.cat([batch.best for batch in samples])
    for name, method in {"linear-approximation": cea.LinearApproximation, "normgrad": cea.NormGrad}.items():
        explain = method(model, "layer3")
        found = metrics.stability(explain, model, x, target, **ARGUMENTS["stability"])
        for detail in ("relative_input", "relative_output", "relative_representation", "lipschitz"):
            rows = [row.value for row in results.rows("stability", detail, method=name)]
            np.testing.assert_allclose(rows, getattr(found, detail), rtol=0.02)
        rows = [row.value for row in results.rows("emprt", method=name)]
        np.testing.assert_allclose(rows, metrics.emprt(explain, model, x, target, **ARGUMENTS["emprt"]), atol=0.02)
        smooth = metrics.smprt(explain, model, x, target, **ARGUMENTS["smprt"])
        for i, stage in enumerate(smooth.stages):
            rows = [row.value for row in results.rows("smprt", f"{i:03d} {stage}", method=name)]
            np.testing.assert_allclose(rows, smooth.values[i], atol=0.01)
    tables = {(table.measure, table.detail): table.better for table in comparisons(results)}
    assert tables["stability", "lipschitz"] == "lower"
    assert tables["emprt", ""] == "higher"
    assert {line.null for line in summarize(results) if line.measure == "emprt"} == {0}


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        ("stability", {"radius": -1}, "radius is -1"),
        ("stability", {"layer": "layer5"}, "layer is 'layer5'"),
        ("emprt", {"bins": 0}, "bins is 0"),
        ("smprt", {"noise": 0}, "noise"),
    ],
)
def test_a_wrong_argument_is_said_before_any_work(tmp_path, measure, arguments, message):
    with pytest.raises(ValueError, match=message if "layer" in arguments else f"measure '{measure}': {message}"):
        evaluated(tmp_path / "r", measures=[{"measure": measure, "arguments": arguments}])
