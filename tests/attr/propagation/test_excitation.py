"""Excitation backprop and its contrast: literal references, zennit, what inhibits."""

import copy
import math

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    ZPlus,
)
from tests.attr.propagation.cases import TARGET, Steps, network, pictures
from tests.conftest import SmallNet, relative_error
from tests.networks import vgg11
from tests.reference import propagation as reference


@pytest.mark.parametrize("clamp", ["map", "contrast"])
def test_contrastive_reference(steps, clamp):
    net = Steps(steps).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def of_one(example):
        return reference.contrastive(steps, reference.forward(steps, example), TARGET, clamp == "contrast")

    expected = reference.per_example(of_one, x)
    got = cea.ContrastiveExcitationBackprop(net, clamp=clamp).attribute(x, target=TARGET)
    torch.testing.assert_close(got, expected["x"].clamp(min=0), rtol=1e-10, atol=1e-14)
    name = next(step.output for step in steps if step.kind.endswith("pool"))
    at = cea.ContrastiveExcitationBackprop(net, f"named.{name}", clamp=clamp).attribute(x, target=TARGET)
    torch.testing.assert_close(at, expected[name].sum(1, keepdim=True).clamp(min=0), rtol=1e-10, atol=1e-14)
    excitation = cea.ExcitationBackprop(net, f"named.{name}").attribute(x, target=TARGET)
    assert torch.allclose(at, excitation, atol=1e-12) == (clamp == "contrast")  # disjoint supports: see the docstring


def test_contrast_layer_by_name():
    """At a layer of one's own choice, the network's own classifier still being negated."""
    torch.manual_seed(0)
    net = vgg11().double().eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    automatic = cea.ContrastiveExcitationBackprop(net, "features.10").attribute(x, target=1)
    by_name = cea.ContrastiveExcitationBackprop(net, "features.10", contrast_layer="classifier.2").attribute(
        x, target=1
    )
    lower = cea.ContrastiveExcitationBackprop(net, "features.10", contrast_layer="features.20").attribute(x, target=1)
    clamped = cea.ContrastiveExcitationBackprop(
        net, "features.10", contrast_layer="features.20", clamp="contrast"
    ).attribute(x, target=1)
    assert torch.equal(automatic, by_name)
    assert relative_error(lower, automatic) < 1e-10  # without clamping, the difference may be taken anywhere
    assert relative_error(clamped, lower) > 1e-3


@pytest.mark.parametrize("inplace", [False, True])
def test_the_layer_that_the_classifier_reads_is_the_same_in_company(inplace):
    """Its very tensor is where the contrast is taken, and relevance goes on to an earlier layer."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace), nn.Conv2d(8, 16, 3, 2), nn.ReLU(inplace))
    net = nn.Sequential(features, nn.Conv2d(16, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for layers in ("0.1", "0"), ("0", "0.1"):
        together = cea.ContrastiveExcitationBackprop(net, list(layers)).attribute(x, target=1)
        for layer, map_ in zip(layers, together):
            alone = cea.ContrastiveExcitationBackprop(net, layer).attribute(x, target=1)
            torch.testing.assert_close(map_, alone, rtol=1e-10, atol=1e-12)
            assert layer == "0" or float(map_.max()) > 1e-3  # at the classifier both send the same to a position


class Bypassed(nn.Module):
    """A residual branch, within which the contrast may be taken."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def joined(self, a, b):
        return self.head((a + b.relu()).mean((2, 3)))

    def forward(self, x):
        a = self.a(x).relu()
        return self.joined(a, self.b(a))


class Joined(nn.Module):
    """What lies behind the branch, of both its inputs."""

    def __init__(self, net, sign):
        super().__init__()
        self.net = copy.deepcopy(net)
        self.net.head.weight.data *= sign

    def forward(self, a, b):
        return self.net.joined(a, b)


def test_what_goes_round_the_contrast_layer_is_not_in_the_contrast():
    """As with the authors' code, which begins at that layer and sends the difference alone."""
    torch.manual_seed(0)
    net, x = Bypassed().double().eval(), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        a = net.a(x).relu()
        b = net.b(a)
    of_class, of_dual = (cea.ExcitationBackprop(Joined(net, sign)).attribute((a, b), target=1)[1] for sign in (1, -1))
    weight = net.b.weight.detach().clamp(min=0)
    z = nn.functional.conv2d(a, weight)
    sent = torch.where(z > 0, (of_class - of_dual) / z, 0)
    expected = (a * nn.functional.conv_transpose2d(sent, weight)).sum(1, keepdim=True).clamp(min=0)
    got = cea.ContrastiveExcitationBackprop(net, "a", contrast_layer="b").attribute(x, target=1)
    assert relative_error(got, expected) < 1e-10
    assert float(expected.sum()) > 0


def test_another_thread_may_run_the_contrast_layer():
    import threading

    class RunsItselfBeside(SmallNet):
        beside = False

        def forward(self, x):
            if self.beside and threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=torch.no_grad()(lambda: self(x)))
                thread.start()
                thread.join()
            return super().forward(x)

    net, x = RunsItselfBeside().eval(), torch.randn(1, 3, 12, 12)
    method = cea.ContrastiveExcitationBackprop(net, contrast_layer="relu2")
    expected = method.attribute(x, target=1)
    net.beside = True
    assert torch.equal(method.attribute(x, target=1), expected)


def test_an_input_that_only_inhibits_receives_nothing():
    """The second unit lives from its bias: nobody excites it, so what it would pass on is lost, and reported."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    net[0].weight.data, net[0].bias.data = torch.tensor([[1.0, 0], [-1, -1]]), torch.tensor([0.0, 10])
    net[2].weight.data, net[2].bias.data = torch.ones(1, 2), torch.zeros(1)
    x = torch.ones(1, 2)
    published, delta = cea.ExcitationBackprop(net).attribute(x, target=0, return_convergence_delta=True)
    torch.testing.assert_close(published, torch.tensor([[1 / 9, 0]]))
    torch.testing.assert_close(delta, torch.tensor([-8 / 9]))
    torch.testing.assert_close(cea.LRP(net, gamma=math.inf).attribute(x, target=0), torch.tensor([[1.0, 0]]))
    spread = cea.ExcitationBackprop(net, lost="spread").attribute(x, target=0)
    torch.testing.assert_close(spread, torch.tensor([[5 / 9, 4 / 9]]))


SUMS = {
    "operator": lambda a, b: a - b,
    "function": lambda a, b: torch.sub(a, b),
    "factor": lambda a, b: torch.add(a, b, alpha=-1),
    "reversed": lambda a, b: torch.rsub(b, a),
    "in place": lambda a, b: a.clone().sub_(b),
    "operator in place": lambda a, b: _minus(a.clone(), b),
    "negated": lambda a, b: a + -b,
    "stacked": lambda a, b: torch.stack([a, -b]).sum(0),
    "averaged": lambda a, b: torch.stack([a, -b], -1).mean(-1) * 2,
    "concatenated": lambda a, b: torch.cat([a[:, None], -b[:, None]], 1).sum(1),
}


def _minus(a, b):
    a -= b
    return a


@pytest.mark.parametrize("spelling", SUMS)
def test_signed_shares_at_a_difference(spelling):
    """3 - 2: shares of 3 and -2; the positive parts alone would give 1 and 0."""
    weights = torch.tensor([[3.0, 0, 0, 0], [0, 2, 0, 0]])

    class Difference(nn.Module):
        def forward(self, x):
            return SUMS[spelling](x @ weights[:1].T, x @ weights[1:].T)

    x = torch.tensor([[1.0, 1, 0, 0]])
    torch.testing.assert_close(
        cea.ExcitationBackprop(Difference()).attribute(x, target=0), x * torch.tensor([3, -2, 0, 0])
    )
    got = cea.ExcitationBackprop(Difference(), sums="positive").attribute(x, target=0)
    torch.testing.assert_close(got, x * torch.tensor([1, 0, 0, 0]))
    cancels = torch.tensor([[2.0, 3, 0, 0]])
    assert not cea.ExcitationBackprop(Difference()).attribute(cancels, target=0).any()


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50"])
def test_excitation_backprop_against_zennit(name):
    """At the input, negative pixels included, and with BatchNorm merged, which for positive scales is the same."""
    pytest.importorskip("zennit")
    from zennit import attribution, composites
    from zennit import torchvision as canonizers

    net = network(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.abs_()
            module.eps = 1e-30  # nothing: zennit before 1.0 leaves it in the merged one, and PyTorch 2.11 refuses 0
    x = pictures(net, 1)
    ours = cea.ExcitationBackprop(net).attribute(x, target=TARGET)
    canonizer = canonizers.VGGCanonizer() if name == "vgg11" else canonizers.ResNetCanonizer()
    composite = composites.ExcitationBackprop(stabilizer=1e-30, zero_params=["bias"], canonizers=[canonizer])
    with attribution.Gradient(net, composite) as attributor:
        _, expected = attributor(x, torch.eye(10, dtype=x.dtype)[[TARGET]])
    assert relative_error(ours, expected) < 1e-6


def test_sums_and_lost_are_checked():
    net = SmallNet().eval()
    for make, message in [
        (lambda: cea.ExcitationBackprop(net, sums="sign"), "did you mean 'signed'"),
        (lambda: cea.ContrastiveExcitationBackprop(net, lost="dropped"), "did you mean 'drop'"),
        (lambda: cea.LRP(net, gamma=0.25, lost="spread"), "gamma=math.inf"),
        (lambda: ZPlus("spred"), "did you mean 'spread'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
