"""Where a network's features end and its head begins: the last layer whose resolution is the picture's, through which
all goes that reaches the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.seeding import random_state
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.arrangements import LayoutFunction
from captum_extract_aggregate._engine.cells import into_cells, on_tensors
from captum_extract_aggregate._engine.layout import Layout, to_channels_first
from captum_extract_aggregate._engine.model_state import set_grad_mode, unchanged
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate._engine.surroundings import Facts, Surroundings


class _Met(NamedTuple):
    """Holds what a module gave out, and how it becomes `N x C x *S`."""

    value: Tensor
    arrange: LayoutFunction

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.arrange(self.value).shape[2:])


def feature_end(
    forward_func: Callable[..., Any], model: nn.Module, grid: Tensor, n: int, layout: Layout = "auto"
) -> nn.Module:
    """Returns the last layer whose output on a grid of n cells a side has n times as many positions along each side as
    its output on a cell, whose positions reach the score, and which nothing of the picture passes by (as a residual
    sum does).

    So a pooling to a fixed size belongs to the head, and so do the layers behind the last exchange of tokens of a
    network whose class token alone makes the score. Of a network that takes one size alone, whose cells cannot be run,
    it is the last layer whose sides n divides.

    Raises:
        ValueError: where there is none.
    """
    example = grid[:1].detach()
    scores, on_grid = _run(forward_func, model, example.clone().requires_grad_(), layout)
    try:
        _, on_cell = _run(forward_func, model, into_cells(example, n)[:1], layout)
    except Exception:  # whatever the model's own code raises on a size it does not take
        on_cell = {}
    for module, met in reversed(on_grid.items()):
        grows = met.size == tuple(n * side for side in on_cell[module].size) if module in on_cell else not on_cell
        is_grid = grows and max(met.size) > 1 and not any(side % n for side in met.size)
        if is_grid and _reaches(scores, met) and _is_cut(forward_func, model, module, example):
            return module
    raise InvalidValueError(
        f"features is None, and {type(model).__name__} has no layer whose resolution is that of a grid of {n} x {n} "
        "cells; expected the name of the layer at which its features end"
    )


def _run(
    forward_func: Callable[..., Any], model: nn.Module, x: Tensor, layout: Layout
) -> tuple[Tensor, dict[nn.Module, _Met]]:
    """Returns the scores of an example, and what modules that ran once gave out, in the order in which they ended."""
    met: dict[nn.Module, _Met] = {}
    calls: dict[nn.Module, int] = {}
    facts = Facts((model,))

    def ended(module: nn.Module, args: Any, output: Any) -> Any:
        calls[module] = calls.get(module, 0) + 1
        value = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(value, Tensor) or value.ndim < 3 or module is model:
            return None
        with torch._C.DisableTorchFunction():
            around = Surroundings(module, (model,), len(x), tuple(x.shape[2:]), facts=facts)
            try:
                arrange = to_channels_first(value, layout, around)
            except ValueError:  # nothing tells its positions
                return None
        met[module] = _Met(value, arrange)
        if output is not value:
            return None
        return value.clone()  # what follows may write to it

    with Undo() as undo, undo:
        set_grad_mode(undo, x.requires_grad)
        random_state(undo, (x,))
        unchanged(undo, model)
        for module in model.modules():
            undo.hook(module, "register_forward_hook", ended)
        scores = find_scores(forward_func(x))
    return scores, {module: found for module, found in met.items() if calls[module] == 1}


def _reaches(scores: Tensor, met: _Met) -> bool:
    """Tells whether any position of a layer has an influence on the scores."""
    if not scores.requires_grad or not met.value.requires_grad:
        return True
    weights = torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype, device=scores.device).view_as(scores)
    (gradient,) = torch.autograd.grad(scores, met.value, weights, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(met.arrange(gradient).any())


def _is_cut(forward_func: Callable[..., Any], model: nn.Module, module: nn.Module, example: Tensor) -> bool:
    """Tells whether whatever the scores know of the input they know from a layer's output."""
    x = example.clone().requires_grad_()

    def hold(module: nn.Module, args: Any, output: Any) -> Any:
        return on_tensors(Tensor.detach, output, type(module).__name__)

    with Undo() as undo, undo:
        set_grad_mode(undo, True)
        random_state(undo, (x,))
        unchanged(undo, model)
        undo.hook(module, "register_forward_hook", hold)
        scores = find_scores(forward_func(x))
    if not scores.requires_grad:
        return True
    (gradient,) = torch.autograd.grad(scores.sum(), x, allow_unused=True)
    return gradient is None or not bool(gradient.any())
