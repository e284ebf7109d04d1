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
    mean_at_least,
    mean_sd,
    more_hits,
    share,
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


def test_three_verdicts():
    """The interval of the difference lies on one side, on the other, or on both."""
    rng = np.random.default_rng(0)
    low, high, like = ({(i, 0): float(v) for i, v in enumerate(rng.normal(at, 1, 40))} for at in (0, 2, 0.05))
    assert smaller("", low, high, magnitude=False).verdict == "holds"
    assert smaller("", high, low, magnitude=False).verdict == "does not hold"
    untold = smaller("", low, like, magnitude=False)
    assert untold.verdict == "cannot be told"
    assert untold.needed > 2 * untold.n
    assert smaller("", low, low).verdict == "does not hold"  # all of them are equal: neither is smaller
    hits = {(i, 0): float(i < 30) for i in range(40)}
    worse = {(i, 0): float(i < 10) for i in range(40)}
    assert more_hits("", worse, hits, margin=1.5).verdict == "does not hold"
    assert more_hits("", hits, hits).verdict == "cannot be told"
    assert more_hits("", hits, hits).needed == math.inf
    assert Finding("", None).verdict == "cannot be tested here"


def test_so_many_images_tell_the_difference_in_eighty_of_a_hundred_samples():
    """What 30 images with an effect of z = 1.4 need, drawn and tested 400 times."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 1, 30)
    drawn = (drawn - drawn.mean()) / drawn.std() + 0.26
    found = smaller("", {(i, 0): 0.0 for i in range(30)}, {(i, 0): v for i, v in enumerate(drawn)}, magnitude=False)
    assert found.verdict == "cannot be told"
    n = int(found.needed)
    told = np.mean([wilcoxon(rng.normal(0.26, 1, n)).pvalue < 0.05 for _ in range(400)])
    assert 0.7 < told < 0.9


def test_a_mean_is_at_least_so_much_or_not_or_it_cannot_be_told():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, 50).tolist() + [math.nan]
    assert [mean_at_least("", values, at).verdict for at in (0.4, 0.5, 0.6)] == [
        "holds",
        "cannot be told",
        "does not hold",
    ]
    assert mean_at_least("", values, 0.4).n == 50
    assert mean_at_least("", [0.5], 0.4).verdict == "cannot be told"
    assert mean_at_least("", [math.nan], 0.4).holds is None


def test_hits_among_all_trials_or_class_by_class():
    """Three of four trials of class 0 hit, none of class 1."""
    values = {(0, 0): 1.0, (1, 0): 1.0, (2, 0): 1.0, (3, 0): 0.0, (0, 1): 0.0, (1, 1): math.nan}
    assert share(values) == pytest.approx(60)
    assert class_mean(values) == pytest.approx(37.5)
    assert math.isnan(share({}))
    other = dict.fromkeys(values, 0.0)
    assert more_hits("", values, other, of_all_trials=True).effect == "60.0 against 0.0"
    assert more_hits("", values, other).effect == "37.5 against 0.0"
    differences = {key: v for key, v in values.items() if v == v}
    assert class_mean_test(differences, of_all_trials=True)[0] == pytest.approx(60)


def test_p_values_are_corrected_for_the_number_of_statements():
    findings = [
        Finding("a", True, 9, "", 0.01),
        Finding("b", True, 9, "", 0.04),
        Finding("c", False, 9, "", 0.3, False, 71.0),
    ]
    rows = [line.split(" | ") for line in findings_table(findings).splitlines()[2:]]
    assert [row[5] for row in rows] == ["0.03", "0.08", "0.3"]
    assert [row[6].strip(" |") for row in rows] == ["", "", "71"]
