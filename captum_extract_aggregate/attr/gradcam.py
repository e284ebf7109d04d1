"""GradCAM and the methods that aggregate its gradients positively.

With A^k the activation of channel k, g its gradient, w_k = mean_u g_{u,k} and (z)+ the positive part.

Sources: Selvaraju et al., Grad-CAM (ICCV 2017); Chattopadhay et al., Grad-CAM++ (WACV 2018); Khakzar, Baselizadeh,
Navab, Rethinking Positive Aggregation and Propagation of Gradients in Gradient-based Saliency Methods (ICML WHI 2020),
section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.chunks import over_channels
from captum_extract_aggregate._common.errors import unknown_name
from captum_extract_aggregate._common.tensors import where_positive
from captum_extract_aggregate._engine.input_positions import Size
from captum_extract_aggregate._engine.layers import Layer
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.input_sized import InputSizedAttribution

_POSITIVE: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs, "relu": torch.relu}
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs_, "relu": torch.relu_}


def _check_positive(positive: str) -> str:
    if not isinstance(positive, str) or positive not in _POSITIVE:
        raise ValueError(unknown_name("positive", positive, _POSITIVE))
    return positive


def _channel_weights(g: Tensor) -> Tensor:
    return g.flatten(2).mean(2).reshape(*g.shape[:2], *(1,) * (g.ndim - 2))


def _gradcam(x: Tensor, g: Tensor) -> Tensor:
    return over_channels(lambda x, g: (_channel_weights(g) * x).sum(1, keepdim=True), x, g).relu()


def _gradcam_pos(x: Tensor, g: Tensor, positive: str) -> Tensor:
    made = _IN_PLACE[positive]
    return over_channels(lambda x, g: made(_channel_weights(g) * x).sum(1, keepdim=True), x, g)


def _gradmid(g: Tensor, positive: str) -> Tensor:
    return over_channels(lambda g: _POSITIVE[positive](g).sum(1, keepdim=True), g)


class GradCAM(CaptureAttribution):
    r"""GradCAM: :math:`(\sum_k w_k A^k)_+`; `N x 1 x *S`, non-negative, in units of the score.

    Equal to Captum's `LayerGradCam` with `relu_attributions=True`, and right on tokens and channels-last activations,
    where Captum's averages over channels.

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

    def _map(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradcam(x, g)

    @classmethod
    def get_name(cls) -> str:
        return "GradCAM"


class _Positive(CaptureAttribution):
    """With a choice of what makes each channel's share positive."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Sequence[Layer],
        device_ids: list[int] | None = None,
        positive: str = "abs",
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout, call)
        self.positive = _check_positive(positive)


class GradCAMPos(_Positive):
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

    def _map(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradcam_pos(x, g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "GradCAM Pos"


class GradMid(_Positive):
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

    def _is_blind(self, layer: nn.Module | None) -> bool:
        return True

    def _map(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradmid(g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "GradMid"


class GradCAMPlusPlus(CaptureAttribution):
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

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Sequence[Layer],
        device_ids: list[int] | None = None,
        normalize_alpha: bool = False,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout, call)
        self.normalize_alpha = normalize_alpha

    def _map(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return over_channels(self._weighted, x, g).relu()

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
        return (weights * x).sum(1, keepdim=True)

    @classmethod
    def get_name(cls) -> str:
        return "GradCAM++"


class _Cumulative(InputSizedAttribution):
    """The sum over layers of maps with a choice of what makes each channel's share positive."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Sequence[Layer] = None,
        device_ids: list[int] | None = None,
        positive: str = "abs",
        layout: Layout = "auto",
        call: int | None = None,
        size: Size | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout, call, size)
        self.positive = _check_positive(positive)


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

    def _map(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradcam_pos(x, g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "Cumulative GradCAM"


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

    def _is_blind(self, layer: nn.Module | None) -> bool:
        return True

    def _map(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return _gradmid(g, self.positive)

    @classmethod
    def get_name(cls) -> str:
        return "Cumulative GradMid"
