"""Sums over many channels, a few of them at a time.

On a CPU, fresh memory beyond its cache takes longer to get than the numbers in it take to compute.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from captum_extract_aggregate._common.tensors import on_cpu

_CHUNK = 2**18  # numbers, which a CPU's cache holds


def channel_chunks(t: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Returns views of a tensor along one dimension, of a size that a CPU's cache holds; elsewhere the tensor
    itself."""
    if not on_cpu(t) or t.numel() <= 2 * _CHUNK:
        return (t,)
    return t.split(max(1, t.shape[dim] * _CHUNK // t.numel()), dim)


def over_channels(share: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Returns the sum of what each channel contributes: `share` gives that of some channels, in memory of its own.

    All tensors are `N x K x *S`, of one shape.
    """
    return functools.reduce(Tensor.add_, [share(*some) for some in zip(*[channel_chunks(t, 1) for t in tensors])])
