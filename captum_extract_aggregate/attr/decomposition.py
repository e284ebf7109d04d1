"""A score taken apart into what each activity and each bias contributes.

For a network of convolutions, linear layers, eval-mode BatchNorm, ReLU and max or average pooling, the score is linear
in what passes any cut, once the signs and maxima of this input are fixed. So at every cut l, with activities h, layer
outputs z and biases b (BatchNorm's implicit one included),

    f  =  sum_u a^{h,l}_u  +  sum over later layers l' of sum_u a^{b,l'}_u,
    a^{h,l}_u = sum_k h_{u,k} df/dh_{u,k},      a^{b,l}_u = sum_k b_k df/dz^l_{u,k}.

Networks with other nonlinearities (sigmoid, SiLU, GELU, LayerNorm, attention, ReLU6's ceiling) are no such function:
there the two sides differ, and the convergence delta says by how much.

Sources: Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization (NeurIPS 2019);
Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.chunks import over_channels
from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.input_positions import Size
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.biases import bias_layers, biased, check_bias
from captum_extract_aggregate.attr.class_blind import warn_where_blind
from captum_extract_aggregate.attr.convergence import completeness_delta, is_bypassed, warn_of_bypass, with_biases
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.extract_aggregate.attribution import LinearApproximation
from captum_extract_aggregate.attr.input_sized import InputSizedAttribution
from captum_extract_aggregate.attr.layer_types import L, Layers, OneLayer
from captum_extract_aggregate.attr.with_delta import WithDelta


@described("`N x 1 x *S`, signed, in units of the score")
class ActivityAttribution(WithDelta[L], LinearApproximation[L]):
    r"""Activity attribution: :math:`a^{h}_u = \sum_k h_{u,k} \, \partial f / \partial h_{u,k}`; `N x 1 x *S`, signed.

    The linear approximation seen as a decomposition, in units of the score: `compute_convergence_delta` tells what is
    missing to the score once the biases behind the layer are added.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> method = cea.ActivityAttribution(model, ["layer2", "layer4"])
        >>> [tuple(m.shape) for m in method.attribute(image[None], target=7)]
        [(1, 1, 48, 48), (1, 1, 12, 12)]
        >>> all(delta.abs().max() < 1e-3 for delta in method.compute_convergence_delta(image[None], target=7))
        True

    Source: Grabska-Barwinska 2020, equation 11.
    """

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout=layout, call=call)

    @named_arguments
    def compute_convergence_delta(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor | list[Tensor]:
        """Returns the activities at each layer plus all biases behind it, minus the score: `N` per layer, in its units.

        0 up to rounding where the decomposition is exact (see this module's text). NaN, with a warning, where other
        branches of the network bypass the layer: it is no cut, and nothing can be complete there. Costs one more
        forward per layer, with the graph severed there, to find that out.
        """
        places = [first for first, *_ in self.plan(attribute_to_layer_input)]
        evidence = with_biases(self.forward_func, inputs, target, additional_forward_args, places, self.device_ids)
        deltas = []
        for place in places:
            if is_bypassed(self.forward_func, inputs, target, additional_forward_args, place):
                warn_of_bypass(place, evidence.models, stacklevel=2)
                deltas.append(torch.full_like(evidence.scores, torch.nan))
            else:
                deltas.append(completeness_delta(place, evidence))
        return deltas if isinstance(self.layer, (list, tuple)) else deltas[0]

    @classmethod
    def get_name(cls) -> str:
        return "Activity Attribution"


@described("`N x 1 x *S`, signed, in units of the score")
class BiasAttribution(CaptureAttribution[L]):
    r"""Bias attribution: :math:`a^{b}_u = \sum_k b_k \, \partial f / \partial z_{u,k}`; `N x 1 x *S`, signed.

    At the output z of a layer that adds a bias b: convolution, linear layer over positions, or normalisation
    (BatchNorm's implicit bias :math:`\beta - \gamma \mu / \sqrt{\sigma^2 + \epsilon}`). In units of the score.
    `bias_layers(model)` lists all layers that add one; what no call of a layer adds (class tokens, position embeddings,
    the biases of fused attention) is among `LibraGrad.bias_terms`.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`, and for a layer that adds no bias.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.BiasAttribution(model, "layer4.bn2").attribute(image[None], target=7).shape
        torch.Size([1, 1, 12, 12])

    Source: Grabska-Barwinska 2020, equation 12.
    """

    uses_parameters = True

    @staticmethod
    def suited_layers(model: nn.Module, inputs: Any) -> dict[str, nn.Module]:
        """Returns the layers that the method goes with, but for linear ones, which mostly have no positions."""
        return {name: layer for name, layer in bias_layers(model).items() if not isinstance(layer, nn.Linear)}

    def places(self, layer: nn.Module | None, to_input: bool) -> tuple[Place, ...]:
        check_bias(layer, to_input)
        return super().places(layer, to_input)

    def maps_at(self, places: tuple[Place, ...], evidence: Evidence) -> tuple[Tensor, ...]:
        (place,) = places
        assert place.layer is not None
        gradients = evidence.gradients[place]
        terms = [biased(place.layer, g) for g in gradients]
        pairs = self._canonical(place, evidence, gradients, terms)
        warn_where_blind(self, place, evidence, [g for g, _ in pairs])
        return tuple(term.sum(1, keepdim=True) for _, term in pairs)

    def is_blind(self, layer: nn.Module | None) -> bool:
        return True

    @classmethod
    def get_name(cls) -> str:
        return "Bias Attribution"


@described("`N x 1 x H x W` with the input's positions, non-negative, without unit", layers=False)
class AggregatedActivity(InputSizedAttribution):
    r"""Aggregated activity: :math:`[\psi(a^{h,0})] + \sum_{l \ge l_0} \psi(a^{h,l})`; `N x 1 x H x W`, non-negative.

    :math:`\psi` takes the magnitude of a layer's activity attribution, scales it to [0, 1] per example and upsamples it
    bilinearly. The author found all layers without the input best for VGG-16, and the top two (`l0=-2`) for ResNet-50.

    Args:
        forward_func, device_ids, layout, call: as for `ExtractAggregate`.
        layer: the layers in network order; None: `default_layers` of the model.
        l0: the first of them that counts; negative from the end.
        include_input: with the input's own term.
        size: of the input's positions, such as `(500,)` for a signal `N x 500 x 12` or `(64, 64)` for observations
            `N x 64 x 64 x 12`; None: from the input's shape, and our error where that does not tell it.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`, and for an `l0` outside of the layers.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.AggregatedActivity(model, l0=-2).attribute(image[None], target=7).shape
        torch.Size([1, 1, 96, 96])

    Source: Grabska-Barwinska 2020, equation 16.
    """

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: OneLayer | Layers = None,
        device_ids: list[int] | None = None,
        *,
        l0: int = 0,
        include_input: bool = False,
        layout: Layout = "auto",
        call: int | None = None,
        size: Size | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout=layout, call=call, size=size)
        count = len(super()._layers())
        if isinstance(l0, bool) or not isinstance(l0, int) or not -count <= l0 < count:
            raise InvalidValueError(f"l0 is {l0!r}; expected {-count} to {count - 1}, one of the {count} layers")
        self.l0, self.include_input = l0, include_input

    def _layers(self) -> list[nn.Module | None]:
        chosen = super()._layers()[self.l0 :]
        return [None, *chosen] if self.include_input else chosen

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return over_channels(lambda x, g: (x * g).sum(1, keepdim=True), x, g)
