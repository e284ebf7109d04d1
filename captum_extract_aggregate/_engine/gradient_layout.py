"""Gradients laid out as PyTorch's backward of an eval-mode BatchNorm reads them right.

Of one example whose activation becomes tokens (XCiT, EfficientFormer) the gradient comes back transposed. On the CPU
that backward then takes it for channels last, and gives numbers that are far off, which those of a batch are not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo


def as_it_lies(g: Tensor) -> Tensor:
    """Returns a gradient of one example with the strides of its shape, and any other as it is."""
    return g.contiguous() if len(g) == 1 and g.stride(0) != g.numel() else g


def lay_out(modules: Iterable[nn.Module], undo: Undo) -> None:
    """Lays out the gradients at the outputs of BatchNorms, until all is undone."""
    hook = functools.partial(_lay_out)  # an object of this pass
    for module in modules:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            undo.hook(module, "register_forward_hook", hook)


def _lay_out(module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(as_it_lies)
