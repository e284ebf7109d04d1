"""Which entries of a forward's tensors are constants: padding, however it is written.

`F.pad`, `nn.ZeroPad2d`, concatenation with constants, writing into a buffer of them and masks with a fixed value all
make tensors that depend on the input at some entries and nowhere else. A rule that asks what an operation's inputs are
must not count the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._engine.operations import Call, tensors_in

Tensors = tuple[Tensor, ...]

# Calls that may put constants beside what depends on the input; for some, where the number lies that they put there.
_JOINS = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "copy", "slice_scatter")
_SPARSE = ("max_unpool1d", "max_unpool2d", "max_unpool3d")
_FILLS = {"pad": 3, "constant_pad_nd": 2, "setitem": 2, "masked_fill": 2, "where": 2}
# Each output is one input, or made of several of one tensor.
_MOVES = ("routing", "winner", "maximum", "average", "choice")


class Varying:
    """For tensors that are partly constant, where they are not: a mask of their shape.

    It is kept for the tensor that owns the memory; views see their part of it.
    """

    def __init__(self) -> None:
        self._masks: Any = WeakIdKeyDictionary()

    def of(self, t: Tensor) -> Tensor | None:
        """False at the constants of a tensor that depends on the input; None: there are none."""
        if not self._masks:
            return None
        owner = _owner(t)
        mask: Tensor | None = self._masks.get(owner)
        if mask is None or t is owner:
            return mask
        return mask.as_strided(t.shape, t.stride(), t.storage_offset() - owner.storage_offset())

    def note(self, call: Call, variables: Tensors, output: Any) -> None:
        """Called after each call in which something depends on the input."""
        masks = [self.of(t) for t in variables] if self._masks else [None] * len(variables)
        if all(mask is None for mask in masks) and not _brings_constants(call, variables):
            return
        result = call.args[0] if output is None else next(iter(tensors_in(output)), None)
        if result is None or call.kind in ("linear", "custom"):  # of its inputs, some are none: it varies everywhere
            return
        written = output is None or call.in_place
        if result._base is None or written:  # another view has its owner's mask
            given = list(zip(variables, masks))
            mask = _moved(call, given) if call.kind in _MOVES else _united(given, result)
            self._keep(result, mask, varied=not written or any(result is t for t in variables))

    def _keep(self, t: Tensor, mask: Tensor, varied: bool) -> None:
        owner = _owner(t)
        if owner not in self._masks or t is owner:
            fill = torch.ones_like if varied else torch.zeros_like
            self._masks[owner] = fill(owner, dtype=torch.bool)
        own = self.of(t)
        assert own is not None
        own.copy_(mask)


def _owner(t: Tensor) -> Tensor:
    return t if t._base is None else t._base


def _brings_constants(call: Call, variables: Tensors) -> bool:
    if call.name in ("pad", "constant_pad_nd"):
        return call.name != "pad" or call.argument(2, "mode", "constant") == "constant"
    if call.name == "unfold":
        return call.function is F.unfold and call.argument(3, "padding", 0) not in (0, (0, 0), [0, 0])
    if call.name in _FILLS and not isinstance(call.argument(_FILLS[call.name], "value"), Tensor):
        return True
    if call.name not in (*_JOINS, *_FILLS) and not call.in_place:
        return call.name in _SPARSE
    constants = [t for t in tensors_in((call.args, call.kwargs)) if not any(t is v for v in variables)]
    if call.in_place:  # into a buffer
        return any(t is call.args[0] for t in constants)
    return any(t.is_floating_point() for t in constants)


def _moved(call: Call, given: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Returns the mask of the output, as the call moves the inputs' masks: 1 for what varies, 0 for constants."""

    def number(t: Tensor) -> Tensor:
        for variable, mask in given:
            if t is variable:
                return torch.ones_like(t) if mask is None else mask.to(t.dtype)
        return torch.zeros_like(t) if t.is_floating_point() else t

    args, kwargs = list(_mapped(call.args, number)), _mapped(call.kwargs, number)
    position = _FILLS.get(call.name, len(args))
    if position < len(args) and _is_number(args[position]):
        args[position] = 0
    kwargs.update({name: 0 for name in ("value", "other") if _is_number(kwargs.get(name))})
    with torch.no_grad():
        found = call.function(*args, **kwargs)
    result = args[0] if found is None else tensors_in(found)[0]
    return result > 0


def _mapped(value: Any, number: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return number(value)
    if isinstance(value, dict):
        return {name: _mapped(v, number) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        mapped = [_mapped(v, number) for v in value]
        return mapped if isinstance(value, list) else tuple(mapped)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _united(given: list[tuple[Tensor, Tensor | None]], result: Tensor) -> Tensor:
    """Returns the mask of what is made of several tensors entry by entry: it varies where one of them does."""
    masks = [torch.ones_like(t, dtype=torch.bool) if mask is None else mask for t, mask in given]
    united = torch.zeros_like(result, dtype=torch.bool)
    for mask in masks:
        united |= mask
    return united
