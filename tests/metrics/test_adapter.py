"""Captum's own measures on layer methods: the fault, and the cure."""

import captum.attr
import pytest
import torch
from captum.metrics import infidelity, sensitivity_max

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import as_input_attribution
from tests.conftest import SmallNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture
def x():
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def perturbed(inputs, perturb_radius=0.02):
    """Deterministic, so that both sides see the same."""
    (t,) = inputs if isinstance(inputs, tuple) else (inputs,)
    steps = torch.linspace(0.5, 1, len(t)).reshape(-1, 1, 1, 1)
    moved = t + 0.3 * steps * torch.ones_like(t).cumsum(3).sin()
    return (moved,) if isinstance(inputs, tuple) else moved


def test_sensitivity_max_the_fault_and_the_cure(net, x):
    """The definition: max over perturbations of |map(x') - map(x)| / |map(x)|, for each example."""
    method = captum.attr.LayerGradCam(net, net.conv3)

    def explain(t):
        return torch.nn.functional.interpolate(method.attribute(t, target=1), (12, 12), mode="bilinear").detach()

    noisy = perturbed((x.expand(4, -1, -1, -1),))[0]
    differences = (explain(noisy) - explain(x)).flatten(1).norm(dim=1)
    expected = (differences / explain(x).norm()).max()
    cured = sensitivity_max(as_input_attribution(method).attribute, x, perturbed, n_perturb_samples=4, target=1)
    assert cured.item() == pytest.approx(expected.item(), rel=1e-5)
    faulty = sensitivity_max(method.attribute, x, perturbed, n_perturb_samples=4, target=1)
    plain = method.attribute(noisy, target=1) - method.attribute(x, target=1)
    of_its_own_size = (plain.flatten(1).norm(dim=1) / method.attribute(x, target=1).norm()).max()
    assert abs(faulty.item() - of_its_own_size.item()) > 0.2 * of_its_own_size.item()  # compares examples, not maps
    two = torch.cat([x, x.flip(3)])
    ours = sensitivity_max(
        as_input_attribution(cea.NormGrad(net, net.conv3)).attribute, two, perturbed, n_perturb_samples=4, target=1
    )
    assert ours.shape == (2,)
    assert (ours > 0).all()


def test_infidelity(net, x):
    method = cea.LinearApproximation(net, net.conv3)
    adapted = as_input_attribution(method)

    def noise(inputs, baselines=None):
        delta = torch.randn_like(inputs) * 0.1
        return delta, inputs - delta

    with pytest.raises((AssertionError, RuntimeError)):
        infidelity(net, noise, x, method.attribute(x, target=1), target=1)
    attributions = adapted.attribute(x, target=1)
    assert infidelity(net, noise, x, attributions, target=1).shape == (1,)
    assert isinstance(attributions, tuple)
    assert attributions[0].shape == x.shape
    assert attributions[0].is_contiguous()
    assert torch.equal(attributions[0][:, 0], attributions[0][:, 2])


def test_the_adapter_in_noise_tunnels_and_its_errors(net, x):
    tunnel = captum.attr.NoiseTunnel(as_input_attribution(cea.NormGrad(net, net.conv3)))
    assert tunnel.attribute((x,), target=1, nt_samples=2)[0].shape == x.shape
    with pytest.raises(TypeError, match="attribution_method is a SmallNet"):
        as_input_attribution(net)
    with pytest.raises(ValueError, match="2 tensors"):
        as_input_attribution(cea.NormGrad(net, ["conv1", "conv3"])).attribute(x, target=1)
    with pytest.raises(ValueError, match="inputs holds 2 tensors"):
        as_input_attribution(cea.NormGrad(lambda a, b: net(a + b), net.conv3)).attribute((x, x), target=1)
