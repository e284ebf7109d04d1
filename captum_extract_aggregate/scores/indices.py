"""Whole numbers, as users have them at hand."""

from __future__ import annotations

import operator
from typing import Any


def index_or_none(value: Any) -> int | None:
    """Returns an integer of Python's, NumPy's or torch's as an int; None for anything else.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.scores.indices import index_or_none
        >>> [index_or_none(value) for value in (3, torch.tensor(3), 3.0, True, "3")]
        [3, 3, None, None, None]
    """
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def indices_or_none(values: Any) -> list[int] | None:
    """Returns a sequence of integers as a list; None for anything else."""
    try:
        indices = [index_or_none(value) for value in values]
    except TypeError:  # no sequence
        return None
    return None if None in indices else indices  # type: ignore[return-value]
