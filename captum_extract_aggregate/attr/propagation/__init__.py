"""Methods that give the operations of a network another backward pass: guided backprop, RectGrad, LRP, excitation."""

from captum_extract_aggregate.attr.propagation.excitation import ContrastiveExcitationBackprop, ExcitationBackprop
from captum_extract_aggregate.attr.propagation.lrp import LRP
from captum_extract_aggregate.attr.propagation.relu_methods import (
    Deconvolution,
    GuidedBackprop,
    RectGrad,
    RectGradMod,
)

__all__ = [
    "LRP",
    "ContrastiveExcitationBackprop",
    "Deconvolution",
    "ExcitationBackprop",
    "GuidedBackprop",
    "RectGrad",
    "RectGradMod",
]
