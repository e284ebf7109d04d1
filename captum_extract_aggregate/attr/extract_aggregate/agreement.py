"""How much the virtual identity layer changes NormGrad.

Source: Rebuffi et al., There and Back Again (CVPR 2020), appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._engine.layers import Layer
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.extract_aggregate.attribution import NormGrad
from captum_extract_aggregate.attr.together import attribute_together


def virtual_identity_agreement(
    forward_func: Callable[..., Any],
    layers: Iterable[Layer],
    inputs: Tensor | tuple[Tensor, ...],
    target: Target = None,
    additional_forward_args: Any = None,
) -> Tensor:
    """Spearman correlation between NormGrad with and without the virtual identity, `layers x N`; NaN for constant maps.

    Args:
        forward_func, inputs, target, additional_forward_args: as for `NormGrad` and its `attribute`.
        layers: layers with weights of their own whose maps have one size, such as convolutions.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.virtual_identity_agreement(model, ["layer2.conv2", "layer4.conv2"], image[None], target=7).shape
        torch.Size([2, 1])

    Source: Rebuffi et al., CVPR 2020, appendix B.
    """
    from scipy.stats import rankdata

    listed = list(layers)
    methods = {
        "virtual": NormGrad(forward_func, listed),
        "real": NormGrad(forward_func, listed, virtual_identity=False),
    }
    maps = attribute_together(methods, inputs, target, additional_forward_args)
    rows = []
    for virtual, real in zip(maps["virtual"], maps["real"]):
        ranks = [torch.from_numpy(rankdata(m.flatten(1).double().cpu().numpy(), axis=1)) for m in (virtual, real)]
        a, b = (r - r.mean(1, keepdim=True) for r in ranks)
        rows.append((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))  # 0 / 0, a constant map, is NaN
    return torch.stack(rows)
