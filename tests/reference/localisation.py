"""Reference versions of the measures of localisation: one example at a time, counting and adding one by one.

Maps and masks are arrays of one shape, of one to three dimensions. NaN means "undefined".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def relevance_mass_accuracy(a: ArrayLike, mask: ArrayLike) -> float:
    """sum of max(a, 0) inside the mask / sum of max(a, 0); NaN for an empty mask, or where nothing is positive."""
    values, inside = np.ravel(a).tolist(), np.ravel(mask).tolist()
    total = math.fsum(max(v, 0.0) for v in values)
    if not any(inside) or total == 0:
        return math.nan
    return math.fsum(max(v, 0.0) for v, is_in in zip(values, inside) if is_in) / total


def relevance_rank_accuracy(a: ArrayLike, mask: ArrayLike) -> float:
    """Share of the |mask| largest positions that lie in the mask; NaN for an empty mask.

    Of the positions that are equal to the smallest of these, each counts by the chance to be among them.
    """
    values, inside = np.ravel(a).tolist(), np.ravel(mask).tolist()
    count = sum(inside)
    if count == 0:
        return math.nan
    smallest = sorted(values, reverse=True)[count - 1]
    above = sum(v > smallest for v in values)
    chance = (count - above) / sum(v == smallest for v in values)
    hits = 0.0
    for v, is_in in zip(values, inside):
        if is_in:
            hits += 1.0 if v > smallest else chance if v == smallest else 0.0
    return hits / count


def localisation_auc(a: ArrayLike, mask: ArrayLike) -> float:
    """Share of the pairs of a position inside and one outside of which the inner is larger; a draw counts one half."""
    values, inside = np.ravel(a).tolist(), np.ravel(mask).tolist()
    inner = [v for v, is_in in zip(values, inside) if is_in]
    outer = [v for v, is_in in zip(values, inside) if not is_in]
    if not inner or not outer:
        return math.nan
    won = sum(1.0 if i > o else 0.5 if i == o else 0.0 for i in inner for o in outer)
    return won / (len(inner) * len(outer))


def grid_pointing_game(a: ArrayLike, cell: int, n: int) -> float:
    """sum of max(a, 0) in the cell / sum of max(a, 0) in all; cells are counted row by row."""
    a = np.asarray(a, dtype=np.float64)
    place = np.unravel_index(cell, (n,) * a.ndim)
    inside = total = 0.0
    for at in np.ndindex(a.shape):
        positive = max(float(a[at]), 0.0)
        total += positive
        if all(i * n // size == p for i, size, p in zip(at, a.shape, place)):
            inside += positive
    return inside / total if total else math.nan
