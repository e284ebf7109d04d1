"""One pass for several methods: the maps of all of them, for each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import on_cpu
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.model_state import set_modes, without_autocast
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Targets

if TYPE_CHECKING:
    from captum_extract_aggregate.attr.base import CaptureAttribution

Map = Tensor | tuple[Tensor, ...]


Maps = Map | list[Map]


Plan = Sequence[tuple[Place, ...]]  # the places that each layer's map needs


def maps_per_target(
    methods: Mapping[str, CaptureAttribution],
    inputs: Any,
    targets: Targets,
    additional_forward_args: Any,
    to_input: bool,
) -> list[dict[str, Maps]]:
    """Runs one pass for all methods (which share a forward_func), and returns for each target every method's maps."""
    plans = {name: method.plan(to_input) for name, method in methods.items()}
    places = [place for plan in plans.values() for place in places_of(plan)]
    first = next(iter(methods.values()))
    with Undo() as undo, undo:
        set_modes(undo, grad=False)
        by_target = first.run_pass(inputs, places, additional_forward_args, targets)  # the forward, as the caller's
        without_autocast(undo)
        found = []
        for evidence in by_target:
            found.append(_maps_of_all(methods, inputs, evidence, plans))
            del evidence  # its gradients' memory is the next backward's
        return found


def _maps_of_all(
    methods: Mapping[str, CaptureAttribution], inputs: Any, evidence: Evidence, plans: Mapping[str, Plan]
) -> dict[str, Maps]:
    """Returns the maps of one target."""
    return {name: method.all_maps(inputs, evidence, plans[name]) for name, method in methods.items()}


def places_of(plan: Plan) -> list[Place]:
    """Returns the places of all layers."""
    return [place for places in plan for place in places]


def finished(m: Tensor, evidence: Evidence) -> Tensor:
    """Returns the map in the inputs' dtype; NaN where the score was not finite (on the CPU that has raised already)."""
    dtype = next((t.dtype for t in evidence.inputs if t.is_floating_point()), m.dtype)
    if not on_cpu(m):
        finite = torch.isfinite(evidence.scores).to(m.device).reshape(-1, *(1,) * (m.ndim - 1))
        m = torch.where(finite, m, torch.nan)
    return m.to(dtype)


def stacked(maps: list[Any]) -> Any:
    """Returns T results of the same form as one result with T in dimension 1."""
    if isinstance(maps[0], (list, tuple)):
        return type(maps[0])(stacked(list(column)) for column in zip(*maps))
    return torch.stack(maps, 1)
