"""The adapter: what Quantus is handed, and its metrics in a plan."""

import numpy as np
import pytest
import torch
from captum.attr import Saliency

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from tests.conftest import SmallNet


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SmallNet().eval()


def test_any_method_explains_for_it(net):
    x, y = np.random.default_rng(0).random((3, 3, 12, 12)), np.array([0, 1, 2])
    given = torch.tensor(x, dtype=torch.float32)
    for make in (lambda model: cea.NormGrad(model, "conv3"), Saliency):
        found = metrics.quantus_explainer(make)(net, inputs=x, targets=y)
        assert found.shape == (3, 1, 12, 12)
        maps = make(net).attribute(given, target=torch.tensor(y)).sum(1, keepdim=True)
        expected = torch.nn.functional.interpolate(maps, (12, 12), mode="bilinear").detach()
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_metric_gets_copies_and_its_values_come_back(net):
    seen = {}

    def metric(model, x_batch, y_batch, a_batch, device):
        seen.update(model=model, y=y_batch, device=device)
        values = a_batch.sum((1, 2, 3)).tolist()
        a_batch += 1
        x_batch[:] = 0
        return values

    maps, x = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 4, 4)
    before = maps.clone(), x.clone()
    found = metrics.from_quantus(metric)(maps, x, torch.tensor([1, 0]), net)
    torch.testing.assert_close(found, maps.double().sum((1, 2, 3)), rtol=1e-6, atol=0)
    assert torch.equal(maps, before[0])
    assert torch.equal(x, before[1])
    assert (seen["model"], seen["y"].tolist(), seen["device"]) == (net, [1, 0], "cpu")


def test_with_quantus_itself(net):
    quantus = pytest.importorskip("quantus")
    maps, x, y = torch.rand(3, 1, 12, 12), torch.rand(3, 3, 12, 12), torch.tensor([0, 1, 2])
    found = metrics.from_quantus(quantus.Sparseness(normalise=False, disable_warnings=True))(maps, x, y, net)
    torch.testing.assert_close(found, metrics.sparseness(maps), rtol=1e-4, atol=1e-5)
    explain = metrics.quantus_explainer(lambda model: cea.NormGrad(model, "conv3"))
    test = quantus.MPRT(disable_warnings=True, normalise=False, abs=False, layer_order="bottom_up")
    scores = test(net, x.numpy(), y.numpy(), a_batch=None, explain_func=explain)
    assert len(scores) >= 4
