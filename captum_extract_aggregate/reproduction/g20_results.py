"""What Grabska-Barwinska (2020) measures: pixels removed by activities, biases and their aggregates, at every cut."""

from __future__ import annotations

import math

import numpy as np

from captum_extract_aggregate.evaluation import MeasurePlan, MethodPlan, Results
from captum_extract_aggregate.reproduction.findings import Finding, Key, markdown, mean_sd, smaller, values_of
from captum_extract_aggregate.reproduction.setting import Setting, voc_like

SHOWN = {
    "delta_minus": "δe₋",
    "delta_plus": "δe₊",
    "delta": "δeΔ",
    "e_minus": "e₋",
    "e_plus": "e₊",
    "e_delta": "eΔ",
    "xi_minus": "e₋ of noise",
    "xi_plus": "e₊ of noise",
    "xi_delta": "eΔ of noise",
}
_NOISE = {"xi_minus": ("e_minus", "delta_minus"), "xi_plus": ("e_plus", "delta_plus"), "xi_delta": ("e_delta", "delta")}
GRADIENT = MethodPlan("gradient", "gradient", ("input",), {"aggregate": "abs_sum"})
AND_INPUT, STAGES = "all layers and the input", "ends of stages"
FULLGRAD, BY_CHANNEL = "FullGrad, layer by layer", "FullGrad, channel by channel"


def removal_measure(setting: Setting) -> MeasurePlan:
    """Returns the measure, with as many pixels at a time as the setting says."""
    return MeasurePlan("removal_contrast", arguments={"step": setting.step})


def from_on(layer: str) -> str:
    """Returns the name of the activities that are aggregated from a layer on."""
    return f"activity from {layer} on"


def all_layers(setting: Setting) -> str:
    """Returns the name of the aggregate of every cut: of a VGG-16, of every convolution."""
    return from_on(setting.cuts[0].layer)


def top_two(setting: Setting) -> str:
    """Returns the name of the aggregate of the last two cuts; nothing where these differ in resolution."""
    last = setting.cuts[-2:]
    return from_on(last[0].layer) if len(last) == 2 and last[0].size == last[1].size else ""


def decompositions(setting: Setting) -> Results:
    """Activities and biases at every cut that is shown, activities aggregated from each on, and what they are compared
    with. Pixels go by the maps' magnitudes at the layer, upsampled bilinearly."""
    every = tuple(cut.layer for cut in setting.cuts)
    shown = [cut.layer for cut in setting.shown_cuts]
    biases = tuple(dict.fromkeys(cut.bias for cut in setting.shown_cuts if cut.bias))
    methods = [MethodPlan("activity", "activity", ("input", *shown), channels="abs_sum")]
    methods.append(MethodPlan("bias", "bias", biases, channels="abs_sum"))
    starts = dict.fromkeys((every[0], *shown, *every[-3:]))
    methods += [
        MethodPlan("aggregated-activity", from_on(name), every, {"l0": every.index(name)})
        for name in starts
        if name != every[-1]
    ]
    methods.append(MethodPlan("aggregated-activity", AND_INPUT, every, {"include_input": True}))
    methods.append(MethodPlan("aggregated-activity", STAGES, setting.layers))
    methods += [
        MethodPlan("gradcam", "GradCAM", (setting.layers[-1],)),
        MethodPlan("fullgrad", FULLGRAD, arguments={"rescale": "layer_map"}),
        MethodPlan("fullgrad", BY_CHANNEL, arguments={"rescale": "channel"}),
        GRADIENT,
    ]
    return setting.evaluate(methods, [removal_measure(setting)], "removal", voc_like(setting))


def values(results: Results, method: str, layer: str, detail: str) -> dict[Key, float]:
    """Returns a detail of the measure by image; what noise reaches is what the map reaches minus its advantage."""
    if detail in _NOISE:
        own, advantage = (values_of(results, "removal_contrast", method, layer, d) for d in _NOISE[detail])
        return {key: own[key] - advantage[key] for key in own}
    return values_of(results, "removal_contrast", method, layer, detail)


def mean(found: dict[Key, float]) -> float:
    """Returns the mean over the images; NaN for none."""
    return float(np.nanmean(list(found.values()))) if found else math.nan


def places_of(results: Results) -> list[tuple[str, str]]:
    """Returns every method with its layer, in the order of their evaluation."""
    return [(row.method, row.layer) for row in results.maps()]


def layers_table(results: Results, details: tuple[str, ...], methods: tuple[str, ...] = ()) -> str:
    """Returns the means of details, for some of the methods (or all) at their layers."""
    rows = []
    for method, layer in places_of(results):
        if not methods or method in methods:
            rows.append([method, layer, *(mean_sd(list(values(results, method, layer, d).values())) for d in details)])
    return markdown(["attribution", "layer", *(SHOWN[d] for d in details)], rows)


def aggregates_of(results: Results) -> tuple[str, ...]:
    """Returns the names of what is aggregated over layers, and of what it is compared with."""
    return tuple(dict.fromkeys(method for method, _ in places_of(results) if method not in ("activity", "bias")))


def above(statement: str, first: dict[Key, float], second: dict[Key, float]) -> Finding:
    """Is the first larger than the second, image by image?"""
    return smaller(statement, first, second, magnitude=False, larger=True)


def over_layers(setting: Setting, results: Results, detail: str) -> tuple[dict[Key, float], dict[Key, float]]:
    """Returns each image's mean over the layers, of its activity and of its bias attributions."""
    pairs = [(cut.layer, cut.bias) for cut in setting.shown_cuts if cut.bias]
    found = []
    for method, layers in (("activity", [a for a, _ in pairs]), ("bias", [b for _, b in pairs])):
        by_layer = [values(results, method, layer, detail) for layer in layers]
        found.append({key: float(np.mean([v[key] for v in by_layer])) for key in by_layer[0]})
    return found[0], found[1]
