"""Rules for non-linear operations that hold for one object alone, beside those registered for the whole process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from captum_extract_aggregate._engine.operations import DECLARED, Call, Rule

_LINEAR = ("linear", "sum", "scale", "average", "routing", "dropout")


class OwnOperations:
    """How non-linear operations pass relevance: by the function's name, or by the module that calls it.

    A rule by module holds for the non-linear functions called within it; a rule by function wins over it, a module over
    its type, and an inner module over an outer one.
    """

    def __init__(self, rules: Mapping[Any, str | Rule]) -> None:
        self._by_function: dict[str, str | Rule] = {}
        self._by_module: dict[Any, str | Rule] = {}
        for key, how in rules.items():
            if isinstance(key, (type, nn.Module)):
                self._by_module[key] = DECLARED[how] if isinstance(how, str) else how
            else:
                self._by_function[Call(key, (), {}, None).name] = DECLARED[how] if isinstance(how, str) else how
        self.unused = {key for key in self._by_module if isinstance(key, nn.Module)}

    def find(self, function: Any, known: str | Rule | None, modules: Callable[[], list[nn.Module]]) -> Any:
        """Returns the kind of a call, or the rule for it: one of these rules, else what is known of it by itself."""
        if self._by_function:
            how = self._by_function.get(Call(function, (), {}, None).name)
            if how is not None:
                return how
        if self._by_module and known is not None and known not in _LINEAR:
            return self._within(modules(), known)
        return known

    def _within(self, modules: list[nn.Module], known: str | Rule) -> str | Rule:
        for module in modules:
            if module in self._by_module:
                self.unused.discard(module)
                return self._by_module[module]
        for module in modules:
            for kind, how in self._by_module.items():
                if isinstance(kind, type) and isinstance(module, kind):
                    return how
        return known
