"""How sums and averages, which have no weights, share out R: as `lrp_rules`, among addends or positions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import where_positive
from captum_extract_aggregate.attr.propagation.linear_shares import (
    Constant,
    Linear,
    Part,
    Term,
    is_zero,
    negative,
    positive,
    ratios,
    share_out,
    share_out_all,
    without_constants,
)
from captum_extract_aggregate.attr.propagation.lrp_rules import LinearRule, check_lost

Sums = Literal["signed", "positive"]


def parts_of_sums(sums: str, lost: str) -> tuple[Part, ...]:
    """Returns what addends share R by; where the first of these is 0 for all of them together, by the next."""
    if sums not in _PARTS:
        raise InvalidValueError(unknown_name("sums", sums, _PARTS))
    check_lost(lost)
    return (_PARTS[sums], torch.abs, torch.ones_like) if lost == "spread" else (_PARTS[sums],)


def part_average(R: Tensor, a: Tensor, linear: Linear, parts: Sequence[Part]) -> Tensor:
    """R through a sum with fixed, non-negative weights, in proportion to a part of the inputs (`parts_of_sums`)."""

    def terms(part: Part) -> list[Term]:
        return [(without_constants(part(a), linear.varying), None)]

    return share_out_all(R, linear, [functools.partial(terms, part) for part in parts])


def gamma_average(R: Tensor, a: Tensor, linear: Linear, gamma: float, epsilon: float) -> Tensor:
    """Returns the same by LRP-gamma: in proportion to `a + gamma (a)+`, below a negative output to `a + gamma (a)-`."""
    below = where_positive(R, -linear.function(a, None, None))
    received, _ = share_out(R - below, linear, [(a + gamma * positive(a), None)], None, epsilon)
    if not is_zero(below):
        received = received + share_out(below, linear, [(a + gamma * negative(a), None)], None, epsilon)[0]
    return received


def part_shares(addends: Sequence[Tensor], varying: Sequence[Constant], parts: Sequence[Part]) -> list[Tensor]:
    """Returns the shares of addends of one shape in R: as `part_average`."""
    first, *others = parts
    values = [without_constants(first(t), where) for t, where in zip(addends, varying)]
    total = reduce(operator.add, values)
    shares = ratios(values, total, 0)
    if others:
        is_zero = 1 - total.abs().sign()
        by_others = part_shares(addends, varying, others)
        shares = [share + where_positive(other, is_zero) for share, other in zip(shares, by_others)]
    return shares


def gamma_shares(addends: Sequence[Tensor], gamma: float, epsilon: float) -> list[Tensor]:
    """Returns the shares of addends of one shape in R: as `gamma_average`."""
    total = reduce(operator.add, addends)
    if not gamma:
        return ratios(addends, total, epsilon)

    sign = total.sign().add_(0.5)  # a sum of 0 counts as positive

    def with_its_sign(t: Tensor) -> Tensor:
        return torch.add(t, where_positive(t, t * sign), alpha=gamma)

    parts = [with_its_sign(t) for t in addends]
    return ratios(parts, reduce(operator.add, parts), epsilon)


def rule_average(R: Tensor, a: Tensor, linear: Linear, rule: LinearRule) -> Tensor:
    """Returns the same by a rule of linear operations, as an average is one whose weights have no say in it."""
    return rule.relevance(R, without_constants(a, linear.varying), _of_weight_1(linear.function, a, linear.varying))


def rule_shares(addends: Sequence[Tensor], varying: Sequence[Constant], rule: LinearRule) -> list[Tensor]:
    """Returns the shares of addends of one shape in R: as `rule_average`, a sum being one over another dimension."""
    stacked = torch.stack(list(addends))
    masks = [torch.ones_like(t, dtype=torch.bool) if v is None else v for t, v in zip(addends, varying)]
    where = None if rule.shares_bias or all(v is None for v in varying) else torch.stack(masks)

    def added(a: Tensor, weight: Constant, bias: Constant) -> Tensor:
        return a.sum(0)

    linear = _of_weight_1(added, stacked, where)
    return list(rule.relevance(torch.ones_like(addends[0]), without_constants(stacked, where), linear).unbind())


def _of_weight_1(function: Callable[[Tensor, Constant, Constant], Tensor], a: Tensor, varying: Constant) -> Linear:
    """Returns a linear operation without weights as one with a single weight, for rules to take parts of."""

    def weighted(t: Tensor, weight: Constant, bias: Constant) -> Tensor:
        assert weight is not None
        return function(t, None, None) * weight

    return Linear(weighted, a.new_ones(()), None, varying)


def _itself(t: Tensor) -> Tensor:
    return t


_PARTS: dict[str, Part] = {"signed": _itself, "positive": positive}
