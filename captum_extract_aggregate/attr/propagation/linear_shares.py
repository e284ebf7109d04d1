"""How linear operations share a quantity out in proportion to what is contributed, as `lrp_rules` say.

No contribution is ever held: what all inputs receive is one more call of the operation with other weights, and its
adjoint.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.tensors import ends, on_cpu, where_positive

_LARGE = 64  # a gamma
Constant = Tensor | None
Part = Callable[[Tensor], Tensor]
Term = tuple[Tensor, Constant]


@dataclass(frozen=True)
class Linear:
    """A linear operation `function(activity, weight, bias)` and its constants.

    `varying` is False at the inputs that are constants themselves: padding. None: at none. `never_negative` says that
    no activity is below 0. `channels` are the dimensions of activity and weight along which several operations of one
    sum may be joined; None: along none. `adjoint(R, activity, weight)` takes R at the output to the inputs, each times
    its weight; None: autograd has to. `output` is what the operation gave, with bias and BatchNorm, where it is kept,
    and `transposed` then does what `adjoint` does with its weights (None: of a part of the outputs). Output and R may
    be overwritten.
    """

    function: Callable[[Tensor, Constant, Constant], Tensor]
    weight: Constant = None
    bias: Constant = None
    varying: Constant = None
    never_negative: bool = False
    channels: tuple[int, int] | None = None
    adjoint: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    output: Constant = None
    transposed: Callable[[Tensor], Tensor] | None = None

    def may_be_negative(self, a: Tensor) -> bool:
        """Tells whether some activity is below 0. Where it is not known, it looks on the CPU alone, as the host would
        have to wait for any other device, and there says that one may be."""
        if self.never_negative or not a.numel():
            return False
        return not on_cpu(a) or bool(a.narrow(-1, 0, 1).amin() < 0) or bool(a.amin() < 0)  # a few tell nearly always

    def counted(self, a: Tensor) -> Tensor:
        """1 for each input, 0 for padding."""
        return torch.ones_like(a) if self.varying is None else self.varying.to(a.dtype)


def without_constants(t: Tensor, varying: Constant) -> Tensor:
    """Returns `t` with 0 at constants."""
    return t if varying is None else t.masked_fill(~varying, 0)


def ratio(numerator: Tensor, denominator: Tensor, epsilon: float) -> Tensor:
    """Returns `numerator / denominator`, the denominator moved away from zero by epsilon; 0 where it is 0."""
    return ratios([numerator], denominator, epsilon)[0]


def ratios(numerators: Sequence[Tensor], denominator: Tensor, epsilon: float) -> list[Tensor]:
    """Returns the same of several numerators."""
    away = torch.add(denominator, denominator.sign(), alpha=epsilon) if epsilon else denominator
    magnitude = denominator.abs()
    return [_where_positive(numerator / away, magnitude) for numerator in numerators]


def overwriting_ratio(numerator: Tensor, denominator: Tensor, epsilon: float) -> Tensor:
    """Returns the same, and leaves the magnitudes in the denominator's memory: fresh memory is what takes the time on a
    CPU."""
    if not epsilon:
        quotient = numerator / denominator
    elif numerator.shape == denominator.shape:
        quotient = denominator.sign()
        torch.add(denominator, quotient, alpha=epsilon, out=quotient)
        torch.div(numerator, quotient, out=quotient)
    else:
        quotient = numerator / torch.add(denominator, denominator.sign(), alpha=epsilon)
    return _where_positive(quotient, denominator.abs_())


def _where_positive(t: Tensor, chooser: Tensor) -> Tensor:
    """Writes 0 into `t` where `chooser` is not above 0."""
    return torch.ops.aten.threshold_backward.grad_input(t, chooser, 0, grad_input=t)  # type: ignore[no-any-return]


def share_out(
    R: Tensor, linear: Linear, terms: Sequence[Term], bias: Constant = None, epsilon: float = 0.0
) -> tuple[Tensor, Tensor]:
    """R in proportion to contributions, each a sum over terms (activity, weight) of their products.

    Returns what the inputs receive, and the magnitudes of the denominators; a unit whose denominator is 0 passes
    nothing on.
    """
    count = len(terms)
    if count > 1 and linear.channels is not None:
        terms = [_joined(terms, linear.channels)]
    activities = [a for a, _ in terms]
    if linear.adjoint is None:
        activities = [a.detach().requires_grad_() for a in activities]
    with torch.set_grad_enabled(linear.adjoint is None):
        z = _product(linear, terms, activities, bias)
    magnitude = z.detach() if linear.weight is not None else z.detach().clone()  # weights make what is nobody else's
    sent = overwriting_ratio(R, magnitude, epsilon)
    if linear.adjoint is None:
        slopes = torch.autograd.grad(z, activities, sent)
    else:
        slopes = tuple(adjoint_of(linear, sent, a, w) for a, w in terms)
    received = [times(slope, a.detach(), linear) for a, slope in zip(activities, slopes)]
    if len(received) < count:
        received = list(received[0].chunk(count, linear.channels[0]))  # type: ignore[index]
    return reduce(operator.add, received), magnitude


def _product(linear: Linear, terms: Sequence[Term], activities: Sequence[Tensor], bias: Constant) -> Tensor:
    """Returns the sum over terms of their products, the activities as given."""
    biases = [bias] + [None] * (len(terms) - 1)
    return reduce(operator.add, [linear.function(a, w, b) for a, (_, w), b in zip(activities, terms, biases)])


def _joined(terms: Sequence[Term], channels: tuple[int, int]) -> Term:
    """Returns terms as one: a sum of operations is one operation of all their channels."""
    activities, weights = zip(*terms)
    return torch.cat(activities, channels[0]), torch.cat(weights, channels[1])


def times(slope: Tensor, a: Tensor, linear: Linear) -> Tensor:
    """Returns the product; in the memory of a slope that the operation's weights have made, which is nobody else's."""
    return slope.mul_(a) if linear.weight is not None and slope.is_contiguous() else slope * a


def gamma_share_out(R: Tensor, a: Tensor, linear: Linear, gamma: float, epsilon: float) -> Tensor:
    """R in proportion to `z_jk + gamma (z_jk)+`, below a negative output to `z_jk + gamma (z_jk)-`.

    With the sum of magnitudes `m_k = sum_j |z_jk| + |b_k|`, the sign `s_k` of `z_k` and `c = gamma / (2 + gamma)`, both
    are one formula, in which no denominator cancels: that is `1 + gamma / 2` times `z_k + c s_k m_k`, and with the
    quotients `q_k` by the latter inputs receive `a_j sum_k w_jk q_k + c |a_j| sum_k |w_jk| s_k q_k`.
    """
    w, b = weight_of(linear), linear.bias
    if gamma > _LARGE and R.dtype != torch.float64:  # of whose two parts the smaller contributions are a difference
        exact = [None if t is None else t.double() for t in (w, b, linear.output)]
        wide = replace(linear, weight=exact[0], bias=exact[1], output=exact[2])
        return gamma_share_out(R.double(), a.double(), wide, gamma, epsilon).to(R.dtype)
    z = linear.function(a, w, b) if linear.output is None else linear.output
    is_signed = linear.may_be_negative(a)
    if not is_signed and is_zero(where_positive(R, -z)):  # as between two rectifiers
        less = 1 / (1 + gamma)  # all contributions are smaller by this factor, and shares the same
        smaller = None if b is None else F.leaky_relu(b, less)
        return share_out(R, linear, [(a, F.leaky_relu(w, less))], smaller, epsilon * less)[0]
    c, sign = gamma / (2 + gamma), z.sign().add_(0.5).sign_()  # a sum of 0 counts as positive
    size, magnitude = a.abs() if is_signed else a, w.abs()
    total = linear.function(size, magnitude, None if b is None else b.abs())
    torch.addcmul(z, sign, total, value=c, out=total)
    sent = overwriting_ratio(R, total, epsilon / (1 + gamma / 2))
    more = adjoint_of(linear, sign.mul_(sent), size, magnitude)
    received = adjoint_of(linear, sent, a, w)
    if not is_signed:
        return times(torch.add(received, more, alpha=c), a, linear)
    return times(received, a, linear).add_(times(more, size, linear), alpha=c)


def adjoint_of(linear: Linear, R: Tensor, a: Tensor, w: Constant) -> Tensor:
    """Returns what inputs receive of R at the output, each times its weight."""
    if linear.adjoint is not None and w is not None:
        return linear.adjoint(R, a, w)
    with torch.enable_grad():
        leaf = a.detach().requires_grad_()
        z = linear.function(leaf, w, None)
    return torch.autograd.grad(z, leaf, R)[0]


def share_out_all(R: Tensor, linear: Linear, alternatives: Sequence[Callable[[], list[Term]]]) -> Tensor:
    """R by the first alternative; what nobody can receive by it, by the next."""
    first, *others = alternatives
    received, z = share_out(R, linear, first())
    for terms in others:
        R = where_positive(R, 1 - z.sign())
        if is_zero(R):
            break
        more, z = share_out(R, linear, terms())
        received = received + more
    return received


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Tells whether one shape broadcasts to another."""
    pairs = zip(reversed(shape), reversed(to))
    return len(shape) <= len(to) and all(n in (1, m) for n, m in pairs)


def positive(t: Tensor) -> Tensor:
    """Returns the positive part: `max(t, 0)`."""
    return t.clamp(min=0)


def negative(t: Tensor) -> Tensor:
    """Returns the negative part with its sign: `min(t, 0)`."""
    return t.clamp(max=0)


def is_zero(t: Tensor) -> bool:
    """Tells whether nothing is left in a tensor; looks on the CPU alone, and elsewhere says that something may be."""
    return t.numel() == 0 or (on_cpu(t) and all(end == 0 for end in ends(t)))


def excitation(a: Tensor, linear: Linear) -> list[Term]:
    """Returns terms whose sum is that of the positive contributions."""
    w = weight_of(linear)
    if not linear.may_be_negative(a):
        return [(a, positive(w))]
    return [(positive(a), positive(w)), (negative(a), negative(w))]


def inhibition(a: Tensor, linear: Linear) -> list[Term]:
    """Returns terms whose sum is that of the negative contributions."""
    w = weight_of(linear)
    if not linear.may_be_negative(a):
        return [(a, negative(w))]
    return [(positive(a), negative(w)), (negative(a), positive(w))]


def equal_terms(a: Tensor, linear: Linear) -> list[Term]:
    """Returns the term in which each input counts 1."""
    return [(linear.counted(a), torch.ones_like(weight_of(linear)))]


def weight_of(linear: Linear) -> Tensor:
    """Returns the weight of an operation that has one."""
    assert linear.weight is not None
    return linear.weight
