"""Which keys and values `LRP(rules={...})` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.operations import DECLARED, OPERATIONS
from captum_extract_aggregate.attr.propagation.lrp_rules import LinearRule

_WITHOUT_GATES = ("linear", "sum", "average")
_STRINGS = ", ".join(map(repr, DECLARED))


def not_a_mapping(rules: Any) -> dict[Any, LinearRule]:
    """Raises our error for rules that are no mapping."""
    raise InvalidTypeError(
        f"rules is a {type(rules).__name__}; expected a mapping from layer types, dotted names or modules to rules of "
        "captum_extract_aggregate.rules: {'conv1': Flat()}"
    )


def found_key(key: Any, model: Callable[..., Any]) -> Any:
    """Returns a key with the layer that it names in its place."""
    if isinstance(key, tuple):
        return found_key(key[0], model), key[1]
    return find_layer(key, model) if isinstance(key, (str, nn.Module)) else key


def check_rule(key: Any, rule: Any) -> None:
    """Raises our error for a key that names nothing in a network, or a rule that cannot hold for it."""
    function = _function_of(key)
    if isinstance(rule, LinearRule):
        if function is not None and OPERATIONS.get(function) not in _WITHOUT_GATES:
            raise InvalidTypeError(
                f"rules holds {type(rule).__name__} for the function {OPERATIONS.described(function)}; expected a "
                f"layer, or a linear function, a sum or an average, as its key, or one of {_STRINGS} or a callable "
                "how(quantity, output, *inputs)"
            )
    elif isinstance(rule, str):
        if rule not in DECLARED:
            raise InvalidValueError(unknown_name(f"the rule for {key!r}", rule, DECLARED))
    elif not callable(rule) or isinstance(rule, type):
        got = rule.__name__ if isinstance(rule, type) else type(rule).__name__
        raise InvalidTypeError(
            f"rules holds {got} for {key!r}; expected a rule of captum_extract_aggregate.rules, such as Gamma(0.25), "
            f"or, for non-linear operations, one of {_STRINGS} or a callable how(quantity, output, *inputs)"
        )


def _function_of(key: Any) -> Any:
    """Returns the function that a key names; None where it names a layer alone."""
    if _is_layer(key):
        return None
    function = key[1] if isinstance(key, tuple) and len(key) == 2 and _is_layer(key[0]) else key
    if not callable(function) or _is_layer(function) or isinstance(function, type):
        raise InvalidTypeError(
            f"rules has the key {key!r}; expected a layer type (nn.Conv2d), a dotted name, a module, a function, or a "
            "pair of a layer and a function: ('layer1.0', torch.add)"
        )
    return function


def _is_layer(key: Any) -> bool:
    return isinstance(key, (str, nn.Module)) or (isinstance(key, type) and issubclass(key, nn.Module))
