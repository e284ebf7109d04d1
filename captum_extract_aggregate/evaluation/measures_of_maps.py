"""Measures, as plans name them, that look at maps alone or at maps and the masks of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from captum_extract_aggregate import metrics
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch, Value
from captum_extract_aggregate.evaluation.measure_spec import SHARE, register_measure


@register_measure(
    "relevance_mass_accuracy",
    meaning="The share of the map's positive values that lies on the object, `accuracy`; and `above_chance`, what it "
    "has more than the object's share of the image.",
    **SHARE,
)
def mass_accuracy(batch: ImageBatch, column: Column) -> Iterator[Value]:
    """Yields for each class in an image which share of its map lies on it."""
    yield from _shares(metrics.relevance_mass_accuracy, batch, column)


@register_measure(
    "relevance_rank_accuracy",
    meaning="As many of the map's largest pixels as the object has: the share of them that lies on it, `accuracy`; and "
    "`above_chance`, what it has more than the object's share of the image.",
    **SHARE,
)
def rank_accuracy(batch: ImageBatch, column: Column) -> Iterator[Value]:
    """Yields for each class in an image which share of the largest pixels lies on it."""
    yield from _shares(metrics.relevance_rank_accuracy, batch, column)


@register_measure(
    "grid_pointing_game",
    meaning="Of data of grids of pictures (`GridImages`): the share of the map's positive values that lies in the cell "
    "of the class explained, `accuracy`; and `above_chance`, what it has more than the cell's share of the grid.",
    **SHARE,
)
def grid_pointing(batch: ImageBatch, column: Column) -> Iterator[Value]:
    """Yields for each cell of a grid which share of its class's map lies in it."""
    yield from _shares(metrics.relevance_mass_accuracy, batch, column)


@register_measure(
    "localisation_auc",
    meaning="The chance that a pixel on the object has a larger value than one elsewhere.",
    takes="column",
    better="higher",
    null=0.5,
    baseline="chance",
    charts=("layers", "boxes"),
    axis="area under the ROC curve",
    needs=("objects",),
)
def auc(batch: ImageBatch, column: Column) -> Iterator[Value]:
    """Yields for each class in an image how well its map tells its pixels from others."""
    for i, target, mask, map_ in _on_masks(batch, column):
        yield i, target, "", float(metrics.localisation_auc(map_, mask))


def _shares(share: Callable[[Tensor, Tensor], Tensor], batch: ImageBatch, column: Column) -> Iterator[Value]:
    for i, target, mask, map_ in _on_masks(batch, column):
        value = float(share(map_, mask))
        yield i, target, "accuracy", value
        yield i, target, "above_chance", value - float(mask.double().mean())


def _on_masks(batch: ImageBatch, column: Column) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yields example, class, mask and map, as batches of one."""
    for i, target, mask in batch.objects():
        yield i, target, mask[None], column.of(i, target, batch)[None].to(mask.device)


_CONCENTRATION: dict[str, Any] = {"null": "noise", "baseline": "noise", "charts": ("layers", "boxes")}


@register_measure(
    "sparseness",
    meaning="The Gini index of the map's magnitudes: 0 if all are equal, near 1 if few pixels have all. A simple map "
    "need not be right.",
    better="higher",
    axis="Gini index",
    **_CONCENTRATION,
)
def sparseness(maps: Tensor, inputs: Tensor, targets: Tensor, model: Any) -> Tensor:
    """Returns how unequal the magnitudes are."""
    return metrics.sparseness(maps)


@register_measure(
    "complexity",
    meaning="The entropy of the map's magnitudes in nats: 0 if one pixel has all. A simple map need not be right.",
    better="lower",
    axis="entropy",
    **_CONCENTRATION,
)
def complexity(maps: Tensor, inputs: Tensor, targets: Tensor, model: Any) -> Tensor:
    """Returns how spread out the magnitudes are."""
    return metrics.complexity(maps)


@register_measure(
    "effective_complexity",
    meaning="How many pixels have a magnitude above a threshold. A simple map need not be right.",
    better="lower",
    axis="pixels",
    **_CONCENTRATION,
)
def effective_complexity(
    maps: Tensor, inputs: Tensor, targets: Tensor, model: Any, threshold: float = 0.0, relative: bool = False
) -> Tensor:
    """Returns how many pixels exceed a threshold."""
    return metrics.effective_complexity(maps, threshold, relative)


@register_measure(
    "histogram_entropy",
    meaning="The entropy of a histogram of the map's values in nats: 0 for a constant map, the logarithm of the number "
    "of bins if all are as frequent.",
    axis="entropy",
    **_CONCENTRATION,
)
def histogram_entropy(maps: Tensor, inputs: Tensor, targets: Tensor, model: Any, bins: int = 100) -> Tensor:
    """Returns how many different values a map has."""
    return metrics.histogram_entropy(maps, bins)
