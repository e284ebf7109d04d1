"""Guided GradCAM: what guided backprop sends to the input, where GradCAM of a layer finds the class.

Source: Selvaraju et al., Grad-CAM (ICCV 2017), section 3.2.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from captum.attr import LayerAttribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.input_positions import Size, check_size, find_positions
from captum_extract_aggregate._engine.layers import describe
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate.attr.base import own
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import captum_entry, named_arguments
from captum_extract_aggregate.attr.gradcam import GradCAM
from captum_extract_aggregate.attr.layer_types import L
from captum_extract_aggregate.attr.one_pass import Map, Maps, Plan, finished, places_of
from captum_extract_aggregate.attr.propagation.relu_methods import GuidedBackprop

InterpolateMode = Literal["nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic", "trilinear"]
_MODES = get_args(InterpolateMode)
_DIMENSIONS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}  # of positions; the others take any number
_GUIDED = Place(None, "output")  # no place of the network's: under it evidence holds what guided backprop sends


@described("The inputs' shapes (a tuple for a tuple), signed, in units of score squared per unit of activation")
class GuidedGradCAM(GradCAM[L]):
    r"""Guided GradCAM: guided backprop's attribution of the input, times a layer's GradCAM at the input's size.

    :math:`R_{u,k} \, m_u`, with R what `GuidedBackprop` sends to the input and m the map of `GradCAM`, interpolated.
    In the inputs' shapes, signed, in units of score squared per unit of the input. It is Captum's `GuidedGradCam`,
    which sees `nn.ReLU` modules alone and no tokens; this one sees every ReLU, and takes tokens and lists of layers (of
    which it makes a list of attributions, from two passes for all of them).

    Of several inputs each gets the map at its own size; one without positions (features) gets an empty tensor, as in
    Captum's class, with a warning.

    Args:
        model, device_ids, layout, call: as for `GuidedBackprop`.
        layer: that of GradCAM: a module or its dotted name, or a list of those.
        size: of the input's positions, where its shape does not tell it (see `AggregatedActivity`).

    Raises:
        TypeError, ValueError: as `GuidedBackprop`; for a way of interpolation that the layer's positions do not have.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> method = cea.GuidedGradCAM(model, "layer4")
        >>> method.attribute(image[None], target=7, interpolate_mode="bilinear").shape
        torch.Size([1, 3, 96, 96])

    Source: Selvaraju et al., ICCV 2017, section 3.2 (which interpolates bilinearly; `"nearest"` is Captum's default).
    """

    _mode: str = "nearest"

    @named_arguments
    def __init__(
        self,
        model: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        layout: Layout = "auto",
        call: int | None = None,
        size: Size | None = None,
    ) -> None:
        super().__init__(model, layer, device_ids, layout=layout, call=call)
        self.size = check_size(size)

    def run_pass(
        self, inputs: Any, places: list[Place], additional_forward_args: Any, targets: Any
    ) -> Iterator[Evidence]:
        """Runs a plain pass and a guided one side by side; their forwards at once, as the caller's."""
        guided = GuidedBackprop(self.forward_func, None, self.device_ids)
        (at_input,) = places_of(guided.plan(to_input=False))
        plain_pass = super().run_pass(inputs, places, additional_forward_args, targets)
        guided_pass = guided.run_pass(inputs, [at_input], additional_forward_args, targets)
        return (
            replace(plain, gradients=plain.gradients | {_GUIDED: sent.gradients[at_input]})
            for plain, sent in zip(plain_pass, guided_pass)
        )

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Maps:
        maps = [self._guided(places, inputs, evidence) for places in plan]
        return maps if isinstance(self.layer, (list, tuple)) else maps[0]

    def _guided(self, places: tuple[Place, ...], inputs: Any, evidence: Evidence) -> Map:
        maps, sent = self.maps_at(places, evidence), evidence.gradients[_GUIDED]
        if places[0].layer is not None and len(maps) > 1:
            raise InvalidTypeError(
                f"{describe(places[0].layer, evidence.models)} gives {len(maps)} tensors, hence maps; expected a layer "
                "that gives one"
            )
        if not isinstance(inputs, tuple):
            return finished(self._product(sent[0], maps[0], evidence), evidence)
        of_each = maps if places[0].layer is None else maps * len(sent)  # inputs have their own
        return tuple(finished(self._product_or_empty(R, m, evidence), evidence) for R, m in zip(sent, of_each))

    def _product(self, R: Tensor, map_: Tensor, evidence: Evidence) -> Tensor:  # noqa: N803
        positions = find_positions([R], [map_.shape[2:]], size=self.size, models=evidence.models)
        product = R.to(map_.dtype, copy=True)
        positions.arranged(product).mul_(_interpolated(map_, positions.size, self._mode))  # a view, with channels first
        return product

    def _product_or_empty(self, R: Tensor, map_: Tensor, evidence: Evidence) -> Tensor:  # noqa: N803
        try:
            return self._product(R, map_, evidence)
        except InvalidValueError as error:
            warnings.warn(f"an input of shape {tuple(R.shape)} gets an empty attribution: {error}", stacklevel=2)
            return torch.empty(0, dtype=R.dtype, device=R.device)

    @own
    @captum_entry
    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: InterpolateMode = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Returns the attributions of one target per example."""
        if interpolate_mode not in _MODES:
            raise InvalidValueError(unknown_name("interpolate_mode", interpolate_mode, _MODES))
        asked = copy.copy(self)  # other threads may use this object
        asked._mode = interpolate_mode
        plain: Any = super(GuidedGradCAM, asked)
        return plain.attribute(inputs, target, additional_forward_args, attribute_to_layer_input)

    @classmethod
    def get_name(cls) -> str:
        return "Guided GradCAM"


def _interpolated(map_: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Returns a map at the size of the input, by Captum's function."""
    dims = map_.ndim - 2
    if _DIMENSIONS.get(mode, dims) != dims:
        raise InvalidValueError(
            f"interpolate_mode is {mode!r}, and the layer has {dims} position dimensions; expected 'nearest', or one "
            "for as many"
        )
    found: Tensor = LayerAttribution.interpolate(map_, tuple(size), mode)
    return found
