"""Extract & Aggregate: maps from what each position contributes to the gradient of a shared parameter.

Source: Rebuffi, Fong, Ji, Vedaldi, There and Back Again: Revisiting Backpropagation Saliency Methods (CVPR 2020),
section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import describe, model_of
from captum_extract_aggregate._engine.layout import Layout, view_axis
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import check_flag, named_arguments
from captum_extract_aggregate.attr.extract_aggregate.aggregate import (
    AggregateName,
    Materialized,
    aggregate,
    check_aggregate,
)
from captum_extract_aggregate.attr.extract_aggregate.contribution import Summand
from captum_extract_aggregate.attr.extract_aggregate.extract import (
    REAL_LAYER_EXTRACTS,
    Extract,
    Pair,
    all_channels,
    check_parameter,
    layer_bias_extract,
    layer_extract,
    virtual_extract,
)
from captum_extract_aggregate.attr.layer_types import L


@described(
    "`N x 1 x *S`; signed for `sum` and `max`, else non-negative; in units of the score, or of score per "
    "unit of activation for `bias` and `layer_bias`"
)
class ExtractAggregate(CaptureAttribution[L]):
    r"""Any extract with any aggregate: `map_u = aggregate(extract_u)`, `N x 1 x *S`.

    With activation :math:`x_u` and gradient :math:`g_u = \partial f / \partial x_u` at position u (K channels), the
    extract is u's summand in the gradient of a parameter that all positions share, and the aggregate makes it one
    number. Nothing of size K x K is ever built: there are closed forms.

    Units: of the score where activations take part (the virtual layers' weights have no unit); of score per unit of
    activation for `bias` and `layer_bias`.

    Args:
        forward_func: the model, or any callable that returns a score per example and class.
        layer: a module or its dotted name, or a list of those; None for the network's input.
        extract: of a virtual identity layer `"bias"`, `"scaling"`, `"conv1x1"`, `"conv3x3"` (any odd N),
            `"depthwise3x3"` (any odd N); or of the layer's own parameters `"layer"` (weight) and `"layer_bias"`.
        aggregate: `"norm"`, `"filter_norm"`, `"sum"`, `"abs_sum"`, `"filter_sum"`, `"sum_filter"`, `"max"`,
            `"max_abs"`; or a function of the multiplied-out contributions, `P x *parameter_shape` to `P` numbers, for
            research (slow, a bounded number of positions at a time).
        device_ids: of a DataParallel model.
        layout: `"auto"`, `"channels_first"`, `"channels_last"`, `"tokens"`, or a function to `N x K x *S`.
        call: which call of a layer that runs several times in one forward.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> method = cea.ExtractAggregate(model, model.layer3, extract="conv3x3", aggregate="filter_norm")
        >>> method.attribute(image[None], target=int(target["labels"][0])).shape
        torch.Size([1, 1, 24, 24])

    Source: Rebuffi et al., CVPR 2020, sections 3.1.1-3.1.3.
    """

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        extract: Extract = "conv1x1",
        aggregate: AggregateName | Materialized = "norm",
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout=layout, call=call)
        self.extract = extract
        self.aggregate = aggregate
        if not callable(aggregate):
            check_aggregate(aggregate)
        if extract not in REAL_LAYER_EXTRACTS:
            virtual_extract(extract)
        self.plan(to_input=False)  # a layer without such parameters is refused here, not only at the first map

    def _check_real_layer(self, layer: nn.Module | None) -> None:
        if layer is None:
            raise InvalidValueError(
                f"extract is {self.extract!r} and layer is None, but the input has no parameters; expected a "
                "layer, or a virtual extract such as 'conv1x1'"
            )
        name = self._describe(layer)
        if self.extract == "layer":
            layer_extract(layer, name)
        check_parameter(layer, "weight" if self.extract == "layer" else "bias", name)

    def _describe(self, layer: nn.Module | None) -> str:
        model = model_of(self.forward_func)
        return describe(layer, () if model is None else (model,))

    def places(self, layer: nn.Module | None, to_input: bool) -> tuple[Place, ...]:
        if self.extract not in REAL_LAYER_EXTRACTS:
            return super().places(layer, to_input)
        self._check_real_layer(layer)
        if to_input:
            raise InvalidValueError(
                f"attribute_to_layer_input is True, but extract={self.extract!r} takes the layer's input and the "
                "gradient at its output by definition; expected False, or a virtual extract such as 'conv1x1'"
            )
        return (
            Place(layer, "output", call=self.call),
            Place(layer, "input", differentiate=False, call=self.call),
        )

    def maps_at(self, places: tuple[Place, ...], evidence: Evidence) -> tuple[Tensor, ...]:
        if callable(self.layout) and (views := self._views(places, evidence)) is not None:
            return self._map_of_views(places, evidence, views)
        layer, pairs = places[0].layer, self._pairs(places, evidence)
        if callable(self.aggregate):  # not necessarily homogeneous in the gradient
            return tuple(aggregate(self._summand(layer, Pair(x, g)), self.aggregate) for x, g in pairs)

        def scaled() -> list[Pair]:
            made = []
            for i, ((x, g), tame) in enumerate(zip(pairs, self._are_tame(places[0], evidence, pairs))):
                known = None
                if _share_memory(x, evidence.activations[places[-1]][i]):  # a copy would be kept to the end of the pass
                    key = (places[-1], i, self._layout_key())
                    known = evidence.channels.once(key, functools.partial(all_channels, x))
                made.append(Pair(x, g, known=known) if tame else Pair.scaled(x, g, known))
            return made

        found = evidence.scaled.once((places, self._layout_key()), scaled)
        return tuple(pair.unscaled(aggregate(self._summand(layer, pair), self.aggregate)) for pair in found)

    def _views(self, places: tuple[Place, ...], evidence: Evidence) -> int | None:
        """Returns the dimension of views that the layout unfolds from the batch."""
        assert callable(self.layout)
        return view_axis(self.layout, evidence.activations[places[-1]][0], evidence.surroundings(places[-1]))

    def _map_of_views(self, places: tuple[Place, ...], evidence: Evidence, axis: int) -> tuple[Tensor, ...]:
        """Windows and norms do not reach from one view to another: to them views are examples, as to the layer."""
        layer, maps = places[0].layer, []
        for x, g in self._pairs(places, evidence):
            folded = Pair.scaled(x.movedim(axis, 1).flatten(0, 1), g.movedim(axis, 1).flatten(0, 1))
            map_ = folded.unscaled(aggregate(self._summand(layer, folded), self.aggregate))
            maps.append(map_.unflatten(0, (len(x), -1)).movedim(1, axis))
        return tuple(maps)

    def is_blind(self, layer: nn.Module | None) -> bool:
        """Returns where all channels of the gradient meet all of the activation, only their sizes are left."""
        if self.extract in ("bias", "layer_bias"):
            return True
        if callable(self.aggregate):
            return False
        if self.extract == "layer":
            is_outer = isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))
            return is_outer and getattr(layer, "groups", 1) == 1
        return self.extract.startswith("conv")

    def _are_tame(self, place: Place, evidence: Evidence, pairs: list[tuple[Tensor, Tensor]]) -> list[bool]:
        """Returns which gradients are known to be neither tiny nor huge; of parts (a layout may leave out tokens) none
        is."""
        captured = evidence.gradients[place]
        known = evidence.tame.get(place, (False,) * len(captured))
        if callable(self.layout):
            return [False] * len(captured)
        return [tame and g.numel() == t.numel() for tame, t, (_, g) in zip(known, captured, pairs)]

    def _summand(self, layer: nn.Module | None, pair: Pair) -> Summand:
        if self.extract == "layer":
            assert layer is not None
            return layer_extract(layer, self._describe(layer))(layer, pair.x, pair.g)
        if self.extract == "layer_bias":
            assert layer is not None
            return layer_bias_extract(layer, pair.x, pair.g)
        return pair.summand(self.extract)


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


class GridMember(ExtractAggregate[L]):
    """A member of the grid under its own name."""

    _extract: str
    _aggregate: str

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
        grid: Any = {"extract": self._extract, "aggregate": self._aggregate}
        super().__init__(forward_func, layer, device_ids, **grid, layout=layout, call=call)


@described("`N x 1 x *S`, non-negative, in units of the score")
class NormGrad(ExtractAggregate[L]):
    r"""NormGrad: :math:`\|g_u\| \, \|x_u\|`, the Frobenius norm of :math:`g_u x_u^T`.

    `N x 1 x *S`, non-negative, in units of the score.

    With `virtual_identity=False` it is the norm of the contribution to the layer's own weights: for a convolution
    :math:`\|g_u\| \, \|x_{patch(u)}\|`, with x the layer's input and g the gradient at its output.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.
        virtual_identity: take the virtual 1 x 1 identity convolution after the layer (default), or the layer itself.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.NormGrad(model, model.layer3).attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Rebuffi et al., CVPR 2020, section 3.2, Table 2 (rows 4 and 5).
    """

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        virtual_identity: bool = True,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        check_flag("virtual_identity", virtual_identity)
        extract: Extract = "conv1x1" if virtual_identity else "layer"
        super().__init__(forward_func, layer, device_ids, extract=extract, aggregate="norm", layout=layout, call=call)
        self.virtual_identity = virtual_identity

    @classmethod
    def get_name(cls) -> str:
        return "NormGrad"


@described("`N x 1 x *S`, non-negative, in units of the score")
class SelectiveNormGrad(GridMember[L]):
    r"""Selective NormGrad: :math:`\|(g_u \odot x_u)_+\|`; `N x 1 x *S`, non-negative, in units of the score.

    Only the channels that raise the score count, which makes it more class-selective than NormGrad.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.SelectiveNormGrad(model, "features.13").attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Rebuffi et al., CVPR 2020, section 3.2, Table 2 (row 3).
    """

    _extract, _aggregate = "scaling", "filter_norm"

    @classmethod
    def get_name(cls) -> str:
        return "Selective NormGrad"


@described("`N x 1 x *S`, signed, in units of the score (without the activation: of score per unit of activation)")
class LinearApproximation(ExtractAggregate[L]):
    r"""Linear approximation: :math:`\sum_k g_{u,k} x_{u,k}`; `N x 1 x *S`, signed, in units of the score.

    Captum's `LayerGradientXActivation` summed over the channels.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.
        multiply_by_inputs: False leaves the activation out, as in Captum's class: :math:`\sum_k g_{u,k}`.
        memory_efficient: taken as Captum 0.9 takes it; every method here holds one pass alone, so nothing changes.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> maps = cea.LinearApproximation(model, ["features.8", "features.18"]).attribute(image[None], target=7)
        >>> [tuple(m.shape) for m in maps]
        [(1, 1, 48, 48), (1, 1, 12, 12)]

    Source: Rebuffi et al., CVPR 2020, section 3.2, Table 2 (row 2).
    """

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        check_flag("multiply_by_inputs", multiply_by_inputs)
        check_flag("memory_efficient", memory_efficient)
        extract: Extract = "scaling" if multiply_by_inputs else "bias"
        super().__init__(forward_func, layer, device_ids, extract=extract, aggregate="sum", layout=layout, call=call)
        self.multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        return self.multiply_by_inputs


@described("`N x 1 x *S`, non-negative (signed for `sum` and `max`), in units of score per unit of activation")
class LayerGradient(ExtractAggregate[L]):
    r"""Gradient: :math:`\max_k |g_{u,k}|`, or with `aggregate="sum"` :math:`\sum_k g_{u,k}`; `N x 1 x *S`.

    Non-negative (the sum is signed), in units of score per unit of activation.

    At the input (`layer=None`) with the default aggregate this is the saliency map of Simonyan et al. (2014): Captum's
    `Saliency`, maximum over the channels.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.
        aggregate: `"max_abs"` or `"sum"` (any other aggregate of `ExtractAggregate` works too).
        multiply_by_inputs: False, as Captum's `LayerGradientXActivation` has to be called for the gradient alone.
        memory_efficient: as for `LinearApproximation`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.LayerGradient(model, None).attribute(image[None], target=7).shape
        torch.Size([1, 1, 96, 96])

    Source: Rebuffi et al., CVPR 2020, section 3.2, Table 2 (row 1); Simonyan et al., ICLR workshop 2014.
    """

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L = None,  # type: ignore[assignment]
        device_ids: list[int] | None = None,
        *,
        aggregate: AggregateName | Materialized = "max_abs",
        multiply_by_inputs: Literal[False] = False,
        memory_efficient: bool = False,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        if multiply_by_inputs is not False:
            raise InvalidValueError(
                f"multiply_by_inputs is {multiply_by_inputs!r}, but this is the gradient alone; expected False, or "
                "LinearApproximation, which multiplies by the activation"
            )
        check_flag("memory_efficient", memory_efficient)
        super().__init__(forward_func, layer, device_ids, extract="bias", aggregate=aggregate, layout=layout, call=call)
