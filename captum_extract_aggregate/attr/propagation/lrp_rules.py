"""How one operation passes a quantity R from its output down to its inputs.

For a linear operation :math:`z_k = \\sum_j a_j w_{jk} + b_k`, with contributions :math:`z_{jk} = a_j w_{jk}`, a rule
takes some numbers :math:`c_{jk}` made from them and shares R out in proportion::

    R_j = sum_k  c_jk / (sum_i c_ik [+ bias_k])  R_k                (0 where the denominator is 0)

    Epsilon     c = z_jk                                             LRP-0, LRP-epsilon
    Gamma       c = z_jk + gamma (z_jk)+                             LRP-gamma; for a >= 0: a_j (w_jk + gamma (w_jk)+)
                (below z_k < 0 with negative parts in place of positive ones, so that no denominator vanishes)
    AlphaBeta   alpha times c = (z_jk)+  minus  beta times c = (z_jk)-
    ZPlus       c = (z_jk)+                                          the z+ rule, excitation backprop, gamma = infinity
    Flat        c = 1                 WSquare   c = w_jk^2           for a first layer
    ZBox        c = z_jk - low_j (w_jk)+ + high_j (w_jk)-            for pixels between low and high

No contribution is ever held: each rule is one or two more calls of the operation itself, with other weights, and
their gradients. With a bias, the bias is one more input of activity 1, which takes its share of R with it. Constants
among the inputs, such as padding, are what a bias is: where biases play no part, neither do they.

A unit whose denominator is 0 passes nothing on: under the z+ rule one without any positive contribution, which lives
from its bias (Zhang et al. set Z to 0 there). `lost="spread"` hands its R on in other shares instead.

Sources: Bach et al., On Pixel-Wise Explanations... by Layer-Wise Relevance Propagation (PLoS ONE 2015); Montavon et
al., Layer-Wise Relevance Propagation: An Overview (2019); Zhang et al., Top-down Neural Attention by Excitation
Backprop (ECCV 2016); Springenberg et al., Striving for Simplicity (ICLR workshop 2015); Kim et al., Why are Saliency
Maps Noisy? (RectGrad, 2019); Khakzar et al., Rethinking Positive Aggregation and Propagation (2020), section 4.
"""

from __future__ import annotations

import functools
import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import moved
from captum_extract_aggregate.attr.propagation.linear_shares import (
    Linear,
    adjoint_of,
    broadcasts,
    equal_terms,
    excitation,
    gamma_share_out,
    inhibition,
    negative,
    overwriting_ratio,
    positive,
    share_out,
    share_out_all,
    times,
    weight_of,
    without_constants,
)

Lost = Literal["drop", "spread"]
LOST = get_args(Lost)


class LinearRule:
    """How a convolution, linear layer or matrix product passes R down; subclasses define `relevance`."""

    shares_bias = False
    """Tells whether the bias takes a share; a BatchNorm behind the operation is then part of it, else R passes it.

    Where it takes none, neither does padding: `a` is 0 there, and `linear.varying` says where.
    """

    needs_output = False
    """Tells whether it makes use of what the operation gave (`linear.output`)."""

    needs_weights = True
    """Tells whether it needs the weights themselves where that and `linear.transposed` are there."""

    sums_over_outputs = False
    """Tells whether what inputs receive is the sum of what each output sends, so that few may be taken at a time."""

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        """Returns what the input `a` receives of R at the output; all in at least float32."""
        raise NotImplementedError


@dataclass(frozen=True)
class Epsilon(LinearRule):
    """LRP-epsilon: in proportion to `z_jk`; with epsilon = 0, LRP-0."""

    epsilon: float = 1e-9

    needs_weights = False
    shares_bias = needs_output = sums_over_outputs = True

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon)

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        if linear.output is not None:
            sent = overwriting_ratio(R, linear.output, self.epsilon)
            back = linear.transposed
            return times(adjoint_of(linear, sent, a, linear.weight) if back is None else back(sent), a, linear)
        return share_out(R, linear, [(a, linear.weight)], linear.bias, self.epsilon)[0]


@dataclass(frozen=True)
class Gamma(LinearRule):
    """LRP-gamma: in proportion to `z_jk + gamma (z_jk)+`, below a negative output to `z_jk + gamma (z_jk)-`."""

    gamma: float = 0.25
    epsilon: float = 1e-9

    shares_bias = needs_output = sums_over_outputs = True

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, hint=", or the rule ZPlus() for an infinite one")
        check_number("epsilon", self.epsilon)

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        return gamma_share_out(R, a, linear, self.gamma, self.epsilon)


@dataclass(frozen=True)
class AlphaBeta(LinearRule):
    """LRP-alpha-beta: alpha times in proportion to `(z_jk)+`, minus beta times in proportion to `(z_jk)-`.

    Biases play no part, nor does BatchNorm, so that `AlphaBeta(1, 0)` is the limit of `Gamma`'s shares among the inputs
    alone. With `bias=True` the positive and the negative part of the bias (and of a BatchNorm behind the operation)
    take their shares too, as Bach et al. write it and zennit does.
    """

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float = 1e-9
    bias: bool = False

    sums_over_outputs = True

    @property
    def shares_bias(self) -> bool:  # type: ignore[override]
        """Tells whether the bias takes a share."""
        return self.bias

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "epsilon"):
            check_number(name, getattr(self, name))
        if not math.isclose(self.alpha - self.beta, 1):
            raise InvalidValueError(f"alpha - beta is {self.alpha - self.beta}; expected 1, so that relevance is kept")

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        b = linear.bias if self.bias else None
        above, below = (None, None) if b is None else (positive(b), negative(b))
        received = self.alpha * share_out(R, linear, excitation(a, linear), above, self.epsilon)[0]
        if self.beta:
            received = received - self.beta * share_out(R, linear, inhibition(a, linear), below, self.epsilon)[0]
        return received


@dataclass(frozen=True)
class ZPlus(LinearRule):
    """The z+ rule: in proportion to `(z_jk)+`. Biases, padding and BatchNorm play no part.

    A unit without any positive contribution (a bias keeps it alive, or its relevance is due to its being negative)
    passes nothing on. With `lost="spread"` it shares in proportion to the magnitudes of its contributions, and one with
    none at all in equal shares: then nothing is lost, but an input that only inhibits may receive most of it.
    """

    lost: str = "drop"

    sums_over_outputs = True

    def __post_init__(self) -> None:
        check_lost(self.lost)

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        kinds = (excitation, inhibition, equal_terms) if self.lost == "spread" else (excitation,)
        return share_out_all(R, linear, [functools.partial(terms, a, linear) for terms in kinds])


@dataclass(frozen=True)
class Flat(LinearRule):
    """In equal shares to all inputs that a unit sees."""

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        return share_out(R, linear, equal_terms(a, linear))[0]


@dataclass(frozen=True)
class Identity(LinearRule):
    """R as it is, for an operation that keeps the shape (for others, such as activations, write `"identity"`).

    Raises:
        ValueError: in `attribute`, for an operation that does not keep the shape.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import Identity
        >>> model = torch.nn.Linear(2, 2)
        >>> relevance = cea.LRP(model, rules={torch.nn.Linear: Identity()}).attribute(torch.ones(1, 2), target=1)
        >>> bool((relevance[0, 0] == 0) & (relevance[0, 1] == model(torch.ones(2))[1]))
        True
    """

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        if R.shape != a.shape:
            raise InvalidValueError(
                f"Identity holds for an operation from {tuple(a.shape)} to {tuple(R.shape)}; expected one that keeps "
                "the shape"
            )
        return R


@dataclass(frozen=True)
class WSquare(LinearRule):
    """In proportion to the squared weights, whatever the inputs are."""

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        return share_out(R, linear, [(linear.counted(a), weight_of(linear).square())])[0]


@dataclass(frozen=True)
class ZBox(LinearRule):
    """For the first layer: inputs between `low` and `high` (numbers, or tensors that broadcast to the input).

    For pixels in [0, 1] normalised by mean and std: `low = -mean / std`, `high = (1 - mean) / std`, as `C x 1 x 1`.
    """

    low: float | Tensor
    high: float | Tensor
    epsilon: float = 1e-9

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon)
        for name in ("low", "high"):
            bound = getattr(self, name)
            if isinstance(bound, bool) or not isinstance(bound, (numbers.Real, Tensor)):
                raise InvalidTypeError(f"{name} is a {type(bound).__name__}; expected a number or a tensor")
            if not bool(torch.as_tensor(bound).isfinite().all()):
                raise InvalidValueError(
                    f"{name} is not finite; expected the smallest and the largest value of the inputs"
                )
        if not bool((torch.as_tensor(self.low) <= torch.as_tensor(self.high)).all()):
            raise InvalidValueError("low is above high; expected the smallest and the largest value of the inputs")

    def relevance(self, R: Tensor, a: Tensor, linear: Linear) -> Tensor:
        w = weight_of(linear)
        low, high = (without_constants(self._bound(b, a), linear.varying) for b in (self.low, self.high))
        terms = [(a, w), (low, -positive(w)), (high, -negative(w))]
        return share_out(R, linear, terms, None, self.epsilon)[0]

    def _bound(self, bound: float | Tensor, a: Tensor) -> Tensor:
        values = moved(bound, a.device).to(a.dtype) if isinstance(bound, Tensor) else a.new_full((), bound)
        if not broadcasts(values.shape, a.shape):
            raise InvalidValueError(
                f"a bound of ZBox has shape {tuple(values.shape)} for inputs of shape {tuple(a.shape)}; expected one "
                "that broadcasts to them: C x 1 x 1"
            )
        return values.expand_as(a)


def check_number(name: str, value: Any, may_be_infinite: bool = False, hint: str = "") -> None:
    """Raises our error for what is no non-negative number."""
    a_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not a_number or not float(value) >= 0 or (math.isinf(value) and not may_be_infinite):
        finite = "" if may_be_infinite else "finite "
        raise InvalidValueError(f"{name} is {value!r}; expected a {finite}number that is not negative{hint}")


def check_lost(lost: str) -> None:
    """Raises our error for an unknown fate of what no input contributes to."""
    if lost not in LOST:
        raise InvalidValueError(unknown_name("lost", lost, LOST))
