"""Methods that make one input-sized map from several layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from captum_extract_aggregate.attr.base import CaptureAttribution, Map, finished
from captum_extract_aggregate.capture import Evidence
from captum_extract_aggregate.layers import Layer, model_of
from captum_extract_aggregate.layout import Layout, input_size
from captum_extract_aggregate.maps import min_max, upsample
from captum_extract_aggregate.stages import default_layers


class InputSizedAttribution(CaptureAttribution):
    """Sums its layers' maps after taking magnitudes, scaling each to [0, 1] per example and upsampling it."""

    joins_layers = True

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Sequence[Layer] = None,
        device_ids: list[int] | None = None,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        if layer is None:
            model = model_of(forward_func)
            if model is None:
                raise TypeError(
                    "layer is None, but forward_func is no model whose default layers could be found; expected a layer "
                    "or a list of layers"
                )
            layer = list(default_layers(model).values())
        super().__init__(forward_func, layer, device_ids, layout, call)

    def _maps(self, inputs: Any, evidence: Evidence, to_input: bool) -> Map:
        size = input_size(evidence.inputs)
        total: Tensor | None = None
        for layer in self._layers():
            for map_ in self._layer_map(self._places(layer, to_input), evidence):
                scaled = upsample(min_max(map_.abs()), size)
                total = scaled if total is None else total + scaled
        assert total is not None
        return finished(total, evidence)
