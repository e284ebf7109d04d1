"""Reference implementations of the measures: slower, less complicated, closely following the definitions.

One example at a time. Maps are (H, W) float64 arrays, images (C, H, W) arrays, models ordinary torch modules.
NaN means "undefined" everywhere: it is to be counted and reported by the caller, never scored as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike, NDArray
from skimage.draw import polygon
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Similarity = Callable[[Array, Array], float]
Explain = Callable[[nn.Module, Tensor, int], "Tensor | Array"]  # (model, x (C, H, W), target) -> map (h, w)


def _flat(a: ArrayLike) -> Array:
    return np.asarray(a, dtype=np.float64).reshape(-1)


# ---------------------------------------------------------------------------------------------- similarity of maps
def mid_ranks(a: ArrayLike) -> Array:
    """rank(v) = #{u < v} + (#{u = v} + 1) / 2, by counting; the first rank is 1."""
    values = _flat(a)
    ranks = np.empty_like(values)
    for v in set(values.tolist()):
        ranks[values == v] = np.sum(values < v) + (np.sum(values == v) + 1) / 2
    return ranks


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """sum (a - mean a)(b - mean b) / sqrt(sum (a - mean a)^2 * sum (b - mean b)^2)."""
    da, db = _flat(a) - _flat(a).mean(), _flat(b) - _flat(b).mean()
    return float(np.sum(da * db) / math.sqrt(np.sum(da**2) * np.sum(db**2)))


def _is_undefined(a: Array) -> bool:
    """Empty, not finite, or constant."""
    return a.size == 0 or not bool(np.isfinite(a).all()) or bool(np.all(a == a.flat[0]))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of the mid-ranks of the signed pixels; NaN if either map is constant or not finite."""
    a, b = _flat(a), _flat(b)
    if _is_undefined(a) or _is_undefined(b):
        return math.nan
    return pearson(mid_ranks(a), mid_ranks(b))


def abs_spearman(a: ArrayLike, b: ArrayLike) -> float:
    """spearman(|a|, |b|)."""
    return spearman(np.abs(_flat(a)), np.abs(_flat(b)))


def min_max(a: ArrayLike) -> Array:
    """(a - min a) / (max a - min a); all NaN for a constant or not finite map."""
    a = np.asarray(a, dtype=np.float64)
    return np.full_like(a, math.nan) if _is_undefined(a) else (a - a.min()) / (a.max() - a.min())


def hog_descriptor(a: ArrayLike) -> Array:
    """Histogram of oriented gradients of the map scaled to [0, 1]: 9 orientations, 16x16 cells, 3x3 blocks, L2-Hys."""
    return hog(
        min_max(a),
        orientations=9,
        pixels_per_cell=(16, 16),
        cells_per_block=(3, 3),
        block_norm="L2-Hys",
        transform_sqrt=False,
        feature_vector=True,
    )


def hog_spearman(a: ArrayLike, b: ArrayLike) -> float:
    """spearman(HOG(a), HOG(b)); NaN if either map, or either descriptor, is constant."""
    if _is_undefined(_flat(a)) or _is_undefined(_flat(b)):
        return math.nan
    return spearman(hog_descriptor(a), hog_descriptor(b))


def ssim(a: ArrayLike, b: ArrayLike) -> float:
    """Mean structural similarity of the maps scaled to [0, 1]; NaN if either is constant.

    Gaussian window, sigma 1.5, cut at 3.5 sigma (11x11 pixels), K1 = 0.01, K2 = 0.03, range 1, population covariance.
    """
    if _is_undefined(_flat(a)) or _is_undefined(_flat(b)):
        return math.nan
    value = structural_similarity(
        min_max(a),
        min_max(b),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        K1=0.01,
        K2=0.03,
    )
    return float(value)


def top_k_positions(a: ArrayLike, count: int) -> set[int]:
    """Row-major positions of the `count` largest values; of equal values, the first positions."""
    values = _flat(a).tolist()
    return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


def top_k_intersection(a: ArrayLike, b: ArrayLike, k: float) -> float:
    """|top_k(a) & top_k(b)| / n with n = k * size pixels, rounded up, k a fraction in (0, 1]."""
    count = math.ceil(k * _flat(a).size)
    return len(top_k_positions(a, count) & top_k_positions(b, count)) / count


def upsample(a: Tensor | ArrayLike, size: tuple[int, int]) -> Array:
    """Bilinear interpolation of a (h, w) map to `size`, pixel-area convention (align_corners=False)."""
    a = a.detach().cpu().double() if isinstance(a, Tensor) else torch.from_numpy(np.array(a, dtype=np.float64))
    return nn.functional.interpolate(a[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


# --------------------------------------------------------------------------------------------------- pointing game
def mask_from_boxes(boxes: Iterable[Sequence[float]], height: int, width: int) -> Mask:
    """Union of boxes (xmin, ymin, xmax, ymax), coordinates 1-based and inclusive as in VOC.

    Pixel (row r, column c), counted from 0, is inside iff xmin <= c + 1 <= xmax and ymin <= r + 1 <= ymax.
    """
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    mask = np.zeros((height, width), dtype=bool)
    for xmin, ymin, xmax, ymax in boxes:
        mask |= (xmin <= columns) & (columns <= xmax) & (ymin <= rows) & (rows <= ymax)
    return mask


def mask_from_polygons(polygons: Iterable[Sequence[float]], height: int, width: int) -> Mask:
    """Union of polygons [x0, y0, x1, y1, ...]; coordinates from 0, pixel centres at whole numbers."""
    mask = np.zeros((height, width), dtype=bool)
    for points in polygons:
        rows, columns = polygon(points[1::2], points[0::2], shape=(height, width))
        mask[rows, columns] = True
    return mask


def first_maximum(a: ArrayLike) -> tuple[int, ...]:
    """(row, column) of the first maximum in row-major order; of a signal or volume its one or three indices."""
    a = np.asarray(a, dtype=np.float64)
    if not np.isfinite(a).all():
        raise ValueError("the map is not finite")
    best = (0,) * a.ndim
    for place in np.ndindex(a.shape):
        if a[place] > a[best]:
            best = place
    return best


def point_distance(a: ArrayLike, mask: ArrayLike) -> float:
    """Least Euclidean distance from the first maximum to a true pixel of the mask; infinite for an empty mask."""
    peak = first_maximum(a)
    distances = [math.dist(place, peak) for place in np.argwhere(np.asarray(mask))]
    return min(distances, default=math.inf)


def pointing_hit(a: ArrayLike, mask: ArrayLike, tolerance: float = 15.0) -> bool:
    """Hit iff point_distance < tolerance (strictly); an empty mask is a miss. The map has the image's size."""
    if np.shape(a) != np.shape(mask):
        raise ValueError(f"map {np.shape(a)} and mask {np.shape(mask)} differ in size")
    return point_distance(a, mask) < tolerance


def restricted_pointing(a_top: ArrayLike, masks: Mapping[int, ArrayLike], tolerance: float = 15.0) -> dict[int, bool]:
    """The map of the largest output alone, scored against every class present: {class: hit}."""
    return {c: pointing_hit(a_top, mask, tolerance) for c, mask in masks.items()}


def pointing_accuracy(outcomes: Iterable[tuple[int, bool]]) -> float:
    """Mean over classes of hits / (hits + misses); classes without any pair do not count, NaN if there are none."""
    by_class: dict[int, list[bool]] = {}
    for c, hit in outcomes:
        by_class.setdefault(c, []).append(bool(hit))
    return sum(sum(hits) / len(hits) for hits in by_class.values()) / len(by_class) if by_class else math.nan


def voc_pair_counts(difficult_flags: Sequence[bool]) -> bool:
    """An image-class pair is scored unless all boxes of the class in that image are marked difficult."""
    return len(difficult_flags) > 0 and not all(difficult_flags)


def is_difficult_pair(class_mask: ArrayLike, class_id: int, classes_present: Iterable[int]) -> bool:
    """Area of the union of the class's boxes < 25 % of the image (strictly), and another class is present."""
    class_mask = np.asarray(class_mask, dtype=bool)
    return class_mask.sum() < 0.25 * class_mask.size and any(c != class_id for c in classes_present)


# --------------------------------------------------------------------------------------------------- pixel removal
class Removal(NamedTuple):
    """Outcome of a removal: e, the number of pixels removed, and whether the decision changed."""

    e: float
    pixels: int
    flipped: bool


def decision(model: nn.Module, dtype: torch.dtype = torch.float64) -> Callable[[Array], int]:
    """x (C, H, W) -> argmax of the model's output (the first of equal ones)."""

    def decide(x: Array) -> int:
        with torch.no_grad():
            scores = model(torch.from_numpy(np.array(x)).to(dtype)[None])[0]
        return int(np.argmax(scores.double().numpy()))

    return decide


def removal_order(saliency: ArrayLike, order: str) -> list[int]:
    """Row-major positions from the least (or the most) salient on, by signed value; ties by first position."""
    values = _flat(saliency).tolist()
    if order not in ("least", "most"):
        raise ValueError(f"order must be 'least' or 'most', not {order!r}")
    sign = 1.0 if order == "least" else -1.0
    return sorted(range(len(values)), key=lambda i: (sign * values[i], i))


def pixel_removal(
    decide: Callable[[Array], int],
    x: ArrayLike,
    saliency: ArrayLike,
    order: str,
    baseline: ArrayLike = 0.0,
    step: int = 1,
) -> Removal:
    """Remove `step` pixels at a time, all channels at once, until the decision first differs from decide(x).

    e = 1 - ||x_s|| / ||x - baseline||, x_s being x - baseline with removed pixels at 0: 1 - ||x_s|| / ||x|| for
    baseline 0. The baseline is anything that broadcasts to (C, H, W). Never flipped: e = 1 and pixels = H * W.
    e is NaN if x is the baseline. x is (C, *S) with positions S of any number of dimensions.
    """
    x = np.asarray(x, dtype=np.float64)
    size = x.shape[1:]
    if np.shape(saliency) != size:
        raise ValueError(f"map {np.shape(saliency)} and image {x.shape} differ in size")
    base = np.broadcast_to(np.asarray(baseline, dtype=np.float64), x.shape)
    original, positions = decide(x), removal_order(saliency, order)
    signal, current = x - base, x.copy()
    norm = math.sqrt(np.sum(signal**2))
    for start in range(0, len(positions), step):
        chunk = positions[start : start + step]
        for i in chunk:
            place = (slice(None), *np.unravel_index(i, size))
            current[place] = base[place]
            signal[place] = 0.0
        if decide(current) != original:
            e = 1 - math.sqrt(np.sum(signal**2)) / norm if norm > 0 else math.nan
            return Removal(e, start + len(chunk), True)
    return Removal(1.0 if norm > 0 else math.nan, math.prod(size), False)


def removal_delta(
    decide: Callable[[Array], int], x: ArrayLike, saliency: ArrayLike, baseline: ArrayLike = 0.0, step: int = 1
) -> float:
    """e_delta = e_minus - e_plus = e(least salient first) - e(most salient first)."""
    least = pixel_removal(decide, x, saliency, "least", baseline, step)
    return least.e - pixel_removal(decide, x, saliency, "most", baseline, step).e


def removal_contrast(
    decide: Callable[[Array], int],
    x: ArrayLike,
    saliency: ArrayLike,
    other_maps: Sequence[ArrayLike],
    order: str,
    baseline: ArrayLike = 0.0,
    step: int = 1,
) -> float:
    """delta_e = e(x, s) - mean over xi of e(x, xi), xi the same method's maps of other images, pixels in place."""
    e = pixel_removal(decide, x, saliency, order, baseline, step).e
    null = [pixel_removal(decide, x, xi, order, baseline, step).e for xi in other_maps]
    return e - sum(null) / len(null) if null else math.nan


# ----------------------------------------------------------------------- class sensitivity, randomisation, completeness
def class_sensitivity(explain: Explain, model: nn.Module, x: Tensor, similarity: Similarity) -> float:
    """Similarity, at the input's size, of the maps of the most and the least likely class (argmax, argmin f)."""
    with torch.no_grad():
        scores = model(x[None])[0].double().numpy()
    size = (x.shape[-2], x.shape[-1])
    most = upsample(explain(model, x, int(np.argmax(scores))), size)
    least = upsample(explain(model, x, int(np.argmin(scores))), size)
    return similarity(most, least)


def execution_order(model: nn.Module, x: Tensor) -> list[str]:
    """Names of the modules that own parameters directly, in the order in which they are first called."""
    names: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if any(p is not None for p in module._parameters.values()):
            handles.append(
                module.register_forward_pre_hook(lambda *_, name=name: None if name in names else names.append(name))
            )
    try:
        with torch.no_grad():
            model(x[None])
    finally:
        for handle in handles:
            handle.remove()
    return names


def normal_draw(model: nn.Module, seed: int, std: float = 0.01) -> Callable[[str], Tensor]:
    """Parameter name -> a tensor of its shape from N(0, std), always the same one for the same name."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * std
        for name, p in model.named_parameters(remove_duplicate=False)
    }
    return lambda name: drawn[name]


def parameter_randomization(
    explain: Explain,
    make_model: Callable[[], nn.Module],
    x: Tensor,
    target: int,
    order: str,
    draw: Callable[[str], Tensor],
    similarity: Similarity,
) -> list[tuple[str, float]]:
    """[(module, similarity(map after re-drawing, original map))] for every stage, from the output to the input.

    Stage i re-draws all parameters of module i ("independent") or of the modules 1 ... i ("cascading") of a fresh
    model; draw(full parameter name) gives the new value. The model's buffers and the target stay. The stage without
    any re-drawing is not in the list.
    """
    if order not in ("cascading", "independent"):
        raise ValueError(f"order must be 'cascading' or 'independent', not {order!r}")
    size = (x.shape[-2], x.shape[-1])
    stages = execution_order(make_model(), x)[::-1]
    original = upsample(explain(make_model(), x, target), size)
    results = []
    for i, stage in enumerate(stages):
        model = make_model()
        for name in stages[: i + 1] if order == "cascading" else [stage]:
            for key, parameter in model.get_submodule(name)._parameters.items():
                if parameter is not None:
                    with torch.no_grad():
                        parameter.copy_(draw(f"{name}.{key}" if name else key))
        results.append((stage, similarity(upsample(explain(model, x, target), size), original)))
    return results


def completeness_gap(output: float, attributions: Iterable[ArrayLike]) -> float:
    """|f - sum of all attributions| / |f|; NaN for f = 0."""
    total = sum(float(np.sum(np.asarray(a, dtype=np.float64))) for a in attributions)
    return abs(output - total) / abs(output) if output != 0 else math.nan


# ---------------------------------------------------------------------------------------------------- significance
def wilcoxon_p(differences: ArrayLike, method: str = "auto") -> float:
    """Two-sided Wilcoxon signed-rank p-value: zero differences dropped, no continuity correction; NaN if none left."""
    d = _flat(differences)
    if not np.any(d != 0) or np.isnan(d).any():
        return math.nan
    return float(
        scipy.stats.wilcoxon(d, zero_method="wilcox", correction=False, alternative="two-sided", method=method).pvalue
    )


def rank_biserial(differences: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-).

    W+ (W-) is the sum of the mid-ranks of |d| over d > 0 (d < 0), zero differences dropped; NaN if none is left.
    """
    d = _flat(differences)
    d = d[d != 0]
    if d.size == 0 or np.isnan(d).any():
        return math.nan
    ranks = mid_ranks(np.abs(d))
    positive, negative = ranks[d > 0].sum(), ranks[d < 0].sum()
    return float((positive - negative) / (positive + negative))


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def bootstrap_interval(
    differences: ArrayLike,
    indices: NDArray[np.int64],
    statistic: Callable[[Array], float],
    level: float = 0.95,
) -> Interval:
    """Percentile interval of statistic(d[row]) over the rows of the (resamples, n) index matrix.

    Ends are the (1 - level) / 2 and (1 + level) / 2 quantiles, with linear interpolation between order statistics.
    """
    d = _flat(differences)
    values = sorted(float(statistic(d[row])) for row in indices)

    def quantile(q: float) -> float:
        position = q * (len(values) - 1)
        low = math.floor(position)
        high = min(low + 1, len(values) - 1)
        return values[low] + (position - low) * (values[high] - values[low])

    return Interval(quantile((1 - level) / 2), quantile((1 + level) / 2))


def bootstrap_median(differences: ArrayLike, indices: NDArray[np.int64], level: float = 0.95) -> Interval:
    """Percentile interval of the median difference."""
    return bootstrap_interval(differences, indices, lambda d: float(np.median(d)), level)


def bootstrap_mean(differences: ArrayLike, indices: NDArray[np.int64], level: float = 0.95) -> Interval:
    """Percentile interval of the mean difference."""
    return bootstrap_interval(differences, indices, lambda d: float(np.mean(d)), level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of the i-th smallest of m: max over j <= i of min(1, (m - j + 1) p_(j)), in the order given."""
    m = len(p_values)
    adjusted, running = [math.nan] * m, 0.0
    for j, index in enumerate(sorted(range(m), key=lambda i: p_values[i]), start=1):
        running = max(running, min(1.0, (m - j + 1) * p_values[index]))
        adjusted[index] = running
    return adjusted


def holm_reject(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Step down from the smallest p: reject while p_(j) <= alpha / (m - j + 1), stop at the first that is larger."""
    m = len(p_values)
    rejected = [False] * m
    for j, index in enumerate(sorted(range(m), key=lambda i: p_values[i]), start=1):
        if p_values[index] > alpha / (m - j + 1):
            break
        rejected[index] = True
    return rejected
