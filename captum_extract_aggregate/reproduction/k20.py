"""Khakzar, Baselizadeh, Navab: Rethinking Positive Aggregation and Propagation of Gradients (ICML WHI 2020), tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from captum_extract_aggregate.evaluation import MethodPlan, Results
from captum_extract_aggregate.metrics import null_baseline
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Key,
    Outcome,
    class_mean,
    markdown,
    mean_at_least,
    mean_sd,
    more_hits,
    share,
    smaller,
    standard_error,
    subset,
    values_of,
)
from captum_extract_aggregate.reproduction.plans import (
    AT_LAYERS,
    HOG_SENSITIVITY,
    INSIDE,
    RESTRICTED_INSIDE,
    at_the_end,
    block,
    pointing,
    pointing_inside,
    positive,
    propagated,
)
from captum_extract_aggregate.reproduction.randomization import (
    NO_RULE,
    READINGS,
    joined,
    randomization_measures,
    randomization_outcome,
)
from captum_extract_aggregate.reproduction.setting import Setting

# Multi-class VOC07, VGG-16: original / restricted. B4 is the block before the last.
TABLE1 = {
    "GradCAM": "74.1/48.9",
    "FullGrad": "58.4/50.5",
    "GradCAM++": "66.2/54.1",
    "GradCAM++ B4": "36.3/37.1",
    "GradCAM++ B3": "35.2/36.4",
    "GradCAM++ B2": "38.0/39.2",
    "GradCAM++ B1": "40.4/40.3",
    "GradCAM_Pos": "60.4/58.1",
    "GradCAM_Pos B4": "37.6/37.8",
    "GradCAM_Pos B3": "31.8/31.6",
    "GradCAM_Pos B2": "40.6/40.7",
    "GradCAM_Pos B1": "40.7/40.6",
    "GradMid": "63.9/56.3",
    "GradMid B4": "65.4/56.3",
    "GradMid B3": "60.0/53.8",
    "GradMid B2": "53.8/48.8",
    "GradMid B1": "51.8/44.5",
    "CumulativeGradCAM": "58.1/56.2",
    "CumulativeGradMid": "64.1/56.3",
}
TABLE3 = {
    "guided": "48.7/47.5",
    "gradients": "52.7/45.1",
    "RectGrad": "51.2/50.0",
    "RectGrad_Mod": "59.5/53.8",
    "LRP-gamma-inf": "50.6/50.0",
    "LRP-0": "51.1/44.2",
}
TABLE2 = {
    "GradCAM": ".03",
    "FullGrad": ".48",
    "GradCAM++": ".37",
    "GradCAM++ B4": ".23",
    "GradCAM++ B3": ".44",
    "GradCAM++ B2": ".58",
    "GradCAM++ B1": ".65",
    "GradCAM_Pos": ".69",
    "GradCAM_Pos B4": ".94",
    "GradCAM_Pos B3": ".98",
    "GradCAM_Pos B2": ".99",
    "GradCAM_Pos B1": ".99",
    "GradMid": ".29",
    "GradMid B4": ".35",
    "GradMid B3": ".32",
    "GradMid B2": ".34",
    "GradMid B1": ".43",
    "CumulativeGradCAM": ".92",
    "CumulativeGradMid": ".36",
}
TABLE4 = {
    "guided": ".99",
    "gradients": ".44",
    "RectGrad": ".99",
    "RectGrad_Mod": ".72",
    "LRP-gamma-inf": ".99",
    "LRP-0": ".59",
}
_BLOCKS = 5  # of VGG-16
_LOST = 3.0  # points that a map may lose in the restricted game and still count as blind to the class
_ALIKE = 0.9


def results_of(setting: Setting, methods: Sequence[MethodPlan]) -> Results:
    """Class sensitivity and, where objects are known, all pointing games."""
    games = (*pointing(setting), *pointing_inside()) if setting.has_objects else ()
    return setting.evaluate(methods, [HOG_SENSITIVITY, *games], "maps")


def _columns(results: Results) -> dict[str, str]:
    """Returns each method's one layer."""
    return {row.method: row.layer for row in results.maps()}


def _as_published(setting: Setting, method: str, published: Mapping[str, str]) -> str:
    """Returns the paper's figure for a method; for a block, of VGG-16's block as far from the end."""
    name, _, number = method.rpartition(" B")
    if not name:
        return published.get(method, "")
    theirs = _BLOCKS - (len(setting.layers) - int(number))
    figure = published.get(f"{name} B{theirs}", "")
    return f"{figure} (B{theirs})" if figure else ""


def _restricted(
    setting: Setting, results: Results, published: Mapping[str, str]
) -> tuple[str, dict[str, dict[str, dict[Key, float]]]]:
    """Returns the table of both games on images with several classes, and each method's hits in K20's own."""
    rows, hits = [], {}
    for method, layer in _columns(results).items():
        found = {
            game: subset(results, values_of(results, game, method, layer), "multi")
            for game in (INSIDE, RESTRICTED_INSIDE, "pointing_game", "restricted_pointing_game")
        }
        own, restricted = share(found[INSIDE]), share(found[RESTRICTED_INSIDE])
        a, b = class_mean(found["pointing_game"]), class_mean(found["restricted_pointing_game"])
        error = standard_error(found["pointing_game"])
        cells = [f"{own:.1f}", f"{restricted:.1f}", f"{own - restricted:.1f}"]
        cells += [f"{a:.1f} ± {error:.1f}", f"{b:.1f}", f"{a - b:.1f}"]
        rows.append([method, *cells, _as_published(setting, method, published)])
        if np.isnan(list(values_of(results, "hog_sensitivity", method, layer).values())).all():
            found = {game: {} for game in found}  # constant maps: their first pixel says nothing of the method
        hits[method] = found
    centre = subset(results, values_of(results, INSIDE, "centre", "image"), "multi")
    apart = subset(results, values_of(results, "pointing_game", "centre", "image"), "multi")
    inside, near = f"{share(centre):.1f}", f"{class_mean(apart):.1f}"
    rows.append(["centre", inside, inside, "0.0", near, near, "0.0", ""])
    n = max(len(found[INSIDE]) for found in hits.values())
    header = [
        f"method ({n} pairs of images with several classes)",
        "inside the mask, all trials: original",
        "restricted",
        "difference",
        "with tolerance, mean of classes: original",
        "restricted",
        "difference",
        "paper, VGG-16",
    ]
    return markdown(header, rows), hits


def _lost(hits: dict[str, dict[str, dict[Key, float]]], method: str) -> dict[Key, float]:
    """Returns for each pair the original minus the restricted hit, in K20's own game."""
    original, restricted = hits[method][INSIDE], hits[method][RESTRICTED_INSIDE]
    return {key: original[key] - restricted[key] for key in original}


def _larger_difference(
    hits: dict[str, dict[str, dict[Key, float]]], first: str, others: Sequence[str]
) -> list[Finding]:
    findings = []
    for other in others:
        statement = f"{first} loses more in the restricted game than {other}, that is, depends more on the class"
        if first not in hits or other not in hits:
            findings.append(Finding(statement, None, effect=NO_RULE))
        else:
            findings.append(more_hits(statement, _lost(hits, first), _lost(hits, other), of_all_trials=True))
    return findings


def _blind(hits: dict[str, dict[str, dict[Key, float]]], names: Sequence[str]) -> list[Finding]:
    findings = []
    for name in names:
        statement = f"{name} points as well in the restricted game (at most {_LOST:g} points lost)"
        if name not in hits:
            findings.append(Finding(statement, None, effect=NO_RULE))
            continue
        found = hits[name]
        findings.append(more_hits(statement, found[RESTRICTED_INSIDE], found[INSIDE], margin=_LOST, of_all_trials=True))
    return findings


def _earlier(setting: Setting, names: Sequence[str]) -> list[str]:
    return [name + block(setting, layer) for name in names for layer in reversed(setting.layers[:-1])]


def table1(setting: Setting) -> Outcome:
    """Pointing games on images with several classes, original and restricted to the best class's map: aggregation."""
    results = results_of(setting, positive(setting))
    table, hits = _restricted(setting, results, TABLE1)
    others = [name for name in _columns(results) if name != "GradCAM" and " B" not in name]
    findings = _larger_difference(hits, "GradCAM", others)
    blind = ["GradCAM_Pos", *_earlier(setting, ("GradCAM_Pos", "GradCAM++")), "CumulativeGradCAM"]
    return Outcome([table], findings + _blind(hits, blind))


def table3(setting: Setting) -> Outcome:
    """Pointing games on images with several classes, original and restricted to the best class's map: propagation."""
    results = results_of(setting, propagated(setting))
    table, hits = _restricted(setting, results, TABLE3)
    findings = _larger_difference(hits, "gradients", ["guided", "RectGrad", "LRP-gamma-inf"])
    findings += _larger_difference(hits, "RectGrad_Mod", ["RectGrad"])
    findings += _larger_difference(hits, "LRP-0", ["LRP-gamma-inf"])
    return Outcome([table], findings + _blind(hits, ["guided", "RectGrad", "LRP-gamma-inf"]))


def _sensitivity(
    setting: Setting, results: Results, published: Mapping[str, str]
) -> tuple[str, dict[str, dict[Key, float]]]:
    rows, values, nulls = [], {}, {}
    for row in results.maps():
        values[row.method] = values_of(results, "hog_sensitivity", row.method, row.layer)
        size = (row.height, row.width)
        if size not in nulls:
            nulls[size] = null_baseline("hog_spearman", size, (row.image_height, row.image_width), n=32)
        null = f"{nulls[size].mean:.2f} ± {nulls[size].std:.2f}"
        theirs = _as_published(setting, row.method, published)
        rows.append([row.method, mean_sd(list(values[row.method].values())), null, theirs])
    n = len(next(iter(values.values())))
    return markdown([f"method ({n} images)", "HOG-Spearman", "unrelated maps", "paper, VGG-16"], rows), values


def _more_sensitive(values: dict[str, dict[Key, float]], first: str, others: Sequence[str]) -> list[Finding]:
    findings = []
    for other in others:
        statement = f"{first}'s maps of the best and the worst class are less alike than {other}'s"
        if first not in values or other not in values:
            findings.append(Finding(statement, None, effect=NO_RULE))
        else:
            findings.append(smaller(statement, values[first], values[other]))
    return findings


def _alike(values: dict[str, dict[Key, float]], names: Sequence[str]) -> list[Finding]:
    statement = f"hardly depends on the class: its maps are alike to {_ALIKE:g} or more"
    return [mean_at_least(f"{n} {statement}", list(values[n].values()), _ALIKE) for n in names if n in values]


def table2(setting: Setting) -> Outcome:
    """Class sensitivity, Spearman of HOG features of the maps of the best and the worst class: aggregation."""
    results = results_of(setting, positive(setting))
    table, values = _sensitivity(setting, results, TABLE2)
    others = [name for name in values if name != "GradCAM" and not name.startswith(tuple(f"{m} B" for m in AT_LAYERS))]
    earlier = [name for name in _earlier(setting, ("GradCAM++", "GradCAM_Pos")) if name in values]
    findings = _more_sensitive(values, "GradCAM", [*others, *earlier])
    blind = [*_earlier(setting, ("GradCAM_Pos",)), "CumulativeGradCAM"]
    return Outcome([table], findings + _alike(values, blind))


def table4(setting: Setting) -> Outcome:
    """Class sensitivity, Spearman of HOG features of the maps of the best and the worst class: propagation."""
    results = results_of(setting, propagated(setting))
    table, values = _sensitivity(setting, results, TABLE4)
    findings = _more_sensitive(values, "gradients", ["guided", "RectGrad", "LRP-gamma-inf"])
    findings += _more_sensitive(values, "RectGrad_Mod", ["RectGrad"])
    findings += _more_sensitive(values, "LRP-0", ["LRP-gamma-inf"])
    return Outcome([table], findings + _alike(values, ["guided", "RectGrad", "LRP-gamma-inf"]))


def fig4(setting: Setting) -> Outcome:
    """Blocks randomised from the output to the input: HOG-Spearman with the original, by two readings of N(0, .01)."""
    methods = [*at_the_end(setting), *propagated(setting)]
    results = setting.evaluate(methods, randomization_measures(setting, "hog_spearman", tuple(READINGS)), "stages")
    pairs = [("GradCAM", "GradCAM_Pos"), ("gradients", "guided"), ("RectGrad_Mod", "RectGrad")]
    pairs += [("LRP-0", "LRP-gamma-inf"), ("GradCAM", "FullGrad"), ("GradCAM", "CumulativeGradCAM")]
    return joined([randomization_outcome(setting, results, f"k20-fig4-{init}", pairs, init) for init in READINGS])
