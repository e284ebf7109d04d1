"""eMPRT and sMPRT: what their definitions give, passes counted, orders, company."""

import copy

import numpy as np
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import emprt, entropy_rise, parameter_randomization, smprt, spearman
from captum_extract_aggregate.metrics.randomization_variants import noisy_inputs
from tests.conftest import SmallNet
from tests.reference import complexity as reference


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SmallNet().double().eval()


def images(n=3):
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def explained(net, x, target=1):
    map_ = cea.LinearApproximation(net, "conv3").attribute(x, target)
    return torch.nn.functional.interpolate(map_, (12, 12), mode="bilinear")


def test_emprt_is_the_rise_of_entropy(net):
    x, state = images(), copy.deepcopy(net.state_dict())

    def ones(layer):
        for p in layer.parameters(recurse=False):
            p.data.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))

    found = emprt(cea.LinearApproximation(net, "conv3"), net, x, 1, init=ones, bins=20)
    other = copy.deepcopy(net)
    for module in other.modules():
        ones(module)
    before, after = explained(net, x), explained(other, x)
    expected = [reference.entropy_rise(a.numpy(), b.numpy(), 20) for a, b in zip(before, after)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    calls = []

    def method(x, target):
        calls.append(1)
        return explained(net, x, target)

    drawn = emprt(method, net, x, 1, n_seeds=3)
    assert len(calls) == 1 + 3
    assert drawn.shape == (3,)
    assert drawn.isfinite().all()


def test_smprt_averages_the_same_noise_at_every_stage(net):
    x = images()
    found = smprt(lambda t, target: explained(net, t, target), net, x, 1, n_samples=4, layers=["fc", "conv2"])
    assert found.stages == ("fc", "conv2")
    noisy = noisy_inputs(x, 4, 0.1, 0)
    mean = lambda net: torch.stack([explained(net, t) for t in noisy]).mean(0)  # noqa: E731
    seen = []
    parameter_randomization(
        lambda t, target: seen.append(copy.deepcopy(net)) or explained(net, t), net, x, 1, layers=["fc", "conv2"]
    )
    expected = torch.stack([spearman(mean(net), mean(now)) for now in seen[1:]])
    torch.testing.assert_close(found.values, expected)
    ranges = x.flatten(1).amax(1) - x.flatten(1).amin(1)
    for i in range(3):
        assert (noisy[0] - x)[i].std().item() == pytest.approx(0.1 * ranges[i].item(), rel=0.15)
        alone = noisy_inputs(x[i : i + 1], 4, 0.1, 0)
        torch.testing.assert_close(alone[3], noisy[3][i : i + 1])


def test_from_the_input_on(net):
    x = images()
    method, layers = cea.LinearApproximation(net, "conv3"), ["fc", "conv3", "conv1"]
    up = parameter_randomization(method, net, x, 1, order="bottom_up", layers=layers)
    assert up.stages == ("conv1", "conv3", "fc")
    assert "from the input on" in up.plot().get_xlabel()
    own = parameter_randomization(method, net, x, 1, order="independent", layers=layers)
    assert own.stages == ("fc", "conv3", "conv1")
    torch.testing.assert_close(up.values[0], own.values[-1], rtol=0, atol=0)  # it begins with the first layer alone
    down = parameter_randomization(method, net, x, 1, order="cascading", layers=layers)
    torch.testing.assert_close(up.values[-1], down.values[-1], rtol=0, atol=0)  # and both end with all layers
    once = parameter_randomization(method, net, x, 1, order="at_once", layers=layers)
    assert once.stages == ("all layers",)
    torch.testing.assert_close(once.values[0], down.values[-1], rtol=0, atol=0)
    last = parameter_randomization(method, net, x, 1, order="cascading", layers=layers, similarity=entropy_rise)
    assert last.values.shape == (3, 3)


def test_wrong_uses(net):
    x = images()
    for run, error, message in (
        (lambda: emprt(cea.NormGrad(net, "conv3"), net, x, 1, bins=0), ValueError, "bins is 0"),
        (lambda: emprt(cea.NormGrad(net, "conv3"), net, x, 1, init="none"), ValueError, "init is 'none'"),
        (lambda: smprt(cea.NormGrad(net, "conv3"), net, x, 1, noise=0), ValueError, "noise is 0"),
        (lambda: smprt(cea.NormGrad(net, ["conv3", "conv1"]), net, x, 1), TypeError, "explanation is a list"),
    ):
        with pytest.raises(error, match=message):
            run()
