"""Does the map's maximum lie on the object?

Source: Zhang et al., Top-down Neural Attention by Excitation Backprop (ECCV 2016); the restricted game: Khakzar et al.,
Rethinking Positive Aggregation and Propagation (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

Masks = Tensor | Sequence[Tensor]


def pointing_game(attributions: Tensor | Sequence[Tensor], masks: Masks, tolerance: float = 15) -> Tensor:
    """Whether each map's maximum lies less than `tolerance` pixels (Euclidean) from its mask; `N` booleans.

    The map is resized bilinearly to the mask's size, which is the original image's. The first of several maxima counts
    (row by row). An empty mask is a miss.

    Args:
        attributions: `N x 1 x h x w` (or `N x h x w`), or a list of N such maps of a size each; channels are summed.
        masks: `N x H x W` booleans, or a list of N masks `H x W`, of a size each.
        tolerance: a distance of exactly this is a miss.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import pointing_game
        >>> attributions, masks = torch.zeros(2, 1, 5, 5), torch.zeros(2, 5, 5, dtype=torch.bool)
        >>> attributions[:, :, 2, 2] = 1
        >>> masks[0, 2, 4] = True
        >>> pointing_game(attributions, masks, tolerance=3).tolist()
        [True, False]
    """
    if len(attributions) != len(masks):
        raise ValueError(f"{len(attributions)} maps for {len(masks)} masks; expected one mask for each map")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance!r}; expected a number of pixels above 0")
    return torch.tensor([_hit(a, m, tolerance) for a, m in zip(attributions, masks)], dtype=torch.bool)


def _hit(attribution: Tensor, mask: Tensor, tolerance: float) -> bool:
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"a mask is {got}; expected a tensor, height x width")
    y, x = _maximum(attribution, (int(mask.shape[0]), int(mask.shape[1])))
    reach = math.ceil(tolerance)
    top, left = max(0, y - reach), max(0, x - reach)
    near = torch.nonzero(mask[top : y + reach + 1, left : x + reach + 1])
    offsets = near - torch.tensor([y - top, x - left], device=near.device)
    return bool((offsets.double().square().sum(1).sqrt() < tolerance).any())


def _maximum(attribution: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the first maximum of a map resized to an image's size."""
    if not isinstance(attribution, Tensor) or attribution.ndim not in (2, 3, 4):
        got = tuple(attribution.shape) if isinstance(attribution, Tensor) else type(attribution).__name__
        raise TypeError(f"a map is {got}; expected a tensor, 1 x height x width")
    single = attribution.detach().double().reshape(-1, *attribution.shape[-2:]).sum(0)
    if not torch.isfinite(single).all():
        raise ValueError("a map holds NaN or infinite values, so it has no maximum; expected finite ones")
    if tuple(single.shape) != size:
        single = F.interpolate(single[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    # Maxima that were equal before they were resized may differ by rounding.
    highest = single >= single.max() - 1e-12 * (single.max() - single.min())
    row, column = divmod(int(highest.flatten().int().argmax()), size[1])
    return row, column


def centre_map(size: tuple[int, int]) -> Tensor:
    """The map of the centre baseline, `1 x 1 x H x W`: highest in the image's middle, pixel `H // 2, W // 2`."""
    if isinstance(size, Tensor) or len(size) != 2:
        got = f"a tensor {tuple(size.shape)}" if isinstance(size, Tensor) else repr(size)
        raise ValueError(f"size is {got}; expected the image's height and width, such as image.shape[-2:]")
    y, x = (torch.arange(n, dtype=torch.float64) - n // 2 for n in size)
    return -(y[:, None].square() + x[None, :].square())[None, None]


class PointingGame(Metric):
    """The pointing game over a data set: for each class its hits and misses, and the mean of the classes' accuracies.

    `update(attributions, masks, classes, difficult)` takes image-class pairs: the map that explains a class, the
    class's mask, its index, and whether the pair counts as difficult (optional). `compute()` gives a dictionary:
    `accuracy` (the mean over classes that occurred, in [0, 1]), `per_class` (NaN for classes that did not), `hits`,
    `misses`, and the same of the difficult pairs alone, `difficult_accuracy`, `difficult_per_class`. States are summed
    over processes.

    Args:
        num_classes: how many classes there are.
        tolerance: as for `pointing_game`.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import PointingGame
        >>> game = PointingGame(num_classes=2, tolerance=2)
        >>> attributions, masks = torch.zeros(2, 1, 5, 5), torch.zeros(2, 5, 5, dtype=torch.bool)
        >>> attributions[:, :, 2, 2], masks[0, 2, 2] = 1, True
        >>> game.update(attributions, masks, torch.tensor([0, 1]))
        >>> float(game.compute()["accuracy"])
        0.5
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int, tolerance: float = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes is {num_classes!r}; expected an integer of at least 1")
        self.num_classes, self.tolerance = num_classes, tolerance
        # Pairs by difficulty (all, difficult), outcome (hit, miss) and class.
        self.add_state("counts", torch.zeros(2, 2, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.counts: Tensor

    def update(
        self,
        attributions: Tensor | Sequence[Tensor],
        masks: Masks,
        classes: Tensor | Sequence[int],
        difficult: Tensor | Sequence[bool] | None = None,
    ) -> None:
        """Counts image-class pairs."""
        hits = pointing_game(attributions, masks, self.tolerance)
        indices = torch.as_tensor(classes).reshape(-1).cpu()
        if len(indices) and (indices.is_floating_point() or indices.dtype == torch.bool):
            raise TypeError(f"classes holds {indices.dtype}; expected class indices")
        indices = indices.long()
        if len(indices) != len(hits) or (indices < 0).any() or (indices >= self.num_classes).any():
            raise ValueError(
                f"classes is {indices.tolist()} for {len(hits)} pairs; expected one index below {self.num_classes} each"
            )
        flags = (
            torch.zeros(len(hits), dtype=torch.bool) if difficult is None else torch.as_tensor(difficult).bool().cpu()
        )
        if len(flags) != len(hits):
            raise ValueError(f"difficult has {len(flags)} entries for {len(hits)} pairs; expected one each")
        for level, counted in ((0, torch.ones_like(flags)), (1, flags)):
            for outcome, chosen in ((0, hits & counted), (1, ~hits & counted)):
                self.counts[level, outcome] += torch.bincount(indices[chosen], minlength=self.num_classes).to(
                    self.counts
                )

    def compute(self) -> dict[str, Tensor]:
        """The accuracies."""
        hits, misses = self.counts[:, 0], self.counts[:, 1]
        per_class = hits.double() / (hits + misses)
        return {
            "accuracy": per_class[0].nanmean(),
            "per_class": per_class[0],
            "hits": hits[0],
            "misses": misses[0],
            "difficult_accuracy": per_class[1].nanmean(),
            "difficult_per_class": per_class[1],
        }


class RestrictedPointingGame(PointingGame):
    """The pointing game in which one map per image, of its highest scoring class, stands for every class present.

    `update(attributions, masks, classes, difficult)` takes images: a map each, and for each image a list of its
    classes' masks, of their indices, and of their difficulty. The original accuracy minus this one is what the maps
    owe to the class they explain, apart from finding objects at all.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import RestrictedPointingGame
        >>> game = RestrictedPointingGame(num_classes=2, tolerance=2)
        >>> attribution, masks = torch.zeros(1, 1, 5, 5), torch.zeros(2, 5, 5, dtype=torch.bool)
        >>> attribution[:, :, 2, 2], masks[0, 2, 2] = 1, True
        >>> game.update(attribution, [masks], [[0, 1]])
        >>> game.compute()["per_class"].tolist()
        [1.0, 0.0]
    """

    def update(  # type: ignore[override]
        self,
        attributions: Tensor | Sequence[Tensor],
        masks: Sequence[Masks],
        classes: Sequence[Sequence[int]],
        difficult: Sequence[Sequence[bool]] | None = None,
    ) -> None:
        """Counts images."""
        if not len(attributions) == len(masks) == len(classes):
            raise ValueError(
                f"{len(attributions)} maps, {len(masks)} lists of masks and {len(classes)} of classes; expected one "
                "list of each for every image"
            )
        for i, attribution in enumerate(attributions):
            repeated = [attribution] * len(masks[i])
            super().update(repeated, masks[i], classes[i], None if difficult is None else difficult[i])
