"""Where methods stand beside each other: numbers alone, one for each picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captum_extract_aggregate.evaluation.choice.choosing import LEVEL
from captum_extract_aggregate.evaluation.grouping import Array
from captum_extract_aggregate.metrics.significance import compare, holm

_DRAWS = 2000


@dataclass(frozen=True)
class Column:
    """Is a measure as a leaderboard shows it.

    Attributes:
        name: its heading. better: `"higher"` or `"lower"`. told: what it says, in a sentence.
        limit: what a map has to be certainly better than; None: than every map that knows nothing.
        asks: whether a map can pass or fail by it; else it only describes maps.
    """

    name: str
    better: str
    told: str
    limit: float | None = None
    asks: bool = True


COLUMNS: dict[str, Column] = {
    "grid_pointing_game": Column(
        "grid pointing", "higher", "Of four pictures in a grid, the share of the positive map in the right one."
    ),
    "relevance_mass_accuracy": Column(
        "mass on object", "higher", "The share of the positive map that lies on the object."
    ),
    "symmetric_relevance_gain": Column(
        "SRG",
        "higher",
        "Area under the class's probability, least salient pixels removed first minus most salient first.",
    ),
    "removal_contrast": Column(
        "removal contrast",
        "higher",
        "What can go before the decision flips, least salient pixels first minus most salient first, own map minus "
        "other pictures' maps.",
    ),
    "class_sensitivity": Column(
        "other class",
        "lower",
        "Magnitude of the rank correlation with the map of the lowest scoring class; one that only turns its sign "
        "counts as the same.",
        0.5,
    ),
    "parameter_randomization": Column(
        "random network", "lower", "The same with the map after all parameters were drawn anew.", 0.5
    ),
    "sparseness": Column("sparseness", "higher", "Gini index of the map; a simple map need not be right.", asks=False),
    "milliseconds": Column("ms", "lower", "CPU time of one map of one picture, of one thread.", asks=False),
}
# Found by their values alone: a null is no rival, and time is no matter of pictures.
_UNTESTED = ("milliseconds",)


@dataclass(frozen=True)
class Standing:
    """Holds what the pictures say of one method by one measure.

    Attributes:
        mean, low, high: of the pictures, and the 95 % bootstrap interval of the mean.
        n: pictures with a value; `undefined` others.
        p: of the paired Wilcoxon test against the column's best, corrected (Holm) within the column; NaN for the best.
        place: `"best"`, `"not told from the best"`, `"worse"`, or "" (a null, or untested).
        verdict: `"passes"` or `"fails"` where it is certainly better than what it has to be better than, or certainly
            worse than any of it (Holm within the column); `"cannot be told"`; or "".
    """

    mean: float
    low: float
    high: float
    n: int
    undefined: int
    p: float = math.nan
    place: str = ""
    verdict: str = ""


Values = Mapping[str, Array]  # row: a value for each picture


def standings(measure: str, values: Values, nulls: Sequence[str]) -> dict[str, Standing]:
    """Returns where each row stands by one measure.

    The best is the method, no null, with the best mean of those that are defined on at least half of the pictures.

    Args:
        measure: one of `COLUMNS`.
        values: of each row, the same pictures in the same order; NaN where it is undefined.
        nulls: which of the rows know nothing.
    """
    column, found = COLUMNS[measure], {row: _described(v) for row, v in values.items()}
    if measure in _UNTESTED:
        return found
    methods = [row for row in values if row not in nulls]
    sign = 1 if column.better == "higher" else -1
    able = [row for row in methods if found[row].n >= max(1, len(values[row]) / 2)]
    if not able:
        return found
    best = max(able, key=lambda row: sign * found[row].mean)
    rivals = [row for row in methods if row != best]
    against_best = _holm({row: _test(values[row], values[best], sign) for row in rivals})
    passed = _verdicts(column, {row: values[row] for row in methods}, [values[n] for n in nulls], sign)
    for row in methods:
        p, effect = against_best.get(row, (math.nan, 0.0))
        place = "best" if row == best else "worse" if p < LEVEL and effect < 0 else "not told from the best"
        own = found[row]
        shown = place if own.n else ""
        found[row] = Standing(own.mean, own.low, own.high, own.n, own.undefined, p, shown, passed[row])
    return found


def _described(values: Array) -> Standing:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Standing(math.nan, math.nan, math.nan, 0, len(values))
    drawn = np.random.default_rng(0).integers(len(defined), size=(_DRAWS, len(defined)))
    low, high = np.quantile(defined[drawn].mean(1), [0.025, 0.975])
    return Standing(float(defined.mean()), float(low), float(high), len(defined), len(values) - len(defined))


_Test = tuple[float, float]  # p, and the effect, above 0 where the first is better


def _test(values: Array, others: Array, sign: int) -> _Test:
    if np.isnan(values + others).all():
        return math.nan, 0.0
    found = compare(values, others, n_bootstrap=1)
    return found.p, sign * found.effect


def _holm(tests: Mapping[str, _Test]) -> dict[str, _Test]:
    corrected = holm([p for p, _ in tests.values()])
    return {key: (p, effect) for key, p, (_, effect) in zip(tests, corrected, tests.values())}


def _verdicts(column: Column, values: Values, nulls: Sequence[Array], sign: int) -> dict[str, str]:
    if not column.asks:
        return dict.fromkeys(values, "")
    against = {row: [np.full(len(v), column.limit)] if column.limit is not None else nulls for row, v in values.items()}
    tests = {f"{i}|{row}": _test(values[row], o, sign) for row, own in against.items() for i, o in enumerate(own)}
    corrected = _holm(tests)
    found = {}
    for row, own in against.items():
        sides = [corrected[f"{i}|{row}"] for i in range(len(own))]
        if any(p < LEVEL and effect < 0 for p, effect in sides):
            found[row] = "fails"
        else:
            passes = bool(sides) and all(p < LEVEL and effect > 0 for p, effect in sides)
            found[row] = "passes" if passes else "cannot be told"
    return found


def best_layer(shares: Values) -> str | None:
    """Returns the layer with the largest mean of its defined values, the later of equal ones; one that is undefined on
    more than half of the pictures is not taken. None where there is none."""
    able = {layer: v[~np.isnan(v)] for layer, v in shares.items() if 2 * np.isnan(v).sum() <= len(v)}
    able = {layer: v for layer, v in able.items() if len(v)}
    return max(reversed(list(able)), key=lambda layer: float(able[layer].mean()), default=None)
