"""Khakzar, Baselizadeh, Navab: Rethinking Positive Aggregation and Propagation of Gradients (ICML WHI 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captum_extract_aggregate.evaluation import MeasurePlan, MethodPlan, Results
from captum_extract_aggregate.metrics import null_baseline
from captum_extract_aggregate.reproduction.charts import picture_grid
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Key,
    Outcome,
    class_mean,
    markdown,
    mean_sd,
    more_hits,
    smaller,
    standard_error,
    subset,
    values_of,
)
from captum_extract_aggregate.reproduction.plans import HOG_SENSITIVITY, pointing, positive, propagated
from captum_extract_aggregate.reproduction.randomization import randomization_outcome
from captum_extract_aggregate.reproduction.setting import Setting

TABLE1 = {  # multi-class VOC07, VGG-16: original / restricted
    "GradCAM": "74.1/48.9",
    "FullGrad": "58.4/50.5",
    "GradCAM++": "66.2/54.1",
    "GradCAM_Pos": "60.4/58.1",
    "GradMid": "63.9/56.3",
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
    "GradCAM_Pos": ".69",
    "GradMid": ".29",
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
_NO_RULE = "this network has operations that the method has no rule for"


def results_of(setting: Setting, methods: Sequence[MethodPlan]) -> Results:
    """Class sensitivity and, where objects are known, both pointing games."""
    measures = [HOG_SENSITIVITY, *(pointing(setting) if setting.has_objects else ())]
    return setting.evaluate(methods, measures, "maps")


def _columns(results: Results) -> dict[str, str]:
    """Returns each method's one layer."""
    return {row.method: row.layer for row in results.maps()}


def _restricted(
    setting: Setting, results: Results, published: dict[str, str]
) -> tuple[str, dict[str, dict[Key, float]]]:
    """Returns the table of both games on images with several classes, and for each pair original minus restricted
    hit."""
    rows, differences = [], {}
    for method, layer in _columns(results).items():
        original, restricted = (
            subset(results, values_of(results, game, method, layer), "multi")
            for game in ("pointing_game", "restricted_pointing_game")
        )
        a, b = class_mean(original), class_mean(restricted)
        difference = {k: original[k] - restricted[k] for k in original}
        if np.isnan(list(values_of(results, "hog_sensitivity", method, layer).values())).all():
            difference = {}  # constant maps: their first pixel says nothing of the method
        cells = [f"{a:.1f} ± {standard_error(original):.1f}", f"{b:.1f}", f"{a - b:.1f}"]
        rows.append([method, *cells, published.get(method, "")])
        differences[method] = difference
    centre = class_mean(subset(results, values_of(results, "pointing_game", "centre", "image"), "multi"))
    rows.append(["centre", f"{centre:.1f}", f"{centre:.1f}", "0.0", ""])
    n = len(next(iter(differences.values())))
    header = [
        f"method ({n} pairs of images with several classes)",
        "original",
        "restricted",
        "difference",
        "paper, VGG-16",
    ]
    return markdown(header, rows), differences


def _larger_difference(differences: dict[str, dict[Key, float]], first: str, others: Sequence[str]) -> list[Finding]:
    findings = []
    for other in others:
        statement = f"{first} loses more in the restricted game than {other}, that is, depends more on the class"
        if first not in differences or other not in differences:
            findings.append(Finding(statement, None, effect=_NO_RULE))
            continue
        a, b = differences[first], differences[other]
        findings.append(more_hits(statement, a, b))
    return findings


def table1(setting: Setting) -> Outcome:
    """Pointing game on images with several classes, original and restricted to the best class's map: aggregation."""
    results = results_of(setting, positive(setting.layers[-1]))
    table, differences = _restricted(setting, results, TABLE1)
    others = [name for name in TABLE1 if name != "GradCAM"]
    return Outcome([table], _larger_difference(differences, "GradCAM", others))


def table3(setting: Setting) -> Outcome:
    """Returns the same for methods that propagate to the input."""
    results = results_of(setting, propagated())
    table, differences = _restricted(setting, results, TABLE3)
    findings = _larger_difference(differences, "gradients", ["guided", "RectGrad", "LRP-gamma-inf"])
    findings += _larger_difference(differences, "RectGrad_Mod", ["RectGrad"])
    findings += _larger_difference(differences, "LRP-0", ["LRP-gamma-inf"])
    return Outcome([table], findings)


def _sensitivity(
    setting: Setting, results: Results, published: dict[str, str]
) -> tuple[str, dict[str, dict[Key, float]]]:
    rows, values, nulls = [], {}, {}
    for row in results.maps():
        values[row.method] = values_of(results, "hog_sensitivity", row.method, row.layer)
        size = (row.height, row.width)
        if size not in nulls:
            nulls[size] = null_baseline("hog_spearman", size, (row.image_height, row.image_width), n=32)
        null = f"{nulls[size].mean:.2f} ± {nulls[size].std:.2f}"
        rows.append([row.method, mean_sd(list(values[row.method].values())), null, published.get(row.method, "")])
    n = len(next(iter(values.values())))
    return markdown([f"method ({n} images)", "HOG-Spearman", "unrelated maps", "paper, VGG-16"], rows), values


def _more_sensitive(values: dict[str, dict[Key, float]], first: str, others: Sequence[str]) -> list[Finding]:
    findings = []
    for other in others:
        statement = f"{first}'s maps of the best and the worst class are less alike than {other}'s"
        if first not in values or other not in values:
            findings.append(Finding(statement, None, effect=_NO_RULE))
        else:
            findings.append(smaller(statement, values[first], values[other]))
    return findings


def table2(setting: Setting) -> Outcome:
    """Class sensitivity, Spearman of HOG features of the maps of the best and the worst class: aggregation."""
    results = results_of(setting, positive(setting.layers[-1]))
    table, values = _sensitivity(setting, results, TABLE2)
    others = [name for name in TABLE2 if name != "GradCAM"]
    return Outcome([table], _more_sensitive(values, "GradCAM", others))


def table4(setting: Setting) -> Outcome:
    """Returns the same for methods that propagate to the input."""
    results = results_of(setting, propagated())
    table, values = _sensitivity(setting, results, TABLE4)
    findings = _more_sensitive(values, "gradients", ["guided", "RectGrad", "LRP-gamma-inf"])
    findings += _more_sensitive(values, "RectGrad_Mod", ["RectGrad"])
    findings += _more_sensitive(values, "LRP-0", ["LRP-gamma-inf"])
    for name in ("guided", "RectGrad", "LRP-gamma-inf"):
        if name in values:
            defined = [value for value in values[name].values() if value == value]
            mean = float(np.mean(defined)) if defined else float("nan")
            findings.append(
                Finding(
                    f"{name} hardly depends on the class: its maps are alike to 0.9 or more",
                    mean >= 0.9 if defined else None,
                    len(defined),
                    f"{mean:.2f}",
                )
            )
    return Outcome([table], findings)


def fig1(setting: Setting) -> Outcome:
    """Pictures: maps of the best and of the worst class, by aggregation and by propagation."""
    methods = [*positive(setting.layers[-1])[:5], *propagated()]
    return Outcome([], [], [picture_grid(setting, methods, "k20-fig1", worst=True)])


def fig4(setting: Setting) -> Outcome:
    """Blocks randomised from the output to the input (N(0, 0.01)): HOG-Spearman with the original map."""
    methods = [*positive(setting.layers[-1])[:5], *propagated()]
    arguments = {"layers": setting.stages, "similarity": "hog_spearman"}
    results = setting.evaluate(methods, [MeasurePlan("parameter_randomization", arguments=arguments)], "stages")
    pairs = [("gradients", "guided"), ("gradients", "RectGrad"), ("LRP-0", "LRP-gamma-inf"), ("GradCAM", "GradCAM_Pos")]
    return randomization_outcome(setting, results, None, "k20-fig4", pairs)
