"""The attribution classes: drop-in replacements for Captum's layer methods."""

from captum_extract_aggregate.attr.base import attribute_together
from captum_extract_aggregate.attr.extract_aggregate import (
    ExtractAggregate,
    LayerGradient,
    LinearApproximation,
    NormGrad,
    SelectiveNormGrad,
)

__all__ = [
    "ExtractAggregate",
    "LayerGradient",
    "LinearApproximation",
    "NormGrad",
    "SelectiveNormGrad",
    "attribute_together",
]
