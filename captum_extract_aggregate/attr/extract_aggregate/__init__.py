"""Extract & Aggregate: maps from what each position contributes to the gradient of a shared parameter."""

from captum_extract_aggregate.attr.extract_aggregate.attribution import (
    ExtractAggregate,
    LayerGradient,
    LinearApproximation,
    NormGrad,
    SelectiveNormGrad,
)

__all__ = ["ExtractAggregate", "LayerGradient", "LinearApproximation", "NormGrad", "SelectiveNormGrad"]
