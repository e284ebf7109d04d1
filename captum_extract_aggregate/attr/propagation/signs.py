"""Which tensors of a forward have no number below 0, known from what made them: nobody has to look at numbers.

The output of a ReLU or a sigmoid has none, nor has what pooling, reshaping, adding or multiplying makes of such.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._engine.operations import Call, tensors_in

_NEVER = ("relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "softmin", "exp", "abs", "absolute", "square")
_LOWEST = {"hardtanh": "min_val", "clamp": "min", "clip": "min", "clamp_min": "min"}
_KEEPING = ("routing", "winner", "maximum", "average", "dropout")
_KEEPING_NAMES = ("add", "iadd", "radd", "mul", "imul", "rmul", "multiply")
# Of the kinds that keep signs, these need not: they put numbers in, shift, or weigh with both signs.
_NOT_KEEPING = ("setitem", "alpha_dropout", "feature_alpha_dropout", "as_strided")
_FILLS = {"pad": 3, "constant_pad_nd": 2}


class Signs:
    """Knows the tensors without negative numbers, as they were when they were made."""

    def __init__(self) -> None:
        self._versions: Any = WeakIdKeyDictionary()

    def is_never_negative(self, t: Tensor) -> bool:
        """Tells whether a tensor is known to have no number below 0."""
        return bool(self._versions.get(t, -1) == t._version)

    def note(self, call: Call, output: Any) -> None:
        """Called after each call in which something depends on the input."""
        if self._keeps(call):
            for t in tensors_in(output):
                self._versions[t] = t._version

    def _keeps(self, call: Call) -> bool:
        name = call.name
        if name in _NEVER:
            return True
        if name in _LOWEST:
            return _is_not_below_0(call.argument(1, _LOWEST[name]))
        if not (call.kind in _KEEPING or name in _KEEPING_NAMES) or name in _NOT_KEEPING:
            return False
        if not _is_not_below_0(call.argument(_FILLS.get(name, 99), "value", 0) or 0):
            return False
        if call.argument(3, "mode") == "bicubic" or not _is_not_below_0(call.kwargs.get("alpha", 1)):
            return False
        others = call.args[1:2] if name in _KEEPING_NAMES else ()
        return all(map(_is_not_below_0, (t for t in others if not isinstance(t, Tensor)))) and all(
            self.is_never_negative(t) for t in tensors_in((call.args, call.kwargs)) if t.is_floating_point()
        )


def _is_not_below_0(value: Any) -> bool:
    return isinstance(value, (int, float)) and value >= 0
