"""What a paper states, what the data here say of it, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.metrics import compare

LEVEL = 0.05
Key = tuple[int, int]  # image, class


@dataclass(frozen=True)
class Finding:
    """Holds a statement and its fate; `holds` is None where it cannot be tested."""

    statement: str
    holds: bool | None
    n: int = 0
    effect: str = ""
    p: float = math.nan

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.holds is False and self.p >= LEVEL:
            return "does not hold (not significant)"
        return {True: "holds", False: "does not hold", None: "cannot be tested here"}[self.holds]


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


def more_hits(statement: str, first: Mapping[Key, float], second: Mapping[Key, float], margin: float = 0.0) -> Finding:
    """Is the first's mean over the classes higher than the second's on the same pairs?

    With a `margin` the question is whether it is at most so many points behind: the lower end of the difference's
    one-sided 95 % interval decides (p is then that of any difference).
    """
    keys = [k for k in first if k in second and not math.isnan(first[k] + second[k])]
    if not keys:
        return Finding(statement, None)
    a, b = (class_mean({k: v[k] for k in keys}) for v in (first, second))
    difference, error, p = class_mean_test({k: first[k] - second[k] for k in keys})
    holds = difference - 1.645 * error >= -margin if margin else difference > 0 and p < LEVEL
    return Finding(statement, bool(holds), len(keys), f"{a:.1f} against {b:.1f}", p)


def class_mean_test(differences: Mapping[Key, float], draws: int = 9999) -> tuple[float, float, float]:
    """Returns the mean over classes of paired differences, in percent: its value, standard error, and two-sided p.

    A permutation test: which of the two is which is drawn anew for every image (an image's pairs together).
    """
    targets = [target for _, target in differences]
    counts = {target: targets.count(target) for target in set(targets)}
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
    holds = bool(sign * found.effect < 0 and found.p < LEVEL)
    means = f"{np.nanmean(a):.2f} against {np.nanmean(b):.2f}, rank-biserial {found.effect:+.2f}"
    if math.isnan(found.p):
        return Finding(statement, None, found.n, f"{means}: no two differ")
    return Finding(statement, holds, found.n, means, found.p)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def findings_table(findings: Sequence[Finding]) -> str:
    """Returns the findings as a Markdown table."""
    rows = []
    for f in findings:
        p = "" if math.isnan(f.p) else f"{f.p:.1g}"
        rows.append([f.statement, f"**{f.verdict}**", str(f.n or ""), f.effect, p])
    return markdown(["statement", "here", "n", "effect", "p"], rows)
