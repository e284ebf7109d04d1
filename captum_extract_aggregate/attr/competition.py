"""What a class keeps of its map where the maps of several classes compete: tensors alone."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import at_least_float32, moved


def kept_by_first(maps: Tensor, counts: Tensor, temperature: float, threshold: float, normalize: bool) -> Tensor:
    """Returns `N x ...`: what the first of C maps keeps at each position.

    Args:
        maps: `N x C x ...`.
        counts: `N x C` booleans: which maps take part.
        temperature, threshold, normalize: as for `ClassCompetition`.
    """
    a = at_least_float32(maps)
    absent = ~moved(counts, a.device).reshape(*counts.shape, *(1,) * (a.ndim - 2))
    z = a.abs().masked_fill(absent, 0)
    if normalize:
        largest = z.flatten(1).amax(1).reshape(-1, *(1,) * (z.ndim - 1))
        z = z / torch.where(largest == 0, 1, largest)
    p = (temperature * z).masked_fill(absent, -torch.inf).softmax(1)[:, 0]
    even = 1 / counts.sum(1).to(p).reshape(-1, *(1,) * (p.ndim - 1))
    lost = p - even <= threshold  # NaN is not lost: it stays NaN
    return (a[:, 0] * p).masked_fill(lost, 0).to(maps.dtype)
