"""Measures of whether a map can be trusted, in the style of `captum.metrics`: one value per example."""

import importlib
from typing import TYPE_CHECKING, Any

from captum_extract_aggregate.metrics.adapter import InputAttribution, as_input_attribution
from captum_extract_aggregate.metrics.aggregated_attributions import AggregatedAttributions, aggregated_attributions
from captum_extract_aggregate.metrics.class_sensitivity import class_sensitivity
from captum_extract_aggregate.metrics.completeness import completeness_gap
from captum_extract_aggregate.metrics.complexity import (
    complexity,
    effective_complexity,
    entropy_rise,
    histogram_entropy,
    sparseness,
)
from captum_extract_aggregate.metrics.linear_imputation import linear_imputation
from captum_extract_aggregate.metrics.localisation import (
    grid_pointing_game,
    localisation_auc,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
)
from captum_extract_aggregate.metrics.perturbation_curve import (
    PerturbationCurve,
    SymmetricRelevanceGain,
    perturbation_curve,
    symmetric_relevance_gain,
)
from captum_extract_aggregate.metrics.pixel_removal import Removal, RemovalContrast, pixel_removal, removal_contrast
from captum_extract_aggregate.metrics.pointing_game import centre_map, pointing_game
from captum_extract_aggregate.metrics.quantus_adapter import from_quantus, quantus_explainer
from captum_extract_aggregate.metrics.randomization import Randomization, parameter_randomization
from captum_extract_aggregate.metrics.randomization_variants import emprt, smprt
from captum_extract_aggregate.metrics.significance import Comparison, Comparisons, compare, compare_many, holm
from captum_extract_aggregate.metrics.similarity import (
    SIMILARITIES,
    NullBaseline,
    abs_spearman,
    hog_spearman,
    null_baseline,
    pearson,
    spearman,
    ssim,
    top_k_intersection,
)
from captum_extract_aggregate.metrics.stability import (
    Stability,
    local_lipschitz_estimate,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
    stability,
)

if TYPE_CHECKING:
    from captum_extract_aggregate.metrics.over_data_sets import PointingGame, RestrictedPointingGame, ValueSummary

__all__ = [
    "SIMILARITIES",
    "AggregatedAttributions",
    "Comparison",
    "Comparisons",
    "InputAttribution",
    "NullBaseline",
    "PerturbationCurve",
    "PointingGame",
    "Randomization",
    "Removal",
    "RemovalContrast",
    "RestrictedPointingGame",
    "Stability",
    "SymmetricRelevanceGain",
    "ValueSummary",
    "abs_spearman",
    "aggregated_attributions",
    "as_input_attribution",
    "centre_map",
    "class_sensitivity",
    "compare",
    "compare_many",
    "completeness_gap",
    "complexity",
    "effective_complexity",
    "emprt",
    "entropy_rise",
    "from_quantus",
    "grid_pointing_game",
    "histogram_entropy",
    "hog_spearman",
    "holm",
    "linear_imputation",
    "local_lipschitz_estimate",
    "localisation_auc",
    "null_baseline",
    "parameter_randomization",
    "pearson",
    "perturbation_curve",
    "pixel_removal",
    "pointing_game",
    "quantus_explainer",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "removal_contrast",
    "smprt",
    "sparseness",
    "spearman",
    "ssim",
    "stability",
    "symmetric_relevance_gain",
    "top_k_intersection",
]
_OVER_DATA_SETS = ("PointingGame", "RestrictedPointingGame", "ValueSummary")


def __getattr__(name: str) -> Any:
    if name not in _OVER_DATA_SETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("captum_extract_aggregate.metrics.over_data_sets"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
