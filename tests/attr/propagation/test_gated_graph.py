"""Gates in the graph of a plain forward give what gates of watched functions give, and are put nowhere else."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation import relu_methods
from captum_extract_aggregate.attr.propagation.gated_graph import rectifiers_of
from tests.attr.propagation.cases import Variant

METHODS = [cea.GuidedBackprop, cea.Deconvolution, cea.RectGrad, cea.RectGradMod]


@pytest.fixture
def watched(monkeypatch):
    """Returns a function after which no graph is trusted."""
    return lambda: monkeypatch.setattr(relu_methods, "rectifiers_of", lambda *args: None)


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(weights=None),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(weights=None),
    "a gate": lambda: Variant(lambda net, y: net.conv2(y.relu()) * y.mean((2, 3), keepdim=True).sigmoid()),
    "saturating": lambda: Variant(lambda net, y: net.conv2(F.hardtanh(y, 0, 0.3) + F.relu6(y))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_both_ways_are_the_same_bit_for_bit(name, watched):
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    x = torch.randn(2, 3, 32, 32) if "net" in name else torch.randn(2, 3, 6, 6)
    methods = [make(net) for make in METHODS]
    found = [m.attribute(x, target=1) for m in methods]
    per_target = methods[2].attribute_per_target(x, [0, 1])
    assert net not in relu_methods._WATCHED
    watched()
    for method, one in zip(methods, found):
        assert torch.equal(method.attribute(x, target=1), one)
    assert torch.equal(methods[2].attribute_per_target(x, [0, 1]), per_target)
    assert net in relu_methods._WATCHED
    assert not torch.equal(found[0], found[1])


def test_channels_last(watched):
    net, x = torchvision.models.resnet18(weights=None).eval(), torch.randn(1, 3, 32, 32)
    expected = cea.RectGrad(net).attribute(x, target=1)
    net.to(memory_format=torch.channels_last)
    found = cea.RectGrad(net).attribute(x.to(memory_format=torch.channels_last), target=1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


NOT_TOLD = {
    "an unknown function": lambda y: y.sin(),
    "a mask": lambda y: y * (y > 0),
    "another rectifier": lambda y: F.leaky_relu(y),
    "other bounds": lambda y: F.hardtanh(y),
    "the batch's statistics": lambda y: F.batch_norm(y, None, None, training=True),
    "the batch elsewhere": lambda y: y.transpose(0, 1).relu(),
    "scripted": torch.jit.script(nn.ReLU()),
}


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_the_graph_does_not_tell(name):
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    function = NOT_TOLD[name]
    models = [function] if isinstance(function, nn.Module) else []
    assert rectifiers_of(function(x * 2), models, batch=2) is None


def test_what_the_graph_tells():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    found = rectifiers_of([F.relu6(x.relu() + 1), F.hardtanh(x, 0, 3)], [], batch=2)
    assert sorted(ceiling for _, ceiling in found) == [3, 6, float("inf")]
    overwritten = F.relu6(y := x * 2)
    y.add_(1)
    assert rectifiers_of(overwritten, [], batch=2) is None


def test_a_rule_of_a_user_s_is_asked():
    net, x = torchvision.models.resnet18(weights=None).eval(), torch.randn(1, 3, 32, 32)
    plain = cea.GuidedBackprop(net).attribute(x, target=1)
    cea.register_operation(F.relu, "identity", overwrite=True)
    try:
        assert not torch.equal(cea.GuidedBackprop(net).attribute(x, target=1), plain)
    finally:
        cea.unregister_operation(F.relu)
    assert torch.equal(cea.GuidedBackprop(net).attribute(x, target=1), plain)


def test_the_forward_is_not_watched():
    net, x = torchvision.models.resnet18(weights=None).eval(), torch.randn(1, 3, 32, 32)
    method, modes = cea.GuidedBackprop(net), []
    net.layer1.register_forward_hook(lambda *_: modes.append(torch._C._len_torch_function_stack()))
    method.attribute(x, target=1)
    assert modes == [0]
