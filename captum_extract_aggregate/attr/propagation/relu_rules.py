"""Where a rectifier with output a lets the quantity R pass: guided backprop, deconvolution, RectGrad.

Sources: Springenberg et al., Striving for Simplicity (ICLR workshop 2015); Zeiler and Fergus, Visualizing and
Understanding Convolutional Networks (ECCV 2014); Kim et al., Why are Saliency Maps Noisy? (2019); Khakzar et al.,
Rethinking Positive Aggregation and Propagation (2020), section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import at_least_float32, on_cpu, where_positive
from captum_extract_aggregate.attr.propagation.percentile import percentile


class Gate(Protocol):
    """What passes a rectifier of R, which arrives at its output a; `ceiling` is the value at which it saturates.

    `gradient` is what its own gradient lets pass, where that is known already: the gate may work in its memory. Then
    `a` is a function that gives the output, or the input of a rectifier that saturates.
    """

    def __call__(self, R: Tensor, a: Any, ceiling: float, gradient: Tensor | None = None, /) -> Tensor: ...


def guided_gate(R: Tensor, a: Any, ceiling: float, gradient: Tensor | None = None) -> Tensor:
    """Guided backprop: where the unit is active (and not saturated) and R is positive."""
    if gradient is not None:
        return gradient.relu_()
    if math.isinf(ceiling):
        return where_positive(R, a).relu_()
    return torch.ops.aten.hardtanh_backward(R, a, 0, ceiling).relu_()  # type: ignore[no-any-return]


def deconvolution_gate(R: Tensor, a: Any, ceiling: float, gradient: Tensor | None = None) -> Tensor:
    """Deconvolution: where R is positive."""
    return R.relu() if gradient is None else torch.clamp(R, min=0, out=gradient)


@dataclass(frozen=True)
class RectifiedGate:
    """RectGrad: where `a R` (for the modified rule its magnitude) exceeds the layer's percentile of `a R`."""

    percentile: float
    magnitude: bool = False

    def __call__(self, R: Tensor, a: Any, ceiling: float, gradient: Tensor | None = None) -> Tensor:
        importance = at_least_float32(_products(R, a, ceiling, gradient))
        thresholds = percentile(_rows(importance), self.percentile)
        importance = importance.abs_() if self.magnitude else importance
        if on_cpu(R) and importance.dtype == R.dtype:
            for r, size, threshold in zip(R, importance, thresholds.tolist()):  # a mask takes several times as long
                torch.ops.aten.threshold_backward.grad_input(r, size, threshold, grad_input=size)
            return importance
        return torch.where(importance > thresholds.reshape(-1, *(1,) * (R.ndim - 1)), R, 0)


def _products(R: Tensor, a: Any, ceiling: float, gradient: Tensor | None) -> Tensor:
    """Returns `a R`, in memory of its own or in the gradient's."""
    if gradient is None:
        return a * R  # type: ignore[no-any-return]
    output = a()
    into = gradient if gradient.dtype == R.dtype == output.dtype else None
    if math.isinf(ceiling):
        return torch.mul(output, R, out=into)
    output = torch.clamp(output, 0, ceiling, out=into)
    return torch.mul(output, R, out=into)


def _rows(t: Tensor) -> Tensor:
    """Returns each example's numbers in a row, in the order in which they lie in memory."""
    return (t if t.is_contiguous() or t.ndim < 3 else t.movedim(1, -1)).reshape(len(t), -1)
