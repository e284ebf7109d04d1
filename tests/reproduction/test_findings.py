"""The statistics behind the verdicts, against hand computation and SciPy."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, wilcoxon

from captum_extract_aggregate.reproduction.findings import (
    Finding,
    class_mean,
    findings_table,
    markdown,
    mean_sd,
    more_hits,
    smaller,
    standard_error,
)


def test_class_mean_weighs_classes_not_pairs():
    values = {(0, 3): 1.0, (1, 3): 1.0, (2, 3): 0.0, (0, 5): 0.0, (3, 5): math.nan}
    assert class_mean(values) == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert math.isnan(class_mean({}))


def test_standard_error_is_that_of_a_mean():
    rng = np.random.default_rng(1)
    values = {(i, 0): float(v) for i, v in enumerate(rng.random(400) < 0.7)}
    p = np.mean(list(values.values()))
    assert standard_error(values) == pytest.approx(100 * math.sqrt(p * (1 - p) / 400), rel=0.15)


def test_more_hits_is_mcnemar():
    first = {(i, 0): float(i % 10 < 9) for i in range(40)}
    second = {(i, 0): float(i % 10 < 5) for i in range(40)}
    found = more_hits("", first, second)
    assert found.holds
    assert found.n == 40
    assert found.p == pytest.approx(binomtest(16, 16).pvalue)
    assert not more_hits("", second, first).holds
    assert more_hits("", first, first, margin=1.5).holds
    assert not more_hits("", second, first, margin=1.5).holds
    assert more_hits("", {}, second).holds is None
    undefined = dict.fromkeys(first, math.nan)
    assert more_hits("", undefined, second).holds is None


def test_smaller_is_wilcoxon_on_magnitudes():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.1, 30), rng.normal(0, 0.5, 30)
    first, second = ({(i, 0): float(v) for i, v in enumerate(x)} for x in (a, b))
    found = smaller("", first, second)
    assert found.p == pytest.approx(wilcoxon(np.abs(a), np.abs(b)).pvalue)
    assert found.holds
    assert not smaller("", second, first).holds
    signed = smaller("", first, {key: value + 2 for key, value in second.items()}, magnitude=False)
    assert signed.holds
    assert smaller("", second, {k: v - 2 for k, v in first.items()}, magnitude=False, larger=True).holds
    assert not smaller("", first, first).holds  # no difference, nothing held
    assert smaller("", {(0, 0): math.nan}, {(0, 0): 1.0}).holds is None


def test_tables_escape_and_say_what_is_undefined():
    assert mean_sd([1.0, 2.0, math.nan]) == "1.50 ± 0.71 (1 undefined)"
    assert mean_sd([math.nan]) == "undefined (1 undefined)"
    assert "a\\|b" in markdown(["a|b"], [["c"]])
    table = findings_table([Finding("one", True, 3, "2 against 1", 0.012), Finding("two", None)])
    assert "**holds** | 3 | 2 against 1 | 0.01" in table
    assert "**cannot be tested here**" in table
