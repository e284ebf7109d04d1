"""Similarities against SciPy, scikit-image and literal references."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from captum_extract_aggregate import metrics
from captum_extract_aggregate.metrics import SIMILARITIES, similarity
from tests.reference import metrics as reference


def smooth(n, size=64, seed=0):
    maps = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(maps, (size, size), mode="bilinear")


@pytest.mark.parametrize("name", ["spearman", "abs_spearman", "pearson", "hog_spearman", "ssim"])
def test_literal_references(name):
    a, b = smooth(3, seed=0), smooth(3, seed=1)
    got = SIMILARITIES[name](a, b)
    expected = [getattr(reference, name)(x[0].numpy(), y[0].numpy()) for x, y in zip(a, b)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert got.dtype == torch.float64
    torch.testing.assert_close(SIMILARITIES[name](a, a), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("k", [0.1, 0.33, 1.0])
def test_top_k_reference(k):
    a, b = smooth(3, 16, seed=0).round(decimals=1), smooth(3, 16, seed=1).round(decimals=1)
    expected = [reference.top_k_intersection(x[0].numpy(), y[0].numpy(), k) for x, y in zip(a, b)]
    torch.testing.assert_close(metrics.top_k_intersection(a, b, k), torch.tensor(expected, dtype=torch.float64))
    count = math.ceil(k * 256)
    torch.testing.assert_close(metrics.top_k_intersection(a, b, count), metrics.top_k_intersection(a, b, count / 256))


def test_spearman_with_millions_of_ties():
    """Where sums of ranks leave the integers of 32 bits, and those of float32 long before."""
    generator = torch.Generator().manual_seed(0)
    a = (torch.rand(1, 2000, 2000, generator=generator) > 0.9).float()
    b = (torch.rand(1, 2000, 2000, generator=generator) > 0.5).float() + a
    expected = spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic
    assert abs(metrics.spearman(a, b).item() - expected) < 1e-10


@given(
    values=st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5)), min_size=2, max_size=40),
    scale=st.floats(0.1, 10),
)
def test_spearman_is_scipys_and_does_not_mind_monotone_transforms(values, scale):
    a, b = (torch.tensor(column, dtype=torch.float64)[None] for column in zip(*values))
    got = metrics.spearman(a, b).item()
    if len(set(a[0].tolist())) == 1 or len(set(b[0].tolist())) == 1:
        assert math.isnan(got)
        return
    assert got == pytest.approx(spearmanr(a[0].numpy(), b[0].numpy()).statistic, abs=1e-12)
    assert got == pytest.approx(metrics.spearman(a**3 * 2, b).item(), abs=1e-12)
    assert got == pytest.approx(metrics.spearman(a * scale * 0.5 + 1, b).item(), abs=1e-9)
    assert got == pytest.approx(-metrics.spearman(-a, b).item(), abs=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_batches_constants_and_nan(name):
    """Permuting the batch permutes the values; a constant or NaN map is undefined, never 0."""
    compare = SIMILARITIES[name]
    a, b = smooth(4, seed=0), smooth(4, seed=1)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(compare(a[order], b[order]), compare(a, b)[order], rtol=0, atol=0)
    torch.testing.assert_close(compare(a[1:2], b[1:2]), compare(a, b)[1:2], rtol=0, atol=0)
    a[0], b[1], a[2, 0, 3, 3] = 2.0, 0.0, torch.nan
    assert compare(a, b).isnan().tolist() == [True, True, True, False]


def test_wrong_uses():
    a = torch.rand(2, 1, 64, 64)
    with pytest.raises(ValueError, match="one shape"):
        metrics.spearman(a, a[:, :, :8])
    with pytest.raises(TypeError, match="first dimension"):
        metrics.spearman(a[0, 0, 0], a[0, 0, 0])
    with pytest.raises(ValueError, match="48 x 48"):
        metrics.hog_spearman(a[..., :40], a[..., :40])
    with pytest.raises(ValueError, match="11 x 11"):
        metrics.ssim(a[..., :8], a[..., :8])
    with pytest.raises(TypeError, match="complex"):
        metrics.spearman(a + 0j, a + 0j)
    assert metrics.abs_spearman(a > 0.5, a > 0.5).tolist() == [1, 1]
    assert metrics.top_k_intersection(a, a, np.int64(3)).tolist() == [1, 1]
    for k in (0, -0.1, 5000, 1.5, True, math.nan, "a"):
        with pytest.raises(ValueError, match="k is"):
            metrics.top_k_intersection(a, a, k)
    with pytest.raises(ValueError, match="did you mean 'spearman'"):
        metrics.null_baseline("spearmen", (4, 4), (8, 8))


def test_null_baselines():
    """Unrelated maps: about +0.09 for HOG at 224 x 224, as published; nothing for Spearman."""
    hog = metrics.null_baseline("hog_spearman", (14, 14), (224, 224), n=32)
    assert 0.03 < hog.mean < 0.16
    plain = metrics.null_baseline("spearman", (14, 14), (224, 224), n=64)
    assert abs(plain.mean) < 3 * plain.std / math.sqrt(plain.n)
    assert metrics.null_baseline("spearman", (14, 14), (224, 224)) == metrics.null_baseline(
        metrics.spearman, (14, 14), (224, 224)
    )
    assert np.isfinite(hog.std)


ROWS = {
    "ties at both ends": [[3, 1, 1, 2, 3, 3], [0, 0, 0, 5, 4, 4]],
    "all different": [[3, 1, 4, 1.5, 9, 2.6], [6, 5, 4, 3, 2, 1]],
    "all equal": [[7, 7, 7], [0, 0, 0]],
    "two": [[2, 1], [1, 1]],
    "one": [[5], [-5]],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_ranks(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    expected = torch.from_numpy(rankdata(rows.numpy(), axis=1)) - 1
    assert torch.equal(similarity._ranks_on_device(rows), expected)
    assert torch.equal(similarity.centred_ranks(rows) + (rows.shape[1] - 1) / 2, expected)


@given(n=st.integers(1, 30), distinct=st.integers(1, 30), seed=st.integers(0, 99))
def test_ranks_of_random_rows(n, distinct, seed):
    rows = torch.randint(distinct, (3, n), generator=torch.Generator().manual_seed(seed)).float()
    expected = torch.from_numpy(rankdata(rows.numpy(), axis=1)) - 1
    assert torch.equal(similarity._ranks_on_device(rows), expected)
    assert torch.equal(similarity.centred_ranks(rows) + (rows.shape[1] - 1) / 2, expected)


def test_ranks_need_no_numbers_on_the_host():
    assert similarity._ranks_on_device(torch.rand(2, 5, device="meta")).shape == (2, 5)


def test_similarities_are_the_same(elsewhere):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(5, (4, 1, 6, 6), generator=generator).float() for _ in range(2))
    a[1], b[2, 0, 0, 0] = 3, torch.nan
    expected = [f(a, b) for f in (similarity.spearman, similarity.abs_spearman)]
    assert "metrics.similarity" not in elsewhere()
    for f, wanted in zip((similarity.spearman, similarity.abs_spearman), expected):
        torch.testing.assert_close(f(a, b), wanted, rtol=0, atol=1e-15, equal_nan=True)


def test_pearson_at_any_scale_and_of_what_is_constant_but_for_rounding():
    a, b = (torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))
    expected = [reference.pearson(x.numpy(), y.numpy()) for x, y in zip(a, b)]
    scaled = a * torch.tensor([1e-170, 1e-9, 1e6, 1e170], dtype=torch.float64).reshape(4, 1, 1, 1) + 0.0
    np.testing.assert_allclose(metrics.pearson(scaled, b * 1e6).numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(metrics.pearson(a + 7, -b).numpy(), [-v for v in expected], rtol=1e-10)
    np.testing.assert_allclose(metrics.pearson(a.reshape(4, 2, 3, 6), b.reshape(4, 2, 3, 6)).numpy(), expected)
    a[1], b[2] = 0.1, torch.nan
    assert metrics.pearson(a, b).isnan().tolist() == [False, True, True, False]
    rounded = torch.full((1, 7), 0.1) + torch.rand(1, 7) * 1e-7
    assert metrics.pearson(rounded, torch.rand(1, 7)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_of_every_kind_of_number(dtype):
    """Signs, zeros of both, the smallest and the largest numbers, and neighbours that differ in their last bit."""
    tiny, most = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    one = torch.tensor(1.0, dtype=dtype)
    numbers = [-most, -1.5, -1, -tiny, -tiny / 4, -0.0, 0.0, tiny / 4, tiny, 1, one.nextafter(one * 2).item(), most]
    rows = torch.tensor([numbers, numbers], dtype=dtype)[:, torch.randperm(12)]
    expected = rankdata(rows.numpy(), axis=1) - 6.5
    assert torch.equal(similarity.centred_ranks(rows), torch.from_numpy(expected))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_maps_that_are_compared_often_are_ranked_once(name, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    first, *others = torch.randn(4, 2, 1, 48, 50, generator=generator).round(decimals=1)
    first[1, 0, 0, 0] = torch.nan
    expected = [SIMILARITIES[name](first, other) for other in others]
    ranked, calls = similarity.centred_ranks, []
    monkeypatch.setattr(similarity, "centred_ranks", lambda rows: calls.append(1) or ranked(rows))
    compared = similarity.compared_with(first, name)
    for other, want in zip(others, expected):
        torch.testing.assert_close(compared(other), want, rtol=0, atol=0, equal_nan=True)
    if name in ("spearman", "abs_spearman"):
        assert len(calls) == 4
    with pytest.raises(ValueError, match="expected one shape"):
        compared(others[0][..., :48])
