"""Measures, as plans name them, of grids of pictures on networks of which it is known what cannot matter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from captum_extract_aggregate import metrics
from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.cells import from_cells
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch, Value
from captum_extract_aggregate.evaluation.explainer import Explainer
from captum_extract_aggregate.evaluation.measure_spec import SHARE, register_measure
from captum_extract_aggregate.scores import DiFull, DiPart

_OF_CELLS = {**SHARE, "takes": "columns"}


@register_measure(
    "difull",
    meaning="Of data of grids of pictures (kind `grid`): every cell is computed by itself, so that nothing outside the "
    "cell of the class explained can have a part in its score. The share of the map's positive values in the cell, "
    "`accuracy`; and `above_chance`, what it has more than the cell's share of the grid.",
    **_OF_CELLS,
)
def difull(batch: ImageBatch, columns: Sequence[Column], explain: Explainer) -> Iterator[tuple[Column, Value]]:
    """Yields for each cell which share of its class's map lies in it, on a network whose head sees that cell alone."""
    n = cells_a_side(batch)
    yield from _of_cells([DiFull(batch.model, n=n, cell=cell) for cell in range(n * n)], batch, columns, explain)


@register_measure(
    "dipart",
    meaning="Of data of grids of pictures (kind `grid`): the features are those of the whole grid, and the head sees "
    "the cell of the class explained alone, so that nothing beyond its receptive field can have a part in its score. "
    "The share of the map's positive values in the cell, `accuracy`; and `above_chance`, what it has more than the "
    "cell's share of the grid. `features` names the layer where the features end; found where it is not said.",
    **_OF_CELLS,
)
def dipart(
    batch: ImageBatch, columns: Sequence[Column], explain: Explainer, features: str | None = None
) -> Iterator[tuple[Column, Value]]:
    """Yields for each cell which share of its class's map lies in it, on a network whose head sees its features."""
    n = cells_a_side(batch)
    if n == 1:  # the head sees all
        networks: list[DiFull | DiPart] = [DiFull(batch.model, n=1)]
    else:
        end = features or DiPart(batch.model, n=n, inputs=batch.x[:1]).features_end
        networks = [DiPart(batch.model, n=n, cell=cell, features=end) for cell in range(n * n)]
    yield from _of_cells(networks, batch, columns, explain)


def _of_cells(
    networks: Sequence[DiFull | DiPart], batch: ImageBatch, columns: Sequence[Column], explain: Explainer
) -> Iterator[tuple[Column, Value]]:
    """Yields the shares, cell by cell, for all grids of the batch and all methods together."""
    wanted = {column.place: column for column in columns}
    pairs = [sample.pairs for sample in batch.samples if sample.pairs is not None]
    for cell, network in enumerate(networks):
        targets = torch.tensor([own.classes[cell] for own in pairs], device=batch.x.device)
        masks = torch.stack([own.masks[cell] for own in pairs])
        for now in explain.on(network, targets):
            if now.place not in wanted:
                continue
            shares = metrics.relevance_mass_accuracy(now.at_image_size(0, batch).to(masks.device), masks)
            for i, (target, share) in enumerate(zip(targets.tolist(), shares.tolist())):
                yield wanted[now.place], (i, target, "accuracy", share)
                yield wanted[now.place], (i, target, "above_chance", share - 1 / len(networks))


def cells_a_side(batch: ImageBatch) -> int:
    """Returns how many cells a side of the batch's grids has, or our error for other data."""
    x = batch.x
    counts = {0 if sample.pairs is None else len(sample.pairs.classes) for sample in batch.samples}
    n = math.isqrt(max(counts))
    if counts == {n * n} and n and not any(side % n for side in x.shape[2:]):
        cells = _cell_masks(n, (x.shape[2], x.shape[3]))
        if all(sample.pairs is not None and torch.equal(sample.pairs.masks.cpu(), cells) for sample in batch.samples):
            return n
    raise InvalidValueError(
        f"the objects of image {batch.samples[0].name!r} and its neighbours are no n x n cells of a grid; expected "
        'data of the kind "grid", or GridImages'
    )


def _cell_masks(n: int, size: tuple[int, int]) -> Tensor:
    height, width = size[0] // n, size[1] // n
    own = torch.eye(n * n, dtype=torch.bool).reshape(n * n * n * n, 1, 1, 1).expand(-1, 1, height, width)
    return from_cells(own, n)[:, 0]
