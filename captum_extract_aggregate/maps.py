"""Bringing maps of different layers together: one size, one scale, enough precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def upsample(map_: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """`N x C x *S` linearly (1-D, 2-D or 3-D) at another resolution."""
    dims = map_.ndim - 2
    if len(size) != dims:
        raise ValueError(
            f"a map with {dims} position dimensions cannot be brought to the size {tuple(size)} of the input; "
            "expected as many: choose layers whose positions are the picture's"
        )
    if tuple(map_.shape[2:]) == tuple(size):
        return map_
    return F.interpolate(map_, tuple(size), mode=_MODES[dims], align_corners=align_corners)


def min_max(map_: Tensor, eps: float = 0) -> Tensor:
    """Each example from 0 (its smallest value) to 1 (its largest, but for `eps`); a constant map is 0."""
    flat = map_.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    shape = (-1, *(1,) * (map_.ndim - 1))
    low, spread = low.reshape(shape), (high - low).reshape(shape)
    return map_.sub(low).div_(torch.where(spread > 0, spread, torch.ones_like(spread)) + eps)


def at_least_float32(t: Tensor) -> Tensor:
    """Half precision as float32, for sums over many channels or positions."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
