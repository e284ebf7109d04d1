"""Rules for non-linear operations that hold for one object alone, beside those registered for the whole process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captum_extract_aggregate._engine.operations import DECLARED, Rule
from captum_extract_aggregate.attr.propagation.keyed_rules import KeyedRules, Running, innermost

_LINEAR = ("linear", "scale", "routing", "dropout")


class OwnOperations(KeyedRules["str | Rule"]):
    """How non-linear operations pass relevance.

    A rule by layer holds for the non-linear functions called within it, and for a sum or average that is all it does.
    """

    def __init__(self, rules: Mapping[Any, str | Rule]) -> None:
        super().__init__({key: DECLARED[how] if isinstance(how, str) else how for key, how in rules.items()})

    def find(self, function: Any, known: str | Rule | None, running: Running) -> str | Rule | None:
        """Returns the kind of a call, or the rule for it: one of these rules, else what is known of it by itself."""
        how = self.of_function(function, running)
        if how is None and known in ("sum", "average"):
            how = self.of_layer(innermost(running))
        elif how is None and known is not None and known not in _LINEAR:
            how = self.of_layer(running)
        return known if how is None else how
