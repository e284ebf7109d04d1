"""Methods compared in pairs by one measure, on the same images, with p-values corrected for their number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from captum_extract_aggregate.evaluation.explained import CENTRE, MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Array, Group, groups
from captum_extract_aggregate.evaluation.statistics import DRAWS, accuracy
from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.metrics.significance import Comparison, compare, holm

MOST_CANDIDATES = 12  # of which all pairs are compared


@dataclass(frozen=True)
class ComparisonTable:
    """Holds methods compared by one measure, with p-values corrected (Holm) for the comparisons of this table.

    Attributes:
        measure, detail: by what they are compared: the measure's label, and which of its values.
        layer: at which layer; "": each method at the layer where its mean is best, or has its only value.
        is_chosen: a method's best layer was chosen among several, on these same images, which favours methods with
            many layers.
        better: "higher", "lower", or "" where it is unknown.
        magnitude: magnitudes were compared. hits: hits on the same pairs of image and class were.
        to_first: there were too many candidates for all pairs, so each is compared to the first alone.
        comparisons: differences are first minus second; those of hits have no interval of the median (NaN).
        left_out: pairs of candidates that have no image with both values defined.
    """

    measure: str
    detail: str
    layer: str
    is_chosen: bool
    better: str
    magnitude: bool
    hits: bool
    to_first: bool
    comparisons: tuple[Comparison, ...]
    left_out: tuple[tuple[str, str], ...]


def comparisons(results: Results) -> list[ComparisonTable]:
    """Compares for each measure its methods in pairs: each at its best layer, then layer by layer.

    The pointing games are compared hit by hit on the same pairs, similarities by their magnitude, and the randomisation
    test at its last stage.
    """
    return [table for m in results.plan.measures for table in compare_groups(groups(results, m))]


def compare_groups(groups: Sequence[Group]) -> list[ComparisonTable]:
    """Returns the comparisons of one measure."""
    wanted = groups[0].interpretation.compared([g.detail for g in groups]) if groups else []
    chosen = [g for g in groups if g.detail in wanted]
    return [table for group in chosen for table in _tables(group) if table.comparisons or table.left_out]


def best_places(group: Group) -> list[MethodAtLayer]:
    """Returns each method at the layer where its mean is best, or has its only value; none where it is unknown what is
    better."""
    values = _compared(group)
    methods = list(dict.fromkeys(place.method for place in values))
    by_method = [[place for place in values if place.method == m] for m in methods]
    if not group.better and len(values) > len(methods):
        return []
    return [_best(group, values, own) for own in by_method]


def _compared(group: Group) -> dict[MethodAtLayer, Array]:
    """Returns the values that methods are compared by."""
    magnitude = group.interpretation.magnitude
    return {place: np.abs(v) if magnitude else v for place, v in group.values.items() if place != CENTRE}


def _tables(group: Group) -> Iterator[ComparisonTable]:
    values, best = _compared(group), best_places(group)
    layers = list(dict.fromkeys(place.layer for place in values))
    if len(layers) > 1 and best:
        is_chosen = len(values) > len(best)
        yield _table(group, "", is_chosen, {f"{p.method} at {p.layer}": values[p] for p in best})
    for layer in layers:
        yield _table(group, layer, False, {p.method: v for p, v in values.items() if p.layer == layer})


def _best(group: Group, values: Mapping[MethodAtLayer, Array], own: Sequence[MethodAtLayer]) -> MethodAtLayer:
    """Returns where a method's mean is best; the first of equals, and whatever is undefined last."""

    def loss(place: MethodAtLayer) -> float:
        defined = ~np.isnan(values[place])
        if len(own) == 1 or not defined.any():
            return math.inf
        hits = values[place][defined]
        is_accuracy = group.interpretation.is_accuracy
        mean = accuracy(hits, group.pairs[defined])[0] if is_accuracy else hits.mean()
        return float(-mean if group.better == "higher" else mean)

    return min(own, key=loss)


def _table(group: Group, layer: str, is_chosen: bool, candidates: Mapping[str, Array]) -> ComparisonTable:
    to_first = len(candidates) > MOST_CANDIDATES
    names = list(candidates)
    pairs = [(names[0], b) for b in names[1:]] if to_first else list(itertools.combinations(names, 2))
    made, left_out = [], []
    for a, b in pairs:
        if (np.isnan(candidates[a]) | np.isnan(candidates[b])).all():
            left_out.append((a, b))
        else:
            made.append(_pair(group, candidates[a], candidates[b], (a, b)))
    corrected = tuple(replace(c, p_holm=p) for c, p in zip(made, holm([c.p for c in made])))
    return ComparisonTable(
        measure=group.label,
        detail=group.detail,
        layer=layer,
        is_chosen=is_chosen,
        better=group.better,
        magnitude=group.interpretation.magnitude,
        hits=group.interpretation.is_accuracy,
        to_first=to_first,
        comparisons=corrected,
        left_out=tuple(left_out),
    )


def _pair(group: Group, a: Array, b: Array, names: tuple[str, str]) -> Comparison:
    if group.interpretation.is_accuracy:  # the median of hits and misses, and so its interval, says nothing
        return replace(compare(a, b, names, n_bootstrap=1), low=math.nan, high=math.nan)
    draws = max(200, min(DRAWS, 4_000_000 // len(a)))  # large samples need fewer, and their medians take long
    return compare(a, b, names, n_bootstrap=draws)
