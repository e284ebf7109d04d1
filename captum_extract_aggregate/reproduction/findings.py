"""What a paper states, what the data here say of it, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import norm

from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.metrics import compare
from captum_extract_aggregate.metrics.significance import holm

LEVEL = 0.05
POWER = 0.8
_TWO_SIDED, _ONE_SIDED, _OF_POWER = (float(norm.isf(tail)) for tail in (LEVEL / 2, LEVEL, 1 - POWER))
HOLDS, FAILS, UNTOLD, UNTESTED = "holds", "does not hold", "cannot be told", "cannot be tested here"
Key = tuple[int, int]  # image, class


@dataclass(frozen=True)
class Finding:
    """Holds a statement and its fate.

    `holds` is None where it cannot be tested. `told` is False where the images are too few to tell: the interval of the
    difference holds both answers; `needed` is then how many would tell, in 80 of 100 samples, a difference of the size
    that was seen.
    """

    statement: str
    holds: bool | None
    n: int = 0
    effect: str = ""
    p: float = math.nan
    told: bool = True
    needed: float = math.nan

    @property
    def verdict(self) -> str:
        """The verdict in words: one of three, or that there is none."""
        if self.holds is None:
            return UNTESTED
        if not self.told:
            return UNTOLD
        return HOLDS if self.holds else FAILS


def tested(statement: str, is_in_favour: bool, n: int, effect: str, p: float) -> Finding:
    """Returns the finding of a two-sided test of a difference: it holds, the opposite does, or it cannot be told."""
    if p < LEVEL:
        return Finding(statement, is_in_favour, n, effect, p)
    return Finding(statement, False, n, effect, p, False, _images_needed(n, float(norm.isf(p / 2)), _TWO_SIDED))


def within(statement: str, n: int, effect: str, p: float, over: float, error: float) -> Finding:
    """Returns the finding of a one-sided question, whether a difference is not below a limit: `over` is how far it lies
    above, `error` its standard error."""
    is_above, is_below = over - _ONE_SIDED * error >= 0, over + _ONE_SIDED * error < 0
    if is_above or is_below:
        return Finding(statement, is_above, n, effect, p)
    needed = _images_needed(n, over / error if error else 0.0, _ONE_SIDED)
    return Finding(statement, False, n, effect, p, False, needed)


def mean_at_least(statement: str, values: Sequence[float], limit: float) -> Finding:
    """Is the values' mean at least so much? Those that are undefined do not count."""
    defined = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    if not len(defined):
        return Finding(statement, None, effect="undefined for every image")
    mean = float(defined.mean())
    error = float(defined.std(ddof=1)) / math.sqrt(len(defined)) if len(defined) > 1 else math.inf
    return within(statement, len(defined), f"{mean:.2f}", math.nan, mean - limit, error)


def _images_needed(n: int, z: float, level: float) -> float:
    """Returns how many images tell an effect whose z is that of n, at the level and with the power."""
    return math.ceil(n * ((level + _OF_POWER) / z) ** 2) if abs(z) > 1e-9 else math.inf


@dataclass
class Outcome:
    """Holds tables (Markdown), findings and pictures of one experiment on one setting."""

    tables: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)


def values_of(results: Results, measure: str, method: str, layer: str, detail: str = "") -> dict[Key, float]:
    """Returns a measure's values by image and class."""
    return {(r.image, r.target): r.value for r in results.rows(measure, detail, method, layer)}


def subset(results: Results, values: Mapping[Key, float], which: str = "all") -> dict[Key, float]:
    """Returns the values of all pairs, of the `"difficult"` ones, or of images with several classes (`"multi"`)."""
    targets = results.targets()
    chosen = {
        "all": lambda key: True,
        "difficult": lambda key: targets[key].difficult,
        "multi": lambda key: targets[key].classes > 1,
    }[which]
    return {key: value for key, value in values.items() if chosen(key)}


def class_mean(values: Mapping[Key, float]) -> float:
    """Returns the mean over classes of the share of hits, in percent; undefined maps are left out."""
    by_class: dict[int, list[float]] = {}
    for (_, target), value in values.items():
        if not math.isnan(value):
            by_class.setdefault(target, []).append(value)
    return 100 * float(np.mean([np.mean(v) for v in by_class.values()])) if by_class else math.nan


def share(values: Mapping[Key, float]) -> float:
    """Returns the share of hits among all trials, in percent, as Khakzar et al. count; undefined maps are left out."""
    defined = [v for v in values.values() if not math.isnan(v)]
    return 100 * float(np.mean(defined)) if defined else math.nan


def standard_error(values: Mapping[Key, float], draws: int = 200) -> float:
    """Returns the standard error of `class_mean`, by a bootstrap over images."""
    by_image: dict[int, list[tuple[Key, float]]] = {}
    for key, value in values.items():
        by_image.setdefault(key[0], []).append((key, value))
    images, rng = sorted(by_image), np.random.default_rng(0)
    found = []
    for _ in range(draws):
        sums: dict[int, list[float]] = {}
        for i in rng.integers(len(images), size=len(images)):
            for (_, target), value in by_image[images[i]]:
                if not math.isnan(value):
                    total = sums.setdefault(target, [0.0, 0.0])
                    total[0] += value
                    total[1] += 1
        found.append(100 * np.mean([hit / n for hit, n in sums.values()]))
    return float(np.std(found, ddof=1))


def mean_sd(values: Sequence[float]) -> str:
    """Returns mean ± standard deviation, and how many are undefined."""
    array = np.asarray(values, dtype=float)
    defined = array[~np.isnan(array)]
    undefined = f" ({len(array) - len(defined)} undefined)" if len(defined) < len(array) else ""
    if not len(defined):
        return f"undefined{undefined}"
    spread = f" ± {defined.std(ddof=1):.2f}" if len(defined) > 1 else ""
    return f"{defined.mean():.2f}{spread}{undefined}"


def more_hits(
    statement: str,
    first: Mapping[Key, float],
    second: Mapping[Key, float],
    margin: float = 0.0,
    of_all_trials: bool = False,
) -> Finding:
    """Is the first's mean over the classes (or share of all trials) higher than the second's on the same pairs?

    With a `margin` the question is whether it is at most so many points behind: the difference's one-sided 95 %
    intervals decide (p is then that of any difference).
    """
    keys = [k for k in first if k in second and not math.isnan(first[k] + second[k])]
    if not keys:
        return Finding(statement, None)
    mean = share if of_all_trials else class_mean
    a, b = (mean({k: v[k] for k in keys}) for v in (first, second))
    difference, error, p = class_mean_test({k: first[k] - second[k] for k in keys}, of_all_trials=of_all_trials)
    told = f"{a:.1f} against {b:.1f}"
    if margin:
        return within(statement, len(keys), told, p, difference + margin, math.inf if math.isnan(error) else error)
    return tested(statement, difference > 0, len(keys), told, p)


def class_mean_test(
    differences: Mapping[Key, float], draws: int = 9999, of_all_trials: bool = False
) -> tuple[float, float, float]:
    """Returns the mean over classes of paired differences, in percent: its value, standard error, and two-sided p.

    A permutation test: which of the two is which is drawn anew for every image (an image's pairs together).
    `of_all_trials`: the mean over all pairs instead, whatever their class.
    """
    targets = [target for _, target in differences]
    counts: dict[int, float] = {target: targets.count(target) for target in set(targets)}
    if of_all_trials:
        counts = {target: len(targets) / len(counts) for target in counts}
    by_image: dict[int, float] = {}
    for (image, target), difference in differences.items():
        by_image[image] = by_image.get(image, 0.0) + 100 * difference / counts[target] / len(counts)
    parts = np.array([by_image[image] for image in sorted(by_image)])
    observed = float(parts.sum())
    signs = np.random.default_rng(0).integers(0, 2, (draws, len(parts))) * 2 - 1
    extreme = int((np.abs(signs @ parts) >= abs(observed) - 1e-9).sum())
    n = len(parts)
    error = float(np.sqrt(n / (n - 1) * ((parts - parts.mean()) ** 2).sum())) if n > 1 else math.nan
    return observed, error, (extreme + 1) / (draws + 1)


def smaller(
    statement: str,
    first: Mapping[Key, float],
    second: Mapping[Key, float],
    magnitude: bool = True,
    larger: bool = False,
) -> Finding:
    """Is the first's value (its magnitude, if asked for) smaller, image by image? Wilcoxon signed-rank test."""
    keys = sorted(set(first) & set(second))
    arrays = [np.array([v[k] for k in keys], dtype=float) for v in (first, second)]
    a, b = (np.abs(x) if magnitude else x for x in arrays)
    if not len(keys) or np.isnan(a - b).all():
        return Finding(statement, None, effect="undefined for every image")
    found = compare(a, b, n_bootstrap=1)
    sign = -1 if larger else 1
    means = f"{np.nanmean(a):.2f} against {np.nanmean(b):.2f}, rank-biserial {found.effect:+.2f}"
    if math.isnan(found.p):
        return Finding(statement, False, found.n, f"{means}: no two differ")
    return tested(statement, sign * found.effect < 0, found.n, means, found.p)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def findings_table(findings: Sequence[Finding]) -> str:
    """Returns the findings as a Markdown table; p also as corrected, by Holm, for the number of them."""
    corrected = holm([f.p for f in findings])
    rows = []
    for f, own in zip(findings, corrected):
        ps = ["" if math.isnan(p) else f"{p:.1g}" for p in (f.p, own)]
        rows.append([f.statement, f"**{f.verdict}**", str(f.n or ""), f.effect, *ps, _needed(f)])
    return markdown(["statement", "here", "n", "effect", "p", "p (Holm)", "n for 80 % power"], rows)


def _needed(finding: Finding) -> str:
    if finding.told or math.isnan(finding.needed):
        return ""
    return f"{finding.needed:.0f}" if finding.needed < 1e6 else "more than a million"
