"""Whatever a network adds to a signal, call by call, with the places where it is added."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.added import Added
from captum_extract_aggregate._engine.dimensions import Watch
from captum_extract_aggregate._engine.layers import describe, running_modules
from captum_extract_aggregate._engine.model_state import function_modes, leave_function_modes
from captum_extract_aggregate._engine.operations import Call, tensors_in


class BiasTerm(NamedTuple):
    """Holds what one call of a network adds to the score.

    Attributes:
        name: of the parameter that is added (`"encoder.pos_embedding"`), or else of the function and of the module that
            calls it.
        map: `N x 1 x *S`, signed, in units of the score: what is added at positions of the input; None: nothing is.
        elsewhere: `N`, in the same units: what is added at class tokens, behind pooling, or where positions cannot be
            told.
    """

    name: str
    map: Tensor | None
    elsewhere: Tensor


class Listing:
    """A ledger of balanced gradients that keeps what each call adds, the dimensions of its output watched."""

    def __init__(self, model: nn.Module | None, extra: Iterable[object]) -> None:
        self._told: dict[int, Added] = {}
        self._calls = itertools.count()
        self._extra = [t for t in extra if isinstance(t, Tensor)]
        self._models = () if model is None else (model,)
        named = [] if model is None else [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(t): name for name, t in named}

    def begin(self, undo: Undo, leaves: Sequence[Tensor]) -> None:
        """Watches the dimensions of what is made of the leaves, until all is undone."""
        self._watch = Watch((*leaves, *self._extra), len(leaves[0]))
        undo.callback(leave_function_modes, function_modes())
        self._watch.__enter__()

    def __call__(self, call: Call, output: Tensor) -> Callable[[Tensor], None]:
        """Returns what is to be told in each backward what the call adds."""
        given = [t for t in tensors_in((call.args, call.kwargs)) if not t.requires_grad]
        name, ids, dims = self._name(call, given), frozenset(map(id, given)), self._watch.dims(output)
        number = next(self._calls)
        watch = self._watch  # no tensor is kept: the graph keeps this function

        def tell(values: Tensor) -> None:
            self._told[number] = Added(name, ids, None if dims is None else watch.told(dims), values)

        return tell

    def take(self) -> list[Added]:
        """Returns what was told since the last time, in the order of the calls."""
        told, self._told = self._told, {}
        return [told[number] for number in sorted(told)]

    def _name(self, call: Call, given: list[Tensor]) -> str:
        known = self._names.get(id(given[-1])) or self._names.get(id(given[-1]._base)) if given else None
        module = next(running_modules(), None)
        return known or call.name + ("" if module is None else f" in {describe(module, self._models)}")


def bias_terms(added: Iterable[list[Added]], batch: int) -> list[BiasTerm]:
    """Returns the terms of a batch, of what each example's own backward showed."""
    by_example = [[_of_example(call, i, batch) for call in calls] for i, calls in enumerate(added)]
    return [_of_batch(list(parts)) for parts in zip(*by_example, strict=True)]  # one call's, example by example


def _of_example(call: Added, i: int, batch: int) -> BiasTerm:
    placed = call.placed(batch)
    total = call.values.sum().reshape(1)
    if placed is None:
        return BiasTerm(call.name, None, total)
    map_ = placed[i : i + 1].sum(1, keepdim=True)
    return BiasTerm(call.name, map_, total - map_.sum())


def _of_batch(parts: list[BiasTerm]) -> BiasTerm:
    maps = [part.map for part in parts if part.map is not None]
    is_anywhere = any(bool(m.any()) for m in maps)
    return BiasTerm(parts[0].name, torch.cat(maps) if is_anywhere else None, torch.cat([p.elsewhere for p in parts]))
