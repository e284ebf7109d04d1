"""The numbers of a run, a number for each picture."""

from __future__ import annotations

import numpy as np

from captum_extract_aggregate.evaluation.explained import CENTRE, MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Array, groups
from captum_extract_aggregate.evaluation.store import Results

_DETAILS = {
    "class_sensitivity": "",
    "removal_contrast": "delta",
    "grid_pointing_game": "accuracy",
    "relevance_mass_accuracy": "accuracy",
    "symmetric_relevance_gain": "gain",
}


def values_per_picture(results: Results) -> dict[str, dict[MethodAtLayer, Array]]:
    """Returns each measure's most telling values by method at layer, averaged over a picture's classes; of stages the
    last, similarities as magnitudes."""
    found: dict[str, dict[MethodAtLayer, Array]] = {}
    for measure in results.plan.measures:
        every = groups(results, measure)
        group = next((g for g in every if g.detail == _DETAILS.get(measure.measure)), every[-1])
        own = {place: v for place, v in group.values.items() if place != CENTRE}
        if group.interpretation.magnitude:
            own = {place: np.abs(v) for place, v in own.items()}
        pictures, which = np.unique(group.pairs[:, 0], return_inverse=True)
        counts = np.bincount(which, minlength=len(pictures))
        found[measure.measure] = {place: np.bincount(which, v) / counts for place, v in own.items()}
    return found
