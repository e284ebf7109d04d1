"""LRP: gradient x input, the limits of gamma, zennit."""

import math

import captum.attr
import pytest
import torch
import torchvision
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    AlphaBeta,
    Epsilon,
    Gamma,
    ZPlus,
)
from tests.attr.propagation.cases import NETWORKS, TARGET, network, pictures
from tests.conftest import relative_error


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("mobilenet_v2", "mnasnet", "convnext")])
def test_lrp_0_is_gradient_x_input(name):
    """Exactly so with biases and BatchNorm too, as long as the only nonlinearities are ReLUs and maxima."""
    net = network(name)
    x = pictures(net)
    expected = captum.attr.InputXGradient(net).attribute(x, target=TARGET)
    assert relative_error(cea.LRP(net, epsilon=0).attribute(x, target=TARGET), expected) < 1e-6


def test_lrp_bias_share_is_what_is_lost():
    """The delta equals minus what the biases contribute: FullGrad's completeness on the same network."""
    net = network("cifar resnet20")
    x = pictures(net)
    delta = cea.LRP(net, epsilon=0).compute_convergence_delta(x, target=TARGET)
    gradient_x_input = captum.attr.InputXGradient(net).attribute(x, target=TARGET).sum((1, 2, 3))
    assert relative_error(delta, gradient_x_input - net(x)[:, TARGET].detach()) < 1e-8
    bias_free = torchvision.models.resnet18(num_classes=10).double().eval()  # fresh BatchNorm: no shift
    bias_free.fc.bias.data.zero_()
    delta = cea.LRP(bias_free).compute_convergence_delta(x, target=TARGET)
    assert delta.abs().max() < 1e-5 * bias_free(x)[:, TARGET].abs().min()


def test_infinite_gamma_alpha1_beta0_z_plus_and_large_gamma():
    """One rule under many names, on a network whose activations are not negative, and at its signed input."""
    net = network("vgg11")
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    x = pictures(net)
    by_type = {nn.Conv2d: AlphaBeta(1, 0, 0), nn.Linear: AlphaBeta(1, 0, 0)}
    expected = cea.LRP(net, gamma=math.inf).attribute(x, target=TARGET)
    logits = net(x).detach()[:, TARGET, None, None, None]
    assert relative_error(cea.LRP(net, rules=by_type, epsilon=0).attribute(x, target=TARGET), expected) < 1e-9
    zplus = cea.LRP(net, rules={nn.Module: ZPlus()}, epsilon=0).attribute(x, target=TARGET)
    assert relative_error(zplus, expected) < 1e-9
    assert relative_error(cea.ExcitationBackprop(net).attribute(x, target=TARGET) * logits, expected) < 1e-12
    best = net(x).argmax(1)  # below a negative logit, large gamma takes the negative parts instead
    large = cea.LRP(net, gamma=1e7).attribute(x, target=best)
    assert relative_error(large, cea.LRP(net, gamma=math.inf).attribute(x, target=best)) < 1e-4


class Plain(nn.Module):
    """What Captum's LRP takes: it has no rule for `nn.Flatten`."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 3, bias=False)
        self.relu1, self.relu2, self.pool = nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2)
        self.head = nn.Linear(24, 5, bias=False)

    def forward(self, x):
        return self.head(self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x))))).flatten(1))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda: EpsilonRule(0.5), Epsilon(0.5)),
        (lambda: GammaRule(0.25), Gamma(0.25)),
        (lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True), AlphaBeta(1, 0)),
    ],
)
def test_against_captum(theirs, ours):
    """On pictures that are not negative, and without biases, which its rules treat otherwise."""
    torch.manual_seed(0)
    net = Plain().double().eval()
    x = torch.rand(2, 3, 10, 10, dtype=torch.float64)
    best = net(x).argmax(1)
    for module in (net.conv1, net.conv2, net.head):
        module.rule = theirs()
    expected = captum.attr.LRP(net).attribute(x, target=best)
    got = cea.LRP(net, rules={nn.Conv2d: ours, nn.Linear: ours}).attribute(x, target=best)
    assert relative_error(got, expected.detach()) < 1e-6


class Two(nn.Module):
    """(2 x + x), averaged, times 4: weights, a sum and an average, all of positive numbers."""

    def forward(self, x):
        weight = torch.tensor([[2.0]], dtype=x.dtype)
        y = nn.functional.linear(x[..., None], weight)[..., 0] + x
        return 4 * y.mean(1, keepdim=True)


@pytest.mark.parametrize(("epsilon", "stabilizer"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_epsilon_damps_weighted_layers_and_the_stabilizer_all_others(epsilon, stabilizer):
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    weighted, summed = 2 * x, 3 * x
    average = summed.mean()
    at_sum = summed / 2 / (average + stabilizer) * 4 * average
    expected = at_sum * (weighted / (summed + stabilizer)) * (2 * x / (weighted + epsilon))
    expected += at_sum * (x / (summed + stabilizer))
    got = cea.LRP(Two(), epsilon=epsilon, stabilizer=stabilizer).attribute(x, target=0)
    assert relative_error(got, expected) < 1e-12


def test_by_default_epsilon_leaves_sums_as_they_are():
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    damped, exact = cea.LRP(Two(), epsilon=0.5), cea.LRP(Two(), epsilon=0)
    assert relative_error(damped.attribute(x, 0), cea.LRP(Two(), epsilon=0.5, stabilizer=0).attribute(x, 0)) < 1e-8
    assert torch.equal(exact.attribute(x, 0), cea.LRP(Two(), epsilon=0, stabilizer=0).attribute(x, 0))


@pytest.mark.parametrize("gamma", [0.0, 0.25, 2.0])
def test_against_zennit(gamma):
    pytest.importorskip("zennit")
    from zennit import attribution, composites, rules, types

    net = network("vgg11")
    x = pictures(net)
    rule = rules.Gamma(gamma, stabilizer=1e-9) if gamma else rules.Epsilon(1e-9)
    layers = [(types.Activation, rules.Pass()), (types.AvgPool, rules.Norm(1e-9)), (types.Linear, rule)]
    composite = composites.LayerMapComposite(layers)
    for target in (0, 3):
        logits = net(x).detach()
        seed = torch.zeros_like(logits)
        seed[:, target] = logits[:, target]
        with attribution.Gradient(net, composite) as attributor:
            _, expected = attributor(x, seed)
        assert relative_error(cea.LRP(net, gamma=gamma).attribute(x, target=target), expected) < 1e-6
