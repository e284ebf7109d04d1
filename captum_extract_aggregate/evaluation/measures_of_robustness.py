"""Measures, as plans name them, that explain other inputs or a network that knows nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from captum_extract_aggregate.evaluation.explained import Column, ImageBatch, MethodAtLayer, Value
from captum_extract_aggregate.evaluation.measure_spec import defaults_of, register_measure
from captum_extract_aggregate.metrics import emprt, entropy_rise, smprt
from captum_extract_aggregate.metrics import stability as stability_measure
from captum_extract_aggregate.metrics.explanations import scores_of
from captum_extract_aggregate.metrics.randomization import check_randomization, randomization_stages, randomized
from captum_extract_aggregate.metrics.randomization_variants import noisy_inputs
from captum_extract_aggregate.metrics.similarity import find_similarity
from captum_extract_aggregate.metrics.stability import check_radius, largest_stability, noise_fields, stability_of

Explain = Callable[..., Sequence[Column]]
Maps = Mapping[MethodAtLayer, Tensor]


@register_measure(
    "stability",
    takes="columns",
    meaning="The largest change of the map among inputs nearby with the same decision: relative to the map and to the "
    "input's relative change, `relative_input`; to the change of the scores, `relative_output`; and absolute, to the "
    "input's change, `lipschitz`, which is proportional to the map's scale. A map that never changes has 0.",
    better={"relative_input": "lower", "relative_output": "lower", "lipschitz": "lower"},
    charts=("layers", "boxes"),
    axis="change",
    repeats=("n_samples",),
    arguments=defaults_of(stability_measure, "n_samples", "radius", "eps"),
)
def stability(
    batch: ImageBatch, columns: Sequence[Column], explain: Explain, n_samples: int, radius: float, eps: float
) -> Iterator[tuple[Column, Value]]:
    """Yields three measures of all methods, whose maps of every neighbour come from one pass."""
    maps = {column.place: column.at_image_size(0, batch) for column in columns}
    found: dict[MethodAtLayer, list[Tensor]] = {place: [] for place in maps}
    for noise in noise_fields(batch.x, n_samples, check_radius(radius), batch.run_seed, uniform=True):
        near = batch.x + noise
        scores = scores_of(batch.model, (near,), ())
        for place, now in _at_image_size(explain(near), batch).items():
            if place in maps:
                found[place].append(stability_of(batch.x, near, maps[place], now, batch.scores, scores, eps))
    for column in columns:
        largest = largest_stability(found[column.place])
        for detail in ("relative_input", "relative_output", "lipschitz"):
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
    repeats=("n_seeds",),
    arguments=defaults_of(emprt, "init", "bins", "n_seeds"),
)
def rise(
    batch: ImageBatch, columns: Sequence[Column], explain: Explain, init: str, bins: int, n_seeds: int
) -> Iterator[tuple[Column, Value]]:
    """Yields the rise for all methods, explained together once for each seed."""
    check_randomization("cascading", init, n_seeds)
    stages = randomization_stages(batch.model, [batch.model], (batch.x,), ())
    found: dict[MethodAtLayer, list[Tensor]] = {column.place: [] for column in columns}
    with contextlib.closing(randomized(batch.model, stages, "cascading", init, n_seeds, batch.run_seed)) as states:
        for _ in states:
            now = _at_image_size(explain(), batch)
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
    explain: Explain,
    n_samples: int,
    noise: float,
    order: str,
    init: str,
    similarity: str,
    n_seeds: int,
    layers: Sequence[str] | None,
) -> Iterator[tuple[Column, Value]]:
    """Yields every stage of the randomised network, explained by all methods together."""
    check_randomization(order, init, n_seeds)
    compare = find_similarity(similarity)
    noisy = noisy_inputs(batch.x, n_samples, noise, batch.run_seed)
    stages = randomization_stages(batch.model, layers or None, (batch.x,), ())
    stages = stages[::-1] if order == "bottom_up" else stages
    original = _averaged(batch, explain, noisy)
    values = torch.full((n_seeds, len(stages), len(columns), len(batch.samples)), torch.nan, dtype=torch.float64)
    with contextlib.closing(randomized(batch.model, stages, order, init, n_seeds, batch.run_seed)) as states:
        for s, i in states:
            now = _averaged(batch, explain, noisy)
            for c, column in enumerate(columns):
                values[s, i, c] = compare(original[column.place], now[column.place]).double().cpu()
    means = values.nanmean(0)
    for i, (name, _) in enumerate(stages):
        for c, column in enumerate(columns):
            for value in batch.values(f"{i:03d} {name}", means[i, c]):
                yield column, value


def _at_image_size(columns: Sequence[Column], batch: ImageBatch) -> Maps:
    return {column.place: column.at_image_size(0, batch) for column in columns}


def _averaged(batch: ImageBatch, explain: Explain, noisy: Sequence[Tensor]) -> Maps:
    """Returns each method's mean map over noisy inputs."""
    total: dict[MethodAtLayer, Tensor] = {}
    for x in noisy:
        for place, maps in _at_image_size(explain(x), batch).items():
            total[place] = total[place] + maps if place in total else maps
    return {place: maps / len(noisy) for place, maps in total.items()}
