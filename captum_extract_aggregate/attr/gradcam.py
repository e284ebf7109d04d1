"""GradCAM and the methods that aggregate its gradients positively.

With A^k the activation of channel k, g its gradient, w_k = mean_u g_{u,k} and (z)+ the positive part.

Sources: Selvaraju et al., Grad-CAM (ICCV 2017); Chattopadhay et al., Grad-CAM++ (WACV 2018); Khakzar, Baselizadeh,
Navab, Rethinking Positive Aggregation and Propagation of Gradients in Gradient-based Saliency Methods (ICML WHI 2020),
section 3.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.chunks import over_channels
from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import where_positive
from captum_extract_aggregate._engine.input_positions import Size
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import CaptureAttribution, own
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import captum_entry, check_flag, named_arguments
from captum_extract_aggregate.attr.input_sized import InputSizedAttribution
from captum_extract_aggregate.attr.layer_types import L, Layers, OneLayer

Positive = Literal["abs", "relu"]
_POSITIVE: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs, "relu": torch.relu}
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs_, "relu": torch.relu_}


def _check_positive(positive: str) -> str:
    if not isinstance(positive, str) or positive not in _POSITIVE:
        raise InvalidValueError(unknown_name("positive", positive, _POSITIVE))
    return positive


def _channel_weights(g: Tensor) -> Tensor:
    return g.flatten(2).mean(2).reshape(*g.shape[:2], *(1,) * (g.ndim - 2))


def _gradcam_pos(x: Tensor, g: Tensor, positive: str) -> Tensor:
    made = _IN_PLACE[positive]
    return over_channels(lambda x, g: made(_channel_weights(g) * x).sum(1, keepdim=True), x, g)


def _gradmid(g: Tensor, positive: str) -> Tensor:
    return over_channels(lambda g: _POSITIVE[positive](g).sum(1, keepdim=True), g)


class WeightedChannels(CaptureAttribution[L]):
    """Channels weighed by what their gradients say, summed and rectified, which Captum lets a call leave out."""

    _relu_attributions = True
    _attr_dim_summation = True

    def _weighted(self, x: Tensor, g: Tensor) -> Tensor:
        """Returns the activations of some channels times their weights, in memory of its own."""
        raise NotImplementedError

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        if self._attr_dim_summation:
            map_ = over_channels(lambda x, g: self._weighted(x, g).sum(1, keepdim=True), x, g)
        else:
            map_ = self._weighted(x, g)
        return map_.relu() if self._relu_attributions else map_

    @overload  # type: ignore[override]
    def attribute(  # type: ignore[overload-overlap]
        self: WeightedChannels[OneLayer],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor: ...

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: WeightedChannels[Layers],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Tensor]: ...

    @own
    @captum_entry
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns the map of one target per example."""
        check_flag("relu_attributions", relu_attributions)
        check_flag("attr_dim_summation", attr_dim_summation)
        asked = copy.copy(self)  # other threads may use this object
        asked._relu_attributions, asked._attr_dim_summation = relu_attributions, attr_dim_summation
        plain: Any = super(WeightedChannels, asked)
        return plain.attribute(inputs, target, additional_forward_args, attribute_to_layer_input, grad_kwargs)


@described("`N x 1 x *S`, non-negative (signed without `relu_attributions`), in units of the score")
class GradCAM(WeightedChannels[L]):
    r"""GradCAM: :math:`(\sum_k w_k A^k)_+`; `N x 1 x *S`, non-negative, in units of the score.

    Equal to Captum's `LayerGradCam` with `relu_attributions=True`, and right on tokens and channels-last activations,
    where Captum's averages over channels. The published map is rectified, and so is this one unless a call says
    `attribute(..., relu_attributions=False)`, which is Captum's default; with `attr_dim_summation=False` the channels'
    terms are returned unsummed, `N x K x *S`.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.GradCAM(model, model.layer4).attribute(image[None], target=7).shape
        torch.Size([1, 1, 12, 12])

    Source: Selvaraju et al., ICCV 2017.
    """

    def _weighted(self, x: Tensor, g: Tensor) -> Tensor:
        return _channel_weights(g) * x

    @classmethod
    def get_name(cls) -> str:
        return "GradCAM"


class _Positive(CaptureAttribution[L]):
    """Offers a choice of what makes each channel's share positive."""

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        positive: Positive = "abs",
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout=layout, call=call)
        self.positive = _check_positive(positive)


@described("`N x 1 x *S`, non-negative, in units of the score")
class GradCAMPos(_Positive[L]):
    r"""GradCAM_Pos: :math:`\sum_k |w_k A^k|`; `N x 1 x *S`, non-negative, in units of the score.

    Channels that speak against the class count like those that speak for it, which costs sensitivity to the class.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.
        positive: `"abs"`, or `"relu"` for :math:`\sum_k (w_k A^k)_+`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`, and for another `positive`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.GradCAMPos(model, model.layer3, positive="relu").attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Khakzar et al., ICML WHI 2020, section 3.
    """

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradcam_pos(x, g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "GradCAM Pos"


@described("`N x 1 x *S`, non-negative, in units of score per unit of activation")
class GradMid(_Positive[L]):
    r"""GradMid: :math:`\sum_k |g_{u,k}|`, gradients alone; `N x 1 x *S`, non-negative, in score per activation.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.
        positive: `"abs"`, or `"relu"` for :math:`\sum_k (g_{u,k})_+`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`, and for another `positive`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.GradMid(model, model.layer3).attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Khakzar et al., ICML WHI 2020, section 3.
    """

    def is_blind(self, layer: nn.Module | None) -> bool:
        return True

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradmid(g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "GradMid"


@described("`N x 1 x *S`, non-negative (signed without `relu_attributions`), in units of the score")
class GradCAMPlusPlus(WeightedChannels[L]):
    r"""GradCAM++: :math:`(\sum_k w_k A^k)_+` with :math:`w_k = \sum_u \alpha_{u,k} (g_{u,k})_+`; `N x 1 x *S`.

    :math:`\alpha = g^2 / (2 g^2 + \sum_v A_v \, g^3)`, from the derivatives of exp(score), where the sum runs over the
    positions of A alone; computed as :math:`1 / (2 + g \sum_v A_v)`, which no small number added for stability can
    swamp, and 0 where g = 0 or the denominator vanishes. The factor exp(score) of the gradients only scales each
    example's map and is left out. Non-negative, in units of the score.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.
        normalize_alpha: scale each channel's alphas to sum 1 over the positions with g > 0, as the authors' TensorFlow
            code does.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.GradCAMPlusPlus(model, model.layer4).attribute(image[None], target=7).shape
        torch.Size([1, 1, 12, 12])

    Source: Chattopadhay et al., WACV 2018, equations 10-13 and 19.
    """

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        normalize_alpha: bool = False,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout=layout, call=call)
        self.normalize_alpha = normalize_alpha

    def _weighted(self, x: Tensor, g: Tensor) -> Tensor:
        positions = tuple(range(2, x.ndim))
        positive = g.clamp(min=0)  # elsewhere alpha does not matter
        denominator = (positive * x.sum(positions, keepdim=True)).add_(2)
        alpha = denominator.reciprocal_()
        clean = torch.nan_to_num if alpha.requires_grad else torch.nan_to_num_
        alpha = clean(alpha, nan=math.nan, posinf=0, neginf=-math.inf)  # 0 where it was 1 / 0
        weights = (alpha * positive).sum(positions, keepdim=True)
        if self.normalize_alpha:
            total = where_positive(alpha, g).sum(positions, keepdim=True)
            weights = weights / torch.where(total != 0, total, 1)
        return weights * x

    @classmethod
    def get_name(cls) -> str:
        return "GradCAM++"


class _Cumulative(InputSizedAttribution):
    """Sums over layers maps with a choice of what makes each channel's share positive."""

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: OneLayer | Layers = None,
        device_ids: list[int] | None = None,
        *,
        positive: Positive = "abs",
        layout: Layout = "auto",
        call: int | None = None,
        size: Size | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout=layout, call=call, size=size)
        self.positive = _check_positive(positive)


@described(
    "`N x 1 x H x W` with the input's positions, non-negative, at most the number of layers, without unit", layers=False
)
class CumulativeGradCAM(_Cumulative):
    r"""CumulativeGradCAM: :math:`\sum_l \psi(\mathrm{GradCAM\_Pos}^l)`; one map of the input's size, `N x 1 x H x W`.

    :math:`\psi` takes the magnitude, scales each example's map to [0, 1] and upsamples it bilinearly, so every layer
    counts alike. Non-negative, at most the number of layers, without unit. As `GradCAMPos`, of which it is made, it
    depends little on the class, which is what its authors show with it.

    Args:
        forward_func, device_ids, layout, call: as for `ExtractAggregate`.
        layer: a layer or a list of layers; None: `default_layers` of the model.
        positive: `"abs"`, or `"relu"`, as for `GradCAMPos`.
        size: of the input's positions, where its shape does not tell it (see `AggregatedActivity`).

    Raises:
        TypeError, ValueError: as `ExtractAggregate`, and for another `positive`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.CumulativeGradCAM(model).attribute(image[None], target=7).shape
        torch.Size([1, 1, 96, 96])

    Source: Khakzar et al., ICML WHI 2020, section 3.1 ("an all-layer aggregation on GradCAM_Pos").
    """

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradcam_pos(x, g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "Cumulative GradCAM"


@described(
    "`N x 1 x H x W` with the input's positions, non-negative, at most the number of layers, without unit", layers=False
)
class CumulativeGradMid(_Cumulative):
    r"""CumulativeGradMid: :math:`\sum_l \psi(\mathrm{GradMid}^l)`; one map of the input's size, `N x 1 x H x W`.

    As `CumulativeGradCAM`, of the gradients alone.

    Args:
        forward_func, device_ids, layout, call: as for `ExtractAggregate`.
        layer: a layer or a list of layers; None: `default_layers` of the model.
        size: of the input's positions, where its shape does not tell it (see `AggregatedActivity`).
        positive: `"abs"`, or `"relu"`, as for `GradMid`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`, and for another `positive`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.CumulativeGradMid(model, ["layer2", "layer3"]).attribute(image[None], target=7).shape
        torch.Size([1, 1, 96, 96])

    Source: Khakzar et al., ICML WHI 2020, section 3.1.
    """

    def is_blind(self, layer: nn.Module | None) -> bool:
        return True

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradmid(g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "Cumulative GradMid"
