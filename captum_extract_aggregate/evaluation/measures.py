"""The measures of this package as plans name them, each with what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import are_finite
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch, MethodAtLayer, Value
from captum_extract_aggregate.evaluation.explainer import Explainer
from captum_extract_aggregate.evaluation.measure_spec import defaults_of, register_measure
from captum_extract_aggregate.metrics import class_sensitivity as class_sensitivity_of
from captum_extract_aggregate.metrics import (
    completeness_gap,
    parameter_randomization,
    pixel_removal,
    pointing_game,
    removal_contrast,
)
from captum_extract_aggregate.metrics.pixel_removal import Removal
from captum_extract_aggregate.metrics.randomization import State
from captum_extract_aggregate.metrics.similarity import compared_with, find_similarity

_POINTING: dict[str, Any] = {
    "takes": "column",
    "better": "higher",
    "null": "centre",
    "baseline": "the image's centre",
    "summary": "accuracy",
    "charts": ("layers",),
    "axis": "accuracy",
    "needs": ("objects",),
    "arguments": defaults_of(pointing_game, "tolerance"),
}


@register_measure(
    "pointing_game",
    meaning="Does the map's maximum lie on the object? The mean over classes of hits / (hits + misses).",
    **_POINTING,
)
def pointing(batch: ImageBatch, column: Column, tolerance: float) -> Iterator[Value]:
    """Tells for each class in the image whether its map's maximum lies on it."""
    for i, target, mask in batch.objects():
        yield i, target, "", _hit(column.of(i, target, batch), mask, tolerance)


@register_measure(
    "restricted_pointing_game",
    meaning="The pointing game with one map per image, of its highest scoring class, for every class in the image. "
    "What the pointing game gives beyond this is owed to the class explained.",
    of_own_map=False,
    **_POINTING,
)
def restricted_pointing(batch: ImageBatch, column: Column, tolerance: float) -> Iterator[Value]:
    """Tells for each class in the image whether the maximum of the best class's map lies on it."""
    for i, target, mask in batch.objects():
        yield i, target, "", _hit(column.of(i, int(batch.best[i]), batch), mask, tolerance)


def _hit(map_: Tensor, mask: Tensor, tolerance: float) -> float:
    if not torch.isfinite(map_).all():
        return math.nan
    return float(pointing_game(map_[None].cpu(), mask[None], tolerance)[0])


@register_measure(
    "class_sensitivity",
    takes="column",
    meaning="The similarity of the maps of the highest and the lowest scoring class. Near 1 the map does not depend on "
    "the class; methods are compared by magnitudes, of which the smaller is better.",
    better="lower",
    magnitude=True,
    null="similarity",
    charts=("layers", "boxes"),
    axis="similarity",
    arguments=defaults_of(class_sensitivity_of, "similarity"),
)
def class_sensitivity(batch: ImageBatch, column: Column, similarity: str) -> Iterator[Value]:
    """Yields how alike the maps of the best and of the worst class are."""
    values = find_similarity(similarity)(column.at_image_size(0, batch), column.at_image_size(1, batch))
    yield from batch.values("", values)


@register_measure(
    "pixel_removal",
    takes="column",
    meaning="How much of the signal goes, in the order of the map, until the decision flips: `e_minus` least salient "
    "pixels first (higher is better), `e_plus` most salient first (lower is better), `e_delta` their difference "
    "(higher is better).",
    better={"e_minus": "higher", "e_plus": "lower", "e_delta": "higher"},
    arguments=defaults_of(pixel_removal, "baselines", "step"),
)
def removal(batch: ImageBatch, column: Column, baselines: float, step: int) -> Iterator[Value]:
    """Counts the pixels removed in the order of the best class's map until the decision flips."""
    maps = column.at_image_size(0, batch)
    defined = are_finite(maps)
    minus, plus = (
        pixel_removal(batch.model, batch.x, maps.nan_to_num(0, 0, 0), order, baselines, step)
        for order in ("least", "most")
    )
    yield from _removals(batch, minus, plus, defined)


@register_measure(
    "removal_contrast",
    takes="column",
    meaning="Pixel removal in the order of the image's own map minus that of other images' maps: `delta_minus` least "
    "salient pixels first (higher is better), `delta_plus` most salient first (lower is better), `delta` their "
    "difference (higher is better). A map that knows nothing of its image has 0.",
    better={"delta_minus": "higher", "delta_plus": "lower", "delta": "higher"},
    null={"delta_minus": 0.0, "delta_plus": 0.0, "delta": 0.0},
    baseline="no more than other images' maps",
    needs=("other_images",),
    repeats=("n_shuffles",),
    arguments=defaults_of(removal_contrast, "baselines", "step", "n_shuffles"),
)
def contrast(batch: ImageBatch, column: Column, baselines: float, step: int, n_shuffles: int) -> Iterator[Value]:
    """Yields the same against the maps of other images of the batch."""
    maps = column.at_image_size(0, batch)
    kept = torch.nonzero(are_finite(maps)).flatten()
    n = len(batch.samples)
    nothing = Removal(*(torch.full((n,), torch.nan, dtype=torch.float64) for _ in range(3)))
    deltas = dict.fromkeys(("delta_minus", "delta_plus", "delta"), nothing.e)
    minus = plus = nothing
    if not isinstance(n_shuffles, int) or len(kept) > n_shuffles:  # else too few other maps to draw from
        found = removal_contrast(
            batch.model,
            batch.x[kept],
            maps[kept],
            n_shuffles=n_shuffles,
            baselines=baselines,
            step=step,
            seed=batch.seed,
        )
        deltas = {name: _spread(getattr(found, name), kept, n) for name in deltas}
        minus, plus = (Removal(*(_spread(v, kept, n) for v in own)) for own in (found.own_minus, found.own_plus))
    for detail, values in deltas.items():
        yield from batch.values(detail, values)
    yield from _removals(batch, minus, plus, torch.ones(n, dtype=torch.bool))


def _spread(values: Tensor, kept: Tensor, n: int) -> Tensor:
    """Returns the values of some of n examples, NaN for the others."""
    return torch.full((n,), torch.nan, dtype=torch.float64).index_copy(0, kept.cpu(), values.double().cpu())


def _removals(batch: ImageBatch, minus: Removal, plus: Removal, defined: Tensor) -> Iterator[Value]:
    details = {
        "e_minus": minus.e,
        "e_plus": plus.e,
        "e_delta": minus.e - plus.e,
        "pixels_minus": minus.pixels,
        "pixels_plus": plus.pixels,
        "flipped_minus": minus.flipped,
        "flipped_plus": plus.flipped,
    }
    for detail, values in details.items():
        yield from batch.values(detail, values.double().cpu().masked_fill(~defined.cpu(), torch.nan))


@register_measure(
    "completeness_gap",
    takes="column",
    meaning="The part of the score that the map's sum misses: 0 for a complete map.",
    better="lower",
)
def completeness(batch: ImageBatch, column: Column) -> Iterator[Value]:
    """Yields how much is missing between the best class's score and the sum of its map, relative to the score."""
    yield from batch.values("", completeness_gap(batch.model, batch.x, column.maps[0], batch.best))


@register_measure(
    "parameter_randomization",
    takes="columns",
    meaning="The similarity of maps before and after layers are initialised anew, from the output on. A map that "
    "depends on what the network has learned falls to the null baseline. All stages are in `summary.csv`.",
    better="lower",
    magnitude=True,
    null="similarity",
    summary="stages",
    charts=("stages",),
    axis="similarity",
    title="similarity with the original map while layers are randomised",
    happens="randomised",
    needs=("layers",),
    repeats=("n_seeds",),
    arguments=defaults_of(parameter_randomization, "order", "init", "similarity", "n_seeds", "layers"),
)
def randomization(
    batch: ImageBatch,
    columns: Sequence[Column],
    explain: Explainer,
    order: str,
    init: str,
    similarity: str,
    n_seeds: int,
    layers: Sequence[str] | None,
) -> Iterator[tuple[Column, Value]]:
    """Yields every stage of the randomised network explained once, by all methods together."""
    find_similarity(similarity)
    yield from similarities(batch, columns, columns, explain.randomised(order, init, n_seeds, layers), similarity)


def similarities(
    batch: ImageBatch,
    columns: Sequence[Column],
    originals: Sequence[Column],
    stages: Iterable[tuple[State, str, Sequence[Column]]],
    similarity: str,
) -> Iterator[tuple[Column, Value]]:
    """Yields how alike maps at each stage are to the original ones, averaged over the seeds."""
    compare = {c.place: compared_with(c.at_image_size(0, batch), similarity) for c in originals}
    found: dict[tuple[int, str], dict[MethodAtLayer, list[Tensor]]] = {}
    for state, name, explained in stages:
        now = {column.place: column for column in explained}
        own = found.setdefault((state.stage, name), {column.place: [] for column in columns})
        for place, values in own.items():
            values.append(compare[place](now[place].at_image_size(0, batch)).double().cpu())
    for (stage, name), own in found.items():
        for column in columns:
            for value in batch.values(f"{stage:03d} {name}", torch.stack(own[column.place]).nanmean(0)):
                yield column, value
