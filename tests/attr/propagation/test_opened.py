"""Functions that do several things at once are the same as functions of plain operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.opened import OPENED
from tests.conftest import relative_error

A, B, C = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
CALLS = {
    "glu": (F.glu, (A, 1), {}),
    "glu of the last dimension": (F.glu, (A,), {}),
    "baddbmm": (torch.baddbmm, (A, B, C), {}),
    "baddbmm with factors": (torch.baddbmm, (A, B, C), {"beta": 0.5, "alpha": 2.0}),
    "addmm": (torch.addmm, (A[0], B[0], C[0]), {"alpha": 0.5}),
    "addmm as a method": (torch.Tensor.addmm, (A[0], B[0], C[0]), {"beta": 3}),
    "addcmul": (torch.addcmul, (A, B, C), {"value": -2}),
    "attention": (F.scaled_dot_product_attention, (A, B, C), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_gives_the_same(name):
    function, given, named = CALLS[name]
    torch.testing.assert_close(OPENED[function](*given, **named), function(*given, **named))


class Net(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x).flatten(1)


WRITTEN = {
    "glu": (lambda x: F.glu(x, 1), lambda x: x[:, :2] * x[:, 2:].sigmoid()),
    "addmm": (lambda x: torch.addmm(x[0], x[0], x[0])[None], lambda x: (x[0] + x[0] @ x[0])[None]),
    "baddbmm": (lambda x: torch.baddbmm(x, x, x, beta=2), lambda x: 2 * x + x @ x),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=3), lambda x: x + 3 * x * x),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_lrp_passes_each_operation_within(name):
    fused, written = (cea.LRP(Net(part)).attribute(A[:1], target=3) for part in WRITTEN[name])
    assert relative_error(fused, written) < 1e-12
    assert fused.any()


def test_a_rule_of_one_s_own_is_asked_instead():
    net = Net(lambda x: F.glu(x, 1))
    assert (
        not cea.LRP(net, rules={F.glu: lambda relevance, output, x: torch.zeros_like(x)})
        .attribute(A[:1], target=3)
        .any()
    )
