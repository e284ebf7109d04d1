"""Reference versions of perturbation curves and imputers: one example, one step at a time.

Inputs are (C, *S) arrays, maps and what is gone (*S) arrays of one to three dimensions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.reference.metrics import removal_order

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Imputer = Callable[[Array, Mask], Array]


def step_counts(pixels: int, step: int) -> list[int]:
    """0, step, 2 step, ...; the last step takes what is left."""
    return [*range(0, pixels, step), pixels]


def fraction_counts(pixels: int, fractions: Sequence[float]) -> list[int]:
    """At most these shares of the pixels (a share that is a whole number but for rounding is that number)."""
    return [math.floor(f * pixels + 1e-9) for f in fractions]


def perturbation_curve(
    score: Callable[[Array], float],
    x: Array,
    saliency: ArrayLike,
    counts: Sequence[int],
    order: str,
    mode: str,
    impute: Imputer,
) -> list[float]:
    """The score after `count` pixels were taken out (deletion), or put in (insertion), in the order of the map."""
    positions = removal_order(saliency, order.removesuffix("_first"))
    scores = []
    for count in counts:
        gone = np.zeros(x.shape[1:], dtype=bool)
        gone.flat[positions[:count] if mode == "deletion" else positions[count:]] = True
        scores.append(score(impute(x, gone)))
    return scores


def area(counts: Sequence[int], scores: Sequence[float]) -> float:
    """Trapezoids over what is gone or there, divided by how far the counts reach; NaN where they do not."""
    width = counts[-1] - counts[0]
    pairs = zip(itertools.pairwise(counts), itertools.pairwise(scores))
    total = sum((b - a) * (s + t) / 2 for (a, b), (s, t) in pairs)
    return total / width if width else math.nan


def constant(value: ArrayLike) -> Imputer:
    """What is gone becomes a value that broadcasts to (C, *S)."""
    return lambda x, gone: np.where(gone, np.broadcast_to(np.asarray(value, dtype=np.float64), x.shape), x)


def mean(x: Array, gone: Mask) -> Array:
    """What is gone becomes the mean of its channel."""
    return constant(x.reshape(len(x), -1).mean(1).reshape(-1, *(1,) * gone.ndim))(x, gone)


def blurred(x: Array, sigma: float = 5.0, window: int = 11) -> Array:
    """Gaussian weights in a window of each dimension, which sum to 1; beyond an edge its pixels go on."""
    reach = range(-(window // 2), window // 2 + 1)
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape[1:]):
        total = 0.0
        for offset in itertools.product(reach, repeat=x.ndim - 1):
            weight = math.exp(-sum(o * o for o in offset) / (2 * sigma**2))
            at = tuple(min(max(p + o, 0), n - 1) for p, o, n in zip(place, offset, x.shape[1:]))
            out[(slice(None), *place)] += weight * x[(slice(None), *at)]
            total += weight
        out[(slice(None), *place)] /= total
    return out


def blur(x: Array, gone: Mask) -> Array:
    """What is gone is seen blurred."""
    return np.where(gone, blurred(x), x)


def linear_imputation(x: Array, gone: Mask) -> Array:
    """Every pixel that is gone is the weighted mean of its neighbours inside the image.

    A neighbour that differs in k coordinates weighs 2^-k: in the plane 1/6 and 1/12 of all eight. With nothing left to
    interpolate from, pixels are 0.
    """
    places = [tuple(p) for p in np.argwhere(gone)]
    if len(places) == gone.size:
        return np.zeros_like(x)
    index = {place: i for i, place in enumerate(places)}
    left, right = np.zeros((len(places),) * 2), np.zeros((len(places), len(x)))
    for place, i in index.items():
        for offset in itertools.product((-1, 0, 1), repeat=gone.ndim):
            at = tuple(p + o for p, o in zip(place, offset))
            if not any(offset) or any(not 0 <= a < n for a, n in zip(at, gone.shape)):
                continue
            weight = 0.5 ** np.count_nonzero(offset)
            left[i, i] += weight
            if at in index:
                left[i, index[at]] -= weight
            else:
                right[i] += weight * x[(slice(None), *at)]
    out = x.copy()
    if places:
        out[(slice(None), *zip(*places))] = np.linalg.solve(left, right).T
    return out
