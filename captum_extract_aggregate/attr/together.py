"""Several methods, or several targets, from one pass."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from captum.attr import Attribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.class_competition import ClassCompetition, contest_of, kept_together
from captum_extract_aggregate.attr.entry import attributed
from captum_extract_aggregate.attr.shared_pass import capturing, pass_of, shared_maps


def attribute_together(
    methods: Mapping[str, Attribution],
    inputs: Tensor | tuple[Tensor, ...],
    target: Target = None,
    additional_forward_args: Any = None,
    attribute_to_layer_input: bool = False,
) -> dict[str, Any]:
    """Returns the maps of several methods, all from one forward and one backward over the union of their layers.

    Methods of this package on the same `forward_func` share the pass, combinations of their layers included; those that
    compete (`ClassCompetition`) with the same rivals share one of their own, with a backward for each class. Any others
    (Captum's own among them, and subclasses with an `attribute` of their own) run by themselves. Either way the result
    is that of their `attribute`.

    Args:
        methods: attribution objects by name.
        inputs, target, additional_forward_args, attribute_to_layer_input: as for `attribute`, the same for all.

    Returns:
        Each method's maps under its name, in the order of `methods`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> layers = list(cea.default_layers(model))
        >>> maps = cea.attribute_together(
        ...     {"NormGrad": cea.NormGrad(model, layers), "linear": cea.LinearApproximation(model, layers)},
        ...     image[None],
        ...     target=3,
        ... )
        >>> [tuple(m.shape) for m in maps["linear"]]
        [(1, 1, 96, 96), (1, 1, 48, 48), (1, 1, 24, 24), (1, 1, 12, 12)]
    """
    (maps,) = attribute_together_per_target(
        methods, inputs, [target], additional_forward_args, attribute_to_layer_input
    )
    return maps


def attribute_together_per_target(
    methods: Mapping[str, Attribution],
    inputs: Tensor | tuple[Tensor, ...],
    targets: Sequence[Target],
    additional_forward_args: Any = None,
    attribute_to_layer_input: bool = False,
) -> list[dict[str, Any]]:
    """Returns what `attribute_together` gives for each of several targets, still from one forward.

    Args:
        methods, inputs, additional_forward_args, attribute_to_layer_input: as for `attribute_together`.
        targets: a list of T targets, each in any of Captum's forms.

    Returns:
        T dictionaries, each method's maps under its name.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> methods = {"NormGrad": cea.NormGrad(model, "features.8"), "GradCAM": cea.GradCAM(model, "features.18")}
        >>> len(cea.attribute_together_per_target(methods, image[None], [3, 7]))
        2
    """
    if not isinstance(methods, Mapping) or not all(isinstance(m, Attribution) for m in methods.values()):
        raise InvalidTypeError(
            'methods is not a mapping of attribution objects; expected {"name": NormGrad(model, layer), ...}'
        )
    if not isinstance(targets, (list, tuple)) or not targets:
        raise InvalidTypeError(f"targets is {targets!r}; expected a list of at least one target")
    how = (additional_forward_args, attribute_to_layer_input)
    results: list[dict[str, Any]] = [dict.fromkeys(methods) for _ in targets]
    sharing: dict[Hashable, dict[str, Any]] = {}
    competing: dict[Hashable, dict[str, Any]] = {}
    for name, method in methods.items():
        found = capturing(method)
        if isinstance(method, ClassCompetition) and (contest := contest_of(method)) is not None:
            competing.setdefault(contest, {})[name] = method
        elif found is not None:
            sharing.setdefault(pass_of(found), {})[name] = method
        else:
            for result, target in zip(results, targets):
                result[name] = attributed(method, inputs, target, *how)
    for groups, maps_of in ((sharing, shared_maps), (competing, kept_together)):
        for group in groups.values():
            for result, maps in zip(results, maps_of(group, inputs, targets, *how)):
                result.update(maps)
    return results
