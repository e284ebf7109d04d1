"""Looks up what a mapping says of a call: by its function, by the layers that it runs within, or by both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from torch import nn

from captum_extract_aggregate._engine.operations import Call

T = TypeVar("T")
Running = Callable[[], list[nn.Module]]
_Key = tuple["nn.Module | type[nn.Module] | None", "str | None"]

# Names of one function: operators, with their operands in either order or in place, and aliases.
_SPELLINGS = {
    **dict.fromkeys(("iadd", "radd"), "add"),
    **dict.fromkeys(("isub", "rsub", "subtract"), "sub"),
    **dict.fromkeys(("imul", "rmul", "multiply"), "mul"),
    **dict.fromkeys(("idiv", "itruediv", "truediv", "divide", "true_divide"), "div"),
    "rmatmul": "matmul",
}


class KeyedRules(Generic[T]):
    """Holds a mapping whose keys are functions, layers (modules or their types), or pairs of a layer and a function.

    A pair wins over a function alone, and a function over a layer alone; inner layers win over outer ones, and modules
    over their types.
    """

    def __init__(self, rules: Mapping[Any, T]) -> None:
        self._rules: dict[_Key, T] = {_parts(key): rule for key, rule in rules.items()}
        self._of_layers = {name for layer, name in self._rules if layer is not None}
        self.unused = {key for key in self._rules if isinstance(key[0], nn.Module)}

    def of_function(self, function: Any, running: Running) -> T | None:
        """Returns the rule for a function, perhaps within one of the running layers (innermost first)."""
        name = _spelled(function)
        within = self._within(running(), name) if name in self._of_layers else None
        return self._rules.get((None, name)) if within is None else within

    def of_layer(self, running: Running) -> T | None:
        """Returns the rule for all that runs within one of the running layers (innermost first)."""
        return self._within(running(), None) if None in self._of_layers else None

    def _within(self, modules: list[nn.Module], name: str | None) -> T | None:
        for module in modules:
            if (module, name) in self._rules:
                self.unused.discard((module, name))
                return self._rules[module, name]
        for module in modules:
            for (layer, named), rule in self._rules.items():
                if named == name and isinstance(layer, type) and isinstance(module, layer):
                    return rule
        return None


def innermost(running: Running) -> Running:
    """Returns a function that gives the innermost running module alone, and that if it holds no others."""
    return lambda: [module for module in running()[:1] if not any(True for _ in module.children())]


def _parts(key: Any) -> _Key:
    """Returns a key's layer and the name of its function, None for the one that it does not have."""
    if isinstance(key, tuple):
        return key[0], _spelled(key[1])
    return (key, None) if isinstance(key, (type, nn.Module)) else (None, _spelled(key))


def _spelled(function: Any) -> str:
    name = Call(function, (), {}, None).name
    return _SPELLINGS.get(name, name)
