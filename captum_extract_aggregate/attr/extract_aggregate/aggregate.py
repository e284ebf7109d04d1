"""Phase 2: a contribution to one number per position, in closed form.

With p and q the two factors of a contribution (see `summand`), c = p_i q_j its entries, and (z)+ the positive part,
each aggregate over all entries of all blocks follows from sums and extremes of p and q alone:

    norm         sqrt(sum c^2)      = sqrt(sum_b |p|^2 |q|^2)
    filter_norm  sqrt(sum (c)+^2)   = sqrt(sum_b |p+|^2 |q+|^2 + |p-|^2 |q-|^2)
    sum          sum c              = sum_b (sum p)(sum q)
    abs_sum      sum |c|            = sum_b (sum |p|)(sum |q|)
    filter_sum   sum (c)+           = sum_b (sum p+)(sum q+) + (sum p-)(sum q-)
    sum_filter   (sum c)+
    max          max c              = max_b of the four products of the extremes of p and q
    max_abs      max |c|            = max_b max|p| max|q|

Source: Rebuffi et al., There and Back Again (CVPR 2020), section 3.1.3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.registry import Registry
from captum_extract_aggregate.attr.extract_aggregate.contribution import Elementwise, Summand

Aggregate = Callable[[Summand], Tensor]
Materialized = Callable[[Tensor], Tensor]
# The package's own; a registered one is told to checkers by a cast.
AggregateName = Literal["norm", "filter_norm", "sum", "abs_sum", "filter_sum", "sum_filter", "max", "max_abs"]

AGGREGATES: Registry[Aggregate] = Registry("aggregate", "unregister_aggregate")
_CHUNK = 2**24  # entries multiplied out at once for a user's own aggregate


def register_aggregate(name: str, overwrite: bool = False) -> Callable[[Aggregate], Aggregate]:
    """Makes a closed form `summand -> N x *S` available under `name`, for the whole process.

    What `total` and `extremes` of it and its factors give is shared with other aggregates: it must not be changed, nor
    returned itself.

    Args:
        name: as methods will name it.
        overwrite: whether a name that is taken is exchanged. Methods look their aggregate up by its name whenever they
            make a map: an overwritten `"norm"` is every NormGrad's, also of those that were made before.

    Raises:
        ValueError: for a name that is taken, unless `overwrite` is True.
        TypeError: for a name that is no string.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.registry import register_aggregate, unregister_aggregate
        >>> @register_aggregate("mean")
        ... def mean(summand):
        ...     return summand.total(lambda t: t) / (summand.p.values.shape[2] * summand.q.values.shape[2])
        >>> model, x = cea.load_scene_model("vgg"), cea.DigitScenes(1)[0][0][None]
        >>> cea.LayerGradient(model, "features.13", aggregate="mean").attribute(x, target=3).shape
        torch.Size([1, 1, 24, 24])
        >>> unregister_aggregate("mean")
    """
    return AGGREGATES.decorator(name, overwrite)


def unregister_aggregate(name: str) -> None:
    """Forgets an aggregate, or brings back this package's own, if it was overwritten.

    Raises:
        ValueError: for a name that is unknown.
    """
    AGGREGATES.unregister(name)


def list_aggregates() -> list[str]:
    """Returns the names of all aggregates: this package's own first, then those registered.

    Example:
        >>> from captum_extract_aggregate.registry import list_aggregates
        >>> list_aggregates()[:3]
        ['norm', 'filter_norm', 'sum']
    """
    return AGGREGATES.names()


# Elementwise functions. What is fresh is worked on in place: on a CPU, fresh memory is what takes the time.


def _itself(t: Tensor) -> Tensor:
    return t


def _square(t: Tensor) -> Tensor:
    return t * t


def _positive(t: Tensor) -> Tensor:
    return t.clamp(min=0)


def _negative(t: Tensor) -> Tensor:
    return t.clamp(max=0)


def _positive_square(t: Tensor) -> Tensor:
    return t.clamp(min=0).square_()


def _negative_square(t: Tensor) -> Tensor:
    return t.clamp(max=0).square_()


def _root(t: Tensor) -> Tensor:
    """Returns the square root, whose derivative at 0 is taken for 0, as a norm's is."""
    return torch.where(t > 0, t.where(t > 0, 1).sqrt(), 0) if t.requires_grad else t.sqrt()


def _over_positive_entries(summand: Summand, positive: Elementwise, negative: Elementwise) -> Tensor:
    """Returns sum over all entries that are positive, which they are if both signs agree, of a product of functions of
    the factors' positive parts, and of their negative parts (whose signs cancel)."""
    both_positive = summand.total(positive)
    return both_positive if summand.q.is_never_negative else both_positive + summand.total(negative)


@register_aggregate("norm")
def _norm(summand: Summand) -> Tensor:
    return _root(summand.total(_square))


@register_aggregate("filter_norm")
def _filter_norm(summand: Summand) -> Tensor:
    return _root(_over_positive_entries(summand, _positive_square, _negative_square))


@register_aggregate("sum")
def _sum(summand: Summand) -> Tensor:
    return summand.total(_itself).clone()


@register_aggregate("abs_sum")
def _abs_sum(summand: Summand) -> Tensor:
    return summand.total(torch.abs).clone()


@register_aggregate("filter_sum")
def _filter_sum(summand: Summand) -> Tensor:
    return _over_positive_entries(summand, _positive, _negative).clone()


@register_aggregate("sum_filter")
def _sum_filter(summand: Summand) -> Tensor:
    return _positive(summand.total(_itself))


def _max_by_block(summand: Summand) -> Tensor:
    corners = [p * q for p in summand.p.extremes() for q in summand.q.extremes()]
    return functools.reduce(_maximum_, corners)


def _largest(blocks: Iterable[Tensor]) -> Tensor:
    return functools.reduce(_maximum_, (block.amax(1) for block in blocks))


def _maximum_(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b, out=None if a.requires_grad or b.requires_grad else a)


@register_aggregate("max")
def _max(summand: Summand) -> Tensor:
    return _largest(_max_by_block(part) for part in summand.parts)


@register_aggregate("max_abs")
def _max_abs(summand: Summand) -> Tensor:
    return _largest(part.p.magnitude() * part.q.magnitude() for part in summand.parts)


AGGREGATES.seal()


def _aggregate_materialized(summand: Summand, function: Materialized) -> Tensor:
    """Applies a user's function to the multiplied-out contributions, a bounded number of them at a time."""
    values = []
    for rows in summand.rows(_CHUNK):
        value = function(rows)
        if not isinstance(value, Tensor) or value.shape != rows.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidValueError(
                f"aggregate returned {got} for contributions of shape {tuple(rows.shape)}; expected one number per "
                f"row, shape ({rows.shape[0]},): reduce every dimension but the first"
            )
        values.append(value)
    return torch.cat(values).reshape(summand.p.values.shape[:1] + summand.p.values.shape[3:])


def aggregate(summand: Summand, how: str | Materialized) -> Tensor:
    """Returns one number per position, `N x 1 x *S`, by a registered closed form or a function of the multiplied-out
    rows."""
    if callable(how):
        return _aggregate_materialized(summand, how).unsqueeze(1)
    return AGGREGATES[how](summand).unsqueeze(1)


def check_aggregate(how: str) -> str:
    """Returns `how` itself if it names an aggregate; otherwise our error."""
    return AGGREGATES.check(how)
