"""Gates put into the graph of a plain forward, where each node of it tells which function has made it.

Watching every function of a forward costs several per cent of a network's passes. Most networks can do without: their
graphs consist of rectifiers, and of functions that pass their gradient by every rule. Any other node may belong to a
function that hides a rectifier, or to one that has a rule of its own: there the forward has to be watched.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from captum_extract_aggregate._common.tensors import plain
from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.model_parts import unseen
from captum_extract_aggregate._engine.operations import tensors_in
from captum_extract_aggregate.attr.propagation.relu_rules import Gate

_PASSING = {
    f"{name}Backward{number}"
    for number in "01"
    for name in """
        Convolution Addmm Mm Bmm Add Sub Div Mean Sum Cat Split Slice Select Squeeze Unsqueeze Expand View UnsafeView
        ReshapeAlias Transpose Permute T Clone ToCopy MaxPool2DWithIndices AvgPool2D AdaptiveAvgPool2D Silu Gelu Sigmoid
        Hardswish Hardsigmoid Tanh Softmax NativeLayerNorm NativeGroupNorm ScaledDotProductFlashAttentionForCpu
        ScaledDotProductEfficientAttention
    """.split()
} | {"torch::autograd::AccumulateGrad"}
_NORMS = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0")
_RELU, _HARDTANH = "ReluBackward0", "HardtanhBackward0"


def rectifiers_of(output: Any, models: Iterable[nn.Module], batch: int | None) -> list[tuple[Node, float]] | None:
    """Returns the rectifiers that lead to the output, each with the value at which it saturates; None where a node does
    not tell how a rule passes it, or where models run scripted code.

    `batch`: the number of examples, which have to lie in dimension 0 of each rectifier; None: anywhere.
    """
    if any(issubclass(type(m), torch.jit.ScriptModule) for model in models for m in unseen(model, set())):
        return None
    found = []
    for node in nodes_below(t.grad_fn for t in tensors_in(output)):
        name = node.name()
        if name in _PASSING:
            continue
        try:
            ceiling = _told(name, node, batch)
        except RuntimeError:  # what the node keeps has been overwritten
            return None
        if ceiling is None:
            return None
        if ceiling > 0:
            found.append((node, ceiling))
    return found


def _told(name: str, node: Any, batch: int | None) -> float | None:
    """Returns where a rectifier saturates, 0 for what is none, and None where the node does not tell."""
    if name == "MulBackward0":
        factors = (node._saved_self, node._saved_other)
        return None if any(t is not None and t.dtype == torch.bool for t in factors) else 0
    if name in _NORMS:
        return None if node._saved_training else 0
    if name == _RELU:
        kept, ceiling = node._saved_result, math.inf
    elif name == _HARDTANH and node._saved_min_val == 0:
        kept, ceiling = node._saved_self, float(node._saved_max_val)
    else:
        return None
    return ceiling if batch is None or (kept.ndim and len(kept) == batch) else None


def put_gate(gate: Gate, rectifiers: list[tuple[Node, float]]) -> None:
    """Gives rectifiers a gate in place of their gradient."""
    for node, ceiling in rectifiers:
        node.register_hook(functools.partial(_gated, gate, ceiling))


def _gated(
    gate: Gate, ceiling: float, gradients: tuple[Tensor | None, ...], arriving: tuple[Tensor | None, ...]
) -> tuple[Tensor, ...] | None:
    (gradient,), (R,) = gradients, arriving
    if gradient is None or R is None:
        return None
    node: Any = torch._C._current_autograd_node()  # type: ignore[attr-defined]  # a hook that held it would be a cycle
    return (gate(plain(R), _kept(node), ceiling, plain(gradient)),)


def _kept(node: Any) -> Callable[[], Tensor]:
    """Returns a function that gives the output of a rectifier; of one that saturates perhaps its input."""
    return lambda: plain((node._saved_result if node.name() == _RELU else node._saved_self).detach())
