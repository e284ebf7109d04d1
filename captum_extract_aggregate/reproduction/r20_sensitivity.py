"""Rebuffi, Fong, Ji, Vedaldi (CVPR 2020): class sensitivity, meta-saliency, and sensitivity to the parameters."""

from __future__ import annotations

from collections.abc import Sequence

from captum_extract_aggregate.evaluation import MetaPlan, MethodPlan, Results
from captum_extract_aggregate.reproduction.charts import curves
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Outcome,
    class_mean,
    markdown,
    mean_sd,
    more_hits,
    smaller,
)
from captum_extract_aggregate.reproduction.plans import R20, SENSITIVITY, pointing
from captum_extract_aggregate.reproduction.r20_results import (
    correlations,
    defined_mean,
    hits_of,
    methods_of,
    pointing_results,
)
from captum_extract_aggregate.reproduction.randomization import randomization_measures, randomization_outcome
from captum_extract_aggregate.reproduction.setting import Setting

STEP = 2e-3  # published: 2 epsilon, with epsilon 0.001
_QUICK = ("selective", "linear approx.")


def fig6(setting: Setting) -> Outcome:
    """Class sensitivity at every layer: rank correlation of the maps of the best and of the worst class."""
    results = pointing_results(setting) if setting.has_objects else _sensitivity(setting)
    layers, methods = list(setting.layers), methods_of(results)
    values = {m: [correlations(results, m, layer) for layer in layers] for m in methods}
    rows = [[m, *(mean_sd(list(v.values())) for v in values[m])] for m in methods]
    table = markdown(["method", *layers], rows)
    means = {m: [defined_mean(v) for v in values[m]] for m in methods}
    picture = setting.folder / f"r20-fig6-{setting.name}.png"
    curves(picture, layers, means, {}, f"{setting.name}: Spearman, best against worst class", {"unrelated maps": 0.0})
    middle = layers[len(layers) // 2]

    def against(first: str, second: str) -> Finding:
        statement = f"{first} is more sensitive to the class than {second} ({middle})"
        if first not in methods or second not in methods:
            return Finding(statement, None, effect="no rule for some of this network's operations")
        a, b = correlations(results, first, middle), correlations(results, second, middle)
        return smaller(statement, a, b)

    findings = [
        against("linear approx.", "NormGrad"),
        against("selective", "NormGrad"),
        against("GradCAM", "NormGrad"),
        against("cEB", "EB"),
        against("linear approx.", "guided"),
    ]
    return Outcome([table], findings, [picture])


def _sensitivity(setting: Setting) -> Results:
    return setting.evaluate(list(R20.values()), [SENSITIVITY], "maps")


def with_and_without(setting: Setting, names: Sequence[str], layers: tuple[str, ...]) -> list[MethodPlan]:
    """Returns methods with and without meta-saliency's published step."""
    meta = MetaPlan(STEP, loss_func=setting.loss)
    plans = []
    for name in names:
        of = R20[name]
        plans.append(MethodPlan(of.method, name, layers, of.arguments))
        plans.append(MethodPlan(of.method, f"{name}, meta", layers, of.arguments, meta_saliency=meta))
    return plans


def meta_results(setting: Setting) -> Results:
    """Returns the class sensitivity of all methods with and without meta-saliency at the layers but the first."""
    names = _QUICK if setting.is_quick else tuple(R20)
    return setting.evaluate(with_and_without(setting, names, setting.layers[1:]), [SENSITIVITY], "stages")


def fig7(setting: Setting) -> Outcome:
    """Class sensitivity with and without meta-saliency: Spearman of the maps of best and worst class."""
    results, layers = meta_results(setting), setting.layers[1:]
    names = [name for name in methods_of(results) if not name.endswith(", meta")]
    rows, findings = [], []
    for name in names:
        for layer in layers:
            plain, meta = (correlations(results, of, layer) for of in (name, f"{name}, meta"))
            rows.append([name, layer, *(mean_sd(list(v.values())) for v in (plain, meta))])
            statement = f"meta-saliency makes {name} more sensitive to the class ({layer})"
            findings.append(smaller(statement, meta, plain))
    return Outcome([markdown(["method", "layer", "plain", f"meta, lr {STEP:g}"], rows)], findings)


def fig8(setting: Setting) -> Outcome:
    """Blocks initialised anew from the output to the input, one after the other: similarity to the original map."""
    names = ("NormGrad", "selective", "linear approx.", "gradient", "GradCAM", "guided", "EB")
    layer = setting.layers[len(setting.layers) // 2 - 1]
    methods = [MethodPlan(R20[name].method, name, (layer,)) for name in names]
    results = setting.evaluate(methods, randomization_measures(setting, "abs_spearman", ("reset",)), "stages")
    pairs = [("linear approx.", "guided"), ("NormGrad", "guided"), ("selective", "guided")]
    return randomization_outcome(setting, results, "r20-fig8", pairs, "reset")


def grid(setting: Setting) -> Outcome:
    """The whole grid of extracts and aggregates: pointing game and class sensitivity, at two layers."""
    extracts = ("bias", "scaling", "conv1x1", "conv3x3", "depthwise3x3")
    aggregates = ("norm", "filter_norm", "sum", "max", "abs_sum")
    layers = (setting.layers[len(setting.layers) // 2], setting.layers[-1])
    methods = [MethodPlan(f"{e}:{a}", layers=layers) for e in extracts for a in aggregates]
    measures = [*pointing(setting)[:1], SENSITIVITY] if setting.has_objects else [SENSITIVITY]
    results = setting.evaluate(methods, measures, "maps")
    tables, findings = [], []
    for layer in layers:
        rows = []
        for e in extracts:
            cells = []
            for a in aggregates:
                rho = defined_mean(correlations(results, f"{e}:{a}", layer))
                hits = f"{class_mean(hits_of(results, f'{e}:{a}', layer)):.1f} / " if setting.has_objects else ""
                cells.append(f"{hits}{rho:.2f}")
            rows.append([e, *cells])
        what = "pointing, % / Spearman" if setting.has_objects else "Spearman"
        tables.append(markdown([f"{layer}: {what}", *aggregates], rows))
    layer = layers[0]
    signed, norms = (correlations(results, f"scaling:{how}", layer) for how in ("sum", "norm"))
    findings.append(
        smaller(f"signed sums are more sensitive to the class than norms (scaling, {layer})", signed, norms)
    )
    if setting.has_objects:
        c, d = hits_of(results, "conv3x3:norm", layer), hits_of(results, "conv1x1:norm", layer)
        findings.append(
            more_hits(
                f"a 3 x 3 window points as well as 1 x 1 (norm, {layer}; at most 1.5 points behind)", c, d, margin=1.5
            )
        )
    return Outcome(tables, findings)
