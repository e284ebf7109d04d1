"""The methods of a plan made ready: attribution objects, their layers and combinations, and the columns they give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from captum.attr import Attribution, LayerAttribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, is_file, said
from captum_extract_aggregate._common.own_code import place_of
from captum_extract_aggregate._common.seeding import seeded
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate.attr import ClassCompetition, MetaSaliency, attribute_together_per_target
from captum_extract_aggregate.attr.by_name import find_method, make_method
from captum_extract_aggregate.attr.combination import combine_maps, normalized_weights
from captum_extract_aggregate.attr.shared_pass import capturing, pass_of, shared_maps
from captum_extract_aggregate.evaluation.explained import Column
from captum_extract_aggregate.evaluation.plan import CombinationPlan, MetaPlan, MethodPlan
from captum_extract_aggregate.evaluation.sources import code_of

Choice = Callable[[Any], Tensor]
INPUT = "input"
_ROUNDING = 1e-5  # of a float32 sum over many channels, relative to the largest value


@dataclass(frozen=True)
class Combination:
    """Holds a combination of a method's layers: `weights` sum to 1."""

    label: str
    mode: str
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Method:
    """Holds a method with its attribution objects (Captum's own take a layer each) and the names of its layers."""

    plan: MethodPlan
    attributions: tuple[Attribution, ...]
    layers: tuple[str, ...]
    combinations: tuple[Combination, ...]
    joined: tuple[str, ...] = ()  # the layers that one map is made of
    code: Mapping[str, str] = field(default_factory=dict)  # of one's own, a digest of each file

    @property
    def label(self) -> str:
        """Its name in the tables."""
        return self.plan.label or self.plan.method

    def marks(self) -> dict[str, str]:
        """Returns for each of its columns, by name, a digest of whatever its numbers depend on."""
        own = replace(self.plan, label="", layers=(), combine=())
        code = (self.code,) if self.code else ()
        found = {layer: digest(own, self.joined, *code) for layer in self.layers}
        return found | {c.label: digest(own, c.mode, c.weights, self.layers, *code) for c in self.combinations}

    def columns(self, found: Sequence[Sequence[Any]], size: tuple[int, int]) -> Iterator[Column]:
        """Returns a column per layer and combination, from what each attribution object gave for each target."""
        by_target = [[self._single(m) for part in maps for m in _listed(part)] for maps in found]
        for j, layer in enumerate(self.layers):
            yield Column(self.label, layer, [maps[j] for maps in by_target], self.plan.interpolation)
        for combination in self.combinations:
            how = (combination.weights, combination.mode, self.layers)
            combined = [combine_maps(maps, size, *how) for maps in by_target]
            yield Column(self.label, combination.label, combined)

    def _single(self, map_: Tensor) -> Tensor:
        if map_.ndim != 4:
            raise InvalidValueError(
                f"{self.label} gives maps of shape {tuple(map_.shape)}; expected N x K x height x width"
            )
        if self.plan.channels == "max_abs":
            return levelled(map_.abs().amax(1, keepdim=True))
        return levelled((map_.abs() if self.plan.channels == "abs_sum" else map_).sum(1, keepdim=True))


def digest(*parts: Any) -> str:
    """Returns sixteen hexadecimal digits that any change of the parts' representations changes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def levelled(maps: Tensor) -> Tensor:
    """Returns maps that are constant but for rounding as constant ones, which measures know to be undefined.

    Where global pooling follows, a gradient is the same everywhere; scaled to [0, 1], its last digits would be a map.
    """
    flat = maps.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    is_flat = (high - low) <= _ROUNDING * flat.abs().amax(1)
    return torch.where(is_flat[:, None, None, None], low[:, None, None, None], maps)


def _listed(maps: Any) -> list[Tensor]:
    if isinstance(maps, Tensor):
        return [maps]
    return [single for part in maps for single in _listed(part)]


def explain_together(
    methods: Sequence[Method], model: nn.Module, x: Tensor, targets: Tensor | Choice, of_signs: bool
) -> list[Column]:
    """Returns the maps of all methods at all layers, from as few passes as they can share.

    Args:
        methods: of the model. x: `N x C x H x W`. of_signs: the model has one output, and its signs are the classes.
        targets: `N x T`; or what chooses them by the model's output, which is then that of a pass that explains.
    """
    plain: dict[str, Attribution] = {}
    meta: dict[MetaPlan, dict[str, Attribution]] = {}
    for i, method in enumerate(methods):
        group = plain if method.plan.meta_saliency is None else meta.setdefault(method.plan.meta_saliency, {})
        group |= {f"{i}/{j}": attribution for j, attribution in enumerate(method.attributions)}
    found, wanted = _with_choice(plain, model, x, targets) if callable(targets) else ([], _by_target(targets))
    found = found or [{} for _ in wanted]
    if rest := {name: method for name, method in plain.items() if name not in found[0]}:
        for into, maps in zip(found, _explained(rest, x, wanted)):
            into.update(maps)
    for how, group in meta.items():
        together = _Together(model, group)
        given = asdict(how) | ({"loss_func": "binary_cross_entropy"} if of_signs else {})
        wrapped = MetaSaliency(together, **given, model=model, vectorized=False)
        for into, target in zip(found, wanted):
            into.update(zip(group, together.unpacked(wrapped.attribute(x, target=target))))
    columns: list[Column] = []
    for i, method in enumerate(methods):
        names = [f"{i}/{j}" for j in range(len(method.attributions))]
        columns += method.columns([[maps[name] for name in names] for maps in found], (x.shape[2], x.shape[3]))
    return columns


def _by_target(targets: Tensor) -> list[Tensor]:
    return [*targets.T.contiguous()]


def _with_choice(
    methods: Mapping[str, Attribution], model: nn.Module, x: Tensor, choose: Choice
) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """Returns the targets that are chosen, and the maps of the methods in whose pass they were; of none where a forward
    by itself has to tell."""
    passes: dict[Hashable, dict[str, Attribution]] = {}
    for name, method in methods.items():
        found = capturing(method) if _is_ours(method) and not isinstance(method, ClassCompetition) else None
        if found is not None and found.has_plain_pass:
            passes.setdefault(pass_of(found), {})[name] = method
    chosen: list[Tensor] = []

    def note(output: Any) -> list[Tensor]:
        chosen[:] = _by_target(choose(output))
        return chosen

    if passes:
        return shared_maps(max(passes.values(), key=len), x, note, None, False), chosen
    with torch.no_grad():
        return [], note(model(x))


def _is_ours(method: Attribution) -> bool:
    return type(method).__module__.startswith("captum_extract_aggregate.")


def _explained(methods: Mapping[str, Attribution], x: Tensor, targets: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Returns each target's maps. Others' methods may draw: each from the seed anew, whichever others there are."""
    ours = {name: m for name, m in methods.items() if _is_ours(m)}
    others = {name: m for name, m in methods.items() if name not in ours}
    found: list[dict[str, Any]] = attribute_together_per_target(ours, x, targets) if ours else [{} for _ in targets]
    for name, method in others.items():
        with seeded(torch.initial_seed()):
            for into, maps in zip(found, attribute_together_per_target({name: method}, x, targets)):
                into.update(maps)
    return found


class _Together(LayerAttribution):
    """Is several methods as one, so that one step of meta-saliency serves them all."""

    def __init__(self, model: nn.Module, methods: dict[str, Attribution]) -> None:
        super().__init__(model, model)
        self.methods = methods
        self._lengths: list[int] = []

    def attribute(self, inputs: Tensor, target: Any) -> list[Tensor]:  # type: ignore[override]
        (maps,) = _explained(self.methods, inputs, [target])
        listed = [_listed(m) for m in maps.values()]
        self._lengths = [len(some) for some in listed]
        return [m for some in listed for m in some]

    def unpacked(self, maps: Sequence[Tensor]) -> list[list[Tensor]]:
        """Returns the list that `attribute` gave, by method."""
        rest = iter(maps)
        return [[next(rest) for _ in range(length)] for length in self._lengths]


def make_ready(plan: MethodPlan, defaults: tuple[str, ...], model: nn.Module) -> Method:
    """Returns a method built for a model; `defaults` are its layers where the plan names none."""
    names = plan.layers or defaults
    layers = [None if name == INPUT else find_layer(name, model) for name in names]
    where = f"method {plan.label or plan.method!r}"
    try:
        if find_method(plan.method).takes == "one" and len(layers) > 1:
            made = tuple(make_method(plan.method, model, [layer], **plan.arguments) for layer in layers)
        else:
            made = (make_method(plan.method, model, layers, **plan.arguments),)
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"{where}: {error}{place_of(error)}") from None
    except Exception as error:  # whatever Captum's own methods refuse a model with
        raise InvalidValueError(f"{where}: {said(error)}") from error
    (first, *_) = made
    joined: tuple[str, ...] = ()
    if getattr(first, "joins_layers", False):
        names, joined = ("all layers",), names
    elif not hasattr(first, "layer"):
        names = (INPUT,)
    combinations = tuple(_combination(c, names, layers, model, where) for c in plan.combine)
    columns = [*names, *(c.label for c in combinations)]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise InvalidValueError(
            f"{where} names {twice!r} twice; expected every layer once, and combinations with labels of their own"
        )
    return Method(plan, made, tuple(names), combinations, tuple(joined), _code(plan.method))


def remade(method: Method, model: nn.Module) -> Method:
    """Returns a method at the same layers of another network, which goes by the same names."""
    layers = method.joined or (method.plan.layers if method.layers == (INPUT,) else method.layers)
    return make_ready(replace(method.plan, layers=layers), (), model)


def _code(name: str) -> dict[str, str]:
    """Returns a digest of each file that a user's own method uses."""
    make = find_method(name).make
    return {} if make.__module__.startswith(("captum.", "captum_extract_aggregate.")) else code_of(name, make)


def _combination(
    plan: CombinationPlan, names: Sequence[str], layers: Sequence[nn.Module | None], model: nn.Module, where: str
) -> Combination:
    if len(names) != len(layers) or len(names) < 2:
        raise InvalidValueError(
            f"{where} gives {len(names)} map(s), so there is nothing to combine; expected several layers"
        )
    weights: Any = plan.weights
    if isinstance(weights, str) and weights.endswith(".json"):
        path = Path(weights)
        if not is_file(path):
            raise InvalidValueError(f"weights is {weights!r}, and there is no such file")
        weights = _stored_weights(path, names)
    label = plan.label or f"{plan.mode}, {plan.weights if isinstance(plan.weights, str) else 'own weights'}"
    try:
        return Combination(label, plan.mode, normalized_weights(weights, list(layers), model))
    except TypeError as error:
        raise InvalidValueError(f"{where}: {error}") from None


def _stored_weights(path: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text("utf-8"))["weights"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidValueError(f"weights {str(path)!r} is no file that LayerWeights.save wrote: {error!r}") from None
    return {name: weight for name, weight in stored if name in names}
