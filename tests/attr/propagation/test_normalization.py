"""A normalisation is linear, its statistics held fixed, beside a constant."""

import pytest
import torch
import torch.nn.functional as F

from captum_extract_aggregate._engine.operations import Call
from captum_extract_aggregate.attr.propagation.normalization import batch_norm_constants, batch_norm_gain, linear_part

X = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHT, BIAS = (torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2))


@pytest.mark.parametrize("weighted", [True, False])
def test_batch_norm(weighted):
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    weight, bias = (WEIGHT, BIAS) if weighted else (None, None)
    args = (X, mean, var, weight, bias, False, 0.1, 1e-3)
    call = Call(F.batch_norm, args, {}, "normalization")
    output = F.batch_norm(*args)
    scale, shift = batch_norm_constants(call)
    column = (1, 4, 1, 1)
    torch.testing.assert_close(X * scale.reshape(column) + shift.reshape(column), output)
    assert torch.equal(batch_norm_gain(call), scale.reshape(4, 1, 1))


def check(call, shift):
    """The linear part and what stands beside it are the function, and the part's slope is x's own, statistics held."""
    part, output = linear_part(call), call.run()
    assert (part(X) + shift - output).abs().max() < 1e-12
    _, through = torch.func.jvp(part, (X,), (X,))  # linear: the slope along x is the value
    assert (through - part(X)).abs().max() < 1e-12


def test_layer_norm():
    weight, bias = torch.rand(3, 3, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    check(Call(F.layer_norm, (X, (3, 3), weight, bias, 1e-3), {}, "normalization"), bias)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(groups):
    check(Call(F.group_norm, (X, groups, WEIGHT, BIAS, 1e-3), {}, "normalization"), BIAS.reshape(4, 1, 1))


@pytest.mark.parametrize("own_statistics", [True, False])
def test_instance_norm(own_statistics):
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    args = (X, mean, var, WEIGHT, BIAS, own_statistics, 0.0, 1e-3)
    mean_shift = -mean * torch.rsqrt(var + 1e-3) * WEIGHT  # a constant: no part of what is linear in the input
    shift = BIAS if own_statistics else BIAS + mean_shift
    check(Call(F.instance_norm, args, {}, "normalization"), shift.reshape(4, 1, 1))


def test_what_only_scales_has_no_linear_part():
    assert linear_part(Call(F.normalize, (X,), {}, "normalization")) is None
