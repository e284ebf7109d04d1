"""The k-th smallest number of each row, by the digits of bit patterns."""

import pytest
import torch

from captum_extract_aggregate.attr.propagation.order_statistics import kth_smallest


def rows_of(n, length, dtype):
    """Rows with ties, zeros of both signs, infinities and NaN."""
    x = torch.randn(n, length, generator=torch.Generator().manual_seed(n + length)).to(dtype)
    x[:, ::3] = 0
    if length > 5:
        x[0, 0], x[0, 3], x[-1, -1], x[-1, 4] = torch.inf, -0.0, -torch.inf, torch.nan
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "length"), [(1, 1000), (3, 777), (40, 50), (2, 1)])
def test_it_is_what_sorting_gives(n, length, dtype):
    x = rows_of(n, length, dtype)
    for k in {0, length // 2, int(0.98 * (length - 1)), length - 1}:
        got, expected = kth_smallest(x, k), x.sort(1).values[:, k]
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_where_only_what_is_deterministic_may_run():
    x = rows_of(3, 50, torch.float32)
    expected = kth_smallest(x, 20)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(kth_smallest(x, 20), expected)
    finally:
        torch.use_deterministic_algorithms(False)
