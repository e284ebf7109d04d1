"""Combining the maps of several layers, and weights for the layers.

Source: Rebuffi et al., There and Back Again (CVPR 2020), section 4.2.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import is_constant, min_max, on_cpu, upsample
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.input_positions import (
    InputLayout,
    Size,
    check_input_layout,
    check_size,
    find_positions,
    models_of,
)
from captum_extract_aggregate._engine.layers import checked_inputs, describe, find_layer, model_of
from captum_extract_aggregate._engine.model_state import without_traces
from captum_extract_aggregate._engine.one_output import give_scores_to_captum
from captum_extract_aggregate._engine.targets import Target, per_target
from captum_extract_aggregate.attr.base import CaptureAttribution, is_own, own
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import attributed, captum_entry, named_arguments
from captum_extract_aggregate.attr.layer_types import LayerAttribution
from captum_extract_aggregate.attr.rebuilt import Rebuilt

WeightsName = Literal["uniform", "linear"]
Weights = WeightsName | Sequence[float] | Mapping[Any, float]
Mode = Literal["product", "sum"]
_WEIGHTS = get_args(WeightsName)
_MODES = get_args(Mode)


@described(
    "`N x 1 x H x W` with the input's positions, in [0, 1], without unit",
    first="Explains one target per example; the maps of all layers are combined.",
    layers=False,
)
class LayerCombination(Rebuilt, LayerAttribution):
    r"""The maps of several layers as one: :math:`\prod_j m_j^{\gamma_j}` or :math:`\sum_j \gamma_j m_j`.

    Each layer's map is upsampled bilinearly to the input's size, then scaled to [0, 1] per example: `N x 1 x H x W` in
    [0, 1]. The weights :math:`\gamma` are normalised to sum 1.

    A map that is constant for an example (but for rounding) says nothing about positions: it is the factor 1 of that
    example's product, and adds 0 to its sum, with a warning that names the layer. The other layers keep their weights,
    so that their exponents then sum to less than 1; where every layer's map is constant, the product is 1 everywhere.

    Args:
        attribution_method: a layer method built on a list of layers: one of this package's (one pass for all layers),
            or one of Captum's (one pass for each; its maps' channels are summed).
        weights: `"uniform"`, `"linear"` (the j-th layer in the order of the list weighs j), a number per layer, or a
            mapping from layers or their names to numbers, such as `feature_spread_weights` and `accuracy_weights` give.
        mode: `"product"` or `"sum"`.
        size: of the input's positions, such as `(500,)` for a signal `N x 500 x 12`; None: from the input's shape.
        layout: where the input has its channels, if its shape leaves that open: `"channels_first"`, `"channels_last"`,
            or a function that returns `N x C x *S`.

    Raises:
        TypeError, ValueError: for a method without a list of layers, or weights that do not fit it; at `attribute` for
            inputs whose positions cannot be told, or are not the maps'.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> layers = list(cea.default_layers(model))
        >>> method = cea.LayerCombination(cea.NormGrad(model, layers), weights="linear")
        >>> method.attribute(image[None], target=7).shape
        torch.Size([1, 1, 96, 96])

    Source: Rebuffi et al., CVPR 2020, section 4.2.
    """

    joins_layers = True

    @named_arguments
    def __init__(
        self,
        attribution_method: LayerAttribution,
        *,
        weights: Weights = "uniform",
        mode: Mode = "product",
        size: Size | None = None,
        layout: InputLayout = "auto",
    ) -> None:
        if not isinstance(attribution_method, LayerAttribution):
            raise InvalidTypeError(
                f"attribution_method is a {type(attribution_method).__name__}; expected a layer method such as "
                "NormGrad(model, layers) or Captum's LayerGradCam(model, layers)"
            )
        layers = attribution_method.layer
        if not isinstance(layers, (list, tuple)) or not layers or getattr(attribution_method, "joins_layers", False):
            raise InvalidValueError(
                f"attribution_method gives one map, not one per layer ({attribution_method.get_name()} on "
                f"{type(layers).__name__}); expected a method built on a list of layers"
            )
        if mode not in _MODES:
            raise InvalidValueError(unknown_name("mode", mode, _MODES))
        forward_func = attribution_method.forward_func
        modules = [find_layer(layer, forward_func) for layer in layers]
        LayerAttribution.__init__(self, forward_func, modules, attribution_method.device_ids)
        self.attribution_method = attribution_method
        self.weights = normalized_weights(weights, modules, forward_func)
        self.given_weights = weights
        self.mode = mode
        self.size, self.layout = check_size(size), check_input_layout(layout)

    def argument(self, name: str) -> Any:
        """Normalised weights, normalised again, would differ in their last digit."""
        return self.given_weights if name == "weights" else super().argument(name)

    @own
    @captum_entry
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Returns the combined map; other keywords are handed to the wrapped method's `attribute`."""
        kwargs |= {
            "target": target,
            "additional_forward_args": additional_forward_args,
            "attribute_to_layer_input": attribute_to_layer_input,
        }
        taken = inspect.signature(self.attribution_method.attribute).parameters
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
        for name in [n for n in ("target", "attribute_to_layer_input") if n not in taken and not takes_all]:
            given = kwargs.pop(name)
            if given is not None and given is not False:  # such as LayerActivation, which explains no target
                raise InvalidValueError(
                    f"{name} is given, but {self.attribution_method.get_name()} takes none; expected it left out"
                )
        return self.joined(inputs, self._maps_by_layer(inputs, kwargs))

    def attribute_future(self) -> None:
        """Is not available, as in Captum's own layer methods."""
        raise NotImplementedError("attribute_future is not implemented for LayerCombination")

    def joined(self, inputs: Any, maps: Sequence[Any]) -> Tensor:
        """Returns the combined map of the layers' maps, wherever they come from (`attribute_together` shares their
        pass)."""
        tensors, models = [_tensor(m).detach() for m in maps], models_of(self.forward_func)
        shapes = [m.shape[2:] for m in tensors]
        size = find_positions(checked_inputs(inputs), shapes, self.layout, self.size, models).size
        names = [describe(layer, models) for layer in self.layer]
        return combine_maps(tensors, size, self.weights, self.mode, names)

    @own
    def attribute_per_target(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Any,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor:
        """Returns the combined maps of several targets per example, `N x T x 1 x H x W`; the forward is shared if it
        can be."""
        method = self.attribution_method
        shared = isinstance(method, CaptureAttribution) and is_own(method, "attribute", "attribute_per_target")
        if not shared or not is_own(self, "attribute"):
            wanted = per_target(targets, checked_inputs(inputs)[0].shape[0])
            how = (additional_forward_args, attribute_to_layer_input)
            return torch.stack([attributed(self, inputs, target, *how) for target in wanted], 1)
        maps: Any = method.attribute_per_target(inputs, targets, additional_forward_args, attribute_to_layer_input)
        count = len(_tensor(maps[0])[0])
        return torch.stack([self.joined(inputs, [_tensor(m)[:, t] for m in maps]) for t in range(count)], 1)

    def _maps_by_layer(self, inputs: Any, kwargs: dict[str, Any]) -> list[Any]:
        method = self.attribution_method
        if getattr(method, "gives_lists", False):
            return list(method.attribute(inputs, **kwargs))
        maps = []
        with Undo() as undo, undo:
            give_scores_to_captum(undo, method)
            undo.callback(setattr, method, "layer", method.layer)
            for layer in self.layer:
                method.layer = layer
                maps.append(without_traces(method.attribute, model_of(method.forward_func), inputs, **kwargs))
        return maps

    @classmethod
    def get_name(cls) -> str:
        return "Layer Combination"


def combine_maps(
    maps: Sequence[Tensor], size: Sequence[int], weights: Sequence[float], mode: str, names: Sequence[str]
) -> Tensor:
    """Maps `N x K x *S` of several layers (channels are summed) as one of `size`; the weights sum to 1."""
    singles = [(m if m.is_floating_point() else m.float()).sum(1, keepdim=True) for m in maps]
    constant = torch.stack([is_constant(m) for m in singles])  # interpolated, it would have rounding of its own
    if on_cpu(constant) and bool(constant.any()):
        _warn_of_constant(constant.sum(1).tolist(), constant.shape[1], weights, mode, names)
    parts = []
    for single, weight, says_nothing in zip(singles, weights, constant):
        scaled = min_max(upsample(single, size))
        neutral = says_nothing.reshape(-1, *(1,) * (scaled.ndim - 1))
        part, nothing = (weight * scaled, 0) if mode == "sum" else (scaled**weight, 1)
        parts.append(torch.where(neutral, nothing, part))
    return torch.stack(parts).sum(0) if mode == "sum" else torch.stack(parts).prod(0)


def _warn_of_constant(
    counts: Sequence[int], examples: int, weights: Sequence[float], mode: str, names: Sequence[str]
) -> None:
    found = [f"{name} (for {n} of {examples} examples)" for name, n, w in zip(names, counts, weights) if n and w]
    if found:
        what = "is the factor 1 of the product" if mode == "product" else "adds 0 to the sum"
        warnings.warn(
            f"the map of {', '.join(found)} has one value all over, which says nothing about positions, so it {what}. "
            "In front of global pooling every gradient is the same everywhere (take an earlier layer, or a method that "
            "looks at activations); GradCAM is 0 where all evidence is against the class",
            stacklevel=4,
        )


def _tensor(map_: Any) -> Tensor:
    if isinstance(map_, tuple) and len(map_) == 1:
        return map_[0]
    if not isinstance(map_, Tensor):
        raise InvalidTypeError("a layer emits several tensors, hence several maps; expected layers that emit one")
    return map_


def normalized_weights(weights: Weights, layers: list[nn.Module | None], forward_func: Any) -> tuple[float, ...]:
    """Returns a weight for each layer, summing to 1, from any form in which they are given."""
    count = len(layers)
    if isinstance(weights, str):
        if weights not in _WEIGHTS:
            raise InvalidValueError(unknown_name("weights", weights, _WEIGHTS))
        values = [1.0] * count if weights == "uniform" else [float(j) for j in range(1, count + 1)]
    elif isinstance(weights, Mapping):
        by_layer = {find_layer(layer, forward_func): value for layer, value in weights.items()}
        if set(by_layer) != set(layers):
            raise InvalidValueError(
                f"weights name {len(by_layer)} layers, {len(set(by_layer) & set(layers))} of them the method's "
                f"{count}; expected a weight for each of the method's layers and no other"
            )
        values = [by_layer[layer] for layer in layers]
    else:
        values = weights  # type: ignore[assignment]
    try:
        values = [float(value) for value in values]
    except (TypeError, ValueError):
        raise InvalidTypeError(
            f"weights is {weights!r}; expected 'uniform', 'linear', or a number for each layer"
        ) from None
    if len(values) != count:
        raise InvalidValueError(f"weights has {len(values)} numbers for {count} layers; expected one each")
    total = sum(values)
    if min(values) < 0 or not 0 < total < float("inf"):
        raise InvalidValueError(f"weights are {values}; expected numbers of at least 0, and one above")
    return tuple(value / total for value in values)
