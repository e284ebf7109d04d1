"""Which keys and values `LRP(rules={...})` takes."""

from __future__ import annotations

from typing import Any

from torch import nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._engine.operations import DECLARED
from captum_extract_aggregate.attr.propagation.lrp_rules import LinearRule


def not_a_mapping(rules: Any) -> dict[Any, LinearRule]:
    """Raises our error for rules that are no mapping."""
    raise InvalidTypeError(
        f"rules is a {type(rules).__name__}; expected a mapping from layer types, dotted names or modules to rules of "
        "captum_extract_aggregate.rules: {'conv1': Flat()}"
    )


def check_rule(key: Any, rule: Any) -> None:
    """Raises our error for a key that names nothing in a network, or a rule that cannot hold for it."""
    is_layer = isinstance(key, (str, nn.Module)) or (isinstance(key, type) and issubclass(key, nn.Module))
    is_function = callable(key) and not is_layer and not isinstance(key, type)
    if not is_layer and not is_function:
        raise InvalidTypeError(
            f"rules has the key {key!r}; expected a layer type (nn.Conv2d), a dotted name, a module or a function"
        )
    if isinstance(rule, LinearRule):
        if is_function:
            raise InvalidTypeError(
                f"rules holds {type(rule).__name__} for the function {key!r}; expected a layer's type, name or module "
                f"as its key, or one of {', '.join(map(repr, DECLARED))} or a callable how(quantity, output, *inputs)"
            )
    elif isinstance(rule, str):
        if rule not in DECLARED:
            raise InvalidValueError(unknown_name(f"the rule for {key!r}", rule, DECLARED))
    elif not callable(rule) or isinstance(rule, type):
        got = rule.__name__ if isinstance(rule, type) else type(rule).__name__
        raise InvalidTypeError(
            f"rules holds {got} for {key!r}; expected a rule of captum_extract_aggregate.rules, such as Gamma(0.25), "
            f"or, for non-linear operations, one of {', '.join(map(repr, DECLARED))} or a callable "
            "how(quantity, output, *inputs)"
        )
