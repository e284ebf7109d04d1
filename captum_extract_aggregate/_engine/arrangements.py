"""Functions that bring an activation to `N x K x *S`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import Tensor

from captum_extract_aggregate._engine.parts import FRESH, Dim, Dims, Part, size_of

LayoutFunction = Callable[[Tensor], Tensor]


def identity(t: Tensor) -> Tensor:
    return t


def channels_last(t: Tensor) -> Tensor:
    return t.movedim(-1, 1)


def sequence_first(t: Tensor) -> Tensor:
    return t.permute(1, 2, 0)


def unfolded(dims: Dims, batch: int, channels: int) -> LayoutFunction | None:
    """Puts batch and channels in front, and behind them the positions: an axis each, in order if that is known."""
    positions = [dim for d, dim in enumerate(dims) if d not in (batch, channels)]

    def in_front(t: Tensor) -> Tensor:
        return t.movedim((batch, channels), (0, 1))

    is_sequence = channels == 1 and len(positions) == 1 and not any(part.inner for part in positions[0])
    if is_sequence or all(map(_is_plain, positions)):
        return in_front
    parts = [part for dim in positions for part in _inner(dim)]
    order = list(range(len(parts)))
    if len({part.axis[0] < FRESH for part in parts}) == 1:
        order.sort(key=lambda i: parts[i].axis)
    elif any(len(part.axis) > 1 for part in parts):  # parts of axes whose order is not known
        return None
    axes = [list(of_axis) for _, of_axis in itertools.groupby((parts[i] for i in order), lambda part: part.axis[:1])]

    def unfold(t: Tensor) -> Tensor:
        t = in_front(t)
        for d, dim in enumerate(positions, start=2):
            if dim and dim[0].inner:
                t = t.narrow(d, dim[0].before, size_of(dim[0].inner))
        t = t.reshape(*t.shape[:2], *(part.size for part in parts))
        t = t.permute(0, 1, *(i + 2 for i in order))
        return t.reshape(*t.shape[:2], *(math.prod(p.size for p in of_axis) for of_axis in axes))

    return unfold


def _is_plain(dim: Dim) -> bool:
    return len(dim) < 2 and all(len(part.axis) == 1 and not part.inner for part in dim)


def _inner(dim: Dim) -> Dim:
    """Returns the parts that have positions; one of size 1 for a dimension of size 1."""
    return (dim[0].inner if dim[0].inner else dim) if dim else (Part("axis", 1, (FRESH - 1,)),)
