"""Attribution methods by name, for the command line and for plans."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import captum.attr
from captum.attr import Attribution, LayerAttribution
from torch import nn

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate.attr import (
    LRP,
    ActivityAttribution,
    AggregatedActivity,
    BiasAttribution,
    ContrastiveExcitationBackprop,
    CumulativeGradCAM,
    CumulativeGradMid,
    Deconvolution,
    ExcitationBackprop,
    ExtractAggregate,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GradCAMPos,
    GradMid,
    GuidedBackprop,
    LayerCombination,
    LayerGradient,
    LinearApproximation,
    NormGrad,
    RectGrad,
    RectGradMod,
    SelectiveNormGrad,
)

METHODS: dict[str, Callable[..., LayerAttribution]] = {
    "normgrad": NormGrad,
    "selective-normgrad": SelectiveNormGrad,
    "linear-approximation": LinearApproximation,
    "gradient": LayerGradient,
    "gradcam": GradCAM,
    "gradcam-pos": GradCAMPos,
    "gradcam++": GradCAMPlusPlus,
    "gradmid": GradMid,
    "activity": ActivityAttribution,
    "guided": GuidedBackprop,
    "deconvolution": Deconvolution,
    "rectgrad": RectGrad,
    "rectgrad-mod": RectGradMod,
    "lrp": LRP,
    "lrp-gamma": lambda model, layers, gamma=0.25, **kwargs: LRP(model, layers, gamma=gamma, **kwargs),
    "excitation": ExcitationBackprop,
    "contrastive-excitation": ContrastiveExcitationBackprop,
    "cumulative-gradcam": CumulativeGradCAM,
    "cumulative-gradmid": CumulativeGradMid,
    "aggregated-activity": AggregatedActivity,
    "fullgrad": lambda model, layers, **kwargs: FullGrad(model, **kwargs),
    "normgrad-combined": lambda model, layers, **kwargs: LayerCombination(NormGrad(model, layers), **kwargs),
}

# Methods that only go with layers of a kind, so that a plan has to name them.
WITH_LAYERS: dict[str, Callable[..., LayerAttribution]] = {"bias": BiasAttribution}


def check_method(name: str, more: Sequence[str] = ()) -> None:
    """Raises our error for a name that is neither a method's nor `EXTRACT:AGGREGATE`; `more` are allowed too."""
    if name not in METHODS and ":" not in name and name not in more:
        raise InvalidValueError(
            unknown_name("method", name, [*METHODS, *more], " (or EXTRACT:AGGREGATE, such as conv3x3:norm)")
        )


def make_method(name: str, model: nn.Module, layers: Sequence[nn.Module | None], **arguments: Any) -> Attribution:
    """The method `name` (or `EXTRACT:AGGREGATE`, or `captum:CLASS`) on the layers."""
    known = METHODS | WITH_LAYERS
    if name in known:
        return known[name](model, list(layers), **arguments)
    if name.startswith("captum:"):
        return _captums(name.removeprefix("captum:"), model, layers, **arguments)
    extract, _, how = name.partition(":")
    cell: dict[str, Any] = {"extract": extract, "aggregate": how}
    return ExtractAggregate(model, list(layers), **cell, **arguments)


def _captums(name: str, model: nn.Module, layers: Sequence[nn.Module | None], **arguments: Any) -> Attribution:
    """One of Captum's own methods: layer methods on one layer (or as they take it), input methods on none."""
    method: Any = getattr(captum.attr, name) if name in captum.attr.__all__ else None
    known = [f"captum:{n}" for n in captum.attr.__all__ if _is_method(getattr(captum.attr, n))]
    if not _is_method(method):
        needed = _more_that_it_needs(method)
        if not needed:
            raise InvalidValueError(unknown_name("method", f"captum:{name}", known))
        raise InvalidValueError(
            f"method is 'captum:{name}', which needs more than a model, a layer and inputs ({', '.join(needed)}), so "
            f"that it cannot be made from its name; expected one of {', '.join(known)}"
        )
    if "layer" not in inspect.signature(method).parameters:
        return method(model, **arguments)
    if len(layers) != 1:
        raise InvalidValueError(
            f"method 'captum:{name}' has {len(layers)} layers; expected one: Captum's own take one at a time"
        )
    return method(model, layers[0], **arguments)


def _is_method(thing: Any) -> bool:
    """Tells whether a class of Captum's makes maps of a model (and a layer) and its inputs alone."""
    if not isinstance(thing, type) or not issubclass(thing, Attribution):
        return False
    return callable(getattr(thing, "attribute", None)) and not _more_that_it_needs(thing)


def _more_that_it_needs(thing: Any) -> list[str]:
    """What a method has to be given beside a model, a layer and inputs."""
    if not isinstance(thing, type) or not issubclass(thing, Attribution):
        return []
    needed = [*_required(thing), *_required(getattr(thing, "attribute", None))]
    return [name for name in needed if name not in ("self", "model", "forward_func", "layer", "inputs")]


def _required(function: Any) -> list[str]:
    if not callable(function):
        return []
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
