"""How alike two maps are: one number per example, undefined (NaN) where a map is constant or not finite.

Maps are `N x ...` tensors of one shape, of signals, pictures or volumes; for HOG and SSIM, which are of pictures alone,
`N x 1 x H x W` or `N x H x W` (several channels are summed).

Sources: Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), whose parameters HOG and SSIM have here;
Rebuffi et al. (CVPR 2020), section 4.3; Pearson beside Spearman: Grabska-Barwinska (2020), supplement.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import skimage.feature
import skimage.metrics
import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import (
    are_finite,
    at_least_float32,
    is_constant,
    magnitudes,
    min_max,
    on_cpu,
    upsample,
)

Similarity = Callable[[Tensor, Tensor], Tensor]
_HOG = {"orientations": 9, "pixels_per_cell": (16, 16), "cells_per_block": (3, 3), "block_norm": "L2-Hys"}
_SMALLEST_HOG = 48  # three cells of 16 pixels
_SMALLEST_SSIM = 11  # the Gaussian window


def spearman(attributions: Tensor, others: Tensor) -> Tensor:
    """Returns Spearman's rank correlation of each example's values; `N`, in [-1, 1].

    Ties take average ranks. Ranks and sums are in float64 on the tensors' device, so that millions of ties are exact.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import spearman
        >>> spearman(torch.tensor([[1.0, 2.0, 2.0, 5.0]]), torch.tensor([[0.0, 3.0, 3.0, 9.0]])).item()
        1.0
    """
    a, b = _checked(attributions, others)
    return _correlation(centred_ranks(a.flatten(1)), centred_ranks(b.flatten(1)))


def pearson(attributions: Tensor, others: Tensor) -> Tensor:
    """Returns Pearson's correlation of each example's values; `N`, in [-1, 1].

    Neither a factor above 0 nor an addend changes it. NaN where a map is constant but for rounding. In float64.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import pearson
        >>> pearson(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 3.0, 1.0]])).item()
        -1.0
    """
    pair = _checked(attributions, others)
    constant = is_constant(pair[0]) | is_constant(pair[1])
    a, b = (_standard(t.flatten(1).double()) for t in pair)
    return _correlation(a, b).masked_fill(constant, torch.nan)


def abs_spearman(attributions: Tensor, others: Tensor) -> Tensor:
    """Returns Spearman's rank correlation of the magnitudes; `N`, in [-1, 1]."""
    a, b = _checked(attributions, others)
    return spearman(a.abs(), b.abs())


def hog_spearman(attributions: Tensor, others: Tensor) -> Tensor:
    """Returns Spearman's rank correlation of histograms of oriented gradients; `N`, in [-1, 1].

    Each map is scaled to [0, 1]; cells of 16 x 16 pixels, 9 orientations, blocks of 3 x 3 cells, L2-Hys (scikit-image).
    Two unrelated smooth maps score above 0 (see `null_baseline`). Maps of at least 48 x 48 pixels.
    """
    pairs = _scaled_pairs(*_checked(attributions, others), _SMALLEST_HOG)
    described = [
        None if p is None else [torch.from_numpy(skimage.feature.hog(m, **_HOG))[None] for m in p] for p in pairs
    ]
    values = [torch.nan if d is None else float(spearman(d[0], d[1])) for d in described]
    return torch.tensor(values, device=attributions.device, dtype=torch.float64)


def ssim(attributions: Tensor, others: Tensor) -> Tensor:
    """Returns the structural similarity of the maps scaled to [0, 1] (Gaussian window, scikit-image); `N`, at most
    1."""
    values = [
        torch.nan
        if pair is None
        else skimage.metrics.structural_similarity(
            pair[0], pair[1], data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in _scaled_pairs(*_checked(attributions, others), _SMALLEST_SSIM)
    ]
    return torch.tensor(values, device=attributions.device, dtype=torch.float64)


def top_k_intersection(attributions: Tensor, others: Tensor, k: int | float = 0.1) -> Tensor:
    """Returns the share of the k largest values (a number, or a fraction of all) that the two have in common; `N`, in
    [0, 1].

    Of equal values the first counts as larger. A fraction of the values is rounded up.
    """
    a, b = (t.flatten(1) for t in _checked(attributions, others))
    size = a.shape[1]
    if isinstance(k, bool) or not isinstance(k, numbers.Real) or not math.isfinite(k):
        raise InvalidValueError(f"k is {k!r}; expected a number of values, or a fraction of them")
    count = int(k) if isinstance(k, numbers.Integral) else math.ceil(k * size - 1e-9)
    if not 0 < count <= size:
        raise InvalidValueError(
            f"k is {k!r} of {size} values; expected a number from 1 to {size}, or a fraction of them"
        )
    chosen = [
        torch.zeros_like(t, dtype=torch.bool).scatter_(
            1, t.argsort(dim=1, descending=True, stable=True)[:, :count], True
        )
        for t in (a, b)
    ]
    shared = (chosen[0] & chosen[1]).sum(1).double() / count
    return shared.masked_fill(_constant(a) | _constant(b), torch.nan)


SIMILARITIES: dict[str, Similarity] = {
    "spearman": spearman,
    "abs_spearman": abs_spearman,
    "pearson": pearson,
    "hog_spearman": hog_spearman,
    "ssim": ssim,
    "top_k_intersection": top_k_intersection,
}


def find_similarity(similarity: str | Similarity) -> Similarity:
    """Returns a similarity by name, or a function of two maps `N x 1 x *S` that gives `N` values as it is."""
    if callable(similarity):
        return similarity
    if similarity not in SIMILARITIES:
        hint = ", or a function of two maps"
        raise InvalidValueError(unknown_name("similarity", similarity, SIMILARITIES, hint))
    return SIMILARITIES[similarity]


def compared_with(attributions: Tensor, similarity: str | Similarity) -> Callable[[Tensor], Tensor]:
    """Returns what gives the similarity of these maps with others; they are ranked once for all comparisons."""
    compare = find_similarity(similarity)
    if compare not in (spearman, abs_spearman):
        return functools.partial(compare, attributions)

    def ranked(maps: Tensor) -> Tensor:
        return centred_ranks((maps.abs() if compare is abs_spearman else maps).flatten(1))

    a, ranks = attributions, ranked(_checked(attributions, attributions)[0])
    return lambda others: _correlation(ranks, ranked(_checked(a, others)[1]))


class NullBaseline(NamedTuple):
    """Holds what a similarity gives for maps that have nothing to do with each other."""

    mean: float
    std: float
    n: int


def null_baseline(
    similarity: str | Similarity, map_size: Sequence[int], input_size: Sequence[int], n: int = 64, seed: int = 0
) -> NullBaseline:
    """Returns a similarity between unrelated random maps of `map_size`, upsampled linearly to `input_size`; in 1-D, 2-D
    or 3-D.

    Smooth maps share structure by chance: HOG-Spearman gives about +0.09, not 0. A class sensitivity or a randomised
    network's similarity means something only beside this number.

    Example:
        >>> from captum_extract_aggregate.metrics import null_baseline
        >>> null_baseline("hog_spearman", (14, 14), (224, 224), n=8).mean > 0.02
        True
    """
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2 * n, 1, *map_size, generator=generator)
    maps = upsample(maps, input_size)
    values = find_similarity(similarity)(maps[:n], maps[n:]).double()
    defined = values[~values.isnan()]
    std = defined.std().item() if len(defined) > 1 else float("nan")
    return NullBaseline(defined.mean().item(), std, len(defined))


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for t in (a, b):
        if not isinstance(t, Tensor) or t.ndim < 2:
            got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise InvalidTypeError(f"a map is {got}; expected a tensor with the examples in its first dimension")
    if a.shape != b.shape:
        raise InvalidValueError(
            f"maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected one shape (upsample both to the input)"
        )
    if a.is_complex() or b.is_complex():
        raise InvalidTypeError("a map is complex, and has no order; expected real numbers")
    a, b = (t.detach() if t.is_floating_point() else t.detach().double() for t in (a, b))
    return at_least_float32(a), at_least_float32(b)


def centred_ranks(rows: Tensor) -> Tensor:
    """Returns average ranks minus their mean; NaN in rows that are not finite."""
    if on_cpu(rows):  # NumPy sorts several times as fast there
        found = np.empty(rows.shape)
        for row, ranks in zip(rows.numpy(), found):
            _rank(row, ranks)
        ranked = torch.from_numpy(found)
    else:
        ranked = _ranks_on_device(rows)
    if not rows.shape[1]:
        return ranked
    ranked -= (rows.shape[1] - 1) / 2
    return ranked.masked_fill_(~are_finite(rows)[:, None], torch.nan)


def _rank(row: np.ndarray, ranks: np.ndarray) -> None:  # type: ignore[type-arg]
    """Writes the average ranks of a row."""
    keys = _ordered_integers(row)
    order = _stable_order(keys)
    values = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    if len(starts) == len(row):  # no ties
        ranks[order] = starts
        return
    ends = np.append(starts[1:], len(row))
    ranks[order] = np.repeat((starts + ends - 1) / 2, ends - starts)


def _ordered_integers(row: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Returns unsigned integers that are ordered, and equal, as the floating point numbers are."""
    signed, unsigned = (np.dtype(f"{kind}{row.itemsize}") for kind in "iu")
    bits = row + row.dtype.type(0)  # -0 is 0
    negative = (bits.view(signed) >> (8 * row.itemsize - 1)).view(unsigned)  # all bits, or none
    return bits.view(unsigned) ^ (negative | unsigned.type(1 << (8 * row.itemsize - 1)))  # type: ignore[no-any-return]


def _stable_order(keys: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Returns what sorts unsigned integers, equal ones in their order.

    Those of 32 bits are sorted with their places below them. Of longer ones 16 bits at a time are, the last ones first,
    which NumPy counts instead of comparing.
    """
    if keys.itemsize == 4:
        placed = keys.astype(np.uint64) << np.uint64(32) | np.arange(len(keys), dtype=np.uint64)
        placed.sort()
        return (placed & np.uint64(2**32 - 1)).view(np.int64)
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    for shift in range(16, 8 * keys.itemsize, 16):
        digits = (keys >> keys.dtype.type(shift)).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def _ranks_on_device(rows: Tensor) -> Tensor:
    n = rows.shape[1]
    values, order = rows.sort(dim=1)
    positions = torch.arange(n, device=rows.device).expand_as(order)
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    ends = torch.ones_like(starts)
    ends[:, :-1] = starts[:, 1:]
    first = torch.where(starts, positions, 0).cummax(1).values
    last = torch.where(ends, positions, n - 1).flip(1).cummin(1).values.flip(1)
    ranks = (first + last).double() / 2
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def _standard(rows: Tensor) -> Tensor:
    """Returns rows minus their means, with a largest magnitude of 1, whose square neither vanishes nor overflows."""
    centred = rows - rows.mean(1, keepdim=True)
    return centred / magnitudes(centred)[:, None]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Returns the correlation of centred rows; NaN if one is zero."""
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(1) / scale, torch.nan).clamp(-1, 1)


def _constant(rows: Tensor) -> Tensor:
    return (rows.amin(1) == rows.amax(1)) | ~are_finite(rows)


def _scaled_pairs(a: Tensor, b: Tensor, smallest: int) -> list[list[np.ndarray] | None]:  # type: ignore[type-arg]
    """Yields pairs of pictures in [0, 1]; None where one is constant or not finite."""
    pictures = []
    for t in (a, b):
        if t.ndim not in (3, 4) or (t.ndim == 3 and t.shape[1] == 1):
            raise InvalidValueError(
                f"maps have shape {tuple(a.shape)}, but HOG and SSIM are of pictures, N x 1 x H x W, and undefined for "
                "signals and volumes; expected similarity='spearman', 'abs_spearman' or 'top_k_intersection' there"
            )
        t = t.sum(1) if t.ndim == 4 else t
        if min(t.shape[1:]) < smallest:
            raise InvalidValueError(
                f"maps have shape {tuple(a.shape)}; expected N x 1 x H x W of at least {smallest} x {smallest} pixels "
                "(upsample them to the input)"
            )
        pictures.append(t.double().cpu())
    undefined = (_constant(pictures[0].flatten(1)) | _constant(pictures[1].flatten(1))).tolist()
    scaled = [min_max(m).numpy() for m in pictures]
    return [None if skip else [scaled[0][i], scaled[1][i]] for i, skip in enumerate(undefined)]
