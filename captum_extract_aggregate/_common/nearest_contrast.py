"""A class's score against the scores nearest to it."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError


def check_gamma(gamma: Any) -> float:
    """Returns `gamma` itself, or our error."""
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0 <= gamma < math.inf:
        raise InvalidValueError(f"gamma is {gamma!r}; expected a number of at least 0")
    return gamma


def check_references(references: Any) -> int:
    """Returns `references` as an int, or our error."""
    if isinstance(references, bool) or not isinstance(references, numbers.Integral) or references < 1:
        raise InvalidValueError(f"references is {references!r}; expected a whole number of at least 1")
    return int(references)


def nearest_contrast(z: Tensor, gamma: float, references: int) -> Tensor:
    """Returns each class's score minus `gamma` times the mean of the `references` scores nearest to it, `N x C`."""
    if z.ndim != 2 or z.shape[1] < 2:
        raise InvalidValueError(f"model gives scores of shape {tuple(z.shape)}; expected N x classes, two or more")
    nearest = _nearest_classes(z.detach(), min(references, z.shape[1] - 1))
    return z - gamma * z.gather(1, nearest.flatten(1)).unflatten(1, nearest.shape[1:]).mean(2)


def _nearest_classes(z: Tensor, count: int) -> Tensor:
    """Returns the classes nearest to each, `N x C x count`: in order of the scores they are among its neighbours."""
    ordered, classes = z.sort(dim=1, stable=True)
    steps = torch.arange(-count, count + 1, device=z.device)  # made there: a copy would wait
    steps = torch.cat([steps[:count], steps[count + 1 :]])
    ranks = torch.arange(z.shape[1], device=z.device)[:, None] + steps
    inside = (ranks >= 0) & (ranks < z.shape[1])
    ranks = ranks.clamp(0, z.shape[1] - 1)
    far = (ordered[:, ranks] - ordered[:, :, None]).abs().masked_fill(~inside, torch.inf)
    chosen = far.sort(dim=2, stable=True).indices[..., :count]
    of_rank = classes[:, ranks].gather(2, chosen)
    return torch.empty_like(of_rank).scatter_(1, classes[:, :, None].expand_as(of_rank), of_rank)
