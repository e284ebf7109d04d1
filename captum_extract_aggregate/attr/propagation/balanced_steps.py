"""What a balanced pass does at one call: exchanged arguments, or a backward in which the gate is held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import on_cpu
from captum_extract_aggregate._engine.operations import Call
from captum_extract_aggregate.attr.propagation.interception import Step, Tensors, normalization_arguments


class Halved(torch.autograd.Function):
    """A tensor that receives half of its gradient."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] / 2


class Rewritten(Step):
    """The call itself, with some of its arguments exchanged for others of the same values."""

    def __init__(self, call: Call, inputs: Tensors, exchanged: dict[int, Tensor]) -> None:
        super().__init__(call, inputs)
        self.exchanged = exchanged

    def apply(self) -> Any:
        return with_arguments(self.call, self.exchanged).run()


class Held(Step):
    """The call on constants: what it gives is held."""

    def apply(self) -> Any:
        return with_arguments(self.call, {id(t): t.detach() for t in self.inputs}).run()


class VarianceAndMean(Step):
    """The variance is held, the mean is linear."""

    def apply(self) -> Any:
        spread, mean = self.call.run()
        return spread.detach(), mean


class Gate(Step):
    """y of x as x times y / x, which is held; at 0 it is the slope."""

    def before(self) -> Tensors:
        (x,) = self.inputs
        self.x = x.detach().clone() if self.call.in_place else x.detach()
        self.function = self.call.as_function_of(x)
        return ()

    def after(self, output: Tensor) -> Tensors:
        gate = output / self.x
        zero = self.x == 0
        if not on_cpu(zero) or bool(zero.any()):
            gate = gate.masked_fill(zero, self._slope())
        del self.x, self.function
        return (gate,)

    def _slope(self) -> Tensor:
        with torch.enable_grad():
            at = torch.zeros(1, dtype=self.x.dtype, device=self.x.device, requires_grad=True)
            (slope,) = torch.autograd.grad(self.function(at.clone()).sum(), at)
        return slope.squeeze()

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (R * kept[0],)


class Glu(Step):
    """The half that goes through the sigmoid gates the other."""

    def __init__(self, call: Call, inputs: Tensors) -> None:
        super().__init__(call, inputs)
        self.dim = call.argument(1, "dim", -1)

    def before(self) -> Tensors:
        return (self.inputs[0].chunk(2, self.dim)[1].sigmoid(),)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (torch.cat([R * kept[0], torch.zeros_like(R)], self.dim),)


class Normalized(Step):
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


class L2Normalized(Step):
    """`F.normalize`: the norm is held."""

    def before(self) -> Tensors:
        x, call = self.inputs[0].detach(), self.call
        norm = x.norm(call.argument(1, "p", 2.0), call.argument(2, "dim", 1), keepdim=True)
        return (norm.clamp_min(call.argument(3, "eps", 1e-12)),)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (R / kept[0],)


def with_arguments(call: Call, exchanged: dict[int, Tensor]) -> Call:
    """Returns the call with other tensors in place of some, by their ids."""

    def other(value: Any) -> Any:
        if isinstance(value, Tensor):
            return exchanged.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(map(other, value))
        return value

    return call._replace(args=other(call.args), kwargs={name: other(value) for name, value in call.kwargs.items()})
