"""Grabska-Barwinska: Measuring and improving the quality of visual explanations (2020)."""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from captum_extract_aggregate.attr.biases import bias_layers
from captum_extract_aggregate.evaluation import MeasurePlan, MethodPlan, Results
from captum_extract_aggregate.reproduction.charts import boxes, curves
from captum_extract_aggregate.reproduction.findings import Finding, Key, Outcome, markdown, mean_sd, smaller, values_of
from captum_extract_aggregate.reproduction.setting import Setting, voc_like

DETAILS = ("delta_minus", "delta_plus", "delta", "e_minus", "e_plus")
_SHOWN = {"delta_minus": "δe₋", "delta_plus": "δe₊", "delta": "δeΔ", "e_minus": "e₋", "e_plus": "e₊"}


def _measure(setting: Setting) -> MeasurePlan:
    return MeasurePlan("removal_contrast", arguments={"step": setting.step})


def bias_layers_of(setting: Setting) -> tuple[str, ...]:
    """Returns for each of the setting's layers the last layer up to its end that adds a bias at positions (on no
    shortcut).

    Activities and biases are both taken at its output: where a ReLU follows, the activity before it and the activity
    after it are the same map, and one layer's activity stands beside the same layer's bias.
    """
    spatial = [name for name, m in bias_layers(setting.network).items() if not isinstance(m, nn.Linear)]
    order = [name for name, _ in setting.network.named_modules()]
    found = []
    for layer in setting.layers:
        before = [name for name in spatial if name.startswith(f"{layer}.") or order.index(name) <= order.index(layer)]
        direct = [name for name in before if "downsample" not in name and "shortcut" not in name]
        found += (direct or before)[-1:]
    return tuple(dict.fromkeys(found))


def decompositions(setting: Setting) -> Results:
    """Activities and biases at every layer, and activities aggregated from every layer on."""
    count, at = len(setting.layers), bias_layers_of(setting)
    methods = [MethodPlan("activity", "activity", at), MethodPlan("bias", "bias", at)]
    methods += [
        MethodPlan("aggregated-activity", f"activity from {setting.layers[k]} on", arguments={"l0": k})
        for k in range(count - 1)
    ]
    methods.append(MethodPlan("aggregated-activity", "activity, all and the input", arguments={"include_input": True}))
    methods += [MethodPlan("gradcam", "GradCAM", (setting.layers[-1],)), MethodPlan("fullgrad", "FullGrad")]
    methods.append(MethodPlan("gradient", "gradient", ("input",), channels="max_abs"))
    return setting.evaluate(methods, [_measure(setting)], "removal", voc_like(setting))


def _values(results: Results, method: str, layer: str, detail: str) -> dict[Key, float]:
    return values_of(results, "removal_contrast", method, layer, detail)


def _mean(values: dict[Key, float]) -> float:
    return float(np.nanmean(list(values.values()))) if values else math.nan


def _layers_table(results: Results, details: tuple[str, ...]) -> str:
    rows = []
    for row in results.maps():
        cells = [mean_sd(list(_values(results, row.method, row.layer, d).values())) for d in details]
        rows.append([row.method, row.layer, *cells])
    return markdown(["attribution", "layer", *(_SHOWN[d] for d in details)], rows)


def _boxes(setting: Setting, results: Results, detail: str, name: str, methods: tuple[str, ...]) -> Outcome:
    chosen = [row for row in results.maps() if row.method in methods]
    groups = {
        f"{r.method} {r.layer}": [v for v in _values(results, r.method, r.layer, detail).values() if v == v]
        for r in chosen
    }
    picture = setting.folder / f"{name}-{setting.name}.png"
    boxes(picture, groups, f"{setting.name}: {_SHOWN[detail]}")
    return Outcome(pictures=[picture])


def _activity_above_bias(setting: Setting, results: Results, detail: str) -> list[Finding]:
    activities, biases = over_layers(setting, results, detail)
    statement = f"{_SHOWN[detail]}: activities above biases, mean over the layers"
    findings = [smaller(statement, activities, biases, magnitude=False, larger=True)]
    for layer in bias_layers_of(setting):
        a, b = (_values(results, method, layer, detail) for method in ("activity", "bias"))
        findings.append(
            smaller(f"{_SHOWN[detail]}: activities above biases ({layer})", a, b, magnitude=False, larger=True)
        )
    return findings


def over_layers(setting: Setting, results: Results, detail: str) -> tuple[dict[Key, float], dict[Key, float]]:
    """Returns each image's mean over the layers, of its activity and of its bias attributions."""
    found = []
    for method in ("activity", "bias"):
        by_layer = [_values(results, method, layer, detail) for layer in bias_layers_of(setting)]
        found.append({key: float(np.mean([v[key] for v in by_layer])) for key in by_layer[0]})
    return found[0], found[1]


def fig2(setting: Setting) -> Outcome:
    """Returns what is measured: the share of the signal that is gone when the decision flips, least and most salient
    first."""
    results = decompositions(setting)
    layers = bias_layers_of(setting)
    layer = layers[len(layers) // 2]
    rows, findings = [], []
    for method, at in (("activity", layer), ("GradCAM", setting.layers[-1]), ("gradient", "input")):
        minus, plus = (_values(results, method, at, d) for d in ("e_minus", "e_plus"))
        never = [_mean(_values(results, method, at, f"flipped_{s}")) for s in ("minus", "plus")]
        kept = [f"{100 * (1 - share):.0f} %" for share in never]
        rows.append([method, at, mean_sd(list(minus.values())), mean_sd(list(plus.values())), *kept])
        statement = (
            f"{method} ({at}): removing the least salient pixels first keeps the decision longer than the most salient"
        )
        findings.append(smaller(statement, minus, plus, magnitude=False, larger=True))
    header = ["attribution", "layer", "e₋", "e₊", "never flips, least first", "never flips, most first"]
    return Outcome([markdown(header, rows)], findings)


def fig5(setting: Setting) -> Outcome:
    """δe₋ of activity and of bias attributions at every layer."""
    results = decompositions(setting)
    outcome = _boxes(setting, results, "delta_minus", "g20-fig5", ("activity", "bias"))
    outcome.tables = [_layers_table(results, ("delta_minus", "e_minus"))]
    outcome.findings = _activity_above_bias(setting, results, "delta_minus")
    return outcome


def fig6(setting: Setting) -> Outcome:
    """δe₋ of aggregated activities, by the layers that are aggregated."""
    results = decompositions(setting)
    names = tuple(
        row.method for row in results.maps() if row.method.startswith("activity") and row.layer == "all layers"
    )
    outcome = _boxes(setting, results, "delta_minus", "g20-fig6", names)
    everything = f"activity from {setting.layers[0]} on"
    top_two = f"activity from {setting.layers[-2]} on"
    a, b = (_values(results, name, "all layers", "delta_minus") for name in (everything, top_two))
    outcome.findings = [
        smaller(
            "δe₋: all layers without the input above the top two (as VGG-16 in the paper)",
            a,
            b,
            magnitude=False,
            larger=True,
        ),
        smaller("δe₋: the top two above all layers (as ResNet-50 in the paper)", b, a, magnitude=False, larger=True),
        smaller(
            "δe₋: all layers without the input above all with it",
            a,
            _values(results, "activity, all and the input", "all layers", "delta_minus"),
            magnitude=False,
            larger=True,
        ),
    ]
    rows = [[name, mean_sd(list(_values(results, name, "all layers", "delta_minus").values()))] for name in names]
    outcome.tables = [markdown(["aggregated", "δe₋"], rows)]
    return outcome


def fig12(setting: Setting) -> Outcome:
    """Returns how maps are brought to the image: bilinear interpolation against copies of the nearest value."""
    layers = setting.layers[1:]
    methods = [MethodPlan("activity", how, layers, interpolation=how) for how in ("bilinear", "nearest")]
    results = setting.evaluate(methods, [_measure(setting)], "removal", voc_like(setting))
    findings = [
        smaller(
            f"δe₋: bilinear above nearest ({layer})",
            _values(results, "bilinear", layer, "delta_minus"),
            _values(results, "nearest", layer, "delta_minus"),
            magnitude=False,
            larger=True,
        )
        for layer in layers
    ]
    return Outcome([_layers_table(results, ("delta_minus", "delta_plus"))], findings)


def fig14(setting: Setting) -> Outcome:
    """δe₊ (most salient first; lower is better) of activities and biases at every layer."""
    results = decompositions(setting)
    outcome = _boxes(setting, results, "delta_plus", "g20-fig14", ("activity", "bias"))
    outcome.tables = [_layers_table(results, ("delta_plus", "e_plus"))]
    outcome.findings = [
        smaller(
            f"δe₊: activities below biases ({layer})",
            _values(results, "activity", layer, "delta_plus"),
            _values(results, "bias", layer, "delta_plus"),
            magnitude=False,
        )
        for layer in bias_layers_of(setting)
    ]
    return outcome


def fig15(setting: Setting) -> Outcome:
    """δeΔ of activities and biases at every layer."""
    results = decompositions(setting)
    outcome = _boxes(setting, results, "delta", "g20-fig15", ("activity", "bias"))
    outcome.tables = [_layers_table(results, ("delta",))]
    outcome.findings = _activity_above_bias(setting, results, "delta")
    return outcome


def fig16(setting: Setting) -> Outcome:
    """Aggregated activities against other methods: δe₋ and δe₊."""
    results = decompositions(setting)
    ours = f"activity from {setting.layers[0]} on"
    others = [("GradCAM", setting.layers[-1]), ("FullGrad", "all layers"), ("gradient", "input")]
    rows, findings, means = [], [], {}
    for method, layer in [(ours, "all layers"), *others]:
        found = [_values(results, method, layer, d) for d in ("delta_minus", "delta_plus", "delta")]
        rows.append([method, layer, *(mean_sd(list(v.values())) for v in found)])
        means[method] = [_mean(v) for v in found]
    for method, layer in others:
        a, b = (_values(results, m, at, "delta_minus") for m, at in ((ours, "all layers"), (method, layer)))
        findings.append(smaller(f"δe₋: activities of all layers above {method}", a, b, magnitude=False, larger=True))
    picture = setting.folder / f"g20-fig16-{setting.name}.png"
    curves(picture, ["δe₋", "δe₊", "δeΔ"], means, {}, setting.name, {"other images' maps": 0.0})
    return Outcome([markdown(["attribution", "layer", "δe₋", "δe₊", "δeΔ"], rows)], findings, [picture])
