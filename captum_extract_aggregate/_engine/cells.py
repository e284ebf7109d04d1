"""Grids of cells: a grid of pictures as a batch of its cells, and what a layer gives of the cells as one grid again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.arrangements import LayoutFunction
from captum_extract_aggregate._engine.layout import Layout, to_channels_first
from captum_extract_aggregate._engine.surroundings import Surroundings


def into_cells(t: Tensor, n: int) -> Tensor:
    """Returns `N x C x *S` as a batch of cells, row by row: `(N n^d) x C x *(S / n)`, of d position dimensions."""
    if any(side % n for side in t.shape[2:]):
        raise InvalidValueError(
            f"n is {n}, and a grid has the shape {tuple(t.shape)}; expected sides that n divides: n cells each"
        )
    dims, cell = t.ndim - 2, [side // n for side in t.shape[2:]]
    split = t.reshape(*t.shape[:2], *(part for side in cell for part in (n, side)))
    order = 0, *range(2, 2 + 2 * dims, 2), 1, *range(3, 3 + 2 * dims, 2)
    return split.permute(order).reshape(-1, t.shape[1], *cell)


def from_cells(cells: Tensor, n: int) -> Tensor:
    """Returns a batch of cells as grids, `N x C x *S`."""
    dims, (channels, *cell) = cells.ndim - 2, cells.shape[1:]
    split = cells.reshape(-1, *[n] * dims, channels, *cell)
    order = 0, 1 + dims, *(d for i in range(dims) for d in (1 + i, 2 + dims + i))
    return split.permute(order).reshape(-1, channels, *(n * side for side in cell))


def layout_of(value: Tensor, layout: Layout, around: Surroundings) -> LayoutFunction | None:
    """Returns how a layer's output becomes `N x C x *S`; None where it has no positions; our error where that cannot be
    told."""
    return to_channels_first(value, layout, around) if value.ndim > 2 else None


def stitched(value: Tensor, arrange: LayoutFunction, n: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Returns a layer's outputs of the cells as its outputs of grids, and the way back.

    Channels stay where they were. Tokens without a position (a class token) belong to no place in a grid: they are left
    out, and on the way back stand where they stood.
    """
    first = arrange(value)
    grid = from_cells(first, n)
    is_tokens, is_last = value.ndim < first.ndim, _is_last(value, arrange)
    size = grid.shape[2:]
    own = grid.flatten(2).transpose(1, 2) if is_tokens else grid.movedim(1, -1) if is_last else grid

    def back(t: Tensor) -> Tensor:
        if is_tokens:
            t = t.transpose(1, 2).unflatten(2, size)
        elif is_last:
            t = t.movedim(-1, 1)
        cells = into_cells(t, n)
        if not is_tokens and not is_last:
            return cells
        places = arrange(torch.arange(value.numel(), device=value.device).view(value.shape))
        return value.flatten().index_copy(0, places.flatten(), cells.flatten()).view(value.shape)

    return own, back


def _is_last(value: Tensor, arrange: LayoutFunction) -> bool:
    index = torch.arange(value.numel(), device=value.device).view(value.shape)
    places = arrange(index)
    return value.ndim == places.ndim and not torch.equal(places, index)


def cut(value: Tensor, arrange: LayoutFunction, n: int, cell: int) -> Tensor:
    """Returns the part of a layer's outputs of grids that lies in a cell, in the layer's own layout; tokens without a
    position stay."""
    index = torch.arange(value[:1].numel(), device=value.device).view(1, *value.shape[1:])
    places = arrange(index)
    dims = places.ndim - 2
    inside = into_cells(places, n)[cell]
    kept = torch.ones(index.numel(), dtype=torch.bool, device=value.device)
    kept[places.flatten()] = False
    kept[inside.flatten()] = True
    kept = kept.view(index.shape)
    for dim in range(1, value.ndim):
        rows = kept.movedim(dim, 0).flatten(1).any(1).nonzero().flatten()
        if dims and len(rows) < value.shape[dim]:
            value = value.index_select(dim, rows)
    return value


def on_tensors(change: Callable[[Tensor], Tensor], output: Any, name: str) -> Any:
    """Returns a layer's output (or inputs) with every tensor in it changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, (tuple, list)):
        changed = [change(t) if isinstance(t, Tensor) else t for t in output]
        return output._make(changed) if hasattr(output, "_make") else type(output)(changed)
    raise InvalidTypeError(f"{name} gives a {type(output).__name__}; expected a tensor, or a tuple of tensors")
