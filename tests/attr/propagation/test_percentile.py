"""Percentiles against torch.quantile."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_extract_aggregate.attr.propagation import percentile as module
from captum_extract_aggregate.attr.propagation.percentile import percentile


@given(n=st.integers(1, 40), q=st.floats(0, 100), seed=st.integers(0, 99))
def test_short_rows(n, q, seed):
    values = torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(percentile(values, q), torch.quantile(values, q / 100, dim=1))


@given(
    q=st.sampled_from([0, 1, 30, 50, 75, 90, 97.5, 98, 99.99, 100]),
    zeros=st.sampled_from([0, 0.5, 0.9, 0.979, 0.98, 0.981, 1]),
    arranged=st.booleans(),
)
def test_long_rows(q, zeros, arranged):
    """With ties, and with values arranged so that the sample misleads."""
    n = module.SMALL * 3 + 7
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, n, generator=generator, dtype=torch.float64)
    values *= torch.rand(2, n, generator=generator) >= zeros
    if arranged:
        values[:, :: module.step(n)] = 100
    torch.testing.assert_close(percentile(values, q), torch.from_numpy(np.percentile(values.numpy(), q, axis=1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(dtype):
    assert percentile(torch.rand(3, 50).to(dtype), 98).dtype == dtype


def test_rows_in_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "_WORTH_THREADS", 0)
    values = torch.rand(3, 2**15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(percentile(values, 98), torch.from_numpy(np.percentile(values.numpy(), 98, axis=1)))
