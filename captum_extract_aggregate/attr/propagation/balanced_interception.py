"""Gradients in whose backward pass whatever gates or normalises is held constant, so that they are complete.

Each function is one of few things here. What is linear, or piecewise linear through the origin, passes its gradient.
An activation y of x is x times a gate, y / x, which is held. Of a product of two signals, the one that came out of an
activation is held, else half of the gradient goes to each. All else that is smooth (softmax, sigmoid, square root, exp,
variance, ...) is held as it is: what was held may become a factor, after whatever else is done to it, but no summand
of a signal and no score, for there its gradient would be missing.

With the gradient so defined a score is the sum of input times gradient and, for each function behind it, of what the
function gives of nothing (its inputs 0: a bias, an added token) times the gradient there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.attention import opened_multi_head_attention
from captum_extract_aggregate._engine.gradient_layout import as_it_lies
from captum_extract_aggregate._engine.operations import Call, tensors_in
from captum_extract_aggregate.attr.propagation.balanced_steps import (
    Gate,
    Glu,
    Halved,
    Held,
    L2Normalized,
    Normalized,
    Rewritten,
    VarianceAndMean,
    with_arguments,
)
from captum_extract_aggregate.attr.propagation.held import Marks
from captum_extract_aggregate.attr.propagation.interception import (
    Interception,
    Step,
    Tensors,
    normalization_arguments,
    uses_batch_statistics,
)

_GATES = (
    "gelu silu mish hardswish elu selu celu tanh softsign relu6 hardtanh erf square hardshrink softshrink tanhshrink"
)
_HELD = """
    softmax softmin log_softmax sigmoid logsigmoid hardsigmoid softplus exp expm1 exp2 log log1p log2 log10 logsumexp
    sqrt rsqrt reciprocal rtruediv rdiv rpow var std norm vector_norm cumprod prod cosine_similarity
"""
_LINEAR = "abs absolute cumsum view_as_real view_as_complex real imag conj resolve_conj lerp"
_PRODUCTS = "einsum tensordot bilinear outer"
_GATED, _HOLDS, _PASSES, _MULTIPLIES = (set(names.split()) for names in (_GATES, _HELD, _LINEAR, _PRODUCTS))
# What adds the product of its second and third argument to its first.
_ADDED_PRODUCTS = {"addmm", "baddbmm", "addbmm", "addcmul", "addmv"}
_QUOTIENTS = {"div", "divide", "true_divide", "truediv", "itruediv"}
# Of the second tensor these take the shape or the type alone.
_TAKES_AFTER = {"to", "type_as", "view_as", "reshape_as", "expand_as"}
# Through these, what came out of an activation still is that.
_KEEPS_MARK = ("routing", "dropout", "scale", "sum", "rectifier", "choice")
_AFFINE = ("linear", "sum", "average", "routing", "choice", "normalization", "smooth")
# The functions for which this stands beside those in the table of operations.
_MORE: dict[Any, str] = {
    F.glu: "smooth",
    torch.exp2: "smooth",
    torch.outer: "smooth",
}


Ledger = Callable[[Call, Tensor], Callable[[Tensor], None]]


class BalancedInterception(Interception):
    """Balanced gradients at work.

    With `ledger`, each call that adds something is shown to it, and the tensor that it gives; what it returns is told
    in each backward what is added there times the gradient, entry by entry.
    """

    leaves = True

    def __init__(self, method: str, unknown: str = "error", ledger: Ledger | None = None) -> None:
        super().__init__(method)
        self.how, self.ledger, self.marks = unknown, ledger, Marks()

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = super().__torch_function__(func, types, args, kwargs)
        if torch.is_grad_enabled():
            self._mark_held(func, tensors_in((args, kwargs or {})), output)
        return output

    def _mark_held(self, func: Any, given: list[Tensor], output: Any) -> None:
        """What is made of held tensors is held, and what the model cuts from the graph by itself."""
        name = str(getattr(func, "__name__", ""))
        given = given[:1] if name in _TAKES_AFTER else given
        if _makes_constants(name) or not any(
            self.marks.is_held(t) or (t.requires_grad and name == "detach") for t in given
        ):
            return
        self.marks.hold(output)

    def opened(self, function: Any, how: Any) -> Callable[..., Any] | None:
        return opened_multi_head_attention if function is F.multi_head_attention_forward else None

    def find_rule(self, function: Any, known: Any) -> Any:
        return _MORE.get(function, known) if known is None else known

    def _run_unknown(self, call: Call) -> Any:
        if self.how == "error":
            return super()._run_unknown(call)
        self._warn(call, "")
        return call.run()

    def unknown(self, call: Call, why: str = "") -> ValueError:
        text = str(super().unknown(call, why)).split("; expected ")[0]
        return InvalidValueError(
            f"{text.replace('has no rule for', 'cannot balance')}; expected linear and piecewise linear functions, "
            "activations, gates, products, attention and normalisation, or unknown='gradient', which takes the plain "
            "gradient of whatever is not understood"
        )

    def _warn(self, call: Call, why: str) -> None:
        warnings.warn(f"{self.method} takes the plain gradient of {call.full_name}{why}", stacklevel=2)

    def _given_up(self, call: Call, why: str = "") -> Step | None:
        """Raises our error, or warns of the plain gradient that is taken instead."""
        if self.how == "error":
            raise self.unknown(call, why)
        self._warn(call, why)
        return None

    def step(self, call: Call, variables: Tensors) -> Step | None:
        name, kind = call.name, call.kind
        if kind == "sum" and any(self.marks.is_held(t) for t in tensors_in(call.args[:2])):
            return self._given_up(call, " of a signal and what gates or normalises")
        if name in _STEPS:
            return _STEPS[name](call, variables)
        if name in _RULES:
            return _RULES[name](self, call, variables)
        if kind in _RULES_OF_KINDS:
            return _RULES_OF_KINDS[kind](self, call, variables)
        understood = kind not in ("smooth", "unruled", "hiding", "squash", "activation")
        return None if understood or name in _PASSES else self._given_up(call)

    def _attention(self, call: Call, variables: Tensors) -> Step | None:
        """All goes to the values."""
        value = call.argument(2, "value")
        held = [t for t in variables if t is not value]
        return Rewritten(call, variables, {id(t): t.detach() for t in held}) if held else None

    def _gate(self, call: Call, variables: Tensors) -> Step | None:
        return self._one(Gate, call, variables)

    def _added_product(self, call: Call, variables: Tensors) -> Step | None:
        """What is added to the product passes its gradient."""
        return self._product(call, tuple(t for t in variables if t is not call.args[0]))

    def _one(self, step: type[Step], call: Call, variables: Tensors) -> Step | None:
        return step(call, variables) if len(variables) == 1 else self._given_up(call, f" of {len(variables)} signals")

    def _power(self, call: Call, variables: Tensors) -> Step | None:
        exponent = call.argument(1, "exponent")
        if not isinstance(exponent, (int, float)) or exponent < 1:
            return Held(call, variables)
        return None if exponent == 1 else self._one(Gate, call, variables)

    def _rectifier(self, call: Call, variables: Tensors) -> Step | None:
        """Through the origin: a ceiling makes it a gate, else the gradient is what a gate would give."""
        if call.name not in ("clamp", "clip", "clamp_min", "threshold"):
            return None
        low, high = call.argument(1, "min"), call.argument(2, "max")
        if call.name == "threshold":
            low, high = call.argument(1, "threshold") or call.argument(2, "value"), None
        if call.name == "threshold" and low == 0:
            return None
        bounds = [b for b in (low, high) if b is not None]
        if any(isinstance(b, Tensor) for b in bounds) or (low or 0) > 0 or (high is not None and high < 0):
            return Held(call, variables) if all(map(_is_number, bounds)) else self._given_up(call)
        return None if low == 0 and high is None else self._one(Gate, call, variables)

    def _normalization(self, call: Call, variables: Tensors) -> Step | None:
        if uses_batch_statistics(call):
            return self._given_up(call, " with the statistics of the batch (train mode)")
        if call.name in ("layer_norm", "rms_norm", "group_norm"):
            return self._one(Normalized, call, variables)
        if call.name == "instance_norm" and normalization_arguments(call)["use_input_stats"]:
            return self._one(Normalized, call, variables)
        return None if "batch_norm" in call.name or call.name == "instance_norm" else self._given_up(call)

    def _quotient(self, call: Call, variables: Tensors) -> Step | None:
        """The divisor is held."""
        divisor = call.argument(1, "other")
        if not any(divisor is t for t in variables):
            return None
        if not any(call.args[0] is t for t in variables):
            return Held(call, variables)
        return Rewritten(call, variables, {id(divisor): divisor.detach()})

    def _product(self, call: Call, factors: Tensors) -> Step | None:
        different = list({id(t): t for t in factors}.values())
        if len(factors) < 2:
            return None
        if len(different) == 1:  # a square: the two halves of its gradient make one
            return None if self.how != "error" and call.in_place else self._halved(call, different)
        held = [t for t in different if self.marks.is_activated(t)]
        if 0 < len(held) < len(different):
            return Rewritten(call, factors, {id(t): t.detach() for t in held})
        return self._halved(call, different)

    def _halved(self, call: Call, factors: list[Tensor]) -> Step | None:
        if len(factors) > 2 or call.in_place:
            return self._given_up(call, f" of {len(factors)} signals{' in place' * call.in_place}")
        return Rewritten(call, tuple(factors), {id(t): Halved.apply(t) for t in factors})  # type: ignore[no-untyped-call]

    def made(self, call: Call, variables: Tensors, output: Any, step: Step | None) -> None:
        if isinstance(step, (Held, VarianceAndMean, Rewritten)):
            self.marks.hold(output)
        outputs = [t for t in tensors_in(output) if t.grad_fn is not None]
        if call.kind == "normalization" and step is None:
            for t in outputs:
                t.register_hook(as_it_lies)
        if self._activates(call, step) or (
            call.kind in _KEEPS_MARK and variables and all(map(self.marks.is_activated, variables))
        ):
            self.marks.mark_activated(outputs)
        else:
            self.marks.unmark_activated(outputs)
        if self.ledger is not None and variables and call.kind in _AFFINE:
            self._enter(call, variables, output)

    def _activates(self, call: Call, step: Step | None) -> bool:
        """Tells whether an activation ends here; written out, it is a signal times a held gate, entry by entry."""
        if call.kind == "scale":
            factors = tensors_in(call.args[:2])
            held = [t for t in factors if self.marks.is_held(t) or self.marks.is_activated(t)]
            return len(factors) == 2 and bool(held) and factors[0].shape == factors[1].shape
        return isinstance(step, (Gate, Glu)) and call.name not in ("square", "pow", "ipow", "float_power")

    def _enter(self, call: Call, variables: Tensors, output: Any) -> None:
        """Has the ledger told, in each backward, what this call gives of nothing."""
        constants = [t for t in tensors_in((call.args, call.kwargs)) if not any(t is v for v in variables)]
        if call.kind == "routing" and not constants and call.name not in ("pad", "constant_pad_nd", "setitem"):
            return
        target = tensors_in(call.args[:1])[0] if output is None else output
        if not isinstance(target, Tensor) or target.grad_fn is None:
            return
        nothing = with_arguments(call, {id(t): torch.zeros_like(t) for t in variables})
        with torch.no_grad():
            found = nothing.run()
            added = tensors_in(nothing.args[:1])[0] if found is None else found
        if not bool((added != 0).any()):
            return
        assert self.ledger is not None
        tell = self.ledger(call, target)
        whole, added, seen = _of_whole(target, added.detach().clone())

        def enter(gradients: Any) -> None:
            if gradients[0] is not None:
                tell(seen(gradients[0].double() * added.double()))

        whole.grad_fn.register_prehook(enter)  # type: ignore[union-attr]

    def check(self, output: Any) -> None:
        if any(self.marks.is_held(t) and not t.requires_grad for t in tensors_in(output)):
            raise InvalidValueError(
                f"{self.method} holds what the score is: a softmax, sigmoid or another function that only gates; "
                "expected the logit in front of it"
            )
        super().check(output)


_STEPS: dict[str, Callable[[Call, Tensors], Step]] = {
    **dict.fromkeys(_HOLDS, Held),
    **dict.fromkeys(("var_mean", "std_mean"), VarianceAndMean),
    "glu": Glu,
    "normalize": L2Normalized,
}
_Choose = Callable[[BalancedInterception, Call, Tensors], "Step | None"]
_RULES: dict[str, _Choose] = {
    **dict.fromkeys(_GATED, BalancedInterception._gate),
    **dict.fromkeys(("pow", "ipow", "float_power"), BalancedInterception._power),
    **dict.fromkeys(_QUOTIENTS, BalancedInterception._quotient),
    **dict.fromkeys(_MULTIPLIES, BalancedInterception._product),
    **dict.fromkeys(_ADDED_PRODUCTS, BalancedInterception._added_product),
    "scaled_dot_product_attention": BalancedInterception._attention,
}
_RULES_OF_KINDS: dict[str | None, _Choose] = {
    "rectifier": BalancedInterception._rectifier,
    "normalization": BalancedInterception._normalization,
    **dict.fromkeys(("linear", "scale"), BalancedInterception._product),
}


def _of_whole(t: Tensor, added: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Returns the tensor that a view is part of, what is added to all of it, and how the view sees such values.

    A view that is overwritten later on loses its node of the graph, the whole keeps it.
    """
    whole = t._base
    if whole is None or whole.grad_fn is None:
        return t, added, lambda values: values
    layout = whole.size(), whole.stride()
    view = t.size(), t.stride(), t.storage_offset() - whole.storage_offset()
    spread = torch.empty_strided(*layout, dtype=added.dtype, device=added.device).zero_()
    spread.as_strided(*view).copy_(added)

    def seen(values: Tensor) -> Tensor:
        own = torch.empty_strided(*layout, dtype=values.dtype, device=values.device)
        return own.copy_(values).as_strided(*view)

    return whole, spread, seen


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _makes_constants(name: str) -> bool:
    return name.startswith("new_") or name.endswith("_like")
