"""Attribution methods by name, for the command line, plans and Captum Insights: one registry, which says of each method
what those need to know."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from captum.attr import Attribution
from torch import nn

from captum_extract_aggregate._common.errors import is_file
from captum_extract_aggregate._common.imported import import_from
from captum_extract_aggregate._common.registry import Registry
from captum_extract_aggregate.attr import (
    LRP,
    ActivityAttribution,
    AggregatedActivity,
    AttentionRollout,
    BiasAttribution,
    ClassCompetition,
    ContrastiveExcitationBackprop,
    CumulativeGradCAM,
    CumulativeGradMid,
    Deconvolution,
    ElementWiseGradCAM,
    ExcitationBackprop,
    ExtractAggregate,
    FinerCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GradCAMPos,
    GradientWeightedAttention,
    GradMid,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    LayerCAM,
    LayerCombination,
    LayerGradient,
    LeGrad,
    LibraGrad,
    LinearApproximation,
    MetaSaliency,
    NormGrad,
    RectGrad,
    RectGradMod,
    RefineCAM,
    SelectiveNormGrad,
    XGradCAM,
    captums,
)
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.attr.formula import Formula
from captum_extract_aggregate.attr.given_arguments import with_arguments
from captum_extract_aggregate.attr.layer_by_layer import LayerByLayer

MakeT = TypeVar("MakeT", bound=Callable[..., Attribution])
Layers = Sequence["nn.Module | None"]
# What a page may offer for an argument: a whole number's usual value, the values to choose from, or what lists them.
Choices = int | tuple[Any, ...] | Callable[[], Sequence[Any]]

_HINT = " (or EXTRACT:AGGREGATE, such as conv3x3:norm; a class of your own: FILE.py:CLASS)"


@dataclass(frozen=True)
class Method:
    """Holds what is known of a method by its name.

    Args:
        make: a class, or a function, that takes a model, a list of layers and the method's arguments.
        joins_layers: whether one map is made of all layers together.
        before_the_last: whether nothing of the class may be left of it at the last layer, in front of global pooling.
        needs_layers: whether it only goes with layers of a kind, which therefore have to be named, unless
            `make.suited_layers(model, inputs)` lists them.
        takes: how many layers it is made for: all of a list, `"one"` at a time, or `"none"`.
        choices: what a page may offer for its arguments, the usual value first.
        aliases: other names of it; a class goes by its own name, too.
        formula: what its map is made of, for the table of methods.
    """

    make: Callable[..., Attribution]
    joins_layers: bool = False
    before_the_last: bool = False
    needs_layers: bool = False
    takes: str = "list"
    choices: Mapping[str, Choices] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    formula: Formula | None = None

    def suited_layers(self, model: nn.Module, inputs: Any, most: int | None = None) -> dict[str, nn.Module] | None:
        """Returns the layers of the kind that it goes with (attention, biases), at most so many, evenly spread, where
        each has a map; None where it goes with any."""
        find = getattr(self.make, "suited_layers", None)
        if find is None:
            return None
        found: dict[str, nn.Module] = find(model, inputs)
        return found if most is None or self.joins_layers else evenly_spread(found, most)

    def names(self) -> set[str]:
        """Returns what it is called beside its name in the registry, without regard to case."""
        own = (self.make.__name__,) if isinstance(self.make, type) else ()
        return {name.casefold() for name in (*own, *self.aliases)}


def evenly_spread(layers: Mapping[str, nn.Module], most: int) -> dict[str, nn.Module]:
    """Returns so many of the layers, the first and the last among them."""
    items = list(layers.items())
    if len(items) <= most:
        return dict(items)
    return dict(items[round(i * (len(items) - 1) / (most - 1))] for i in range(most))


class _Methods(Registry[Method]):
    """Methods by name; their classes' names mean them, too, and case, hyphens and spaces do not matter."""

    def find(self, name: Any) -> str | None:
        """Returns the name in the registry that `name`, or the name of a class, means."""
        if not isinstance(name, str) or name in self._things:
            return super().find(name)
        plain = _plain(name)
        return next((n for n, m in self._things.items() if plain in (_plain(n), *map(_plain, m.names()))), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.casefold())


METHODS = _Methods("method", "unregister_method")


def register_method(
    name: str,
    *,
    joins_layers: bool = False,
    before_the_last: bool = False,
    needs_layers: bool = False,
    choices: Mapping[str, Choices] | None = None,
    aliases: Sequence[str] = (),
    formula: Formula | None = None,
    overwrite: bool = False,
) -> Callable[[MakeT], MakeT]:
    """Makes a method available by name, for plans, `--methods` and Captum Insights, in the whole process.

    What it decorates is a class, or a function, that takes a model, a list of layers and the method's own arguments.

    Args:
        name: as plans and `--methods` will name it, in any case; the name of a class is known beside it.
        joins_layers: whether one map is made of all layers together; else each layer has a map.
        before_the_last: whether nothing of the class may be left of it at the last layer, where, in front of global
            pooling, the gradient is the same at every position; Insights then begins with the layer before.
        needs_layers: whether it only goes with layers of a kind; they have to be named, unless a static method
            `suited_layers(model, inputs)` of the class returns them by name.
        choices: what Insights may offer for its arguments: for each the values to choose from, the usual one first, a
            function that lists them, or one whole number, which may be changed.
        aliases: other names.
        formula: what the map is made of, for the documentation's table of methods.
        overwrite: whether a name that is taken is exchanged.

    Raises:
        ValueError: for a name that is taken, unless `overwrite` is True.
        TypeError: for a name that is no string.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.registry import list_methods, register_method, unregister_method
        >>> @register_method("squared-gradcam")
        ... class SquaredGradCAM(cea.GradCAM):
        ...     pass
        >>> "squared-gradcam" in list_methods()
        True
        >>> unregister_method("squared-gradcam")
    """
    METHODS.check_free(name, overwrite)

    def register(make: MakeT) -> MakeT:
        joins = joins_layers or getattr(make, "joins_layers", False) is True
        takes = captums.layers_taken(make)
        about = Method(make, joins, before_the_last, needs_layers, takes, choices or {}, tuple(aliases), formula)
        METHODS.register(name, about, overwrite)
        return make

    return register


def unregister_method(name: str) -> None:
    """Forgets a method, or brings back this package's own, if it was overwritten.

    Raises:
        ValueError: for a name that is unknown.
    """
    METHODS.unregister(name)


def list_methods() -> list[str]:
    """Returns the names of all methods: this package's own first, then those registered.

    Example:
        >>> from captum_extract_aggregate.registry import list_methods
        >>> list_methods()[:3]
        ['normgrad', 'selective-normgrad', 'linear-approximation']
    """
    return METHODS.names()


def find_method(name: str) -> Method:
    """Returns the method that a name means.

    It is a registered one (or its class), `captum:CLASS` (or Captum's class alone, in any case), `FILE.py:CLASS`,
    `MODULE.NAME:CLASS`, or `EXTRACT:AGGREGATE`.

    Raises:
        ValueError: for a name that is unknown, with the nearest ones, and for one of Captum's that needs more.
    """
    if name in METHODS:
        return METHODS[name]
    where, _, what = name.rpartition(":")
    if where == "captum":
        return _of_class(captums.find_class(what))
    captums_own = None if where else captums.called(what)
    if captums_own is not None:
        return _of_class(captums.find_class(captums_own))
    if where.endswith(".py") or "." in where:
        return _of_class(_imported(name, _stamp(where)))
    if not where:
        METHODS.check(name, _HINT)
    make = METHODS["extract-aggregate"].make
    return Method(
        lambda model, layers, **arguments: make(model, list(layers), extract=where, aggregate=what, **arguments)
    )


def make_method(name: str, model: nn.Module, layers: Layers, **arguments: Any) -> Attribution:
    """Returns the method that `name` means (see `find_method`) on the layers. Arguments that a class does not take and
    its `attribute` does are given to that."""
    found = find_method(name)
    make = with_arguments(found.make, arguments)
    if found.takes == "none":
        return make(model)  # type: ignore[no-any-return]
    if found.takes == "list":
        return make(model, list(layers))  # type: ignore[no-any-return]
    return make(model, layers[0]) if len(layers) == 1 else LayerByLayer(make, model, layers)


def _of_class(make: Callable[..., Any]) -> Method:
    """Returns a class, or function, that is not registered; its parameters tell how many layers it takes."""
    return Method(make, getattr(make, "joins_layers", False) is True, takes=captums.layers_taken(make))


_LOADED: dict[tuple[str, tuple[int, int]], Callable[..., Any]] = {}


def _imported(name: str, stamp: tuple[int, int]) -> Callable[..., Any]:
    """Returns the class of a name, imported once as long as its file stays what it is: it may register things."""
    if (name, stamp) not in _LOADED:
        _LOADED[name, stamp] = import_from("method", name)
    return _LOADED[name, stamp]


def _stamp(where: str) -> tuple[int, int]:
    state = Path(where).stat() if is_file(where) else None
    return (state.st_mtime_ns, state.st_size) if state is not None else (0, 0)


# --- This package's own. To add one, register its class here. --------------------------------------------------------

_POSITIVE: dict[str, Choices] = {"positive": ("abs", "relu")}
_SHARES: dict[str, Choices] = {"sums": ("signed", "positive"), "lost": ("drop", "spread")}
_EXTRACTS = ("bias", "scaling", "conv1x1", "conv3x3", "conv5x5", "depthwise3x3", "layer")

_LINEAR = Formula("scaling", "sum", sign="signed")
_MEAN = Formula("scaling", "abs_sum", weights="mean of g")
_PLUS_PLUS = Formula("scaling", "sum_filter", weights="Σα(g)₊")
_GATED = Formula("bias", "max_abs", weights="R, gated")
_GATED_TIMES_INPUT = Formula("scaling", "sum", weights="R, gated", sign="signed")
_SHARED = Formula("bias", "sum", weights="R, shared out", sign="signed")

register_method(
    "normgrad", before_the_last=True, choices={"virtual_identity": (True, False)}, formula=Formula("conv1x1", "norm")
)(NormGrad)
register_method("selective-normgrad", formula=Formula("scaling", "filter_norm"))(SelectiveNormGrad)
register_method("linear-approximation", formula=_LINEAR)(LinearApproximation)
register_method(
    "gradient",
    before_the_last=True,
    choices={"aggregate": ("max_abs", "sum", "norm")},
    formula=Formula("bias", "max_abs"),
)(LayerGradient)
register_method("gradcam", formula=Formula("scaling", "sum_filter", weights="mean of g"))(GradCAM)
register_method("gradcam-pos", choices=_POSITIVE, formula=_MEAN)(GradCAMPos)
register_method("gradcam++", formula=_PLUS_PLUS)(GradCAMPlusPlus)
register_method("hirescam", formula=Formula("scaling", "sum_filter"))(HiResCAM)
register_method("element-wise-gradcam", formula=Formula("scaling", "filter_sum"))(ElementWiseGradCAM)
register_method("layercam", formula=Formula("scaling", "sum_filter", weights="(g)₊"))(LayerCAM)
register_method("xgradcam", formula=Formula("scaling", "sum_filter", weights="Σgx / Σx"))(XGradCAM)
register_method("gradmid", before_the_last=True, choices=_POSITIVE, formula=Formula("bias", "abs_sum"))(GradMid)
register_method("activity", formula=_LINEAR)(ActivityAttribution)
register_method("guided", before_the_last=True, formula=_GATED)(GuidedBackprop)
register_method(
    "guided-gradcam", formula=Formula("GradCAM times R of the input", "", weights="R, gated", sign="signed")
)(GuidedGradCAM)
register_method("deconvolution", before_the_last=True, formula=_GATED)(Deconvolution)
register_method("rectgrad", choices={"percentile": 98}, formula=_GATED_TIMES_INPUT)(RectGrad)
register_method("rectgrad-mod", choices={"percentile": 98}, formula=_GATED_TIMES_INPUT)(RectGradMod)
register_method("lrp", choices={"gamma": (0.0, 0.25, 1.0, math.inf)}, formula=_SHARED)(LRP)


@register_method("lrp-gamma", formula=_SHARED)
def _lrp_gamma(model: nn.Module, layers: Layers, gamma: float = 0.25, **arguments: Any) -> LRP:
    return LRP(model, layers, gamma=gamma, **arguments)


register_method("excitation", choices=_SHARES, formula=_SHARED)(ExcitationBackprop)
register_method(
    "contrastive-excitation",
    choices={"clamp": ("map", "contrast"), **_SHARES},
    formula=Formula("bias", "sum_filter", weights="R, shared out"),
)(ContrastiveExcitationBackprop)
register_method("cumulative-gradcam", choices=_POSITIVE, formula=replace(_MEAN, layers="sum"))(CumulativeGradCAM)
register_method("cumulative-gradmid", choices=_POSITIVE, formula=Formula("bias", "abs_sum", layers="sum"))(
    CumulativeGradMid
)
register_method("aggregated-activity", formula=Formula("scaling", "sum", layers="sum"))(AggregatedActivity)


@register_method(
    "fullgrad",
    joins_layers=True,
    choices={"rescale": ("channel_joint", "layer_map")},
    aliases=("FullGrad",),
    formula=Formula("scaling, of biases too", "abs_sum", layers="sum"),
)
def _fullgrad(model: nn.Module, layers: Layers, **arguments: Any) -> FullGrad:
    return FullGrad(model, **arguments)  # of all biases, whichever layers there are


@register_method(
    "normgrad-combined",
    joins_layers=True,
    choices={"mode": ("product", "sum")},
    formula=Formula("conv1x1", "norm", layers="product, its root"),
)
def _normgrad_combined(model: nn.Module, layers: Layers, **arguments: Any) -> LayerCombination:
    return LayerCombination(NormGrad(model, layers), **arguments)


register_method("refinecam", joins_layers=True, formula=replace(_PLUS_PLUS, layers="product"))(RefineCAM)
register_method(
    "bias", needs_layers=True, before_the_last=True, formula=Formula("scaling, of the bias", "sum", sign="signed")
)(BiasAttribution)
register_method("legrad", needs_layers=True, formula=Formula("bias, of attention", "mean of (·)₊"))(LeGrad)
register_method(
    "gradient-weighted-attention", needs_layers=True, formula=Formula("scaling, of attention", "mean of (·)₊")
)(GradientWeightedAttention)
register_method(
    "attention-rollout",
    needs_layers=True,
    formula=Formula("attention alone", "mean", weights="", layers="matrix product", of_class=False),
)(AttentionRollout)
register_method(
    "extract-aggregate",
    before_the_last=True,
    choices={"extract": _EXTRACTS, "aggregate": AGGREGATES.names},
    formula=Formula("any", "any", sign="the aggregate's"),
)(ExtractAggregate)


def _around(weights: str) -> Formula:
    """Returns the formula of what is put around a method."""
    return Formula("the method's", "the method's", weights=weights, sign="the method's")


def _single_methods() -> list[str]:
    """Returns the methods that make a map of one layer, around which others can be put."""
    around = ("meta-saliency", "finercam", "class-competition")
    return [n for n, m in METHODS.items() if not m.joins_layers and not m.needs_layers and n not in around]


@register_method(
    "meta-saliency",
    before_the_last=True,
    choices={"method": _single_methods, "lr": (0.001, 0.0025, 0.01)},
    aliases=("MetaSaliency",),
    formula=_around("g after a step"),
)
def _meta_saliency(model: nn.Module, layers: Layers, method: str = "normgrad", **arguments: Any) -> MetaSaliency:
    return MetaSaliency(make_method(method, model, layers), **arguments)


@register_method(
    "class-competition",
    before_the_last=True,
    choices={"method": _single_methods, "rivals": 4, "normalize": (True, False)},
    aliases=("ClassCompetition",),
    formula=_around("the classes' maps compete"),
)
def _class_competition(
    model: nn.Module, layers: Layers, method: str = "normgrad", **arguments: Any
) -> ClassCompetition:
    return ClassCompetition(make_method(method, model, layers), **arguments)


def _gradient_methods() -> list[str]:
    """Returns the methods of gradients that make a map of one layer, which gradients can be balanced for."""
    return [n for n in _single_methods() if getattr(METHODS[n].make, "has_plain_pass", False) and n != "libra-grad"]


@register_method(
    "libra-grad", choices={"method": _gradient_methods}, aliases=("LibraGrad",), formula=_around("g, balanced")
)
def _libra_grad(
    model: nn.Module, layers: Layers, method: str = "linear-approximation", unknown: Any = "error", **arguments: Any
) -> LibraGrad:
    return LibraGrad(make_method(method, model, layers, **arguments), unknown=unknown)


def _finer_methods() -> list[str]:
    """Returns the methods that make a map of one layer, that of the authors first."""
    return ["gradcam", *(n for n in _single_methods() if n != "gradcam")]


@register_method(
    "finercam",
    choices={"method": _finer_methods, "gamma": (0.6, 1.0), "references": 3},
    aliases=("FinerCAM",),
    formula=_around("g of the contrast"),
)
def _finercam(
    model: nn.Module, layers: Layers, method: str = "gradcam", gamma: float = 0.6, references: int = 3, **arguments: Any
) -> FinerCAM:
    return FinerCAM(make_method(method, model, layers, **arguments), gamma=gamma, references=references)


METHODS.seal()
