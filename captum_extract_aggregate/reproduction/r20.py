"""Rebuffi, Fong, Ji, Vedaldi: There and Back Again (CVPR 2020)."""

from __future__ import annotations

import math

import numpy as np

from captum_extract_aggregate.attr.extract_aggregate.agreement import virtual_identity_agreement
from captum_extract_aggregate.evaluation import MethodPlan, Results
from captum_extract_aggregate.reproduction.charts import bars, curves, picture_grid
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Key,
    Outcome,
    class_mean,
    markdown,
    mean_sd,
    more_hits,
    standard_error,
)
from captum_extract_aggregate.reproduction.plans import MODES, SCHEMES
from captum_extract_aggregate.reproduction.r20_results import hits_of, methods_of, pointing_results
from captum_extract_aggregate.reproduction.setting import Setting

# VOC07, "all", ResNet-50 and VGG-16: best single layer / best weighted combination.
TABLE3 = {
    "cEB": ("90.7/88.6", "82.1/78.2"),
    "EB": ("84.5/83.1", "77.5/75.7"),
    "GradCAM": ("90.3/90.5", "86.6/80.6"),
    "gradient": ("83.9/83.3", "86.6/82.7"),
    "gradient-sum": ("80.0/77.4", "76.8/77.2"),
    "guided": ("82.3/81.0", "75.8/74.4"),
    "linear approx.": ("90.2/91.2", "86.4/86.9"),
    "NormGrad": ("84.6/83.5", "81.9/81.8"),
    "selective": ("87.4/88.7", "86.0/86.8"),
}
FIGURE3 = {  # VOC07, ResNet-50, layer1 ... layer4
    "linear approx.": "83.3 85.5 85.6 90.2",
    "selective": "82.3 86.3 86.9 87.4",
    "NormGrad": "81.9 84.0 84.6 78.8",
    "GradCAM": "54.5 52.9 66.3 90.4",
    "gradient": "78.6 83.9 82.8 18.0",
    "EB": "82.1 83.3 84.5 84.6",
    "cEB": "88.1 89.3 90.7 89.7",
}
WEIGHTS = {
    "accuracy": "ResNet-50 .078 .112 .196 .614; VGG-16 .033 .125 .212 .304 .326",
    "feature spread": "ResNet-50 .170 .195 .193 .442; VGG-16 .212 .323 .391 .067 .007",
}
TABLE4 = "ResNet-50 99.5 99.3 99.2 98.4; VGG-16 97.8 99.2 99.0 97.8 94.3"


def _best(results: Results, method: str, columns: list[str], which: str = "all") -> str:
    """Returns the column on which a method points best."""
    return max(columns, key=lambda c: np.nan_to_num(class_mean(hits_of(results, method, c, which)), nan=-1))


def _combinations() -> list[str]:
    return [f"{s}, {m}" for s in SCHEMES for m in MODES]


def table3(setting: Setting) -> Outcome:
    """Returns the pointing game: each method's best single layer and best combination of layers."""
    results, layers = pointing_results(setting), list(setting.layers)
    methods, rows = methods_of(results), []
    centre = class_mean(hits_of(results, "centre", "image"))
    for method in methods:
        single, joint = _best(results, method, layers), _best(results, method, _combinations())
        one, all_ = (hits_of(results, method, c) for c in (single, joint))
        error = standard_error(one)
        rows.append(
            [
                method,
                f"{class_mean(one):.1f} ± {error:.1f} ({single})",
                f"{class_mean(all_):.1f} ({joint})",
                *TABLE3[method],
            ]
        )
    rows.append(["centre", f"{centre:.1f}", "", "69.6", "69.6"])
    header = ["method", "best layer", "best combination", "paper, ResNet-50", "paper, VGG-16"]
    best = {m: hits_of(results, m, _best(results, m, layers)) for m in methods}
    together = {m: hits_of(results, m, _best(results, m, _combinations())) for m in methods}
    findings = [
        more_hits(
            "linear approximation points as well as GradCAM (at most 1.5 points behind)",
            best["linear approx."],
            best["GradCAM"],
            margin=1.5,
        ),
        more_hits("selective NormGrad points better than NormGrad", best["selective"], best["NormGrad"]),
        more_hits("linear approximation points better than the gradient", best["linear approx."], best["gradient"]),
        more_hits(
            "linear approximation gains from combining layers", together["linear approx."], best["linear approx."]
        ),
        more_hits("selective NormGrad gains from combining layers", together["selective"], best["selective"]),
        *_if_there(best, "contrastive excitation backprop points better than excitation backprop", "cEB", "EB"),
        more_hits(
            "linear approximation points better than the centre",
            best["linear approx."],
            hits_of(results, "centre", "image"),
        ),
    ]
    return Outcome([markdown(header, rows)], findings)


def _if_there(best: dict[str, dict[Key, float]], statement: str, first: str, second: str) -> list[Finding]:
    if first not in best or second not in best:
        return [Finding(statement, None, effect="no rule for some of this network's operations")]
    return [more_hits(statement, best[first], best[second])]


def table6(setting: Setting) -> Outcome:
    """Returns every scheme of weights, by product and by sum, for all and for the difficult pairs; and the weights."""
    results, layers = pointing_results(setting), list(setting.layers)
    tables, findings = [], []
    weights = {"feature spread": setting.spread_weights, "accuracy": setting.probe_weights}
    rows = [[name, " ".join(f"{w:.3f}" for w in weights[name].values()), WEIGHTS[name]] for name in weights]
    tables.append(markdown(["weights", f"here ({', '.join(layers)})", "paper"], rows))
    for which in ("all", "difficult"):
        rows = []
        for method in methods_of(results):
            columns = [_best(results, method, layers, which), *_combinations()]
            rows.append([method, *(f"{class_mean(hits_of(results, method, c, which)):.1f}" for c in columns)])
        rows.append(
            ["centre", f"{class_mean(hits_of(results, 'centre', 'image', which)):.1f}", *[""] * len(_combinations())]
        )
        tables.append(markdown([f"{which} pairs", "best layer", *_combinations()], rows))
    for method in ("linear approx.", "selective"):
        single = hits_of(results, method, _best(results, method, layers, "difficult"), "difficult")
        joint = hits_of(results, method, _best(results, method, _combinations(), "difficult"), "difficult")
        findings.append(more_hits(f"on difficult pairs, {method} gains from combining layers", joint, single))
    deepest = max(setting.probe_weights, key=lambda name: setting.probe_weights[name])
    effect = ", ".join(f"{w:.2f}" for w in setting.probe_weights.values())
    findings.append(
        Finding(
            "the accuracy weights are largest at the last layer",
            deepest == layers[-1],
            setting.probe_weights.images,
            effect,
        )
    )
    return Outcome(tables, findings)


_IDENTITY = "NormGrad hardly depends on the virtual identity: every layer agrees to 94 % or more"


def table4(setting: Setting) -> Outcome:
    """Spearman correlation between NormGrad with the virtual identity and with the convolution's own weights."""
    import torch
    from torch import nn

    convolutions = [
        name
        for name, m in setting.network.named_modules()
        if isinstance(m, nn.Conv2d) and m.stride in ((1, 1), 1) and m.groups == 1 and m.kernel_size != (1, 1)
    ]
    if not convolutions:
        return Outcome(findings=[Finding(_IDENTITY, None, effect="no convolution of stride 1 with a window")])
    chosen = (
        convolutions
        if len(convolutions) <= 5
        else [convolutions[round(i * (len(convolutions) - 1) / 4)] for i in range(5)]
    )
    found = []
    for sample in setting.samples(setting.sizes["stages"]):
        x = sample.x[None]
        with torch.no_grad():
            best = int(setting.network(x)[0].argmax())
        found.append(virtual_identity_agreement(setting.network, chosen, x, best))
    values = 100 * torch.cat(found, 1)
    rows = [[name, mean_sd(row)] for name, row in zip(chosen, values.tolist())]
    lowest = float(values.nanmean(1).min())
    table = markdown(["convolution", f"Spearman, % (paper: {TABLE4})"], rows)
    holds = None if math.isnan(lowest) else lowest >= 94
    return Outcome([table], [Finding(_IDENTITY, holds, len(found), f"lowest {lowest:.1f} %")])


def fig3(setting: Setting) -> Outcome:
    """Returns the pointing game at every layer."""
    results, layers = pointing_results(setting), list(setting.layers)
    methods = methods_of(results)
    means = {m: [class_mean(hits_of(results, m, layer)) for layer in layers] for m in methods}
    errors = {m: [standard_error(hits_of(results, m, layer)) for layer in layers] for m in methods}
    rows = [[m, *(f"{a:.1f} ± {e:.1f}" for a, e in zip(means[m], errors[m])), FIGURE3.get(m, "")] for m in methods]
    centre = class_mean(hits_of(results, "centre", "image"))
    table = markdown(["method", *layers, "paper, ResNet-50 layer1 ... 4"], rows)
    picture = setting.folder / f"r20-fig3-{setting.name}.png"
    curves(picture, layers, means, errors, f"{setting.name}: pointing game, %", {"centre": centre})
    before = layers[:-1]
    findings = [
        more_hits(
            f"GradCAM fails before the last stage ({layer}): linear approximation points better",
            hits_of(results, "linear approx.", layer),
            hits_of(results, "GradCAM", layer),
        )
        for layer in before
    ]
    for method in ("NormGrad", "gradient"):
        statement = f"{method} points worse at the last layer than at the one before it"
        before_last, last = (hits_of(results, method, layer) for layer in layers[-2:])
        findings.append(more_hits(statement, before_last, last))
    return Outcome([table], findings, [picture])


def fig5(setting: Setting) -> Outcome:
    """Combining layers, against the layers one by one: how well the combined maps point, and examples of them."""
    results, layers = pointing_results(setting), list(setting.layers)
    shown = ["NormGrad", "selective", "linear approx.", "GradCAM"]
    columns = [*layers, *_combinations()]
    means = {m: [class_mean(hits_of(results, m, c)) for c in columns] for m in shown}
    picture = setting.folder / f"r20-fig5-{setting.name}.png"
    bars(picture, columns, means, f"{setting.name}: pointing game, %")
    table = markdown(["method", *columns], [[m, *(f"{v:.1f}" for v in means[m])] for m in shown])
    findings = []
    for method in shown[:3]:
        by_layer = [hits_of(results, method, layer) for layer in layers]
        joint = hits_of(results, method, "linear, product")
        mean = {key: float(np.mean([hits[key] for hits in by_layer])) for key in joint}
        statement = f"{method}: layers combined (linear weights, product) point better than the layers do on average"
        findings.append(more_hits(statement, joint, mean))
    examples = picture_grid(
        setting,
        [MethodPlan("normgrad", "NormGrad"), MethodPlan("linear-approximation", "linear approx.")],
        "r20-fig5-maps",
    )
    return Outcome([table], findings, [picture, examples])
