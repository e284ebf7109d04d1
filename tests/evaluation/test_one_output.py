"""An evaluation of a model with one output: its two signs are the classes."""

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import class_sensitivity, pixel_removal
from tests.evaluation import plans
from tests.evaluation.plans import HERE, evaluated


def values(results, measure, **which):
    return torch.tensor([row.value for row in results.rows(measure, **which)], dtype=torch.float64)


@pytest.mark.parametrize("form", ["one_output", "one_number"])
def test_the_signs_are_the_classes(form, tmp_path):
    results = evaluated(
        tmp_path / "results",
        model={"name": f"{HERE}:{form}"},
        layers=["conv2"],
        data={"kind": "custom", "dataset": f"{HERE}:tensors"},
        methods=[{"method": "gradcam"}, {"method": "gradcam", "meta_saliency": {"lr": 0.1}, "label": "meta"}],
        measures=[
            {"measure": "class_sensitivity"},
            {"measure": "pixel_removal", "arguments": {"step": 64}},
            {"measure": "completeness_gap"},
            {"measure": "parameter_randomization", "arguments": {"layers": ["fc"]}},
        ],
    )
    assert results.complete
    net, x = getattr(plans, form)().eval(), torch.stack([plans.tensors()[i][0] for i in range(4)])
    f = net(x).detach().flatten()
    for (i, target), row in results.targets().items():
        assert row.score == pytest.approx(float(f[i] if target else -f[i]), rel=1e-4, abs=1e-6)
    method = cea.GradCAM(net, net.conv2)
    expected = class_sensitivity(method, x, net)
    torch.testing.assert_close(values(results, "class_sensitivity", method="gradcam"), expected, rtol=1e-4, atol=1e-4)
    meta = class_sensitivity(cea.MetaSaliency(method, lr=0.1), x, net)
    torch.testing.assert_close(values(results, "class_sensitivity", method="meta"), meta, rtol=1e-3, atol=1e-3)
    best = torch.cat(
        [cea.GradCAM(_of_sign(net, 1 if f[i] > 0 else -1), net.conv2).attribute(x[i : i + 1]) for i in range(4)]
    )
    removed = pixel_removal(net, x, best, step=64)
    got = values(results, "pixel_removal", detail="e_minus", method="gradcam")
    torch.testing.assert_close(got, removed.e.double(), rtol=1e-4, atol=1e-4)


def _of_sign(net, sign):
    return lambda t: sign * net(t).flatten()


def test_a_probability_is_refused(tmp_path):
    with pytest.raises(ValueError, match="comes out of a sigmoid"):
        evaluated(
            tmp_path / "results",
            model={"name": f"{HERE}:one_probability"},
            layers=["conv2"],
            data={"kind": "custom", "dataset": f"{HERE}:tensors"},
        )
