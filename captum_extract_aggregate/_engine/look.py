"""One more forward, which shows of what the dimensions at each place are made.

A dimension of size 1 does not show whether it is that of the examples. So a single example is looked at beside a copy
of itself, where the model takes two.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.attention_seen import AttentionSeen
from captum_extract_aggregate._engine.dimensions import Watch
from captum_extract_aggregate._engine.evidence import Look, Tensors
from captum_extract_aggregate._engine.model_state import prepare_pass, set_modes
from captum_extract_aggregate._engine.outputs import scores_or_output
from captum_extract_aggregate._engine.parts import Dim, Dims
from captum_extract_aggregate._engine.taps import (
    Place,
    input_values,
    output_values,
    tappable,
)


def one_more_forward(
    forward_func: Callable[..., Any], tensors: Tensors, places: list[Place], extra: tuple[Any, ...]
) -> Look:
    """Runs the forward once more, and returns what it showed."""
    if len(tensors[0]) == 1:
        try:
            return _alone(_looked(forward_func, tensors, places, extra, twice=True))
        except Exception:  # a model of one example at a time
            pass
    return _looked(forward_func, tensors, places, extra, twice=False)


def _looked(
    forward_func: Callable[..., Any],
    tensors: Tensors,
    places: list[Place],
    extra: tuple[Any, ...],
    twice: bool,
) -> Look:
    """Runs the forward, on a single example twice if asked to."""
    leaves = [_doubled(t.detach()) if twice else t.detach().clone() for t in tensors]
    extra = tuple(_doubled(t) if twice and isinstance(t, Tensor) else t for t in extra)
    watch = Watch((*leaves, *(t for t in extra if isinstance(t, Tensor))), len(leaves[0]))
    eyes = _Eyes(watch, places)
    layers = {place.layer for place in places}
    with Undo() as undo, undo:
        set_modes(undo, grad=False)
        prepare_pass(undo, forward_func, tensors, False, layers, layers - {None})
        watch.__enter__()  # left with this thread's other function modes
        eyes.begin(undo)
        output = scores_or_output(forward_func(*leaves, *extra))
    if twice and isinstance(output, Tensor) and output.shape[:1] != (2,):
        raise InvalidValueError("the model takes one example at a time")
    return Look(eyes.dims(leaves), watch.parameters, eyes.lengths() if twice else {})


def _doubled(t: Tensor) -> Tensor:
    """Returns a single example twice; whatever else as it is."""
    return torch.cat((t, t)) if t.ndim and len(t) == 1 else t.clone()


def _alone(look: Look) -> Look:
    """Returns what was seen of two examples as it is of one, whose dimension keeps its part."""

    def of_one(dim: Dim) -> Dim:
        return tuple(part._replace(size=1) if part.kind == "batch" else part for part in dim)

    def of_place(seen: list[Dims | None]) -> list[Dims | None]:
        return [None if dims is None else tuple(map(of_one, dims)) for dims in seen]

    return look._replace(dims={place: of_place(seen) for place, seen in look.dims.items()})


class _Eyes:
    """Looks at the dimensions of what passes each place, call by call."""

    def __init__(self, watch: Watch, places: list[Place]) -> None:
        self._watch = watch
        self._calls: dict[Place, list[list[Dims | None]]] = {place: [] for place in places}
        self._lengths: dict[Place, list[int]] = {}

    def begin(self, undo: Undo) -> None:
        """Looks from here on, until all is undone."""
        for place in self._calls:
            if place.layer is not None and place.side == "output":
                undo.hook(place.layer, "register_forward_hook", functools.partial(self._after, place))
            elif place.layer is not None and place.side == "input":
                hook = functools.partial(self._before, place)
                undo.hook(place.layer, "register_forward_pre_hook", hook, with_kwargs=True)
        if any(place.side == "attention" for place in self._calls):
            AttentionSeen(self._attended).begin(undo)

    def _see(self, place: Place, values: Sequence[Any]) -> None:
        seen = [values[i] for i in tappable(place, values)]
        self._calls[place].append([self._watch.dims(t) for t in seen])
        self._lengths[place] = [t.shape[0] if t.ndim else 1 for t in seen]

    def _after(self, place: Place, module: nn.Module, args: Any, output: Any) -> None:
        self._see(place, output_values(output))

    def _before(self, place: Place, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._see(place, input_values(args, kwargs))

    def _attended(self, running: list[nn.Module], logits: Tensor, weights: Tensor) -> Tensor:
        for place, calls in self._calls.items():
            if place.side == "attention" and place.layer in running:
                calls.append([self._watch.dims(weights)])
        return weights

    def lengths(self) -> dict[Place, list[int]]:
        """Returns how long dimension 0 was at each place that was passed once: a model may run its layers on one
        example after the other."""
        return {place: lengths for place, lengths in self._lengths.items() if len(self._calls[place]) == 1}

    def dims(self, leaves: Sequence[Tensor]) -> dict[Place, list[Dims | None]]:
        """Returns what was seen at each place that anything passed."""
        found: dict[Place, list[Dims | None]] = {}
        for place, calls in self._calls.items():
            if place.layer is None:
                found[place] = [self._watch.dims(t) for t in leaves]
            elif calls and (place.call is None or -len(calls) <= place.call < len(calls)):
                chosen = itertools.chain(*calls) if place.optional else calls[place.call or 0]
                found[place] = [None if dims is None else self._watch.told(dims) for dims in chosen]
        return found
