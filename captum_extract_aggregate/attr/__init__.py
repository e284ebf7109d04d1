"""The attribution classes: drop-in replacements for Captum's layer methods."""

from captum_extract_aggregate.attr.attention import AttentionRollout, GradientWeightedAttention, LeGrad
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.cams import ElementWiseGradCAM, HiResCAM, LayerCAM, XGradCAM
from captum_extract_aggregate.attr.class_competition import ClassCompetition
from captum_extract_aggregate.attr.combination import LayerCombination
from captum_extract_aggregate.attr.decomposition import (
    ActivityAttribution,
    AggregatedActivity,
    BiasAttribution,
)
from captum_extract_aggregate.attr.extract_aggregate import (
    ExtractAggregate,
    LayerGradient,
    LinearApproximation,
    NormGrad,
    SelectiveNormGrad,
)
from captum_extract_aggregate.attr.finercam import FinerCAM
from captum_extract_aggregate.attr.full_grad import FullGrad
from captum_extract_aggregate.attr.gradcam import (
    CumulativeGradCAM,
    CumulativeGradMid,
    GradCAM,
    GradCAMPlusPlus,
    GradCAMPos,
    GradMid,
)
from captum_extract_aggregate.attr.guided_gradcam import GuidedGradCAM
from captum_extract_aggregate.attr.libra_grad import LibraGrad
from captum_extract_aggregate.attr.meta_saliency import MetaSaliency
from captum_extract_aggregate.attr.propagation import (
    LRP,
    ContrastiveExcitationBackprop,
    Deconvolution,
    ExcitationBackprop,
    GuidedBackprop,
    RectGrad,
    RectGradMod,
)
from captum_extract_aggregate.attr.refinecam import RefineCAM
from captum_extract_aggregate.attr.together import attribute_together, attribute_together_per_target

__all__ = [
    "LRP",
    "ActivityAttribution",
    "AggregatedActivity",
    "AttentionRollout",
    "BiasAttribution",
    "CaptureAttribution",
    "ClassCompetition",
    "ContrastiveExcitationBackprop",
    "CumulativeGradCAM",
    "CumulativeGradMid",
    "Deconvolution",
    "ElementWiseGradCAM",
    "ExcitationBackprop",
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
    "LayerCAM",
    "LayerCombination",
    "LayerGradient",
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
    "attribute_together",
    "attribute_together_per_target",
]
