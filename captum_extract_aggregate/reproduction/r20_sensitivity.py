"""Rebuffi, Fong, Ji, Vedaldi (CVPR 2020): class sensitivity, meta-saliency, and sensitivity to the parameters."""

from __future__ import annotations

from captum_extract_aggregate.evaluation import MeasurePlan, MetaPlan, MethodPlan, Results
from captum_extract_aggregate.reproduction.charts import curves, picture_grid
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
from captum_extract_aggregate.reproduction.randomization import randomization_outcome
from captum_extract_aggregate.reproduction.setting import Setting
from captum_extract_aggregate.reproduction.training import over_training

RATES = (1e-4, 1e-3, 2.5e-3, 1e-2)


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


def _meta_methods(
    setting: Setting, names: tuple[str, ...], rates: tuple[float, ...], layers: tuple[str, ...]
) -> list[MethodPlan]:
    plans = []
    for name in names:
        for lr in (0.0, *rates):
            meta = MetaPlan(lr, loss_func=setting.loss) if lr else None
            plans.append(MethodPlan(R20[name].method, f"{name}, lr {lr:g}" if lr else name, layers, meta_saliency=meta))
    return plans


def fig7(setting: Setting) -> Outcome:
    """Meta-saliency: the same correlation after one step of training on the image, by learning rate."""
    names = ("NormGrad", "selective", "linear approx.", "gradient", "GradCAM")
    layers = setting.layers[1:]
    results = setting.evaluate(_meta_methods(setting, names, RATES[1:3], layers), [SENSITIVITY], "stages")
    rows, findings = [], []
    for name in names:
        for layer in layers:
            plain = correlations(results, name, layer)
            stepped = [correlations(results, f"{name}, lr {lr:g}", layer) for lr in RATES[1:3]]
            rows.append([name, layer, *(mean_sd(list(v.values())) for v in (plain, *stepped))])
        middle = layers[len(layers) // 2]
        statement = f"meta-saliency (lr 0.0025) makes {name} more sensitive to the class ({middle})"
        stepped_middle = correlations(results, f"{name}, lr 0.0025", middle)
        findings.append(smaller(statement, stepped_middle, correlations(results, name, middle)))
    header = ["method", "layer", "plain", *(f"lr {lr:g}" for lr in RATES[1:3])]
    return Outcome([markdown(header, rows)], findings)


def fig8(setting: Setting) -> Outcome:
    """Blocks randomised from the output to the input, one after the other (N(0, 0.01)): similarity to the original."""
    names = ("NormGrad", "selective", "linear approx.", "gradient", "GradCAM", "guided", "EB")
    layer = setting.layers[len(setting.layers) // 2 - 1]
    methods = [MethodPlan(R20[name].method, name, (layer,)) for name in names]
    measure = MeasurePlan("parameter_randomization", arguments={"layers": setting.stages, "similarity": "abs_spearman"})
    results = setting.evaluate(methods, [measure], "stages")
    return randomization_outcome(
        setting,
        results,
        layer,
        "r20-fig8",
        [("linear approx.", "guided"), ("NormGrad", "guided"), ("selective", "guided")],
    )


def fig10(setting: Setting) -> Outcome:
    """Meta against plain NormGrad while a scene network is trained, on images it is trained on and on held-out ones."""
    return over_training(setting)


def fig12(setting: Setting) -> Outcome:
    """Returns the whole grid of extracts and aggregates: pointing game and class sensitivity, at two layers."""
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


def fig15(setting: Setting) -> Outcome:
    """Pictures of maps with and without meta-saliency, for the best and the worst class."""
    methods = _meta_methods(setting, ("NormGrad", "selective", "linear approx."), (RATES[2],), setting.layers)
    return Outcome([], [], [picture_grid(setting, methods, "r20-fig15", worst=True)])
