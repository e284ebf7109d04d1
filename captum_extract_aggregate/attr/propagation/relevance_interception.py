"""The operations of layer-wise relevance propagation and excitation backprop.

Two families differ in all that is not linear. With a rule that shares out the bias (LRP with finite gamma), a
BatchNorm behind a convolution is part of it, other normalisations count as `s x + t` with s and t held fixed, and sums
are shared out by LRP-gamma too. With the z+ rule (excitation backprop, gamma = infinity) R passes normalisations
unchanged, and sums are shared out in proportion to their signed addends, `a_i / sum a`, or to their positive parts.

Constants among the addends or the inputs of an operation, such as padding, are what a bias is: in the first family they
take their share, which is lost, and in the second they play no part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32, where_positive
from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.operations import Call, Rule, tensors_in
from captum_extract_aggregate.attr.propagation.interception import (
    Interception,
    Pass,
    Step,
    Tensors,
    check_choice,
    check_maximum,
    normalization_arguments,
    uses_batch_statistics,
)
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    Linear,
    LinearRule,
    gamma_average,
    gamma_shares,
    part_average,
    part_shares,
    parts_of_sums,
    ratio,
    without_constants,
)
from captum_extract_aggregate.attr.propagation.own_operations import OwnOperations
from captum_extract_aggregate.attr.propagation.padding import Varying

NamedRules = Mapping[nn.Module | type[nn.Module], LinearRule]
Shares = Callable[[Sequence[Tensor], Sequence[Tensor | None]], list[Tensor]]
Average = Callable[[Tensor, Tensor, Linear], Tensor]


class LinearStep(Step):
    """A convolution, linear layer or matrix product. A BatchNorm behind it may become part of it."""

    def __init__(
        self, call: Call, inputs: Tensors, linear: Linear, rule: LinearRule, varying: Tensor | None = None
    ) -> None:
        super().__init__(call, inputs)
        self.linear, self.rule = linear, rule
        self.varying = () if varying is None or rule.shares_bias else (varying,)
        self.transposed = "transpose" in self.name or (self.name == "convolution" and call.argument(6, "transposed"))
        self.versions = [t._version for t in (linear.weight, linear.bias) if t is not None]
        self.norm: tuple[Tensor, Tensor] | None = None  # scale and shift of the output's channels

    def before(self) -> Tensors:
        return self.inputs + self.varying

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (self._relevance(R, kept, self._constants()),)

    def dual(self, R: Tensor, kept: Tensors) -> Tensor:
        """Returns what the dual units "not this class", whose weights are the negated ones, pass on of R."""
        linear = self._constants()
        assert linear.weight is not None
        return self._relevance(R, kept, replace(linear, weight=-linear.weight))

    def _relevance(self, R: Tensor, kept: Tensors, linear: Linear) -> Tensor:
        a, varying = kept[0], kept[1] if len(kept) > 1 else None
        x = without_constants(at_least_float32(a), varying)
        return self.rule.relevance(at_least_float32(R), x, replace(linear, varying=varying)).to(a.dtype)

    def _constants(self) -> Linear:
        weight, bias = self.linear.weight, self.linear.bias
        assert weight is not None
        if self.versions != [t._version for t in (weight, bias) if t is not None]:
            raise InvalidValueError(
                f"the model overwrites the weights of {self.full_name} after use; expected weights that stay"
            )
        weight, bias = at_least_float32(weight.detach()), None if bias is None else at_least_float32(bias.detach())
        if self.norm is not None:
            scale, shift = (at_least_float32(t) for t in self.norm)
            weight = self._scaled(weight, scale)
            bias = shift if bias is None else bias * scale + shift
        return Linear(self.linear.function, weight, bias)

    def _scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns each output channel's weights scaled; those of a transposed convolution lie in dimension 1, by
        group."""
        if not self.transposed:
            return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        groups = len(scale) // weight.shape[1]
        by_group = weight.unflatten(0, (groups, -1)) * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
        return by_group.flatten(0, 1)


class _Shares(Step):
    """A sum. R goes to its addends in shares that follow from their values, but not to what is constant in them."""

    def __init__(self, call: Call, inputs: Tensors, shares: Shares, varying: Varying) -> None:
        super().__init__(call, inputs)
        self.shares_of, self.varying = shares, varying

    def before(self) -> Tensors:
        like = self.inputs[0]
        given = [torch.as_tensor(t, device=like.device) for t in _addends(self.call)]
        addends = torch.broadcast_tensors(*(finite(at_least_float32(t.to(like.dtype))) for t in given))
        receives = [any(operand is t for t in self.inputs) for operand in _operands(self.call)]
        masks = [self.varying.of(t) if mine else None for t, mine in zip(_operands(self.call), receives)]
        varying = [None if mask is None else mask.expand_as(addends[0]) for mask in masks]
        shares = self.shares_of(addends, varying)
        self.__dict__.pop("varying")  # the graph keeps the shares alone
        return tuple(without_constants(s, v) for s, v, mine in zip(shares, varying, receives) if mine)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return tuple((R * share).sum_to_size(shape).to(R.dtype) for share, shape in zip(kept, self.shapes))


def finite(t: Tensor) -> Tensor:
    """Infinite addends, such as masks, as large finite ones: so the finite ones beside them get 0, and none NaN."""
    largest = torch.finfo(t.dtype).max / 8
    return t.clamp(-largest, largest)


class _Affine(Step):
    """An operation `s x + t`, s and t held fixed: the constant takes its share."""

    def __init__(self, call: Call, inputs: Tensors, gain: Callable[[Call], Tensor], epsilon: float) -> None:
        super().__init__(call, inputs)
        self.gain, self.epsilon = gain, epsilon

    def after(self, output: Tensor) -> Tensors:
        x = self.inputs[0]
        return (ratio(self.gain(self.call) * at_least_float32(x), at_least_float32(output), self.epsilon).to(x.dtype),)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (R * kept[0],)


class _Average(Step):
    """Passes R through a sum over the input's positions with fixed, non-negative weights."""

    def __init__(self, call: Call, inputs: Tensors, average: Average, varying: Tensor | None) -> None:
        super().__init__(call, inputs)
        self.function, self.average = call.as_function_of(*inputs), average
        self.varying = () if varying is None else (varying,)

    def before(self) -> Tensors:
        return self.inputs + self.varying

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        a, varying = kept[0], kept[1] if len(kept) > 1 else None
        operation = Linear(lambda t, weight, bias: self.function(t), varying=varying)
        return (self.average(at_least_float32(R), at_least_float32(a), operation).to(a.dtype),)


class _Winner(Step):
    """A maximum over inputs some of which are constants: R goes to the largest of the others, if it is as large."""

    def __init__(self, call: Call, inputs: Tensors, masks: Sequence[Tensor | None]) -> None:
        super().__init__(call, inputs)
        self.function = call.as_function_of(*inputs)
        self.partly = [mask is not None for mask in masks]
        self.masks = tuple(mask for mask in masks if mask is not None)

    def before(self) -> Tensors:
        return self.inputs + self.masks

    def after(self, output: Tensor) -> Tensors:
        del self.masks
        return (output,)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        *rest, output = kept
        inputs, masks = rest[: len(self.shapes)], iter(rest[len(self.shapes) :])
        without = [t.masked_fill(~next(masks), -torch.inf) if has else t for t, has in zip(inputs, self.partly)]
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in without]
            largest = self.function(*leaves)
        won = where_positive(R, (largest.detach() >= output).to(R.dtype))
        return torch.autograd.grad(largest, leaves, won)


class RelevanceInterception(Interception):
    """Every operation passes relevance. `rule` holds for the linear ones that no named rule claims.

    `sums` and `lost` are of sums and averages in the z+ family (`rules.parts_of_sums`).
    """

    def __init__(
        self,
        method: str,
        rule: LinearRule,
        named_rules: NamedRules | None = None,
        watch: nn.Module | None = None,
        sums: str = "signed",
        lost: str = "drop",
        operations: OwnOperations | None = None,
    ) -> None:
        super().__init__(method, watch)
        self.rule = rule
        self.operations = operations
        self.named_rules = named_rules or {}
        self.parts = parts_of_sums(sums, lost)
        # Of the shares in sums and averages where biases take theirs too.
        self.gamma, self.epsilon = float(getattr(rule, "gamma", 0.0)), float(getattr(rule, "epsilon", 0.0))
        self.varying = Varying()
        self._claimed: set[nn.Module] = set()
        self._made_by: Any = WeakIdKeyDictionary()  # outputs of linear steps, with their version
        self._merged: list[LinearStep] = []

    def find_rule(self, function: Any, known: str | Rule | None) -> str | Rule | None:
        if self.operations is None:
            return known
        found: str | Rule | None = self.operations.find(function, known, self.running_modules)
        return found

    def step(self, call: Call, variables: Tensors) -> Step | None:
        if call.kind == "routing":
            return None
        if call.kind == "choice":
            check_choice(self, call)
            return None
        if call.kind in ("smooth", "unruled", "hiding"):
            raise self.unknown(call, " (a gate, a softmax or attention; explain a logit, not a probability)")
        if call.kind == "linear":
            return self._linear(call, variables)
        if call.kind == "sum":
            return self._sum(call, variables)
        if call.kind == "average":
            return self._average(call, variables)
        if call.kind == "normalization":
            return self._normalization(call, variables)
        if call.kind == "maximum":
            check_maximum(self, call, variables)
        if call.kind in ("maximum", "winner"):
            return self._winner(call, variables)
        if call.kind == "dropout" and not call.argument(2, "training", call.kwargs.get("train", True)):
            return None  # it returns its very input
        if call.kind == "scale":
            self._check_scale(call, variables)
        if len(variables) > 1:  # rectifiers, activations, dropout, scaling by a constant
            raise self.unknown(call, f" of {len(variables)} tensors that depend on the input (a gate)")
        return Pass(call, variables)

    def _check_scale(self, call: Call, variables: Tensors) -> None:
        divides = "div" in call.name
        if divides and (call.argument(0, "input") is not variables[0] or call.kwargs.get("rounding_mode")):
            raise self.unknown(call, " of a constant by what depends on the input, or with rounding")

    def made(self, call: Call, variables: Tensors, output: Any, step: Step | None) -> None:
        if isinstance(step, LinearStep):
            self._made_by[output] = (step, output._version)
        elif call.name == "clone" and variables and variables[0] in self._made_by:  # what a tap hands on
            self._made_by[output] = (self._made_by[variables[0]][0], output._version)
        if variables:
            self.varying.note(call, variables, output)

    def check(self, output: Any) -> None:
        super().check(output)
        if _has_other_readers(self._merged, output):
            raise InvalidValueError(
                f"{self.method} takes a BatchNorm and the convolution in front of it as one operation, but here that "
                "convolution's output is used elsewhere too; expected gamma=math.inf, or rules with ZPlus() for it"
            )
        for unused in self.operations.unused if self.operations is not None else ():
            raise InvalidValueError(
                f"rules holds a rule for a {type(unused).__name__} that no non-linear operation follows; expected a "
                "layer that calls some (or a function as the key)"
            )
        for module in self.named_rules:
            if isinstance(module, nn.Module) and module not in self._claimed:
                raise InvalidValueError(
                    f"rules holds a rule for a {type(module).__name__} in which no convolution, linear layer or matrix "
                    "product ran; expected layers that hold some"
                )

    def _linear(self, call: Call, variables: Tensors) -> Step:
        if len(variables) > 1:
            raise self.unknown(call, " of two tensors that depend on the input (attention)")
        if call.name in _PRODUCTS:  # of matrices
            linear = _matrix_product(call, variables[0])
        elif call.argument(0, "input") is variables[0]:
            linear = _weighted(call)
        else:
            raise self.unknown(call, " whose weights depend on the input")
        return LinearStep(call, variables, linear, self._rule(), self.varying.of(variables[0]))

    def _rule(self) -> LinearRule:
        """Returns names before types, and inner modules before outer ones."""
        if not self.named_rules:
            return self.rule
        modules = self.running_modules()
        for module in modules:
            if module in self.named_rules:
                self._claimed.add(module)
                return self.named_rules[module]
        for module in modules:
            for kind, rule in self.named_rules.items():
                if isinstance(kind, type) and isinstance(module, kind):
                    return rule
        return self.rule

    def _sum(self, call: Call, variables: Tensors) -> Step:
        if self.rule.shares_bias:
            gamma, epsilon = self.gamma, self.epsilon
            return _Shares(call, variables, lambda addends, _: gamma_shares(addends, gamma, epsilon), self.varying)
        if len(variables) == 1:
            return Pass(call, variables)
        return _Shares(call, variables, functools.partial(part_shares, parts=self.parts), self.varying)

    def _winner(self, call: Call, variables: Tensors) -> Step | None:
        masks = [self.varying.of(t) for t in variables]
        if all(mask is None for mask in masks) or _gives_indices(call):
            return None
        return _Winner(call, variables, masks)

    def _average(self, call: Call, variables: Tensors) -> Step | None:
        if call.argument(3, "mode") == "bicubic":
            raise self.unknown(call, " with mode='bicubic', whose weights are of both signs")
        size = call.argument(1, "output_size")
        if "adaptive" in call.name and _same_size(size, variables[0]):
            return None  # it returns its very input
        if self.rule.shares_bias:
            average: Average = functools.partial(gamma_average, gamma=self.gamma, epsilon=self.epsilon)
            return _Average(call, variables, average, None)
        return _Average(
            call, variables, functools.partial(part_average, parts=self.parts), self.varying.of(variables[0])
        )

    def _normalization(self, call: Call, variables: Tensors) -> Step:
        if len(variables) > 1 or call.argument(0, "input") is not variables[0]:
            raise self.unknown(call, " whose parameters depend on the input")
        if "native" in call.name:
            raise self.unknown(
                call, " (an exported program in the smallest operators; take the module it was made from)"
            )
        if call.name == "batch_norm":
            return self._batch_norm(call, variables)
        if not self.rule.shares_bias or call.name not in _GAINS:
            return Pass(call, variables)
        return _Affine(call, variables, _GAINS[call.name], self.epsilon)

    def _batch_norm(self, call: Call, variables: Tensors) -> Step:
        if uses_batch_statistics(call):
            raise self.unknown(call, " with the statistics of the batch (train mode)")
        x = variables[0]
        step, version = self._made_by.get(x, (None, None))
        if step is None or version != x._version:
            return _Affine(call, variables, _gain, self.epsilon) if self.rule.shares_bias else Pass(call, variables)
        if step.rule.shares_bias:
            if step.norm is not None or step.name in _PRODUCTS or (step.name == "linear" and x.ndim > 2):
                raise self.unknown(call, " behind an operation that it cannot be joined with")
            step.norm = _batch_norm_constants(call)
            self._merged.append(step)
        return Pass(call, variables)


def _has_other_readers(merged: list[LinearStep], output: Any) -> bool:
    """Tells whether the output of one of these steps goes anywhere but to its BatchNorm."""
    readers: dict[Any, list[Any]] = {}
    nodes = list(nodes_below(t.grad_fn for t in tensors_in(output)))
    for node in nodes:
        for lower, _ in node.next_functions:
            readers.setdefault(lower, []).append(node)
    steps = set(merged)
    return any(_count(node, readers) > 1 for node in nodes if getattr(node, "step", None) in steps)


def _count(node: Any, readers: dict[Any, list[Any]]) -> int:
    """Who reads a node's output, clones of it counted by their readers."""
    found = readers.get(node, [])
    return sum(_count(reader, readers) if reader.name() == "CloneBackward0" else 1 for reader in found)


def _gives_indices(call: Call) -> bool:
    """Tells whether it returns more than the largest entries, or the smallest."""
    second = call.argument(1, "dim", call.kwargs.get("other"))
    over_a_dimension = call.name == "max" and not (second is None or isinstance(second, Tensor))
    return "indices" in call.name or "min" in call.name or bool(call.kwargs.get("return_indices")) or over_a_dimension


def _same_size(size: Any, x: Tensor) -> bool:
    wanted = tuple(size) if isinstance(size, (tuple, list)) else (size,) * (x.ndim - 2)
    return all(n is None or n == m for n, m in zip(wanted, x.shape[2:]))


_PRODUCTS = ("matmul", "mm", "bmm", "rmatmul")


def _weighted(call: Call) -> Linear:
    """Returns a convolution or linear layer."""
    function, rest = call.function, call.args[3:]
    named = {name: value for name, value in call.kwargs.items() if name not in ("input", "weight", "bias")}

    def run(a: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return function(a, weight, bias, *rest, **named)  # type: ignore[no-any-return]

    return Linear(run, call.argument(1, "weight"), call.argument(2, "bias"))


def _matrix_product(call: Call, variable: Tensor) -> Linear:
    """Returns a product with a constant matrix on either side."""
    (constant,) = (t for t in tensors_in((call.args, call.kwargs)) if t is not variable)
    product = call.as_function_of(variable, constant)
    return Linear(lambda a, weight, bias: product(a, weight), constant)


def _operands(call: Call) -> tuple[Any, Any]:
    return call.argument(0, "input"), call.argument(1, "other")


def _addends(call: Call) -> list[Any]:
    """Returns the two terms of an addition or subtraction, with their signs and factors."""
    x, y = _operands(call)
    alpha = call.kwargs.get("alpha", 1)
    if call.name == "rsub":
        return [-alpha * x, y]
    return [x, (-alpha if "sub" in call.name else alpha) * y]


def _batch_norm_constants(call: Call) -> tuple[Tensor, Tensor]:
    """Returns scale and shift per channel."""
    given = normalization_arguments(call)
    scale = torch.rsqrt(at_least_float32(given["running_var"]) + given["eps"])
    if given["weight"] is not None:
        scale = scale * given["weight"]
    shift = -given["running_mean"] * scale
    return scale.detach(), (shift if given["bias"] is None else shift + given["bias"]).detach()


def _gain(call: Call) -> Tensor:
    """Returns a BatchNorm's scale, to multiply its input with."""
    return _by_channel(_batch_norm_constants(call)[0], normalization_arguments(call)["input"])


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _layer_norm_gain(call: Call) -> Tensor:
    x, shape, weight = at_least_float32(call.args[0]), call.argument(1, "normalized_shape"), call.argument(2, "weight")
    dims = tuple(range(-len(shape), 0))
    gain = torch.rsqrt(x.var(dims, unbiased=False, keepdim=True) + call.argument(4, "eps", 1e-5))
    return gain if weight is None else gain * weight


def _group_norm_gain(call: Call) -> Tensor:
    x, groups, weight = at_least_float32(call.args[0]), call.argument(1, "num_groups"), call.argument(2, "weight")
    variance = x.unflatten(1, (groups, -1)).flatten(2).var(2, unbiased=False)
    gain = torch.rsqrt(variance + call.argument(4, "eps", 1e-5)).repeat_interleave(x.shape[1] // groups, 1)
    gain = gain.reshape(*gain.shape, *(1,) * (x.ndim - 2))
    return gain if weight is None else gain * _by_channel(weight, x)


def _instance_norm_gain(call: Call) -> Tensor:
    given = normalization_arguments(call)
    x, weight = at_least_float32(given["input"]), given["weight"]
    if given["use_input_stats"]:
        variance = x.flatten(2).var(2, unbiased=False).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    else:
        variance = _by_channel(given["running_var"], x)
    gain = torch.rsqrt(variance + given["eps"])
    return gain if weight is None else gain * _by_channel(weight, x)


_GAINS = {"layer_norm": _layer_norm_gain, "group_norm": _group_norm_gain, "instance_norm": _instance_norm_gain}
