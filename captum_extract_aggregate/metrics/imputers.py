"""What stands where pixels are taken out.

An imputer is a function `(x, gone)` of inputs `N x C x *S` and of the pixels that are gone, `N x 1 x *S` booleans, that
gives inputs in which these are replaced. No example's replacement depends on its batch-mates.

Sources: Petsiuk et al., RISE (BMVC 2018), for the blur; Rong et al., A Consistent and Efficient Evaluation Strategy for
Attribution Methods (ROAD, ICML 2022), section 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate.metrics.linear_imputation import linear_imputation

Imputer = Callable[[Tensor, Tensor], Tensor]
_SIGMA, _WINDOW = 5.0, 11  # of the blur
_ROAD_NOISE = 0.01


def channel_means(x: Tensor) -> Tensor:
    """Returns inputs in which every pixel is the mean of its channel."""
    return x.flatten(2).mean(2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2)).expand_as(x)


def blurred(x: Tensor) -> Tensor:
    """Returns inputs blurred: a Gaussian (sigma 5, in a window of 11 along each dimension); beyond an edge its pixels
    go on."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    for dim in range(2, x.ndim):
        rows = x.movedim(dim, -1)
        padded = F.pad(rows.reshape(-1, 1, rows.shape[-1]), (_WINDOW // 2,) * 2, mode="replicate")
        x = F.conv1d(padded, kernel[None, None]).reshape(rows.shape).movedim(-1, dim)
    return x


# What a pixel becomes whichever others are gone, and where that depends on them.
FILLS: dict[str, Callable[[Tensor], Tensor]] = {"mean": channel_means, "blur": blurred}
IMPUTERS: dict[str, Imputer] = {
    "linear": linear_imputation,
    "road": functools.partial(linear_imputation, noise=_ROAD_NOISE),
}


def check_imputer(imputer: str | Imputer) -> str | Imputer:
    """Returns `imputer` itself if it is a function or a known name; otherwise our error."""
    known = ["constant", *FILLS, *IMPUTERS]
    if not callable(imputer) and imputer not in known:
        raise InvalidValueError(unknown_name("imputer", imputer, known, ", or a function of inputs and what is gone"))
    return imputer


def imputed(imputer: Imputer, x: Tensor, gone: Tensor) -> Tensor:
    """Returns what an imputer makes of inputs, or our error where it gives none; it may write to what it is given."""
    found = imputer(x.clone(), gone.clone())
    if not isinstance(found, Tensor) or found.shape != x.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InvalidTypeError(f"imputer returned {got} for inputs of {tuple(x.shape)}; expected inputs of this shape")
    return found.to(x)
