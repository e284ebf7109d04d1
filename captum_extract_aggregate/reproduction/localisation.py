"""How much of R20's maps lies on the object, or in its cell of a grid, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, replace

from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, Results
from captum_extract_aggregate.reproduction.findings import Outcome, markdown, mean_sd, smaller, values_of
from captum_extract_aggregate.reproduction.plans import R20
from captum_extract_aggregate.reproduction.r20_results import methods_of
from captum_extract_aggregate.reproduction.setting import Setting

MEASURES = {"relevance_mass_accuracy": "share of the map's positive values on the object",
            "relevance_rank_accuracy": "share of the map's largest pixels on the object"}  # fmt: skip
_ABOVE = "above_chance"  # minus the object's share of the picture


_SURE, _CELLS = 0.5, 2
_HALF = 112  # pixels a side of a photograph in a grid, so that a grid costs what one does


def localisation(setting: Setting) -> Outcome:
    """Shares of the maps that lie on the object, above its share of the picture, by method and layer."""
    results = setting.evaluate(list(R20.values()), [MeasurePlan(name) for name in MEASURES], "maps")
    outcomes = [
        _by_layer(setting, results, measure, _ABOVE, f"{what}, above chance") for measure, what in MEASURES.items()
    ]
    return Outcome([t for o in outcomes for t in o.tables], [f for o in outcomes for f in o.findings])


def grid_pointing(setting: Setting) -> Outcome:
    """Shares of the maps that lie in the right cell of a grid of pictures of four classes, by method and layer."""
    of = setting.data if setting.data.kind == "scenes" else replace(setting.data, resize="square", size=_HALF)
    cells = {"of": asdict(of), "cells": _CELLS, "confidence": _SURE}
    if of is not setting.data and not _takes(setting, _HALF):
        cells["enlarge"] = True
    results = setting.evaluate(
        list(R20.values()), [MeasurePlan("grid_pointing_game")], "removal", DataPlan("grid", arguments=cells)
    )
    what = f"share of the map's positive values in the right one of {_CELLS**2} cells"
    return _by_layer(setting, results, "grid_pointing_game", "accuracy", what)


def _takes(setting: Setting, size: int) -> bool:
    """Tells whether a network takes pictures of a size; transformers take one alone."""
    import torch

    try:
        with torch.no_grad():
            setting.network(torch.zeros(1, 3, size, size))
    except Exception:  # whatever a network raises
        return False
    return True


def _by_layer(setting: Setting, results: Results, measure: str, detail: str, what: str) -> Outcome:
    """Returns the means by method and layer; methods are compared at the last layer but one."""
    layers = setting.layers
    rows = []
    for method in methods_of(results):
        cells = [mean_sd(list(values_of(results, measure, method, at, detail).values())) for at in layers]
        rows.append([method, *cells])
    findings = []
    for first, second in (("selective", "NormGrad"), ("linear approx.", "GradCAM"), ("cEB", "EB")):
        a, b = (values_of(results, measure, method, layers[-2], detail) for method in (first, second))
        statement = f"{what}: {first} has more than {second} ({layers[-2]})"
        findings.append(smaller(statement, a, b, magnitude=False, larger=True))
    return Outcome([markdown([what, *layers], rows)], findings)
