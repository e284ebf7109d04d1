"""One more forward, which shows of what the dimensions at each place are made."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.attention_seen import AttentionSeen
from captum_extract_aggregate._engine.dimensions import Watch
from captum_extract_aggregate._engine.evidence import Look, Tensors
from captum_extract_aggregate._engine.model_state import prepare_pass, set_modes
from captum_extract_aggregate._engine.parts import Dims
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
    leaves = [t.detach().clone() for t in tensors]
    watch = Watch((*leaves, *(t for t in extra if isinstance(t, Tensor))), len(tensors[0]))
    eyes = _Eyes(watch, places)
    layers = {place.layer for place in places}
    with Undo() as undo, undo:
        set_modes(undo, grad=False)
        prepare_pass(undo, forward_func, tensors, False, layers, layers - {None})
        watch.__enter__()  # left with this thread's other function modes
        eyes.begin(undo)
        forward_func(*leaves, *extra)
    return Look(eyes.seen(leaves), watch.parameters)


class _Eyes:
    """Looks at the dimensions of what passes each place, call by call."""

    def __init__(self, watch: Watch, places: list[Place]) -> None:
        self._watch = watch
        self._calls: dict[Place, list[list[Dims | None]]] = {place: [] for place in places}

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
        self._calls[place].append([self._watch.dims(values[i]) for i in tappable(place, values)])

    def _after(self, place: Place, module: nn.Module, args: Any, output: Any) -> None:
        self._see(place, output_values(output))

    def _before(self, place: Place, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._see(place, input_values(args, kwargs))

    def _attended(self, running: list[nn.Module], logits: Tensor, weights: Tensor) -> Tensor:
        for place, calls in self._calls.items():
            if place.side == "attention" and place.layer in running:
                calls.append([self._watch.dims(weights)])
        return weights

    def seen(self, leaves: Sequence[Tensor]) -> dict[Place, list[Dims | None]]:
        """Returns what was seen at each place that anything passed."""
        found: dict[Place, list[Dims | None]] = {}
        for place, calls in self._calls.items():
            if place.layer is None:
                found[place] = [self._watch.dims(t) for t in leaves]
            elif calls and (place.call is None or -len(calls) <= place.call < len(calls)):
                chosen = itertools.chain(*calls) if place.optional else calls[place.call or 0]
                found[place] = [None if dims is None else self._watch.told(dims) for dims in chosen]
        return found
