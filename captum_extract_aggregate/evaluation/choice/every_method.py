"""Every method that a network admits, each at the layers that it goes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, said
from captum_extract_aggregate.attr.by_name import find_method, list_methods
from captum_extract_aggregate.evaluation.explained import Column
from captum_extract_aggregate.evaluation.methods import INPUT, explain_together, make_ready
from captum_extract_aggregate.evaluation.plan import MethodPlan

_MOST_LAYERS = 3  # of a kind
_AROUND = ("meta-saliency", "class-competition", "finercam", "libra-grad")  # put around others
_NO_METHOD_OF_ITS_OWN = ("extract-aggregate", "lrp")  # any cell of the grid; LRP stands there by its gamma
_ALIKE = 1e-4  # relative to the largest magnitude
_VARIANTS = (
    MethodPlan("class-competition", "linear-approximation, competing", arguments={"method": "linear-approximation"}),
    MethodPlan("class-competition", "normgrad, competing", arguments={"method": "normgrad"}),
    MethodPlan("finercam", "finercam"),
    MethodPlan("libra-grad", "linear-approximation, balanced"),
    MethodPlan("meta-saliency", "normgrad, meta-saliency", arguments={"method": "normgrad", "lr": 0.002}),
    MethodPlan("captum:Saliency", channels="max_abs"),
    MethodPlan("captum:InputXGradient"),
    MethodPlan("captum:LayerGradCam"),
    MethodPlan("captum:LayerGradientXActivation"),
    MethodPlan("captum:GuidedBackprop", channels="max_abs"),
    MethodPlan("captum:Deconvolution", channels="max_abs"),
    MethodPlan("captum:GuidedGradCam"),
)


def method_plans() -> list[MethodPlan]:
    """Returns this package's methods, those registered, methods around others, and Captum's own that need one pass."""
    single = [name for name in list_methods() if name not in (*_AROUND, *_NO_METHOD_OF_ITS_OWN)]
    return [*(MethodPlan(name) for name in single), *_VARIANTS]


@dataclass(frozen=True)
class Admitted:
    """Holds methods that a network admits.

    Attributes:
        plans: by label, each with the layers that it has a map of.
        tried: by label, the maps of one input at these layers, for the classes that score highest and lowest.
        left_out: of labels of other methods, why.
    """

    plans: Mapping[str, MethodPlan]
    tried: Mapping[str, Sequence[Column]]
    left_out: Mapping[str, str]

    def places(self, label: str) -> list[str]:
        """Returns the names of a method's columns."""
        return [column.layer for column in self.tried[label]]

    def are_alike(self, one: tuple[str, str], other: tuple[str, str]) -> bool:
        """Tells whether two methods, each at one of its places, have the same maps of the input but for scale."""
        a, b = (next(c for c in self.tried[label] if c.layer == place) for label, place in (one, other))
        return all(_alike(m, n) for m, n in zip(a.maps, b.maps))


def admitted(plans: Sequence[MethodPlan], model: nn.Module, x: Tensor, layers: Sequence[str]) -> Admitted:
    """Returns the methods that explain one input; each is tried at the layers.

    Args:
        plans: those that name no layers go with `layers`, or with layers of their kind.
        model: in eval mode. x: one input, `1 x C x H x W`. layers: names, `"input"` perhaps among them.
    """
    with torch.no_grad():
        scores = model(x)
    targets = torch.stack([scores.argmax(1), scores.argmin(1)], 1)
    found: dict[str, tuple[MethodPlan, list[Column]]] = {}
    left_out = {}
    for plan in plans:
        label = plan.label or plan.method
        try:
            found[label] = _tried(plan, model, x, targets, layers)
        except InvalidValueError as error:
            left_out[label] = str(error)
    plans_of = {label: plan for label, (plan, _) in found.items()}
    return Admitted(plans_of, {label: columns for label, (_, columns) in found.items()}, left_out)


def _tried(
    plan: MethodPlan, model: nn.Module, x: Tensor, targets: Tensor, layers: Sequence[str]
) -> tuple[MethodPlan, list[Column]]:
    """Returns a plan with those of its layers that work, and their maps."""
    about = find_method(plan.method)
    suited = about.suited_layers(model, x, _MOST_LAYERS)
    joins = about.joins_layers
    names = plan.layers or tuple(layers if suited is None else suited)
    if joins:
        names = tuple(name for name in names if name != INPUT)
    if not names:
        raise InvalidValueError(f"{type(model).__name__} has no layers of its kind")
    whole = replace(plan, layers=tuple(names))
    try:
        return _of_one_map(whole, _explained(whole, model, x, targets), model, x, targets)
    except InvalidValueError as error:
        if joins or len(names) == 1:
            raise
        first = error
    found: list[tuple[str, Column]] = []
    for name in names:
        try:
            (column,) = _explained(replace(plan, layers=(name,)), model, x, targets)
        except InvalidValueError as error:
            first = error if name != INPUT else first
            continue
        found.append((name, column))
    if not found:
        raise first
    some = replace(plan, layers=tuple(name for name, _ in found))
    return _of_one_map(some, [column for _, column in found], model, x, targets)


def _of_one_map(
    plan: MethodPlan, columns: list[Column], model: nn.Module, x: Tensor, targets: Tensor
) -> tuple[MethodPlan, list[Column]]:
    """Returns a method that takes a layer and gives a map of the input (Captum's GuidedGradCam) at the last one."""
    if len(plan.layers) > 1 and {column.layer for column in columns} == {INPUT}:
        plan = replace(plan, layers=plan.layers[-1:])
        columns = _explained(plan, model, x, targets)
    return plan, columns


def _explained(plan: MethodPlan, model: nn.Module, x: Tensor, targets: Tensor) -> list[Column]:
    try:
        return explain_together([make_ready(plan, (), model)], model, x, targets, of_signs=False)
    except InvalidValueError:
        raise
    except Exception as error:  # whatever a method refuses a network with
        raise InvalidValueError(said(error)) from error


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return False
    return torch.allclose(_scaled(a), _scaled(b), rtol=0, atol=_ALIKE)


def _scaled(m: Tensor) -> Tensor:
    return m / m.abs().amax().clamp(min=torch.finfo(m.dtype).tiny)
