"""Where a rectifier with output a lets the quantity R pass: guided backprop, deconvolution, RectGrad.

Sources: Springenberg et al., Striving for Simplicity (ICLR workshop 2015); Zeiler and Fergus, Visualizing and
Understanding Convolutional Networks (ECCV 2014); Kim et al., Why are Saliency Maps Noisy? (2019); Khakzar et al.,
Rethinking Positive Aggregation and Propagation (2020), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import at_least_float32, on_cpu, where_positive
from captum_extract_aggregate.attr.propagation.percentile import percentile, percentiles

# From R and a, and the value at which the rectifier saturates.
Gate = Callable[[Tensor, Tensor, float], Tensor]


def guided_gate(R: Tensor, a: Tensor, ceiling: float) -> Tensor:
    """Guided backprop: where the unit is active (and not saturated) and R is positive."""
    if math.isinf(ceiling):
        return where_positive(R, a).relu_()
    return torch.ops.aten.hardtanh_backward(R, a, 0, ceiling).relu_()  # type: ignore[no-any-return]


def deconvolution_gate(R: Tensor, a: Tensor, ceiling: float) -> Tensor:
    """Deconvolution: where R is positive."""
    return R.relu()


@dataclass(frozen=True)
class RectifiedGate:
    """RectGrad: where `a R` (for the modified rule its magnitude) exceeds the layer's percentile of `a R`."""

    percentile: float
    magnitude: bool = False

    def __call__(self, R: Tensor, a: Tensor, ceiling: float) -> Tensor:
        importance = at_least_float32(a * R)
        rows = importance.reshape(len(importance), -1)
        if not on_cpu(R) or importance.dtype != R.dtype:
            thresholds = percentile(rows, self.percentile)
            importance = importance.abs_() if self.magnitude else importance
            return torch.where(importance > thresholds.reshape(-1, *(1,) * (a.ndim - 1)), R, 0)
        numbers = percentiles(rows.numpy(), self.percentile)
        if self.magnitude:
            importance.abs_()
        for row, r, threshold in zip(importance, R, numbers):
            # One pass, into memory that is already there: fresh memory is what takes the time on a CPU.
            torch.ops.aten.threshold_backward.grad_input(r, row, threshold, grad_input=row)
        return importance
