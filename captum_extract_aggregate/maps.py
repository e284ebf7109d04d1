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
    low, spread = low_and_spread(map_)
    return map_.sub(low).div_(spread + eps)


def low_and_spread(map_: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's smallest value, and how far its largest is from it (1 if it is the same): `N x 1 x ...`."""
    dims = tuple(range(1, map_.ndim))
    low, high = map_.amin(dims, keepdim=True), map_.amax(dims, keepdim=True)
    return low, torch.where(high > low, high - low, 1)


def are_tame(magnitudes: Sequence[float]) -> bool:
    """Whether numbers of these magnitudes can be squared, and multiplied, in float32 without a second thought."""
    return min(magnitudes) > 1e-6 and max(magnitudes) < 1e6


def at_least_float32(t: Tensor) -> Tensor:
    """Half precision as float32, for sums over many channels or positions."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
