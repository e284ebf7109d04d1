"""Which tensors of a forward are gates: what weighs a signal, and is no signal itself.

In a product the factor that is more of a gate than the other lets the signal pass: the signal takes all relevance.
Sigmoids, softmax weights and statistics (a norm, a standard deviation) are gates however they are reshaped, averaged,
or shifted and scaled by constants; what a weight is applied to is a signal again.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._engine.operations import Call, tensors_in

SIGNAL, ACTIVATED, BOUNDED, GATE, STATISTIC, ATTENTION = range(6)

_OF_FUNCTIONS = {
    **dict.fromkeys(("relu6", "hardtanh"), BOUNDED),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "tanh", "erf", "softmax", "softmin"), GATE),
}
_OF_KINDS = {"rectifier": ACTIVATED, "activation": ACTIVATED, "smooth": STATISTIC, "unruled": STATISTIC}
# What keeps a gate one.
_KEEPING = ("routing", "scale", "sum", "average", "dropout", "maximum", "winner", "choice", "rectifier")


class Gates:
    """How much of a gate each tensor is. With `held` (CP-LRP) attention weights stay gates behind linear layers."""

    def __init__(self, held: bool) -> None:
        self.held = held
        self._degrees: Any = WeakIdKeyDictionary()

    def degree(self, t: Tensor) -> int:
        """Returns how much of a gate a tensor is, from `SIGNAL` to `ATTENTION`."""
        found: int = self._degrees.get(t, SIGNAL)
        return found

    def note(self, call: Call, variables: tuple[Tensor, ...], output: Any) -> None:
        """Learns what a call gave of what it was given."""
        inherited = min((self.degree(t) for t in variables), default=SIGNAL)
        degree = _OF_FUNCTIONS.get(call.name, _OF_KINDS.get(call.kind or "", SIGNAL))
        if self.held and call.name in ("softmax", "softmin"):
            degree = ATTENTION
        elif call.kind in _KEEPING or inherited == ATTENTION:
            degree = max(degree, inherited)
        results = tensors_in(output) if output is not None else list(variables[:1])
        for t in results:
            if degree or t in self._degrees:
                self._degrees[t] = degree

    def signal(self, factors: tuple[Tensor, ...], least: int) -> int | None:
        """Returns which factor of a product takes all: the one that is less of a gate, if the other is at least
        `least`; None where none does."""
        degrees = [self.degree(t) for t in factors]
        if degrees[0] == degrees[1] or max(degrees) < least:
            return None
        return degrees.index(min(degrees))
