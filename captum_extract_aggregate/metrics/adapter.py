"""Layer methods where Captum's measures expect attributions of the inputs."""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.input_positions import InputLayout, Size, check_input_layout, check_size
from captum_extract_aggregate._engine.layers import checked_inputs
from captum_extract_aggregate.attr.entry import captum_entry
from captum_extract_aggregate.metrics.explanations import MapReader


class InputAttribution(Attribution):
    """Is a layer method whose map is spread over the input's channels and positions: see `as_input_attribution`."""

    layer = None
    joins_layers = True

    def __init__(self, attribution_method: Attribution, size: Size | None = None, layout: InputLayout = "auto") -> None:
        super().__init__(attribution_method.forward_func)
        self.method = attribution_method
        self.size, self.layout = check_size(size), check_input_layout(layout)

    @captum_entry
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Returns a tuple of one contiguous tensor of the input's shape."""
        tensors = checked_inputs(inputs)
        if len(tensors) != 1:
            raise InvalidValueError(f"inputs holds {len(tensors)} tensors; expected one picture: a map belongs to one")
        reader = MapReader(self.method, (), self.size, self.layout)
        maps, positions, _ = reader.read(self.method.attribute(inputs, *args, **kwargs), tensors)
        (x,), elements = tensors, positions.elements(tensors[0])
        position = torch.empty(elements.numel(), dtype=torch.long, device=x.device)  # of each value
        position[elements] = torch.arange(elements.shape[1], device=x.device)
        return (maps.flatten(1)[:, position].reshape(x.shape),)


def as_input_attribution(
    attribution_method: Attribution, size: Size | None = None, layout: InputLayout = "auto"
) -> InputAttribution:
    """Makes a layer method usable in `captum.metrics.infidelity` and `captum.metrics.sensitivity_max`.

    Captum's `sensitivity_max` takes a bare tensor from the explanation for a tuple of tensors, and so compares examples
    with each other, for every layer method (its own among them); `infidelity` refuses whatever has not the input's
    shape. The adapter's `attribute` returns a tuple of one tensor of the input's shape: the map, upsampled, the same in
    all channels.

    Args:
        attribution_method: an attribution object that gives one map, on one layer.
        size, layout: of the input, where its shape does not tell its positions from its channels: as for
            `LayerCombination`.

    Raises:
        TypeError, ValueError: for what is no attribution object; at `attribute` for several maps or inputs, and for a
            map whose positions are not the input's.

    Example:
        >>> import torch
        >>> from captum.metrics import sensitivity_max
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import as_input_attribution
        >>> model = cea.load_scene_model("vgg")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=2)])
        >>> method = as_input_attribution(cea.NormGrad(model, "features.13"))
        >>> sensitivity_max(method.attribute, images, target=7, n_perturb_samples=2).shape
        torch.Size([2])
    """
    if not isinstance(attribution_method, Attribution):
        raise InvalidTypeError(
            f"attribution_method is a {type(attribution_method).__name__}; expected an attribution object, such as "
            "NormGrad(model, layer)"
        )
    return InputAttribution(attribution_method, size, layout)
