"""From a layer's map to what the page takes: the input's shape, finite, not zero and scaled."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.tensors import upsample

_SMALLEST, _TINY = 1e-30, 1e-4  # Captum warns below 1e-5


def like_input(map_: Tensor, x: Tensor) -> Tensor:
    """Returns a map in the shape of an image `N x C x H x W`: scaled by its largest magnitude, finite and not zero.

    A map that is zero everywhere gets one pixel, in the corner.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.insights.input_maps import like_input
        >>> like_input(torch.zeros(1, 1, 2, 2), torch.rand(1, 3, 4, 4)).count_nonzero().item()
        3
    """
    return scaled([in_shape(map_, x)])[0]


def in_shape(map_: Tensor, x: Tensor) -> Tensor:
    """Returns a finite map in the shape of an image, each channel with its part of it."""
    map_ = torch.nan_to_num(map_.detach(), nan=0.0, posinf=0.0, neginf=0.0).to(x.dtype)
    if map_.shape == x.shape:
        return map_
    if map_.ndim != 4 or x.ndim != 4:
        raise InvalidValueError(
            f"a map {tuple(map_.shape)} cannot be drawn on an input {tuple(x.shape)}; expected images N x C x H x W"
        )
    return upsample(map_.sum(1, keepdim=True), x.shape[2:]).expand_as(x) / x.shape[1]


def scaled(maps: list[Tensor]) -> list[Tensor]:
    """Returns the maps of one pass, scaled as one, so that what several inputs contribute can be compared."""
    own = [m.abs().flatten(1).amax(1) for m in maps]
    largest = torch.stack([o.to(own[0]) for o in own]).amax(0)
    return [_shown(m, o, largest.to(o)) for m, o in zip(maps, own)]


def _shown(map_: Tensor, own: Tensor, largest: Tensor) -> Tensor:
    """Returns one map by the largest magnitude of all; an image's zeros get their pixel."""
    own, largest = (t.reshape(-1, *(1,) * (map_.ndim - 1)) for t in (own, largest))
    empty = torch.zeros_like(map_)
    if map_.ndim == 4:
        empty[..., 0, 0] = _TINY
    return torch.where(own > _SMALLEST, map_ / largest.clamp(min=_SMALLEST), empty)


def zero_map(x: Tensor) -> Tensor:
    """Returns what an input without a map gets."""
    nothing = torch.zeros_like(x, dtype=x.dtype if x.is_floating_point() else torch.get_default_dtype())
    return scaled([nothing])[0]
