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
from captum_extract_aggregate.attr.propagation.rectify import rectify


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
        output: Tensor = a if gradient is None else a()
        into = torch.empty_like(R) if gradient is None else gradient
        ceiling = math.inf if gradient is None else ceiling  # an output is known to be no larger
        rows = _rows(R, output, into)
        if rows is not None:
            rectify(rows[0], rows[1], rows[2], ceiling, self.percentile, self.magnitude)
            return into
        output = output if math.isinf(ceiling) else output.clamp(0, ceiling)
        importance = at_least_float32(output * R)
        thresholds = percentile(importance.reshape(len(importance), -1), self.percentile)
        importance = importance.abs_() if self.magnitude else importance
        return torch.where(importance > thresholds.reshape(-1, *(1,) * (R.ndim - 1)), R, 0)


def _rows(*tensors: Tensor) -> list[Any] | None:
    """Returns each tensor's examples as rows of NumPy's, in the order in which all of them lie in memory; None where
    they lie elsewhere, or each its own way."""
    R = tensors[0]
    if not on_cpu(R) or at_least_float32(R) is not R or any(t.dtype != R.dtype for t in tensors):
        return None
    if R.ndim > 2 and not R.is_contiguous():  # channels last
        tensors = tuple(t.movedim(1, -1) for t in tensors)
    if not all(t.is_contiguous() for t in tensors):
        return None
    return [t.detach().reshape(len(t), -1).numpy() for t in tensors]
