"""Maps by row and column for `visualization.grid`: methods by layers, classes by methods, methods by stages."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from captum.attr import Attribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._engine.layers import find_layer, model_of
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr import attribute_together_per_target
from captum_extract_aggregate.metrics.randomization import (
    randomization_stages,
    randomization_states,
    randomized,
    stage_names,
)

Methods = Mapping[str, Attribution]
Rows = dict[str, dict[str, Tensor]]


def maps_by_layer(methods: Methods, inputs: Tensor, target: Target = None) -> Rows:
    """Returns a row for each method, a column for each of its layers.

    Args:
        methods: attribution objects by name, ours or Captum's; ours share one pass.
        inputs: one image, `1 x C x H x W`.
        target: as for `attribute`.

    Returns:
        Maps by method and layer. The column of a method that makes one map of several layers is "all layers", that
        of a map of the input "input".

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.visualization.rows import maps_by_layer
        >>> model, x = cea.load_scene_model("vgg"), cea.DigitScenes(1)[0][0][None]
        >>> methods = {"NormGrad": cea.NormGrad(model, ["features.8", "features.18"]), "FullGrad": cea.FullGrad(model)}
        >>> {row: list(maps) for row, maps in maps_by_layer(methods, x, 3).items()}
        {'NormGrad': ['features.8', 'features.18'], 'FullGrad': ['all layers']}
    """
    return maps_by_target(methods, inputs, [target])[0]


def maps_by_target(methods: Methods, inputs: Tensor, targets: Sequence[Target]) -> list[Rows]:
    """Returns what `maps_by_layer` gives for each of several targets, still from one forward.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.visualization.rows import maps_by_target
        >>> model, x = cea.load_scene_model("vgg"), cea.DigitScenes(1)[0][0][None]
        >>> len(maps_by_target({"NormGrad": cea.NormGrad(model, "features.18")}, x, [3, 7]))
        2
    """
    found, names = attribute_together_per_target(methods, _one(inputs), list(targets)), _layer_names(methods)
    return [{name: _columns(names[name], maps) for name, maps in own.items()} for own in found]


def maps_by_class(methods: Methods, inputs: Tensor, targets: Mapping[str, Target]) -> Rows:
    """Returns a row for each class, a column for each method (and layer, where a method has several).

    Args:
        methods, inputs: as for `maps_by_layer`.
        targets: the classes by the name of their row, such as `{"cat, score 7.1": 281}`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.visualization.rows import maps_by_class
        >>> model, x = cea.load_scene_model("vgg"), cea.DigitScenes(1)[0][0][None]
        >>> rows = maps_by_class({"NormGrad": cea.NormGrad(model, "features.18")}, x, {"three": 3, "seven": 7})
        >>> {row: list(maps) for row, maps in rows.items()}
        {'three': ['NormGrad'], 'seven': ['NormGrad']}
    """
    found = attribute_together_per_target(methods, _one(inputs), list(targets.values()))
    names = _layer_names(methods)
    return {row: _flat(names, maps) for row, maps in zip(targets, found)}


def maps_by_stage(
    methods: Methods,
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    layers: Sequence[Any] | None = None,
    order: str = "cascading",
    init: Any = "normal",
    seed: int = 0,
) -> Rows:
    """Returns a row for each method (and layer), a column for each stage of the network's randomisation.

    Args:
        methods, inputs, target: as for `maps_by_layer`.
        model, layers, order, init, seed: as for `metrics.parameter_randomization`; the model comes back as it was.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.visualization.rows import maps_by_stage
        >>> model, x = cea.load_scene_model("vgg"), cea.DigitScenes(1)[0][0][None]
        >>> methods = {"NormGrad": cea.NormGrad(model, "features.18")}
        >>> list(maps_by_stage(methods, model, x, 3, layers=["features.15", "features.10"])["NormGrad"])
        ['as trained', 'features.15', 'features.10']
    """
    x, names = _one(inputs), _layer_names(methods)
    stages = randomization_stages(model, layers, (x,), ())
    columns = {"as trained": _flat(names, attribute_together_per_target(methods, x, [target])[0])}
    known = stage_names(stages, order)
    with contextlib.closing(
        randomized(model, stages, randomization_states(order, 1, len(stages)), init, seed)
    ) as states:
        for state in states:
            columns[known[state.stage]] = _flat(names, attribute_together_per_target(methods, x, [target])[0])
    return {row: {stage: maps[row] for stage, maps in columns.items()} for row in columns["as trained"]}


def class_title(scores: Tensor, target: int, classes: Sequence[str] = ()) -> str:
    """Returns what to call a class in a picture: its name (or number) and score.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.visualization.rows import class_title
        >>> class_title(torch.tensor([0.5, 7.25]), 1, ["cat", "dog"])
        'dog, score 7.25'
    """
    name = classes[target] if target < len(classes) else f"class {target}"
    return f"{name}, score {float(scores.detach().flatten()[target]):.2f}"


def _one(inputs: Any) -> Tensor:
    if not isinstance(inputs, Tensor) or inputs.ndim < 3 or len(inputs) != 1:
        got = f"a tensor {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise InvalidTypeError(f"inputs is {got}; expected one image, 1 x C x H x W (x[:1], say)")
    return inputs


def _columns(layers: list[str], maps: Any) -> dict[str, Tensor]:
    """Returns one example's maps by the names of the method's layers."""
    if isinstance(maps, list):
        return {name: _single(m)[0] for name, m in zip(layers, maps)}
    return {layers[0] if len(layers) == 1 else "all layers": _single(maps)[0]}


def _flat(names: Mapping[str, list[str]], found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns all methods' maps under one name each."""
    flat: dict[str, Tensor] = {}
    for name, maps in found.items():
        columns = _columns(names[name], maps)
        flat.update({name if len(columns) == 1 else f"{name}, {layer}": m for layer, m in columns.items()})
    return flat


def _single(maps: Any) -> Tensor:
    """Returns the map of the first input, or of a layer's first output."""
    return maps[0] if isinstance(maps, tuple) else maps


def _layer_names(methods: Methods) -> dict[str, list[str]]:
    """Returns what the layers of each method are called: by their model; where a function hides it, by type and
    number."""
    modules = {name: _modules(method) for name, method in methods.items()}
    called: dict[nn.Module | None, str] = {None: "input"}
    for name, method in methods.items():
        model = model_of(method.forward_func)
        called |= {m: n for n, m in model.named_modules() if m in modules[name]} if model is not None else {}
    nameless = [m for m in dict.fromkeys(m for own in modules.values() for m in own) if m not in called]
    kinds = Counter(type(m).__name__ for m in nameless)
    seen: Counter[str] = Counter()
    for m in nameless:
        kind = type(m).__name__
        seen[kind] += 1
        called[m] = kind if kinds[kind] == 1 else f"{kind} {seen[kind]}"
    return {name: [called[m] for m in own] for name, own in modules.items()}


def _modules(method: Attribution) -> list[nn.Module | None]:
    layers = getattr(method, "layer", None)
    layers = layers if isinstance(layers, (list, tuple)) else [layers]
    return [find_layer(layer, method.forward_func) for layer in layers]
