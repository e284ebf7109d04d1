"""The statistics behind the verdicts, against hand computation and SciPy."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from captum_extract_aggregate.reproduction.findings import (
    Finding,
    class_mean,
    class_mean_test,
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


def test_more_hits_is_a_permutation_test_of_the_class_means():
    first = {(i, 0): float(i % 10 < 9) for i in range(40)}
    second = {(i, 0): float(i % 10 < 5) for i in range(40)}
    found = more_hits("", first, second)
    assert found.holds
    assert (found.n, found.effect) == (40, "90.0 against 50.0")
    assert found.p < 0.001
    assert not more_hits("", second, first).holds
    assert more_hits("", first, first, margin=1.5).holds
    assert not more_hits("", second, first, margin=1.5).holds
    assert more_hits("", {}, second).holds is None
    undefined = dict.fromkeys(first, math.nan)
    assert more_hits("", undefined, second).holds is None


def test_a_margin_needs_enough_images():
    rng = np.random.default_rng(0)
    few, many = ({(i, 0): float(v) for i, v in enumerate(rng.random(n) < 0.8)} for n in (6, 4000))
    for values, holds in ((few, False), (many, True)):
        other = {key: float(v) if rng.random() < 0.9 else 1 - v for key, v in values.items()}
        same_mean = {key: other[key] for key in other}
        assert more_hits("", same_mean, same_mean, margin=1.5).holds
        assert more_hits("", values, dict(zip(values, list(values.values())[::-1])), margin=1.5).holds == holds


def test_class_means_decide_not_pairs():
    """One better pair of a rare class outweighs ten worse ones of a common one, but proves nothing."""
    first = {(i, 0): float(i >= 10) for i in range(30)} | {(30, 1): 1.0}
    second = {(i, 0): 1.0 for i in range(30)} | {(30, 1): 0.0}
    found = more_hits("", first, second)
    assert found.effect == "83.3 against 50.0"
    assert found.holds is False
    assert found.p > 0.05


def test_class_mean_test_against_every_permutation():
    differences = {(0, 0): 1.0, (0, 1): 0.0, (1, 0): 1.0, (2, 1): 1.0, (3, 0): -1.0, (4, 1): 1.0, (5, 0): 1.0}
    observed, error, p = class_mean_test(differences)
    sizes = {0: 4, 1: 3}
    parts = np.zeros(6)
    for (image, target), d in differences.items():
        parts[image] += 100 * d / sizes[target] / 2
    every = [abs(np.dot(signs, parts)) for signs in itertools.product((-1, 1), repeat=6)]
    assert observed == pytest.approx(parts.sum())
    assert p == pytest.approx(np.mean([e >= abs(parts.sum()) - 1e-9 for e in every]), abs=0.02)
    assert error == pytest.approx(parts.std(ddof=1) * math.sqrt(6))


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
