"""Where a rectifier lets R pass, by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_extract_aggregate.attr.propagation.percentile import SMALL, step
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


def rectified(arriving, a, q, magnitude):
    products = a * arriving
    sizes = products.abs() if magnitude else products
    thresholds = np.percentile(products.numpy(), q, axis=1, keepdims=True)
    return torch.where(sizes <= torch.from_numpy(thresholds), 0, arriving)


@given(
    q=st.sampled_from([0, 40, 86, 98, 99.99, 100]),
    zeros=st.sampled_from([0, 0.5, 0.9, 0.979, 0.98, 0.981, 1]),
    n=st.sampled_from([50, SMALL + 7, 2**17 + 1]),
    magnitude=st.booleans(),
    arranged=st.booleans(),
)
def test_rectgrad_against_its_definition(q, zeros, n, magnitude, arranged):
    """With ties, in several pieces, and with values arranged so that the sample misleads; also where the gradient's own
    memory is worked in, and of a rectifier that saturates its input is known."""
    generator = torch.Generator().manual_seed(0)
    arriving, x = torch.randn(2, 2, n, generator=generator, dtype=torch.float64)
    arriving *= torch.rand(2, n, generator=generator) >= zeros
    if arranged:
        arriving[:, :: step(n)] = -100
    gate = RectifiedGate(q, magnitude)
    for ceiling in (math.inf, 1.0):
        a = x.clamp(0, ceiling)
        expected = rectified(arriving, a, q, magnitude)
        assert torch.equal(gate(arriving, a, ceiling), expected)
        memory = torch.full_like(arriving, 7)
        got = gate(arriving, lambda: x if ceiling == 1.0 else a, ceiling, memory)  # noqa: B023
        assert torch.equal(got, expected)
        assert got.data_ptr() == memory.data_ptr()


def test_rectgrad_in_other_layouts():
    arriving, a = torch.randn(2, 2, 3, 40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = rectified(arriving.flatten(1), a.flatten(1), 98, False).view_as(arriving)
    last = arriving.to(memory_format=torch.channels_last), a.to(memory_format=torch.channels_last)
    for r in (arriving, last[0]):
        for output in (a, last[1]):
            assert torch.equal(RectifiedGate(98)(r, output, math.inf), expected)


def test_what_is_no_number_is_seen():
    arriving = torch.linspace(-1, 1, 2**16)[None].repeat(2, 1)
    arriving[0, 5] = torch.nan
    out = RectifiedGate(98)(arriving, torch.ones_like(arriving), math.inf)
    assert out[0, 5].isnan()
    assert out[1].isfinite().all()
