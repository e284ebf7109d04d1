"""The numbers of a measure side by side: the same images and classes in the same order for every method and layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.measure_spec import Interpretation
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.store import Results

Array = np.ndarray[Any, np.dtype[Any]]

SUBSETS = ("all", "difficult", "multi")  # of the pairs of image and class of which there are hits and misses


@dataclass(frozen=True)
class Group:
    """Holds the values of one detail of a measure (of hits and misses: of one subset of the pairs).

    Attributes:
        measure: as planned. interpretation: how its numbers are read. detail: which of them.
        pairs: `n x 2`, images and classes, sorted. values: one for each pair, by method and layer, in the plan's order.
    """

    measure: MeasurePlan
    interpretation: Interpretation
    detail: str
    pairs: Array
    values: dict[MethodAtLayer, Array]

    @property
    def better(self) -> str:
        """ "higher", "lower", or "" where it is unknown."""
        return self.interpretation.better_of(self.detail)

    @property
    def label(self) -> str:
        """The measure's name in the tables."""
        return self.measure.label or self.measure.measure


def methods_at_layers(results: Results) -> list[MethodAtLayer]:
    """Returns methods at layers, in the plan's order."""
    return [MethodAtLayer(m.method, m.layer) for m in results.maps()]


def groups(results: Results, measure: MeasurePlan) -> list[Group]:
    """Returns a measure's values by detail, the most telling first; hits and misses by subset."""
    label, interpretation = measure.label or measure.measure, results.interpretation(measure)
    order = {place: i for i, place in enumerate(methods_at_layers(results))}
    details = interpretation.ordered([detail for name, detail in results.measures() if name == label])
    found = [_group(results, measure, interpretation, detail, order) for detail in details]
    if interpretation.is_accuracy:
        return [subset for group in found for subset in _subsets(results, group)]
    return found


def _group(
    results: Results,
    measure: MeasurePlan,
    interpretation: Interpretation,
    detail: str,
    order: Mapping[MethodAtLayer, int],
) -> Group:
    rows = results.rows(measure.label or measure.measure, detail)
    pairs = sorted({(row.image, row.target) for row in rows})
    index = {pair: i for i, pair in enumerate(pairs)}
    values: dict[MethodAtLayer, Array] = {}
    for row in rows:
        place = MethodAtLayer(row.method, row.layer)
        if place not in values:
            values[place] = np.full(len(pairs), math.nan)
        values[place][index[row.image, row.target]] = row.value
    ordered = sorted(values, key=lambda place: (order.get(place, len(order)), place))
    columns = {place: values[place] for place in ordered}
    return Group(measure, interpretation, detail, np.array(pairs).reshape(-1, 2), columns)


def _subsets(results: Results, group: Group) -> Iterator[Group]:
    targets = results.targets()
    known = [targets.get((image, target)) for image, target in group.pairs.tolist()]
    chosen = {
        "all": [True for _ in known],
        "difficult": [t is not None and t.difficult for t in known],
        "multi": [t is not None and t.classes > 1 for t in known],
    }
    for name in SUBSETS:
        keep = np.array(chosen[name], dtype=bool)
        values = {place: v[keep] for place, v in group.values.items()}
        yield replace(group, detail=name, pairs=group.pairs[keep], values=values)


def shown_groups(found: Sequence[Group]) -> list[Group]:
    """Returns what a report tells of a measure: of stages the first and the last, else whatever methods are compared
    by."""
    if not found:
        return []
    if found[0].interpretation.is_staged:
        return [found[i] for i in sorted({0, len(found) - 1})]
    wanted = found[0].interpretation.compared([group.detail for group in found])
    return [group for group in found if group.detail in wanted]
