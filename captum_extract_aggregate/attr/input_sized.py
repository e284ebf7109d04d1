"""Methods that make one input-sized map from several layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32, min_max, upsample
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.input_positions import Positions, Size, check_size, find_positions
from captum_extract_aggregate._engine.layers import model_of
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.layer_types import Layers, OneLayer
from captum_extract_aggregate.attr.one_pass import Map, Plan, finished


def layers_or_default(forward_func: Callable[..., Any], layer: Any) -> Any:
    """Returns the layers given; None: the default ones of the model that `forward_func` is."""
    if layer is not None:
        return layer
    model = model_of(forward_func)
    if model is None:
        raise InvalidTypeError(
            "layer is None, but forward_func is no model whose default layers could be found; expected a layer or a "
            "list of layers"
        )
    try:
        return list(default_layers(model).values())
    except InvalidValueError as error:  # which asks for an input, and there is none yet
        cause = str(error).split(";")[0]
        raise InvalidValueError(
            f"layer is None, and {cause}; expected layer=, such as list(default_layers(model, x).values()) for inputs x"
        ) from error


class InputSizedAttribution(CaptureAttribution[nn.Module]):
    """Sums its layers' maps after taking magnitudes, scaling each to [0, 1] per example and upsampling it."""

    joins_layers = True

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: OneLayer | Layers = None,
        device_ids: list[int] | None = None,
        *,
        layout: Layout = "auto",
        call: int | None = None,
        size: Size | None = None,
    ) -> None:
        given: Any = layers_or_default(forward_func, layer)  # whose maps become one, whether it is a list or not
        super().__init__(forward_func, given, device_ids, layout=layout, call=call)
        self.size = check_size(size)

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Map:
        maps = [m for of in plan if not _is_input(of) for m in self.maps_at(of, evidence)]
        positions = find_positions(evidence.inputs, [m.shape[2:] for m in maps], size=self.size, models=evidence.models)
        maps += [m for of in plan if _is_input(of) for m in self._input_maps(of[0], positions, evidence)]
        total: Tensor | None = None
        for map_ in maps:
            scaled = upsample(min_max(map_.abs()), positions.size)
            total = scaled if total is None else total + scaled
        assert total is not None
        return finished(total, evidence)

    def _input_maps(self, place: Place, positions: Positions, evidence: Evidence) -> Sequence[Tensor]:
        """Returns the maps of the inputs with such positions; `layout` says where their channels are if nothing else
        does."""
        if not positions.arrange and self.layout != "auto":
            return self.maps_at((place,), evidence)
        of = evidence.activations[place], evidence.gradients[place]
        pairs = [[positions.arranged(at_least_float32(t[i]), i) for t in of] for i in positions.arrange or (0,)]
        return [self.map_of(None, x, g) for x, g in pairs]


def _is_input(places: tuple[Place, ...]) -> bool:
    return places[0].layer is None
