"""Rebuffi, Fong, Ji, Vedaldi: There and Back Again (CVPR 2020)."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.stats import norm

from captum_extract_aggregate.attr.extract_aggregate.agreement import virtual_identity_agreement
from captum_extract_aggregate.evaluation import Results
from captum_extract_aggregate.reproduction.charts import bars, curves
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Key,
    Outcome,
    class_mean,
    markdown,
    mean_at_least,
    mean_sd,
    more_hits,
    standard_error,
    tested,
)
from captum_extract_aggregate.reproduction.plans import MODES, SCHEMES
from captum_extract_aggregate.reproduction.r20_results import hits_of, methods_of, pointing_results
from captum_extract_aggregate.reproduction.setting import Setting

# VOC07: ResNet-50 and VGG-16, best single layer / best weighted combination; of all pairs, of difficult ones.
TABLE3 = {
    "cEB": (("90.7/88.6", "82.1/78.2"), ("82.2/82.2", "67.0/65.2")),
    "EB": (("84.5/83.1", "77.5/75.7"), ("71.5/71.3", "57.8/56.1")),
    "GradCAM": (("90.3/90.5", "86.6/80.6"), ("82.3/82.6", "74.0/67.8")),
    "gradient": (("83.9/83.3", "86.6/82.7"), ("70.3/69.4", "66.4/67.4")),
    "gradient-sum": (("80.0/77.4", "76.8/77.2"), ("62.9/59.5", "57.9/59.4")),
    "guided": (("82.3/81.0", "75.8/74.4"), ("67.9/63.4", "53.0/51.6")),
    "linear approx.": (("90.2/91.2", "86.4/86.9"), ("81.9/83.8", "74.5/77.4")),
    "NormGrad": (("84.6/83.5", "81.9/81.8"), ("72.2/70.2", "64.8/64.6")),
    "selective": (("87.4/88.7", "86.0/86.8"), ("77.0/79.1", "72.6/74.5")),
}
CENTRE = {"all": "69.6", "difficult": "42.4"}
TABLE5 = {  # ResNet-50, all and difficult; VGG-16, all and difficult
    "cEB": ("layer3", "layer4", "feat.29", "feat.29"),
    "EB": ("layer4", "layer4", "feat.29", "feat.29"),
    "GradCAM": ("layer4", "layer4", "feat.29", "feat.29"),
    "gradient": ("layer2", "layer2", "feat.29", "feat.22"),
    "gradient-sum": ("layer2", "layer2", "feat.8", "feat.8"),
    "guided": ("layer3", "layer3", "input", "input"),
    "linear approx.": ("layer4", "layer4", "feat.29", "feat.29"),
    "NormGrad": ("layer3", "layer3", "feat.22", "feat.22"),
    "selective": ("layer4", "layer4", "feat.29", "feat.29"),
}
TABLE6 = {  # gains in points: ResNet-50, all and difficult; VGG-16, all and difficult
    ("linear approx.", "sum"): {
        "accuracy": "0.57 1.47 0.22 2.09",
        "feature spread": "0.81 1.66 -3.01 -7.18",
        "linear": "0.68 0.74 0.36 2.22",
        "uniform": "0.58 1.29 -0.61 -0.20",
    },
    ("linear approx.", "product"): {
        "accuracy": "0.87 1.84 0.42 2.91",
        "feature spread": "1.01 1.78 -2.92 -6.80",
        "linear": "0.52 0.72 0.49 2.87",
        "uniform": "0.32 0.83 -0.25 0.52",
    },
    ("selective", "sum"): {
        "accuracy": "1.08 1.37 0.48 0.85",
        "feature spread": "0.94 1.40 -3.66 -6.43",
        "linear": "0.94 1.67 0.62 0.85",
        "uniform": "0.25 0.54 -0.93 -2.55",
    },
    ("selective", "product"): {
        "accuracy": "1.26 1.65 0.83 1.88",
        "feature spread": "1.12 2.09 -3.13 -6.18",
        "linear": "0.63 0.95 0.72 0.62",
        "uniform": "0.89 1.79 -0.27 -1.76",
    },
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
    """Pointing game: each method's best single layer and best combination of layers, of all and of difficult pairs."""
    results, layers = pointing_results(setting), list(setting.layers)
    methods = methods_of(results)
    tables = [_table3(results, layers, methods, which, i) for i, which in enumerate(("all", "difficult"))]
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
    return Outcome(tables, findings)


def _table3(results: Results, layers: list[str], methods: list[str], which: str, column: int) -> str:
    rows = []
    for method in methods:
        single, joint = (_best(results, method, columns, which) for columns in (layers, _combinations()))
        one, all_ = (hits_of(results, method, c, which) for c in (single, joint))
        here = [f"{class_mean(one):.1f} ± {standard_error(one):.1f} ({single})", f"{class_mean(all_):.1f} ({joint})"]
        rows.append([method, *here, *TABLE3[method][column]])
    centre = class_mean(hits_of(results, "centre", "image", which))
    rows.append(["centre", f"{centre:.1f}", "", CENTRE[which], CENTRE[which]])
    return markdown([f"{which} pairs", "best layer", "best combination", "paper, ResNet-50", "paper, VGG-16"], rows)


def _if_there(best: dict[str, dict[Key, float]], statement: str, first: str, second: str) -> list[Finding]:
    if first not in best or second not in best:
        return [Finding(statement, None, effect="no rule for some of this network's operations")]
    return [more_hits(statement, best[first], best[second])]


def table5(setting: Setting) -> Outcome:
    """The best individual layer of every method, of all and of difficult pairs."""
    results, layers = pointing_results(setting), list(setting.layers)
    rows = [[m, *(_best(results, m, layers, w) for w in ("all", "difficult")), *TABLE5[m]] for m in methods_of(results)]
    header = ["method", "all", "difficult", "ResNet-50, all", "difficult", "VGG-16, all", "difficult"]
    findings = []
    for method in methods_of(results):
        best = _best(results, method, layers[1:])
        statement = f"{method} points better at {best} than at the layer nearest to the input"
        first, other = (hits_of(results, method, layer) for layer in (layers[0], best))
        findings.append(more_hits(statement, other, first))
    return Outcome([markdown(header, rows)], findings)


def table6(setting: Setting) -> Outcome:
    """Gains of every weighting scheme, by sum and by product, over the best individual layer, in points."""
    results, layers = pointing_results(setting), list(setting.layers)
    rows, findings = [], []
    for (method, mode), published in TABLE6.items():
        for scheme, theirs in published.items():
            gains = []
            for which in ("all", "difficult"):
                single = class_mean(hits_of(results, method, _best(results, method, layers, which), which))
                gains.append(f"{class_mean(hits_of(results, method, f'{scheme}, {mode}', which)) - single:+.2f}")
            rows.append([method, mode, scheme, *gains, *theirs.split()])
    header = [
        "method",
        "mode",
        "weights",
        "all",
        "difficult",
        "ResNet-50, all",
        "difficult",
        "VGG-16, all",
        "difficult",
    ]
    for method in ("linear approx.", "selective"):
        for which in ("all", "difficult"):
            best = hits_of(results, method, _best(results, method, layers, which), which)
            joint = hits_of(results, method, "accuracy, product", which)
            statement = f"{which} pairs: {method} gains by the product with accuracy weights over its best layer"
            findings.append(more_hits(statement, joint, best))
    return Outcome([markdown(header, rows)], findings)


_HELD_OUT = 0.3  # of the images, on which a probe's accuracy is measured


def rises(statement: str, before: float, after: float, n: int) -> Finding:
    """Is a share among n images higher than another? By the normal approximation, as of independent images."""
    error = math.sqrt((before * (1 - before) + after * (1 - after)) / max(1, n))
    effect = f"{after:.2f} against {before:.2f}"
    p = 2 * float(norm.sf(abs(after - before) / error)) if error else math.nan if after == before else 0.0
    return tested(statement, after > before, n, effect, 1.0 if math.isnan(p) else p)


def fig9(setting: Setting) -> Outcome:
    """The weights of the weighting schemes at every layer."""
    layers, count = list(setting.layers), len(setting.layers)
    found = {"feature spread": setting.spread_weights, "accuracy": setting.probe_weights}
    weights = {name: list(of.values()) for name, of in found.items()}
    weights["linear"] = [2 * (i + 1) / (count * (count + 1)) for i in range(count)]
    weights["uniform"] = [1 / count] * count
    picture = setting.folder / f"r20-fig9-{setting.name}.png"
    curves(picture, layers, weights, {}, f"{setting.name}: weights of the layers", {})
    rows = [[name, *(f"{w:.3f}" for w in of), WEIGHTS.get(name, "")] for name, of in weights.items()]
    accuracies = [(name, setting.probe_weights.raw[name]) for name in layers]
    tried = round(setting.probe_weights.images * _HELD_OUT)
    findings = [
        rises(f"the accuracy of a linear probe rises from {a[0]} to {b[0]}", a[1], b[1], tried)
        for a, b in itertools.pairwise(accuracies)
    ]
    return Outcome([markdown(["weights", *layers, "paper"], rows)], findings, [picture])


_IDENTITY = "NormGrad hardly depends on the virtual identity: its maps agree to 94 % or more"


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
    table = markdown(["convolution", f"Spearman, % (paper: {TABLE4})"], rows)
    findings = [mean_at_least(f"{_IDENTITY} ({name})", row, 94) for name, row in zip(chosen, values.tolist())]
    return Outcome([table], findings)


def fig3(setting: Setting) -> Outcome:
    """Pointing game at every layer."""
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


def combinations(setting: Setting) -> Outcome:
    """Combining layers, against the layers one by one: how well the combined maps of every method point."""
    results, layers = pointing_results(setting), list(setting.layers)
    columns = [*layers, *_combinations()]
    tables = []
    for which in ("all", "difficult"):
        rows = [
            [m, *(f"{class_mean(hits_of(results, m, c, which)):.1f}" for c in columns)] for m in methods_of(results)
        ]
        centre = f"{class_mean(hits_of(results, 'centre', 'image', which)):.1f}"
        tables.append(markdown([f"{which} pairs", *columns], [*rows, ["centre", centre, *[""] * (len(columns) - 1)]]))
    shown = ["NormGrad", "selective", "linear approx.", "GradCAM"]
    means = {m: [class_mean(hits_of(results, m, c)) for c in columns] for m in shown}
    picture = setting.folder / f"r20-combinations-{setting.name}.png"
    bars(picture, columns, means, f"{setting.name}: pointing game, %")
    findings = []
    for method in shown[:3]:
        by_layer = [hits_of(results, method, layer) for layer in layers]
        joint = hits_of(results, method, "linear, product")
        mean = {key: float(np.mean([hits[key] for hits in by_layer])) for key in joint}
        statement = f"{method}: layers combined (linear weights, product) point better than the layers do on average"
        findings.append(more_hits(statement, joint, mean))
    return Outcome(tables, findings, [picture])
