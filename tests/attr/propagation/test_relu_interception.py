"""Where the gates of guided backprop, deconvolution and RectGrad are put."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate.attr.propagation.relu_interception import GatedInterception
from tests.attr.propagation.cases import Variant


def test_rectgrad_where_the_batch_is_not_first():
    def swapped(net, y):
        return y.transpose(0, 1).relu().transpose(0, 1)

    net = Variant(swapped).eval()
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(ValueError, match="not the batch of 2"):
        cea.RectGrad(net).attribute(x, target=1)
    single = nn.Sequential(nn.Flatten(), nn.Linear(108, 1), nn.Flatten(0), nn.ReLU())
    assert cea.RectGrad(single).attribute(x).shape == x.shape


CEILINGS = {
    "relu": (lambda x: x.relu(), float("inf")),
    "relu6": (torch.nn.functional.relu6, 6.0),
    "hardtanh": (lambda x: torch.nn.functional.hardtanh(x, 0, 3), 3.0),
    "clamp": (lambda x: x.clamp(0, 2), 2.0),
    "clamp_min": (lambda x: x.clamp_min(0), float("inf")),
    "threshold": (lambda x: torch.threshold(x, 0, 0), float("inf")),
}


@pytest.mark.parametrize("name", CEILINGS)
def test_a_gate_is_told_where_its_rectifier_saturates(name):
    rectifier, ceiling = CEILINGS[name]
    met = []

    def gate(arriving, a, saturates_at):
        met.append(saturates_at)
        return 3 * arriving

    x = torch.tensor([-1.0, 1, 10], requires_grad=True)
    with Undo() as undo, undo:
        GatedInterception("a method", gate).begin(undo)
        y = rectifier(x)
    y.sum().backward()
    assert met == [ceiling]
    assert x.grad.tolist() == [3, 3, 3]  # the gate says what passes, and nothing else
