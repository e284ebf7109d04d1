"""Comparisons against SciPy and literal references."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from captum_extract_aggregate.metrics import ValueSummary, compare, compare_many, holm
from tests.reference import metrics as reference


def values(n=40, seed=0):
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=n), generator.normal(size=n)
    return a + 0.4, b


def test_references():
    a, b = values()
    result = compare(a, torch.tensor(b), ("a", "b"))
    found = wilcoxon(a - b)
    assert (result.statistic, result.p) == (found.statistic, found.pvalue)
    assert result.p == pytest.approx(reference.wilcoxon_p(a - b))
    assert result.effect == pytest.approx(reference.rank_biserial(a - b))
    assert result.median == np.median(a - b)
    assert result.mean == pytest.approx((a - b).mean())
    assert result.n == 40
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(40, (2000, 40), generator=generator).numpy()
    interval = reference.bootstrap_median(a - b, indices)
    assert (result.low, result.high) == pytest.approx(tuple(interval))
    assert result.low < result.median < result.high


def test_ties_and_undefined_pairs_are_counted():
    a = [1.0, 2.0, math.nan, 3.0, math.inf, 5.0, 7.5]
    b = [1.0, 1.0, 0.0, math.nan, math.inf, 4.5, 9.0]
    result = compare(a, b)
    assert (result.n, result.undefined, result.ties) == (5, 2, 2)
    assert result.p == pytest.approx(wilcoxon([1.0, 0.5, -1.5]).pvalue)
    same = compare([1.0, 2.0], [1.0, 2.0])
    assert math.isnan(same.p)
    assert same.effect == 0
    assert same.ties == 2


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=30))
def test_exchanging_the_two(pairs):
    a, b = (list(column) for column in zip(*pairs))
    there, back = compare(a, b, n_bootstrap=10), compare(b, a, n_bootstrap=10)
    assert there.effect == pytest.approx(-back.effect)
    assert -1 <= there.effect <= 1
    assert there.median == -back.median
    assert (math.isnan(there.p) and math.isnan(back.p)) or there.p == pytest.approx(back.p)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm(p):
    corrected = holm(p)
    assert corrected == pytest.approx(reference.holm(p))
    assert all(c >= q for c, q in zip(corrected, p))
    order = np.argsort(p, kind="stable")
    assert all(np.diff(np.array(corrected)[order]) >= -1e-15)


def test_holm_against_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for seed in range(5):
        p = np.random.default_rng(seed).uniform(0, 0.3, 7).tolist()
        np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_by_hand_and_with_nan():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    with_nan = holm([0.01, math.nan, 0.03])
    assert with_nan[0] == pytest.approx(0.02)
    assert math.isnan(with_nan[1])


def test_many_and_its_table():
    a, b = values()
    table = compare_many({"ours": a, "theirs": b, "random": np.zeros(40)})
    assert [(c.first, c.second) for c in table] == [("ours", "theirs"), ("ours", "random"), ("theirs", "random")]
    assert [c.p_holm for c in table] == pytest.approx(holm([c.p for c in table]))
    text = str(table)
    lines = text.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:3] == ["first", "second", "n"]
    assert "ours" in lines[2]
    assert "(95%)" in text
    assert len({line.index("40") for line in lines[2:]}) == 1  # columns stand under each other
    records = json.loads(json.dumps(table.records()))
    assert records[0]["n"] == 40
    assert str(table[0]).splitlines()[0] == lines[0].rstrip() or "first" in str(table[0])


def test_wrong_uses():
    for run, error, message in (
        (lambda: compare([1.0], [1.0, 2.0]), ValueError, "a holds 1 values and b 2"),
        (lambda: compare([], []), ValueError, "expected one of each"),
        (lambda: compare([math.nan], [1.0]), ValueError, "every pair of 'a' and 'b' holds a NaN"),
        (lambda: compare([[1.0]], [[1.0]]), ValueError, "one number per image"),
        (lambda: compare([1.0], [2.0], confidence=95), ValueError, "confidence is 95"),
        (lambda: compare([1.0], [2.0], n_bootstrap=0), ValueError, "n_bootstrap is 0"),
        (lambda: compare([1.0], [2.0], names=("x",)), TypeError, "names is"),
        (lambda: compare_many({"a": [1.0]}), TypeError, "two methods or more"),
        (lambda: ValueSummary().update([1.0]), TypeError, "one value per image"),
    ):
        with pytest.raises(error, match=message):
            run()


def test_infinities():
    result = compare([math.inf, 2.0, 3.0], [1.0, 2.5, 4.0])
    assert result.median == -0.5
    assert (result.low, result.high) == (-1, math.inf)
    summary = ValueSummary()
    summary.update(torch.tensor([1.0, math.inf]))
    assert summary.compute()["median"] == math.inf
