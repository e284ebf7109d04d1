"""RefineCAM: the product over layers of GradCAM++.

Source: Domeniconi et al., How to Evaluate and Refine your CAM (2026).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from captum_extract_aggregate._engine.input_positions import Size
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate.attr.combination import LayerCombination
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.gradcam import GradCAMPlusPlus
from captum_extract_aggregate.attr.input_sized import layers_or_default
from captum_extract_aggregate.attr.layer_types import Layers, OneLayer


@described("`N x 1 x H x W` with the input's positions, in [0, 1], without unit", layers=False)
class RefineCAM(LayerCombination):
    r"""RefineCAM: :math:`\prod_l m_l`, the product of several layers' GradCAM++; `N x 1 x H x W` in [0, 1].

    Each layer's map is upsampled bilinearly to the input's size and scaled to [0, 1] per example, as by
    `LayerCombination`, which this is with every exponent 1 (`LayerCombination(GradCAMPlusPlus(model, layers))` takes
    the root, of the same order). Without unit. A layer whose map is constant for an example is the factor 1.

    Args:
        forward_func, device_ids, layout, call: as for `ExtractAggregate`.
        layer: a layer or a list of layers; None: `default_layers` of the model.
        size: of the input's positions, where its shape does not tell it (see `AggregatedActivity`).

    Raises:
        TypeError, ValueError: as `LayerCombination`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.RefineCAM(model, ["layer2", "layer3", "layer4"]).attribute(image[None], target=7).shape
        torch.Size([1, 1, 96, 96])

    Source: Domeniconi et al., How to Evaluate and Refine your CAM (2026).
    """

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
        given = layers_or_default(forward_func, layer)
        layers = given if isinstance(given, (list, tuple, Mapping)) else [given]
        plus_plus: Any = GradCAMPlusPlus(forward_func, layers, device_ids, layout=layout, call=call)
        super().__init__(plus_plus, size=size)
        self.weights = (1.0,) * len(self.layer)
        self.call = call

    def argument(self, name: str) -> Any:
        """Returns the layout of the layers, which is GradCAM++'s."""
        return getattr(self.attribution_method, name) if name == "layout" else super().argument(name)

    @classmethod
    def get_name(cls) -> str:
        return "RefineCAM"
