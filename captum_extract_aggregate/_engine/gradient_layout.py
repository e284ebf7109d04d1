"""Gradients laid out as PyTorch's backward of an eval-mode BatchNorm reads them right.

Of one example whose activation becomes tokens (XCiT, EfficientFormer) the gradient comes back transposed. On the CPU
that backward then takes it for channels last, and gives numbers that are far off, which those of a batch are not.

Most networks have no operation that could do so, which their graph shows: looking at it costs a tenth of watching every
BatchNorm.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from operator import methodcaller
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.autograd_graph import nodes_below

# Operations whose backward gives one example's gradients the strides of their shape, if it is given such. (Views of a
# part of a tensor, and transposed ones, are not among them.)
_KEEP_STRIDES = {
    f"{name}Backward{number}"
    for name, numbers in {
        **dict.fromkeys(("Convolution", "NativeBatchNorm", "Addmm", "Clone", "Add", "Sub", "View", "UnsafeView"), "0"),
        **dict.fromkeys(("Relu", "Hardtanh", "Hardswish", "Hardsigmoid", "Sigmoid", "Silu", "Gelu", "Tanh"), "0"),
        **dict.fromkeys(("MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D"), "0"),
        **dict.fromkeys(("Mean", "Mul", "Div", "LeakyRelu", "ReshapeAlias"), "01"),
    }.items()
    for number in numbers
} | {"torch::autograd::AccumulateGrad"}


def as_it_lies(g: Tensor | None) -> Tensor | None:
    """Returns a gradient of one example with the strides of its shape, and any other as it is; rules that send nothing
    down give None."""
    return g.contiguous() if g is not None and len(g) == 1 and g.stride(0) != g.numel() else g


def lay_out(modules: Iterable[nn.Module], undo: Undo) -> None:
    """Lays out the gradients at the outputs of BatchNorms, until all is undone."""
    hook = functools.partial(_lay_out)  # an object of this pass
    for module in modules:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            undo.hook(module, "register_forward_hook", hook)


def _lay_out(module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(as_it_lies)


def lay_out_graph(top: Node | None) -> None:
    """Lays out the gradients at the outputs of the BatchNorms of a graph, if there is an operation that may turn
    them."""
    nodes = nodes_below([top])
    if not _KEEP_STRIDES.issuperset(map(_name, nodes)):
        for node in nodes:
            if node.name() == _BATCH_NORM:
                node.register_prehook(_laid_out)


_BATCH_NORM = "NativeBatchNormBackward0"  # on the CPU
_name = methodcaller("name")


def _laid_out(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    first, *others = gradients
    return (as_it_lies(first), *others)
