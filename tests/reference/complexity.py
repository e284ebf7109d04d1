"""Reference versions of the measures of complexity: one example at a time. NaN means "undefined"."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def sparseness(a: ArrayLike) -> float:
    """Gini index of |a|: sum over all pairs of ||a_i| - |a_j|| / (2 n sum |a|); NaN for a map of zeros."""
    values = [abs(v) for v in np.ravel(a).tolist()]
    total = math.fsum(values)
    if total == 0:
        return math.nan
    return math.fsum(abs(v - w) for v in values for w in values) / (2 * len(values) * total)


def complexity(a: ArrayLike) -> float:
    """- sum p ln p with p = |a| / sum |a|; NaN for a map of zeros."""
    values = [abs(v) for v in np.ravel(a).tolist()]
    total = math.fsum(values)
    if total == 0:
        return math.nan
    return -math.fsum(v / total * math.log(v / total) for v in values if v > 0)


def effective_complexity(a: ArrayLike, threshold: float, relative: bool = False) -> int:
    """How many |a| exceed the threshold, or that share of the largest."""
    values = [abs(v) for v in np.ravel(a).tolist()]
    limit = threshold * max(values) if relative else threshold
    return sum(v > limit for v in values)


def histogram_entropy(a: ArrayLike, bins: int = 100) -> float:
    """- sum p ln p over the bins of NumPy's histogram: equally wide from the least value to the largest."""
    counts, _ = np.histogram(np.ravel(np.asarray(a, dtype=np.float64)), bins=bins)
    shares = [c / counts.sum() for c in counts.tolist() if c]
    return -math.fsum(p * math.log(p) for p in shares)


def entropy_rise(a: ArrayLike, randomised: ArrayLike, bins: int = 100) -> float:
    """(H(randomised) - H(a)) / H(a); NaN where H(a) is 0."""
    before, after = histogram_entropy(a, bins), histogram_entropy(randomised, bins)
    return (after - before) / before if before else math.nan
