"""A class against those that the network scores most alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_extract_aggregate._common.nearest_contrast import check_gamma, check_references, nearest_contrast
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate.scores.base import Model, Score


class NearestContrast(Score):
    r"""A class against those whose scores are nearest to its own: what sets it apart from what it resembles.

    .. math:: f_c = z_c - \frac{\gamma}{|D_c|} \sum_{d \in D_c} z_d

    with :math:`D_c` the `references` classes d other than c of the smallest :math:`|z_d - z_c|`, found for each example
    by itself, and anew for whatever input the network is asked about. It is the score of `FinerCAM`.

    Args:
        model: gives class scores z, `N x classes`.
        gamma: how much the other classes count, at least 0.
        references: how many they are; all others, where there are fewer.

    Returns:
        From the call `N x classes`: `target=c` explains the contrast of class c.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import NearestContrast
        >>> model, (image, _) = cea.load_scene_model("resnet"), cea.DigitScenes(n=1)[0]
        >>> cea.NormGrad(NearestContrast(model), "layer3").attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Zhang et al., Finer-CAM (CVPR 2025), section 3.
    """

    def __init__(self, model: Model, *, gamma: float = 0.6, references: int = 3) -> None:
        super().__init__(model)
        self.keep(gamma=check_gamma(gamma), references=check_references(references))

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        return nearest_contrast(find_scores(output), self.kept.gamma, self.kept.references)
