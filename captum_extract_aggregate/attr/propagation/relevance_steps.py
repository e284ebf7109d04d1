"""How single operations pass relevance: a linear one, a sum, an average, an affine one, a maximum over constants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.chunks import channel_chunks
from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32, where_positive
from captum_extract_aggregate._engine.operations import Call, tensors_in
from captum_extract_aggregate.attr.propagation.interception import Step, Tensors
from captum_extract_aggregate.attr.propagation.linear_shares import Linear, Part, ratio, without_constants
from captum_extract_aggregate.attr.propagation.lrp_rules import LinearRule
from captum_extract_aggregate.attr.propagation.normalization import by_channel
from captum_extract_aggregate.attr.propagation.padding import Varying

Shares = Callable[[Sequence[Tensor], Sequence[Tensor | None]], list[Tensor]]
Average = Callable[[Tensor, Tensor, Linear], Tensor]


class LinearStep(Step):
    """A convolution, linear layer or matrix product. A BatchNorm behind it may become part of it."""

    def __init__(
        self,
        call: Call,
        inputs: Tensors,
        linear: Linear,
        rule: LinearRule,
        varying: Tensor | None = None,
        never_negative: bool = False,
    ) -> None:
        super().__init__(call, inputs)
        self.linear, self.rule, self.never_negative = linear, rule, never_negative
        self.varying = () if varying is None or rule.shares_bias else (varying,)
        self.transposed = "transpose" in self.name or (self.name == "convolution" and call.argument(6, "transposed"))
        self.versions = [t._version for t in (linear.weight, linear.bias) if t is not None]
        self.norm: tuple[Tensor, Tensor] | None = None  # scale and shift of the output's channels
        self.own: Own | None = None

    def before(self) -> Tensors:
        return self.inputs + self.varying

    def run(self) -> Any:
        output: Tensor
        if self.rule.needs_output:
            leaf = self.inputs[0].detach().requires_grad_()
            with torch.enable_grad():
                output = self.linear.function(leaf, self.linear.weight, self.linear.bias)
            self.own, output = Own(leaf, output), output.detach()
        else:
            output = self.call.run()
        self.dtype = output.dtype
        return output

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (self._relevance(R, kept, self._constants()),)

    def dual(self, R: Tensor, kept: Tensors) -> Tensor:
        """Returns what the dual units "not this class", whose weights are the negated ones, pass on of R."""
        linear = self._constants()
        assert linear.weight is not None
        return self._relevance(R, kept, replace(linear, weight=-linear.weight))

    def _relevance(self, R: Tensor, kept: Tensors, linear: Linear) -> Tensor:
        a, varying = kept[0], kept[1] if len(kept) > 1 else None
        x = without_constants(self._as_multiplied(a), varying)
        linear = linear if varying is None else replace(linear, varying=varying)
        return self._of_parts(at_least_float32(R), x, linear).to(a.dtype)

    def _as_multiplied(self, t: Tensor) -> Tensor:
        """Returns a factor with the digits that the product saw: autocast rounds both, and where a sum nearly cancels,
        what others would give has little to do with what R was made for."""
        return at_least_float32(t if t.dtype == self.dtype else t.to(self.dtype))

    def _of_parts(self, R: Tensor, x: Tensor, linear: Linear) -> Tensor:
        """Returns what all outputs send; of a large linear layer a few at a time, whose weights a cache holds."""
        weight = linear.weight
        assert weight is not None
        parts = channel_chunks(weight, 0) if self.name == "linear" and self.rule.sums_over_outputs else ()
        if len(parts) < 2 or (linear.transposed is not None and not self.rule.needs_weights):
            return self.rule.relevance(R, x, linear)
        sizes = [len(part) for part in parts]
        biases, outputs = (
            [None] * len(parts) if t is None else t.split(sizes, -1) for t in (linear.bias, linear.output)
        )
        part, of_parts = replace(linear, transposed=None), zip(R.split(sizes, -1), parts, biases, outputs)
        return functools.reduce(
            Tensor.add_,
            (self.rule.relevance(r, x, replace(part, weight=w, bias=b, output=z)) for r, w, b, z in of_parts),
        )

    def _constants(self) -> Linear:
        weight, bias = self.linear.weight, self.linear.bias
        assert weight is not None
        if self.versions != [t._version for t in (weight, bias) if t is not None]:
            raise InvalidValueError(
                f"the model overwrites the weights of {self.full_name} after use; expected weights that stay"
            )
        output = None if self.own is None else self.own.output(self.norm)
        transposed = None if self.own is None or output is None else self.own.transposing(self.norm)
        if transposed is None or self.rule.needs_weights:
            weight = self._as_multiplied(weight.detach())
            bias = None if bias is None else self._as_multiplied(bias.detach())
            if self.norm is not None:
                scale, shift = (at_least_float32(t) for t in self.norm)
                weight = self._scaled(weight, scale)
                bias = shift if bias is None else bias * scale + shift
        return replace(
            self.linear,
            weight=weight,
            bias=bias,
            output=output,
            transposed=transposed,
            never_negative=self.never_negative,
        )

    def _scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns each output channel's weights scaled; those of a transposed convolution lie in dimension 1, by
        group."""
        if not self.transposed:
            return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        groups = len(scale) // weight.shape[1]
        by_group = weight.unflatten(0, (groups, -1)) * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
        return by_group.flatten(0, 1)


class Own:
    """Holds the forward's own product, so that nobody has to multiply again."""

    def __init__(self, leaf: Tensor, output: Tensor) -> None:
        is_half = at_least_float32(output) is not output
        self._leaf, self._graph = leaf, None if is_half else output
        self._output, self._version = output.detach(), output._version

    def keep(self) -> None:
        """Copies the output, because it is about to be overwritten."""
        if self._output._version == self._version:
            self._output = self._output.clone()
            self._version = self._output._version

    def output(self, norm: tuple[Tensor, Tensor] | None) -> Tensor | None:
        """Returns a copy of the output, with the BatchNorm that is part of it; None where it was overwritten."""
        if self._output._version != self._version:
            return None
        output = at_least_float32(self._output)
        if norm is None:
            return output.clone() if output is self._output else output
        scale, shift = (by_channel(at_least_float32(t), output) for t in norm)
        return (output * scale).add_(shift)  # which takes a third of `addcmul`'s time here

    def transposing(self, norm: tuple[Tensor, Tensor] | None) -> Part | None:
        """Returns what does as `_transposed`; None of a product in half precision, in which no R is sent down."""
        return None if self._graph is None else functools.partial(self._transposed, norm=norm)

    def _transposed(self, R: Tensor, norm: tuple[Tensor, Tensor] | None) -> Tensor:
        """Returns what inputs receive of R at the output, each times its weight. R may be overwritten."""
        assert self._graph is not None
        sent = R if norm is None else R.mul_(by_channel(at_least_float32(norm[0]), R))
        return torch.autograd.grad(self._graph, self._leaf, sent, retain_graph=True)[0]


class SharesStep(Step):
    """A sum. R goes to its addends in shares that follow from their values, but not to what is constant in them."""

    def __init__(self, call: Call, inputs: Tensors, shares: Shares, varying: Varying) -> None:
        super().__init__(call, inputs)
        self.shares_of, self.varying = shares, varying

    def before(self) -> Tensors:
        like = self.inputs[0]
        given = [_beside(t, like) if isinstance(t, Tensor) else like.new_full((), t) for t in _addends(self.call)]
        addends = torch.broadcast_tensors(*(finite(at_least_float32(t)) for t in given))
        receives = [any(operand is t for t in self.inputs) for operand in _operands(self.call)]
        masks = [self.varying.of(t) if mine else None for t, mine in zip(_operands(self.call), receives)]
        varying = [None if mask is None else mask.expand_as(addends[0]) for mask in masks]
        shares = self.shares_of(addends, varying)
        self.__dict__.pop("varying")  # the graph keeps the shares alone
        return tuple(without_constants(s, v) for s, v, mine in zip(shares, varying, receives) if mine)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return tuple((R * share).sum_to_size(shape).to(R.dtype) for share, shape in zip(kept, self.shapes))


def _beside(t: Tensor, like: Tensor) -> Tensor:
    """Returns an addend where another is, and in no less precision: autocast adds half precision to single."""
    return t.to(like) if t.dtype == like.dtype else t.to(like.device, torch.promote_types(t.dtype, like.dtype))


def finite(t: Tensor) -> Tensor:
    """Infinite addends, such as masks, as large finite ones: so the finite ones beside them get 0, and none NaN."""
    largest = torch.finfo(t.dtype).max / 8
    return t.clamp(-largest, largest)


class AffineStep(Step):
    """An operation `s x + t`, s and t held fixed: the constant takes its share."""

    def __init__(self, call: Call, inputs: Tensors, gain: Callable[[Call], Tensor], epsilon: float) -> None:
        super().__init__(call, inputs)
        self.gain, self.epsilon = gain, epsilon

    def after(self, output: Tensor) -> Tensors:
        x = self.inputs[0]
        return (ratio(self.gain(self.call) * at_least_float32(x), at_least_float32(output), self.epsilon).to(x.dtype),)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (R * kept[0],)


class BatchNormStep(Step):
    """A BatchNorm `s x + t` behind a linear operation: part of it (`joined`: R passes), or affine for itself where that
    operation's output is used elsewhere too, which is known when the forward has ended."""

    joined = True

    def __init__(
        self, call: Call, inputs: Tensors, constants: tuple[Tensor, Tensor], linear: LinearStep, epsilon: float
    ) -> None:
        super().__init__(call, inputs)
        self.constants, self.linear, self.epsilon = constants, linear, epsilon
        linear.norm = constants

    def part(self) -> None:
        """Makes the BatchNorm stand for itself."""
        self.joined, self.linear.norm = False, None

    def before(self) -> Tensors:
        return self.inputs

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        if self.joined:
            return (R,)
        (x,) = kept
        scale, shift = (by_channel(at_least_float32(t), x) for t in self.constants)
        contribution = scale * at_least_float32(x)
        return ((R * ratio(contribution, contribution + shift, self.epsilon)).to(x.dtype),)


class AverageStep(Step):
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


class WinnerStep(Step):
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


def _operands(call: Call) -> tuple[Any, Any]:
    return call.argument(0, "input"), call.argument(1, "other")


def _addends(call: Call) -> list[Any]:
    """Returns the two terms of an addition or subtraction, with their signs and factors."""
    x, y = _operands(call)
    alpha = call.kwargs.get("alpha", 1)
    if call.name == "rsub":
        return [-alpha * x, y]
    return [x, (-alpha if "sub" in call.name else alpha) * y]


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
PRODUCTS = ("matmul", "mm", "bmm", "inner", "rmatmul")


def weighted(call: Call) -> Linear:
    """Returns a convolution or linear layer."""
    function, rest = call.function, call.args[3:]
    named = {name: value for name, value in call.kwargs.items() if name not in ("input", "weight", "bias")}

    def run(a: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return function(a, weight, bias, *rest, **named)  # type: ignore[no-any-return]

    weight, channels = call.argument(1, "weight"), None
    if call.name == "linear" or (call.name in _CONVOLUTIONS and call.argument(6, "groups", 1) == 1):
        channels = (1 - weight.ndim if call.name != "linear" else -1, 1)
    return Linear(run, weight, call.argument(2, "bias"), channels=channels, adjoint=_adjoint(call, weight))


def _adjoint(call: Call, weight: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """Returns what autograd would call, without its graph; None where it is not one operator."""
    if call.name == "linear":
        return lambda R, a, w: R.matmul(w)
    dims = weight.ndim - 2
    stride, padding, dilation = (
        call.argument(position, name, default)
        for position, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    if call.name not in _CONVOLUTIONS or call.argument(0, "input").ndim != weight.ndim or isinstance(padding, str):
        return None
    how = [[n] * dims if isinstance(n, int) else n for n in (stride, padding, dilation)]
    rest = (*how, False, [0] * dims, call.argument(6, "groups", 1), [True, False, False])

    def run(R: Tensor, a: Tensor, w: Tensor) -> Tensor:
        return torch.ops.aten.convolution_backward(R, a, w, None, *rest)[0]  # type: ignore[no-any-return]

    return run


def matrix_product(call: Call, variable: Tensor) -> Linear:
    """Returns a product with a constant matrix on either side."""
    (constant,) = (t for t in tensors_in((call.args, call.kwargs)) if t is not variable)
    product = call.as_function_of(variable, constant)
    return Linear(lambda a, weight, bias: product(a, weight), constant)
