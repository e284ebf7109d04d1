"""How concentrated a map is: on few pixels, or spread out. Maps are `N x C x *S` or `N x *S`; channels are summed.

A tensor of three dimensions is read as pictures `N x H x W`, one of four as `N x C x H x W` (of signals give `N x L`,
of volumes `N x 1 x D x H x W`). One number per example (float64), NaN for maps that are not finite.

That a map is simple says nothing of its being right: a single pixel anywhere is the simplest of all. An edge detector
is simpler (by `sparseness` and `complexity`) than most maps of convolutional networks.

Sources: Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training (ICML 2020); Bhatt et al.,
Evaluating and Aggregating Feature-based Model Explanations (IJCAI 2020); Nguyen and Martinez, On Quantitative Aspects
of Model Interpretability (2020); Hedstrom et al., Sanity Checks Revisited (2024).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.metrics.map_rows import map_rows, sorted_rows


def sparseness(maps: Tensor) -> Tensor:
    r"""Returns the Gini index of the magnitudes; `N`, from 0 (all equal) to 1 - 1/n (one of n positions).

    :math:`\sum_i (2 i - n - 1) |a|_{(i)} / (n \sum_i |a|_i)` with the magnitudes in ascending order. NaN for a map of
    zeros. A factor changes nothing. Magnitudes of uniform noise in [0, 1] have 1/3.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import sparseness
        >>> sparseness(torch.tensor([[0.0, 0.0, 0.0, -4.0], [1.0, 1.0, 1.0, 1.0]])).tolist()
        [0.75, 0.0]
    """
    values = sorted_rows(map_rows(maps).abs())
    n = values.shape[1]
    weights = torch.arange(1 - n, n, 2, dtype=torch.float64, device=values.device)
    return _ratio(values.double() @ weights, n * values.sum(1, dtype=torch.float64))


def complexity(maps: Tensor) -> Tensor:
    r"""Returns the entropy of the magnitudes' shares in nats; `N`, from 0 (one position) to ln n (all equal).

    :math:`-\sum_u p_u \ln p_u` with :math:`p = |a| / \sum |a|`. NaN for a map of zeros. A factor changes nothing.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import complexity
        >>> complexity(torch.tensor([[0.0, -4.0], [1.0, 1.0]])).exp()
        tensor([1., 2.], dtype=torch.float64)
    """
    values = map_rows(maps).abs().double()
    return _entropy(_ratio(values, values.sum(1, keepdim=True)))


def effective_complexity(maps: Tensor, threshold: float = 0.0, relative: bool = False) -> Tensor:
    """Returns how many positions have a magnitude above a threshold; `N` (float64).

    Args:
        maps: `N x C x *S` or `N x *S`.
        threshold: a magnitude; with `relative` a share of the map's largest, in [0, 1). 0 counts what is not 0.
        relative: which of the two. An absolute threshold depends on the map's scale.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import effective_complexity
        >>> effective_complexity(torch.tensor([[0.5, -3.0, 8.0, 0.0]]), 0.1, relative=True).item()
        2.0
    """
    is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold < (1 if relative else math.inf):
        expected = "a share of the largest magnitude, from 0 to below 1" if relative else "a number of at least 0"
        raise InvalidValueError(f"threshold is {threshold!r}; expected {expected}")
    values = map_rows(maps).abs().double()
    limit = threshold * values.amax(1, keepdim=True) if relative else threshold
    return (values > limit).sum(1).double().masked_fill(values[:, 0].isnan(), torch.nan)


def histogram_entropy(maps: Tensor, bins: int = 100) -> Tensor:
    """Returns the entropy in nats of a histogram of the map's signed values; `N`, from 0 (a constant map) to ln(bins).

    Bins are equally wide from the map's least value to its largest, as NumPy's: each holds its lower edge, the last its
    upper one too. Neither a factor nor an addend changes it.

    Args:
        maps: `N x C x *S` or `N x *S`.
        bins: how many.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import histogram_entropy
        >>> histogram_entropy(torch.tensor([[0.0, 0.1, 2.0, 1.9]]), bins=4).exp().item()
        2.0
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InvalidValueError(f"bins is {bins!r}; expected an integer of at least 1")
    values = map_rows(maps).double().contiguous()
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    edges = low + torch.arange(bins, device=values.device) * ((high - low) / bins)
    within = torch.searchsorted(edges, values, right=True).clamp(1, bins) - 1
    counts = torch.zeros_like(edges).scatter_add_(1, within, torch.ones_like(values))
    found = _entropy(counts / values.shape[1])
    found = torch.where((low == high)[:, 0], 0, found)
    return found.masked_fill(values[:, 0].isnan(), torch.nan)


def entropy_rise(maps: Tensor, randomised: Tensor, bins: int = 100) -> Tensor:
    r"""Returns how much higher the histogram's entropy is after the network was randomised; `N`.

    :math:`(H(randomised) - H(maps)) / H(maps)`, of maps of one method and the same examples before and after all
    parameters are drawn anew (eMPRT). Higher is better: noise should come out of a network that knows nothing. NaN
    where H(maps) is 0.

    Args:
        maps, randomised: `N x C x *S` or `N x *S` each.
        bins: as for `histogram_entropy`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import entropy_rise
        >>> entropy_rise(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]]), bins=4).item()
        1.0
    """
    before, after = histogram_entropy(maps, bins), histogram_entropy(randomised, bins)
    if before.shape != after.shape:
        raise InvalidValueError(
            f"maps has {len(before)} examples, and randomised {len(after)}; expected maps of the same examples"
        )
    return _ratio(after - before, before)


def _entropy(shares: Tensor) -> Tensor:
    return -torch.special.xlogy(shares, shares).sum(1)


def _ratio(part: Tensor, whole: Any) -> Tensor:
    return torch.where(whole == 0, torch.nan, part / whole)
