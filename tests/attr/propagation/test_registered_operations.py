"""Operations that users register."""

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.operations import OPERATIONS
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    ZBox,
)
from tests.attr.propagation.cases import Squeeze, Variant, made
from tests.conftest import SmallNet, relative_error


@pytest.fixture
def registry():
    functions = [torch.erfc, torch.Tensor.mul, torch.sigmoid, torch.relu_, F.glu]
    yield
    for function in functions:
        if function in OPERATIONS:
            cea.unregister_operation(function)


def test_registered_operations(registry):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    net = made(torch.erfc).double()
    gradient = captum.attr.Saliency(net).attribute(x, target=0, abs=False)
    cea.register_operation(torch.erfc, "gradient")
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=0), gradient) < 1e-12
    with pytest.raises(ValueError, match=r"function is torch\.erfc, which has a rule already"):
        cea.register_operation(torch.erfc, "identity")
    cea.register_operation(torch.erfc, "identity", overwrite=True)
    plain_net = made(nn.Identity()).double()
    plain_net.load_state_dict(net.state_dict())
    expected = captum.attr.Saliency(plain_net).attribute(x, target=0, abs=False)
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=0), expected) < 1e-12
    assert cea.ExcitationBackprop(net, lost="spread").compute_convergence_delta(x, target=0).abs().max() < 1e-12
    cea.register_operation(torch.erfc, lambda r, output, y: 2 * r, overwrite=True)
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=0), 2 * expected) < 1e-12
    cea.register_operation(torch.erfc, "relu", overwrite=True)
    assert cea.Deconvolution(net).attribute(x, target=0).shape == x.shape
    cea.register_operation(torch.erfc, lambda r, output, y: r.sum(), overwrite=True)
    with pytest.raises(ValueError, match=r"the rule registered for torch\.erfc returned"):
        cea.GuidedBackprop(net).attribute(x, target=0)
    cea.unregister_operation(torch.erfc)
    with pytest.raises(ValueError, match=r"no rule for torch\.erfc"):
        cea.GuidedBackprop(net).attribute(x, target=0)


def test_the_signal_takes_all_in_a_gated_network(registry):
    """The rule of the documentation, on squeeze and excitation: nothing is lost, and the gate gets nothing."""

    def signal_takes_all(relevance, output, *factors):
        gate = min(range(len(factors)), key=lambda i: factors[i].numel())
        return tuple(torch.zeros_like(f) if i == gate else relevance for i, f in enumerate(factors))

    with pytest.raises(ValueError, match=r"torch\.Tensor\.mul, which has a rule already \(scale\).*overwrite=True"):
        cea.register_operation(torch.Tensor.mul, signal_takes_all)
    cea.register_operation(torch.Tensor.mul, signal_takes_all, overwrite=True)
    cea.register_operation(torch.sigmoid, lambda relevance, output, gate: torch.zeros_like(gate), overwrite=True)
    x = torch.randn(1, 3, 8, 8)
    delta = cea.ExcitationBackprop(Squeeze().eval(), lost="spread").compute_convergence_delta(x, target=0)
    assert delta.abs() < 1e-6


def test_registering_nonsense():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        cea.register_operation(torch.erfc, "relus")
    with pytest.raises(TypeError, match="function is a str"):
        cea.register_operation("erfc", "relu")


def test_rules_of_ones_own_for_in_place_functions(registry):
    cea.register_operation(torch.relu_, lambda r, output, x: r, overwrite=True)
    with pytest.raises(ValueError, match="works in place"):
        cea.GuidedBackprop(made(torch.relu_)).attribute(torch.randn(1, 3, 8, 8), target=0)


def test_numbers_of_numpy_and_other_arguments(registry):
    net = SmallNet().eval()
    assert cea.RectGrad(net, percentile=np.int64(98)).percentile == 98
    assert cea.LRP(net, gamma=np.float32(0.25)).gamma == 0.25
    with pytest.raises(ValueError, match="how is \\[\\]"):
        cea.register_operation(torch.erfc, [])
    with pytest.raises(TypeError, match="low is a str"):
        ZBox("a", 1)
    with pytest.raises(ValueError, match="low is above high"):
        ZBox(1, 0)
    with pytest.raises(ValueError, match="C x 1 x 1"):
        cea.LRP(net, rules={"conv1": ZBox(torch.zeros(7), torch.ones(7))}).attribute(torch.randn(1, 3, 12, 12), 1)
    with pytest.raises(ValueError, match="has no convergence delta"):
        cea.ContrastiveExcitationBackprop(net).attribute(torch.randn(1, 3, 12, 12), 1, return_convergence_delta=True)
    cea.register_operation(F.glu, "identity")
    halved = Variant(lambda n, y: F.glu(y, 1)).eval()
    with pytest.raises(ValueError, match="keeps the shape"):
        cea.ExcitationBackprop(halved).attribute(torch.randn(1, 3, 6, 6), 1)
