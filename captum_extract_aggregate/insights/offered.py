"""What the page of Insights offers: the methods, and their arguments as fields, both read from the registry of methods.

Insights sends whole numbers and words alone; every other value is offered as the word it is written by.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate.attr import captums
from captum_extract_aggregate.attr.by_name import METHODS, Method, find_method
from captum_extract_aggregate.insights.requests import told

INPUT = "the input"
LIMITS = (1, 100)  # of whole numbers
_LONGEST = 200  # of what is typed
# Captum's methods of one layer that the page leaves out: two run the network once for each value of the layer, for
# minutes in which the page answers nothing, and `lrp` takes more networks than Captum's.
_LEFT_OUT = ("LayerFeatureAblation", "LayerFeaturePermutation", "LayerLRP")
_STEPS = 25  # of the methods that follow a path


def _captums() -> dict[str, dict[str, int]]:
    """Returns Captum's methods of one layer, with the number of steps where they take some."""
    found: dict[str, dict[str, int]] = {}
    for name in captums.names():
        make: Any = captums.find_class(name)
        if captums.layers_taken(make) == "one" and name not in _LEFT_OUT:
            takes_steps = "n_steps" in inspect.signature(make.attribute).parameters
            found[f"captum:{name}"] = {"n_steps": _STEPS} if takes_steps else {}
    return found


_CAPTUMS = _captums()


def names() -> list[str]:
    """Returns the methods that `register` adds, as they stand in the page's list.

    Example:
        >>> from captum_extract_aggregate.insights.offered import names
        >>> [name for name in names() if "grad" in name.lower()][:3]
        ['normgrad', 'selective-normgrad', 'gradient']
    """
    return [*METHODS, *_CAPTUMS]


def is_captums(name: str) -> bool:
    """Tells whether a method of the list is Captum's, whose arguments go to the call and not to the class."""
    return name in _CAPTUMS


def method(name: str) -> Method:
    """Returns what the registry knows of a method of the list."""
    return find_method(name)


def offered(name: str) -> dict[str, int | dict[str, Any]]:
    """Returns a method's arguments: for each a whole number, or the values to choose from by the words for them."""
    choices = _CAPTUMS[name] if name in _CAPTUMS else METHODS[name].choices
    found: dict[str, int | dict[str, Any]] = {}
    for argument, values in choices.items():
        listed = values() if callable(values) else values
        found[argument] = listed if isinstance(listed, int) else {_word(value): value for value in listed}
    return found


def values_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that the page's words stand for."""
    known = offered(name)
    words = {argument: values for argument, values in known.items() if isinstance(values, dict)}
    return {argument: words[argument][v] if argument in words else v for argument, v in given.items()}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def fields(config: Any, name: str) -> dict[str, Any]:
    """Returns a method's arguments as the page's fields; the layer's name is typed in."""
    shown = {} if method(name).joins_layers else {"layer": config.StrConfig(value="")}
    for argument, values in offered(name).items():
        if isinstance(values, int):
            shown[argument] = config.NumberConfig(value=values, limit=LIMITS)
        else:
            shown[argument] = config.StrEnumConfig(value=next(iter(values)), limit=list(values))
    return shown


def check_arguments(method: str, given: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raises our error where an argument is not what the page offers in its field.

    Raises:
        ValueError: naming the argument, what was got and what was expected.
    """
    for name, value in given.items():
        if name not in fields:
            raise InvalidValueError(unknown_name(f"an argument of {method}", name[:80], fields))
        field = fields[name]
        if field.type == "enum":
            fits, expected = value in field.limit, f"one of {', '.join(map(repr, field.limit[:40]))}"
        elif field.type == "number":
            low, high = field.limit
            fits = type(value) is int and (low is None or low <= value) and (high is None or value <= high)
            expected = f"a whole number from {low} to {high}"
        else:
            fits = isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()
            expected = f"at most {_LONGEST} printable characters"
        if not fits:
            raise InvalidValueError(f"{name} is {told(value)}; expected {expected}")
