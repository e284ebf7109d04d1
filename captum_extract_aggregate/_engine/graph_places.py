"""Outputs of BatchNorms found in the graph of a plain forward, where nobody needs their numbers: edges and shapes.

A hook at each of fifty layers takes a tenth of a small network's passes. The node of a BatchNorm holds the very tensors
that it was called with, and so tells whose it is. (Other layers' nodes do not tell what bias was added.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.operations import tensors_in

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # whose forward is one function; classes made of them do more
_NODES = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0")


def may_be_told(layer: nn.Module) -> bool:
    """Tells whether a layer's node in the graph is its output, and shows whose it is."""
    plain = type(layer) in _KINDS and not layer._forward_hooks and "forward" not in vars(layer)
    return plain and type(layer.running_mean) is Tensor


def outputs_of(layers: Iterable[nn.Module], output: Any) -> dict[nn.Module, list[tuple[GradientEdge, Tensor]]]:
    """Returns, of those layers that lead to the output, where each one's gradients arrive, call by call, and a tensor
    of the gradient's shape."""
    by_mean = {id(layer.running_mean): layer for layer in layers}
    found: dict[nn.Module, list[tuple[GradientEdge, Tensor]]] = {}
    for node in nodes_below(t.grad_fn for t in tensors_in(output)):
        if node.name() in _NODES:
            layer, like = _whose(node, by_mean)
            if layer is not None:
                found.setdefault(layer, []).append((GradientEdge(node, 0), like))
    return {layer: calls[::-1] for layer, calls in found.items()}


def _whose(node: Any, by_mean: dict[int, nn.Module]) -> tuple[nn.Module | None, Any]:
    try:
        layer, x = by_mean.get(id(node._saved_running_mean)), node._saved_input
    except RuntimeError:  # something overwrote what it holds
        return None, None
    if layer is None or node._saved_weight is not layer.weight or node._saved_eps != layer.eps:
        return None, None
    return layer, x.detach().new_empty(()).expand(x.shape)
