"""Functions that bring an activation to `N x K x *S`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import Tensor

from captum_extract_aggregate._engine.parts import CHANNELS, FRESH, Dim, Dims, Part, size_of

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


def at_positions(t: Tensor, dims: Dims, batch: int) -> Tensor | None:
    """Returns a tensor as `N x K x *S`, be its dimensions as they may (windows beside examples, tokens first), without
    entries that have no position; None where the inputs' positions are lacking, unknown or there twice."""
    parts = [part for dim in dims for part in dim]
    t = t.reshape([part.size for part in parts])
    for d in reversed(range(len(parts))):  # from behind: what lies in front stays where it is
        inner = parts[d].inner
        if inner:
            t = t.narrow(d, parts[d].before, size_of(inner)).unflatten(d, [part.size for part in inner])
            parts[d : d + 1] = inner
    of_batch = [d for d, part in enumerate(parts) if part.kind == "batch"]
    channels = [d for d, part in enumerate(parts) if part.kind in CHANNELS]
    positions = sorted((d for d, part in enumerate(parts) if part.kind == "axis"), key=lambda d: parts[d].axis)
    axes = [parts[d].axis for d in positions]
    if math.prod(parts[d].size for d in of_batch) != batch:  # examples that were repeated, or are not all there
        return None
    of_inputs = bool(axes) and len(set(axes)) == len(axes) and all(axis[0] < FRESH for axis in axes)
    if not of_inputs or len(of_batch) + len(channels) + len(positions) < len(parts):
        return None
    by_axis = [list(of) for _, of in itertools.groupby((parts[d] for d in positions), key=lambda part: part.axis[0])]
    t = t.permute(*of_batch, *channels, *positions).reshape(batch, -1, *map(size_of, map(tuple, by_axis)))
    return t.roll([-of_axis[0].shift for of_axis in by_axis], tuple(range(2, t.ndim)))
