"""How products of two signals, softmax and normalisations pass relevance: AttnLRP and CP-LRP.

With :math:`s = R / (O + \\epsilon)`, at a product of matrices :math:`O = A V` half of R goes to each factor,
:math:`A (s V^T) / 2` and :math:`V (A^T s) / 2`, and all of it to the signal where the other factor is held. At a
softmax :math:`s = softmax(x)`, :math:`R_i = x_i (R_i - s_i \\sum_j R_j)`. At a normalisation the statistic that it
divides by is held fixed, and what is then linear, its centring and bias included, goes by the epsilon rule.

Sources: Achtibat et al., AttnLRP (ICML 2024); Ali et al., XAI for Transformers: Better Explanations through
Conservative Propagation (ICML 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import at_least_float32, on_cpu
from captum_extract_aggregate._engine.operations import Call
from captum_extract_aggregate.attr.propagation.interception import Step, Tensors
from captum_extract_aggregate.attr.propagation.linear_shares import ratio


class FactorsStep(Step):
    """An element-wise product: all of R goes to the factor `signal`, or half to each."""

    def __init__(self, call: Call, inputs: Tensors, signal: int | None) -> None:
        super().__init__(call, inputs)
        self.signal = signal

    def down(self, R: Tensor, kept: Tensors) -> Any:
        share = R / 2 if self.signal is None else R
        receives = [self.signal in (None, i) for i in range(len(self.shapes))]
        return tuple(share.sum_to_size(shape) if mine else None for shape, mine in zip(self.shapes, receives))


class ProductStep(Step):
    """A product of two matrices: in shares by contributions, half to each factor or all to the factor `signal`."""

    def __init__(self, call: Call, inputs: Tensors, signal: int | None, epsilon: float) -> None:
        super().__init__(call, inputs)
        self.function, self.signal, self.epsilon = call.as_function_of(*inputs), signal, epsilon

    def before(self) -> Tensors:
        return self.inputs

    def down(self, R: Tensor, kept: Tensors) -> Any:
        receivers = range(len(kept)) if self.signal is None else (self.signal,)
        factors = [at_least_float32(t).detach().requires_grad_(i in receivers) for i, t in enumerate(kept)]
        with torch.enable_grad():
            output = self.function(*factors)
        sent = ratio(at_least_float32(R), output.detach(), self.epsilon) / len(receivers)
        slopes = iter(torch.autograd.grad(output, [factors[i] for i in receivers], sent, materialize_grads=True))
        return tuple(
            (t.detach() * next(slopes)).to(kept[i].dtype) if i in receivers else None for i, t in enumerate(factors)
        )


class SoftmaxStep(Step):
    """A softmax by its Taylor expansion: `R_i = x_i (R_i - s_i sum_j R_j)`; entries ruled out get nothing."""

    def __init__(self, call: Call, inputs: Tensors, dim: int) -> None:
        super().__init__(call, inputs)
        self.dim = dim

    def before(self) -> Tensors:
        return self.inputs

    def after(self, output: Tensor) -> Tensors:
        return (output,)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        x, s = kept
        received = x * torch.addcmul(R, s, R.sum(self.dim, keepdim=True), value=-1)
        return (received.masked_fill(x.isinf(), 0).to(x.dtype),)


class HeldStep(Step):
    """What counts as constant: attention weights in CP-LRP. Nothing passes."""

    def down(self, R: Tensor, kept: Tensors) -> Any:
        return (None,) * len(self.shapes)


class RefusedStep(Step):
    """A function without a rule: its error, if any relevance arrives. Where it only makes a gate, none does.

    On another device than the CPU, where looking would wait, its relevance is NaN instead.
    """

    def __init__(self, call: Call, inputs: Tensors, error: ValueError) -> None:
        super().__init__(call, inputs)
        self.error = error

    def down(self, R: Tensor, kept: Tensors) -> Any:
        if not on_cpu(R):
            nothing = R.new_zeros(()).masked_fill(R.any(), torch.nan)
            return tuple(nothing.expand(shape) for shape in self.shapes)
        if bool(R.any()):
            raise self.error
        return tuple(R.new_zeros(shape) for shape in self.shapes)


class NormStep(Step):
    """A normalisation, what it divides by held fixed: `linear` is what it does else, without its bias."""

    def __init__(self, call: Call, inputs: Tensors, linear: Callable[[Tensor], Tensor], epsilon: float) -> None:
        super().__init__(call, inputs)
        self.function, self.linear, self.epsilon = call.as_function_of(*inputs), linear, epsilon

    def before(self) -> Tensors:
        return self.inputs

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        x = at_least_float32(kept[0]).detach()
        output = self.function(kept[0]).to(x.dtype)
        with torch.enable_grad():
            leaf = x.requires_grad_()
            z = self.linear(leaf)
        (slope,) = torch.autograd.grad(z, leaf, ratio(R.to(x.dtype), output, self.epsilon))
        return ((x.detach() * slope).to(kept[0].dtype),)
