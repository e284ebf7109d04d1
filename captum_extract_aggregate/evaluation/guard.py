"""What code of the user's own cannot change for what runs after it: the model, and what a process has but one of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo

_HOOKS = tuple(
    getattr(nn.modules.module, f"_global_{kind}hooks")
    for kind in ("forward_", "forward_pre_", "backward_", "backward_pre_")
)


def _set_hooks(hooks: list[list[Any]]) -> None:
    for held, items in zip(_HOOKS, hooks):
        held.clear()
        held.update(items)


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)
    if torch._GLOBAL_DEVICE_CONTEXT.device_context is None:
        del torch._GLOBAL_DEVICE_CONTEXT.device_context  # None is more than PyTorch 2.3 can read


# How to read and how to set what a process has only one of.
_SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (lambda: torch.empty(0).device, _set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (np.geterr, lambda how: np.seterr(**how)),
    (os.getcwd, os.chdir),
    (lambda: [list(held.items()) for held in _HOOKS], _set_hooks),
)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Brings grad mode, default dtype and device, threads, hooks on all modules and the like back as they were."""
    with Undo() as undo, undo:
        for read, write in _SWITCHES:
            undo.callback(_restore, read, write, read())
        yield


def _restore(read: Callable[[], Any], write: Callable[[Any], Any], value: Any) -> None:
    if read() != value:
        write(value)


class Keeper:
    """Keeps a model as it is: `restore` undoes whatever was done to its modules, their hooks, flags and tensors."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, {name: (value, _items(value)) for name, value in module.__dict__.items()})
            for module in model.modules()
        ]
        held = [*model.parameters(), *model.buffers()]
        held += [t for module in model.modules() for t in module.__dict__.values() if isinstance(t, Tensor)]
        self._tensors = [(t, t.detach().clone(), t.requires_grad, t.grad if t.is_leaf else None) for t in held]

    def restore(self) -> None:
        """Puts the model back as it was when this was made."""
        for module, attributes in self._modules:
            if not _is_as_before(module, attributes):
                _put_back(module, attributes)
        for t, value, requires_grad, grad in self._tensors:
            if t.shape != value.shape or t.dtype != value.dtype or t.device != value.device:
                t.grad = None
                t.data = value.clone()
            elif not torch.equal(t, value):
                t.data.copy_(value)
            if t.is_leaf:
                t.grad = grad
                t.requires_grad_(requires_grad)


_Attributes = dict[str, tuple[Any, list[Any] | None]]  # each value and, of dictionaries and lists, what they hold


def _items(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    return list(value) if isinstance(value, list) else None


def _is_as_before(module: nn.Module, attributes: _Attributes) -> bool:
    now = module.__dict__
    if now.keys() != attributes.keys() or any(now[name] is not value for name, (value, _) in attributes.items()):
        return False
    return all(items is None or _are_identical(_items(value) or [], items) for value, items in attributes.values())


def _are_identical(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b))


def _put_back(module: nn.Module, attributes: _Attributes) -> None:
    module.__dict__.clear()
    for name, (value, items) in attributes.items():
        module.__dict__[name] = value
        if items is not None:
            value.clear()
            value.update(zip(items[::2], items[1::2])) if isinstance(value, dict) else value.extend(items)
