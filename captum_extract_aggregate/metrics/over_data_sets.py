"""Measures over a data set, as torchmetrics has them: gathered over batches and over processes.

They are not imported before they are asked for: torchmetrics takes a second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate.metrics.pointing_game import Masks, pointing_game


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
            raise InvalidValueError(f"num_classes is {num_classes!r}; expected an integer of at least 1")
        self.num_classes, self.tolerance = num_classes, tolerance
        # Pairs by difficulty (all, difficult), outcome (hit, miss) and class.
        self.add_state("counts", torch.zeros(2, 2, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.counts: Tensor

    def _wrap_compute(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        """torchmetrics makes a number of what holds one; here a class's values stay a vector, also of one class."""
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(wrapped)
        def of_classes() -> dict[str, Tensor]:
            return {k: v if k.endswith("accuracy") else v.reshape(self.num_classes) for k, v in wrapped().items()}

        return of_classes

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
            raise InvalidTypeError(f"classes holds {indices.dtype}; expected class indices")
        indices = indices.long()
        if len(indices) != len(hits) or (indices < 0).any() or (indices >= self.num_classes).any():
            raise InvalidValueError(
                f"classes is {indices.tolist()} for {len(hits)} pairs; expected one index below {self.num_classes} each"
            )
        flags = (
            torch.zeros(len(hits), dtype=torch.bool) if difficult is None else torch.as_tensor(difficult).bool().cpu()
        )
        if len(flags) != len(hits):
            raise InvalidValueError(f"difficult has {len(flags)} entries for {len(hits)} pairs; expected one each")
        for level, counted in ((0, torch.ones_like(flags)), (1, flags)):
            for outcome, chosen in ((0, hits & counted), (1, ~hits & counted)):
                self.counts[level, outcome] += torch.bincount(indices[chosen], minlength=self.num_classes).to(
                    self.counts
                )

    def compute(self) -> dict[str, Tensor]:
        """Returns the accuracies."""
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
            raise InvalidValueError(
                f"{len(attributions)} maps, {len(masks)} lists of masks and {len(classes)} of classes; expected one "
                "list of each for every image"
            )
        for i, attribution in enumerate(attributions):
            repeated = [attribution] * len(masks[i])
            super().update(repeated, masks[i], classes[i], None if difficult is None else difficult[i])


class ValueSummary(Metric):
    """Collects one value per image of any measure, and sums them up without letting the undefined count as zero.

    `update(values)` takes `N` values; `compute()` gives a dictionary: `mean`, `std` and `median` of the defined values,
    `n` of them, and how many are `undefined` (NaN). Values are gathered from all processes; the result does not depend
    on how the images were spread over them.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import ValueSummary
        >>> summary = ValueSummary()
        >>> summary.update(torch.tensor([0.25, float("nan"), 0.75]))
        >>> {name: float(value) for name, value in summary.compute().items() if name != "std"}
        {'mean': 0.5, 'median': 0.5, 'n': 2.0, 'undefined': 1.0}
    """

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.values: list[Tensor] | Tensor

    def update(self, values: Tensor) -> None:
        """Adds values."""
        if not isinstance(values, Tensor) or values.ndim > 1:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InvalidTypeError(f"values is {got}; expected a tensor of one value per image")
        assert isinstance(self.values, list)
        self.values.append(values.detach().double().reshape(-1))

    def compute(self) -> dict[str, Tensor]:
        """Returns the summary."""
        parts = self.values if isinstance(self.values, list) else [self.values]
        values = torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
        defined = values[~values.isnan()].sort().values  # sorted: sums do not depend on the order of arrival
        n = len(defined)
        nan = torch.tensor(torch.nan, dtype=torch.float64)
        return {
            "mean": defined.mean() if n else nan,
            "std": defined.std() if n > 1 else nan,
            "median": (defined[(n - 1) // 2] + defined[n // 2]) / 2 if n else nan,
            "n": torch.tensor(n),
            "undefined": torch.tensor(len(values) - n),
        }
