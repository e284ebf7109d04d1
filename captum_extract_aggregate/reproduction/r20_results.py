"""What the evaluations of Rebuffi et al. (2020) gave, as their tables and figures read it."""

from __future__ import annotations

import math

import numpy as np

from captum_extract_aggregate.evaluation import Results
from captum_extract_aggregate.reproduction.findings import (
    Key,
    subset,
    values_of,
)
from captum_extract_aggregate.reproduction.plans import SENSITIVITY, combined, pointing
from captum_extract_aggregate.reproduction.setting import Setting


def pointing_results(setting: Setting) -> Results:
    """Returns pointing games and class sensitivity of all methods, layers and combinations."""
    return setting.evaluate(combined(setting), [*pointing(setting), SENSITIVITY], "maps")


def methods_of(results: Results) -> list[str]:
    """Returns the methods that were evaluated, each once, in their order."""
    return list(dict.fromkeys(row.method for row in results.maps()))


def hits_of(results: Results, method: str, layer: str, which: str = "all") -> dict[Key, float]:
    """Returns the hits of the pointing game of a method at a layer (or combination of layers)."""
    return subset(results, values_of(results, "pointing_game", method, layer), which)


def correlations(results: Results, method: str, layer: str, measure: str = "class_sensitivity") -> dict[Key, float]:
    """Returns a method's rank correlations at a layer: class sensitivity, or another measure."""
    return values_of(results, measure, method, layer)


def defined_mean(values: dict[Key, float]) -> float:
    """Returns the mean of the values that are defined; NaN where none is."""
    defined = [v for v in values.values() if not math.isnan(v)]
    return float(np.mean(defined)) if defined else math.nan
