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

import warnings
import weakref
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.chunks import over_channels
from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import at_least_float32, low_and_spread, upsample
from captum_extract_aggregate._engine.input_positions import Positions, Size, check_size, find_positions
from captum_extract_aggregate._engine.layers import describe
from captum_extract_aggregate._engine.layout import Layout, to_channels_first
from captum_extract_aggregate._engine.recording import Evidence
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import CaptureAttribution, Maps, Plan, WithDelta, finished, places_of
from captum_extract_aggregate.attr.biases import adds_bias, bias_layers, biased, fused_norms
from captum_extract_aggregate.attr.convergence import (
    completeness_delta,
    is_bypassed,
    the_model,
    warn_of_bypass,
    with_biases,
)
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.extract_aggregate.attribution import LinearApproximation
from captum_extract_aggregate.attr.input_sized import InputSizedAttribution
from captum_extract_aggregate.attr.layer_types import L, Layers, OneLayer

_LOOKED: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # layers that did not run, of which it is known why
_EPS = 1e-6  # in FullGrad's rescaling, as its authors' code
Rescale = Literal["channel_joint", "layer_map"]
_RESCALE = get_args(Rescale)


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


def _check_bias(layer: nn.Module | None, to_input: bool) -> None:
    """Raises our error for a layer that adds no bias, and for the side at which none acts."""
    if layer is None or not adds_bias(layer):
        raise InvalidValueError(
            f"layer is or holds {'the input' if layer is None else type(layer).__name__}, which adds no bias; expected "
            "a convolution, linear layer or normalisation that does (bias_layers(model) lists them)"
        )
    if to_input:
        raise InvalidValueError(
            "attribute_to_layer_input is True, but a bias acts at the layer's output; expected "
            "attribute_to_layer_input=False"
        )


@described("`N x 1 x *S`, signed, in units of the score")
class BiasAttribution(CaptureAttribution[L]):
    r"""Bias attribution: :math:`a^{b}_u = \sum_k b_k \, \partial f / \partial z_{u,k}`; `N x 1 x *S`, signed.

    At the output z of a layer that adds a bias b: convolution, linear layer over positions, or normalisation
    (BatchNorm's implicit bias :math:`\beta - \gamma \mu / \sqrt{\sigma^2 + \epsilon}`). In units of the score.
    `bias_layers(model)` lists all layers that add one.

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

    def places(self, layer: nn.Module | None, to_input: bool) -> tuple[Place, ...]:
        _check_bias(layer, to_input)
        return super().places(layer, to_input)

    def maps_at(self, places: tuple[Place, ...], evidence: Evidence) -> tuple[Tensor, ...]:
        (place,) = places
        assert place.layer is not None
        gradients = evidence.gradients[place]
        terms = [biased(place.layer, g) for g in gradients]
        pairs = self._canonical(place, evidence, gradients, terms)
        self._warn_where_blind(place, evidence, [g for g, _ in pairs])
        return tuple(term.sum(1, keepdim=True) for _, term in pairs)

    def is_blind(self, layer: nn.Module | None) -> bool:
        return True

    @classmethod
    def get_name(cls) -> str:
        return "Bias Attribution"


@described("`N x 1 x H x W` with the input's positions, non-negative, without unit", layers=False)
class FullGrad(WithDelta[nn.Module]):
    r"""FullGrad: :math:`\psi(x \odot \nabla_x f) + \sum_l \sum_k \psi(b^l \odot \partial f / \partial z^l)_k`.

    One map of the input's size, `N x 1 x H x W`, non-negative, without unit. :math:`\psi` takes magnitudes, scales
    each layer's to [0, 1] per example over channels and positions jointly, and upsamples; channels are then summed.
    The biases of all layers with positions enter; those of linear layers without positions enter only the convergence
    delta (input and all biases against the score).

    Args:
        forward_func, device_ids, layout: as for `ExtractAggregate`.
        layer: the layers whose biases enter the map; None: all that add one (`bias_layers`).
        rescale: `"channel_joint"` as published; `"layer_map"` sums over the channels first, so that each layer counts
            once, whatever its number of channels.
        include_input: with the input's own term.
        align_corners: of the bilinear upsampling; True as in the authors' code.
        size: of the input's positions, where its shape does not tell it (see `AggregatedActivity`).

    Raises:
        TypeError, ValueError: as `ExtractAggregate`, and for another `rescale`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.FullGrad(model).attribute(image[None], target=7).shape
        torch.Size([1, 1, 96, 96])

    Source: Srinivas and Fleuret, NeurIPS 2019, section 4; `"layer_map"`: Grabska-Barwinska 2020.
    """

    uses_parameters = True

    joins_layers = True

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: OneLayer | Layers = None,
        device_ids: list[int] | None = None,
        *,
        rescale: Rescale = "channel_joint",
        include_input: bool = True,
        align_corners: bool = True,
        layout: Layout = "auto",
        size: Size | None = None,
    ) -> None:
        self._only_seen = layer is None
        self._fused: list[str] = []
        if layer is None:
            layer = list(bias_layers(the_model(forward_func)).values())
            self._fused = fused_norms(the_model(forward_func))
            if not layer:
                raise InvalidValueError(
                    "the model adds no bias anywhere; expected layers with biases, or another method"
                )
        given: Any = layer
        super().__init__(forward_func, given, device_ids, layout=layout)
        if not isinstance(rescale, str) or rescale not in _RESCALE:
            raise InvalidValueError(unknown_name("rescale", rescale, _RESCALE))
        self.rescale, self.include_input, self.align_corners = rescale, include_input, align_corners
        self.size = check_size(size)
        self.plan(to_input=False)  # a layer without a bias is refused here, not only at the first map

    def argument(self, name: str) -> Any:
        """Returns all layers that add a bias were not named."""
        return None if name == "layer" and self._only_seen else super().argument(name)

    def places(self, layer: nn.Module | None, to_input: bool) -> tuple[Place, ...]:
        _check_bias(layer, to_input)
        return (Place(layer, value=False, optional=self._only_seen),)

    def plan(self, to_input: bool) -> Plan:
        """Returns the input's place, if its term counts, and those of the layers."""
        return [(Place(None, "input"),)] * self.include_input + [*super().plan(to_input)]

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Maps:
        biases = [place for place in places_of(plan) if place.layer is not None]
        left_out: list[str] = []
        by_size: dict[tuple[int, ...], Tensor] = {}

        def add(term: Tensor) -> None:
            map_ = self._rescaled(term)
            own = tuple(map_.shape[2:])
            by_size[own] = by_size[own] + map_ if own in by_size else map_

        for place in biases:
            for term in self._terms(place, evidence, left_out):
                add(term)
        positions = find_positions(evidence.inputs, list(by_size), size=self.size, models=evidence.models)
        if self.include_input:
            for term in self._input_terms(positions, evidence):
                add(term)
        total = torch.zeros(evidence.inputs[0].shape[0], 1, *positions.size, device=evidence.inputs[0].device)
        for map_ in by_size.values():  # upsampling is linear: once for all layers of one size
            total = total + upsample(map_, positions.size, self.align_corners)
        left_out += self._fused
        self._warn_where_uncalled(biases, evidence)
        if left_out:
            warnings.warn(
                f"FullGrad's map lacks the biases of {len(left_out)} layers whose positions are not the picture's, or "
                f"that are fused with what follows them: {', '.join(left_out[:5])}, ...",
                stacklevel=2,
            )
        return finished(total, evidence)

    def _warn_where_uncalled(self, places: list[Place], evidence: Evidence) -> None:
        """Warns, once for a layer, of a bias that the model uses without calling its layer, where nobody can meet it.

        What of a network did not run, an auxiliary head say, adds nothing, and is looked at once.
        """
        idle = [place.layer for place in places if not evidence.activations.get(place)]
        unknown = [layer for layer in idle if layer is not None and layer not in _LOOKED]
        _LOOKED.update(unknown)
        used = [describe(layer, evidence.models) for layer in unknown if evidence.uses(layer)]
        if used:
            warnings.warn(
                f"FullGrad's map lacks the biases of {len(used)} layer(s) whose parameters the model uses without "
                f"calling them, as nn.MultiheadAttention does with its out_proj: {', '.join(used[:5])}",
                stacklevel=2,
            )

    def _input_terms(self, positions: Positions, evidence: Evidence) -> list[Tensor]:
        """Returns what each input with such positions contributes, channel by channel, `N x K x *S`."""
        place = Place(None, "input")
        pairs = list(zip(evidence.activations[place], evidence.gradients[place]))
        if not positions.arrange and self.layout != "auto":  # nothing else says where the channels are
            around = evidence.surroundings(place)
            arranged = [to_channels_first(x, self.layout, around)(x * g) for x, g in pairs if x.ndim > 2]
        else:
            arranged = [positions.arranged(pairs[i][0] * pairs[i][1], i) for i in positions.arrange or (0,)]
        return [at_least_float32(term) for term in arranged]

    def _terms(self, place: Place, evidence: Evidence, left_out: list[str]) -> list[Tensor]:
        """Gives what a layer's bias contributes to each channel, `N x K x *S`; nothing where there are no positions.

        In memory of its own, but for what a layout function makes of it.
        """
        assert place.layer is not None
        terms = []
        likes = evidence.activations.get(place, ())  # none where the layer never ran
        around = evidence.surroundings(place)
        for i, (x, g) in enumerate(zip(likes, evidence.gradients.get(place, ()))):
            if x.ndim < 3:
                continue
            term = biased(place.layer, g)
            try:
                arrange = to_channels_first(x, self.layout, around._replace(number=i))
                terms.append(at_least_float32(arrange(term)))
            except ValueError:
                if not place.optional:
                    raise
                left_out.append(around.name)
        return terms

    def _rescaled(self, contribution: Tensor) -> Tensor:
        """psi but for the upsampling, which is linear, so that the channels can be summed before it."""
        if self.rescale == "layer_map":
            contribution = contribution.sum(1, keepdim=True)
        magnitude = contribution.abs() if callable(self.layout) else contribution.abs_()
        low, spread = low_and_spread(magnitude)
        return magnitude.sub_(low).sum(1, keepdim=True).div_(spread + _EPS)

    @named_arguments
    def compute_convergence_delta(  # type: ignore[override]
        self, inputs: Tensor | tuple[Tensor, ...], target: Target = None, additional_forward_args: Any = None
    ) -> Tensor:
        """Input times gradient plus all biases of the network, minus the score: `N`, 0 where the terms are all."""
        place = Place(None, "input")
        evidence = with_biases(self.forward_func, inputs, target, additional_forward_args, [place], self.device_ids)
        return completeness_delta(place, evidence)

    @classmethod
    def get_name(cls) -> str:
        return "FullGrad"


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
