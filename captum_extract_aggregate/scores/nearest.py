"""A class against those that the network scores most alike."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate.scores.base import Model, Score
from captum_extract_aggregate.scores.indices import index_or_none


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


def check_gamma(gamma: Any) -> float:
    """Returns `gamma` itself, or our error."""
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0 <= gamma < math.inf:
        raise InvalidValueError(f"gamma is {gamma!r}; expected a number of at least 0")
    return gamma


def check_references(references: Any) -> int:
    """Returns `references` as an int, or our error."""
    number = index_or_none(references)
    if number is None:
        raise InvalidTypeError(f"references is {references!r}; expected a whole number of at least 1")
    if number < 1:
        raise InvalidValueError(f"references is {references!r}; expected a whole number of at least 1")
    return number


def nearest_contrast(z: Tensor, gamma: float, references: int) -> Tensor:
    """Returns each class's score minus `gamma` times the mean of the `references` scores nearest to it, `N x C`."""
    if z.ndim != 2 or z.shape[1] < 2:
        raise InvalidValueError(f"model gives scores of shape {tuple(z.shape)}; expected N x classes, two or more")
    nearest = _nearest_classes(z.detach(), min(references, z.shape[1] - 1))
    return z - gamma * z.gather(1, nearest.flatten(1)).unflatten(1, nearest.shape[1:]).mean(2)


def _nearest_classes(z: Tensor, count: int) -> Tensor:
    """Returns the classes nearest to each, `N x C x count`: in order of the scores they are among its neighbours."""
    ordered, classes = z.sort(dim=1, stable=True)
    steps = torch.tensor([s for s in range(-count, count + 1) if s], device=z.device)
    ranks = torch.arange(z.shape[1], device=z.device)[:, None] + steps
    inside = (ranks >= 0) & (ranks < z.shape[1])
    ranks = ranks.clamp(0, z.shape[1] - 1)
    far = (ordered[:, ranks] - ordered[:, :, None]).abs().masked_fill(~inside, torch.inf)
    chosen = far.sort(dim=2, stable=True).indices[..., :count]
    of_rank = classes[:, ranks].gather(2, chosen)
    return torch.empty_like(of_rank).scatter_(1, classes[:, :, None].expand_as(of_rank), of_rank)
