"""Maps that know nothing of the network, as methods: what a measure gives them is what it gives for nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import Attribution
from torch import Tensor, nn

from captum_extract_aggregate.evaluation.plan import MethodPlan
from captum_extract_aggregate.metrics.pointing_game import centre_map

_SIDE = 14  # of the random map, about as many positions as maps of late layers have
_SOBEL = [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]


class _Null(Attribution):
    """Is what all have in common: a model to be made with, of which they ask nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)


class RandomMap(_Null):
    """Draws 14 x 14 values from [0, 1), brought to the input's size; anew each time that it is asked.

    It therefore depends on everything, the class and the network too: a measure of what maps depend on is won by it.
    The draws of a batch begin with its seed, so that they are the same whatever else is explained.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._drawing = torch.Generator()
        self._seed: int | None = None

    def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
        """Returns maps `N x 1 x H x W`."""
        if self._seed != torch.initial_seed():
            self._seed = torch.initial_seed()
            self._drawing.manual_seed(self._seed)
        drawn = torch.rand(len(inputs), 1, _SIDE, _SIDE, generator=self._drawing).to(inputs)
        return F.interpolate(drawn, tuple(inputs.shape[2:]), mode="bilinear", align_corners=False)


class CentreMap(_Null):
    """Falls off from the middle of the input, to 0 in the corner farthest from it."""

    def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
        """Returns maps `N x 1 x H x W`."""
        falling = centre_map((inputs.shape[2], inputs.shape[3]))
        return (falling - falling.amin()).expand(len(inputs), 1, -1, -1).to(inputs)


class EdgeMap(_Null):
    """Gives the magnitude of Sobel's filters on the mean of the input's channels."""

    def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
        """Returns maps `N x 1 x H x W`."""
        across = torch.tensor(_SOBEL).to(inputs)
        grey = F.pad(inputs.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        return F.conv2d(grey, torch.stack([across, across.T])[:, None]).norm(dim=1, keepdim=True)


NULLS = {"random map": RandomMap, "centre": CentreMap, "edges": EdgeMap}


def null_plans() -> list[MethodPlan]:
    """Returns the maps that know nothing as a plan's methods."""
    return [MethodPlan(f"{__name__}:{cls.__name__}", label=label) for label, cls in NULLS.items()]
