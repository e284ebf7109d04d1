"""Measures, as plans name them, of what the model says while pixels go or come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import are_finite
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch, Value
from captum_extract_aggregate.evaluation.measure_spec import defaults_of, register_measure
from captum_extract_aggregate.metrics import perturbation_curve, symmetric_relevance_gain

_SETTINGS = ("step", "fractions", "imputer", "baseline", "output")


@register_measure(
    "perturbation_curve",
    takes="column",
    meaning="The area under the best class's probability while pixels are taken out (deletion) or put in (insertion), "
    "in the order of the map.",
    better={
        "deletion_most_first": "lower",
        "deletion_least_first": "higher",
        "insertion_most_first": "higher",
        "insertion_least_first": "lower",
    },
    charts=("layers", "boxes"),
    axis="area",
    arguments=defaults_of(perturbation_curve, "order", "mode", *_SETTINGS),
)
def curve(
    batch: ImageBatch,
    column: Column,
    order: str,
    mode: str,
    step: int | None,
    fractions: Sequence[float] | None,
    imputer: str,
    baseline: float,
    output: str,
) -> Iterator[Value]:
    """Yields each image's area."""
    maps, defined = _maps(batch, column)
    settings = step, fractions, imputer, baseline, output
    found = perturbation_curve(batch.model, batch.x, maps, batch.best, order, mode, *settings)
    yield from batch.values(f"{mode}_{order}", found.areas.masked_fill(~defined, torch.nan))


@register_measure(
    "symmetric_relevance_gain",
    takes="column",
    meaning="The area under the best class's probability while the least salient pixels go first, minus that while the "
    "most salient do, `gain`; and both areas. A map that knows nothing has a gain of 0.",
    better={"gain": "higher", "least_first": "higher", "most_first": "lower"},
    null={"gain": 0.0},
    baseline="no order",
    charts=("layers", "boxes"),
    axis="area",
    arguments=defaults_of(symmetric_relevance_gain, *_SETTINGS),
)
def gain(
    batch: ImageBatch,
    column: Column,
    step: int | None,
    fractions: Sequence[float] | None,
    imputer: str,
    baseline: float,
    output: str,
) -> Iterator[Value]:
    """Yields each image's gain and areas."""
    maps, defined = _maps(batch, column)
    settings = step, fractions, imputer, baseline, output
    found = symmetric_relevance_gain(batch.model, batch.x, maps, batch.best, *settings)
    areas = {"gain": found.gain, "least_first": found.least_first.areas, "most_first": found.most_first.areas}
    for detail, values in areas.items():
        yield from batch.values(detail, values.masked_fill(~defined, torch.nan))


def _maps(batch: ImageBatch, column: Column) -> tuple[Tensor, Tensor]:
    """Returns the best class's maps, and which of them put pixels in an order."""
    maps = column.at_image_size(0, batch)
    return maps.nan_to_num(0, 0, 0), are_finite(maps)
