"""How much of R20's maps lies on the object, layer by layer: mass and rank accuracy, which need no tolerance."""

from __future__ import annotations

from captum_extract_aggregate.evaluation import MeasurePlan
from captum_extract_aggregate.reproduction.findings import Outcome, markdown, mean_sd, smaller, values_of
from captum_extract_aggregate.reproduction.plans import R20
from captum_extract_aggregate.reproduction.r20_results import methods_of
from captum_extract_aggregate.reproduction.setting import Setting

MEASURES = {"relevance_mass_accuracy": "share of the map's positive values on the object",
            "relevance_rank_accuracy": "share of the map's largest pixels on the object"}  # fmt: skip
_ABOVE = "above_chance"  # minus the object's share of the picture


def localisation(setting: Setting) -> Outcome:
    """Shares of the maps that lie on the object, above its share of the picture, by method and layer."""
    results = setting.evaluate(list(R20.values()), [MeasurePlan(name) for name in MEASURES], "maps")
    layers, tables, findings = setting.layers, [], []
    middle = layers[-2]
    for measure, what in MEASURES.items():
        rows = []
        for method in methods_of(results):
            cells = [mean_sd(list(values_of(results, measure, method, at, _ABOVE).values())) for at in layers]
            rows.append([method, *cells])
        tables.append(markdown([f"{what}, above chance", *layers], rows))
        for first, second in (("selective", "NormGrad"), ("linear approx.", "GradCAM"), ("cEB", "EB")):
            a, b = (values_of(results, measure, method, middle, _ABOVE) for method in (first, second))
            statement = f"{what}: {first} has more than {second} ({middle})"
            findings.append(smaller(statement, a, b, magnitude=False, larger=True))
    return Outcome(tables, findings)
