"""How one operation passes a quantity R from its output down to its inputs: the rules of `LRP(rules={...})`."""

from captum_extract_aggregate.attr.propagation.lrp_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    LinearRule,
    WSquare,
    ZBox,
    ZPlus,
)

__all__ = ["AlphaBeta", "Epsilon", "Flat", "Gamma", "LinearRule", "WSquare", "ZBox", "ZPlus"]
