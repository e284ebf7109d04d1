"""Maps sorted by how well they localise, and averaged in bins: what the best, the usual and the worst look like.

Source: Rao, Bohle and Schiele, Better Understanding Attribution Methods (CVPR 2022), section 3.4, AggAtt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.tensors import magnitudes
from captum_extract_aggregate.metrics.map_rows import map_positions

_EDGES = (2.0, 5.0, 50.0, 95.0, 98.0)  # per cent, the best first


@dataclass(frozen=True)
class AggregatedAttributions:
    """Holds the mean map of each bin, `bins x *S`, the best first; NaN in a bin without maps.

    `edges` are the bins' borders in per cent of the maps, with 0 and 100; `counts` is how many maps each holds.
    """

    maps: Tensor
    edges: tuple[float, ...]
    counts: Tensor

    def plot(self, axes: Any = None) -> Any:
        """Shows the bins of pictures side by side, on one scale around 0; returns the axes."""
        from matplotlib import pyplot as plt

        if axes is None:
            _, axes = plt.subplots(1, len(self.maps), figsize=(2 * len(self.maps), 2.4), layout="constrained")
        highest = float(self.maps.abs().nan_to_num(0).max()) or 1.0
        for ax, map_, (low, high) in zip(axes, self.maps.cpu(), itertools.pairwise(self.edges)):
            ax.imshow(map_.numpy(), cmap="coolwarm", vmin=-highest, vmax=highest)
            ax.set_title(f"{low:g} to {high:g} %", fontsize=9)
            ax.set_axis_off()
        return axes


def aggregated_attributions(maps: Tensor, scores: Tensor, edges: Sequence[float] = _EDGES) -> AggregatedAttributions:
    """Returns the means of maps in bins of their scores, the best first.

    Each map is divided by its largest magnitude, so that none counts for more than another. Of equal scores the first
    map comes first. Maps whose score is NaN, or that are not finite, are in no bin.

    Args:
        maps: `N x C x H x W` or `N x H x W`, of grids whose right cell is the same; channels are summed.
        scores: `N`, such as those of `grid_pointing_game`; higher is better.
        edges: the borders between bins, in per cent of the maps, ascending.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import aggregated_attributions
        >>> maps = torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]], [[8.0, 0.0]]])
        >>> found = aggregated_attributions(maps, torch.tensor([0.9, 0.1, 0.8]), edges=[60])
        >>> found.maps.tolist(), found.counts.tolist()
        ([[[1.0, 0.0]], [[0.0, 1.0]]], [2, 1])
    """
    own, values = map_positions(maps).double(), torch.as_tensor(scores).detach().double().reshape(-1)
    if len(values) != len(own):
        raise InvalidValueError(f"scores has {len(values)} values for {len(own)} maps; expected one for each")
    borders = (0.0, *(float(e) for e in edges), 100.0)
    if any(a >= b for a, b in itertools.pairwise(borders)):
        raise InvalidValueError(f"edges is {list(edges)!r}; expected ascending per cent between 0 and 100")
    defined = ~values.isnan().to(own.device) & ~own.flatten(1).isnan().any(1)
    own, values = own[defined], values[defined.to(values.device)]
    largest = magnitudes(own).reshape(-1, *(1,) * (own.ndim - 1)) if len(own) else 1
    own = torch.where(torch.as_tensor(largest) > 0, own / largest, 0)[values.argsort(descending=True, stable=True)]
    cuts = [round(border / 100 * len(own)) for border in borders]
    bins = [own[a:b] for a, b in itertools.pairwise(cuts)]
    counts = torch.tensor([len(b) for b in bins])
    return AggregatedAttributions(torch.stack([b.mean(0) for b in bins]), borders, counts)
