"""Whether dimension 0 of an activation holds the examples, and what to do where it holds more than them."""

from __future__ import annotations

import math

from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.parts import CHANNELS, Dim, Dims, kinds_of, size_of
from captum_extract_aggregate._engine.surroundings import Surroundings


def is_plain_batch(activation: Tensor, around: Surroundings) -> bool:
    """Tells whether dimension 0 holds the batch and nothing else."""
    shape = activation.shape
    if len(shape) < 3 or (around.batch is not None and shape[0] != around.batch):
        return False
    return len(shape) > 3 or shape[0] != shape[1] or not around.known.is_sequence_first


def check_positions(activation: Tensor, around: Surroundings) -> None:
    shape = tuple(activation.shape)
    if activation.ndim < 3:
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {shape}, which has no positions to map; expected a layer "
            "before the flattening or global pooling (default_layers(model) lists good ones; inputs without positions "
            "go into additional_forward_args)"
        )
    if around.batch is not None and shape[0] != around.batch:
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {shape}, whose first dimension is not the batch of "
            f"{around.batch}; expected batch first ({_cure_of_batch(activation, around)})"
        )
    if not is_plain_batch(activation, around):
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {shape} in a model with sequence-first layers, and nothing "
            "tells its batch from its sequence; expected another batch size, or layout=lambda t: t.permute(1, 2, 0)"
        )


def check_not_constant(activation: Tensor, around: Surroundings) -> None:
    if around.is_constant(activation):
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {tuple(activation.shape)}, which has as many entries for a "
            "batch of two: its first dimension is not the batch (a table of positions has none); expected a layer "
            "that the input goes through"
        )


def _cure_of_batch(activation: Tensor, around: Surroundings) -> str:
    """Returns what to do about a first dimension that is not the batch."""
    windows = "windows or heads folded into the batch have no places in the image: choose the block around them"
    sequence = "for sequence-first layers pass layout=lambda t: t.permute(1, 2, 0)"
    size, batch, dims = activation.shape[0], around.batch or 1, around.dims(activation)
    if size % batch:
        return f"{windows}; {sequence}"
    if dims is not None and not _is_of_views(dims[0], batch):
        return windows
    unfold = views_unfolded(batch, size // batch, activation, dims)
    return f"{size // batch} views, frames or patches of each example unfold by layout={unfold}" + (
        "" if dims is not None else f"; {windows}; {sequence}"
    )


def _is_of_views(dim: Dim, batch: int) -> bool:
    """Tells whether a dimension is made of the batch and one more axis, as that of views or frames is."""
    others = [part for part in dim if part.kind != "batch"]
    return len(others) == 1 and math.prod(p.size for p in dim if p.kind == "batch") == batch


def views_unfolded(batch: int, views: int, activation: Tensor | None = None, dims: Dims | None = None) -> str:
    """Returns the code of a layout for examples of several views each, folded into dimension 0: `N x K x V x *S`."""
    views_first = dims is not None and batch > 1 and dims[0][-1].kind == "batch"
    unfolded = f"t.unflatten(0, ({views}, -1)).transpose(0, 1)" if views_first else f"t.unflatten(0, (-1, {views}))"
    if dims is not None:
        is_last = bool(kinds_of(dims[-1]) & CHANNELS)
    else:
        is_last = activation is not None and activation.ndim == 3
    if dims is not None and is_last and len(dims) == 3:
        unfolded = f"t{_grid_code(dims[1])}{unfolded[1:]}"
    return f"lambda t: {unfolded}.movedim({-1 if is_last else 2}, 1)"


def _grid_code(dim: Dim) -> str:
    """Returns the code that makes a grid of the tokens in dimension 1, if they are of one, row by row."""
    tokens = dim[0].inner if dim and dim[0].inner else dim
    before = dim[0].before if dim and dim[0].inner else 0
    cut = f"[:, {before}:{before + size_of(tokens)}]" if size_of(tokens) < size_of(dim) else ""
    axes = [part.axis for part in tokens]
    is_grid = len(tokens) > 1 and axes == sorted(axes) and all(len(axis) == 1 for axis in axes)
    return cut + (f".unflatten(1, {tuple(part.size for part in tokens)})" if is_grid else "")
