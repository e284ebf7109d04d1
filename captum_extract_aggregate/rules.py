"""How one operation passes a quantity R from its output down to its inputs: the rules of `LRP(rules={...})`.

Composites (`EpsilonPlus()`, ...) are the rules of a whole network by the kinds of its layers.
"""

from captum_extract_aggregate.attr.propagation.composites import (
    Composite,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
)
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Identity,
    LinearRule,
    WSquare,
    ZBox,
    ZPlus,
)

__all__ = [
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "Flat",
    "Gamma",
    "Identity",
    "LinearRule",
    "WSquare",
    "ZBox",
    "ZPlus",
]
