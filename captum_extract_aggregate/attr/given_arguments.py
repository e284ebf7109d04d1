"""Arguments that are given by name when a method is made: its class takes some, its `attribute` others, as `n_steps` of
Captum's."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from captum_extract_aggregate._common.errors import InvalidTypeError

# What a call of `attribute` is about, and what makes it return something else than maps.
_OF_A_CALL = {"self", "inputs", "target", "additional_forward_args", "return_convergence_delta"}
_OF_MAKING = {"model", "forward_func", "layer", "layers"}


def with_arguments(make: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns what makes a method from a model (and layers) with arguments given: to the class, and what the class does
    not take and its `attribute` does to every call of that.

    The latter is a subclass whose `attribute` differs, so that it shares no pass with other methods.

    Raises:
        TypeError: for an argument that neither takes. (This package's own classes say so themselves.)
    """
    attribute = getattr(make, "attribute", None)
    if not isinstance(make, type) or not callable(attribute):
        return functools.partial(make, **arguments)
    at_first, at_calls = _named(make, _OF_MAKING), _named(attribute, _OF_A_CALL)
    later = {name: value for name, value in arguments.items() if _is_for_calls(name, at_first, at_calls)}
    first = {name: value for name, value in arguments.items() if name not in later}
    for name in first:
        if not _takes(at_first, name) and not make.__module__.startswith("captum_extract_aggregate."):
            raise InvalidTypeError(_unknown(make.__name__, name, at_first or [], at_calls or []))
    return functools.partial(_whose_attribute_has(make, later) if later else make, **first)


def keywords_of(function: Callable[..., Any]) -> list[str] | None:
    """Returns the names of a function's arguments; None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]


def _named(function: Callable[..., Any], but: set[str]) -> list[str] | None:
    names = keywords_of(function)
    return None if names is None else [name for name in names if name not in but]


def _takes(names: list[str] | None, name: str) -> bool:
    return names is None or name in names


def _is_for_calls(name: str, at_first: list[str] | None, at_calls: list[str] | None) -> bool:
    """Tells whether an argument is for `attribute`. One that takes any name would not notice that it is misspelt."""
    if _takes(at_first, name) or not _takes(at_calls, name):
        return False
    return at_calls is not None or not difflib.get_close_matches(name, at_first or [], n=1)


def _whose_attribute_has(make: Any, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    own = {
        "__module__": make.__module__,
        "__qualname__": make.__qualname__,
        "__doc__": make.__doc__,
        "attribute": functools.partialmethod(make.attribute, **arguments),
    }
    return types.new_class(make.__name__, (make,), exec_body=lambda namespace: namespace.update(own))


def _unknown(called: str, got: str, at_first: list[str], at_calls: list[str]) -> str:
    close = difflib.get_close_matches(got, [*at_first, *at_calls], n=1)
    both = f"which takes {_listed(at_first)}, and whose attribute takes {_listed(at_calls)}"
    return f"{got!r} is given to {called}, {both}" + "".join(f"; did you mean {name!r}?" for name in close)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
