"""Reference versions of the measures of robustness: one example and one neighbour at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def _norm(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in values))


def _relative(a: ArrayLike, b: ArrayLike, eps: float) -> float:
    """|| (a - b) / a ||, where a zero of a counts as eps."""
    pairs = zip(np.ravel(a).tolist(), np.ravel(b).tolist())
    return _norm([(v - w) / (v if v != 0 else eps) for v, w in pairs])


def _distance(a: ArrayLike, b: ArrayLike) -> float:
    return _norm([v - w for v, w in zip(np.ravel(a).tolist(), np.ravel(b).tolist())])


def relative_input_stability(x: ArrayLike, near: ArrayLike, e: ArrayLike, near_e: ArrayLike, eps: float) -> float:
    """|| (e - e') / e || / max(|| (x - x') / x ||, eps); likewise of representations."""
    return _relative(e, near_e, eps) / max(_relative(x, near, eps), eps)


def relative_output_stability(h: ArrayLike, near: ArrayLike, e: ArrayLike, near_e: ArrayLike, eps: float) -> float:
    """|| (e - e') / e || / max(|| h - h' ||, eps)."""
    return _relative(e, near_e, eps) / max(_distance(h, near), eps)


def local_lipschitz_estimate(x: ArrayLike, near: ArrayLike, e: ArrayLike, near_e: ArrayLike) -> float:
    """|| e - e' || / || x - x' ||; NaN where the neighbour is the input."""
    apart = _distance(x, near)
    return _distance(e, near_e) / apart if apart else math.nan
