"""Layers by name, names of layers, and the inputs of a network."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name

Layer = nn.Module | str | None
_RUNS_A_MODULE = nn.Module._call_impl.__code__


def model_of(forward_func: Callable[..., Any]) -> nn.Module | None:
    """Returns the module behind a forward function, if it is one: a module, a method of one, or a partial of those."""
    if isinstance(forward_func, functools.partial):
        return model_of(forward_func.func)
    owner = forward_func if isinstance(forward_func, nn.Module) else getattr(forward_func, "__self__", None)
    return as_written(owner) if isinstance(owner, nn.Module) else None


def as_written(module: nn.Module) -> nn.Module:
    """Returns the module itself, or the one that torch.compile wrapped in it."""
    held = module._modules  # getattr would make an error for every module that is none; a scripted one's has no `get`
    return held["_orig_mod"] if "_orig_mod" in held else module  # type: ignore[return-value]  # noqa: SIM401


def describe(layer: nn.Module | None, models: Sequence[nn.Module]) -> str:
    """Returns how errors call a layer: its dotted name where a model knows it, and its type."""
    if layer is None:
        return "the input"
    for model in models:
        for name, module in model.named_modules():
            if module is layer:
                return repr(name) if name else f"the whole {type(layer).__name__}"
    return type(layer).__name__


def running_modules() -> Iterator[nn.Module]:
    """Yields the modules that are running in this thread (their hooks included), innermost first.

    They are read off its frames, which costs nothing while nobody asks.
    """
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self") if frame.f_code is _RUNS_A_MODULE else None
        if isinstance(module, nn.Module):
            yield module
        frame = frame.f_back  # type: ignore[assignment]


def find_layer(layer: Layer, forward_func: Callable[..., Any]) -> nn.Module | None:
    """Returns a module as it is; a dotted name looked up in the model; None (the input) stays None."""
    if layer is None:
        return None
    if isinstance(layer, nn.Module):
        return as_written(layer)
    if not isinstance(layer, str):
        raise InvalidTypeError(
            f"layer is a {type(layer).__name__}; expected a module, a dotted name, a list of those, or None for the "
            "network's input"
        )
    model = model_of(forward_func)
    if model is None:
        raise InvalidTypeError(
            f"layer is the name {layer!r}, but forward_func is a {type(forward_func).__name__}, not a model to look "
            "it up in; expected the module itself: layer=model.get_submodule(name)"
        )
    inner = model
    while "scored_model" in vars(inner):  # whose parts the model shares (see scores/base.py)
        inner = vars(inner)["scored_model"]
    if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)) and not layer.startswith("module."):
        model = inner.module
    modules = dict(model.named_modules())
    if not layer or layer not in modules:
        raise InvalidValueError(
            unknown_name("layer", layer, [name for name in modules if name], "; default_layers(model) lists good ones")
        )
    return modules[layer]


def checked_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Returns `inputs` as a tuple of tensors of one batch size, or our error."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    for t in tensors:
        if not isinstance(t, Tensor):
            raise InvalidTypeError(
                f"inputs is or holds a {type(t).__name__}; expected a tensor or a tuple of tensors, batch first"
            )
        if t.ndim == 0 or t.shape[0] == 0:
            raise InvalidValueError(f"inputs holds a tensor of shape {tuple(t.shape)}; expected at least one example")
    if len({t.shape[0] for t in tensors}) != 1:
        raise InvalidValueError(f"inputs hold batches of {[t.shape[0] for t in tensors]}; expected one batch size")
    return tensors
