"""A normalisation is a gain, its statistics held fixed: the gradient of its output by hand."""

import pytest
import torch
import torch.nn.functional as F

from captum_extract_aggregate._engine.operations import Call
from captum_extract_aggregate.attr.propagation.normalization import GAINS, batch_norm_constants, batch_norm_gain

X = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHT, BIAS = (torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2))


def difference(gain, mean, output, bias):
    return (gain * (X - mean) + bias - output).abs().max()


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


def test_layer_norm():
    weight, bias = torch.rand(3, 3, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    args = (X, (3, 3), weight, bias, 1e-3)
    gain = GAINS["layer_norm"](Call(F.layer_norm, args, {}, "normalization"))
    assert difference(gain, X.mean((2, 3), keepdim=True), F.layer_norm(*args), bias) < 1e-12


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(groups):
    args = (X, groups, WEIGHT, BIAS, 1e-3)
    gain = GAINS["group_norm"](Call(F.group_norm, args, {}, "normalization"))
    mean = X.reshape(2, groups, -1).mean(2).repeat_interleave(4 // groups, 1)[..., None, None]
    assert difference(gain, mean, F.group_norm(*args), BIAS.reshape(4, 1, 1)) < 1e-12


@pytest.mark.parametrize("own_statistics", [True, False])
def test_instance_norm(own_statistics):
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    args = (X, mean.clone(), var.clone(), WEIGHT, BIAS, own_statistics, 0.1, 1e-3)
    output = F.instance_norm(*args)
    args = (X, mean, var, *args[3:])
    gain = GAINS["instance_norm"](Call(F.instance_norm, args, {}, "normalization"))
    centre = X.mean((2, 3), keepdim=True) if own_statistics else mean.reshape(4, 1, 1)
    assert difference(gain, centre, output, BIAS.reshape(4, 1, 1)) < 1e-12
