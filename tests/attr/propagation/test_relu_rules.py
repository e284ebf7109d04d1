"""Where a rectifier lets R pass, by hand."""

import math

import pytest
import torch

from captum_extract_aggregate.attr.propagation.relu_rules import RectifiedGate, deconvolution_gate, guided_gate

R = torch.tensor([[1.0, -2, 3, 4, -5]])
A = torch.tensor([[2.0, 1, 0, 6, 3]])


def test_guided_and_deconvolution():
    assert guided_gate(R, A, math.inf).tolist() == [[1, 0, 0, 4, 0]]
    assert guided_gate(R, A, 6.0).tolist() == [[1, 0, 0, 0, 0]]  # the fourth is saturated
    assert deconvolution_gate(R, A, math.inf).tolist() == [[1, 0, 3, 4, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rectgrad_is_above_the_percentile_of_each_example(dtype):
    """a R is 2, -2, 0, 24, -15: its median is 0, and its upper quartile 2."""
    r, a = R.to(dtype), A.to(dtype)
    assert RectifiedGate(50)(r, a, math.inf).tolist() == [[1, 0, 0, 4, 0]]
    assert RectifiedGate(75)(r, a, math.inf).tolist() == [[0, 0, 0, 4, 0]]
    assert RectifiedGate(75, magnitude=True)(r, a, math.inf).tolist() == [[0, 0, 0, 4, -5]]
    both = RectifiedGate(50)(torch.cat([r, -r]), torch.cat([a, a]), math.inf)
    assert both.tolist() == [[1, 0, 0, 4, 0], [0, 2, 0, 0, 5]]
