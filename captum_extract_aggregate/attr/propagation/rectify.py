"""RectGrad's gate on a CPU: `R` where `a R` exceeds its percentile, with as few passes over memory as can be.

A sample tells a number that the percentile very likely exceeds. What exceeds it is picked out piece by piece, within
the cache: for a high percentile that is so little that the products need never be written, nor `R` be read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from captum_extract_aggregate.attr.propagation.percentile import (
    PIECE,
    SMALL,
    bracket,
    in_threads,
    of_ranks,
    ranks,
    step,
    within,
)

_SAMPLE = 2**11
_FEW = 0.15  # of a row: more are not worth picking out


def rectify(R: Any, a: Any, out: Any, ceiling: float, q: float, magnitude: bool) -> None:
    """Writes each row of R, where `a R` (or its magnitude) exceeds the q-th percentile of `a R`, and else 0, to `out`.

    `a` is what came out of a rectifier, or went into one that saturates at `ceiling`.
    """
    in_threads(lambda rows: _row(rows[0], rows[1], rows[2], ceiling, q, magnitude), list(zip(R, a, out)), R.size)


def _row(R: Any, a: Any, out: Any, ceiling: float, q: float, magnitude: bool) -> None:
    low, high, weight = ranks(len(R), q)
    if len(R) > SMALL and len(R) - low < _FEW * len(R):
        some = slice(None, None, step(len(R), _SAMPLE))
        sample = _products(R[some], a[some], ceiling, np.empty(2 * _SAMPLE, R.dtype))
        lower = bracket(sample, low / len(R))[0]
        if lower >= 0 and _by_the_largest(R, a, out, ceiling, (low, high, weight), lower, magnitude):
            return
    products = _products(R, a, ceiling, out)
    threshold = within(*of_ranks(products, low, high), weight)
    if magnitude:
        np.abs(products, out=products)
    passes, sizes = torch.from_numpy(R), torch.from_numpy(out)  # a mask takes NumPy longer
    torch.ops.aten.threshold_backward.grad_input(passes, sizes, threshold, grad_input=sizes)


def _by_the_largest(
    R: Any, a: Any, out: Any, ceiling: float, wanted: tuple[int, int, float], lower: float, magnitude: bool
) -> bool:
    """Does the same by the products above `lower`; False where they do not tell the percentile."""
    low, high, weight = wanted
    positions, products = _above(R, a, ceiling, lower, magnitude)
    larger = products[products > lower]
    others = len(R) - len(larger)
    if low >= others:
        threshold = within(*of_ranks(larger, low - others, high - others), weight)
    elif _count_below(R, a, ceiling, lower) <= low:  # many are just `lower`: half of a layer is zero
        threshold = within(lower, lower if high < others else float(larger.min()), weight)
    else:
        return False
    sizes = np.abs(products) if magnitude else products
    positions = positions[~(sizes <= threshold)]
    out.fill(0)
    out[positions] = R[positions]
    return True


def _above(R: Any, a: Any, ceiling: float, lower: float, magnitude: bool) -> tuple[Any, Any]:
    """Returns positions and products where these (or their magnitudes) exceed `lower`, or are no numbers."""
    positions, products = [], []
    for start, found in _pieces(R, a, ceiling):
        not_above = found <= lower
        if magnitude:
            not_above &= found >= -lower
        (here,) = np.nonzero(np.logical_not(not_above, out=not_above))
        positions.append(here + start)
        products.append(found[here])
    return np.concatenate(positions), np.concatenate(products)


def _count_below(R: Any, a: Any, ceiling: float, lower: float) -> int:
    return sum(int(np.count_nonzero(found < lower)) for _, found in _pieces(R, a, ceiling))


def _pieces(R: Any, a: Any, ceiling: float) -> Iterator[tuple[int, Any]]:
    """Yields the products piece by piece, each in the same memory, with where it begins."""
    memory = np.empty(PIECE, R.dtype)
    for start in range(0, len(R), PIECE):
        piece = slice(start, start + PIECE)
        yield start, _products(R[piece], a[piece], ceiling, memory)


def _products(R: Any, a: Any, ceiling: float, memory: Any) -> Any:
    into = memory[: len(R)]
    return np.multiply(a if math.isinf(ceiling) else np.clip(a, 0, ceiling, out=into), R, out=into)
