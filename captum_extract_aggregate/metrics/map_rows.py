"""Maps as rows of numbers, and masks beside them, for measures that need neither the model nor the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import are_finite, at_least_float32, is_constant, on_cpu, upsample

Maps = Tensor | Sequence[Tensor]
_DIMS = {2: 1, 3: 2, 4: 2, 5: 3}  # how many dimensions positions have, by those of the maps


def map_rows(maps: Any) -> Tensor:
    """Returns maps as rows, `N x positions`; see `map_positions`."""
    return map_positions(maps).flatten(1)


def map_positions(maps: Any, dims: int | None = None) -> Tensor:
    """Returns maps as `N x *S` in at least float32, with channels summed.

    A map that is constant but for rounding becomes constant, and one that is not finite becomes NaN everywhere.

    Args:
        maps: `N x C x *S` or `N x *S`.
        dims: how many dimensions the positions have; None: `N x L`, `N x H x W`, `N x C x H x W`, `N x C x D x H x W`.
    """
    if not isinstance(maps, Tensor) or maps.ndim < 2 or not maps.numel():
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InvalidTypeError(f"maps is {got}; expected a tensor, N x C x H x W or N x H x W of pictures")
    if maps.is_complex():
        raise InvalidTypeError("maps is complex, and has no order; expected real numbers")
    dims = dims or _DIMS.get(maps.ndim, 0)
    if maps.ndim - dims not in (1, 2) or not 1 <= dims <= 3:
        raise InvalidValueError(
            f"maps has shape {tuple(maps.shape)} for {dims or 'one to three'} position dimensions; expected N x C x *S "
            "or N x *S, such as N x C x H x W"
        )
    maps = at_least_float32(maps.detach()) if maps.is_floating_point() else maps.detach().double()
    own = maps.sum(1) if maps.ndim == dims + 2 else maps
    finite = are_finite(own)
    single = torch.where(_like(finite, own), _first(own), torch.nan)
    return torch.where(_like(is_constant(own) | ~finite, own), single, own)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Returns `N x *S` linearly at another resolution; what has one value all over keeps it."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return torch.where(_like(is_constant(maps), maps), _first(maps), upsample(maps[:, None], size)[:, 0])


def with_masks(measure: Callable[[Tensor, Tensor], Tensor], maps: Maps, masks: Maps) -> Tensor:
    """Returns a measure of rows and of what lies in the mask, `N x positions` each, of maps that are brought to the
    masks' size."""
    if len(maps) != len(masks):
        raise InvalidValueError(f"{len(maps)} maps for {len(masks)} masks; expected one mask for each map")
    if isinstance(maps, Tensor) and isinstance(masks, Tensor):
        return measure(*_rows_and_masks(maps, masks))
    pairs = [_rows_and_masks(_batch_of_one(a), _batch_of_one(m)) for a, m in zip(maps, masks)]
    return torch.cat([measure(*pair) for pair in pairs]) if pairs else torch.zeros(0, dtype=torch.float64)


def sorted_rows(rows: Tensor) -> Tensor:
    """Returns rows in ascending order, NaN last."""
    if on_cpu(rows):  # NumPy sorts several times as fast there
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(dim=1).values


def _rows_and_masks(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if masks.ndim >= max(3, maps.ndim) and masks.shape[1] == 1:
        masks = masks.squeeze(1)  # N x 1 x *S
    dims = masks.ndim - 1
    if not 1 <= dims <= 3:
        raise InvalidTypeError(f"masks has shape {tuple(masks.shape)}; expected N x H x W (or N x L, N x D x H x W)")
    if maps.ndim == masks.ndim > 2 and maps.shape[1] == 1 < masks.shape[1]:
        raise InvalidValueError(
            f"maps has shape {tuple(maps.shape)} for masks of shape {tuple(masks.shape)}: one row, or the maps of "
            "sequences; expected maps with the masks' dimensions (N x 1 x height x width)"
        )
    rows = resized(map_positions(maps, dims), masks.shape[1:])
    return rows.flatten(1), (masks != 0).flatten(1).to(rows.device)


def _batch_of_one(one: Any) -> Tensor:
    if not isinstance(one, Tensor):
        raise InvalidTypeError(f"maps and masks hold a {type(one).__name__}; expected tensors")
    return one[None]


def _like(chosen: Tensor, maps: Tensor) -> Tensor:
    return chosen.reshape(-1, *(1,) * (maps.ndim - 1))


def _first(maps: Tensor) -> Tensor:
    """Returns each map's first value, in as many dimensions."""
    return _like(maps.flatten(1)[:, 0], maps)
