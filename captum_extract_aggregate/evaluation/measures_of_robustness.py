"""Measures, as plans name them, that explain other inputs or a network that knows nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from captum_extract_aggregate.evaluation.explained import Column, ImageBatch, MethodAtLayer, Value
from captum_extract_aggregate.evaluation.explainer import Explainer, Noisy
from captum_extract_aggregate.evaluation.measure_spec import defaults_of, register_measure
from captum_extract_aggregate.evaluation.measures import similarities
from captum_extract_aggregate.metrics import emprt, entropy_rise, smprt
from captum_extract_aggregate.metrics import stability as stability_measure
from captum_extract_aggregate.metrics.randomization import check_randomization
from captum_extract_aggregate.metrics.randomization_variants import noisy_inputs
from captum_extract_aggregate.metrics.stability import (
    Seen,
    check_radius,
    largest_stability,
    noise_fields,
    seen_by,
    stability_of,
)

Maps = Mapping[MethodAtLayer, Tensor]


@register_measure(
    "stability",
    takes="columns",
    meaning="The largest change of the map among inputs nearby with the same decision: relative to the map and to the "
    "input's relative change, `relative_input`; to the change of the scores, `relative_output`; and absolute, to the "
    "input's change, `lipschitz`, which is proportional to the map's scale. Where a `layer` is named, also to the "
    "relative change of what it gives out, `relative_representation`. A map that never changes has 0.",
    better=dict.fromkeys(("relative_input", "relative_output", "relative_representation", "lipschitz"), "lower"),
    charts=("layers", "boxes"),
    axis="change",
    repeats=("n_samples",),
    arguments=defaults_of(stability_measure, "n_samples", "radius", "eps", "layer"),
)
def stability(
    batch: ImageBatch,
    columns: Sequence[Column],
    explain: Explainer,
    n_samples: int,
    radius: float,
    eps: float,
    layer: str | None,
) -> Iterator[tuple[Column, Value]]:
    """Yields the measures of all methods, whose maps of every neighbour come from one pass."""
    maps = {column.place: column.at_image_size(0, batch) for column in columns}
    found: dict[MethodAtLayer, list[Tensor]] = {place: [] for place in maps}
    own = seen_by(batch.model, batch.x, layer) if layer else Seen(batch.x, batch.scores, None)
    for noise in noise_fields(batch.x, n_samples, check_radius(radius), batch.run_seed, uniform=True):
        near = seen_by(batch.model, batch.x + noise, layer or None)
        for place, now in _at_image_size(explain(near.inputs), batch).items():
            if place in maps:
                found[place].append(stability_of(own, near, maps[place], now, eps))
    for column in columns:
        largest = largest_stability(found[column.place])
        representation = ("relative_representation",) if layer else ()
        for detail in ("relative_input", "relative_output", *representation, "lipschitz"):
            for value in batch.values(detail, getattr(largest, detail)):
                yield column, value


@register_measure(
    "emprt",
    takes="columns",
    meaning="How much the entropy of the map's histogram rises, relative to itself, when all parameters are drawn "
    "anew: noise should come out of a network that knows nothing.",
    better="higher",
    null=0.0,
    baseline="no change",
    charts=("layers", "boxes"),
    axis="rise of entropy",
    needs=("layers",),
    repeats=("n_seeds",),
    arguments=defaults_of(emprt, "init", "bins", "n_seeds"),
)
def rise(
    batch: ImageBatch, columns: Sequence[Column], explain: Explainer, init: str, bins: int, n_seeds: int
) -> Iterator[tuple[Column, Value]]:
    """Yields the rise for all methods, explained together once for each seed."""
    check_randomization("at_once", init, n_seeds)
    found: dict[MethodAtLayer, list[Tensor]] = {column.place: [] for column in columns}
    for _, _, explained in explain.randomised("at_once", init, n_seeds, None):
        now = _at_image_size(explained, batch)
        for column in columns:
            maps = column.at_image_size(0, batch)
            found[column.place].append(entropy_rise(maps, now[column.place], bins).cpu())
    for column in columns:
        for value in batch.values("", torch.stack(found[column.place]).nanmean(0)):
            yield column, value


@register_measure(
    "smprt",
    takes="columns",
    meaning="Parameter randomisation of maps that are averaged over noisy inputs: the similarity of maps before and "
    "after layers are initialised anew. All stages are in `summary.csv`.",
    better="lower",
    magnitude=True,
    null="similarity",
    summary="stages",
    charts=("stages",),
    axis="similarity",
    title="similarity with the original map, averaged over noise, while layers are randomised",
    happens="randomised",
    needs=("layers",),
    repeats=("n_seeds", "n_samples"),
    arguments=defaults_of(smprt, "n_samples", "noise", "order", "init", "similarity", "n_seeds", "layers"),
)
def smooth_randomization(
    batch: ImageBatch,
    columns: Sequence[Column],
    explain: Explainer,
    n_samples: int,
    noise: float,
    order: str,
    init: str,
    similarity: str,
    n_seeds: int,
    layers: Sequence[str] | None,
) -> Iterator[tuple[Column, Value]]:
    """Yields every stage of the randomised network, explained by all methods together."""
    noisy = Noisy(noisy_inputs(batch.x, n_samples, noise, batch.run_seed), ("noisy", n_samples, noise))
    stages = explain.randomised(order, init, n_seeds, layers, noisy)
    yield from similarities(batch, columns, explain.averaged(noisy), stages, similarity)


def _at_image_size(columns: Sequence[Column], batch: ImageBatch) -> Maps:
    return {column.place: column.at_image_size(0, batch) for column in columns}
