"""Is one method's measure better than another's, image by image?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from captum_extract_aggregate._common.aligned import aligned
from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError

Values = Tensor | Sequence[float] | np.ndarray  # type: ignore[type-arg]


@dataclass(frozen=True)
class Comparison:
    """Two methods' values on the same images, compared by the Wilcoxon signed-rank test of their differences.

    Attributes:
        first, second: what is compared; differences are first minus second.
        n: pairs that entered; `undefined` pairs held a NaN and were left out; `ties` are pairs without a difference,
            which the test drops.
        median, mean: of the differences. `low`, `high`: bootstrap interval of the median, at `confidence`.
        effect: the matched-pairs rank-biserial correlation, from -1 (second always larger) to 1.
        statistic, p: of the two-sided test (NaN if no pair differs). `p_holm`: corrected for all comparisons made
            together.
    """

    first: str
    second: str
    n: int
    undefined: int
    ties: int
    median: float
    mean: float
    low: float
    high: float
    confidence: float
    effect: float
    statistic: float
    p: float
    p_holm: float

    def record(self) -> dict[str, Any]:
        """Returns all of it as a dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        return str(Comparisons((self,)))


@dataclass(frozen=True)
class Comparisons(Sequence[Comparison]):
    """Holds several comparisons, and prints as a table."""

    comparisons: tuple[Comparison, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.comparisons[index]

    def __len__(self) -> int:
        return len(self.comparisons)

    def records(self) -> list[dict[str, Any]]:
        """Returns one dictionary per comparison."""
        return [c.record() for c in self.comparisons]

    def __str__(self) -> str:
        header = ("first", "second", "n", "undefined", "ties", "median", "interval", "effect", "p", "p (Holm)")
        return "\n".join(aligned(header, map(_row, self.comparisons)))


def _row(c: Comparison) -> tuple[str, ...]:
    interval = f"{c.low:+.4g} to {c.high:+.4g} ({c.confidence:.0%})"
    numbers = (f"{c.median:+.4g}", interval, f"{c.effect:+.2f}", f"{c.p:.2g}", f"{c.p_holm:.2g}")
    return (c.first, c.second, str(c.n), str(c.undefined), str(c.ties), *numbers)


def compare(
    a: Values,
    b: Values,
    names: tuple[str, str] = ("a", "b"),
    confidence: float = 0.95,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares two methods' values on the same images (one value per image, in the same order).

    Wilcoxon's signed-rank test (SciPy; pairs without a difference are dropped and counted as ties), the rank-biserial
    effect size, and a percentile bootstrap interval of the median difference.

    Args:
        a, b: one value per image. Pairs that hold a NaN are left out and counted.
        names: what the two are called.
        confidence, n_bootstrap, seed: of the bootstrap.

    Raises:
        ValueError: for values of different length, or without any defined pair.

    Example:
        >>> from captum_extract_aggregate.metrics import compare
        >>> ours, theirs = [3.0, 4.0, 6.0, 5.0, 7.0, 9.0], [1.0, 2.5, 3.0, 5.0, 4.0, float("nan")]
        >>> result = compare(ours, theirs, ("ours", "theirs"))
        >>> result.n, result.ties, result.undefined, result.median, result.effect
        (5, 1, 1, 2.0, 1.0)
    """
    x, y = (_array(v) for v in (a, b))
    if x.shape != y.shape or not len(x):
        raise InvalidValueError(f"a holds {len(x)} values and b {len(y)}; expected one of each for every image")
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise InvalidTypeError(f"names is {names!r}; expected two strings")
    if not 0 < confidence < 1:
        raise InvalidValueError(f"confidence is {confidence!r}; expected a number between 0 and 1")
    if isinstance(n_bootstrap, bool) or not isinstance(n_bootstrap, int) or n_bootstrap < 1:
        raise InvalidValueError(f"n_bootstrap is {n_bootstrap!r}; expected an integer of at least 1")
    with np.errstate(invalid="ignore"):
        differences = x - y
    differences = np.where((x == y), 0.0, differences)  # two infinities of one sign are a tie
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        raise InvalidValueError(
            f"every pair of {names[0]!r} and {names[1]!r} holds a NaN; expected at least one image with both defined"
        )
    nonzero = defined[defined != 0]
    statistic, p = math.nan, math.nan
    if len(nonzero):
        found = scipy.stats.wilcoxon(nonzero, zero_method="wilcox")
        statistic, p = float(found.statistic), float(found.pvalue)
    low, high = _bootstrap(defined, confidence, n_bootstrap, seed)
    return Comparison(
        *names,
        n=len(defined),
        undefined=len(differences) - len(defined),
        ties=len(defined) - len(nonzero),
        median=float(np.median(defined)),
        mean=float(defined.mean()),
        low=low,
        high=high,
        confidence=confidence,
        effect=_rank_biserial(nonzero),
        statistic=statistic,
        p=p,
        p_holm=p,
    )


def compare_many(
    values: Mapping[str, Values], confidence: float = 0.95, n_bootstrap: int = 2000, seed: int = 0
) -> Comparisons:
    """Compares every pair of methods, with p-values corrected for their number (Holm's step-down procedure).

    Args:
        values: each method's values under its name, on the same images in the same order.
        confidence, n_bootstrap, seed: as for `compare`.

    Raises:
        TypeError, ValueError: for fewer than two methods, or as `compare`.

    Example:
        >>> from captum_extract_aggregate.metrics import compare_many
        >>> table = compare_many({"NormGrad": [0.1, 0.3, 0.2], "GradCAM": [0.2, 0.5, 0.1], "random": [0.0, 0.1, 0.0]})
        >>> len(table), table.records()[0]["first"]
        (3, 'NormGrad')
    """
    if not isinstance(values, Mapping) or len(values) < 2:
        raise InvalidTypeError(
            'values is not a mapping of two methods or more; expected {"NormGrad": [...], "GradCAM": [...]}'
        )
    pairs = itertools.combinations(values, 2)
    made = [compare(values[a], values[b], (a, b), confidence, n_bootstrap, seed) for a, b in pairs]
    corrected = holm([c.p for c in made])
    return Comparisons(tuple(replace(c, p_holm=p) for c, p in zip(made, corrected)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns Holm's correction of several p-values, in their order; NaN stays NaN and does not count."""
    # By hand: that of statsmodels collects garbage each time, which takes a third of a second beside PyTorch.
    defined = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(sorted(defined, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(defined) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _array(values: Values) -> np.ndarray:  # type: ignore[type-arg]
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise InvalidValueError(f"values have shape {array.shape}; expected one number per image")
    return array


def _rank_biserial(nonzero: np.ndarray) -> float:  # type: ignore[type-arg]
    """Returns the share of the rank sum that speaks for the first, minus that for the second."""
    if not len(nonzero):
        return 0.0
    ranks = scipy.stats.rankdata(np.abs(nonzero))
    return float((ranks * np.sign(nonzero)).sum() / ranks.sum())


def _bootstrap(values: np.ndarray, confidence: float, n: int, seed: int) -> tuple[float, float]:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(seed)
    medians = np.concatenate([np.median(drawn, axis=1) for drawn in _resampled(values, n, generator)])
    tail = (1 - confidence) / 2
    tails = [tail, 1 - tail]
    if np.isfinite(medians).all():
        low, high = np.quantile(medians, tails)
    else:  # between infinities there is nothing to interpolate
        low, high = np.quantile(medians, tails, method="nearest")
    return float(low), float(high)


def _resampled(values: np.ndarray, n: int, generator: torch.Generator) -> Iterator[np.ndarray]:  # type: ignore[type-arg]
    """Yields rows drawn with replacement, a bounded number of them at a time."""
    rows = max(1, 2**22 // len(values))
    for start in range(0, n, rows):
        size = (min(rows, n - start), len(values))
        yield values[torch.randint(len(values), size, generator=generator).numpy()]
