"""Maps that can be differentiated, for losses that are about a map: attention that is guided, maps that should agree.

Here nothing is frozen, detached or put back: the forward is the caller's own, in its mode (train or eval) and
precision, its activations keep their graph, and the gradients among them are taken with `create_graph`. So a loss of
the map has the derivative of all that the map is made of, which is of second order where the map holds gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import checked_inputs, describe, model_of
from captum_extract_aggregate._engine.model_state import uncompiled, without_autocast
from captum_extract_aggregate._engine.taps import (
    Place,
    Tapped,
    at_input,
    at_output,
    chosen_call,
    gradient_edge,
    never_ran,
    tappable,
)
from captum_extract_aggregate._engine.targets import Target, select_scores

Calls = dict[Place, list[list[Tapped]]]


def evidence_with_graph(
    forward_func: Callable[..., Any],
    inputs: Any,
    places: Sequence[Place],
    target: Target,
    additional_forward_args: Any,
) -> Evidence:
    """Returns what one forward and one backward of the caller's own show of the places, with its graph."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise InvalidValueError(
            "gradients are off (torch.no_grad or inference_mode), so that no map can have a graph; expected them on, "
            "or attribute, which needs none"
        )
    model = model_of(forward_func)
    models = () if model is None else (model,)
    tensors = tuple(t if t.requires_grad or not t.is_floating_point() else t.detach() for t in checked_inputs(inputs))
    calls: Calls = {place: [] for place in places}
    extra = _format_additional_forward_args(additional_forward_args) or ()
    with Undo() as hooks, hooks:
        for place in calls:
            if place.layer is None:
                tensors = tuple(_differentiable(t) if t.is_floating_point() else t for t in tensors)
                calls[place].append([Tapped(t, gradient_edge(t)) for t in tensors if t.is_floating_point()])
            else:
                _hook(hooks, place, place.layer, calls[place])
        output = uncompiled(forward_func)(*(t.clone() for t in tensors), *extra)
    scores = select_scores(output, target)
    if len(scores) != len(tensors[0]):
        raise InvalidValueError(
            f"forward_func gives {len(scores)} score(s) for a batch of {len(tensors[0])}; expected one per example"
        )
    met = {place: tuple(_call_of(place, found, models)) for place, found in calls.items()}
    wanted = [tapped.edge for place, tapped_there in met.items() if place.differentiate for tapped in tapped_there]
    found = iter(_gradients(scores, wanted))
    gradients = {place: tuple(next(found) for _ in met[place]) for place in met if place.differentiate}
    for place, of_place in gradients.items():
        if all(g is None for g in of_place):
            raise InvalidValueError(
                f"the explained score does not depend on {describe(place.layer, models)} in a differentiable way; "
                "expected a layer between the input and the output"
            )
    filled = {
        place: tuple(torch.zeros_like(t.value) if g is None else g for t, g in zip(met[place], of_place))
        for place, of_place in gradients.items()
    }
    order = {place: tuple(range(len(found))) for place, found in met.items()}
    activations = {place: tuple(tapped.value for tapped in found) for place, found in met.items()}
    return Evidence(scores, activations, filled, order, tensors, models)


def _gradients(scores: Tensor, edges: list[Any]) -> Sequence[Tensor | None]:
    if not scores.requires_grad or not edges:
        return [None] * len(edges)
    with Undo() as undo, undo:
        without_autocast(undo)
        return torch.autograd.grad(scores.sum(), edges, create_graph=True, allow_unused=True)


def _differentiable(t: Tensor) -> Tensor:
    return t if t.requires_grad else t.detach().requires_grad_()


def _hook(undo: Undo, place: Place, layer: nn.Module, calls: list[list[Tapped]]) -> None:
    """Keeps copies of a layer's tensors, and where in the graph their derivative arrives.

    The very tensors go on: whatever else uses them belongs to the derivative. Where nothing requires a gradient yet, a
    leaf begins, which nobody could overwrite; what goes on is a clone of it.
    """

    def tapped(values: list[Any]) -> list[Any]:
        calls.append([])
        for i in tappable(place, values):
            value = values[i]
            if value.requires_grad or not place.differentiate:
                calls[-1].append(Tapped(value.clone(), gradient_edge(value) if place.differentiate else None))
            else:
                leaf = _differentiable(value)
                calls[-1].append(Tapped(leaf, gradient_edge(leaf)))
                values[i] = leaf.clone()
        return values

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return at_output(tapped, output)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return at_input(tapped, args, kwargs)

    if place.side == "output":
        undo.hook(layer, "register_forward_hook", after)
    else:
        undo.hook(layer, "register_forward_pre_hook", before, with_kwargs=True)


def _call_of(place: Place, calls: Any, models: tuple[nn.Module, ...]) -> list[Tapped]:
    if not calls:
        raise InvalidValueError(never_ran(place, models))
    found: Any = calls[0] if place.layer is None else chosen_call(place, calls, models)
    if not found:
        raise InvalidTypeError(
            f"{describe(place.layer, models)} gives no floating point tensor; expected one, or a tuple"
        )
    return list(found)
