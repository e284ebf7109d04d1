"""Grabska-Barwinska: Measuring and improving the quality of visual explanations (2020), section 5, appendices E, F."""

from __future__ import annotations

from pathlib import Path

from captum_extract_aggregate.evaluation import MethodPlan, Results
from captum_extract_aggregate.reproduction.charts import boxes, curves
from captum_extract_aggregate.reproduction.findings import Finding, Outcome, markdown, mean_sd, smaller
from captum_extract_aggregate.reproduction.g20_results import (
    AND_INPUT,
    BY_CHANNEL,
    FULLGRAD,
    GRADIENT,
    SHOWN,
    STAGES,
    above,
    aggregates_of,
    all_layers,
    decompositions,
    from_on,
    layers_table,
    mean,
    over_layers,
    places_of,
    removal_measure,
    top_two,
    values,
)
from captum_extract_aggregate.reproduction.setting import Setting, voc_like

_ALL = "all layers"  # what results call the layer of a map that joins several


def _boxes(setting: Setting, results: Results, detail: str, name: str, methods: tuple[str, ...]) -> Path:
    groups = {
        f"{method} {layer}": [v for v in values(results, method, layer, detail).values() if v == v]
        for method, layer in places_of(results)
        if method in methods
    }
    picture = setting.folder / f"{name}-{setting.name}.png"
    boxes(picture, groups, f"{setting.name}: {SHOWN[detail]}")
    return picture


def _activity_above_bias(setting: Setting, results: Results, detail: str) -> list[Finding]:
    activities, biases = over_layers(setting, results, detail)
    findings = [above(f"{SHOWN[detail]}: activities above biases, mean over the layers", activities, biases)]
    for cut in setting.shown_cuts:
        if cut.bias:
            a, b = values(results, "activity", cut.layer, detail), values(results, "bias", cut.bias, detail)
            findings.append(above(f"{SHOWN[detail]}: activities above biases ({cut.layer})", a, b))
    return findings


def fig5(setting: Setting) -> Outcome:
    """Activities against biases at every layer, and the input's attribution against its gradient: δe₋."""
    results = decompositions(setting)
    shown = ("activity", "bias", "gradient")
    findings = _activity_above_bias(setting, results, "delta_minus")
    statement = "δe₋: the input's attribution below its plain gradient"
    a, b = (values(results, method, "input", "delta_minus") for method in ("activity", "gradient"))
    findings.append(smaller(statement, a, b, magnitude=False))
    table = layers_table(results, ("delta_minus", "e_minus"), shown)
    return Outcome([table], findings, [_boxes(setting, results, "delta_minus", "g20-fig5", shown)])


def fig6(setting: Setting) -> Outcome:
    """Aggregated layers, from each to the top: δe₋ and e₋."""
    results = decompositions(setting)
    everything, top = all_layers(setting), top_two(setting)
    three = from_on(setting.cuts[-3:][0].layer)
    last = setting.shown_cuts[-1].layer

    def of(name: str, detail: str) -> dict[tuple[int, int], float]:
        return values(results, name, _ALL, detail)

    findings = [
        above("δe₋: all layers without the input above FullGrad (as VGG-16 in the paper)",
              of(everything, "delta_minus"), of(FULLGRAD, "delta_minus")),
        above("δe₋: the top three layers above FullGrad (as VGG-16 in the paper)",
              of(three, "delta_minus"), of(FULLGRAD, "delta_minus")),
        above("δe₋: all layers without the input above all with it (as VGG-16 in the paper)",
              of(everything, "delta_minus"), of(AND_INPUT, "delta_minus")),
        above("e₋: all layers without the input above all with it (as VGG-16 in the paper)",
              of(everything, "e_minus"), of(AND_INPUT, "e_minus")),
        above("δe₋: every layer above the ends of the stages alone",
              of(everything, "delta_minus"), of(STAGES, "delta_minus")),
    ]  # fmt: skip
    if top:
        findings += [
            above("δe₋: all layers above the top two (as VGG-16 in the paper)",
                  of(everything, "delta_minus"), of(top, "delta_minus")),
            above("δe₋: the top two above all layers (as ResNet-50 in the paper)",
                  of(top, "delta_minus"), of(everything, "delta_minus")),
            above("e₋: the top two above the last layer alone (as ResNet-50 in the paper)",
                  of(top, "e_minus"), values(results, "activity", last, "e_minus")),
        ]  # fmt: skip
    else:
        statement = "δe₋: the top two above all layers (as ResNet-50 in the paper)"
        findings.append(Finding(statement, None, effect="no two last layers of one resolution"))
    shown = ("activity", *aggregates_of(results))
    pictures = [_boxes(setting, results, d, f"g20-fig6-{d}", shown) for d in ("delta_minus", "e_minus")]
    return Outcome([layers_table(results, ("delta_minus", "e_minus"), shown)], findings, pictures)


def fig_s12(setting: Setting) -> Outcome:
    """The same by copies of the nearest value instead of bilinear interpolation: activities, biases, gradient."""
    cuts = setting.shown_cuts[1:]
    layers, biases = tuple(c.layer for c in cuts), tuple(dict.fromkeys(c.bias for c in cuts if c.bias))
    methods = [GRADIENT]
    for how in ("bilinear", "nearest"):
        methods.append(MethodPlan("activity", f"activity, {how}", layers, channels="abs_sum", interpolation=how))  # type: ignore[arg-type]
        methods.append(MethodPlan("bias", f"bias, {how}", biases, channels="abs_sum", interpolation=how))  # type: ignore[arg-type]
    results = setting.evaluate(methods, [removal_measure(setting)], "removal", voc_like(setting))
    gradient = values(results, "gradient", "input", "delta_minus")
    findings = []
    for cut in cuts:
        smooth, rough = (
            values(results, f"activity, {how}", cut.layer, "delta_minus") for how in ("bilinear", "nearest")
        )
        findings.append(above(f"δe₋: bilinear above nearest ({cut.layer})", smooth, rough))
        if cut.bias:
            bias = values(results, "bias, nearest", cut.bias, "delta_minus")
            findings.append(above(f"δe₋: with nearest, too, activities above biases ({cut.layer})", rough, bias))
        findings.append(above(f"δe₋: with nearest the gradient above activities ({cut.layer})", gradient, rough))
    return Outcome([layers_table(results, ("delta_minus", "delta_plus"))], findings)


def fig_s13(setting: Setting) -> Outcome:
    """Activities against biases at every layer: δeΔ."""
    results = decompositions(setting)
    shown = ("activity", "bias", "gradient")
    picture = _boxes(setting, results, "delta", "g20-fig-s13", shown)
    findings = _activity_above_bias(setting, results, "delta")
    return Outcome([layers_table(results, ("delta",), shown)], findings, [picture])


def _three(setting: Setting, name: str, details: tuple[str, str, str]) -> tuple[Results, Outcome]:
    """Returns what S14 to S16 show: three details of single and of aggregated layers."""
    results = decompositions(setting)
    shown = ("activity", *aggregates_of(results))
    picture = setting.folder / f"{name}-{setting.name}.png"
    places = [place for place in places_of(results) if place[0] in shown]
    lines = {SHOWN[d]: [mean(values(results, *place, d)) for place in places] for d in details}
    ticks = [layer if method == "activity" else method for method, layer in places]
    curves(picture, ticks, lines, {}, f"{setting.name}: single layers, then aggregates", {})
    return results, Outcome([layers_table(results, details, shown)], [], [picture])


def fig_s14(setting: Setting) -> Outcome:
    """Single and aggregated layers: δe₋, δe₊ and δeΔ."""
    results, outcome = _three(setting, "g20-fig-s14", ("delta_minus", "delta_plus", "delta"))
    ours = (all_layers(setting), _ALL)
    minus, plus, both = (values(results, *ours, d) for d in ("delta_minus", "delta_plus", "delta"))
    zero = dict.fromkeys(minus, 0.0)
    outcome.findings = [
        above("δe₋ of all layers is above 0: more can go than by other images' maps", minus, zero),
        smaller("δe₊ of all layers is below 0: less must go than by other images' maps", plus, zero, magnitude=False),
        above("δe₋ of all layers is further from 0 than δe₊", minus, {k: -v for k, v in plus.items()}),
        above("δeΔ of all layers above that of FullGrad", both, values(results, FULLGRAD, _ALL, "delta")),
    ]
    return outcome


def fig_s15(setting: Setting) -> Outcome:
    """Single and aggregated layers: e₋, e₊ and eΔ, without the comparison to other images' maps."""
    results, outcome = _three(setting, "g20-fig-s15", ("e_minus", "e_plus", "e_delta"))
    minus, plus = (values(results, all_layers(setting), _ALL, d) for d in ("e_minus", "e_plus"))
    outcome.findings = [above("e₋ of all layers is above their e₊: the least salient pixels matter less", minus, plus)]
    return outcome


def fig_s16(setting: Setting) -> Outcome:
    """Single and aggregated layers: what other images' maps reach, e₋, e₊ and eΔ of noise."""
    results, outcome = _three(setting, "g20-fig-s16", ("xi_minus", "xi_plus", "xi_delta"))
    for detail in ("xi_minus", "xi_plus"):
        single = [values(results, "activity", cut.layer, detail) for cut in setting.shown_cuts]
        average = {key: sum(v[key] for v in single) / len(single) for key in single[0]}
        statement = f"{SHOWN[detail]}: the aggregate of all layers disturbs less than its layers do on average"
        outcome.findings.append(above(statement, values(results, all_layers(setting), _ALL, detail), average))
    noise = values(results, all_layers(setting), _ALL, "xi_delta")
    statement = "eΔ of noise is above 0 (all layers), so that eΔ alone is no valid measure"
    outcome.findings.append(above(statement, noise, dict.fromkeys(noise, 0.0)))
    return outcome


def decision_flips(setting: Setting) -> Outcome:
    """The share of the signal that is gone when the decision flips, least and most salient pixels first."""
    results = decompositions(setting)
    middle = setting.shown_cuts[len(setting.shown_cuts) // 2].layer
    rows, findings = [], []
    for method, at in (("activity", middle), ("GradCAM", setting.layers[-1]), ("gradient", "input")):
        minus, plus = (values(results, method, at, d) for d in ("e_minus", "e_plus"))
        flips = [mean(values(results, method, at, f"flipped_{s}")) for s in ("minus", "plus")]
        kept = [f"{100 * (1 - share):.0f} %" for share in flips]
        rows.append([method, at, mean_sd(list(minus.values())), mean_sd(list(plus.values())), *kept])
        first = (
            f"{method} ({at}): removing the least salient pixels first keeps the decision longer than the most salient"
        )
        findings.append(above(first, minus, plus))
    header = ["attribution", "layer", "e₋", "e₊", "never flips, least first", "never flips, most first"]
    return Outcome([markdown(header, rows)], findings)


def bias_delta_plus(setting: Setting) -> Outcome:
    """Activities against biases at every layer: δe₊ (most salient first; lower is better)."""
    results = decompositions(setting)
    shown = ("activity", "bias")
    findings = []
    for cut in setting.shown_cuts:
        if cut.bias:
            a, b = values(results, "activity", cut.layer, "delta_plus"), values(results, "bias", cut.bias, "delta_plus")
            findings.append(smaller(f"δe₊: activities below biases ({cut.layer})", a, b, magnitude=False))
    picture = _boxes(setting, results, "delta_plus", "g20-bias-delta-plus", shown)
    return Outcome([layers_table(results, ("delta_plus", "e_plus"), shown)], findings, [picture])


def others(setting: Setting) -> Outcome:
    """Aggregated activities against other methods: δe₋, δe₊ and δeΔ."""
    results = decompositions(setting)
    compared = [("GradCAM", setting.layers[-1]), (FULLGRAD, _ALL), (BY_CHANNEL, _ALL), ("gradient", "input")]
    ours = values(results, all_layers(setting), _ALL, "delta_minus")
    findings = [
        above(f"δe₋: activities of all layers above {method}", ours, values(results, method, layer, "delta_minus"))
        for method, layer in compared
    ]
    shown = (all_layers(setting), *(method for method, _ in compared))
    return Outcome([layers_table(results, ("delta_minus", "delta_plus", "delta"), shown)], findings)
