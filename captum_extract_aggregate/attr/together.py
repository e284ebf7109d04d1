"""Several methods, or several targets, from one pass."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from captum.attr import Attribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import CaptureAttribution, is_own
from captum_extract_aggregate.attr.entry import attributed
from captum_extract_aggregate.attr.one_pass import maps_per_target


def attribute_together(
    methods: Mapping[str, Attribution],
    inputs: Tensor | tuple[Tensor, ...],
    target: Target = None,
    additional_forward_args: Any = None,
    attribute_to_layer_input: bool = False,
) -> dict[str, Any]:
    """Returns the maps of several methods, all from one forward and one backward over the union of their layers.

    Methods of this package on the same `forward_func` share the pass, combinations of their layers included; any others
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
    results: list[dict[str, Any]] = [dict.fromkeys(methods) for _ in targets]
    groups: dict[Hashable, dict[str, CaptureAttribution]] = {}
    for name, method in methods.items():
        capturing = _sharing(method)
        if capturing is not None:
            groups.setdefault(_group_of(capturing), {})[name] = capturing
            continue
        for result, target in zip(results, targets):
            result[name] = attributed(method, inputs, target, additional_forward_args, attribute_to_layer_input)
    for group in groups.values():
        found = maps_per_target(group, inputs, targets, additional_forward_args, attribute_to_layer_input)
        for result, maps in zip(results, found):
            for name, single in maps.items():
                asked: Any = methods[name]  # the one that captured, or a LayerCombination of its layers
                result[name] = single if asked is group[name] else asked.joined(inputs, single)
    return results


def _sharing(method: Any) -> CaptureAttribution | None:
    """Returns the method whose maps a shared pass can make: `method`, or the one whose layers it combines."""
    capturing = method if isinstance(method, CaptureAttribution) else getattr(method, "attribution_method", None)
    if not isinstance(capturing, CaptureAttribution) or not is_own(method, "attribute"):
        return None
    return capturing if is_own(capturing, "attribute") else None


def _group_of(method: CaptureAttribution) -> Hashable:
    """Returns what is equal for methods that can share a pass."""
    record = getattr(method.run_pass, "__func__", method.run_pass)
    return id(method.forward_func), record, method.pass_key(), *(method.device_ids or ())
