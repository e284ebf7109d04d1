"""The findings that must not turn around, with thresholds from their spread over seeds.

`python benchmarks/main_findings.py` measures each over several sets of scenes; a threshold is the mean minus four
standard deviations of what it printed for quick runs (five sets; six of the decomposition's: 0.120 +- 0.049, all above
0, so that only a clear reversal can be told from chance). On the ResNet-like network activities do not stand above
biases in delta e-, and that is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captum_extract_aggregate.evaluation import MethodPlan
from captum_extract_aggregate.reproduction import g20_results, k20, r20_results
from captum_extract_aggregate.reproduction.findings import Key, class_mean, values_of
from captum_extract_aggregate.reproduction.plans import positive, propagated
from captum_extract_aggregate.reproduction.setting import Setting

CAM = "linear approximation minus GradCAM, pointing game at the first two layers, points"
POS = "GradCAM_Pos minus GradCAM, HOG-Spearman of best and worst class"
GUIDED = "guided minus gradients, HOG-Spearman of best and worst class"
BIAS = "activities minus biases, delta e-, mean over the layers"
THRESHOLDS: dict[str, dict[str, float]] = {
    "scene-vgg": {CAM: 57, POS: 0.01, GUIDED: 0.11, BIAS: -0.078},
    "scene-resnet": {CAM: 52, POS: 0.67, GUIDED: 0.17},
}


@dataclass(frozen=True)
class Check:
    """Holds one main finding: what was measured, and the threshold below which it has turned around."""

    setting: str
    what: str
    value: float
    threshold: float

    @property
    def stands(self) -> bool:
        """Whether the finding still stands."""
        return self.value >= self.threshold

    def __str__(self) -> str:
        verdict = "stands" if self.stands else "HAS TURNED AROUND"
        return f"{verdict}: {self.setting}: {self.what}: {self.value:.3f} (at least {self.threshold:.3f})"


def checks(setting: Setting) -> list[Check]:
    """Returns each main finding on a setting."""
    limits = THRESHOLDS[setting.name]
    return [Check(setting.name, what, measure(what, setting), limit) for what, limit in limits.items()]


def measure(what: str, setting: Setting) -> float:
    """Returns the number that is held against a threshold."""
    return _MEASURED[what](setting)


def _cam(setting: Setting) -> float:
    results = r20_results.pointing_results(setting)
    points = [
        class_mean(values_of(results, "pointing_game", "linear approx.", layer))
        - class_mean(values_of(results, "pointing_game", "GradCAM", layer))
        for layer in setting.layers[:2]
    ]
    return float(np.mean(points))


def _pos(setting: Setting) -> float:
    return _less_alike(setting, positive(setting), "GradCAM_Pos", "GradCAM")


def _guided(setting: Setting) -> float:
    return _less_alike(setting, propagated(setting), "guided", "gradients")


def _less_alike(setting: Setting, methods: Sequence[MethodPlan], first: str, second: str) -> float:
    found = k20.results_of(setting, methods)
    layers = {row.method: row.layer for row in found.maps()}
    a, b = (values_of(found, "hog_sensitivity", m, layers[m]) for m in (first, second))
    return _mean_magnitude(a) - _mean_magnitude(b)


def _bias(setting: Setting) -> float:
    activity, bias = g20_results.over_layers(setting, g20_results.decompositions(setting), "delta_minus")
    return _mean(activity) - _mean(bias)


_MEASURED: dict[str, Callable[[Setting], float]] = {CAM: _cam, POS: _pos, GUIDED: _guided, BIAS: _bias}


def _mean_magnitude(values: Mapping[Key, float]) -> float:
    return _mean({key: abs(value) for key, value in values.items()})


def _mean(values: Mapping[Key, float]) -> float:
    defined = [value for value in values.values() if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
