"""Gates, gated units and normalisations whose backward holds what gates, each against the same written out by hand."""

import pytest
import torch
import torch.nn.functional as F

from captum_extract_aggregate._engine.operations import Call
from captum_extract_aggregate.attr.propagation.balanced_interception import BalancedInterception
from captum_extract_aggregate.attr.propagation.balanced_steps import with_arguments

X = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.tensor([0.5, -1.0, 2.0, 1.5, -0.5, 1.0], dtype=torch.float64)


def spread(x, dims):
    return (x.var(dims, keepdim=True, unbiased=False) + 1e-5).sqrt().detach()


def mean_free(x, dims):
    return x - x.mean(dims, keepdim=True)


GROUPS = X.shape[0], 3, 2, 5
STEPS = {
    "gelu": (F.gelu, lambda x: x * (F.gelu(x) / x).detach()),
    "silu": (F.silu, lambda x: x * x.sigmoid().detach()),
    "tanh": (torch.tanh, lambda x: x * (x.tanh() / x).detach()),
    "in place": (lambda x: x.clone().mul_(1).tanh_(), lambda x: x * (x.tanh() / x).detach()),
    "glu": (lambda x: F.glu(x, 1), lambda x: x[:, :3] * x[:, 3:].sigmoid().detach()),
    "product": (
        lambda x: x[:, :3] * x[:, 3:],
        lambda x: (x[:, :3].detach() * x[:, 3:] + x[:, :3] * x[:, 3:].detach()) / 2,
    ),
    "softmax": (lambda x: x * x.softmax(1), lambda x: x * x.softmax(1).detach()),
    "quotient": (lambda x: x / (x.square().sum() + 1), lambda x: x / (x.square().sum() + 1).detach()),
    "variance": (
        lambda x: x.mean(1) / torch.var_mean(x, 1)[0].sqrt(),
        lambda x: x.mean(1) / x.var(1).sqrt().detach(),
    ),
    "layer_norm": (
        lambda x: F.layer_norm(x, (5,), X.new_ones(5) * 2, X.new_ones(5)),
        lambda x: 2 * mean_free(x, -1) / spread(x, -1) + 1,
    ),
    "group_norm": (
        lambda x: F.group_norm(x, 3, WEIGHT),
        lambda x: (
            (mean_free(x.reshape(GROUPS), (2, 3)) / spread(x.reshape(GROUPS), (2, 3))).reshape(X.shape)
            * WEIGHT[:, None]
        ),
    ),
    "instance_norm": (lambda x: F.instance_norm(x), lambda x: mean_free(x, -1) / spread(x, -1)),
    "normalize": (lambda x: F.normalize(x, dim=1), lambda x: x / x.norm(dim=1, keepdim=True).detach()),
}
if hasattr(F, "rms_norm"):
    STEPS["rms_norm"] = (
        lambda x: F.rms_norm(x, (5,), eps=1e-5),
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt().detach(),
    )


@pytest.mark.parametrize("name", STEPS)
def test_what_gates_is_held(name):
    function, by_hand = STEPS[name]
    expected_at, at = X.clone().requires_grad_(), X.clone().requires_grad_()
    expected = by_hand(expected_at)
    seed = torch.randn(expected.shape, dtype=X.dtype, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad(expected, expected_at, seed)
    with BalancedInterception("it"):
        output = function(at)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad(output, at, seed)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    plain_at = X.clone().requires_grad_()
    (plain,) = torch.autograd.grad(function(plain_at), plain_at, seed)
    # what is a product of two signals has, in halves, half of the plain gradient; all others differ more
    assert not torch.allclose(plain, wanted, rtol=0.05)


def test_at_zero_a_gate_is_the_slope():
    at = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with BalancedInterception("it"):
        output = F.gelu(at)
    (found,) = torch.autograd.grad(output.sum(), at)
    torch.testing.assert_close(found, torch.full((3,), 0.5, dtype=torch.float64))


def test_arguments_are_exchanged_by_identity():
    a, b, c = torch.ones(1), torch.ones(1), torch.zeros(1)
    call = with_arguments(Call(torch.cat, ([a, b],), {"out": (b, 3)}, "routing"), {id(b): c})
    assert call.args[0][0] is a
    assert call.args[0][1] is c
    assert call.kwargs["out"][0] is c
    assert call.kwargs["out"][1] == 3
