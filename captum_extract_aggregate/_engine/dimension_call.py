"""A call of an operation, and the registry of the rules that tell what it does to dimensions.

A rule that is not there, or that gives None, stands for an operation that works entry by entry: its outputs have the
dimensions of what it takes, broadcast.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from captum_extract_aggregate._engine.labels import Labels
from captum_extract_aggregate._engine.parts import Dim, Dims, Part, size_of

Found = list[Dims | None]


@dataclass(frozen=True)
class Call:
    """Holds one call of an operation, with what is known of the tensors that it was given."""

    labels: Labels
    func: Any
    args: Any
    kwargs: Any
    tensors: list[Tensor]
    known: Found
    outputs: list[Any]

    @property
    def x(self) -> Tensor:
        """Returns the first tensor that it was given."""
        return self.tensors[0]

    @property
    def out(self) -> Tensor:
        """Returns the first tensor that it gave."""
        first: Tensor = self.outputs[0]
        return first

    def dim(self, ndim: int) -> int:
        """Returns the argument `dim`, counted from the front."""
        given = self.args[1] if len(self.args) > 1 else self.kwargs.get("dim", self.kwargs.get("axis", 0))
        return int(given) % ndim

    def and_unknown(self, first: Dims | None) -> Found:
        """Returns what is known of the outputs where only the first is understood."""
        return [first, *[None] * (len(self.outputs) - 1)]


Rule = Callable[[Call], Found | None]
_RULES: list[tuple[re.Pattern[str], Rule]] = []


def dims_after(name: str, call: Call) -> Found:
    """Returns the dimensions of each output of a call of the operation of that name; None for those that are lost."""
    if all(dims is None for dims in call.known):
        return [None] * len(call.outputs)
    known_rule = _rule_of(name)
    found = known_rule(call) if known_rule is not None else None
    return _broadcast(call) if found is None else found


@functools.cache
def _rule_of(name: str) -> Rule | None:
    return next((function for pattern, function in _RULES if pattern.fullmatch(name)), None)


def rule(names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of all operations whose whole name matches."""

    def register(function: Rule) -> Rule:
        _RULES.append((re.compile(names), function))
        return function

    return register


def rule_of_first(names: str) -> Callable[[Callable[[Call, Dims], Found | None]], Rule]:
    """Registers a rule that needs the dimensions of the first tensor, and does not apply where they are unknown."""

    def register(function: Callable[[Call, Dims], Found | None]) -> Rule:
        @rule(names)
        def of_first(call: Call) -> Found | None:
            dims = call.known[0]
            return None if dims is None else function(call, dims)

        return of_first

    return register


def _broadcast(call: Call) -> Found:
    """Works entry by entry: each output has the dimensions that the tensors tell together."""
    labelled = [dims for dims in call.known if dims is not None]
    sizes = [tuple(map(size_of, dims)) for dims in labelled]

    def of(t: Any) -> Dims | None:
        if not isinstance(t, Tensor) or not all(_broadcasts(size, t.shape) for size in sizes):
            return None
        return call.labels.merged(labelled, t.shape)

    return [of(t) for t in call.outputs]


def _broadcasts(size: Sequence[int], shape: Sequence[int]) -> bool:
    return len(size) <= len(shape) and all(n in (1, m) for n, m in zip(reversed(size), reversed(shape)))


def channels(size: int) -> Dim:
    """Returns a dimension of channels."""
    return (Part("channel", size),) if size > 1 else ()
