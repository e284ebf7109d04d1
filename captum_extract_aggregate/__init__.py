"""Saliency maps for Captum's users: Extract & Aggregate from one forward and one backward."""

from captum_extract_aggregate.attr import (
    CumulativeGradCAM,
    CumulativeGradMid,
    ExtractAggregate,
    GradCAM,
    GradCAMPlusPlus,
    GradCAMPos,
    GradMid,
    LayerGradient,
    LinearApproximation,
    NormGrad,
    SelectiveNormGrad,
    attribute_together,
)
from captum_extract_aggregate.data import DigitScenes, load_scene_model
from captum_extract_aggregate.stages import default_layers

__version__ = "0.1.0"

__all__ = [
    "CumulativeGradCAM",
    "CumulativeGradMid",
    "DigitScenes",
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
    "default_layers",
    "load_scene_model",
]
