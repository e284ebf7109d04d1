"""Which inputs of a model a method explains, where the model takes several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.model_state import set_grad_mode


class OfSome(nn.Module):
    """Is a model as a function of some of its inputs first, and of the others behind them."""

    def __init__(self, model: nn.Module, chosen: list[bool]) -> None:
        super().__init__()
        self.model, self.chosen, self.training = model, chosen, model.training

    def forward(self, *args: Any) -> Any:
        count = sum(self.chosen)
        own, others = iter(args[:count]), iter(args[count:])
        return self.model(*[next(own) if is_chosen else next(others) for is_chosen in self.chosen], *others)


def images_seen(
    model: Callable[..., Any], at: list[nn.Module | None] | None, tensors: tuple[Tensor, ...], extra: tuple[Any, ...]
) -> list[bool]:
    """Returns which inputs are images that the layer's output depends on."""
    images = [x.ndim == 4 and x.is_floating_point() for x in tensors]
    layer = at[0] if at else None
    if layer is None or sum(images) < 2:
        return images
    sums: list[Tensor] = []

    def add(module: nn.Module, args: Any, output: Any) -> None:
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        sums.extend(o.sum() for o in outputs if isinstance(o, Tensor) and o.requires_grad)

    leaves = [x.detach().requires_grad_(is_image) for x, is_image in zip(tensors, images)]
    with Undo() as undo, undo:
        set_grad_mode(undo, True)
        undo.hook(layer, "register_forward_hook", add)
        model(*(x.clone() for x in leaves), *extra)
    wanted = [x for x in leaves if x.requires_grad]
    found = iter(torch.autograd.grad(sums, wanted, allow_unused=True) if sums else [None] * len(wanted))
    return [is_image and next(found) is not None for is_image in images]
