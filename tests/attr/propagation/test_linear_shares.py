"""Shares of linear operations: LRP-gamma against each contribution written out, and adjoints against autograd."""

import pytest
import torch
import torch.nn.functional as F

from captum_extract_aggregate._engine.operations import Call
from captum_extract_aggregate.attr.propagation.linear_shares import Linear, gamma_share_out, share_out
from captum_extract_aggregate.attr.propagation.lrp_rules import ZPlus
from captum_extract_aggregate.attr.propagation.relevance_steps import weighted


def literal(arriving, a, w, b, gamma):
    """`R_j = sum_k c_jk / (sum_i c_ik + c_k) R_k`, for one example of a linear layer."""
    received = torch.zeros_like(a)
    for k, (row, bias) in enumerate(zip(w, b)):
        contributions = a * row
        z = contributions.sum() + bias

        def counted(t, z=z):
            return t + gamma * (t.clamp(min=0) if z >= 0 else t.clamp(max=0))

        received += counted(contributions) / (counted(contributions).sum() + counted(bias)) * arriving[k]
    return received


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1000.0])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("by_autograd", [True, False])
@pytest.mark.parametrize("never_negative", [True, False])
@pytest.mark.parametrize("below", [True, False])
def test_gamma(gamma, joined, by_autograd, never_negative, below):
    torch.manual_seed(0)
    a, w, b = torch.randn(2, 5).double(), torch.randn(4, 5).double(), torch.randn(4).double()
    a = a.abs() if never_negative else a
    arriving = torch.randn(2, 4).double()
    z = F.linear(a, w, b)
    assert (z < 0).any()
    arriving = arriving if below else torch.where(z < 0, 0, arriving)  # where a rectifier follows
    adjoint = None if by_autograd else lambda arriving, a, w: arriving @ w
    linear = Linear(F.linear, w, b, None, never_negative, (-1, 1) if joined else None, adjoint)
    expected = torch.stack([literal(*one, w, b, gamma) for one in zip(arriving, a)])
    torch.testing.assert_close(gamma_share_out(arriving.clone(), a, linear, gamma, 0), expected, rtol=1e-9, atol=1e-9)


CONVOLUTIONS = {
    "strided": (F.conv2d, (2, 4, 9, 8), (6, 4, 3, 2), {"stride": 2, "padding": (1, 0), "dilation": (1, 2)}),
    "grouped": (F.conv2d, (2, 4, 9, 8), (6, 2, 3, 3), {"groups": 2}),
    "strings": (F.conv2d, (2, 4, 9, 8), (6, 4, 3, 3), {"padding": "same"}),
    "one dimension": (F.conv1d, (2, 4, 9), (6, 4, 3), {"stride": 3}),
    "three": (F.conv3d, (2, 4, 5, 4, 3), (6, 4, 3, 2, 1), {"padding": 1}),
    "without a batch": (F.conv2d, (4, 9, 8), (6, 4, 3, 2), {}),
    "linear": (F.linear, (2, 3, 4), (6, 4), {}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_an_adjoint_is_autograd_s(name):
    function, size, of_weight, named = CONVOLUTIONS[name]
    torch.manual_seed(0)
    a, w = torch.randn(size), torch.randn(of_weight)
    linear = weighted(Call(function, (a, w, None), named, "linear"))
    assert (linear.adjoint is None) == (name in ("strings", "without a batch"))
    leaf = a.clone().requires_grad_()
    z = function(leaf, w, **named)
    arriving = torch.randn_like(z)
    if linear.adjoint is not None:
        assert torch.equal(linear.adjoint(arriving, a, w), torch.autograd.grad(z, leaf, arriving)[0])
    received, _ = share_out(arriving, linear, [(a, w)])
    expected = torch.autograd.grad(function(leaf, w, **named), leaf, arriving / z)[0] * a
    torch.testing.assert_close(received, expected.detach())
    assert ZPlus().relevance(arriving.abs(), a.abs(), linear).min() >= 0
