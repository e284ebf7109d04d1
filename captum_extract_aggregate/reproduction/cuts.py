"""Layers that nothing bypasses, where activities and the biases behind them add up to the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate.attr.biases import bias_layers
from captum_extract_aggregate.attr.convergence import is_bypassed

_SHORTCUTS = ("downsample", "shortcut")


@dataclass(frozen=True)
class Cut:
    """Holds a layer's name, that of the last layer up to its end that adds a bias (on no shortcut; "" for none), and
    the height and width of its output."""

    layer: str
    bias: str
    size: tuple[int, int]


@dataclass(frozen=True)
class _Ran:
    """Says that a module has ended: how many convolutions had run by then, and the size of its output."""

    name: str
    module: nn.Module
    convolutions: int
    size: tuple[int, int] | None


def cuts_of(model: nn.Module, x: Tensor) -> tuple[Cut, ...]:
    """Returns for every convolution the first layer behind it that nothing bypasses, each once, in network order.

    Of a chain that is the convolution itself (or the BatchNorm that follows it), of a residual block the block. A ReLU
    behind it changes nothing: the activity attribution before it and after it is the same.
    """
    ran = _order_of_ends(model, x)
    target = _best(model, x)
    by_count: dict[int, list[_Ran]] = {}
    for one in ran:
        if one.size is not None and one.size != (1, 1) and _holds_weights(one.module):
            by_count.setdefault(one.convolutions, []).append(one)
    biases = {name for name, layer in bias_layers(model).items() if not isinstance(layer, nn.Linear)}
    found = []
    for candidates in by_count.values():
        cut = _first_cut(candidates, model, x, target)
        if cut is not None and cut.size is not None:
            found.append(Cut(cut.name, _bias_of(cut, ran, biases), cut.size))
    return tuple(found)


def _first_cut(candidates: list[_Ran], model: nn.Module, x: Tensor, target: int) -> _Ran | None:
    """Returns of layers that end behind the same convolutions the last single one that is a cut, or a block."""
    leaves = [one for one in candidates if not any(map(_holds_weights, one.module.children()))]
    blocks = [one for one in candidates if any(map(_holds_weights, one.module.children()))]
    for one in (*reversed(leaves), *blocks):
        if one.convolutions and not is_bypassed(model, x, target, None, Place(one.module)):
            return one
    return None


def _bias_of(cut: _Ran, ran: list[_Ran], biases: set[str]) -> str:
    before = [one.name for one in ran[: ran.index(cut) + 1] if one.name in biases]
    direct = [name for name in before if not any(word in name for word in _SHORTCUTS)]
    return next(reversed(direct or before), "")


def _order_of_ends(model: nn.Module, x: Tensor) -> list[_Ran]:
    names = {module: name for name, module in model.named_modules()}
    ran: list[_Ran] = []
    count = 0

    def ended(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal count
        count += isinstance(module, nn.Conv2d)
        size = (output.shape[2], output.shape[3]) if isinstance(output, Tensor) and output.ndim == 4 else None
        ran.append(_Ran(names[module], module, count, size))

    with Undo() as undo, undo, torch.no_grad():
        for module in model.modules():
            undo.hook(module, "register_forward_hook", ended)
        model(x)
    return ran


def _best(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return int(model(x)[0].argmax())


def _holds_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
