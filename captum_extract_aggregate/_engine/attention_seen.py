"""Attention weights as a place: while a mode of this file is active, fused attention runs step by step, and each
softmax over keys hands its result to whoever asks for the layer that it ran in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.attention import OPENED_ATTENTION
from captum_extract_aggregate._engine.layers import checked_inputs, describe, running_modules
from captum_extract_aggregate._engine.model_state import (
    function_modes,
    leave_function_modes,
    prepare_pass,
    run_within,
    set_modes,
)

See = Callable[[list[nn.Module], Tensor, Tensor], Tensor]
_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class AttentionSeen(TorchFunctionMode):
    """Opens fused attention in this thread; `see(running modules, logits, weights)` returns the weights to go on with.

    All of a pass's attention is opened, whichever layers are asked for: so a map is the same alone and in company.
    """

    def __init__(self, see: See | None = None) -> None:
        super().__init__()
        self.layers: dict[nn.Module, None] = {}  # that hold attention, in the order in which they ran
        self._see = see

    def begin(self, undo: Undo) -> None:
        """Looks from here on, until all is undone (without `__exit__`, which an interrupt can cut short)."""
        undo.callback(leave_function_modes, function_modes())
        self.__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        opened = OPENED_ATTENTION.get(func)
        if opened is not None:
            return run_within(self, opened, *args, **kwargs)
        output = func(*args, **kwargs)
        if func not in _SOFTMAX or not _is_over_keys(output, args, kwargs):
            return output
        running = list(running_modules())
        own = next((m for m in running if not isinstance(m, nn.Softmax)), None)
        if own is not None:
            self.layers[own] = None
        logits = args[0] if args else kwargs["input"]
        return output if self._see is None else self._see(running, logits, output)


def _is_over_keys(weights: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Tells whether a softmax is over the last of at least three dimensions, as attention's is."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return weights.ndim > 2 and dim in (-1, weights.ndim - 1)


def attention_layers(forward_func: nn.Module, inputs: Any) -> dict[str, nn.Module]:
    """Returns the layers in which attention weights are made, by name, in the order in which they run.

    Args:
        forward_func: the model.
        inputs: an example batch, which runs through it once; the model is left as it was.

    Raises:
        ValueError: where no attention runs.

    Example:
        >>> import torch, torchvision
        >>> import captum_extract_aggregate as cea
        >>> model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32).eval()
        >>> list(cea.attention_layers(model, torch.zeros(1, 3, 32, 32)))
        ['encoder.layers.encoder_layer_0.self_attention', 'encoder.layers.encoder_layer_1.self_attention']
    """
    tensors = checked_inputs(inputs)
    seen = AttentionSeen()
    with Undo() as undo, undo:
        set_modes(undo, grad=False)
        prepare_pass(undo, forward_func, tensors, False, set(), set())
        seen.begin(undo)
        forward_func(*(t.detach().clone() for t in tensors))
    if not seen.layers:
        raise InvalidValueError(
            f"forward_func ({type(forward_func).__name__}) runs no attention; expected a transformer (GradCAM and "
            "others explain any network)"
        )
    return {describe(layer, (forward_func,)).strip("'"): layer for layer in seen.layers}


def no_attention(layer: nn.Module | None, models: Sequence[nn.Module], found: Sequence[nn.Module]) -> str:
    """Returns the error for a layer in which no attention ran, with the nearest layers in which some did."""
    order = {module: i for i, module in enumerate(m for model in models for m in model.modules())}
    at = order.get(layer, 0) if layer is not None else 0
    nearest = sorted(found, key=lambda module: abs(order.get(module, 0) - at))[:3]
    names = ", ".join(describe(module, models) for module in nearest)
    cure = f"expected a layer that holds attention; the nearest are {names}" if names else "this model runs none at all"
    return f"layer {describe(layer, models)} makes no attention weights (a softmax over keys); {cure}"
