"""Gates: in products with one the signal takes all, however the gate is made and spelled."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from tests.attr.propagation.cases import Squeeze, Variant
from tests.conftest import relative_error

GATES = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "relu6": lambda y: F.relu6(y + 3) / 6,
    "softmax": lambda y: y.softmax(1),
    "tanh": lambda y: (1 + torch.tanh(y)) / 2,
    "norm": lambda y: 1.0 * y.norm(dim=1, keepdim=True),
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("gated_first", [False, True])
def test_the_signal_takes_all(gate, gated_first):
    """As if the gate's values were constants."""

    def part(held):
        def run(net, y):
            weight = GATES[gate](net.conv2(y))
            weight = weight.detach() if held else weight
            return weight * y if gated_first else y * weight

        return run

    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for method in (cea.LRP, cea.ExcitationBackprop):
        live, constant = (method(Variant(part(held)).double().eval()).attribute(x, target=1) for held in (False, True))
        assert relative_error(live, constant) < 1e-12


def test_squeeze_and_excitation_keeps_the_sum():
    torch.manual_seed(0)
    net = Squeeze().double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert cea.ExcitationBackprop(net, lost="spread").compute_convergence_delta(x, target=0).abs().max() < 1e-12


GELUS = {
    "exact": (nn.GELU(), lambda y: y * 0.5 * (1 + torch.erf(y / 2**0.5))),
    "tanh": (nn.GELU("tanh"), lambda y: 0.5 * y * (1 + torch.tanh((2 / math.pi) ** 0.5 * (y + 0.044715 * y**3)))),
    "silu": (nn.SiLU(), lambda y: y * torch.sigmoid(y)),
}


@pytest.mark.parametrize("name", GELUS)
def test_activations_written_out_pass_relevance_as_the_activations_do(name):
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for method in (cea.LRP, cea.ExcitationBackprop):
        fused, written = (
            method(Variant(lambda net, y, of=of: net.conv2(of(y))).double().eval()).attribute(x, target=1)
            for of in GELUS[name]
        )
        assert relative_error(written, fused) < 1e-12


@pytest.mark.parametrize("below", ["sigmoid", "norm", "signal"])
def test_what_is_divided_by_is_held(below):
    """As statistics are, and sums of weights in linear attention."""
    make = {**GATES, "signal": lambda y: 2 + y}[below]

    def part(held):
        def run(net, y):
            divisor = make(net.conv2(y))
            return y / (divisor.detach() if held else divisor)

        return run

    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    live, constant = (cea.LRP(Variant(part(held)).double().eval()).attribute(x, target=1) for held in (False, True))
    assert relative_error(live, constant) < 1e-12


def test_two_signals_take_half_each():
    class Product(nn.Module):
        def forward(self, x):
            return x[:, :1] * x[:, 1:]

    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(cea.LRP(Product()).attribute(x, target=0), torch.full_like(x, 3.0))
