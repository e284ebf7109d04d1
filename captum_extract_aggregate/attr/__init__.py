"""The attribution classes: drop-in replacements for Captum's layer methods."""

from captum_extract_aggregate.attr.base import attribute_together
from captum_extract_aggregate.attr.extract_aggregate import (
    ExtractAggregate,
    LayerGradient,
    LinearApproximation,
    NormGrad,
    SelectiveNormGrad,
)
from captum_extract_aggregate.attr.positive import (
    CumulativeGradCAM,
    CumulativeGradMid,
    GradCAM,
    GradCAMPlusPlus,
    GradCAMPos,
    GradMid,
)

__all__ = [
    "CumulativeGradCAM",
    "CumulativeGradMid",
    "ExtractAggregate",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradCAMPos",
    "GradMid",
    "LayerGradient",
    "LinearApproximation",
    "NormGrad",
    "SelectiveNormGrad",
    "attribute_together",
]
