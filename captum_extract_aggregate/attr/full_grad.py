"""FullGrad: one map of the input's size, made of the input's term and every layer's bias."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import at_least_float32, extremes, on_cpu, spread_between, upsample
from captum_extract_aggregate._engine.added import Added
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.input_positions import Positions, Size, check_size, find_positions
from captum_extract_aggregate._engine.layer_channels import is_channels_first
from captum_extract_aggregate._engine.layers import describe
from captum_extract_aggregate._engine.layout import Layout, to_channels_first
from captum_extract_aggregate._engine.recording import check_finite
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.biases import bias_layers, biased, biases_of, check_bias, fused_norms
from captum_extract_aggregate.attr.convergence import completeness_delta, the_model, with_biases
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.layer_types import Layers, OneLayer
from captum_extract_aggregate.attr.one_pass import Maps, Plan, finished, places_of
from captum_extract_aggregate.attr.with_delta import WithDelta

_LOOKED: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # layers that did not run, of which it is known why


Biases = dict[nn.Module, Tensor]

_EPS = 1e-6  # in FullGrad's rescaling, as its authors' code


Rescale = Literal["channel_joint", "layer_map", "channel"]


_RESCALE = get_args(Rescale)


class Magnitudes(NamedTuple):
    """Holds the magnitudes of a contribution: their sum over its channels, `N x 1 x *S`, each example's smallest and
    largest one, `N`, and how many channels there are."""

    channels: Tensor
    low: Tensor
    high: Tensor
    number: int


@described("`N x 1 x H x W` with the input's positions, non-negative, without unit", layers=False)
class FullGrad(WithDelta[nn.Module]):
    r"""FullGrad: :math:`\psi(x \odot \nabla_x f) + \sum_l \sum_k \psi(b^l \odot \partial f / \partial z^l)_k`.

    One map of the input's size, `N x 1 x H x W`, non-negative, without unit. :math:`\psi` takes magnitudes, scales
    each layer's to [0, 1] per example over channels and positions jointly, and upsamples; channels are then summed.
    The biases of all layers with positions enter; those of linear layers without positions enter only the convergence
    delta (input and all biases against the score). Within `LibraGrad` whatever else is added at positions of the
    input enters, too (position embeddings, biases of fused attention, of windows, ...; two more passes): only what
    `LibraGrad.bias_terms` gives as `elsewhere`, such as class tokens, does not.

    Args:
        forward_func, device_ids, layout: as for `ExtractAggregate`.
        layer: the layers whose biases enter the map; None: all that add one (`bias_layers`).
        rescale: `"channel_joint"` as published; `"layer_map"` sums over the channels first, so that each layer counts
            once, whatever its number of channels; `"channel"` scales each channel's map by itself, so that each counts
            alike (a layer as often as it has channels).
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

    Source: Srinivas and Fleuret, NeurIPS 2019, section 4; `"channel"`: Grabska-Barwinska 2020, equations 8
    to 10, `"layer_map"`: the same, section 2.4.
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
        """Returns an argument as it was given: None where all layers that add a bias were taken."""
        return None if name == "layer" and self._only_seen else super().argument(name)

    def places(self, layer: nn.Module | None, to_input: bool) -> tuple[Place, ...]:
        check_bias(layer, to_input)
        assert layer is not None
        at_once = self.layout == "auto" and is_channels_first(layer)  # whose positions are the layer's own
        reduce = functools.partial(self._reduced, layer, dict) if at_once else None
        return (Place(layer, value=False, optional=self._only_seen, reduce=reduce),)

    def plan(self, to_input: bool) -> Plan:
        """Returns the input's place, if its term counts, and those of the layers, whose biases are computed together,
        when the first is asked for."""
        plan: list[tuple[Place, ...]] = [(Place(None, "input"),)] * self.include_input
        places = places_of(super().plan(to_input))
        layers = [place.layer for place in places if place.layer is not None]
        biases = functools.cache(functools.partial(biases_of, layers))
        for place, layer in zip(places, layers, strict=True):
            shared = functools.partial(self._reduced, layer, biases) if place.reduce is not None else None
            plan.append((place._replace(reduce=shared),))
        return plan

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Maps:
        biases = [place for place in places_of(plan) if place.layer is not None]
        left_out: dict[nn.Module | None, str] = {}
        by_layer = self._of_layers(biases, evidence, left_out)
        sizes = list(dict.fromkeys(tuple(map_.channels.shape[2:]) for _, map_ in by_layer))
        positions = find_positions(evidence.inputs, sizes, size=self.size, models=evidence.models)
        further: list[Magnitudes] = []
        if evidence.added is None:
            self._warn_where_uncalled(biases, evidence)
            self._warn([*left_out.values(), *self._fused])
        elif self._only_seen:
            added = evidence.added()
            met = set[int]().union(*(one.given for one in added))
            if all(t.is_floating_point() for t in evidence.inputs):  # what layers make of constants is added later on
                by_layer = [(layer, map_) for layer, map_ in by_layer if _own(layer) & met]
            counted = set[int]().union(*(_own(layer) for layer, _ in by_layer))
            terms = self._further_terms([one for one in added if not one.given & counted], evidence)
            further = [self._magnitudes(term) for term in terms if term.ndim == len(positions.size) + 2]
        maps = [map_ for _, map_ in by_layer] + further
        if self.include_input:
            maps += map(self._magnitudes, self._input_terms(positions, evidence))
        return finished(self._summed(maps, positions, evidence), evidence)

    def _of_layers(
        self, biases: list[Place], evidence: Evidence, left_out: dict[nn.Module | None, str]
    ) -> list[tuple[nn.Module | None, Magnitudes]]:
        """Returns the magnitudes of what each layer's bias contributes; of all layers those with as many dimensions as
        most have."""
        maps = []
        for place in biases:
            if place in evidence.reduced:
                maps += [(place.layer, one) for one in _checked(place, evidence)]
            else:
                maps += [(place.layer, self._magnitudes(term)) for term in self._terms(place, evidence, left_out)]
        most = max((map_.channels.ndim for _, map_ in maps), default=0)
        if self._only_seen:
            left_out |= {layer: describe(layer, evidence.models) for layer, map_ in maps if map_.channels.ndim < most}
        return [(layer, map_) for layer, map_ in maps if layer not in left_out]

    def _summed(self, maps: list[Magnitudes], positions: Positions, evidence: Evidence) -> Tensor:
        """Returns the sum of all at the input's size; upsampling is linear: once for all maps of one size."""
        total = torch.zeros(evidence.inputs[0].shape[0], 1, *positions.size, device=evidence.inputs[0].device)
        by_size: dict[tuple[int, ...], list[Magnitudes]] = {}
        for map_ in maps:
            by_size.setdefault(tuple(map_.channels.shape[2:]), []).append(map_)
        for same in by_size.values():
            total = total + upsample(_rescaled(same), positions.size, self.align_corners)
        return total

    def _further_terms(self, added: list[Added], evidence: Evidence) -> Iterator[Tensor]:
        """Yields the terms that have places; warns where positions are unknown."""
        for one in added:
            placed = one.placed(len(evidence.scores))
            if placed is not None and bool((placed != 0).any()):
                yield at_least_float32(placed.to(evidence.scores.dtype))
        self._warn([one.name for one in added if one.dims is None])

    def _warn(self, lacking: list[str]) -> None:
        if lacking:
            warnings.warn(
                f"FullGrad's map lacks the biases of {len(lacking)} layers whose positions are not the picture's, or "
                f"that are fused with what follows them: {', '.join(lacking[:5])}, ...",
                stacklevel=3,
            )

    def _warn_where_uncalled(self, places: list[Place], evidence: Evidence) -> None:
        """Warns, once for a layer, of a bias that the model uses without calling its layer, where nobody can meet it.

        What of a network did not run, an auxiliary head say, adds nothing, and is looked at once.
        """
        idle = [place.layer for place in places if place not in evidence.activations]
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

    def _terms(self, place: Place, evidence: Evidence, left_out: dict[nn.Module | None, str]) -> list[Tensor]:
        """Returns what a layer's bias contributes to each channel, `N x K x *S`; nothing where there are no positions.

        In memory of its own, but for what a layout function makes of it.
        """
        assert place.layer is not None
        if place not in evidence.activations:  # the layer never ran
            return []
        terms, likes = [], evidence.activations[place]
        around = evidence.surroundings(place)
        if not likes:  # it ran on constants alone
            left_out[place.layer] = around.name
        numbers = evidence.numbers.get(place, range(len(likes)))
        for number, x, g in zip(numbers, likes, evidence.gradients.get(place, ())):
            if x.ndim < 3:
                continue
            term = biased(place.layer, g)
            try:
                arrange = to_channels_first(x, self.layout, around._replace(number=number))
                terms.append(at_least_float32(arrange(term)))
            except ValueError:
                if not place.optional:
                    raise
                left_out[place.layer] = around.name
        return terms

    def _reduced(self, layer: nn.Module, biases: Callable[[], Biases], g: Tensor) -> Magnitudes:
        """Returns the magnitudes of what a layer's bias contributes, whose gradient is somebody else's, too."""
        return self._magnitudes(at_least_float32(biased(layer, g, biases().get(layer))))

    def _magnitudes(self, contribution: Tensor) -> Magnitudes:
        """Returns what psi needs to know of a contribution, which is read but once."""
        if self.rescale == "layer_map":
            contribution = contribution.sum(1, keepdim=True)
        magnitude = contribution.abs() if callable(self.layout) else contribution.abs_()
        if self.rescale == "channel":
            return _scaled_by_channel(magnitude)
        return Magnitudes(magnitude.sum(1, keepdim=True), *extremes(magnitude), magnitude.shape[1])

    @named_arguments
    def compute_convergence_delta(  # type: ignore[override]
        self, inputs: Tensor | tuple[Tensor, ...], target: Target = None, additional_forward_args: Any = None
    ) -> Tensor:
        """Returns input times gradient plus all biases of the network, minus the score: `N`, 0 where they are all."""
        place = Place(None, "input")
        evidence = with_biases(self.forward_func, inputs, target, additional_forward_args, [place], self.device_ids)
        return completeness_delta(place, evidence)

    @classmethod
    def get_name(cls) -> str:
        return "FullGrad"


def _rescaled(of_layers: list[Magnitudes]) -> Tensor:
    """Returns the sum of contributions of one size, with psi applied to each but for the upsampling, which is linear.

    Of all channels together the smallest magnitude is taken off at once, so that no channel is written again.
    """
    channels, low, high = (torch.stack(tensors) for tensors in list(zip(*of_layers))[:3])
    off = torch.stack([one.low * one.number for one in of_layers])
    size = (*low.shape, *(1,) * (channels.ndim - 2))
    spread = spread_between(low, high) + _EPS
    return channels.sub_(off.reshape(size)).div_(spread.reshape(size)).sum(0)


def _scaled_by_channel(magnitude: Tensor) -> Magnitudes:
    """Returns magnitudes of which each channel is scaled by itself, so that nothing is left to scale."""
    positions = tuple(range(2, magnitude.ndim))
    low, high = magnitude.amin(positions, keepdim=True), magnitude.amax(positions, keepdim=True)
    channels = magnitude.sub_(low).div_(high - low + _EPS).sum(1, keepdim=True)
    nothing = channels.flatten(1).amax(1) * 0  # but for what is no number, which is met there
    return Magnitudes(channels, nothing, nothing + (1 - _EPS), 1)


def _checked(place: Place, evidence: Evidence) -> tuple[Magnitudes, ...]:
    """Returns what was kept of a place's gradients; our error where they are not finite, as anywhere."""
    found: tuple[Magnitudes, ...] = evidence.reduced[place]
    for one in found:
        if on_cpu(one.high):
            check_finite(one.high.tolist(), place, evidence.models)
    return found


def _own(layer: nn.Module | None) -> set[int]:
    """Returns the ids of a layer's own parameters and buffers."""
    return set() if layer is None else {id(t) for t in (*layer.parameters(False), *layer.buffers(False))}
