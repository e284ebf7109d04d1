"""CAMs by the gradient of each position: activations times weights that follow from the gradients.

With A^k the activation of channel k, g its gradient and (z)+ the positive part. HiResCAM and element-wise GradCAM are
cells of the Extract & Aggregate grid; LayerCAM and XGradCAM weigh the activations as GradCAM does, by other weights.

Sources: Draelos and Carin, Use HiResCAM instead of Grad-CAM (2020); Jiang et al., LayerCAM (IEEE TIP 2021); Fu et al.,
Axiom-based Grad-CAM (BMVC 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.extract_aggregate.attribution import GridMember
from captum_extract_aggregate.attr.gradcam import WeightedChannels
from captum_extract_aggregate.attr.layer_types import L


@described("`N x 1 x *S`, non-negative, in units of the score")
class HiResCAM(GridMember[L]):
    r"""HiResCAM: :math:`(\sum_k g_{u,k} A^k_u)_+`; `N x 1 x *S`, non-negative, in units of the score.

    The positive part of `LinearApproximation`, which keeps the sign. In front of global average pooling and a linear
    layer it is `GradCAM`; elsewhere, unlike that, it never raises a position by gradients from others.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.HiResCAM(model, model.layer3).attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations (2020).
    """

    _extract, _aggregate = "scaling", "sum_filter"

    @classmethod
    def get_name(cls) -> str:
        return "HiResCAM"


@described("`N x 1 x *S`, non-negative, in units of the score")
class ElementWiseGradCAM(GridMember[L]):
    r"""Element-wise GradCAM: :math:`\sum_k (g_{u,k} A^k_u)_+`; `N x 1 x *S`, non-negative, in units of the score.

    What speaks for the class, channel by channel, without what speaks against it in others.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.ElementWiseGradCAM(model, model.layer3).attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: the grad-cam library's `GradCAMElementWise`, which names no paper.
    """

    _extract, _aggregate = "scaling", "filter_sum"

    @classmethod
    def get_name(cls) -> str:
        return "Element-wise GradCAM"


@described("`N x 1 x *S`, non-negative (signed without `relu_attributions`), in units of the score")
class LayerCAM(WeightedChannels[L]):
    r"""LayerCAM: :math:`(\sum_k (g_{u,k})_+ A^k_u)_+`; `N x 1 x *S`, non-negative, in units of the score.

    The outer positive part matters where activations have both signs (GELU, SiLU, tokens, in front of a ReLU); behind
    a ReLU there is nothing for it to do, and the map is `ElementWiseGradCAM`'s.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> maps = cea.LayerCAM(model, ["layer2", "layer3"]).attribute(image[None], target=7)
        >>> [tuple(m.shape) for m in maps]
        [(1, 1, 48, 48), (1, 1, 24, 24)]

    Source: Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization (IEEE TIP 2021),
    section III.B. (Its fusion of layers, a maximum, is left to the user.)
    """

    def _weighted(self, x: Tensor, g: Tensor) -> Tensor:
        return g.clamp(min=0) * x

    @classmethod
    def get_name(cls) -> str:
        return "LayerCAM"


@described("`N x 1 x *S`, non-negative (signed without `relu_attributions`), in units of the score")
class XGradCAM(WeightedChannels[L]):
    r"""XGradCAM: :math:`(\sum_k w_k A^k_u)_+` with :math:`w_k = \sum_v g_{v,k} A^k_v / \sum_v A^k_v`; `N x 1 x *S`.

    Each channel's gradients are averaged with its activation as their weight, so that before the outer positive part
    the map sums to :math:`\sum_{k,v} g_{v,k} A^k_v`, as `LinearApproximation` does. Non-negative, in units of the
    score.

    A channel whose activations sum to 0, such as a dead one, has the weight 0. Where activations have both signs, the
    sum may nearly cancel, and the weight then is large: take `HiResCAM` there.

    Args:
        forward_func, layer, device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.XGradCAM(model, model.layer4).attribute(image[None], target=7).shape
        torch.Size([1, 1, 12, 12])

    Source: Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs (BMVC 2020),
    section 3.
    """

    def _weighted(self, x: Tensor, g: Tensor) -> Tensor:
        positions = tuple(range(2, x.ndim))
        total = x.sum(positions, keepdim=True)
        weights = (g * x).sum(positions, keepdim=True) / torch.where(total != 0, total, torch.inf)
        return weights * x

    @classmethod
    def get_name(cls) -> str:
        return "XGradCAM"
