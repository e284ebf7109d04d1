"""From single numbers to tables: means with their spread beside their baselines, and methods compared in pairs.

Whatever is undefined, or missing where other methods have a value, is NaN: it is left out of means and counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.metrics.significance import Comparison, compare, holm
from captum_extract_aggregate.metrics.similarity import SIMILARITIES, NullBaseline, null_baseline

Array = np.ndarray[Any, np.dtype[Any]]

POINTING = ("pointing_game", "restricted_pointing_game")
SIMILARITY = ("class_sensitivity", "parameter_randomization")  # their values are similarities, with a null above 0
SUBSETS = ("all", "difficult", "multi")
# What is better, of the details that methods are compared by; others are only summarised.
BETTER: dict[str, dict[str, str]] = {
    "pointing_game": dict.fromkeys(SUBSETS, "higher"),
    "restricted_pointing_game": dict.fromkeys(SUBSETS, "higher"),
    "class_sensitivity": {"": "lower"},
    "pixel_removal": {"e_minus": "higher", "e_plus": "lower", "e_delta": "higher"},
    "removal_contrast": {"delta_minus": "higher", "delta_plus": "lower", "delta": "higher"},
    "completeness_gap": {"": "lower"},
}
DRAWS = 1000  # of the bootstrap over images
MOST_CANDIDATES = 12  # of which all pairs are compared


class Place(NamedTuple):
    """A method at a layer."""

    method: str
    layer: str


CENTRE = Place("centre", "image")


@dataclass(frozen=True)
class Group:
    """The values of one detail of a measure (of the pointing game: of one subset of its pairs).

    Attributes:
        measure: as planned. detail: which.
        pairs: `n x 2`, images and classes, sorted. values: one for each pair, by method and layer, in the plan's order.
    """

    measure: MeasurePlan
    detail: str
    pairs: Array
    values: dict[Place, Array]

    @property
    def kind(self) -> str:
        """The measure's name."""
        return self.measure.measure

    @property
    def better(self) -> str:
        """ "higher", "lower", or "" where it is unknown."""
        if self.kind == "parameter_randomization":
            return "lower"
        return BETTER.get(self.kind, {}).get(self.detail, "")


@dataclass(frozen=True)
class Summary:
    """One measure of one method at one layer.

    Attributes:
        measure, detail, method, layer: which. For the pointing games `detail` is the subset of the pairs: "all",
            "difficult", or "multi" (images with several classes).
        mean: over images; for the pointing games the mean over classes of hits / (hits + misses).
        spread, spread_kind: the standard deviation over images ("sd"); for the pointing games the standard error of the
            mean, by bootstrap over images ("se").
        median: over images (not of the pointing games).
        n, undefined: how many values are defined, and how many are not.
        null, null_spread: what says nothing would give: the centre of the image, unrelated maps, or 0 (NaN: unknown).
        p: of the two-sided Wilcoxon signed-rank test of the values against `null`, for the pointing games against the
            centre's hits on the same pairs; NaN without a null. `p_holm`: corrected for the methods and layers tested
            for this measure and detail.
    """

    measure: str
    detail: str
    method: str
    layer: str
    mean: float
    spread: float
    spread_kind: str
    median: float
    n: int
    undefined: int
    null: float
    null_spread: float
    p: float
    p_holm: float

    @property
    def place(self) -> Place:
        """The method and the layer."""
        return Place(self.method, self.layer)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        if self.spread_kind == "se":
            return self.spread
        return self.spread / math.sqrt(self.n) if self.n > 1 else math.nan


@dataclass(frozen=True)
class ComparisonTable:
    """Methods compared by one measure, with p-values corrected (Holm) for the comparisons of this table.

    Attributes:
        measure, kind, detail: by what they are compared: the measure's label, its name, and which of its values.
        layer: at which layer; "": each method at the layer where its mean is best, or has its only value.
        is_chosen: a method's best layer was chosen among several, on these same images, which favours methods with
            many layers.
        better: "higher", "lower", or "" where it is unknown.
        magnitude: magnitudes were compared.
        to_first: there were too many candidates for all pairs, so each is compared to the first alone.
        comparisons: differences are first minus second; those of hits have no interval of the median (NaN).
        left_out: pairs of candidates that have no image with both values defined.
    """

    measure: str
    kind: str
    detail: str
    layer: str
    is_chosen: bool
    better: str
    magnitude: bool
    to_first: bool
    comparisons: tuple[Comparison, ...]
    left_out: tuple[tuple[str, str], ...]


def places(results: Results) -> list[Place]:
    """Methods at layers, in the plan's order."""
    return [Place(m.method, m.layer) for m in results.maps()]


def summarize(results: Results) -> list[Summary]:
    """Every measure of every method at every layer, in the plan's order.

    Example:
        >>> import tempfile
        >>> from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, Plan, run
        >>> from captum_extract_aggregate.evaluation.statistics import summarize
        >>> plan = Plan(
        ...     (MethodPlan("normgrad"),), (MeasurePlan("pointing_game"),), DataPlan(n=4), layers=("layer3",)
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     line = summarize(run(plan, folder, show_progress=False))[0]
        >>> line.method, line.layer, line.detail, line.mean > line.null
        ('normgrad', 'layer3', 'all', True)
    """
    nulls = Nulls(results)
    return [s for m in results.plan.measures for g in groups(results, m) for s in summarize_group(g, nulls)]


def comparisons(results: Results) -> list[ComparisonTable]:
    """For each measure its methods in pairs: each at its best layer, then layer by layer.

    The pointing games are compared hit by hit on the same pairs, similarities by their magnitude, and the randomisation
    test at its last stage.
    """
    return [table for m in results.plan.measures for table in compare_groups(groups(results, m))]


# --- Values, aligned -------------------------------------------------------------------------------------------------


def groups(results: Results, measure: MeasurePlan) -> list[Group]:
    """A measure's values by detail, the most telling first; of the pointing games by subset."""
    label, kind = measure.label or measure.measure, measure.measure
    order = {place: i for i, place in enumerate(places(results))}
    details = [detail for name, detail in results.measures() if name == label]
    known = list(BETTER.get(kind, ()))
    details.sort(key=lambda d: (known.index(d) if d in known else len(known), d))
    found = [_group(results, measure, label, detail, order) for detail in details]
    if kind in POINTING:
        return [subset for group in found for subset in _subsets(results, group)]
    return found


def _group(results: Results, measure: MeasurePlan, label: str, detail: str, order: Mapping[Place, int]) -> Group:
    rows = results.rows(label, detail)
    pairs = sorted({(row.image, row.target) for row in rows})
    index = {pair: i for i, pair in enumerate(pairs)}
    values: dict[Place, Array] = {}
    for row in rows:
        place = Place(row.method, row.layer)
        if place not in values:
            values[place] = np.full(len(pairs), math.nan)
        values[place][index[row.image, row.target]] = row.value
    ordered = sorted(values, key=lambda place: (order.get(place, len(order)), place))
    return Group(measure, detail, np.array(pairs).reshape(-1, 2), {place: values[place] for place in ordered})


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
        yield Group(group.measure, name, group.pairs[keep], values)


# --- Summaries -------------------------------------------------------------------------------------------------------


class Nulls:
    """What similarities give for unrelated maps of each method and layer, computed once for each size."""

    def __init__(self, results: Results) -> None:
        self._sizes = {
            Place(m.method, m.layer): ((m.height, m.width), (m.image_height, m.image_width)) for m in results.maps()
        }
        self._known: dict[Any, NullBaseline | None] = {}

    def of(self, measure: MeasurePlan, place: Place) -> NullBaseline | None:
        """The null of a measure of similarity; None for a similarity of the user's own, or where it is undefined."""
        similarity = measure.arguments.get("similarity", "spearman")
        if place not in self._sizes or not isinstance(similarity, str) or similarity not in SIMILARITIES:
            return None
        key = (similarity, *self._sizes[place])
        if key not in self._known:
            self._known[key] = _null(*key)
        return self._known[key]


def _null(similarity: str, map_size: tuple[int, int], image_size: tuple[int, int]) -> NullBaseline | None:
    if min(*map_size, *image_size) < 1 or max(map_size) < 2:  # a map of one position is constant
        return None
    try:
        return null_baseline(similarity, map_size, image_size)
    except ValueError:  # too small for HOG or SSIM
        return None


def summarize_group(group: Group, nulls: Nulls) -> list[Summary]:
    """One line for each method and layer."""
    lines = [_summary(group, place, nulls) for place in group.values]
    return [replace(s, p_holm=p) for s, p in zip(lines, holm([s.p for s in lines]))]


def _summary(group: Group, place: Place, nulls: Nulls) -> Summary:
    values = group.values[place]
    is_defined = ~np.isnan(values)
    defined = values[is_defined]
    is_pointing = group.kind in POINTING
    with np.errstate(invalid="ignore"):  # infinite values have an infinite mean and no spread
        if is_pointing:
            mean, spread, median = *_accuracy(defined, group.pairs[is_defined]), math.nan
        else:
            mean = float(defined.mean()) if len(defined) else math.nan
            spread = float(defined.std(ddof=1)) if len(defined) > 1 else math.nan
            median = float(np.median(defined)) if len(defined) else math.nan
    null, null_spread, against = _against(group, place, nulls)
    p = math.nan if against is None else _p(values, against)
    return Summary(
        measure=group.measure.label or group.kind,
        detail=group.detail,
        method=place.method,
        layer=place.layer,
        mean=mean,
        spread=spread,
        spread_kind="se" if is_pointing else "sd",
        median=median,
        n=len(defined),
        undefined=len(values) - len(defined),
        null=null,
        null_spread=null_spread,
        p=p,
        p_holm=p,
    )


def _against(group: Group, place: Place, nulls: Nulls) -> tuple[float, float, Array | None]:
    """The null, its spread, and what each value is tested against."""
    if group.kind in POINTING and CENTRE in group.values and place != CENTRE:
        hits = group.values[CENTRE]
        is_defined = ~np.isnan(hits)
        return *_accuracy(hits[is_defined], group.pairs[is_defined]), hits
    null = None
    if group.kind in SIMILARITY:
        null = nulls.of(group.measure, place)
    elif group.kind == "removal_contrast" and group.detail.startswith("delta"):
        null = NullBaseline(0.0, math.nan, 0)
    if null is None:
        return math.nan, math.nan, None
    return null.mean, null.std, np.full(len(group.pairs), null.mean)


def _p(values: Array, against: Array) -> float:
    differences = (values - against).astype(np.float64)
    return _tested(np.sort(differences[~np.isnan(differences)]).tobytes())


@lru_cache(maxsize=256)  # few hits and misses often differ alike, and SciPy's exact test with ties is slow
def _tested(differences: bytes) -> float:
    values = np.frombuffer(differences)
    return compare(values, np.zeros_like(values), n_bootstrap=1).p if len(values) else math.nan


def _accuracy(hits: Array, pairs: Array) -> tuple[float, float]:
    """The mean over classes of hits / (hits + misses), and its standard error."""
    if not len(hits):
        return math.nan, math.nan
    images, image = np.unique(pairs[:, 0], return_inverse=True)
    classes, class_ = np.unique(pairs[:, 1], return_inverse=True)
    mean = float((np.bincount(class_, hits) / np.bincount(class_)).mean())
    if len(images) < 2:
        return mean, math.nan
    shape = (len(classes), len(images))
    hit, seen = (csr_array((v.astype(np.float32), (class_, image)), shape=shape) for v in (hits, np.ones_like(hits)))
    return mean, float(_class_mean(hit, seen, _drawn(len(images))).std(ddof=1))


def _class_mean(hit: Any, seen: Any, weights: Array) -> Array:
    """For each column of weights of images; a class that no weighted image holds does not count."""
    hits, all_ = ((m @ weights).astype(np.float64) for m in (hit, seen))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(hits / all_, axis=0))


@lru_cache(maxsize=2)
def _drawn(n: int, seed: int = 0) -> Array:
    """How often each of n images is drawn, `n x DRAWS`; the same for all methods."""
    generator = np.random.default_rng(seed)
    counts = np.empty((DRAWS, n), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
    return np.ascontiguousarray(counts.T)


# --- Comparisons -----------------------------------------------------------------------------------------------------


def compare_groups(groups: Sequence[Group]) -> list[ComparisonTable]:
    """The comparisons of one measure."""
    if groups and groups[0].kind == "parameter_randomization":
        groups = groups[-1:]
    chosen = [g for g in groups if g.better or g.kind not in BETTER]
    return [table for group in chosen for table in _tables(group) if table.comparisons or table.left_out]


def _tables(group: Group) -> Iterator[ComparisonTable]:
    values = {
        place: np.abs(v) if group.kind in SIMILARITY else v for place, v in group.values.items() if place != CENTRE
    }
    layers = list(dict.fromkeys(place.layer for place in values))
    methods = list(dict.fromkeys(place.method for place in values))
    by_method = {m: [place for place in values if place.method == m] for m in methods}
    is_chosen = any(len(own) > 1 for own in by_method.values())
    if len(layers) > 1 and (group.better or not is_chosen):
        best = [_best(group, values, own) for own in by_method.values()]
        yield _table(group, "", is_chosen, {f"{p.method} at {p.layer}": values[p] for p in best})
    for layer in layers:
        yield _table(group, layer, False, {p.method: v for p, v in values.items() if p.layer == layer})


def _best(group: Group, values: Mapping[Place, Array], own: Sequence[Place]) -> Place:
    """Where a method's mean is best; the first of equals, and whatever is undefined last."""

    def loss(place: Place) -> float:
        defined = ~np.isnan(values[place])
        if len(own) == 1 or not defined.any():
            return math.inf
        hits = values[place][defined]
        mean = _accuracy(hits, group.pairs[defined])[0] if group.kind in POINTING else hits.mean()
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
        measure=group.measure.label or group.kind,
        kind=group.kind,
        detail=group.detail,
        layer=layer,
        is_chosen=is_chosen,
        better=group.better,
        magnitude=group.kind in SIMILARITY,
        to_first=to_first,
        comparisons=corrected,
        left_out=tuple(left_out),
    )


def _pair(group: Group, a: Array, b: Array, names: tuple[str, str]) -> Comparison:
    if group.kind in POINTING:  # the median of hits and misses, and so its interval, says nothing
        return replace(compare(a, b, names, n_bootstrap=1), low=math.nan, high=math.nan)
    draws = max(200, min(DRAWS, 4_000_000 // len(a)))  # large samples need fewer, and their medians take long
    return compare(a, b, names, n_bootstrap=draws)
