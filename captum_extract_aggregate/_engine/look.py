"""One more forward, which shows of what the dimensions at each place are made."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.dimensions import Watch
from captum_extract_aggregate._engine.evidence import Look, Tensors
from captum_extract_aggregate._engine.model_state import prepared, set_modes
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
    calls: dict[Place, list[list[Dims | None]]] = {place: [] for place in places}

    def see(place: Place, values: Sequence[Any]) -> None:
        calls[place].append([watch.dims(values[i]) for i in tappable(place, values)])

    def after(place: Place, module: nn.Module, args: Any, output: Any) -> None:
        see(place, output_values(output))

    def before(place: Place, module: nn.Module, args: Any, kwargs: Any) -> None:
        see(place, input_values(args, kwargs))

    layers = {place.layer for place in places}
    with Undo() as undo, undo:
        set_modes(undo, grad=False)
        prepared(undo, forward_func, tensors, False, layers, layers - {None})
        for place in places:
            if place.layer is not None and place.side == "output":
                undo.hook(place.layer, "register_forward_hook", functools.partial(after, place))
            elif place.layer is not None:
                hook = functools.partial(before, place)
                undo.hook(place.layer, "register_forward_pre_hook", hook, with_kwargs=True)
        watch.__enter__()  # left with this thread's other function modes
        forward_func(*leaves, *extra)
    seen: dict[Place, list[Dims | None]] = {}
    for place, of_place in calls.items():
        if place.layer is None:
            seen[place] = [watch.dims(t) for t in leaves]
        elif of_place and (place.call is None or -len(of_place) <= place.call < len(of_place)):
            chosen = itertools.chain(*of_place) if place.optional else of_place[place.call or 0]
            seen[place] = [None if dims is None else watch.told(dims) for dims in chosen]
    return Look(seen, watch.parameters)
