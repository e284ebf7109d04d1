"""A measure tried out on noise, so that arguments which it refuses are said before any work starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.data.pointing_pairs import PointingPairs
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch
from captum_extract_aggregate.evaluation.explainer import Explainer
from captum_extract_aggregate.evaluation.images import Sample
from captum_extract_aggregate.evaluation.measure_spec import MeasureSpec
from captum_extract_aggregate.evaluation.plan import MeasurePlan


def try_measure(plan: MeasurePlan, spec: MeasureSpec) -> None:
    """Raises our error for arguments that a measure refuses, from a trial on two noise images and a trivial network."""
    if spec.is_users:
        return  # one's own may want real ones
    x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    model = _Brightness()
    pairs = PointingPairs([0], torch.ones(1, 48, 48, dtype=torch.bool), [False])
    samples = [Sample(i, "noise", x[i], 0, pairs) for i in range(2)]
    column = Column("noise", "input", [x, x.flip(0)])
    try:
        batch = ImageBatch(model, x, samples, model(x).detach(), torch.tensor([[0, 1], [0, 1]]), 0)
        given: dict[str, tuple[Any, ...]] = {
            "maps": (x, x, batch.best, model),
            "column": (batch, column),
            "columns": (batch, [column], Explainer(batch, lambda model, x, targets: [column])),
        }
        for _ in spec.function(*given[spec.takes], **_small(plan, spec)):
            pass
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"measure {plan.measure!r}: {error}") from None


def _small(plan: MeasurePlan, spec: MeasureSpec) -> dict[str, Any]:
    """Returns the arguments of a trial, which repeats nothing, and does not know the layers of the plan's model."""
    given = spec.defaults() | plan.arguments
    once = {name: 1 for name in spec.repeats if _is_positive(given.get(name))}
    return given | once | {name: None for name in ("layer", "layers") if name in given}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class _Brightness(nn.Module):
    """Tells dark from bright: a decision that soon flips where pixels go."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(1, 2)
        self.weight.load_state_dict({"weight": torch.tensor([[1.0], [0.0]]), "bias": torch.tensor([0.0, 0.45])})

    def forward(self, x: Tensor) -> Tensor:
        return self.weight(x.mean((1, 2, 3))[:, None])  # type: ignore[no-any-return]
