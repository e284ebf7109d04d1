"""How a method writes itself: `repr(method)` is the call that makes it again."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from captum.attr import Attribution
from torch import nn
from torch.overrides import resolve_name

from captum_extract_aggregate._engine.layers import model_of


class Rebuilt:
    """Gives a class a `__repr__` that makes the object again, where `model` is its network.

    The names that it uses are those of this package, of `captum_extract_aggregate.rules`, of `captum.attr`, and
    `torch`. Functions of the user's (a layout, an aggregate, a network that is none of torch's modules) go by their
    names. Only what differs from its default is written.
    """

    def argument(self, name: str) -> Any:
        """Returns what the object was made with; the attribute of that name, where a class does not say otherwise."""
        return getattr(self, name, inspect.signature(type(self).__init__).parameters[name].default)

    def __repr__(self) -> str:
        owner: Any = self
        model = None if not callable(getattr(owner, "forward_func", None)) else model_of(owner.forward_func)
        written = []
        for name, parameter in list(inspect.signature(type(self).__init__).parameters.items())[1:]:
            if name in ("model", "forward_func") and parameter.default is parameter.empty:
                written.append(_network(owner.forward_func))
                continue
            value = self.argument(name)
            if parameter.default is parameter.empty or (name == "layer" and value is not None):
                written.append(written_as(value, model))
            elif not _is_default(value, parameter.default):
                written.append(f"{name}={written_as(value, model)}")
        return f"{type(self).__name__}({', '.join(written)})"


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (
        type(value) is type(default) and not isinstance(value, torch.Tensor) and value == default
    )


def _network(forward_func: Any) -> str:
    return "model" if isinstance(forward_func, nn.Module) else getattr(forward_func, "__name__", "forward_func")


def written_as(value: Any, model: nn.Module | None) -> str:
    """Returns an argument as Python that makes it again: layers by their names, parameters too."""
    if isinstance(value, nn.Module):
        return _module(value, model)
    if isinstance(value, torch.Tensor):
        return _tensor(value, model)
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return f"float({str(value)!r})"
    if isinstance(value, type):
        own = getattr(torch.nn, value.__name__, None) is value
        return f"torch.nn.{value.__name__}" if own else value.__name__
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{written_as(k, model)}: {written_as(v, model)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(written_as(v, model) for v in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # a propagation rule
        fields = [f"{f.name}={written_as(getattr(value, f.name), model)}" for f in dataclasses.fields(value)]
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, (Rebuilt, Attribution)):
        return captums_method(value)
    if callable(value) and hasattr(value, "__name__"):
        return str(resolve_name(value) or value.__name__)
    return repr(value)


def _module(module: nn.Module, model: nn.Module | None) -> str:
    for name, known in model.named_modules() if model is not None else ():
        if known is module:
            return repr(name) if name else "model"
    return f"<{type(module).__name__}>"


def _tensor(value: torch.Tensor, model: nn.Module | None) -> str:
    for name, known in model.named_parameters() if model is not None else ():
        if known is value:
            return repr(name)
    return f"torch.tensor({value.tolist()!r})"


def captums_method(method: Any) -> str:
    """Returns one of Captum's objects, which takes its layer as a module, as a call; ours write themselves."""
    if not type(method).__module__.startswith("captum.") or isinstance(method, Rebuilt):
        return repr(method)
    wrapped = getattr(method, "attribution_method", None)
    if wrapped is not None:
        return f"{type(method).__name__}({captums_method(wrapped)})"
    model = model_of(method.forward_func)
    layers = getattr(method, "layer", None)
    if layers is None:
        return f"{type(method).__name__}({_network(method.forward_func)})"
    given: Sequence[Any] = layers if isinstance(layers, (list, tuple)) else [layers]
    found = [f"model.get_submodule({_module(layer, model)})" for layer in given]
    where = f"[{', '.join(found)}]" if isinstance(layers, (list, tuple)) else found[0]
    return f"{type(method).__name__}({_network(method.forward_func)}, {where})"
