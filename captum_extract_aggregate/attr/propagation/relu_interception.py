"""Gradients but for the rectifiers: the operations of guided backprop, deconvolution and RectGrad."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from captum_extract_aggregate._engine.operations import Call, tensors_in
from captum_extract_aggregate.attr.propagation.interception import (
    Interception,
    Step,
    Tensors,
    check_choice,
    check_maximum,
    check_output,
    is_low,
    is_mask,
    uses_batch_statistics,
)
from captum_extract_aggregate.attr.propagation.relu_rules import Gate


class _Gated(Step):
    """A rectifier with a gate."""

    def __init__(self, call: Call, inputs: Tensors, gate: Gate, ceiling: float) -> None:
        super().__init__(call, inputs)
        self.gate, self.ceiling = gate, ceiling

    def after(self, output: Tensor) -> Tensors:
        check_output(self, output)
        return (output,)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (self.gate(R, kept[0], self.ceiling),)


class GatedInterception(Interception):
    """Every rectifier gets the gate; all else passes its gradient.

    `batch` is given if the gate treats each example by itself, and has to find it in dimension 0.
    """

    leaves = True

    def __init__(self, method: str, gate: Gate, batch: int | None = None) -> None:
        super().__init__(method)
        self.gate, self.batch = gate, batch

    def step(self, call: Call, variables: Tensors) -> Step | None:
        if call.kind == "hiding":
            raise self.unknown(call, " (its ReLUs run inside, where no gate reaches them)")
        if call.kind == "maximum":
            check_maximum(self, call, variables)
        if call.kind == "choice":
            check_choice(self, call)
        if call.kind == "normalization" and uses_batch_statistics(call):
            raise self.unknown(call, " with the statistics of the batch (train mode)")
        if _masks(call):
            raise self.unknown(call, " with a mask, which may be a rectifier in disguise")
        if call.kind != "rectifier":
            return None
        if len(variables) != 1:
            raise self.unknown(call, f" of {len(variables)} tensors that depend on the input")
        if self.batch is not None and (not variables[0].ndim or len(variables[0]) != self.batch):
            raise self.unknown(
                call, f" of shape {tuple(variables[0].shape)}, whose first dimension is not the batch of {self.batch}"
            )
        return _Gated(call, variables, self.gate, self._ceiling(call))

    def _ceiling(self, call: Call) -> float:
        """Returns where a rectifier saturates; our error for bounds that make it none."""
        low: Any = 0
        high: Any = None
        if call.name == "relu6":
            high = 6
        elif call.name == "hardtanh":
            low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
        elif call.name in ("clamp", "clip", "clamp_min"):
            low, high = call.argument(1, "min"), call.argument(2, "max")
        elif call.name == "threshold":
            low = call.argument(1, "threshold") or call.argument(2, "value")
        if isinstance(low, Tensor) or isinstance(high, Tensor) or low != 0:
            raise self.unknown(call, f" from {low} to {high} (no rectifier at 0)")
        return math.inf if high is None else float(high)


def _masks(call: Call) -> bool:
    """Tells whether booleans choose what passes: `y * (y > 0)`, `y[y < 0] = 0`."""
    if call.kind == "scale":
        return any(is_mask(t) for t in tensors_in(call.args[:2]))
    if call.name != "setitem" or any(t.requires_grad for t in tensors_in(call.args[2:])) or is_low(call.args[2]):
        return False
    return any(is_mask(t) for t in tensors_in(call.args[1:2]))
