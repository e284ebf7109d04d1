"""RectGrad's gate on a CPU against its definition, written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_extract_aggregate.attr.propagation import rectify as module
from captum_extract_aggregate.attr.propagation.rectify import rectify


def rectified(arriving, a, q, magnitude):
    products = a * arriving
    sizes = np.abs(products) if magnitude else products
    return np.where(sizes <= np.percentile(products, q, axis=1, keepdims=True), 0, arriving)


def found(arriving, a, ceiling, q, magnitude):
    out = np.full_like(arriving, 7)
    rectify(arriving, a, out, ceiling, q, magnitude)
    return out


@given(
    q=st.sampled_from([0, 40, 86, 98, 99.99, 100]),
    zeros=st.sampled_from([0, 0.5, 0.9, 0.979, 0.98, 0.981, 1]),
    n=st.sampled_from([50, 3 * 2**14 + 7, 2**17 + 1]),
    magnitude=st.booleans(),
    ceiling=st.sampled_from([np.inf, 1.0]),
    arranged=st.booleans(),
)
def test_against_the_definition(q, zeros, n, magnitude, ceiling, arranged):
    """With ties, in several pieces, and with values arranged so that the sample misleads."""
    generator = np.random.default_rng(0)
    arriving, x = generator.standard_normal((2, 2, n))
    arriving *= generator.random((2, n)) >= zeros
    if arranged:
        arriving[:, :: module.step(n, module._SAMPLE)] = -100
    a = np.clip(x, 0, ceiling)
    expected = rectified(arriving, a, q, magnitude)
    assert np.array_equal(found(arriving, a, np.inf, q, magnitude), expected)
    if ceiling == 1.0:  # of such a rectifier the input does as well
        assert np.array_equal(found(arriving, x, ceiling, q, magnitude), expected)


def test_what_is_no_number_is_seen():
    arriving = np.linspace(-1, 1, 2**16)[None].repeat(2, 0)
    arriving[0, 5] = np.nan
    out = found(arriving, np.ones_like(arriving), np.inf, 98, False)
    assert np.isnan(out[0, 5])
    assert np.isfinite(out[1]).all()


def test_rows_in_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    arriving, a = np.random.default_rng(0).random((2, 3, 2**15))
    assert np.array_equal(found(arriving, a, np.inf, 98, False), rectified(arriving, a, 98, False))


def test_a_high_percentile_is_told_by_the_largest_products(monkeypatch):
    """Otherwise the products would be written, and read several times more."""
    monkeypatch.setattr(
        module, "of_ranks", lambda row, low, high: pytest.fail("all were read") if len(row) > 2**14 else (0.5, 0.5)
    )
    arriving, a = np.random.default_rng(0).random((2, 1, 2**17))
    rectify(arriving, a, np.empty_like(arriving), np.inf, 98, False)
