"""Saliency maps for Captum's users: Extract & Aggregate from one forward and one backward."""

import importlib
from typing import TYPE_CHECKING, Any

from captum_extract_aggregate import rules
from captum_extract_aggregate._common.errors import CaptumExtractAggregateError, InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.memory import keep_what_is_freed as _keep_what_is_freed
from captum_extract_aggregate._engine.attention_seen import attention_layers
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.operations import register_operation, unregister_operation
from captum_extract_aggregate._engine.session import prepared
from captum_extract_aggregate.attr import (
    LRP,
    ActivityAttribution,
    AggregatedActivity,
    AttentionRollout,
    BiasAttribution,
    CaptureAttribution,
    ClassCompetition,
    ContrastiveExcitationBackprop,
    CumulativeGradCAM,
    CumulativeGradMid,
    Deconvolution,
    ElementWiseGradCAM,
    ExcitationBackprop,
    ExtractAggregate,
    FinerCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GradCAMPos,
    GradientWeightedAttention,
    GradMid,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    LayerCAM,
    LayerCombination,
    LayerGradient,
    LeGrad,
    LibraGrad,
    LinearApproximation,
    MetaSaliency,
    NormGrad,
    RectGrad,
    RectGradMod,
    RefineCAM,
    SelectiveNormGrad,
    XGradCAM,
    attribute_together,
    attribute_together_per_target,
)
from captum_extract_aggregate.attr.bias_terms import BiasTerm
from captum_extract_aggregate.attr.biases import bias_layers
from captum_extract_aggregate.attr.extract_aggregate.agreement import virtual_identity_agreement
from captum_extract_aggregate.attr.layer_weights import LayerWeights, accuracy_weights, feature_spread_weights

if TYPE_CHECKING:
    from captum_extract_aggregate import bias_study
    from captum_extract_aggregate.data import DigitScenes, load_scene_model
    from captum_extract_aggregate.explanation import Explanation, explain

__version__ = "0.2.0"

_keep_what_is_freed()

__all__ = [
    "LRP",
    "ActivityAttribution",
    "AggregatedActivity",
    "AttentionRollout",
    "BiasAttribution",
    "BiasTerm",
    "CaptumExtractAggregateError",
    "CaptureAttribution",
    "ClassCompetition",
    "ContrastiveExcitationBackprop",
    "CumulativeGradCAM",
    "CumulativeGradMid",
    "Deconvolution",
    "DigitScenes",
    "ElementWiseGradCAM",
    "ExcitationBackprop",
    "Explanation",
    "ExtractAggregate",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradCAMPos",
    "GradMid",
    "GradientWeightedAttention",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InvalidTypeError",
    "InvalidValueError",
    "LayerCAM",
    "LayerCombination",
    "LayerGradient",
    "LayerWeights",
    "LeGrad",
    "LibraGrad",
    "LinearApproximation",
    "MetaSaliency",
    "NormGrad",
    "RectGrad",
    "RectGradMod",
    "RefineCAM",
    "SelectiveNormGrad",
    "XGradCAM",
    "accuracy_weights",
    "attention_layers",
    "attribute_together",
    "attribute_together_per_target",
    "bias_layers",
    "bias_study",
    "default_layers",
    "explain",
    "feature_spread_weights",
    "load_scene_model",
    "prepared",
    "register_operation",
    "rules",
    "unregister_operation",
    "virtual_identity_agreement",
]


# What a map does without is imported when it is asked for: these rooms, and what of them is shown here.
_LATE = {
    "bias_study": (),
    "data": ("DigitScenes", "load_scene_model"),
    "explanation": ("Explanation", "explain"),
}


def __getattr__(name: str) -> Any:
    for room, shown in _LATE.items():
        if name == room or name in shown:
            module = importlib.import_module(f"{__name__}.{room}")
            found = globals()[name] = module if name == room else getattr(module, name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns what users need, and not the rooms that happen to be loaded."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
