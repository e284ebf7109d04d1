"""Exact percentiles of large rows, without sorting them."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import on_cpu
from captum_extract_aggregate.attr.propagation.order_statistics import kth_smallest

_Found = TypeVar("_Found")
SMALL = 2**12  # rows up to this length are partitioned as a whole
_SAMPLE = 2**13  # about, and at most an eighth of the row
_PIECE = 2**16
_WORTH_THREADS = 2**21  # numbers: of fewer, waking a thread takes as long


def percentile(rows: Tensor, q: float) -> Tensor:
    """Returns each row's q-th percentile, linearly interpolated. (`torch.quantile` sorts, and refuses large rows.)"""
    low, high, weight = _ranks(rows.shape[1], q)
    if on_cpu(rows):
        found = _in_threads(
            lambda row: _within(*_of_ranks(row, low, high), weight), rows.detach().numpy(), rows.numel()
        )
        return torch.tensor(found, dtype=rows.dtype)
    below = kth_smallest(rows, low)
    if low == high:
        return below
    further = rows > below[:, None]
    next_one = torch.where(further, rows, torch.inf).amin(1)
    above = torch.where((~further).sum(1) > high, below, next_one)
    return torch.where(above > below, below + (above - below) * weight, below)


def _ranks(length: int, q: float) -> tuple[int, int, float]:
    """Returns the ranks (from 0) between which the percentile lies, and how far it is from the first to the second."""
    index = q * (length - 1) / 100
    return math.floor(index), math.ceil(index), index - math.floor(index)


def _within(first: float, second: float, weight: float) -> float:
    """Returns the number that lies that far between two."""
    return first + (second - first) * weight if second > first else first


def _in_threads(function: Callable[[Any], _Found], rows: Any, size: int) -> list[_Found]:
    """Returns the rows' results; NumPy's work is that of one thread, but lets others work beside it."""
    threads = min(torch.get_num_threads(), len(rows))
    if threads < 2 or size < _WORTH_THREADS:
        return [function(row) for row in rows]
    return list(_pool(torch.get_num_threads()).map(function, rows))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="percentile")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _of_ranks(row: Any, low: int, high: int) -> tuple[float, float]:
    """Returns the values of two neighbouring ranks (from 0).

    A sample tells between which values they very likely lie; only what lies there is picked out and sorted. Where
    that was wrong, the whole row is partitioned.
    """
    if len(row) > SMALL:
        lower, upper = _bracket(row[:: step(len(row))], low / len(row))
        up_to_lower, inside = _between(row, lower, upper)
        inside.sort()

        def value(rank: int) -> float | None:
            if rank < up_to_lower:  # many values may be just this one: half of a layer is zero
                return lower if np.count_nonzero(row < lower) <= rank else None
            if rank < up_to_lower + len(inside):
                return float(inside[rank - up_to_lower])
            return upper if rank < np.count_nonzero(row <= upper) else None

        found = value(low), value(high)
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    whole = np.partition(row, [low, high])
    return float(whole[low]), float(whole[high])


def _bracket(sample: Any, fraction: float) -> tuple[float, float]:
    """Returns two values with the quantile of that fraction of a row between them, up to four standard errors of a
    sample."""
    sample = np.sort(sample)
    n = len(sample)
    reach = 4 * math.sqrt(fraction * (1 - fraction) / n) + 2 / n
    first, last = math.floor((fraction - reach) * n), math.ceil((fraction + reach) * n)
    return float(sample[first]) if first >= 0 else -math.inf, float(sample[last]) if last < n else math.inf


def step(length: int) -> int:
    """From one value of the sample to the next: no small factor of a layer's width, whose borders would be met too
    often or never."""
    found = max(8, length // _SAMPLE)
    while math.gcd(found, length * 2 * 3 * 5 * 7) > 1:
        found += 1
    return found


def _between(row: Any, lower: float, upper: float) -> tuple[int, Any]:
    """Returns how many values do not exceed `lower`, and those between it and `upper`. Piece by piece, within the
    cache."""
    above, below = np.empty((2, _PIECE), dtype=bool)
    others, inside = 0, []
    for start in range(0, len(row), _PIECE):
        part = row[start : start + _PIECE]
        n = len(part)
        np.greater(part, lower, out=above[:n])
        others += n - int(np.count_nonzero(above[:n]))
        if upper < math.inf:
            np.less(part, upper, out=below[:n])
            np.logical_and(above[:n], below[:n], out=above[:n])
        inside.append(np.compress(above[:n], part))  # twice as fast as an index, and lets other threads work
    return others, np.concatenate(inside)
