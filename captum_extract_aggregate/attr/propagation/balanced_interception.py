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
from captum_extract_aggregate._engine.operations import Call, tensors_in
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
# Through these, what came out of an activation still is that.
_KEEPS_MARK = ("routing", "dropout", "scale", "sum", "rectifier", "choice")
_AFFINE = ("linear", "sum", "average", "routing", "choice", "normalization", "smooth")
# The functions for which this stands beside those in the table of operations.
_MORE: dict[Any, str] = {
    F.glu: "smooth",
    torch.erf: "activation",
    Tensor.erf: "activation",
    torch.special.erf: "activation",
    torch.exp2: "smooth",
    torch.outer: "smooth",
}


class _Halved(torch.autograd.Function):
    """A tensor that receives half of its gradient."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] / 2


class _Rewritten(Step):
    """The call itself, with some of its arguments exchanged for others of the same values."""

    def __init__(self, call: Call, inputs: Tensors, exchanged: dict[int, Tensor]) -> None:
        super().__init__(call, inputs)
        self.exchanged = exchanged

    def apply(self) -> Any:
        return with_arguments(self.call, self.exchanged).run()


class _Held(Step):
    """The call on constants: what it gives is held."""

    def apply(self) -> Any:
        return with_arguments(self.call, {id(t): t.detach() for t in self.inputs}).run()


class _VarianceAndMean(Step):
    """The variance is held, the mean is linear."""

    def apply(self) -> Any:
        spread, mean = self.call.run()
        return spread.detach(), mean


class _Gate(Step):
    """y of x as x times y / x, which is held; at 0 it is the slope."""

    def before(self) -> Tensors:
        (x,) = self.inputs
        self.x = x.detach().clone() if self.call.in_place else x.detach()
        self.function = self.call.as_function_of(x)
        return ()

    def after(self, output: Tensor) -> Tensors:
        gate = output / self.x
        zero = self.x == 0
        if bool(zero.any()):
            gate = gate.masked_fill(zero, self._slope())
        del self.x, self.function
        return (gate,)

    def _slope(self) -> float:
        with torch.enable_grad():
            at = torch.zeros(1, dtype=self.x.dtype, device=self.x.device, requires_grad=True)
            (slope,) = torch.autograd.grad(self.function(at.clone()).sum(), at)
        return float(slope)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (R * kept[0],)


class _Glu(Step):
    """The half that goes through the sigmoid gates the other."""

    def __init__(self, call: Call, inputs: Tensors) -> None:
        super().__init__(call, inputs)
        self.dim = call.argument(1, "dim", -1)

    def before(self) -> Tensors:
        return (self.inputs[0].chunk(2, self.dim)[1].sigmoid(),)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (torch.cat([R * kept[0], torch.zeros_like(R)], self.dim),)


class _Normalized(Step):
    """Division by a spread that is held; the mean that is subtracted before is linear."""

    def __init__(self, call: Call, inputs: Tensors) -> None:
        super().__init__(call, inputs)
        (x,) = inputs
        self.centred = call.name != "rms_norm"
        if call.name in ("layer_norm", "rms_norm"):
            shape = call.argument(1, "normalized_shape")
            self.parts = x.shape[: x.ndim - len(shape)]
            self.weight = call.argument(2, "weight")
            self.eps = call.argument(4 if self.centred else 3, "eps", 1e-5 if self.centred else None)
        else:
            groups = call.argument(1, "num_groups") if call.name == "group_norm" else x.shape[1]
            self.parts = torch.Size([x.shape[0], groups])
            arguments = {} if call.name == "group_norm" else normalization_arguments(call)
            weight = arguments["weight"] if arguments else call.argument(2, "weight")
            self.weight = None if weight is None else weight.reshape(-1, *(1,) * (x.ndim - 2))
            self.eps = arguments["eps"] if arguments else call.argument(4, "eps", 1e-5)
        self.eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps

    def before(self) -> Tensors:
        x = self.inputs[0].detach().reshape(*self.parts, -1)
        spread = x.var(-1, keepdim=True, unbiased=False) if self.centred else x.square().mean(-1, keepdim=True)
        return ((spread + self.eps).rsqrt(),)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        scaled = (R if self.weight is None else R * self.weight).reshape(*self.parts, -1)
        if self.centred:
            scaled = scaled - scaled.mean(-1, keepdim=True)
        return ((scaled * kept[0]).reshape(R.shape),)


class _L2Normalized(Step):
    """`F.normalize`: the norm is held."""

    def before(self) -> Tensors:
        x, call = self.inputs[0].detach(), self.call
        norm = x.norm(call.argument(1, "p", 2.0), call.argument(2, "dim", 1), keepdim=True)
        return (norm.clamp_min(call.argument(3, "eps", 1e-12)),)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (R / kept[0],)


class BalancedInterception(Interception):
    """Balanced gradients at work.

    With `ledger`, it is called in each backward with what every function that adds something contributes.
    """

    leaves = True

    def __init__(self, method: str, unknown: str = "error", ledger: Callable[[float], None] | None = None) -> None:
        super().__init__(method)
        self.how, self.ledger = unknown, ledger

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.multi_head_attention_forward:
            with self:  # each of its steps comes here
                return opened_multi_head_attention(*args, **(kwargs or {}))
        output = super().__torch_function__(func, types, args, kwargs)
        if torch.is_grad_enabled():
            self._mark_held(func, tensors_in((args, kwargs or {})), output)
        return output

    def _mark_held(self, func: Any, given: list[Tensor], output: Any) -> None:
        """What is made of held tensors is held, and what the model cuts from the graph by itself."""
        name = str(getattr(func, "__name__", ""))
        if _makes_constants(name) or not any(is_held(t) or (t.requires_grad and name == "detach") for t in given):
            return
        _hold(output)

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
        if kind == "sum" and any(is_held(t) for t in tensors_in(call.args[:2])):
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
        return _Rewritten(call, variables, {id(t): t.detach() for t in held}) if held else None

    def _gate(self, call: Call, variables: Tensors) -> Step | None:
        return self._one(_Gate, call, variables)

    def _added_product(self, call: Call, variables: Tensors) -> Step | None:
        """What is added to the product passes its gradient."""
        return self._product(call, tuple(t for t in variables if t is not call.args[0]))

    def _one(self, step: type[Step], call: Call, variables: Tensors) -> Step | None:
        return step(call, variables) if len(variables) == 1 else self._given_up(call, f" of {len(variables)} signals")

    def _power(self, call: Call, variables: Tensors) -> Step | None:
        exponent = call.argument(1, "exponent")
        if not isinstance(exponent, (int, float)) or exponent < 1:
            return _Held(call, variables)
        return None if exponent == 1 else self._one(_Gate, call, variables)

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
            return _Held(call, variables) if all(map(_is_number, bounds)) else self._given_up(call)
        return None if low == 0 and high is None else self._one(_Gate, call, variables)

    def _normalization(self, call: Call, variables: Tensors) -> Step | None:
        if uses_batch_statistics(call):
            return self._given_up(call, " with the statistics of the batch (train mode)")
        if call.name in ("layer_norm", "rms_norm", "group_norm"):
            return self._one(_Normalized, call, variables)
        if call.name == "instance_norm" and normalization_arguments(call)["use_input_stats"]:
            return self._one(_Normalized, call, variables)
        return None if "batch_norm" in call.name or call.name == "instance_norm" else self._given_up(call)

    def _quotient(self, call: Call, variables: Tensors) -> Step | None:
        """The divisor is held."""
        divisor = call.argument(1, "other")
        if not any(divisor is t for t in variables):
            return None
        if not any(call.args[0] is t for t in variables):
            return _Held(call, variables)
        return _Rewritten(call, variables, {id(divisor): divisor.detach()})

    def _product(self, call: Call, factors: Tensors) -> Step | None:
        different = list({id(t): t for t in factors}.values())
        if len(factors) < 2:
            return None
        if len(different) == 1:  # a square: the two halves of its gradient make one
            return None if self.how != "error" and call.in_place else self._halved(call, different)
        held = [t for t in different if is_activated(t)]
        if 0 < len(held) < len(different):
            return _Rewritten(call, factors, {id(t): t.detach() for t in held})
        return self._halved(call, different)

    def _halved(self, call: Call, factors: list[Tensor]) -> Step | None:
        if len(factors) > 2 or call.in_place:
            return self._given_up(call, f" of {len(factors)} signals{' in place' * call.in_place}")
        return _Rewritten(call, tuple(factors), {id(t): _Halved.apply(t) for t in factors})  # type: ignore[no-untyped-call]

    def made(self, call: Call, variables: Tensors, output: Any, step: Step | None) -> None:
        if isinstance(step, (_Held, _VarianceAndMean, _Rewritten)):
            _hold(output)
        outputs = [t for t in tensors_in(output) if t.grad_fn is not None]
        if _activates(call, step) or (call.kind in _KEEPS_MARK and variables and _all_activated(variables)):
            for t in outputs:
                t._cea_activated = True  # type: ignore[attr-defined]
        else:
            for t in outputs:
                t.__dict__.pop("_cea_activated", None)
        if self.ledger is not None and variables and call.kind in _AFFINE:
            self._enter(call, variables, output)

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
        target, added = _of_whole(target, added.detach().clone())
        ledger = self.ledger

        def enter(gradients: Any) -> None:
            if gradients[0] is not None and ledger is not None:
                ledger(float((gradients[0].double() * added.double()).sum()))

        target.grad_fn.register_prehook(enter)  # type: ignore[union-attr]

    def check(self, output: Any) -> None:
        if any(is_held(t) and not t.requires_grad for t in tensors_in(output)):
            raise InvalidValueError(
                f"{self.method} holds what the score is: a softmax, sigmoid or another function that only gates; "
                "expected the logit in front of it"
            )
        super().check(output)


_STEPS: dict[str, Callable[[Call, Tensors], Step]] = {
    **dict.fromkeys(_HOLDS, _Held),
    **dict.fromkeys(("var_mean", "std_mean"), _VarianceAndMean),
    "glu": _Glu,
    "normalize": _L2Normalized,
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


def with_arguments(call: Call, exchanged: dict[int, Tensor]) -> Call:
    """Returns the call with other tensors in place of some, by their ids."""

    def other(value: Any) -> Any:
        if isinstance(value, Tensor):
            return exchanged.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(map(other, value))
        return value

    return call._replace(args=other(call.args), kwargs={name: other(value) for name, value in call.kwargs.items()})


def _of_whole(t: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the tensor that a view is part of, and what is added to all of it.

    A view that is overwritten later on loses its node of the graph, the whole keeps it.
    """
    whole = t._base
    if whole is None or whole.grad_fn is None:
        return t, added
    spread = torch.empty_strided(whole.size(), whole.stride(), dtype=added.dtype, device=added.device).zero_()
    spread.as_strided(t.size(), t.stride(), t.storage_offset() - whole.storage_offset()).copy_(added)
    return whole, spread


def _activates(call: Call, step: Step | None) -> bool:
    """Tells whether an activation ends here; written out, it is a signal times a held gate, entry by entry."""
    if call.kind == "scale":
        factors = tensors_in(call.args[:2])
        held = [t for t in factors if is_held(t) or is_activated(t)]
        return len(factors) == 2 and bool(held) and factors[0].shape == factors[1].shape
    return isinstance(step, (_Gate, _Glu)) and call.name not in ("square", "pow", "ipow", "float_power")


def _hold(output: Any) -> None:
    """Marks what has no gradient."""
    for t in tensors_in(output):
        if not t.requires_grad and t.is_floating_point():
            t._cea_held = True  # type: ignore[attr-defined]


def _makes_constants(name: str) -> bool:
    return name.startswith("new_") or name.endswith("_like")


def is_held(t: Tensor) -> bool:
    """Tells whether it depends on the input only as something that is held."""
    return "_cea_held" in t.__dict__ and not t.requires_grad


def is_activated(t: Tensor) -> bool:
    """Tells whether it came out of an activation."""
    return "_cea_activated" in t.__dict__


def _all_activated(variables: Tensors) -> bool:
    return all(map(is_activated, variables))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
