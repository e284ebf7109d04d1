"""From single numbers to lines of a table: means with their spread, beside what saying nothing would give.

Whatever is undefined, or missing where other methods have a value, is NaN: it is left out of means and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
import torch

from captum_extract_aggregate._common.errors import InvalidValueError, said
from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.evaluation.explained import CENTRE, MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Array, Group, groups
from captum_extract_aggregate.evaluation.measure_spec import MEASURES
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.metrics.significance import compare, holm
from captum_extract_aggregate.metrics.similarity import SIMILARITIES, NullBaseline, null_baseline

DRAWS = 1000  # of the bootstrap over images
_NOISE = 16  # random maps


@dataclass(frozen=True)
class Summary:
    """Sums up one measure of one method at one layer.

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
    def place(self) -> MethodAtLayer:
        """The method and the layer."""
        return MethodAtLayer(self.method, self.layer)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        if self.spread_kind == "se":
            return self.spread
        return self.spread / math.sqrt(self.n) if self.n > 1 else math.nan


def summarize(results: Results) -> list[Summary]:
    """Returns every measure of every method at every layer, in the plan's order.

    Example:
        >>> import tempfile
        >>> from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, Plan, run, summarize
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


# --- Lines of a table -------------------------------------------------------------------------------------------------


class Nulls:
    """Holds what similarities give for unrelated maps of each method and layer, computed once for each size."""

    def __init__(self, results: Results) -> None:
        self._sizes = {
            MethodAtLayer(m.method, m.layer): ((m.height, m.width), (m.image_height, m.image_width))
            for m in results.maps()
        }
        self._known: dict[Any, NullBaseline | None] = {}

    def of_noise(self, measure: MeasurePlan, place: MethodAtLayer) -> NullBaseline | None:
        """Returns what a measure of maps alone gives for random ones; None for one that is not registered."""
        if place not in self._sizes or measure.measure not in MEASURES:
            return None
        key = (measure.measure, str(measure.arguments), *self._sizes[place])
        if key not in self._known:
            self._known[key] = _of_noise(measure, *self._sizes[place])
        return self._known[key]

    def of(self, measure: MeasurePlan, place: MethodAtLayer) -> NullBaseline | None:
        """Returns the null of a measure of similarity; None for a similarity of the user's own, or where it is
        undefined."""
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


def _of_noise(measure: MeasurePlan, map_size: tuple[int, int], image_size: tuple[int, int]) -> NullBaseline:
    maps = upsample(torch.rand(_NOISE, 1, *map_size, generator=torch.Generator().manual_seed(0)), image_size)
    try:
        values = MEASURES[measure.measure].function(maps, None, None, None, **measure.arguments).double()
    except (AttributeError, TypeError) as error:
        raise InvalidValueError(
            f"measure {measure.measure!r} says null='noise', and failed on maps alone ({said(error)}); expected a "
            "function that looks at nothing else, or another null"
        ) from None
    return NullBaseline(float(values.mean()), float(values.std()), _NOISE)


def summarize_group(group: Group, nulls: Nulls) -> list[Summary]:
    """Returns one line for each method and layer."""
    lines = [_summary(group, place, nulls) for place in group.values]
    return [replace(s, p_holm=p) for s, p in zip(lines, holm([s.p for s in lines]))]


def _summary(group: Group, place: MethodAtLayer, nulls: Nulls) -> Summary:
    values = group.values[place]
    is_defined = ~np.isnan(values)
    defined = values[is_defined]
    is_accuracy = group.interpretation.is_accuracy
    with np.errstate(invalid="ignore"):  # infinite values have an infinite mean and no spread
        if is_accuracy:
            mean, spread, median = *accuracy(defined, group.pairs[is_defined]), math.nan
        else:
            mean = float(defined.mean()) if len(defined) else math.nan
            spread = float(defined.std(ddof=1)) if len(defined) > 1 else math.nan
            median = float(np.median(defined)) if len(defined) else math.nan
    null, null_spread, against = _against(group, place, nulls)
    p = math.nan if against is None else _p(values, against)
    return Summary(
        measure=group.label,
        detail=group.detail,
        method=place.method,
        layer=place.layer,
        mean=mean,
        spread=spread,
        spread_kind="se" if is_accuracy else "sd",
        median=median,
        n=len(defined),
        undefined=len(values) - len(defined),
        null=null,
        null_spread=null_spread,
        p=p,
        p_holm=p,
    )


def _against(group: Group, place: MethodAtLayer, nulls: Nulls) -> tuple[float, float, Array | None]:
    """Returns the null, its spread, and what each value is tested against."""
    if group.interpretation.null == "centre" and CENTRE in group.values and place != CENTRE:
        return _centre(group)
    if group.interpretation.null == "similarity":
        null = nulls.of(group.measure, place)
    elif group.interpretation.null == "noise":
        null = nulls.of_noise(group.measure, place)
    else:
        number = group.interpretation.null_of(group.detail)
        null = None if number is None else NullBaseline(number, math.nan, 0)
    if null is None:
        return math.nan, math.nan, None
    return null.mean, null.std, np.full(len(group.pairs), null.mean)


def _centre(group: Group) -> tuple[float, float, Array]:
    """Returns the null of a centre: its accuracy, or mean, with its spread, and its values."""
    values = group.values[CENTRE]
    is_defined = ~np.isnan(values)
    defined = values[is_defined]
    if group.interpretation.is_accuracy:
        return *accuracy(defined, group.pairs[is_defined]), values
    mean = float(defined.mean()) if len(defined) else math.nan
    return mean, float(defined.std(ddof=1)) if len(defined) > 1 else math.nan, values


def _p(values: Array, against: Array) -> float:
    differences = (values - against).astype(np.float64)
    return _tested(np.sort(differences[~np.isnan(differences)]).tobytes())


@lru_cache(maxsize=256)  # few hits and misses often differ alike, and SciPy's exact test with ties is slow
def _tested(differences: bytes) -> float:
    values = np.frombuffer(differences)
    return compare(values, np.zeros_like(values), n_bootstrap=1).p if len(values) else math.nan


def accuracy(hits: Array, pairs: Array) -> tuple[float, float]:
    """Returns the mean over classes of hits / (hits + misses), and its standard error."""
    if not len(hits):
        return math.nan, math.nan
    images, image = np.unique(pairs[:, 0], return_inverse=True)
    classes, class_ = np.unique(pairs[:, 1], return_inverse=True)
    mean = float((np.bincount(class_, hits) / np.bincount(class_)).mean())
    if len(images) < 2:
        return mean, math.nan
    shape = (len(classes), len(images))
    hit, seen = (
        scipy.sparse.csr_array((v.astype(np.float32), (class_, image)), shape=shape) for v in (hits, np.ones_like(hits))
    )
    return mean, float(_class_mean(hit, seen, _drawn(len(images))).std(ddof=1))


def _class_mean(hit: Any, seen: Any, weights: Array) -> Array:
    """Returns the mean over classes for each column of images' weights; a class that no weighted image holds is left
    out."""
    hits, all_ = ((m @ weights).astype(np.float64) for m in (hit, seen))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(hits / all_, axis=0))


@lru_cache(maxsize=2)
def _drawn(n: int, seed: int = 0) -> Array:
    """Returns how often each of n images is drawn, `n x DRAWS`; the same for all methods."""
    generator = np.random.default_rng(seed)
    counts = np.empty((DRAWS, n), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
    return np.ascontiguousarray(counts.T)
