"""Values of many images, gathered over a data set and over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from captum_extract_aggregate._common.errors import InvalidTypeError


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
